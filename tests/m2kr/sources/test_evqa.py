"""Encyclopedic-VQA: questions meet the section that answers them, and the name of their picture."""

import json
import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import BadRowsError, MissingFilesError
from tests.m2kr.archives import archived
from tests.m2kr.raw_files import QUICK, delimited

HEADER = (
    "question,answer,dataset_image_ids,dataset_name,dataset_category_id,question_type,wikipedia_url,wikipedia_title,"
    "evidence,evidence_section_id,evidence_section_title,encyclopedic_vqa_split,question_original,"
    "wikipedia_url_used_in_train"
)
COLUMNS = HEADER.split(",")
WIKI = "https://en.wikipedia.org/wiki/"


def asked(**changes):
    row = {
        **dict.fromkeys(COLUMNS, ""),
        "question": "How tall does this plant grow?",
        "answer": "two metres|2 m|2 m",
        "dataset_image_ids": "12|13",
        "dataset_name": "inaturalist",
        "question_type": "automatic",
        "wikipedia_url": f"{WIKI}Example_vetch",
        "evidence_section_id": "1",
        "evidence": 'It says, "tall".\nSo it is.',
    }
    return {**row, **changes}


LANDMARK = asked(
    dataset_name="landmarks",
    dataset_image_ids="0a1b2c3d4e5f6071",
    question_type="templated",
    wikipedia_url=f"{WIKI}Old_Mill",
    evidence_section_id="0",
    answer="red&&white",
)
TWO_HOP = asked(question_type="2_hop", wikipedia_url="a|b", evidence_section_id="1|2", answer="")


def sheet(*rows, columns=COLUMNS, end="\r\n"):
    return delimited(rows, columns, delimiter=",", end=end).encode()


def page(title, *texts, **changes):
    titles = [title, *(f"Part {n}" for n in range(1, len(texts)))]
    return {"title": title, "section_titles": titles, "section_texts": list(texts), **changes}


VETCH = page("Example vetch", "A plant.", "It grows two metres tall.", "Uses.", " ")
MILL = page("Old Mill", "A red and white mill.", "History.")
PAGES = {f"{WIKI}Example_vetch": VETCH, f"{WIKI}Old_Mill": MILL}
SECOND = asked(evidence_section_id="2", dataset_image_ids="99")


@pytest.fixture
def release(put):
    put("evqa/train.csv", sheet(asked(), TWO_HOP, LANDMARK))
    put("evqa/val.csv", sheet(asked(dataset_image_ids="7"), LANDMARK))
    put("evqa/test.csv", sheet(SECOND))
    put("evqa/encyclopedic_kb_wiki.json", {f"{WIKI}Other": 3, **PAGES})
    put("evqa/train_id2name.json", {"12": "train/00001_Vicia/a-b.jpg", "13": "train/00001_Vicia/c.jpg", "5": 7})
    put("evqa/val_id2name.json", {"7": "val/00001_Vicia/d.jpg", "99": "val/00001_Vicia/e.jpg"})


def test_a_question_has_the_section_that_answers_it(release, tables):
    data, _, _, lacking = tables("EVQA")
    assert lacking == []
    first, second = data["train"].rows(named=True)
    assert first == {
        "instruction": first["instruction"],
        "pos_item_ids": ["WikiWeb_Example vetch_1"],
        "pos_item_contents": ["It grows two metres tall."],
        "img_id": "12",
        "img_path": "inat/train/00001_Vicia/a-b.jpg",
        "image_id": "12",
        "question_id": "EVQA_train_2",
        "question": "How tall does this plant grow?",
        "answers": ["two metres", "2 m", "2 m"],
        "gold_answer": "2 m",
        "question_type": "automatic",
    }
    assert second["img_path"] == "google-landmark/train/0/a/1/0a1b2c3d4e5f6071.jpg"
    assert (second["answers"], second["gold_answer"]) == (["red&&white"], "red&&white")
    assert second["question_id"] == "EVQA_train_6"  # the records before it are of two lines each


def test_valid_and_test_are_searched_in_the_train_pool_and_their_own_sections(release, tables):
    _, passages, _, _ = tables("EVQA")
    train = ["WikiWeb_Example vetch_1", "WikiWeb_Old Mill_0"]
    assert passages["train"]["passage_id"].to_list() == train
    assert passages["valid"]["passage_id"].to_list() == train
    assert passages["test"]["passage_id"].to_list() == [*train, "WikiWeb_Example vetch_2"]
    _, passages, _, _ = tables("EVQA", pools="own")
    assert passages["test"].rows() == [("en", "WikiWeb_Example vetch_2", "Uses.")]


def test_pages_may_add_further_sections(release, tables):
    _, passages, _, _ = tables("EVQA", extra_sections=9)
    # Section 2 answers a test question, so it is none of the further ones; section 3 is empty.
    names = ["Example vetch_0", "Example vetch_1", "Old Mill_0", "Old Mill_1"]
    assert passages["train"]["passage_id"].to_list() == [f"WikiWeb_{name}" for name in names]
    assert passages["train"]["passage_content"][3] == "History."
    assert tables("EVQA", extra_sections=1)[1]["train"].height == 4


def test_a_passage_may_begin_with_the_title(release, tables):
    _, passages, _, _ = tables("EVQA", title=True)
    assert passages["train"]["passage_content"][1] == "title: Old Mill content: A red and white mill."


def test_the_picture_may_be_drawn(release, put, tables):
    put("evqa/train.csv", sheet(*(asked() for _ in range(20))))
    assert set(tables("EVQA")[0]["train"]["img_id"]) == {"12"}
    drawn = tables("EVQA", image="drawn")[0]["train"]["img_id"]
    assert set(drawn) == {"12", "13"}
    assert not drawn.equals(tables("EVQA", image="drawn", seed=1)[0]["train"]["img_id"])


def test_kinds_of_questions_are_chosen(release, put, tables):
    put("evqa/train.csv", sheet(asked(), LANDMARK, asked(question_type="multi_answer")))
    kinds = {option: tables("EVQA", question_types=option)[0]["train"]["question_type"].to_list() for option in (
        "templated+automatic", "templated", "automatic", "templated+automatic+multi_answer"
    )}  # fmt: skip
    assert list(kinds.values()) == [
        ["automatic", "templated"],
        ["templated"],
        ["automatic"],
        ["automatic", "templated", "multi_answer"],
    ]


def test_the_train_split_may_be_a_sample(release, put, tables):
    put("evqa/train.csv", sheet(*(asked() for _ in range(20)), LANDMARK))
    data, passages, _, _ = tables("EVQA", train_questions=5)
    assert data["train"].height == 5
    assert set(passages["train"]["passage_id"]) == {name[0] for name in data["train"]["pos_item_ids"]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_columns_are_found_by_name(release, put, tables, end, mark):
    shuffled = random.Random(3).sample([*COLUMNS, "new"], len(COLUMNS) + 1)
    expected = tables("EVQA")[0]["train"]
    rows = [{"new": "x, y", **row} for row in (asked(), TWO_HOP, LANDMARK)]
    put("evqa/train.csv", mark.encode() + sheet(*rows, columns=shuffled, end=end))
    assert tables("EVQA")[0]["train"].equals(expected)


@pytest.mark.parametrize("columns", [COLUMNS[1:], [*COLUMNS, "question"]])
def test_a_header_without_a_column_is_an_error(release, put, tables, columns):
    put("evqa/train.csv", ",".join(columns).encode() + b"\n")
    with pytest.raises(BadRowsError, match=r"train.csv, line 1: the header has the columns"):
        tables("EVQA", on_bad_rows="skip")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question_type": "three_hop"}, "the question_type three_hop is none of"),
        ({"question": " "}, "the question is empty"),
        ({"answer": "| |"}, "the answer is empty"),
        ({"dataset_image_ids": ""}, "names no picture"),
        ({"dataset_image_ids": "12|../../x"}, "holds an id that is none of inaturalist"),
        ({"dataset_image_ids": "12\n"}, "holds an id that is none of inaturalist"),
        ({"dataset_image_ids": "0a1b2c3d4e5f6071"}, "holds an id that is none of inaturalist"),
        ({"dataset_name": "landmarks"}, "holds an id that is none of landmarks"),
        ({"dataset_name": "coco"}, "neither inaturalist nor landmarks"),
        ({"wikipedia_url": ""}, "wikipedia_url is empty"),
        ({"evidence_section_id": "1|2"}, "is not the number of a section"),
        ({"evidence_section_id": "-1"}, "is not the number of a section"),
        ({"evidence_section_id": "9" * 30}, "is not the number of a section"),
    ],
)
def test_a_bad_record_stops_the_build_or_is_left_out(release, put, rejects, change, reason):
    put("evqa/train.csv", sheet(LANDMARK, asked(**change), asked()))
    data, _ = rejects("EVQA", "train.csv", "line 4", reason)
    assert data["train"]["question_type"].to_list() == ["templated", "automatic"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("text", "it is not an object"),
        ({**VETCH, "title": None}, "title is not a string"),
        ({**VETCH, "title": " "}, "title is empty"),
        ({**VETCH, "section_texts": "x"}, "section_texts is not a list"),
        ({**VETCH, "section_texts": ["x", 1]}, r"section_texts\[1\] is not a string"),
        ({**VETCH, "section_titles": ["x"]}, "differ in number"),
    ],
)
def test_a_bad_page_is_named_and_its_questions_lack_their_section(release, put, tables, bad, reason):
    put("evqa/encyclopedic_kb_wiki.json", {f"{WIKI}Old_Mill": MILL, f"{WIKI}Example_vetch": bad})
    with pytest.raises(BadRowsError, match=f"encyclopedic_kb_wiki.json, member 2 .page {WIKI}.*{reason}"):
        tables("EVQA")
    data, _, rejected, lacking = tables("EVQA", on_bad_rows="skip")
    assert data["train"]["question_type"].to_list() == ["templated"]
    assert [row.kind for row in rejected.rows] == ["bad", "missing", "missing", "missing"]
    assert "EVQA test: not built" in lacking[0]


def test_an_address_that_stands_twice_keeps_its_first_page(release, put, tables):
    twice = json.dumps(PAGES)[:-1]
    put("evqa/encyclopedic_kb_wiki.json", f'{twice}, "{WIKI}Old_Mill": {json.dumps(VETCH)}}}')
    with pytest.raises(BadRowsError, match=r"member 3 .*the address stands more than once"):
        tables("EVQA")
    assert "WikiWeb_Old Mill_0" in tables("EVQA", on_bad_rows="skip")[1]["train"]["passage_id"]


def test_two_pages_of_one_title_cannot_share_an_id(release, put, tables):
    same = {**MILL, "title": VETCH["title"], "section_texts": ["Mill.", "x"]}
    put("evqa/train.csv", sheet(asked(), asked(wikipedia_url=f"{WIKI}Old_Mill")))
    put("evqa/encyclopedic_kb_wiki.json", {**PAGES, f"{WIKI}Old_Mill": same})
    with pytest.raises(BadRowsError, match=r"section 1 has the title and the number of one of .*Example_vetch"):
        tables("EVQA")


def test_a_broken_knowledge_base_is_placed(release, put, tables):
    put("evqa/encyclopedic_kb_wiki.json", json.dumps(PAGES)[:-40])
    with pytest.raises(BadRowsError, match=r"after member 1 .*invalid JSON from here on"):
        tables("EVQA")
    assert tables("EVQA", on_bad_rows="skip")[0]["train"].height == 1


@pytest.mark.parametrize("number", ["3", "4"])
def test_a_section_that_is_empty_or_not_there_is_missing(release, put, tables, number):
    put("evqa/train.csv", sheet(LANDMARK, asked(evidence_section_id=number)))
    with pytest.raises(MissingFilesError, match=rf"line 4 .*section {number} of {WIKI}Example_vetch is not in"):
        tables("EVQA")
    assert tables("EVQA", allow_missing=True)[0]["train"].height == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../x.jpg", "leaves its root"),
        ("/etc/x.jpg", "leaves its root"),
        ("a\\b.jpg", "leaves its root"),
        (None, "not a string"),
        ([1], "not a string"),
        (" ", "not a string"),
    ],
)
def test_a_bad_picture_name_is_named(release, put, rejects, name, reason):
    put("evqa/train_id2name.json", {"1": 5, "12": name})
    data, _ = rejects("EVQA", "train_id2name.json", "member 2", f".*12.*{reason}")
    assert data["train"]["question_type"].to_list() == ["templated"]


def test_a_picture_without_a_name_lacks_its_other_half(release, put, root, tables):
    put("evqa/train_id2name.json", {"13": "train/x.jpg"})
    with pytest.raises(MissingFilesError, match=r"train.csv, line 2 .*its picture 12 is not in train_id2name.json"):
        tables("EVQA")
    (root / "evqa/train_id2name.json").unlink()
    with pytest.raises(MissingFilesError, match=r"train.json.tar.gz is missing. .*visipedia/inat_comp"):
        tables("EVQA")
    assert tables("EVQA", allow_missing=True)[0]["train"]["question_type"].to_list() == ["templated"]


def annotations(*images):
    """iNaturalist's annotations, with what it writes where a place is not known."""
    whole = [{"id": number, "width": 5, "latitude": float("nan"), "file_name": name} for number, name in images]
    links = [{"id": number, "image_id": number, "category_id": 1} for number, _ in images]
    return json.dumps({"info": {}, "images": whole, "categories": [{"id": 1}], "annotations": links, "licenses": []})


@pytest.mark.parametrize("ending", ["json.tar.gz", "json.tar", "json", "json.gz"])
def test_names_come_out_of_inaturalists_annotations_as_well(release, root, tables, ending):
    expected = tables("EVQA")[0]
    for half in ("train", "val"):
        names = json.loads((root / f"evqa/{half}_id2name.json").read_text())
        (root / f"evqa/{half}_id2name.json").unlink()
        text = annotations(*((int(number), name) for number, name in names.items()))
        archived(root / f"evqa/{half}.{ending}", {f"{half}.json": text.encode()})
    found = tables("EVQA")[0]
    assert list(found) == ["train", "valid", "test"]
    assert all(found[split].equals(expected[split]) for split in expected)


def test_the_knowledge_base_is_read_out_of_its_zip(release, root, tables):
    expected = tables("EVQA")
    plain = root / "evqa/encyclopedic_kb_wiki.json"
    archived(plain.with_suffix(".zip"), {plain.name: plain.read_bytes()})
    plain.write_text("{}")
    with pytest.raises(MissingFilesError):  # what was unpacked goes before what was downloaded
        tables("EVQA")
    plain.unlink()
    data, passages, rejected, _ = tables("EVQA")
    assert all(data[split].equals(expected[0][split]) for split in expected[0])
    assert all(passages[split].equals(expected[1][split]) for split in expected[1])
    assert rejected.rows == []


def test_a_damaged_zip_is_named_and_what_it_holds_before_is_kept(release, root, tables):
    (root / "evqa/encyclopedic_kb_wiki.json").unlink()
    path = archived(root / "evqa/encyclopedic_kb_wiki.zip", {"kb.json": json.dumps(PAGES).encode()})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BadRowsError, match=r"wiki.zip, after the beginning: damaged from here on .File is not a zip"):
        tables("EVQA")
    archived(path, {"kb.json": json.dumps(PAGES)[:-40].encode()})
    with pytest.raises(BadRowsError, match=r"encyclopedic_kb_wiki.zip, after member 1 .*invalid JSON from here on"):
        tables("EVQA")
    assert tables("EVQA", on_bad_rows="skip")[0]["train"].height == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (annotations((12, 5)), "record 1 .id 12.: the file name is not a string"),
        (annotations((13, "a.jpg"), (12, "../x.jpg")), "record 2 .*12.*leaves its root"),
        (annotations((12, "a.jpg"), (12, "b.jpg")), "record 2 .*12.*the id stands already at record 1"),
        ('{"images": [7]}', "record 1: it is not an object with id and file_name"),
        ('{"images": []}', 'the beginning: the file holds no record under "images"'),
        (annotations((12, "a.jpg"))[:-30], "after record 1: invalid JSON from here on"),
    ],
)
def test_a_bad_annotation_is_named(release, root, tables, text, reason):
    (root / "evqa/train_id2name.json").unlink()
    archived(root / "evqa/train.json.tar.gz", {"train.json": text.encode()})
    with pytest.raises(BadRowsError, match=f"train.json.tar.gz, {reason}"):
        tables("EVQA")
    assert "templated" in tables("EVQA", on_bad_rows="skip")[0]["train"]["question_type"].to_list()


def test_a_table_without_rows_is_told_from_an_empty_one(release, put, tables):
    put("evqa/val.csv", sheet())
    with pytest.raises(BadRowsError, match=r"val.csv has its header and no rows"):
        tables("EVQA")
    put("evqa/val.csv", b"")
    with pytest.raises(BadRowsError, match=r"val.csv is empty"):
        tables("EVQA")


def test_landmarks_alone_need_no_names(release, put, root, tables):
    for split in ("train", "val", "test"):
        put(f"evqa/{split}.csv", sheet(LANDMARK))
    for split in ("train", "val"):
        (root / f"evqa/{split}_id2name.json").unlink()
    assert set(tables("EVQA")[0]) == {"train", "valid", "test"}


def test_files_may_be_missing(release, root, tables):
    (root / "evqa/train.csv").unlink()
    data, passages, _, lacking = tables("EVQA", allow_missing=True)
    assert set(data) == {"valid", "test"}
    assert passages["test"].height == 1
    assert "EVQA train: not built" in lacking[0]
    (root / "evqa/encyclopedic_kb_wiki.json").unlink()
    assert tables("EVQA", allow_missing=True)[0] == {}
    with pytest.raises(MissingFilesError, match=r"encyclopedic_kb_wiki.zip is missing"):
        tables("EVQA")


@settings(QUICK, max_examples=25)
@given(
    st.dictionaries(st.integers(0, 9), st.lists(st.sampled_from(["", " ", "text", "\u0085"]), max_size=4), max_size=6),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=9),
)
def test_streamed_sections_equal_a_plain_look_up(put, tables, pages, wanted):
    # A page with no section has a title that no section repeats, which is a fault.
    put("evqa/encyclopedic_kb_wiki.json", {f"u{url}": page(f"t{url}", *texts) for url, texts in pages.items()})
    put("evqa/train.csv", sheet(*({**LANDMARK, "wikipedia_url": f"u{u}", "evidence_section_id": n} for u, n in wanted)))
    _, passages, rejected, _ = tables("EVQA", on_bad_rows="skip", allow_missing=True)
    assert rejected.count("bad") == len({url for url, _ in wanted if pages.get(url) == []})
    found = {
        f"WikiWeb_t{url}_{number}": pages[url][number]
        for url, number in wanted
        if number < len(pages.get(url, ())) and pages[url][number].strip()
    }
    made = passages["train"].select("passage_id", "passage_content").rows() if "train" in passages else []
    assert made == sorted(found.items())


def test_the_world_is_built_as_its_makers_say(built):
    rows = pl.read_parquet(built / "EVQA_data" / "*.parquet")
    assert rows.height > 50
    assert set(rows["pos_item_ids"].list.len()) == {1}
    assert set(rows["question_type"]) == {"templated", "automatic"}
    assert rows["img_path"].str.contains(r"^(inat/(train|val)|google-landmark/train/./././)").all()
