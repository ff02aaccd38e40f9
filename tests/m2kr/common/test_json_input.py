"""JSON from outside is bounded in size, depth and numbers, and what is wrong is told with the file and the key."""

from __future__ import annotations

import json
import re
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.common import json_input
from m2kr.common.json_input import MAX_DEPTH, NestingError, NestingGuard, check_depth, parse_json, read_json
from m2kr.errors import M2KRError
from tests.m2kr.raw_files import QUICK

TRICKY = st.text(st.sampled_from('[]{}"\\n,:'), max_size=12)
VALUES = st.recursive(
    st.integers(0, 9) | TRICKY, lambda inner: st.lists(inner) | st.dictionaries(TRICKY, inner), max_leaves=12
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@QUICK
@given(value=VALUES, cuts=st.lists(st.integers(1, 7), min_size=1, max_size=5), spare=st.integers(0, 3))
def test_the_guard_counts_what_is_open_however_the_text_is_cut(value, cuts, spare):
    deep = depth(value) + spare  # lists around the value, so that it is as deep as allowed, or one deeper
    text = "[" * (MAX_DEPTH - deep) + json.dumps(value) + "]" * (MAX_DEPTH - deep)

    def feed(text: bytes) -> None:
        guard = NestingGuard()
        at = 0
        while at < len(text):
            size = cuts[at % len(cuts)]
            guard.feed(text[at : at + size])
            at += size

    feed(text.encode())
    check_depth(text)
    opening, closing = "[" * (spare + 1), "]" * (spare + 1)
    if depth(value):
        with pytest.raises(NestingError):
            feed((opening + text + closing).encode())
        with pytest.raises(NestingError, match=f"more than {MAX_DEPTH}"):
            check_depth(opening + text + closing)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deeply"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "nested too deeply"),
        ('{"n": 1' + "0" * 400 + "}", "the number 1" + "0" * 29 + " is out of range"),
        ('{"n": -' + "9" * 5000 + "}", "the number -99"),
        ('{"n": 1e400}', "1e400 is out of range"),
        ('{"n": "\\ud800"}', "half a surrogate pair"),
        ('{"n": }', "invalid JSON"),
        ("", "invalid JSON"),
    ],
)
def test_json_out_of_bounds_is_refused_with_the_reason(text, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_json(text)


def test_json_within_bounds_is_read_as_it_stands():
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert parse_json('[9223372036854775807, -9223372036854775808, 1.5e308, "[[\\"[{", NaN, -Infinity]') == [
        *(2**63 - 1, -(2**63), 1.5e308, '[["[{'),
        *(None, None),
    ]
    beyond = parse_json("[9223372036854775808, -9223372036854775809, 1000000000000000019884624838656]")
    assert [(type(number), number) for number in beyond] == [(float, 2.0**63), (float, -(2.0**63)), (float, 1e30)]


class Entry(TypedDict):
    rows: int
    names: list[str]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"rows": "3", "names": []}', "rows is not a whole number"),
        (b'{"rows": 3, "names": ["a", null]}', "names[1] is not a string"),
        (b'{"rows": 3, "names": "a"}', "names is not a list"),
        (b'{"rows": 3}', "names is missing"),
        (b"[]", "it is not an object"),
        (b"null", "it is not an object"),
    ],
)
def test_a_file_is_refused_with_its_name_and_the_key(tmp_path, content, says):
    path = tmp_path / "entry.json"
    path.write_bytes(content)
    with pytest.raises(M2KRError, match=re.escape(f"{path} is no entry: {says}")):
        read_json(path, Entry, "entry", "Write it again.")


def test_what_cannot_be_read_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.setattr(json_input, "MAX_FILE_BYTES", 256)
    (tmp_path / "bytes").write_bytes(b'{"rows": \xff}')
    (tmp_path / "blanks").write_bytes(b" " * 257)
    for name, says in (
        (".", "Is a directory"),
        ("none", "No such file"),
        ("x" * 300, "File name too long"),
        ("bytes", "not UTF-8 at byte 9"),
        ("blanks", "it has more than 256 bytes"),
    ):
        with pytest.raises(M2KRError, match=rf"could not be read \({says}.*\)\. Write it again\."):
            read_json(tmp_path / name, Entry, "entry", "Write it again.")
