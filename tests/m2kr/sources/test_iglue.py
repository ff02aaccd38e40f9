"""IGLUE: records find their WIT rows, and say so where they do not."""

import copy
import csv
import gzip
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2kr.errors import BadRowsError, MissingFilesError
from m2kr.sources.wit_rows import COLUMNS
from m2kr.tasks import RELEASES, TASKS
from tests.m2kr.raw_files import ANY_TEXT, QUICK, SAMPLES, delimited, jsonl, needs_samples

FILE = "iglue_wit/test_en.jsonl"
VAL, TEST = "wit/wit_v1.val.all-00000-of-00005.tsv.gz", "wit/wit_v1.test.all-00003-of-00005.tsv.gz"
TRAIN = f"wit/{RELEASES['wit'].files[0]}"


def record(number, image, caption=None, **fields):
    return {
        "image_idx": 98,
        "image_url": f"http://upload.example/{image}.svg",
        "meta_url": "http://commons.example/File",
        "caption_reference_description": f"caption {number}" if caption is None else caption,
        "language": "en",
        "page_url": f"https://en.wikipedia.org/wiki/P{number}",
        "wit_ix": f"wit-test_{image}",
        **fields,
    }


def wit_row(record, **fields):
    """The WIT row a record was made from."""
    taken = ("language", "page_url", "image_url", "caption_reference_description")
    return {
        **dict.fromkeys(COLUMNS, ""),
        **{name: record[name] for name in taken},
        "page_title": "A title",
        "context_page_description": "A text.",
        **fields,
    }


def tsv(rows):
    # Python 3.11 writes a carriage return without quotes otherwise.
    return gzip.compress(delimited(rows, COLUMNS, quoting=csv.QUOTE_ALL).encode("utf-8"))


RECORDS = [record(1, "b"), record(2, "a", 'with\na break "and" quotes '), record(3, "b"), record(4, "c")]


@pytest.fixture
def release(put):
    put(FILE, jsonl(*RECORDS))
    other = wit_row(record(9, "z"))
    put(VAL, tsv([other, wit_row(RECORDS[1]), wit_row(RECORDS[0]), wit_row(RECORDS[0], language="de")]))
    put(TEST, tsv([wit_row(RECORDS[2]), other, wit_row(RECORDS[3], page_title="")]))


def test_images_are_queries_and_records_are_passages(release, tables, counts):
    data, passages, rejected, lacking = tables("IGLUE")
    queries, found = data["test"], passages["test"]
    names = [hashlib.md5(f"http://upload.example/{image}.svg".encode()).hexdigest() for image in "bac"]
    assert queries["question_id"].to_list() == queries["img_id"].to_list() == queries["image_id"].to_list() == names
    assert queries["pos_item_ids"].to_list() == [["IGLUE_0", "IGLUE_2"], ["IGLUE_1"], ["IGLUE_3"]]
    assert queries["img_path"][0] == f"{names[0]}.jpg"
    assert set(queries["question"]) == {""}
    assert found["passage_id"].to_list() == [f"IGLUE_{n}" for n in range(4)]
    assert found["original_data_id"].to_list() == ["wit-test_b", "wit-test_a", "wit-test_b", "wit-test_c"]
    assert found["passage_content"][1] == (
        'title: A title caption reference description: with\na break "and" quotes  content: A text.'
    )
    assert found["image_downloaded"].null_count() == 4
    assert not rejected.rows
    assert not lacking
    assert counts("IGLUE") == {
        "records": 4,
        "images_of_records": 3,
        "records_matched": 4,
        "images_matched": 3,
        "further_rows_of_a_record": 0,
        "wit_files_read": 2,
    }


def test_captions_are_compared_as_they_are(release, put, tables):
    put(VAL, tsv([wit_row(RECORDS[0]), wit_row(RECORDS[1], caption_reference_description="with a break")]))
    with pytest.raises(MissingFilesError, match=r"line 2 .*another caption"):
        tables("IGLUE")


def test_what_is_missing_is_said(release, put, tables):
    put(VAL, tsv([wit_row(RECORDS[0], page_url="https://en.wikipedia.org/wiki/Elsewhere")]))
    with pytest.raises(MissingFilesError, match=r"line 1 \(wit-test_b, .*P1\).*1 more rows.*--allow-missing"):
        tables("IGLUE")
    data, passages, rejected, _ = tables("IGLUE", allow_missing=True)
    assert [(row.kind, row.row, row.reason.split(" has ")[1]) for row in rejected.rows] == [
        ("missing", "line 1", "its image_url on its page_url (the image is on other pages)"),
        ("missing", "line 2", "its image_url"),
    ]
    assert passages["test"]["passage_id"].to_list() == ["IGLUE_2", "IGLUE_3"]
    assert data["test"]["pos_item_ids"].to_list() == [["IGLUE_2"], ["IGLUE_3"]]


def test_several_rows_of_a_record(release, put, tables, counts):
    put(TRAIN, tsv([wit_row(RECORDS[3], section_title="A section")]))
    assert tables("IGLUE")[1]["test"]["section_title"].to_list() == [None] * 4
    assert counts("IGLUE")["further_rows_of_a_record"] == 1
    data, passages, _, _ = tables("IGLUE", repeats="all")
    assert passages["test"]["passage_id"].to_list()[3:] == ["IGLUE_3", "IGLUE_3_1"]
    assert passages["test"]["section_title"].to_list()[3:] == [None, "A section"]
    assert data["test"]["pos_item_ids"].to_list()[2] == ["IGLUE_3", "IGLUE_3_1"]


def test_it_is_seen_whether_pictures_are_there(release, root, tables, counts):
    name = tables("IGLUE")[0]["test"]["img_path"][0]
    (root / "wit" / "images").mkdir()
    Image.new("RGB", (50, 50)).save(root / "wit" / "images" / name)
    assert tables("IGLUE")[1]["test"]["image_downloaded"].to_list() == [True, False, True, False]
    assert counts("IGLUE")["images_missing"] == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.pop("page_url"), "page_url is missing"),
        (lambda r: r.update(image_url=3), "image_url is not a string"),
        (lambda r: r.update(caption_reference_description=""), "caption_reference_description is empty"),
        (lambda r: r.update(caption_reference_description=None), "caption_reference_description is not a string"),
        (lambda r: r.update(language="id"), "its language is 'id' where 'en' is expected"),
        (lambda r: r.pop("wit_ix"), "wit_ix is missing"),
        (lambda r: r.update(wit_ix=["x"]), "wit_ix is not a string"),
    ],
)
def test_a_bad_record_stops_the_build_or_is_left_out(release, put, rejects, change, reason):
    records = copy.deepcopy(RECORDS)
    change(records[1])
    put(FILE, jsonl(*records))
    _, passages = rejects("IGLUE", "test_en.jsonl", "line 2", reason)
    assert passages["test"]["passage_id"].to_list() == ["IGLUE_0", "IGLUE_2", "IGLUE_3"]


@settings(QUICK, max_examples=30)
@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_captions_of_any_text_find_their_row(put, tables, captions):
    records = [record(number, "a", f"{text}.") for number, text in enumerate(captions)]
    put(FILE, jsonl(*records))
    put(VAL, tsv([wit_row(one) for one in reversed(records)]))
    found = tables("IGLUE")[1]["test"]
    assert found["caption_reference_description"].to_list() == [f"{text}." for text in captions]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        *((line, "") for line in ("null", "3", "[]", '"text"', "{", json.dumps(record(2, "\ud800")))),
        (RECORDS[0], r"\(wit-test_b\): its page, .* stand already at line 1"),
    ],
)
def test_a_line_of_another_kind_or_a_repeated_one_is_a_bad_record(release, put, rejects, line, reason):
    put(FILE, jsonl(*RECORDS, line))
    assert rejects("IGLUE", "test_en.jsonl", "line 5", reason)[1]["test"].height == 4


def test_files_may_be_missing(release, root, tables):
    (root / FILE).unlink()
    with pytest.raises(MissingFilesError, match=r"test_en\.jsonl is missing"):
        tables("IGLUE")
    assert tables("IGLUE", allow_missing=True)[3] == ["IGLUE: not built without iglue_wit/test_en.jsonl."]


def test_without_wit_there_is_nothing(release, root, tables):
    for name in (VAL, TEST):
        (root / name).unlink()
    with pytest.raises(MissingFilesError, match=r"wit_v1\.train.* is missing"):
        tables("IGLUE")
    assert tables("IGLUE", allow_missing=True)[3] == ["IGLUE: not built without the tables of WIT."]


@needs_samples
def test_the_real_records_give_685_queries_and_1000_passages(put, tables, counts):
    text = (SAMPLES / FILE).read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.split("\n") if line]
    rows = [wit_row(record) for record in records]
    put(FILE, text)
    put(VAL, tsv(rows[1::2]))
    put(TEST, tsv(rows[::2]))
    data, passages, rejected, _ = tables("IGLUE")
    assert (data["test"].height, passages["test"].height) == TASKS["IGLUE"].published["test"] == (685, 1_000)
    assert data["test"]["pos_item_ids"].list.len().sum() == 1_000
    assert data["test"]["pos_item_ids"].list.len().max() == 20
    assert not rejected.rows


@needs_samples
def test_with_half_of_the_real_rows_it_says_which_are_missing(put, tables):
    text = (SAMPLES / FILE).read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.split("\n") if line]
    put(FILE, text)
    put(VAL, tsv([wit_row(record) for record in records[::2]]))
    with pytest.raises(MissingFilesError, match=r"line 2 .* 499 more rows are like it"):
        tables("IGLUE")
    _, passages, rejected, _ = tables("IGLUE", allow_missing=True)
    assert passages["test"].height == 500
    assert [row.row for row in rejected.rows] == [f"line {n}" for n in range(2, 1001, 2)]
    assert {row.kind for row in rejected.rows} == {"missing"}
    assert all(row.id.startswith(f"{records[2 * n + 1]['wit_ix']}, ") for n, row in enumerate(rejected.rows))


@needs_samples
def test_records_of_another_language_are_bad(put, tables):
    put(FILE, (SAMPLES / "iglue_wit/test_id.jsonl").read_bytes())
    put(VAL, tsv([wit_row(RECORDS[0])]))
    with pytest.raises(BadRowsError, match="its language is 'id'"):
        tables("IGLUE")
