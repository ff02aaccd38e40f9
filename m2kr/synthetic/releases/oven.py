"""OVEN's entity set: records as JSON lines, a file of picture paths, and the pictures, some named .JPEG."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from m2kr.synthetic import articles
from m2kr.synthetic.releases.files import (
    ReleaseFile,
    Split,
    SyntheticRelease,
    json_lines,
    picture_file,
    record_file,
    text_file,
)
from m2kr.synthetic.world import World

_FIRST_VAL_IMAGE = 4_944_518


def shown(world: World, split: Split, row: int) -> int:
    """Return the number of the entity that the picture of a row shows."""
    sizes = world.sizes
    if split == "train":
        return row % sizes.train_entities
    if row % 2:
        return row // 2 * 7 % sizes.train_entities
    unseen = sizes.asked - sizes.train_entities
    return sizes.train_entities + row // 2 % unseen


def image_id(world: World, split: Split, row: int) -> str:
    """Return the identifier of the picture of a row: larger in val, but for a few that lie between those of train."""
    step = max(1, _FIRST_VAL_IMAGE // 2 // world.sizes.oven_train)
    number = 2 * row * step
    if split == "val":
        number = max(_FIRST_VAL_IMAGE, 2 * world.sizes.oven_train) + 19 * row
        if row % 17 == 3:
            number = 2 * (row % world.sizes.oven_train) * step + 1
    return f"oven_{number:08d}"


def _image_path(world: World, split: Split, row: int) -> str:
    name = image_id(world, split, row)
    return f"{name.removeprefix('oven_')[:2]}/{name}.{'JPEG' if row % 11 == 6 else 'jpg'}"


def _files(world: World) -> Iterator[ReleaseFile]:
    sizes: dict[Split, int] = {"train": world.sizes.oven_train, "val": world.sizes.oven_val}
    rows = [(split, row) for split, count in sizes.items() for row in range(count)]
    for split, count in sizes.items():
        yield record_file(f"oven_entity_{split}.jsonl", count, partial(_record, world, split), json_lines)
    paths = partial(map, lambda row: f"{image_id(world, *row)},{_image_path(world, *row)}\n", rows)
    yield text_file("ovenid2impath.csv", len(rows), paths)
    for split, row in rows:
        path = f"images/{_image_path(world, split, row)}"
        yield picture_file(path, world, shown(world, split, row), f"oven/{split}/{row}")


def _record(world: World, split: Split, row: int) -> dict[str, Any]:
    entity = world.entity(shown(world, split, row))
    seen = {"train": "", "val": "_seen" if entity.index < world.sizes.train_entities else "_unseen"}[split]
    return {
        "data_id": f"oven_entity_{split}_{row:08d}",
        "image_id": image_id(world, split, row),
        "question": articles.visual_question(entity, "name", world.rng("oven", split, row)),
        "entity_id": entity.qid,
        "entity_text": entity.title,
        "data_split": f"entity_{split}{seen}",
    }


RELEASE = SyntheticRelease(
    "OVEN",
    _files,
    needs=("wikipedia",),
    build_options=lambda sizes: {"OVEN": {"test_queries": sizes.oven_val // 2}},
)
