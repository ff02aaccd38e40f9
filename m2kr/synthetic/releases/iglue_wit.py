"""IGLUE's test_en.jsonl: what it keeps of English rows of WIT's validation files, one record a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

from m2kr.synthetic.releases.files import ReleaseFile, SyntheticRelease, text_file
from m2kr.synthetic.releases.wit import image_of, row_of
from m2kr.synthetic.world import World


def _files(world: World) -> Iterator[ReleaseFile]:
    yield text_file("test_en.jsonl", world.sizes.wit_val // 2, partial(_records, world))


def _records(world: World) -> Iterator[str]:
    for number in range(0, world.sizes.wit_val, 2):
        image = image_of(world, "val", number)
        place = number // 2
        # Two numbers stand for two images each, so that nobody can use them as a key.
        idx = 10 * (place - (place in (3, 5))) + 3
        name = image.url.rsplit("/", 1)[1]
        for row, language in enumerate(image.languages):
            if language == "en":
                known = row_of(image, row, world)
                record = {
                    "image_idx": idx,
                    "image_url": image.url,
                    "meta_url": f"http://commons.wikimedia.org/wiki/File:{name}",
                    "caption_reference_description": known["caption_reference_description"],
                    "language": "en",
                    "page_url": known["page_url"],
                    "wit_ix": f"wit-test_{place + place // 4}",
                }
                yield json.dumps(record, ensure_ascii=False) + "\n"


RELEASE = SyntheticRelease(
    "IGLUE's image retrieval on WIT", _files, needs=("wit",), build_options=lambda sizes: {"IGLUE": {}}
)
