"""The made-up LLaVA-Instruct and LLaVA-CC3M-Pretrain."""

from __future__ import annotations

import json
from pathlib import Path

from m2kr.synthetic import dialogues
from tests.m2kr.synthetic.reading import load, opens


def test_llava_records_have_the_native_form(world: Path) -> None:
    pictures: set[str] = set()
    for name, first in (("conversation_58k", False), ("detail_23k", False), ("complex_reasoning_77k", True)):
        path = world / "llava_instruct" / f"{name}.json"
        records = load(path)
        assert path.read_text("utf-8") == json.dumps(records, indent=2, ensure_ascii=False)
        assert len({record["id"] for record in records}) == len(records)
        lengths = []
        for record in records:
            assert list(record) == ["id", "image", "conversations"]
            assert len(record["id"]) == 12
            assert record["id"].isdigit()
            assert record["image"] == record["id"] + ".jpg"
            assert (world / "coco" / "train2014" / f"COCO_train2014_{record['image']}").is_file()
            turns = record["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            opening = turns[0]["value"]
            assert opening.startswith("<image>\n") if first else opening.endswith("\n<image>")
            assert sum("<image>" in turn["value"] for turn in turns) == 1
            assert all(12 <= len(turn["value"].split()) <= 70 for turn in turns if turn["from"] == "gpt")
            lengths.append(len(turns) // 2)
        assert set(lengths) == ({2, 3, 4} if name.startswith("conversation") else {1})
        pictures.update(record["id"] for record in records)
    assert len(pictures) < 0.2 * (150 + 200 + 250), "files share pictures"


def test_cc3m_has_the_native_form(world: Path) -> None:
    path = world / "llava_cc3m" / "chat.json"
    records = load(path)
    assert path.read_text("utf-8") == json.dumps(records, indent=2, ensure_ascii=False)
    sides = set()
    for record in records:
        assert list(record) == ["id", "image", "conversations"]
        assert record["id"].startswith("GCC_train_")
        assert len(record["id"]) == 19
        assert record["image"] == record["id"] + ".jpg"
        assert opens(world / "llava_cc3m" / "images" / record["image"])
        human, gpt = record["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        before, after = human["value"].split("\n")
        sides.add(before == "<image>")
        assert {before, after} - {"<image>"} <= set(dialogues.BRIEF_REQUESTS)
        assert gpt["value"].endswith(" .")
        assert gpt["value"] == gpt["value"].lower()
    assert sides == {True, False}
    assert len({record["id"] for record in records}) == len(records)
