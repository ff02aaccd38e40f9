"""KVQA: images become passages, and the first questions of each become queries."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import BadRowsError, M2KRError, MissingFilesError
from tests.m2kr.raw_files import ANY_TEXT, QUICK, SAMPLES, needs_samples

FILE = "kvqa/dataset.json"


def record(number, part=1, questions=3, **fields):
    return {
        "NamedEntities": ["Ada Nowhere", "Bo Nowhere"],
        "imgPath": f"KVQAimgs/{number}.jpg",
        "ParaQuestions": [],
        "Qids": ["Q99999998", "Q99999999"],
        "Questions": [f"Question {i}?" for i in range(questions)],
        "split": [part, 3, 3, 3, 3],
        "wikiCap": f"Nowhere in {number}",
        "Answers": ["Ada Nowhere", 1, 2.5, *range(questions)][:questions],
        "Type of Question": [["1-hop"]],
        **fields,
    }


@pytest.fixture
def release(put):
    """Images 1-3 for training (6 questions), 4-6 for valid and test (3 questions), 7 of the official test part."""
    images = {str(n): record(n, questions=6) for n in (1, 2, 3)}
    images |= {str(n): record(n, part=2) for n in (4, 5, 6)}
    images["3"]["imgPath"] = "KVQAimgs/3.JPG"
    put(FILE, {**images, "7": record(7, part=3)})


def test_parts_of_the_partition_are_the_splits(release, tables):
    data, passages, _, lacking = tables("KVQA", test_queries=4)
    assert passages["train"]["passage_id"].to_list() == ["KVQA_1", "KVQA_2", "KVQA_3"]
    assert passages["valid"]["passage_id"].to_list() == ["KVQA_4", "KVQA_5", "KVQA_6"]
    assert passages["test"].equals(passages["valid"])
    assert data["train"]["question_id"].to_list() == [f"{n}_{i}" for n in (1, 2, 3) for i in range(4)]
    assert (data["valid"].height, data["test"].height) == (5, 4)
    assert not set(data["valid"]["question_id"]) & set(data["test"]["question_id"])
    assert data["train"]["img_path"].unique(maintain_order=True).to_list() == ["1.jpg", "2.jpg", "3.JPG"]
    assert set(data["train"]["question"]) == {""}
    assert not lacking


def test_another_partition_moves_the_images(release, tables, counts):
    assert not tables("KVQA", split_index=1)[0]
    assert counts("KVQA", split_index=1)["images"] == 7
    with pytest.raises(M2KRError, match=r"split_index is 5; it wants one of 0 to 4"):
        tables("KVQA", split_index=5)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("caption", "Nowhere in 4"),
        ("caption_and_names", "Nowhere in 4 Ada Nowhere, Bo Nowhere"),
        (
            "caption_and_facts",
            "Nowhere in 4 Ada Nowhere, Bo Nowhere Question 0? Ada Nowhere. Question 1? 1. Question 2? 2.5.",
        ),
    ],
)
def test_what_a_passage_holds(release, tables, form, text):
    data, passages, _, _ = tables("KVQA", passage=form)
    assert passages["test"]["passage_content"][0] == text
    assert data["test"]["pos_item_contents"][0].to_list() == [text]


def test_queries_may_ask_and_may_be_all(release, tables):
    data, _, _, _ = tables("KVQA", question="asked", queries_per_image=0)
    assert data["train"]["question"].to_list() == [f"Question {i}?" for i in range(6)] * 3


def test_an_image_without_caption_is_dropped_or_kept(put, tables, counts):
    for caption in (None, "", "  "):
        put(FILE, {"1": record(1), "2": record(2, wikiCap=caption)})
        assert tables("KVQA")[1]["train"]["img_id"].to_list() == ["1"]
        assert counts("KVQA")["images_without_caption"] == 1
        kept = tables("KVQA", without_caption="keep", passage="caption_and_names")[1]["train"]
        assert kept["passage_content"][1] == "Ada Nowhere, Bo Nowhere"
        assert tables("KVQA", without_caption="keep", passage="caption")[1]["train"]["img_id"].to_list() == ["1"]
    del (bare := record(2))["wikiCap"]
    put(FILE, {"1": record(1), "2": bare})
    assert counts("KVQA")["images_without_caption"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.update(imgPath="../../1.jpg"), "leaves its root"),
        (lambda r: r.update(imgPath="/KVQAimgs/1.jpg"), "leaves its root"),
        (lambda r: r.update(imgPath="KVQAimgs\\1.jpg"), "leaves its root"),
        (lambda r: r.update(imgPath="KVQAimgs/"), "names no file"),
        (lambda r: r.update(imgPath=" "), "imgPath is empty"),
        (lambda r: r.pop("imgPath"), "imgPath is missing"),
        (lambda r: r.update(imgPath=["1.jpg"]), "imgPath is not a string"),
        (lambda r: r.update(wikiCap=["text"]), "wikiCap is not a string"),
        (lambda r: r.update(Questions=[], Answers=[]), "Questions is empty"),
        (lambda r: r.update(Questions="Who?"), "Questions is not a list"),
        (lambda r: r["Questions"].append(None), r"Questions\[3\] is not a string"),
        (lambda r: r.pop("Answers"), "Answers is missing"),
        (lambda r: r["Answers"].pop(), "3 questions and 2 answers"),
        (lambda r: r["Answers"].__setitem__(0, None), r"Answers\[0\] is not a number or a string"),
        (lambda r: r["Answers"].__setitem__(0, True), r"Answers\[0\] is not a number or a string"),
        (lambda r: r["Answers"].__setitem__(0, ["x"]), r"Answers\[0\] is not a number or a string"),
        (lambda r: r.update(NamedEntities=[1]), r"NamedEntities\[0\] is not a string"),
        (lambda r: r.update(NamedEntities="Ada"), "NamedEntities is not a list"),
        (lambda r: r.update(split=[1, 2]), "5 numbers of 1, 2, 3 are expected"),
        (lambda r: r.update(split=[1, 2, 3, 4, 1]), "5 numbers of 1, 2, 3 are expected"),
        (lambda r: r.update(split=["1", 2, 3, 1, 1]), "5 numbers of 1, 2, 3 are expected"),
        (lambda r: r.update(split=[True, 2, 3, 1, 1]), "5 numbers of 1, 2, 3 are expected"),
        (lambda r: r.pop("split"), "split is missing"),
    ],
)
def test_a_bad_record_stops_the_build_or_is_left_out(put, rejects, change, reason):
    bad = copy.deepcopy(record(2))
    change(bad)
    put(FILE, {"1": record(1), "2": bad, "3": record(3)})
    _, passages = rejects("KVQA", "dataset.json", "member 2", rf"\(img_id 2\).*{reason}")
    assert passages["train"]["img_id"].to_list() == ["1", "3"]


@settings(QUICK, max_examples=30)
@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_questions_are_read_back_as_they_were_written(put, tables, texts):
    questions = [f"{text}?" for text in texts]
    put(FILE, {"1": record(1, Questions=questions, Answers=texts)})
    found = tables("KVQA", question="asked", queries_per_image=0)[0]["train"]
    assert found["question"].to_list() == questions


@pytest.mark.parametrize("value", [None, 3, "text", [], ["text"]])
def test_a_member_of_another_kind_is_a_bad_record(put, rejects, value):
    put(FILE, {"1": record(1), "2": value})
    rejects("KVQA", "dataset.json", "member 2", "it is not an object")


def test_a_key_that_stands_twice_is_a_duplicate(put, rejects):
    put(FILE, json.dumps({"1": record(1), "2": record(2)}).replace('"2": {', '"1": {'))
    rejects("KVQA", "dataset.json", "member 2", r"\(img_id 1\): the id stands already at member 1")


def test_the_file_may_be_missing_or_cut_short(put, tables):
    with pytest.raises(MissingFilesError, match=r"dataset\.json is missing"):
        tables("KVQA")
    assert tables("KVQA", allow_missing=True)[3] == ["KVQA: nothing can be built without dataset.json."]
    path = put(FILE, {"1": record(1), "2": record(2)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadRowsError, match=r"after member 1 \(1\): invalid JSON from here on"):
        tables("KVQA")
    assert tables("KVQA", on_bad_rows="skip")[1]["train"].height == 1


@needs_samples
def test_real_records(put, tables, counts):
    put(FILE, (SAMPLES / FILE).read_bytes())
    data, passages, _, _ = tables("KVQA", test_queries=2)
    assert set(data) == {"valid", "test"}  # in the first partition, one is of part 2 and one of part 3
    text = passages["test"]["passage_content"][0]
    assert text.startswith("Hal De Forrest (left) and Jack Dempsey with his wife, actress Estelle Taylor. Hal De For")
    assert "How many people in the image were born after the end of World War II? 0." in text
    assert counts("KVQA")["questions"] == 17
    data, _, _, _ = tables("KVQA", split_index=2)
    assert data["train"]["img_path"].unique(maintain_order=True).to_list() == ["39346.jpg", "32918.JPG"]
