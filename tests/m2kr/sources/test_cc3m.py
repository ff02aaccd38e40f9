"""CC: every record of chat.json is a query and its passage."""

import copy

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import MissingFilesError
from tests.m2kr.raw_files import ANY_TEXT, QUICK, SAMPLES, needs_samples

FILE = "llava_cc3m/chat.json"
IDS = pa.schema([("image_id", pa.string()), ("question_id", pa.string())])


def record(number, prompt="<image>\nSay what is shown.", caption=None):
    name = f"GCC_train_{number:09d}"
    said = [
        {"from": "human", "value": prompt},
        {"from": "gpt", "value": f"a made up kettle {number} ." if caption is None else caption},
    ]
    return {"id": name, "image": f"{name}.jpg", "conversations": said}


def test_a_record_is_a_query_and_its_passage(put, tables, counts):
    put(FILE, [record(1), record(2, "Describe it.\n<image>", " one & two .\n"), record(3, caption="one & two .")])
    data, passages, _, lacking = tables("CC")
    rows = data["train"]
    assert rows["question_id"].to_list() == ["0", "1", "2"]
    assert rows["image_id"].to_list() == [None] * 3
    assert rows["img_id"].to_list() == [f"GCC_train_{n:09d}" for n in (1, 2, 3)]
    assert rows["instruction"].to_list() == ["Say what is shown.", "Describe it.", "Say what is shown."]
    assert rows["question"].to_list() == [""] * 3
    assert rows["pos_item_contents"].to_list() == [["a made up kettle 1 ."], [" one & two .\n"], ["one & two ."]]
    assert rows["pos_item_ids"].list.first().to_list() == passages["train"]["passage_id"].to_list()
    assert rows["original_data_id"].list.first().to_list() == passages["train"]["original_data_id"].to_list()
    assert rows["img_path"][0] == "GCC_train_000000001.jpg"
    assert counts("CC") == {"records": 3, "images": 3, "instructions": 2}
    assert not lacking


def test_the_question_may_be_null_as_in_the_published_table(put, tables):
    put(FILE, [record(1)])
    assert tables("CC", question="null")[0]["train"]["question"].to_list() == [None]


def test_the_ids_may_be_the_record_s_and_change_nothing_else(put, tables):
    put(FILE, [record(1), record(2)])
    numbers, records = (tables("CC", ids=ids) for ids in ("numbers", "records"))
    rows = records[0]["train"]
    names = [f"GCC_train_{n:09d}" for n in (1, 2)]
    assert rows["question_id"].to_list() == rows["image_id"].to_list() == names
    assert rows.drop("question_id", "image_id").equals(numbers[0]["train"].drop("question_id", "image_id"))
    assert records[1]["train"].equals(numbers[1]["train"])


def test_ids_take_the_published_bytes(put, tables):
    put(FILE, [record(n) for n in range(1, 1_201)])
    rows = tables("CC")[0]["train"].select("image_id", "question_id").to_arrow().cast(IDS)
    # 4 bytes of each text column aside: an eighth for the nulls, and the digits.
    assert rows.nbytes / rows.num_rows - 8 == pytest.approx(1 / 8 + (10 + 90 * 2 + 900 * 3 + 200 * 4) / 1_200, abs=0.02)


def test_the_request_may_stay_as_it_is(put, tables):
    put(FILE, [record(1)])
    assert tables("CC", instruction="raw")[0]["train"]["instruction"][0] == "<image>\nSay what is shown."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.update(image="../GCC.jpg"), "leaves its root"),
        (lambda r: r.update(image="/GCC.jpg"), "leaves its root"),
        (lambda r: r.update(image="a\\..\\GCC.jpg"), "leaves its root"),
        (lambda r: r.update(image="C:GCC.jpg"), "leaves its root"),
        (lambda r: r.update(image=" "), "image is empty"),
        (lambda r: r.update(image=None), "image is not a string"),
        (lambda r: r.update(id=7), "id is not a string"),
        (lambda r: r.pop("id"), "id is missing"),
        (lambda r: r.update(conversations={}), "conversations is not a list"),
        (lambda r: r.update(conversations=[]), "not one turn of human and one of gpt"),
        (lambda r: r.update(conversations=["human", "gpt"]), r"conversations\[0\] is not an object"),
        (lambda r: r["conversations"].reverse(), "not one turn of human and one of gpt"),
        (lambda r: r["conversations"].append(r["conversations"][0]), "not one turn of human and one of gpt"),
        (lambda r: r["conversations"][0].update(value="<image>\n"), "the turn of human says nothing"),
        (lambda r: r["conversations"][0].pop("value"), r"conversations\[0\].value is missing"),
        (lambda r: r["conversations"][1].update(value=" \n"), "the turn of gpt says nothing"),
        (lambda r: r["conversations"][1].update(value=3), r"conversations\[1\].value is not a string"),
        (lambda r: r["conversations"][1].update(value="\udfff"), "half a surrogate pair"),
    ],
)
def test_a_bad_record_stops_the_build_or_is_left_out(put, rejects, change, reason):
    bad = copy.deepcopy(record(2))
    change(bad)
    put(FILE, [record(1), bad, record(3)])
    data, _ = rejects("CC", "chat.json", "record 2", reason)
    assert data["train"]["img_id"].to_list() == ["GCC_train_000000001", "GCC_train_000000003"]
    assert data["train"]["question_id"].to_list() == ["0", "1"]


@settings(QUICK, max_examples=30)
@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_captions_are_read_back_as_they_were_written(put, tables, captions):
    put(FILE, [record(number, caption=f"{text}.") for number, text in enumerate(captions)])
    assert tables("CC")[1]["train"]["passage_content"].to_list() == [f"{text}." for text in captions]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((value, "it is not an object") for value in (None, 3, "text", [], ["text"])),
        (record(1, caption="again ."), r"\(id GCC_train_000000001\): the id stands already at record 1"),
    ],
)
def test_an_element_of_another_kind_or_a_repeated_one_is_a_bad_record(put, rejects, value, reason):
    put(FILE, [record(1), value])
    rejects("CC", "chat.json", "record 2", reason)


def test_there_may_be_nothing(put, tables):
    with pytest.raises(MissingFilesError, match=r"chat\.json is missing"):
        tables("CC")
    assert tables("CC", allow_missing=True)[3] == ["CC: nothing can be built without chat.json."]
    put(FILE, [])
    assert tables("CC")[3] == ["CC: not built, chat.json holds no record."]


@needs_samples
def test_real_records(put, tables):
    put(FILE, (SAMPLES / FILE).read_bytes())
    data, passages, _, _ = tables("CC")
    assert data["train"]["instruction"].to_list() == [
        "Provide a brief description of the given image.",
        "Write a terse but informative summary of the picture.",
        "Share a concise interpretation of the image provided.",
    ]
    assert passages["train"]["passage_content"][2] == "weathering -- the physical & chemical breakdown of rocks ."
