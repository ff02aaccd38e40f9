"""LLaVA-CC3M-Pretrain-595K: one JSON array of captioned pictures, and the pictures in one folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from m2kr.synthetic import dialogues
from m2kr.synthetic.releases.files import ReleaseFile, SyntheticRelease, json_array, picture_file, record_file
from m2kr.synthetic.world import World


def _files(world: World) -> Iterator[ReleaseFile]:
    count = world.sizes.captions
    numbers, order = world.shuffle(max(3_318_333, 4 * count), "captions"), world.shuffle(count, "chat")

    def shown(row: int) -> tuple[int, str]:
        return row % world.sizes.train_entities, f"GCC_train_{numbers.at(row):09d}"

    yield record_file("chat.json", count, lambda row: _captioned(*shown(order.at(row)), world), json_array)
    for row in range(count):
        entity, name = shown(row)
        yield picture_file(f"images/{name}.jpg", world, entity, name)


def _captioned(entity: int, name: str, world: World) -> dict[str, Any]:
    rng = world.rng("caption", name)
    request = rng.choice(dialogues.BRIEF_REQUESTS)
    request = rng.choice((f"<image>\n{request}", f"{request}\n<image>"))
    return {
        "id": name,
        "image": f"{name}.jpg",
        "conversations": [
            {"from": "human", "value": request},
            {"from": "gpt", "value": dialogues.caption(world.entity(entity), rng)},
        ],
    }


RELEASE = SyntheticRelease("LLaVA-CC3M-Pretrain-595K", _files, build_options=lambda sizes: {"CC": {}})
