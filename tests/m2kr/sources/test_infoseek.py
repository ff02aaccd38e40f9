"""InfoSeek: questions meet their entity by id, and the blocks of its article by title."""

import json

import polars as pl
import pytest

from m2kr.errors import BadRowsError, MissingFilesError
from m2kr.parsing import compressed
from m2kr.sources.articles import numbers_in
from m2kr.sources.sampling import draw
from tests.m2kr.raw_files import SAMPLES, blocks, jsonl, needs_samples


def asked(number, answer, accepted, split="train", **changes):
    row = {
        "data_id": f"infoseek_{split}_{number:08d}",
        "image_id": f"oven_{number:08d}",
        "question": "What is it?",
        "answer": answer,
        "answer_eval": accepted,
        "data_split": split if split == "train" else "val_unseen_entity",
    }
    return {name: value for name, value in {**row, **changes}.items() if value is not ...}


def named(number, entity, split="train"):
    return {"data_id": f"infoseek_{split}_{number:08d}", "entity_id": f"Q{number}", "entity_text": entity}


HEIGHT = [{"wikidata": 1234.0, "range": [1110.6, 1357.4]}]
COUNTRY = asked(1, ["Ruritania"], ["Kingdom of Ruritania", "Ruritania", " "])
TALL = asked(2, ["1234"], HEIGHT * 2)
NAMES = (named(3, "Lost tower"), named(2, "Tall Tower"), named(1, "Tall Tower"))
BLOCKS = (
    (7, "It stands in RURITANIA.", "Tall Tower"),
    (3, 'Built in the "kingdom", it is 1,234 metres high.', "Tall Tower"),
    (4, "Nothing of note.", "Tall Tower"),
    (5, "It stands in Ruritania too.", "tall tower"),
    *((number, f"Filler {number}.", f"Other {number}") for number in range(10, 30)),
)


@pytest.fixture
def release(put):
    put("infoseek/infoseek_train.jsonl", jsonl(COUNTRY, TALL, asked(3, ["x"], ["x"])))
    put("infoseek/infoseek_train_withkb.jsonl", jsonl(*NAMES))
    val = (asked(n, ["Ruritania"], ["Ruritania"], "val") for n in range(6))
    put("infoseek/infoseek_val.jsonl", jsonl(*val))
    put("infoseek/infoseek_val_withkb.jsonl", jsonl(*(named(n, "Tall Tower", "val") for n in (3, 1, 2, 0, 5, 4, 9))))
    put("wikipedia/psgs_w100.tsv", blocks(*BLOCKS))


def test_blocks_of_the_entity_that_hold_an_answer_are_positive(release, tables):
    data, _, _, lacking = tables("Infoseek", extra_passages=2)
    assert lacking == []
    first, second = data["train"].rows(named=True)
    assert first == {
        "instruction": first["instruction"],
        "question_id": "infoseek_train_00000001",
        "image_id": "oven_00000001",
        "question": "What is it?",
        "answers": ["Ruritania", "Kingdom of Ruritania", "Ruritania"],
        "answer_eval": ["Kingdom of Ruritania", "Ruritania"],
        "data_split": "train",
        "wikidata_value": None,
        "wikidata_range": [],
        "entity_id": "Q1",
        "entity_text": "Tall Tower",
        "image_path": "oven_00000001.jpg",
        "gold_answer": "Ruritania",
        "objects": [],
        "related_item_ids": ["3", "4", "7"],
        "pos_item_ids": ["7"],
        "pos_item_contents": ["title: Tall Tower content: It stands in RURITANIA."],
        "ROIs": [],
        "found": True,
        "img_caption": None,
        "img_path": "oven_00000001.jpg",
        "question_type": "String",
    }
    assert (second["pos_item_ids"], second["question_type"]) == (["3"], "Numerical")
    assert (second["wikidata_value"], second["wikidata_range"]) == (1234.0, [1110.6, 1357.4])
    assert (second["answers"], second["answer_eval"]) == (["1234"], [])


def test_one_pool_of_related_and_further_blocks_serves_both_splits(release, tables):
    _, passages, _, _ = tables("Infoseek", extra_passages=6)
    assert passages["train"].equals(passages["test"])
    ids = passages["test"]["passage_id"].to_list()
    assert set(ids) >= {"3", "4", "7"}
    assert len(ids) == 9
    assert ids == sorted(ids, key=int)
    others = [str(row[0]) for row in BLOCKS if row[2] != "Tall Tower"]
    numbers = draw(others, 0, "further blocks")
    assert set(ids) - {"3", "4", "7"} == {others[i] for i in numbers.argsort()[:6]}


def test_titles_may_differ_in_capitals(release, tables):
    data, _, _, _ = tables("Infoseek", title_match="casefold", extra_passages=0)
    assert data["train"]["pos_item_ids"][0].to_list() == ["5", "7"]


@pytest.mark.parametrize(
    ("option", "expected"),
    [("answer", ["Ruritania"]), ("answer_eval", ["Kingdom of Ruritania", "Ruritania"])],
)
def test_answers_may_be_one_of_the_lists(release, tables, option, expected):
    data, _, _, _ = tables("Infoseek", answers=option)
    assert data["train"]["answers"][0].to_list() == expected


def test_numbers_may_be_read_without_separators(release, tables):
    data, _, _, _ = tables("Infoseek", numbers="plain")
    assert data["train"]["question_id"].to_list() == ["infoseek_train_00000001"]


def test_the_pool_may_leave_out_entities_without_a_positive(release, put, tables):
    put("infoseek/infoseek_train_withkb.jsonl", jsonl(named(3, "Other 10"), *NAMES[1:]))
    assert "10" in tables("Infoseek", extra_passages=0)[1]["test"]["passage_id"].to_list()
    assert "10" not in tables("Infoseek", extra_passages=0, pool="kept")[1]["test"]["passage_id"].to_list()


def test_an_entity_has_so_many_blocks_at_most(release, tables):
    data, passages, _, _ = tables("Infoseek", related=2, extra_passages=0)
    assert data["train"]["question_id"].to_list() == ["infoseek_train_00000002"]
    assert passages["train"]["passage_id"].to_list() == ["3", "4"]


def test_the_test_split_may_be_a_sample(release, tables):
    data, _, _, _ = tables("Infoseek", test_queries=4)
    assert data["test"].height == 4
    assert data["test"]["question_id"].is_sorted()


def test_types_come_from_the_file_where_it_is_there(release, put, tables):
    kinds = [{"data_id": "infoseek_val_00000001", "question_type": "Time"}]
    put("infoseek/infoseek_val_qtype.jsonl", jsonl(*kinds))
    data, _, _, _ = tables("Infoseek")
    assert data["test"]["question_type"].to_list() == ["String", "Time", *["String"] * 4]
    put("infoseek/infoseek_val_qtype.jsonl", jsonl(*kinds, {"data_id": "b", "question_type": "Odd"}))
    with pytest.raises(BadRowsError, match=r"line 2 .*Odd is none of String, Numerical, Time"):
        tables("Infoseek")


def test_pictures_have_the_extension_of_ovens_files(release, put, tables):
    put("oven/ovenid2impath.csv", "oven_00000002,x/y.JPEG\n")
    data, _, _, _ = tables("Infoseek")
    assert data["train"]["img_path"].to_list() == ["oven_00000001.jpg", "oven_00000002.JPEG"]
    data, _, _, _ = tables("Infoseek", without_image="drop")
    assert data["train"]["img_path"].to_list() == ["oven_00000002.JPEG"]


def test_a_bare_object_is_a_number_too(release, put, tables):
    put("infoseek/infoseek_train.jsonl", jsonl(COUNTRY, {**TALL, "answer_eval": HEIGHT[0]}))
    assert tables("Infoseek")[0]["train"]["wikidata_value"][1] == 1234.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data_id": 7}, "data_id is not a string"),
        ({"data_id": " "}, "data_id is empty"),
        ({"question": ...}, "question is missing"),
        ({"image_id": "../x"}, "not named as this release names them"),
        ({"image_id": "oven_00000001\n"}, "not named as this release names them"),
        ({"answer": "x"}, "answer is not a list"),
        ({"answer": [1]}, r"answer\[0\] is not a string"),
        ({"answer": [" "]}, "the list of answers is empty"),
        ({"answer_eval": ...}, "answer_eval is missing"),
        ({"answer_eval": "x"}, "answer_eval is not an object or a list"),
        ({"answer_eval": ["x", HEIGHT[0]]}, "answer_eval mixes"),
        ({"answer_eval": [1]}, r"answer_eval\[0\] is not a string or an object"),
        ({"answer_eval": [{"wikidata": 1.0}]}, "range is missing"),
        ({"answer_eval": [{"wikidata": 1.0, "range": 1.0}]}, "range is not a list"),
        ({"answer_eval": [{"wikidata": 1.0, "range": [1.0]}]}, "range is not a list of length 2"),
        ({"answer_eval": [{"wikidata": "1", "range": [1.0, 2.0]}]}, "wikidata is not a number"),
        ({"answer_eval": [{"wikidata": True, "range": [1.0, 2.0]}]}, "wikidata is not a number"),
        ({"answer_eval": [{"range": [1.0, 2.0]}]}, "wikidata is missing"),
        ({"answer_eval": [{"wikidata": 10**400, "range": [1.0, 2.0]}]}, "is out of range"),
        ({"answer_eval": [{"wikidata": float("nan"), "range": [1.0, 2.0]}]}, "wikidata is not a number"),
        ({"question": "\ud800"}, "half a surrogate pair"),
        ({"data_id": COUNTRY["data_id"]}, "the id stands already at line 1"),
    ],
)
def test_a_bad_record_stops_the_build_or_is_left_out(release, put, rejects, change, reason):
    bad = {name: value for name, value in {**TALL, **change}.items() if value is not ...}
    put("infoseek/infoseek_train.jsonl", jsonl(COUNTRY, json.dumps(bad)))
    data, _ = rejects("Infoseek", "infoseek_train.jsonl", "line 2", reason)
    assert data["train"]["question_id"].to_list() == [COUNTRY["data_id"]]


@pytest.mark.parametrize("bad", ["[]", "{", json.dumps({**named(1, "x"), "entity_text": None}), jsonl(named(1, " "))])
def test_a_bad_entity_is_named(release, put, tables, bad):
    put("infoseek/infoseek_train_withkb.jsonl", jsonl(NAMES[0], bad.strip(), *NAMES[1:]))
    with pytest.raises(BadRowsError, match=r"infoseek_train_withkb.jsonl, line 2"):
        tables("Infoseek")
    assert tables("Infoseek", on_bad_rows="skip")[0]["train"].height == 2


def test_a_block_that_stands_twice_is_named(release, put, tables):
    put("wikipedia/psgs_w100.tsv", blocks(*BLOCKS, (3, "Again.", "Tall Tower")))
    with pytest.raises(BadRowsError, match="the id stands already at line 3"):
        tables("Infoseek")


def test_a_question_without_entity_lacks_its_other_half(release, put, tables):
    put("infoseek/infoseek_train_withkb.jsonl", jsonl(*NAMES[1:]))
    with pytest.raises(MissingFilesError, match=r"line 3 \(data_id infoseek_train_00000003\): it has no entity"):
        tables("Infoseek")
    assert tables("Infoseek", allow_missing=True)[0]["train"].height == 2


def test_files_may_be_missing(release, root, tables):
    (root / "infoseek/infoseek_val_withkb.jsonl").unlink()
    data, _, _, lacking = tables("Infoseek", allow_missing=True)
    assert set(data) == {"train"}
    assert "Infoseek test: not built" in lacking[0]
    (root / "wikipedia/psgs_w100.tsv").unlink()
    assert tables("Infoseek", allow_missing=True)[0] == {}


def test_without_any_positive_nothing_is_built(release, put, tables):
    put("wikipedia/psgs_w100.tsv", blocks((1, "Nothing.", "Void")))
    data, _, _, lacking = tables("Infoseek")
    assert data == {}
    assert "no block answers" in lacking[0]


def test_workers_change_nothing(release, tables, monkeypatch):
    one = tables("Infoseek", extra_passages=5)
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 60)
    many = tables("Infoseek", extra_passages=5, workers=3)
    assert one[0]["train"].equals(many[0]["train"])
    assert one[1]["train"].equals(many[1]["train"])


@needs_samples
def test_real_records_are_built(put, tables):
    folder = SAMPLES / "infoseek"
    for path in folder.glob("*.jsonl"):
        text = path.read_text(encoding="utf-8")
        if path.name == "infoseek_train_withkb.jsonl":
            text = "".join(sorted(text.splitlines(keepends=True), key=lambda line: line[::-1]))  # another order
        put(f"infoseek/{path.name}", text)
    kb = list(map(json.loads, (folder / "infoseek_train_withkb.jsonl").open(encoding="utf-8")))
    train = {row["data_id"]: row for row in map(json.loads, (folder / "infoseek_train.jsonl").open(encoding="utf-8"))}
    # The samples hold no passages: for every entity, one that says the answers.
    said: dict[str, list[str]] = {}
    for row in kb:
        said.setdefault(row["entity_text"], []).extend(train[row["data_id"]]["answer"])
    rows = [(n, f"It is {', '.join(words)}.", name) for n, (name, words) in enumerate(said.items(), start=1)]
    put("wikipedia/psgs_w100.tsv", blocks(*rows))
    with pytest.raises(MissingFilesError, match=r"infoseek_val\.jsonl"):  # 748 of its records have no entity
        tables("Infoseek")
    data, _, rejected, _ = tables("Infoseek", allow_missing=True)
    assert data["train"].height == 1_000
    assert dict(data["train"].group_by("question_type").len().iter_rows()) == {"String": 805, "Numerical": 195}
    assert {row.file for row in rejected.rows} == {"infoseek/infoseek_val.jsonl"}
    assert rejected.count("missing") == 748
    entities = {row["data_id"]: row["entity_id"] for row in kb}
    assert dict(data["train"].select("question_id", "entity_id").iter_rows()) == entities


def test_the_world_is_built_as_its_makers_say(built):
    rows = pl.read_parquet(built / "Infoseek_data" / "*.parquet")
    assert rows.height > 50
    for answers, value, texts in rows.select("answers", "wikidata_value", "pos_item_contents").iter_rows():
        assert texts
        for text in texts:
            said = any(answer.lower() in text.lower() for answer in answers)
            assert said or any(abs(number - value) <= 0.01 for number in numbers_in(text, separators=True))
