"""The made-up KVQA."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from m2kr.synthetic.world import World
from tests.conftest import SCALE
from tests.m2kr.synthetic.reading import load, opens


def test_kvqa_has_the_native_form(world: Path) -> None:
    path = world / "kvqa" / "dataset.json"
    records = load(path)
    assert path.read_text("utf-8") == json.dumps(records, ensure_ascii=False)
    for image_id, record in records.items():
        assert list(record) == [
            *("NamedEntities", "imgPath", "ParaQuestions", "Qids", "Questions", "split", "wikiCap", "Answers"),
            "Type of Question",
        ]
        assert Path(record["imgPath"]).stem == image_id
        assert opens(world / "kvqa" / record["imgPath"])
        assert len(record["Questions"]) == len(record["ParaQuestions"]) == len(record["Answers"]) >= 4
        assert len(record["Questions"]) - len(record["Type of Question"]) in (0, 1)
        assert len(record["split"]) == 5
        assert len(record["Qids"]) == len(record["NamedEntities"]) in (1, 2)
        for name in record["NamedEntities"]:
            assert name.split()[1] in record["wikiCap"]
    assert {type(answer) for record in records.values() for answer in record["Answers"]} == {int, str}
    assert any({int, str} == {*map(type, record["Answers"])} for record in records.values())
    assert {Path(record["imgPath"]).suffix for record in records.values()} == {".jpg", ".JPG", ".jpeg"}
    assert any(len(record["Type of Question"]) < len(record["Questions"]) for record in records.values())
    for partition in range(5):
        parts = Counter(record["split"][partition] for record in records.values())
        assert parts == {1: 21, 2: 6, 3: 3}


def test_people_of_kvqa_made_entities_and_wear_the_same_clothes_in_all_pictures(world: Path) -> None:
    made = World(0, SCALE)
    people = {person.qid: person for person in (made.entity(i).person for i in range(made.sizes.asked))}
    seen: Counter[str] = Counter()
    for record in load(world / "kvqa" / "dataset.json").values():
        for qid, name in zip(record["Qids"], record["NamedEntities"], strict=True):
            assert people[qid].name == name
            coat, trousers, hat = people[qid].clothes
            for worn in (f"{coat} coat", f"{trousers} trousers", f"{hat} hat"):
                assert worn in record["wikiCap"]
            seen[qid] += 1
    assert seen.most_common(1)[0][1] > 2
    assert len({person.clothes for person in people.values()}) > 0.9 * len(people)
