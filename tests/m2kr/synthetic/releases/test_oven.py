"""The made-up OVEN and InfoSeek."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from m2kr.synthetic import articles
from tests.m2kr.synthetic.reading import blocks_by_title, lines, made, opens


def oven_paths(world: Path) -> dict[str, str]:
    content = (world / "oven" / "ovenid2impath.csv").read_text("utf-8")
    return dict(line.split(",") for line in content.split("\n")[:-1])


def test_oven_has_the_native_form(world: Path) -> None:
    train, val = (lines(world / "oven" / f"oven_entity_{split}.jsonl") for split in ("train", "val"))
    paths = oven_paths(world)
    assert set(paths) == {record["image_id"] for record in train + val}
    assert len(paths) == len(train) + len(val)
    for record in train + val:
        assert list(record) == ["data_id", "image_id", "question", "entity_id", "entity_text", "data_split"]
        path = paths[record["image_id"]]
        assert path.startswith(f"{record['image_id'][5:7]}/{record['image_id']}.")
        assert opens(world / "oven" / "images" / path)
        assert record["entity_text"] not in record["question"]
    assert {Path(path).suffix for path in paths.values()} == {".jpg", ".JPEG"}
    assert {record["data_split"] for record in train} == {"entity_train"}
    seen = {record["entity_id"] for record in train}
    for record in val:
        assert record["data_split"] == f"entity_val_{'seen' if record['entity_id'] in seen else 'unseen'}"
    assert {record["data_split"] for record in val} == {"entity_val_seen", "entity_val_unseen"}
    # The number of a picture does not tell the split.
    assert min(record["image_id"] for record in val) < max(record["image_id"] for record in train)


@pytest.mark.parametrize("split", ["train", "val"])
def test_infoseek_has_the_native_form(world: Path, split: str) -> None:
    path = world / "infoseek" / f"infoseek_{split}.jsonl"
    assert path.read_bytes().isascii()
    assert b"\\ud83c" in path.read_bytes()
    records = lines(path)
    paths = oven_paths(world)
    shown = {record["image_id"]: record for record in lines(world / "oven" / f"oven_entity_{split}.jsonl")}
    ids = [record["data_id"] for record in records]
    assert len(set(ids)) == len(ids)
    kb = lines(world / "infoseek" / f"infoseek_{split}_withkb.jsonl")
    assert [record["data_id"] for record in kb] != ids
    entities = {record["data_id"]: record for record in kb}
    assert sorted(entities) == sorted(ids)
    for record in records:
        assert list(record) == ["data_id", "image_id", "question", "answer", "answer_eval", "data_split"]
        assert record["image_id"] in paths
        for key in ("entity_id", "entity_text"):
            assert entities[record["data_id"]][key] == shown[record["image_id"]][key]
        if isinstance(record["answer_eval"][0], str):
            assert set(record["answer"]) <= set(record["answer_eval"])
        else:
            (number,) = record["answer_eval"]
            low, high = number["range"]
            assert low < number["wikidata"] < high
            given = [float(part) for part in record["answer"][0].split("-")]
            assert given in ([number["wikidata"]], [low, high])
    asked = Counter((record["image_id"], record["question"]) for record in records)
    assert max(asked.values()) == 2
    splits = {"train": {"train"}, "val": {"val_unseen_question", "val_unseen_entity"}}[split]
    assert {record["data_split"] for record in records} == splits


def test_infoseek_holds_numbers_intervals_codes_and_times() -> None:
    train, types = (
        [json.loads(line) for line in made("infoseek", f"infoseek_{name}.jsonl", scale=1).splitlines()]
        for name in ("train", "val_qtype")
    )
    numbers = [record for record in train if isinstance(record["answer_eval"][0], dict)]
    assert any("-" in record["answer"][0] for record in numbers)
    assert any(len(str(record["answer_eval"][0]["range"][1])) > 12 for record in numbers), "noise of floats"
    assert any(len(answer) == 2 for record in train for answer in record["answer_eval"])
    assert {record["question_type"] for record in types} == {"String", "Numerical", "Time"}


@pytest.mark.parametrize("split", ["train", "val"])
def test_infoseek_answers_are_in_a_block_about_the_entity(world: Path, split: str) -> None:
    known = blocks_by_title(world)
    titles = {
        record["data_id"]: record["entity_text"]
        for record in lines(world / "infoseek" / f"infoseek_{split}_withkb.jsonl")
    }
    for record in lines(world / "infoseek" / f"infoseek_{split}.jsonl"):
        first = record["answer_eval"][0]
        answers = record["answer"] if isinstance(first, str) else [f"{first['wikidata']:.0f}"]
        blocks = known[titles[record["data_id"]]]
        assert any(articles.any_states(blocks, answer) for answer in answers)


def test_val_questions_are_about_unseen_facts_or_unseen_entities(world: Path) -> None:
    train = {record["entity_id"] for record in lines(world / "infoseek" / "infoseek_train_withkb.jsonl")}
    kb = {r["data_id"]: r["entity_id"] for r in lines(world / "infoseek" / "infoseek_val_withkb.jsonl")}
    for record in lines(world / "infoseek" / "infoseek_val.jsonl"):
        if record["data_split"] == "val_unseen_entity":
            assert kb[record["data_id"]] not in train
