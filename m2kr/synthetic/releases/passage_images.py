"""Pictures for passages, which no release has: one of each entity, and for each task a list of whose they are.

The lists are in the form that ``python -m m2kr.images attach`` takes. They name passages by what a build with the usual
options calls them: OVEN's by the Wikidata id, E-VQA's by article and section, those of 100 words by their title.
People have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from m2kr.synthetic import articles
from m2kr.synthetic.releases.files import ReleaseFile, SyntheticRelease, json_lines, picture_file, text_file
from m2kr.synthetic.world import Entity, World


def _files(world: World) -> Iterator[ReleaseFile]:
    numbers = range(world.sizes.entities)
    names: dict[str, Callable[[Entity], list[dict[str, str]]]] = {
        "OVEN": lambda entity: [{"passage_id": entity.qid}],
        "EVQA": lambda entity: [
            {"passage_id": f"WikiWeb_{entity.title}_{number}"} for number, _ in enumerate(articles.article(entity))
        ],
        "Infoseek": lambda entity: [{"title": entity.title}],
        "OKVQA": lambda entity: [{"title": entity.title}],
    }
    for task, named in names.items():
        yield text_file(f"{task}.jsonl", len(numbers), partial(_list, world, named))
    for number in numbers:
        yield picture_file(f"images/{world.entity(number).qid}.jpg", world, number, "passage")


def _list(world: World, named: Callable[[Entity], list[dict[str, str]]]) -> Iterator[str]:
    for entity in map(world.entity, range(world.sizes.entities)):
        path = f"passage_images/images/{entity.qid}.jpg"
        yield "".join(json_lines({**name, "passage_image_path": path} for name in named(entity)))


RELEASE = SyntheticRelease("pictures for passages", _files)
