"""CC: every record of chat.json is a query and its passage."""

import copy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2kr.errors import BadRowsError, MissingFilesError
from m2kr.formats.rules import check_split
from m2kr.formats.schema import polars_schema
from m2kr.tasks import TASKS

SAMPLE = Path(__file__).parents[4] / "shared" / "raw_samples" / "llava_cc3m" / "chat.json"
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FILE = "llava_cc3m/chat.json"


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
    assert rows.schema == polars_schema("CC_data")
    assert passages["train"].schema == polars_schema("CC_passages")
    check_split(TASKS["CC"], "train", rows.lazy(), passages["train"].lazy())
    assert rows["question_id"].to_list() == [f"GCC_train_{n:09d}" for n in (1, 2, 3)]
    assert rows["instruction"].to_list() == ["Say what is shown.", "Describe it.", "Say what is shown."]
    assert rows["question"].null_count() == 3
    assert rows["pos_item_contents"].to_list() == [["a made up kettle 1 ."], [" one & two .\n"], ["one & two ."]]
    assert rows["pos_item_ids"].list.first().to_list() == passages["train"]["passage_id"].to_list()
    assert rows["original_data_id"].list.first().to_list() == passages["train"]["original_data_id"].to_list()
    assert rows["img_path"][0] == "GCC_train_000000001.jpg"
    assert counts("CC") == {"records": 3, "images": 3, "instructions": 2}
    assert not lacking


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
        (lambda r: r.update(conversations=["human", "gpt"]), "not one turn of human and one of gpt"),
        (lambda r: r["conversations"].reverse(), "not one turn of human and one of gpt"),
        (lambda r: r["conversations"].append(r["conversations"][0]), "not one turn of human and one of gpt"),
        (lambda r: r["conversations"][0].update(value="<image>\n"), "the turn of human says nothing"),
        (lambda r: r["conversations"][0].pop("value"), "the turn of human says nothing"),
        (lambda r: r["conversations"][1].update(value=" \n"), "the turn of gpt says nothing"),
        (lambda r: r["conversations"][1].update(value=3), "the turn of gpt says nothing"),
        (lambda r: r["conversations"][1].update(value="\udfff"), "half a surrogate pair"),
    ],
)
def test_a_bad_record_stops_the_build_or_is_left_out(put, tables, change, reason):
    bad = copy.deepcopy(record(2))
    change(bad)
    put(FILE, [record(1), bad, record(3)])
    with pytest.raises(BadRowsError, match=f"chat.json, record 2.*{reason}"):
        tables("CC")
    data, _, quarantine, _ = tables("CC", on_bad_rows="skip")
    assert data["train"]["question_id"].to_list() == ["GCC_train_000000001", "GCC_train_000000003"]
    assert [row.row.split(" (")[0] for row in quarantine.rows] == ["record 2"]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_captions_are_read_back_as_they_were_written(put, tables, captions):
    put(FILE, [record(number, caption=f"{text}.") for number, text in enumerate(captions)])
    assert tables("CC")[1]["train"]["passage_content"].to_list() == [f"{text}." for text in captions]


@pytest.mark.parametrize("value", [None, 3, "text", [], ["text"]])
def test_an_element_of_another_kind_is_a_bad_record(put, tables, value):
    put(FILE, [record(1), value])
    with pytest.raises(BadRowsError, match="record 2: it is not an object"):
        tables("CC")


def test_a_repeated_record_is_a_duplicate_id(put, tables):
    put(FILE, [record(1), record(1, caption="again .")])
    with pytest.raises(BadRowsError, match=r"record 2 \(id GCC_train_000000001\): the id stands already at record 1"):
        tables("CC")


def test_there_may_be_nothing(put, tables):
    with pytest.raises(MissingFilesError, match=r"chat\.json is missing"):
        tables("CC")
    assert tables("CC", allow_missing=True)[3] == ["CC: nothing can be built without chat.json."]
    put(FILE, [])
    assert tables("CC")[3] == ["CC: not built, chat.json holds no record."]


@pytest.mark.skipif(not SAMPLE.is_file(), reason=f"the real records are not at {SAMPLE}")
def test_real_records(put, tables):
    put(FILE, SAMPLE.read_bytes())
    data, passages, _, _ = tables("CC")
    assert data["train"]["instruction"].to_list() == [
        "Provide a brief description of the given image.",
        "Write a terse but informative summary of the picture.",
        "Share a concise interpretation of the image provided.",
    ]
    assert passages["train"]["passage_content"][2] == "weathering -- the physical & chemical breakdown of rocks ."
    check_split(TASKS["CC"], "train", data["train"].lazy(), passages["train"].lazy())
