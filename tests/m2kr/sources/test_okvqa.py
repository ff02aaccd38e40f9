"""OK-VQA: questions meet their annotations, answers meet their blocks."""

import copy

import polars as pl
import pytest

from m2kr.errors import BadRowsError, MissingFilesError
from tests.m2kr.raw_files import blocks


def asked(*questions):
    return {
        "license": {},
        "questions": [dict(zip(("image_id", "question", "question_id"), q, strict=True)) for q in questions],
    }


def annotated(*answers):
    return {
        "annotations": [
            {
                "image_id": 1,
                "question_id": number,
                "answers": [
                    {"answer_id": i, "raw_answer": text, "answer_confidence": "yes", "answer": text}
                    for i, text in enumerate(given, start=1)
                ],
            }
            for number, given in answers
        ]
    }


QUESTION = (19, "What drink is in the cup?", 195)
ANSWERS = (195, ["tea", "tea", "coffee", "coffee", "tea", "tea", "", "", "mate", "mate"])


@pytest.fixture
def release(put):
    put("okvqa/OpenEnded_mscoco_train2014_questions.json", asked(QUESTION, (20, "Which sport?", 205)))
    put("okvqa/mscoco_train2014_annotations.json", annotated((205, ["polo"] * 10), ANSWERS))
    put("okvqa/OpenEnded_mscoco_val2014_questions.json", asked((31, "Which sea?", 315)))
    put("okvqa/mscoco_val2014_annotations.json", annotated((315, ["red sea"] * 6 + ["black sea"] * 4)))
    put(
        "wikipedia/psgs_w100.tsv",
        blocks(
            (1, "Tea is a drink that is poured in a cup.", "Tea"),
            (2, "The team drinks.", "Team"),
            (3, "Coffee grows on hills.", "Coffee"),
            (4, "A plant with tea in its name, and much else.", "Tea tree"),
            (5, "Ships sail on the Red Sea.", "Suez Canal"),
            (6, "Nothing of note.", "Void"),
        ),
    )


def test_blocks_that_hold_an_answer_become_passages(release, tables):
    data, passages, _, _ = tables("OKVQA")
    assert passages["train"].rows() == [
        ("1", "title: Tea content: Tea is a drink that is poured in a cup.", "Tea"),
        ("3", "title: Coffee content: Coffee grows on hills.", "Coffee"),
        ("4", "title: Tea tree content: A plant with tea in its name, and much else.", "Tea tree"),
        ("5", "title: Suez Canal content: Ships sail on the Red Sea.", "Suez Canal"),
    ]
    assert passages["train"].equals(passages["valid"])
    assert passages["train"].equals(passages["test"])
    first = data["train"].row(0, named=True)
    assert first["question_id"] == first["__index_level_0__"] == "195"
    assert first["answers"] == ["tea", "tea", "coffee", "coffee", "tea", "tea", "mate", "mate"]
    assert first["gold_answer"] == "tea"
    assert sorted(first["related_item_ids"]) == ["1", "3", "4"]
    # Block 1 shares most words with "tea tea what drink is in the cup"; the hit with the lowest ratio is dropped.
    assert first["pos_item_ids"][0] == "1"
    assert len(first["pos_item_ids"]) == 2
    contents = dict(passages["train"].select("passage_id", "passage_content").iter_rows())
    assert first["pos_item_contents"] == [contents[name] for name in first["pos_item_ids"]]


def test_columns_have_their_types_and_the_pictures_names(release, tables):
    data, _, _, _ = tables("OKVQA")
    row = data["train"].row(0, named=True)
    assert row["img_path"] == "train2014/COCO_train2014_000000000019.jpg"
    assert (row["img_key"], row["img_key_full"]) == (19, "000000000019")
    assert row["img_file_name"] == "COCO_train2014_000000000019.jpg"
    assert (row["img_caption"], row["objects"], row["img_ocr"]) == (None, [], [])


def test_valid_is_a_copy_of_test(release, tables):
    data, _, _, _ = tables("OKVQA")
    assert data["valid"].equals(data["test"])
    assert data["test"]["pos_item_ids"].to_list() == [["5"]]  # its only hit stays, though it is also the lowest


def test_questions_no_block_answers_stay_with_no_positive_or_go_from_train(release, tables):
    kept, _, _, _ = tables("OKVQA")
    assert kept["train"]["pos_item_ids"].to_list()[1] == []
    dropped, _, _, _ = tables("OKVQA", without_positive="drop")
    assert dropped["train"]["question_id"].to_list() == ["195"]


def test_the_lowest_hits_may_stay(release, tables):
    data, _, _, _ = tables("OKVQA", lowest="keep")
    assert sorted(data["train"]["pos_item_ids"][0]) == ["1", "3", "4"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.update(answers=[]), "the list of answers is empty"),
        (lambda a: [answer.update(answer=" ") for answer in a["answers"]], "the list of answers is empty"),
        (lambda a: a.update(answers="tea"), "answers is not a list"),
        (lambda a: a.pop("answers"), "answers is missing"),
        (lambda a: a["answers"].append(3), r"answers\[10\] is not an object"),
        (lambda a: a.update(question_id="195"), "question_id is not a whole number"),
    ],
)
def test_a_bad_annotation_stops_the_build_or_costs_its_question(release, put, tables, change, reason):
    content = annotated(ANSWERS, (205, ["polo"] * 10))
    change(content["annotations"][0])
    put("okvqa/mscoco_train2014_annotations.json", content)
    with pytest.raises(BadRowsError, match=f"mscoco_train2014_annotations.json, record 1.*{reason}"):
        tables("OKVQA")
    data, _, rejected, _ = tables("OKVQA", on_bad_rows="skip")
    assert data["train"]["question_id"].to_list() == ["205"]
    assert [row.kind for row in rejected.rows] == ["bad", "missing"]  # and its question has lost its other half


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ((-1, "Why?", 7), "names no picture"),
        ((10**20, "Why?", 7), "names no picture"),
        ((1, " ", 7), "question is empty"),
        ((1.5, "Why?", 7), "image_id is not a whole number"),
        ((True, "Why?", 7), "image_id is not a whole number"),
        ((1, None, 7), "question is not a string"),
        ((1, "Why?", 195), "the id stands already at record 1"),
    ],
)
def test_a_bad_question_is_named(release, put, rejects, question, reason):
    put("okvqa/OpenEnded_mscoco_train2014_questions.json", asked(QUESTION, question))
    rejects("OKVQA", "questions.json", "record 2", reason)


def test_a_question_without_annotation_lacks_its_other_half(release, put, tables):
    put("okvqa/mscoco_train2014_annotations.json", annotated(ANSWERS))
    with pytest.raises(MissingFilesError, match=r"record 2 \(question_id 205\): it has no annotation"):
        tables("OKVQA")
    assert tables("OKVQA", allow_missing=True)[0]["train"]["question_id"].to_list() == ["195"]


def test_one_half_is_built_without_the_other(release, root, tables):
    (root / "okvqa" / "mscoco_train2014_annotations.json").unlink()
    data, _, _, lacking = tables("OKVQA", allow_missing=True)
    assert set(data) == {"valid", "test"}
    assert "OKVQA train: not built" in lacking[0]


def test_without_blocks_nothing_is_built(release, root, tables):
    (root / "wikipedia" / "psgs_w100.tsv").unlink()
    assert tables("OKVQA", allow_missing=True)[0] == {}


def test_answers_are_taken_in_the_order_of_their_ids(release, put, tables):
    content = copy.deepcopy(annotated(ANSWERS, (205, ["polo"])))
    content["annotations"][0]["answers"].reverse()
    put("okvqa/mscoco_train2014_annotations.json", content)
    assert tables("OKVQA")[0]["train"]["answers"][0].to_list() == [text for text in ANSWERS[1] if text]


def test_the_world_is_built_as_its_makers_say(built):
    rows = pl.read_parquet(built / "OKVQA_data" / "*.parquet")
    assert rows.height > 50
    found = rows.filter(pl.col("pos_item_ids").list.len() > 0)
    assert found.height == rows.height  # every made-up answer stands in some block
    for answers, contents in found.select("answers", "pos_item_contents").head(50).iter_rows():
        assert all(any(answer.lower() in content.lower() for answer in answers) for content in contents)
