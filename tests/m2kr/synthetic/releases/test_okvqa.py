"""The made-up OK-VQA."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from m2kr.synthetic import articles
from m2kr.synthetic.world import World
from tests.conftest import SCALE
from tests.m2kr.synthetic.reading import blocks_by_title, load, opens


def okvqa(world: Path, split: str) -> tuple[Any, Any]:
    folder = world / "okvqa"
    return (
        load(folder / f"OpenEnded_mscoco_{split}_questions.json"),
        load(folder / f"mscoco_{split}_annotations.json"),
    )


@pytest.mark.parametrize("split", ["train2014", "val2014"])
def test_files_have_the_native_form(world: Path, split: str) -> None:
    questions, annotations = okvqa(world, split)
    assert list(questions) == ["license", "data_subtype", "task_type", "questions", "info", "data_type"]
    assert list(annotations) == ["license", "data_subtype", "question_types", "annotations", "info", "data_type"]
    for path in (world / "okvqa").glob(f"*{split}*.json"):
        assert path.read_bytes().decode("ascii") == json.dumps(load(path))
    assert len(questions["questions"]) == len(annotations["annotations"])
    for question, annotation in zip(questions["questions"], annotations["annotations"], strict=True):
        assert list(question) == ["image_id", "question", "question_id"]
        assert question["question_id"] == annotation["question_id"] == int(f"{question['image_id']}5")
        assert question["image_id"] == annotation["image_id"]
        assert annotation["question_type"] in annotations["question_types"]
        answers = annotation["answers"]
        assert [answer["answer_id"] for answer in answers] == list(range(1, 11))
        assert list(answers[0]) == ["answer_id", "raw_answer", "answer_confidence", "answer"]
        assert all(count % 2 == 0 for count in Counter(answer["raw_answer"] for answer in answers).values())
        path = world / "coco" / split / f"COCO_{split}_{question['image_id']:012d}.jpg"
        assert opens(path)
    other = "val2014" if split == "train2014" else "train2014"
    images, elsewhere = (
        {question["image_id"] for question in okvqa(world, name)[0]["questions"]} for name in (split, other)
    )
    assert not images & elsewhere


@pytest.mark.parametrize("split", ["train2014", "val2014"])
def test_every_answer_is_in_a_passage_about_the_pictured_entity(world: Path, split: str) -> None:
    known, made_of = blocks_by_title(world), World(0, SCALE)
    pictures = [made_of.picture("train2014", i) for i in range(made_of.sizes.train_pictures)]
    pictures += [made_of.picture("val2014", i) for i in range(made_of.sizes.val_pictures)]
    shown = {picture.image_id: made_of.entity(picture.entity).title for picture in pictures}
    for annotation in okvqa(world, split)[1]["annotations"]:
        for answer in annotation["answers"]:
            assert articles.any_states(known[shown[annotation["image_id"]]], answer["answer"])
