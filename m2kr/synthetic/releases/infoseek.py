"""InfoSeek: questions about OVEN's pictures in one file, what they are about in another one, in another order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from m2kr.synthetic import articles
from m2kr.synthetic.releases.files import ReleaseFile, Split, SyntheticRelease, json_lines, record_file
from m2kr.synthetic.releases.oven import image_id, shown
from m2kr.synthetic.sizes import Sizes
from m2kr.synthetic.world import Entity, World

_TRAIN_FACTS = 6  # of the nine facts of an entity, so many are asked for in training


def _files(world: World) -> Iterator[ReleaseFile]:
    sizes: dict[Split, int] = {"train": world.sizes.infoseek_train, "val": world.sizes.infoseek_val}
    for split, count in sizes.items():
        yield record_file(f"infoseek_{split}.jsonl", count, partial(_question, world, split), json_lines)
        entity = partial(_entity, world, split, count)
        yield record_file(f"infoseek_{split}_withkb.jsonl", count, entity, json_lines)
    yield record_file("infoseek_val_qtype.jsonl", sizes["val"], partial(_question_type, world), json_lines)


def _data_id(split: Split, row: int) -> str:
    return f"infoseek_{split}_{row:08d}"


def _asked(world: World, split: Split, row: int) -> tuple[int, Entity, str]:
    """Return the row of OVEN whose picture is shown, whom it shows, and the fact that is asked for.

    One question in twenty repeats the one before it.
    """
    row -= row % 20 == 19
    picture = row % (world.sizes.oven_train if split == "train" else world.sizes.oven_val)
    entity = world.entity(shown(world, split, picture))
    facts = entity.rng("infoseek").sample(articles.FACTS, len(articles.FACTS))
    if entity.index < world.sizes.train_entities:
        facts = facts[:_TRAIN_FACTS] if split == "train" else facts[_TRAIN_FACTS:]
    start = world.rng("infoseek", split, row).randrange(len(facts))
    passages = articles.blocks(entity)
    # What the end of a block cuts in two is in no passage, so nothing could be found for it.
    for fact in (*facts[start:], *facts[:start], *articles.FACTS):
        if articles.any_states(passages, _answer(entity, fact)):
            return picture, entity, fact
    raise AssertionError(f"no fact about {entity.title} is stated in its article")


def _answer(entity: Entity, fact: str) -> str:
    return str(entity.value) if fact == "quantity" else articles.exact_answers(entity, fact)[0]


def _question(world: World, split: Split, row: int) -> dict[str, Any]:
    picture, entity, fact = _asked(world, split, row)
    question = articles.visual_question(entity, fact, world.rng("infoseek question", split, picture, fact))
    answer = _answer(entity, fact)
    known: list[Any] = list(articles.exact_answers(entity, fact))
    if fact == "quantity":
        measured = entity.type.dimension
        question = f"How many {measured.unit}s does the {measured.name} of this {entity.type.word} measure?"
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
        "image_id": image_id(world, split, picture),
        "question": question,
        "answer": [answer],
        "answer_eval": known,
        "data_split": "train" if split == "train" else f"val_unseen_{unseen}",
    }


def _number(entity: Entity) -> tuple[str, list[Any]]:
    """Return a numeric answer: a value with a range of 10 %, or an interval around it that is an answer by itself."""
    value = float(entity.value)
    if entity.index % 7 == 3:
        low, high = value - 0.75, value + (0.75 if entity.index % 2 else 1.5)
        return f"{low}-{high}", [{"wikidata": value, "range": [low, high]}]
    return str(entity.value), [{"wikidata": value, "range": [value * 0.9, value * 1.1]}]


def _entity(world: World, split: Split, count: int, place: int) -> dict[str, Any]:
    row = world.shuffle(count, "infoseek", split, "withkb").at(place)
    entity = _asked(world, split, row)[1]
    return {"data_id": _data_id(split, row), "entity_id": entity.qid, "entity_text": entity.title}


def _question_type(world: World, row: int) -> dict[str, Any]:
    types = {"quantity": "Numerical", "year": "Time"}
    return {"data_id": _data_id("val", row), "question_type": types.get(_asked(world, "val", row)[2], "String")}


def _build_options(sizes: Sizes) -> dict[str, dict[str, int]]:
    """``extra_passages`` is the number of passages in the pool that are about no entity asked for."""
    return {"Infoseek": {"extra_passages": max(10, round(300 * sizes.scale))}}


RELEASE = SyntheticRelease("InfoSeek", _files, needs=("oven", "wikipedia"), build_options=_build_options)
