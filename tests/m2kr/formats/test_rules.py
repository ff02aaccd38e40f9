"""A table that breaks a rule of the format is refused with the row that does."""

import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

from m2kr.common import partitions
from m2kr.formats.rules import (
    MAX_ID_BYTES,
    DatasetError,
    check_columns,
    check_split,
    hash_passages,
    hash_positives,
    leaves_root,
)
from m2kr.formats.schema import arrow_schema
from m2kr.images.roots import ImageRoots
from m2kr.tasks import TASKS

TASK = TASKS["LLaVA"]


def tables(**changes):
    """Two queries and three passages of LLaVA; ``changes`` replace whole columns ("data.question", ...)."""
    data = {
        "pos_item_ids": [["p1"], ["p2", "p3"]],
        "pos_item_contents": [["one"], ["two", "three"]],
        "img_id": ["1", "2"],
        "img_path": ["a/1.jpg", "a/2.jpg"],
        "image_id": ["1", "2"],
        "question_id": ["q1", "q2"],
        "question": ["why?", "how?"],
        "llava_split": ["x", "x"],
        "instruction": ["i:", "i:"],
    }
    passages = {
        "language": ["en"] * 3,
        "img_id": ["1"] * 3,
        "img_path": ["a/1.jpg"] * 3,
        "passage_id": ["p1", "p2", "p3"],
        "passage_content": ["one", "two", "three"],
        "llava_split": ["x"] * 3,
    }
    for name, values in changes.items():
        table, column = name.split("__")
        (data if table == "data" else passages)[column] = values
    return pl.LazyFrame(data), pl.LazyFrame(passages)


@pytest.mark.parametrize("part_rows", [1, 2, 100])
def test_a_good_split_is_counted(monkeypatch, part_rows):
    monkeypatch.setattr(partitions, "PART_ROWS", part_rows)
    assert check_split(TASK, "test", *tables()) == {
        "queries": 2,
        "passages": 3,
        "positives": 3,
        "without_positive": 0,
        "images": 2,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__question_id": ["q1", "q1"]}, r"LLaVA_data/test, row question_id='q1': the id stands more than once"),
        ({"data__question_id": ["q1", "é" * (MAX_ID_BYTES // 2 + 1)]}, "the id has more than 2,048 bytes"),
        ({"data__question_id": ["q1", None]}, "question_id=None: the id is empty"),
        ({"data__question_id": ["q1", " "]}, "the id is empty"),
        (
            {"passages__passage_id": ["p1", "p2", "p2"]},
            r"LLaVA_passages/test_passages, row passage_id='p2': .*more than",
        ),
        ({"passages__passage_content": ["one", "two", "\n"]}, "row passage_id='p3': the passage has no text"),
        ({"passages__passage_content": ["one", "two", None]}, "row passage_id='p3': the passage has no text"),
        (
            {"data__pos_item_ids": [["p9"], ["p2", "p3"]]},
            "row question_id='q1': a positive is no passage of LLaVA_pass",
        ),
        ({"data__pos_item_contents": [["one"], ["two", "tree"]]}, "row question_id='q2': the content of a positive"),
        (
            {"data__pos_item_contents": [["one"], ["two"]]},
            "row question_id='q2': its positives' ids and contents differ",
        ),
        (
            {"data__question": ["why?", ""], "data__img_path": ["a/1.jpg", None]},
            "row question_id='q2': the query has neither",
        ),
        ({"data__img_path": ["a/1.jpg", "../2.jpg"]}, "row question_id='q2': the image path leaves its root"),
    ],
)
@pytest.mark.parametrize("part_rows", [1, 100])
def test_a_broken_rule_names_the_row(monkeypatch, part_rows, changes, message):
    monkeypatch.setattr(partitions, "PART_ROWS", part_rows)
    data, passages = tables(**changes)
    with pytest.raises(DatasetError, match=message):
        check_split(TASK, "test", data, passages)
    if "differ" not in message:  # those cannot be hashed beforehand
        known = {"positives": hash_positives(data), "pool": hash_passages(passages)}
        with pytest.raises(DatasetError, match=message):
            check_split(TASK, "test", data, passages, **known)


def test_a_query_may_have_no_positive_and_is_counted():
    counts = check_split(TASK, "test", *tables(data__pos_item_ids=[[], ["p2"]], data__pos_item_contents=[[], ["two"]]))
    assert counts["without_positive"] == 1


def test_a_query_may_be_an_image_without_a_question():
    assert check_split(TASK, "test", *tables(data__question=["", None]))["queries"] == 2


@pytest.mark.parametrize("part_rows", [1, 100])
def test_with_images_every_picture_has_to_be_there(tmp_path, monkeypatch, part_rows):
    monkeypatch.setattr(partitions, "PART_ROWS", part_rows)
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.jpg")
    with pytest.raises(DatasetError, match=r"row question_id='q2': the image a/2\.jpg is not in"):
        check_split(TASK, "test", *tables(), ImageRoots([tmp_path]))
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "2.jpg")
    assert check_split(TASK, "test", *tables(), ImageRoots([tmp_path]))["images"] == 2


@pytest.mark.parametrize("path", ["/a.jpg", "../a", "a/../../b", "a/..", "..", "C:/a", "c:a", "a\\b", "a\0b", "~/a"])
def test_paths_that_leave_their_root(path):
    assert pl.DataFrame({"p": [path]}).select(leaves_root(pl.col("p"))).item()


@pytest.mark.parametrize("path", ["a.jpg", "a/b.jpg", "a..b/c.jpg", "...jpg", "00/oven_1.JPEG", "a/.hidden"])
def test_paths_that_stay_below_their_root(path):
    assert not pl.DataFrame({"p": [path]}).select(leaves_root(pl.col("p"))).item()


def test_columns_are_compared_by_name_order_and_type():
    schema = arrow_schema("OVEN_passages")
    check_columns("OVEN_passages", schema, "here")
    with pytest.raises(DatasetError, match=r"here: .*missing: passage_content"):
        check_columns("OVEN_passages", pa.schema(list(schema)[:-1]), "here")
    with pytest.raises(DatasetError, match="not in the format: extra"):
        check_columns("OVEN_passages", schema.append(pa.field("extra", pa.string())), "here")
    with pytest.raises(DatasetError, match="another order"):
        check_columns("OVEN_passages", pa.schema(reversed(list(schema))), "here")
    with pytest.raises(DatasetError, match="column language has type int64, OVEN_passages wants string"):
        check_columns("OVEN_passages", schema.set(0, pa.field("language", pa.int64())), "here")


def test_a_question_column_without_any_value_is_that_of_the_published_cc():
    schema = arrow_schema("CC_data")
    empty = {
        name: schema.set(schema.get_field_index(name), pa.field(name, pa.null()))
        for name in ("question", "instruction")
    }
    check_columns("CC_data", empty["question"], "here")
    with pytest.raises(DatasetError, match="column instruction has type null"):
        check_columns("CC_data", empty["instruction"], "here")
    check_split(TASK, "test", *tables(data__question=[None, None]))
    with pytest.raises(DatasetError, match="neither a question nor an image"):
        check_split(TASK, "test", *tables(data__question=[None, None], data__img_path=["a/1.jpg", None]))
