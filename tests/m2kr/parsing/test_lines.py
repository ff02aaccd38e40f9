"""Lines are read whole, in order, with their numbers, whatever they hold."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.parsing import compressed
from m2kr.parsing import lines as lines_module
from m2kr.parsing.lines import read_lines
from tests.m2kr.raw_files import ANY_TEXT, QUICK, gathered


@QUICK
@given(lines=st.lists(ANY_TEXT.map(lambda text: text.replace("\n", "")), min_size=1, max_size=12), end=st.booleans())
def test_lines_come_back_as_they_were_written_but_for_a_mark_and_carriage_returns_at_ends(tmp_path, lines, end):
    path = tmp_path / "file.tsv"
    path.write_bytes("\n".join(lines).encode() + (b"\n" if end else b""))
    lines = [line.removesuffix("\r") for line in [lines[0].removeprefix("\ufeff"), *lines[1:]]]
    written = lines if end or lines[-1] else lines[:-1]
    for size in (5, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compressed, "BLOCK_BYTES", size)
            rows, bad = gathered(read_lines(path), ["row", "text"])
        assert rows == [(f"line {number}", text) for number, text in enumerate(written, start=1)]
        assert not bad


def test_a_line_ends_at_a_line_feed_and_nowhere_else(tmp_path, block_bytes):
    (tmp_path / "f").write_bytes("a\u0085b\u2028c\x0bd\re\nf\n".encode())
    assert gathered(read_lines(tmp_path / "f"), ["text"])[0] == [("a\u0085b\u2028c\x0bd\re",), ("f",)]


def test_lines_that_are_not_utf8_are_named_and_the_others_kept(tmp_path, block_bytes):
    (tmp_path / "f").write_bytes(b"good\n\xff\xfe bad\nalso good\nbad again \xc3\n")
    rows, bad = gathered(read_lines(tmp_path / "f"), ["row", "text"])
    assert rows == [("line 1", "good"), ("line 3", "also good")]
    assert [row.row for row in bad] == ["line 2", "line 4"]
    assert "UTF-8" in bad[0].reason


def test_gzip_is_read_like_plain_text(tmp_path, block_bytes):
    (tmp_path / "f.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    assert gathered(read_lines(tmp_path / "f.gz"), ["text"])[0] == [("one",), ("two",)]


@pytest.mark.parametrize("cut", [5, 15, 400])
def test_a_truncated_gzip_is_reported_after_what_could_be_read(tmp_path, cut, monkeypatch):
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 64)
    whole = gzip.compress("\n".join(f"{i} {i * i * 7919}" for i in range(500)).encode())
    (tmp_path / "f.gz").write_bytes(whole[:cut])
    rows, bad = gathered(read_lines(tmp_path / "f.gz"), ["text"])
    assert [row.reason for row in bad if "truncated or damaged" in row.reason]
    assert [text for (text,) in rows] == [f"{i} {i * i * 7919}" for i in range(len(rows))]


def test_a_line_without_an_end_is_not_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 16)
    (tmp_path / "f").write_bytes(b"short\n" + b"x" * 500 + b"\nafter\n")
    rows, bad = gathered(read_lines(tmp_path / "f"), ["text"])
    assert rows == [("short",)]
    assert [row.row for row in bad] == ["line 2"]
    assert "longer than" in bad[0].reason
