"""OK-VQA."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from m2kr.synthetic import articles
from m2kr.synthetic.releases.part import Part, encoded
from m2kr.synthetic.world import CocoSplit, Entity, Picture, World

_LICENSE = {
    "url": "http://creativecommons.org/licenses/by/4.0/",
    "name": "Creative Commons Attribution 4.0 International License",
}
_INFO = {"year": 2019, "version": "1.0", "description": "A made-up world in the format of the OK-VQA dataset."}
_QUESTION_TYPES = {
    "one": "Vehicles and Transportation",
    "two": "Brands, Companies and Products",
    "three": "Objects, Material and Clothing",
    "four": "Sports and Recreation",
    "five": "Cooking and Food",
    "six": "Geography, History, Language and Culture",
    "seven": "People and Everyday life",
    "eight": "Plants and Animals",
    "nine": "Science and Technology",
    "ten": "Weather and Climate",
    "other": "Other",
}


def okvqa(world: World) -> Iterator[Part]:
    """OK-VQA: questions and annotations about train2014 and val2014 pictures, each file one line of ASCII JSON."""
    splits: tuple[tuple[CocoSplit, int], ...] = (
        ("train2014", world.sizes.okvqa_train),
        ("val2014", world.sizes.okvqa_val),
    )
    for split, rows in splits:
        questions = {"license": _LICENSE, "data_subtype": split, "task_type": "Open-Ended", "questions": None}
        annotations = {"license": _LICENSE, "data_subtype": split, "question_types": _QUESTION_TYPES}
        end = {"info": _INFO, "data_type": "mscoco"}
        for path, head, record in (
            (f"OpenEnded_mscoco_{split}_questions.json", questions | end, _okvqa_question),
            (f"mscoco_{split}_annotations.json", annotations | {"annotations": None} | end, _okvqa_annotation),
        ):
            yield Part(path, rows, encoded(partial(_okvqa_file, world, split, rows, head, record)))


def _okvqa_file(
    world: World,
    split: CocoSplit,
    rows: int,
    head: dict[str, Any],
    record: Callable[[World, Picture], dict[str, Any]],
) -> Iterator[str]:
    before, after = json.dumps(head).split("null")  # the one null is where the records go
    yield f"{before}["
    for row in range(rows):
        yield (", " if row else "") + json.dumps(record(world, world.picture(split, row)))
    yield f"]{after}"


def _okvqa_fact(world: World, picture: Picture) -> tuple[Entity, str, list[str]]:
    """Return whom a picture shows, the fact that is asked for, and the raw answers to it, the common one first.

    A phrase may be cut by the end of a block; what no passage holds is no answer in this world.
    """
    entity = world.entity(picture.entity)
    passages = articles.blocks(entity)
    facts = world.rng("okvqa fact", picture.image_id).sample(articles.FACTS, len(articles.FACTS))
    for fact in facts:
        raw_answers = articles.answers(entity, fact)
        known = [
            raw for raw in raw_answers if any(articles.states(block, articles.singular(raw)) for block in passages)
        ]
        if known:
            return entity, fact, known
    raise AssertionError(f"no fact about {entity.title} is stated in its article")


def _okvqa_question(world: World, picture: Picture) -> dict[str, Any]:
    entity, fact, _ = _okvqa_fact(world, picture)
    question = articles.visual_question(entity, fact, world.rng("okvqa question", picture.image_id))
    return {"image_id": picture.image_id, "question": question, "question_id": int(f"{picture.image_id}5")}


def _okvqa_annotation(world: World, picture: Picture) -> dict[str, Any]:
    entity, _, known = _okvqa_fact(world, picture)
    rng = world.rng("okvqa answers", picture.image_id)
    minority = rng.choice((0, 0, 1, 1, 2))
    people = [known[0]] * (5 - minority) + [known[-1]] * minority
    return {
        "image_id": picture.image_id,
        "answer_type": "other",
        "question_type": entity.kind.okvqa_type,
        "question_id": int(f"{picture.image_id}5"),
        "answers": [
            {"answer_id": number, "raw_answer": raw, "answer_confidence": "yes", "answer": articles.singular(raw)}
            for number, raw in enumerate((raw for raw in people for _ in range(2)), start=1)
        ],
        "confidence": rng.choice((2, 3, 3, 4, 5)),
    }
