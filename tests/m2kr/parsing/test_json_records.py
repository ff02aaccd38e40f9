"""Raw JSON records are checked by their kind, and what is wrong with one is said in words."""

import re
from typing import Any

import msgspec
import pytest

from m2kr.common.json_input import as_record
from m2kr.parsing.json_records import Text, named_by, rows_of
from m2kr.parsing.rows import BadRow


class Turn(msgspec.Struct):
    speaker: Text = msgspec.field(name="from")
    said: list[str | int]


class Talk(msgspec.Struct):
    id: Text
    turns: list[Turn]
    score: float = 0.0
    grade: int | float | str = ""
    pair: tuple[Any, Any] = (0, 0)


GOOD = {"id": "7", "turns": [{"from": "human", "said": ["a", 1]}], "score": 1, "beside": None}


def test_a_record_is_read_and_what_it_has_beside_is_left_out():
    assert as_record(GOOD, Talk) == Talk(id="7", turns=[Turn("human", ["a", 1])], score=1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": ...}, "id is missing"),
        ({"id": 7}, "id is not a string"),
        ({"id": "\t"}, "id is empty"),
        ({"turns": {}}, "turns is not a list"),
        ({"turns": [1]}, "turns[0] is not an object"),
        ({"turns": [{"said": []}]}, "turns[0].from is missing"),
        ({"turns": [{"from": "x", "said": ["a", True]}]}, "turns[0].said[1] is not a whole number or a string"),
        ({"score": True}, "score is not a number"),
        ({"score": 10**400}, "score: number out of range"),
        ({"grade": True}, "grade is not a number or a string"),
        ({"pair": [1]}, "pair is not a list of length 2"),
    ],
)
def test_what_is_wrong_is_said(change, reason):
    record = {name: value for name, value in {**GOOD, **change}.items() if value is not ...}
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        as_record(record, Talk)


@pytest.mark.parametrize("value", [None, 3, "text", []])
def test_a_value_of_another_kind_is_told_from_a_record(value):
    with pytest.raises(ValueError, match="it is not an object with id, turns"):
        as_record(value, Talk)


def test_a_bad_record_costs_itself_only():
    torn = BadRow("line 2", "torn")
    elements = [("line 1", {"id": "a"}), torn, ("line 3", {"id": " "}), ("line 4", 5), ("line 5", {"id": "\ud800"})]

    def parse(value):
        return [{"number": number, "name": as_record(value, Named).id} for number in range(2)]

    class Named(msgspec.Struct):
        id: Text

    one, two, *bad = rows_of(elements, parse, named_by("id"))
    assert [one, two] == [{"row": "line 1", "number": number, "name": "a"} for number in range(2)]
    assert bad == [
        torn,
        BadRow("line 3", "id is empty", "{'id': ' '}", "id  "),
        BadRow("line 4", "it is not an object with id", "5"),
        BadRow("line 5", "a text holds half a surrogate pair, which is no character", "{'id': '\\ud800'}", "id ?"),
    ]
