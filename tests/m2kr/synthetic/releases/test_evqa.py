"""The made-up Encyclopedic-VQA."""

from __future__ import annotations

import json
import math
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from m2kr.synthetic import articles
from tests.m2kr.synthetic.reading import blocks_by_title, opens, table


def knowledge_text(world: Path) -> str:
    with zipfile.ZipFile(world / "evqa" / "encyclopedic_kb_wiki.zip") as archive:
        assert archive.namelist() == ["encyclopedic_kb_wiki.json"]
        return archive.read("encyclopedic_kb_wiki.json").decode("ascii")


def inat(world: Path, half: str) -> dict[str, Any]:
    with tarfile.open(world / "evqa" / f"{half}.json.tar.gz") as archive:
        content = archive.extractfile(f"{half}.json")
        assert content is not None
        return dict(json.load(content))


def evqa_picture(world: Path, split: str, name: str, image_id: str) -> Path:
    images = world / "evqa" / "images"
    if name == "landmarks":
        assert len(image_id) == 16
        return images / "google-landmark" / "train" / "/".join(image_id[:3]) / f"{image_id}.jpg"
    folder = "train" if split == "train" else "val"
    (found,) = (image["file_name"] for image in inat(world, folder)["images"] if str(image["id"]) == image_id)
    return images / "inat" / found


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_evqa_questions_lead_to_a_section_with_the_answer_and_to_pictures(world: Path, split: str) -> None:
    rows = table(world / "evqa" / f"{split}.csv")
    base = json.loads(knowledge_text(world))
    assert {row["question_type"] for row in rows} == {"templated", "automatic", "multi_answer", "2_hop"}
    assert {row["dataset_name"] for row in rows} == {"inaturalist", "landmarks"}
    for row in rows:
        assert len(row) == 14
        assert None not in row.values()
        assert row["encyclopedic_vqa_split"] == split
        pages = [base[url] for url in row["wikipedia_url"].split("|")]
        assert [page["title"] for page in pages] == row["wikipedia_title"].split("|")
        numbers = [int(number) for number in row["evidence_section_id"].split("|")]
        assert len(numbers) == len(pages) == 1 + (row["question_type"] == "2_hop")
        titles = [page["section_titles"][number] for page, number in zip(pages, numbers, strict=True)]
        assert titles == row["evidence_section_title"].split("|")
        section = pages[-1]["section_texts"][numbers[-1]]
        for answer in row["answer"].split("|"):
            assert all(articles.states(section, part) for part in answer.split("&&"))
        assert ("&&" in row["answer"]) == (row["question_type"] == "multi_answer")
        assert bool(row["evidence"]) == (row["question_type"] == "templated")
        assert all(sentence in section for sentence in row["evidence"].split("\n"))
        ids = row["dataset_image_ids"].split("|")
        assert 1 <= len(ids) <= 5
        assert all(opens(evqa_picture(world, split, row["dataset_name"], image_id)) for image_id in ids)
    assert {row["wikipedia_url_used_in_train"] for row in rows} <= {"True", "False"}


def test_evqa_test_has_pages_that_training_does_not_use(world: Path) -> None:
    train, test = (
        {row["wikipedia_url"] for row in table(world / "evqa" / f"{split}.csv")} for split in ("train", "test")
    )
    assert test - train
    assert test & train
    rows = table(world / "evqa" / "test.csv")
    assert all((row["wikipedia_url"] in train) <= (row["wikipedia_url_used_in_train"] == "True") for row in rows)
    assert any(len(row["dataset_image_ids"].split("|")) == 5 for row in table(world / "evqa" / "train.csv"))


def test_the_knowledge_base_is_one_object_with_parallel_lists_and_distractors(world: Path) -> None:
    written = knowledge_text(world)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    base = json.loads(written, object_pairs_hook=once)
    assert written == json.dumps(base)
    for url, page in base.items():
        assert list(page) == [
            *("title", "section_titles", "section_texts", "image_urls", "image_reference_descriptions"),
            *("image_section_indices", "url"),
        ]
        assert page["url"] == url
        assert page["section_titles"][0] == page["title"]
        assert len(page["section_titles"]) == len(page["section_texts"])
        assert len(page["image_urls"]) == len(page["image_reference_descriptions"])
        assert len(page["image_urls"]) == len(page["image_section_indices"])
    asked = {
        url
        for split in ("train", "val", "test")
        for row in table(world / "evqa" / f"{split}.csv")
        for url in [row["wikipedia_url"]]
    }
    assert len(base) > 2 * len(asked)
    assert set(blocks_by_title(world)) < {page["title"] for page in base.values()}


@pytest.mark.parametrize("half", ["train", "val"])
def test_inaturalists_annotations_have_cocos_form(world: Path, half: str) -> None:
    found = inat(world, half)
    assert list(found) == ["info", "images", "categories", "annotations", "licenses"]
    images = {image["id"]: image for image in found["images"]}
    assert len(images) == len(found["images"]) == len(found["annotations"])
    categories = {category["id"]: category for category in found["categories"]}
    for link in found["annotations"]:
        folder = categories[link["category_id"]]["image_dir_name"]
        assert images[link["image_id"]]["file_name"].startswith(f"{half}/{folder}/")
    for image in images.values():
        with Image.open(world / "evqa" / "images" / "inat" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
    assert any(math.isnan(image["latitude"]) for image in images.values())
