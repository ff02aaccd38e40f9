"""What a raw file holds is told by its first bytes, and every reader of text takes it alike."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from m2kr.parsing import compressed
from m2kr.parsing.delimited import read_quoted
from m2kr.parsing.json_files import read_json_array, read_json_members, read_jsonl, stream_json_array
from m2kr.parsing.lines import read_lines
from m2kr.parsing.rows import BadRow, Batch

VALUES = [{"id": number, "text": f"Grüße {number}"} for number in range(40)]


def from_batches(batches: Iterator[Batch], columns: list[str]) -> tuple[list[Any], list[BadRow]]:
    found = list(batches)
    return [row for batch in found for row in batch.frame.select(columns).rows()], [b for f in found for b in f.bad]


def from_elements(elements: Iterator[Any]) -> tuple[list[Any], list[BadRow]]:
    found = list(elements)
    return [one[1] for one in found if isinstance(one, tuple)], [one for one in found if isinstance(one, BadRow)]


Read = Callable[[Path], tuple[list[Any], list[BadRow]]]
READERS: dict[str, tuple[str, Read, list[Any]]] = {
    "lines": (
        "".join(f"{value['id']}\t{value['text']}\n" for value in VALUES),
        lambda path: from_batches(read_lines(path), ["text"]),
        [(f"{value['id']}\t{value['text']}",) for value in VALUES],
    ),
    "quoted": (
        "id,text\n" + "".join(f'{value["id"]},"{value["text"]}"\n' for value in VALUES),
        lambda path: from_batches(read_quoted(path, ["id", "text"], delimiter=","), ["id", "text"]),
        [(str(value["id"]), value["text"]) for value in VALUES],
    ),
    "quoted, any order": (
        "text,id\n" + "".join(f'"{value["text"]}",{value["id"]}\n' for value in VALUES),
        lambda path: from_batches(read_quoted(path, ["id", "text"], delimiter=",", any_order=True), ["id", "text"]),
        [(str(value["id"]), value["text"]) for value in VALUES],
    ),
    "jsonl": (
        "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in VALUES),
        lambda path: from_elements(read_jsonl(path)),
        VALUES,
    ),
    "array": (json.dumps(VALUES, ensure_ascii=False), lambda path: from_elements(read_json_array(path)), VALUES),
    "streamed": (
        json.dumps({"all": VALUES}, ensure_ascii=False),
        lambda path: from_elements(stream_json_array(path, member="all")),
        VALUES,
    ),
    "members": (
        json.dumps({str(value["id"]): value for value in VALUES}, ensure_ascii=False),
        lambda path: from_elements(read_json_members(path)),
        [(str(value["id"]), value) for value in VALUES],
    ),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> tuple[bytes, Read, list[Any]]:
    text, read, wanted = READERS[request.param]
    return text.encode(), read, wanted


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize(("name", "zipped"), [("f", False), ("f.gz", True), ("f", True), ("f.gz", False)])
def test_marks_line_ends_and_names_change_nothing(tmp_path, reader, mark, ends, name, zipped):
    data, read, wanted = reader
    data = mark + data.replace(b"\n", ends)
    (tmp_path / name).write_bytes(gzip.compress(data) if zipped else data)
    assert read(tmp_path / name) == (wanted, [])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_mark_is_taken_off_however_little_is_read_at_once(tmp_path, size):
    (tmp_path / "f").write_bytes(codecs.BOM_UTF8 + b"{}")
    with compressed.open_content(tmp_path / "f", lambda _: None) as file:
        read = b"".join(iter(lambda: file.read(size), b""))
    assert read == b"{}"


def test_bytes_behind_the_end_of_a_gzip_are_named_after_what_could_be_read(tmp_path, reader):
    data, read, wanted = reader
    (tmp_path / "f.gz").write_bytes(gzip.compress(data) + b"<html>")
    rows, bad = read(tmp_path / "f.gz")
    assert rows == wanted
    assert len(bad) == 1
    assert "behind its end" in bad[0].reason
    assert "truncated" not in bad[0].reason


def test_gzips_one_behind_the_other_are_one_text(tmp_path, reader):
    data, read, wanted = reader
    (tmp_path / "f.gz").write_bytes(gzip.compress(data[:30]) + gzip.compress(data[30:]))
    assert read(tmp_path / "f.gz") == (wanted, [])


def zipped(data: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("f", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: codecs.BOM_UTF16_LE + data.decode().encode("utf-16-le"), "UTF-16"),
        (lambda data: codecs.BOM_UTF16_BE + data.decode().encode("utf-16-be"), "UTF-16"),
        (zipped, "zip archive"),
    ],
)
def test_what_is_no_text_is_called_what_it_is(tmp_path, reader, change, said):
    data, read, _ = reader
    (tmp_path / "f").write_bytes(change(data))
    rows, bad = read(tmp_path / "f")
    assert not rows
    assert [said in row.reason for row in bad] == [True]
