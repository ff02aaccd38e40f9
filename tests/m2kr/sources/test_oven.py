"""OVEN: records meet their entity's summary, and pictures their file."""

import gzip
import json
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.common.json_input import MAX_DEPTH
from m2kr.errors import MissingFilesError
from tests.m2kr.archives import archived
from tests.m2kr.raw_files import ANY_TEXT, QUICK, SAMPLES, jsonl, needs_samples


def record(number, entity="Q1", name="Old Mill Bridge", split="train", **changes):
    row = {
        "data_id": f"oven_entity_{split}_{number:08d}",
        "image_id": f"oven_{number:08d}",
        "question": "what is the name of this bridge?",
        "entity_id": entity,
        "entity_text": name,
        "data_split": f"entity_{split}",
    }
    return {name: value for name, value in {**row, **changes}.items() if value is not ...}


def entity(name, title, summary=None, content=None, **changes):
    row = {
        "wikidata_id": name,
        "wikipedia_title": title,
        "wikipedia_content": content,
        "wikipedia_summary": summary,
        "wikipedia_image_url": None,
    }
    return {**row, **changes}


BRIDGE = entity("Q1", "Old Mill Bridge", " A bridge over the Mill. ", "Long text.")
GULL = entity("Q2", "Möwe", None, "A gull, " + "and more " * 200)
PLAIN = entity("Q3", "Plain thing", "", "")


@pytest.fixture
def release(put):
    put("oven/oven_entity_train.jsonl", jsonl(record(1), record(2, "Q2", "Möwe"), record(3), record(10_000_004)))
    put(
        "oven/oven_entity_val.jsonl",
        jsonl(*(record(n, f"Q{n % 2 + 1}", "x", "val", image_id=f"oven_{n:02d}000000") for n in range(20, 30))),
    )
    put("oven/ovenid2impath.csv", "oven_00000001,a/b.JPEG\noven_00000002,a,b/c.png\noven_99999999,odd\n")
    put("wikipedia/Wiki6M_ver_1_0.jsonl.gz", gzip.compress(jsonl(entity("Q9", "Other", "x"), BRIDGE, GULL).encode()))


def test_records_become_queries_and_entities_passages(release, tables):
    data, passages, _, lacking = tables("OVEN", test_queries=4)
    assert lacking == []
    opening = "A gull, " + " ".join(["and more"] * 49)
    assert passages["train"].rows() == [("en", "Q1", "A bridge over the Mill."), ("en", "Q2", opening)]
    first = data["train"].row(0, named=True)
    assert first == {
        "instruction": first["instruction"],
        "pos_item_ids": ["Q1"],
        "pos_item_contents": ["A bridge over the Mill."],
        "img_id": "oven_00000001",
        "img_path": "00/oven_00000001.JPEG",
        "image_id": "oven_00000001",
        "question_id": "oven_entity_train_00000001",
        "question": "what is the name of this bridge?",
        "wiki_entity": "Old Mill Bridge",
        "wiki_entity_id": "Q1",
    }
    assert data["train"]["wiki_entity"][1] == "Möwe"


def test_valid_and_test_share_the_val_file_and_its_entities(release, tables):
    data, passages, _, _ = tables("OVEN", test_queries=4)
    assert (data["valid"].height, data["test"].height) == (6, 4)
    assert not set(data["valid"]["question_id"]) & set(data["test"]["question_id"])
    assert passages["valid"].equals(passages["test"])
    assert passages["test"]["passage_id"].to_list() == ["Q1", "Q2"]
    _, _, _, lacking = tables("OVEN")
    assert "OVEN valid: not built" in lacking[0]


def test_a_picture_has_the_extension_of_the_list_then_of_the_folder_then_jpg(release, root, put, tables):
    data, _, _, _ = tables("OVEN")
    paths = ["00/oven_00000001.JPEG", "00/oven_00000002.png", "00/oven_00000003.jpg", "10/oven_10000004.jpg"]
    assert data["train"]["img_path"].to_list() == paths
    (root / "oven/images/00").mkdir(parents=True)
    for name in ("oven_00000003.JPG", "oven_00000003.jpeg", "oven_00000001.gif", "notes.txt", "oven_10000004"):
        (root / "oven/images/00" / name).write_bytes(b"")
    paths[2] = "00/oven_00000003.JPG"
    assert tables("OVEN")[0]["train"]["img_path"].to_list() == paths
    assert tables("OVEN", without_image="drop")[0]["train"]["img_path"].to_list() == paths[:3]
    (root / "oven/ovenid2impath.csv").unlink()
    assert tables("OVEN")[0]["train"]["img_path"][0] == "00/oven_00000001.gif"


@pytest.mark.parametrize(
    ("archive", "member"),
    [("images/shard01.tar", "00/oven_{}"), ("images/shard01.tar", "oven_{}"), ("images.zip", "images/00/oven_{}")],
)
def test_a_picture_has_the_extension_that_it_has_in_an_archive(release, root, tables, archive, member):
    (root / "oven/ovenid2impath.csv").unlink()
    files = {member.format(name): b"" for name in ("00000001.png", "00000002.JPEG", "00000009.jpg")}
    archived(root / "oven" / archive, files)
    paths = ["00/oven_00000001.png", "00/oven_00000002.JPEG"]
    assert tables("OVEN", without_image="drop")[0]["train"]["img_path"].to_list() == paths
    assert tables("OVEN")[0]["train"]["img_path"].to_list()[:2] == paths


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("oven_00000001", "1 field where 2 are expected"),
        ("oven_00000001,folder/name", "no file extension"),
        ("oven_00000001,a.b/name", "no file extension"),
        ('oven_00000001,"x.jpg/.."', "no file extension"),
    ],
)
def test_a_bad_line_of_a_wanted_picture_is_named(release, put, rejects, line, reason):
    put("oven/ovenid2impath.csv", f"oven_id,path\nnonsense\n{line}\n")
    data, _ = rejects("OVEN", "ovenid2impath.csv", "line 3", reason)
    assert data["train"]["img_path"][0] == "00/oven_00000001.jpg"


def test_an_entity_keeps_so_many_train_records(put, release, tables):
    rows = [record(n, f"Q{n % 2 + 1}") for n in range(60)]
    put("oven/oven_entity_train.jsonl", jsonl(*rows))
    kept = tables("OVEN", per_entity=7)[0]["train"]
    assert Counter(kept["wiki_entity_id"]) == {"Q1": 7, "Q2": 7}
    assert kept["question_id"].is_sorted()
    put("oven/oven_entity_train.jsonl", jsonl(*reversed(rows)))
    again = tables("OVEN", per_entity=7)[0]["train"]
    assert set(again["question_id"]) == set(kept["question_id"])  # whatever the order of the file
    assert set(tables("OVEN", per_entity=7, seed=1)[0]["train"]["question_id"]) != set(kept["question_id"])
    assert tables("OVEN", per_entity=0)[0]["train"].height == 60


@pytest.mark.parametrize(
    ("option", "texts"),
    [
        ({}, ["A bridge over the Mill.", "A gull, b", "Plain thing"]),
        ({"without_summary": "title"}, ["A bridge over the Mill.", "Möwe", "Plain thing"]),
        (
            {"title": "true"},
            [
                "title: Old Mill Bridge content: A bridge over the Mill.",
                "title: Möwe content: A gull, b",
                "title: Plain thing content: Plain thing",
            ],
        ),
    ],
)
def test_an_entity_without_summary_falls_back(release, put, tables, option, texts):
    put("oven/oven_entity_train.jsonl", jsonl(record(1), record(2, "Q2"), record(3, "Q3")))
    gull = {**GULL, "wikipedia_content": "A gull,\n b"}
    put("wikipedia/Wiki6M_ver_1_0.jsonl.gz", gzip.compress(jsonl(BRIDGE, gull, PLAIN).encode()))
    assert tables("OVEN", **option)[1]["train"]["passage_content"].to_list() == texts


def test_an_entity_without_summary_may_go(release, tables):
    data, passages, rejected, _ = tables("OVEN", without_summary="drop", allow_missing=True)
    assert set(data["train"]["wiki_entity_id"]) == {"Q1"}
    assert passages["train"]["passage_id"].to_list() == ["Q1"]
    assert "Q2 has no text in Wiki6M (1 records name it)" in rejected.rows[0].reason


def test_of_the_records_of_one_id_the_first_stays(release, put, tables):
    wiki = jsonl(BRIDGE, {**BRIDGE, "wikipedia_summary": "Another."}, GULL)
    put("wikipedia/Wiki6M_ver_1_0.jsonl.gz", gzip.compress(wiki.encode()))
    assert tables("OVEN")[1]["train"]["passage_content"][0] == "A bridge over the Mill."


def test_a_missing_entity_takes_its_records_along(release, put, tables):
    put("wikipedia/Wiki6M_ver_1_0.jsonl.gz", gzip.compress(jsonl(GULL).encode()))
    with pytest.raises(MissingFilesError, match=r"line 1 \(data_id oven_entity_train_00000001\): its entity Q1 has"):
        tables("OVEN")
    data, passages, rejected, _ = tables("OVEN", allow_missing=True)
    assert data["train"]["wiki_entity_id"].to_list() == ["Q2"]
    assert passages["train"]["passage_id"].to_list() == ["Q2"]
    assert {row.kind for row in rejected.rows} == {"missing"}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(7, image_id="../../x"), "not named as this release names them"),
        (record(7, image_id="oven_00000007\n"), "not named as this release names them"),
        (record(7, image_id=7), "image_id is not a string"),
        (record(7, entity_id=...), "entity_id is missing"),
        (record(7, entity_id="bridge"), "not a Wikidata id"),
        (record(7, entity_text=" "), "entity_text is empty"),
        (record(7, question=""), "question is empty"),
        (record(7, data_id=" "), "data_id is empty"),
        (record(7, question=None), "question is not a string"),
        (record(7, data_id=[]), "data_id is not a string"),
        (json.dumps(record(7, question="\ud800")), "half a surrogate pair"),
        ("[1, 2]", "it is not an object"),
        ('{"data_id": ', "invalid JSON"),
        ('{"data_id": ' + "9" * 5000 + "}", "is out of range"),
        ("[" * (MAX_DEPTH + 1), "nested too deeply"),
        (record(1), "the id stands already at line 1"),
    ],
)
def test_a_bad_record_stops_the_build_or_is_left_out(release, put, rejects, bad, reason):
    put("oven/oven_entity_train.jsonl", jsonl(record(1), bad, record(3)))
    data, _ = rejects("OVEN", "oven_entity_train.jsonl", "line 2", reason)
    assert data["train"]["question_id"].to_list() == [record(n)["data_id"] for n in (1, 3)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({**BRIDGE, "wikipedia_summary": 3}, "wikipedia_summary is not a string"),
        ({**BRIDGE, "wikipedia_content": []}, "wikipedia_content is not a string"),
        ({"wikipedia_title": "x"}, "wikidata_id is missing"),
        ({**BRIDGE, "wikidata_id": 1}, "wikidata_id is not a string"),
        ("nothing", "invalid JSON"),
        ('{"wikidata_id": "Q1"', "invalid JSON"),
    ],
)
def test_a_bad_entity_is_named(release, put, rejects, bad, reason):
    put("wikipedia/Wiki6M_ver_1_0.jsonl.gz", gzip.compress(jsonl(GULL, bad, BRIDGE).encode()))
    assert rejects("OVEN", "Wiki6M_ver_1_0.jsonl.gz", "line 2", reason)[1]["train"].height == 2


@settings(QUICK, max_examples=25)
@given(
    st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_records_are_what_json_reads_however_they_are_written(
    release, put, tables, texts, ascii_only, compact, shuffled
):
    rows = [
        record(number, question=f"q{question}", entity_text=f"n{name}", data_split=split)
        for number, (question, name, split) in enumerate(texts)
    ]
    written = [dict(reversed(row.items())) if shuffled else row for row in rows]
    separators = (",", ":") if compact else None
    dumped = (json.dumps(row, ensure_ascii=ascii_only, separators=separators) for row in written)
    put("oven/oven_entity_train.jsonl", jsonl(*dumped))
    found = tables("OVEN")[0]["train"].select("question_id", "image_id", "question", "wiki_entity_id", "wiki_entity")
    names = ("data_id", "image_id", "question", "entity_id", "entity_text")
    assert found.rows() == [tuple(row[name] for name in names) for row in rows]


def test_files_may_be_missing(release, root, tables):
    (root / "oven" / "oven_entity_train.jsonl").unlink()
    with pytest.raises(MissingFilesError, match="oven_entity_train"):
        tables("OVEN")
    data, _, _, lacking = tables("OVEN", allow_missing=True, test_queries=1)
    assert set(data) == {"valid", "test"}
    assert "OVEN train: not built" in lacking[0]
    (root / "wikipedia" / "Wiki6M_ver_1_0.jsonl.gz").unlink()
    assert tables("OVEN", allow_missing=True)[0] == {}


@needs_samples
def test_real_records_are_built(put, tables):
    names = {}
    for split in ("train", "val"):
        path = SAMPLES / f"oven/oven_entity_{split}.jsonl"
        put(f"oven/{path.name}", path.read_text(encoding="utf-8"))
        names |= {row["entity_id"]: row["entity_text"] for row in map(json.loads, path.open(encoding="utf-8"))}
    # The samples hold no Wiki6M record: these say the entity's name.
    put("wikipedia/Wiki6M_ver_1_0.jsonl", jsonl(*(entity(key, name, f"About {name}.") for key, name in names.items())))
    data, _, _, _ = tables("OVEN", test_queries=20)
    assert [data[split].height for split in ("train", "valid", "test")] == [10, 40, 20]
    assert data["train"]["img_path"][0] == "00/oven_00000000.jpg"


def test_the_world_is_built_as_its_makers_say(built):
    rows = pl.read_parquet(built / "OVEN_data" / "*.parquet")
    passages = pl.read_parquet(built / "OVEN_passages" / "train_passages-*.parquet")
    assert rows.height > 50
    assert rows["pos_item_ids"].to_list() == [[name] for name in rows["wiki_entity_id"]]
    assert passages["passage_id"].is_unique().all()
