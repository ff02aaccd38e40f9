"""OVEN, and InfoSeek, which asks about OVEN's pictures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from m2kr.synthetic import articles
from m2kr.synthetic.releases.part import Part, encoded, json_lines, picture
from m2kr.synthetic.world import Entity, Shuffle, World

Split = Literal["train", "val"]

_QUESTIONS = (
    "what is the name of this {K}?",
    "what is this {K} called?",
    "which {K} is shown here?",
    "what {K} is this?",
)
_FIRST_VAL_IMAGE = 4_944_518
_TRAIN_FACTS = 6  # of the nine facts of an entity, so many are asked for in training


def _shown(world: World, split: Split, row: int) -> int:
    """Return the number of the entity that the picture of a row shows."""
    sizes = world.sizes
    if split == "train":
        return row % sizes.train_entities
    if row % 2:
        return row // 2 * 7 % sizes.train_entities
    unseen = sizes.asked - sizes.train_entities
    return sizes.train_entities + row // 2 % unseen


def _image_id(world: World, split: Split, row: int) -> str:
    """Return the identifier of the picture of a row: larger in val, but for a few that lie between those of train."""
    step = max(1, _FIRST_VAL_IMAGE // 2 // world.sizes.oven_train)
    number = 2 * row * step
    if split == "val":
        number = max(_FIRST_VAL_IMAGE, 2 * world.sizes.oven_train) + 19 * row
        if row % 17 == 3:
            number = 2 * (row % world.sizes.oven_train) * step + 1
    return f"oven_{number:08d}"


def _image_path(world: World, split: Split, row: int) -> str:
    image_id = _image_id(world, split, row)
    extension = "JPEG" if row % 11 == 6 else "jpg"
    return f"{image_id.removeprefix('oven_')[:2]}/{image_id}.{extension}"


def _sizes(world: World) -> tuple[tuple[Split, int], tuple[Split, int]]:
    return ("train", world.sizes.oven_train), ("val", world.sizes.oven_val)


def oven(world: World) -> Iterator[Part]:
    """OVEN's entity set: JSON lines, the paths of the pictures, and these, some called .JPEG."""
    for split, count in _sizes(world):
        yield Part(f"oven_entity_{split}.jsonl", count, encoded(partial(_records, world, split, count)))
    total = sum(count for _, count in _sizes(world))
    yield Part("ovenid2impath.csv", total, encoded(partial(_paths, world)))
    for split, count in _sizes(world):
        for row in range(count):
            path = f"images/{_image_path(world, split, row)}"
            yield picture(path, world, _shown(world, split, row), f"oven/{split}/{row}")


def _paths(world: World) -> Iterator[str]:
    for split, count in _sizes(world):
        for row in range(count):
            yield f"{_image_id(world, split, row)},{_image_path(world, split, row)}\n"


def _records(world: World, split: Split, count: int) -> Iterator[str]:
    return json_lines(_record(world, split, row) for row in range(count))


def _record(world: World, split: Split, row: int) -> dict[str, Any]:
    entity = world.entity(_shown(world, split, row))
    question = world.rng("oven", split, row).choice(_QUESTIONS).format(K=entity.kind.word)
    part = {"train": "", "val": "_seen" if entity.index < world.sizes.train_entities else "_unseen"}[split]
    return {
        "data_id": f"oven_entity_{split}_{row:08d}",
        "image_id": _image_id(world, split, row),
        "question": question,
        "entity_id": entity.qid,
        "entity_text": entity.title,
        "data_split": f"entity_{split}{part}",
    }


# --- InfoSeek -------------------------------------------------------------------------------------------------------


def infoseek(world: World) -> Iterator[Part]:
    """InfoSeek: questions in one file, what they are about in another one, in another order."""
    sizes: tuple[tuple[Split, int], ...] = (("train", world.sizes.infoseek_train), ("val", world.sizes.infoseek_val))
    for split, count in sizes:
        yield Part(f"infoseek_{split}.jsonl", count, encoded(partial(_questions, world, split, count)))
        yield Part(f"infoseek_{split}_withkb.jsonl", count, encoded(partial(_entities, world, split, count)))
    val = world.sizes.infoseek_val
    yield Part("infoseek_val_qtype.jsonl", val, encoded(partial(_question_types, world, val)))


def _data_id(split: Split, row: int) -> str:
    return f"infoseek_{split}_{row:08d}"


def _asked(world: World, split: Split, row: int) -> tuple[int, Entity, str]:
    """Return the row of OVEN whose picture is shown, whom it shows, and the fact that is asked for.

    One question in twenty repeats the one before it.
    """
    row -= row % 20 == 19
    pictures = world.sizes.oven_train if split == "train" else world.sizes.oven_val
    shown = row % pictures
    entity = world.entity(_shown(world, split, shown))
    facts = entity.rng("infoseek").sample(articles.FACTS, len(articles.FACTS))
    if entity.index < world.sizes.train_entities:
        facts = facts[:_TRAIN_FACTS] if split == "train" else facts[_TRAIN_FACTS:]
    start = world.rng("infoseek", split, row).randrange(len(facts))
    passages = articles.blocks(entity)
    # What the end of a block cuts in two is in no passage, so nothing could be found for it.
    for fact in (*facts[start:], *facts[:start], *articles.FACTS):
        answer = _answer(entity, fact)[0]
        if any(articles.states(block, answer) for block in passages):
            return shown, entity, fact
    raise AssertionError(f"no fact about {entity.title} is stated in its article")


def _answer(entity: Entity, fact: str) -> tuple[str, ...]:
    if fact == "quantity":
        return (str(entity.quantity.value),)
    return articles.exact_answers(entity, fact)


def _questions(world: World, split: Split, count: int) -> Iterator[str]:
    return json_lines(_question(world, split, row) for row in range(count))


def _question(world: World, split: Split, row: int) -> dict[str, Any]:
    shown, entity, fact = _asked(world, split, row)
    question = articles.visual_question(entity, fact, world.rng("infoseek question", split, shown, fact))
    answer, *others = _answer(entity, fact)
    known: list[Any] = [answer, *others]
    if fact == "quantity":
        kind = entity.kind
        question = f"How many {kind.dimension[2]}s does the {kind.dimension[0]} of this {kind.word} measure?"
        answer, known = _number(entity)
    elif fact == "year":
        known = [str(entity.date.year + years) for years in (0, 1, -1)]
    elif fact == "country":
        code = answer[:2].upper()
        flag = "".join(chr(0x1F1E6 + ord(letter) - ord("A")) for letter in code)
        known = [f"Republic of {answer}", code, answer, code.lower(), flag]
    elif fact == "person":
        known = [f"{entity.person.surname}, {entity.person.given_name}", answer]
    unseen = "entity" if entity.index >= world.sizes.train_entities else "question"
    return {
        "data_id": _data_id(split, row),
        "image_id": _image_id(world, split, shown),
        "question": question,
        "answer": [answer],
        "answer_eval": known,
        "data_split": "train" if split == "train" else f"val_unseen_{unseen}",
    }


def _number(entity: Entity) -> tuple[str, list[Any]]:
    """Return a numeric answer: a value with a range of 10 %, or an interval around it that is an answer by itself."""
    value = float(entity.quantity.value)
    if entity.index % 7 == 3:
        low, high = value - 0.75, value + (0.75 if entity.index % 2 else 1.5)
        return f"{low}-{high}", [{"wikidata": value, "range": [low, high]}]
    return str(entity.quantity.value), [{"wikidata": value, "range": [value * 0.9, value * 1.1]}]


def _entities(world: World, split: Split, count: int) -> Iterator[str]:
    order = Shuffle(count, f"{world.seed}/infoseek/{split}/withkb")
    asked = ((row, _asked(world, split, row)[1]) for row in map(order.at, range(count)))
    return json_lines(
        {"data_id": _data_id(split, row), "entity_id": entity.qid, "entity_text": entity.title} for row, entity in asked
    )


def _question_types(world: World, count: int) -> Iterator[str]:
    types = {"quantity": "Numerical", "year": "Time"}
    return json_lines(
        {"data_id": _data_id("val", row), "question_type": types.get(_asked(world, "val", row)[2], "String")}
        for row in range(count)
    )
