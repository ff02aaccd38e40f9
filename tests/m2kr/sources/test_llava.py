"""LLaVA-Instruct: turns become pairs, and pairs become queries and passages."""

import copy

import pytest

from m2kr.errors import MissingFilesError

FILES = ("conversation_58k.json", "detail_23k.json", "complex_reasoning_77k.json")


def record(number, *turns):
    """A record; turns are (question, answer)."""
    said = [{"from": who, "value": text} for pair in turns for who, text in zip(("human", "gpt"), pair, strict=True)]
    return {"id": f"{number:012d}", "image": f"{number:012d}.jpg", "conversations": said}


@pytest.fixture
def release(put):
    talk = [
        record(1, ("What is it?\n<image>", "A kite."), ("What colour?", " Red.\n")),
        record(2, ("<image>\nWhy?", "Wind.")),
    ]
    put(f"llava_instruct/{FILES[0]}", talk)
    for index, name in enumerate(FILES[1:]):
        put(
            f"llava_instruct/{name}",
            [record(n, (f"Question {n}?\n<image>", f"Answer {index} {n}.")) for n in range(1, 6)],
        )


def test_every_pair_of_turns_becomes_a_query_and_a_passage(release, tables):
    data, passages, _, _ = tables("LLaVA", heldout_per_subset=0, ids="records")
    rows = data["train"].filter(data["train"]["llava_split"] == "conversation_58k")
    assert rows["question"].to_list() == ["What is it?", "What colour?", "Why?"]
    assert rows["pos_item_contents"].to_list() == [["A kite."], ["Red."], ["Wind."]]
    assert rows["question_id"].to_list() == [f"conversation_58k_{n:012d}_{t}" for n, t in ((1, 0), (1, 1), (2, 0))]
    assert rows["img_path"][0] == "train2014/COCO_train2014_000000000001.jpg"
    assert rows["img_id"][0] == rows["image_id"][0] == "000000000001"
    assert data["train"]["pos_item_ids"].list.first().to_list() == passages["train"]["passage_id"].to_list()
    assert data["train"].height == 13


def test_pairs_are_held_out_of_every_file(release, tables):
    data, passages, _, _ = tables("LLaVA", heldout_per_subset=2, test_queries=4)
    assert passages["test"]["llava_split"].value_counts().sort("llava_split")["count"].to_list() == [2, 2, 2]
    assert data["test"].height == 4
    assert data["train"].height == 13 - 6
    assert set(data["test"]["pos_item_ids"].list.first()) <= set(passages["test"]["passage_id"])
    assert not set(passages["train"]["passage_id"]) & set(passages["test"]["passage_id"])


def test_the_rows_of_a_split_are_numbered(release, tables):
    data, _, _, _ = tables("LLaVA", heldout_per_subset=2, test_queries=4)
    for rows in data.values():
        assert rows["question_id"].to_list() == [str(number) for number in range(rows.height)]
        assert rows["image_id"].null_count() == rows.height
    assert data["train"].height == 7


def test_what_is_drawn_does_not_depend_on_the_form_of_the_ids(release, put, tables):
    put(f"llava_instruct/{FILES[2]}", [record(n, (f"Why {n}?", f"So {n}.")) for n in range(1, 60)])
    numbers, records = (tables("LLaVA", heldout_per_subset=5, test_queries=8, ids=i) for i in ("numbers", "records"))
    ids = ("question_id", "image_id")
    for split in ("train", "test"):
        assert numbers[0][split].drop(ids).equals(records[0][split].drop(ids))
        assert numbers[1][split].equals(records[1][split])
        names = records[0][split]["pos_item_ids"].list.first().str.strip_prefix("LLaVA_")
        assert records[0][split]["question_id"].to_list() == names.to_list()
    assert numbers[0]["train"]["instruction"].n_unique() == 2


def test_a_small_file_is_held_out_whole(release, tables):
    data, _, _, lacking = tables("LLaVA")
    assert set(data) == {"test"}
    assert "LLaVA train: not built" in lacking[0]


def test_a_passage_may_hold_the_question_too(release, tables):
    _, passages, _, _ = tables("LLaVA", heldout_per_subset=0, passage="question_answer")
    assert passages["train"]["passage_content"][0] == "What is it?\nA kite."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.update(image="../../000000000001.jpg"), "leaves its root"),
        (lambda r: r.update(image="/000000000001.jpg"), "leaves its root"),
        (lambda r: r.update(image="..\\000000000001.jpg"), "leaves its root"),
        (lambda r: r.update(image="coco/train2017/000000000001.jpg"), "not named as this release names them"),
        (lambda r: r.update(image="000000000001.jpg\n"), "not named as this release names them"),
        (lambda r: r.pop("conversations"), "conversations is missing"),
        (lambda r: r.update(conversations="text"), "conversations is not a list"),
        (lambda r: r.update(conversations=[]), "0 turns where pairs"),
        (lambda r: r["conversations"].pop(), "1 turns where pairs"),
        (lambda r: r["conversations"].reverse(), "do not alternate"),
        (lambda r: r["conversations"][0].update(value="<image>\n"), "the question of turn 0 is empty"),
        (lambda r: r["conversations"][1].update(value=" "), "the answer of turn 0 is empty"),
        (lambda r: r.update(id=7), "id is not a string"),
    ],
)
def test_a_bad_record_stops_the_build_or_is_left_out(release, put, rejects, change, reason):
    good = [record(n, (f"Question {n}?\n<image>", f"Answer {n}.")) for n in range(1, 4)]
    bad = copy.deepcopy(good[0])
    change(bad)
    put(f"llava_instruct/{FILES[1]}", [good[1], bad, good[2]])
    passages = rejects("LLaVA", "detail_23k.json", "record 2", reason)[1]["test"]
    kept = passages.filter(passages["llava_split"] == "detail_23k")
    assert kept["passage_content"].to_list() == ["Answer 2.", "Answer 3."]


def test_a_repeated_record_is_a_duplicate_id(release, put, rejects):
    put(f"llava_instruct/{FILES[1]}", [record(1, ("Why?", "So.")), record(1, ("How?", "Thus."))])
    reason = r"\(pair detail_23k_000000000001_0\): the id stands already"
    rejects("LLaVA", "detail_23k.json", "record 2", reason)


def test_files_may_be_missing(release, root, tables):
    (root / "llava_instruct" / FILES[0]).unlink()
    with pytest.raises(MissingFilesError, match="conversation_58k"):
        tables("LLaVA")
    data, _, _, lacking = tables("LLaVA", allow_missing=True, heldout_per_subset=1)
    assert data["test"].height == 2
    assert "without conversation_58k.json" in lacking[0]
