"""OK-VQA: questions and annotations about train2014 and val2014 pictures, each file one line of ASCII JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from m2kr.synthetic import articles
from m2kr.synthetic.releases.files import ReleaseFile, SyntheticRelease, json_items, text_file
from m2kr.synthetic.word_lists import load
from m2kr.synthetic.world import CocoPicture, CocoSplit, Entity, World

_LISTS = load("okvqa", dict[str, dict[str, str]])
_INFO = {"year": 2019, "version": "1.0", "description": "A made-up world in the format of the OK-VQA dataset."}


def _files(world: World) -> Iterator[ReleaseFile]:
    splits: tuple[tuple[CocoSplit, int], ...] = (
        ("train2014", world.sizes.okvqa_train),
        ("val2014", world.sizes.okvqa_val),
    )
    for split, rows in splits:
        start = {"license": _LISTS["license"], "data_subtype": split}
        end = {"info": _INFO, "data_type": "mscoco"}
        questions = start | {"task_type": "Open-Ended", "questions": None} | end
        annotations = start | {"question_types": _LISTS["question_types"], "annotations": None} | end
        for path, frame, record in (
            (f"OpenEnded_mscoco_{split}_questions.json", questions, _question),
            (f"mscoco_{split}_annotations.json", annotations, _annotation),
        ):
            yield text_file(path, rows, partial(_framed, world, split, rows, frame, record))


def _framed(
    world: World,
    split: CocoSplit,
    rows: int,
    frame: dict[str, Any],
    record: Callable[[World, CocoPicture], dict[str, Any]],
) -> Iterator[str]:
    before, after = json.dumps(frame).split("null")  # the one null is where the records go
    yield f"{before}["
    yield from json_items(record(world, world.picture(split, row)) for row in range(rows))
    yield f"]{after}"


def _asked(world: World, picture: CocoPicture) -> tuple[Entity, str, list[str]]:
    """Return whom a picture shows, the fact that is asked for, and the raw answers to it, the common one first.

    A phrase may be cut by the end of a block; what no passage holds is no answer in this world.
    """
    entity = world.entity(picture.entity)
    passages = articles.blocks(entity)
    for fact in world.rng("okvqa fact", picture.image_id).sample(articles.FACTS, len(articles.FACTS)):
        raw_answers = articles.answers(entity, fact)
        known = [raw for raw in raw_answers if articles.any_states(passages, articles.singular(raw))]
        if known:
            return entity, fact, known
    raise AssertionError(f"no fact about {entity.title} is stated in its article")


def _question(world: World, picture: CocoPicture) -> dict[str, Any]:
    entity, fact, _ = _asked(world, picture)
    question = articles.visual_question(entity, fact, world.rng("okvqa question", picture.image_id))
    return {"image_id": picture.image_id, "question": question, "question_id": int(f"{picture.image_id}5")}


def _annotation(world: World, picture: CocoPicture) -> dict[str, Any]:
    entity, _, known = _asked(world, picture)
    rng = world.rng("okvqa answers", picture.image_id)
    minority = rng.choice((0, 0, 1, 1, 2))
    people = [known[0]] * (5 - minority) + [known[-1]] * minority
    return {
        "image_id": picture.image_id,
        "answer_type": "other",
        "question_type": entity.type.okvqa_type,
        "question_id": int(f"{picture.image_id}5"),
        "answers": [
            {"answer_id": number, "raw_answer": raw, "answer_confidence": "yes", "answer": articles.singular(raw)}
            for number, raw in enumerate((raw for raw in people for _ in range(2)), start=1)
        ],
        "confidence": rng.choice((2, 3, 3, 4, 5)),
    }


RELEASE = SyntheticRelease("OK-VQA", _files, needs=("wikipedia", "coco"), build_options=lambda sizes: {"OKVQA": {}})
