"""Records of JSON files, each with its place: lines, the elements of an array, or the members of an object."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from m2kr.common.json_input import HALF_A_PAIR, NestingError, NestingGuard, check_depth, is_text, parse_json
from m2kr.parsing.compressed import DAMAGED_GZIP, UNREADABLE, CountedFile, UnreadableError, open_content, read_pieces
from m2kr.parsing.lines import read_lines
from m2kr.parsing.rows import Advance, BadRow

Element = tuple[str, Any] | BadRow
"""Where a record stands, and the record; or one that could not be read."""


def read_jsonl(path: Path, advance: Advance = lambda _: None) -> Iterator[Element]:
    """Yield ("line 7", value) for every line of a JSON Lines file, gzipped or not; blank lines are passed over."""
    for batch in read_lines(path, advance):
        yield from batch.bad
        for row, text in batch.frame.iter_rows():
            if text.strip():
                try:
                    yield row, parse_json(text)
                except ValueError as error:
                    yield BadRow(row, str(error), text[:200])


def read_json_members(path: Path, advance: Advance = lambda _: None) -> Iterator[Element]:
    """Yield ("member 7", (key, value)) for every member of a file that is one JSON object, without holding the file.

    The file may be gzipped, or the only JSON file of a ``.zip`` or ``.tar.gz``. A knowledge base of tens
    of gigabytes passes through in the memory of its largest member. Where the text stops being JSON, one `BadRow` says
    after which member, and nothing follows: the rest cannot be told apart.
    """
    last = "the beginning"
    try:
        with open_content(path, advance) as file:
            for number, member in enumerate(ijson.kvitems(_Guarded(file), "", use_float=True), start=1):
                last = f"member {number} ({member[0]})"
                yield f"member {number}", member
    except (ijson.JSONError, NestingError, *UNREADABLE) as error:
        yield _stopped(error, last)


def read_json_array(path: Path, advance: Advance = lambda _: None, *, member: str = "") -> Iterator[Element]:
    """Yield ("record 7", value) for every element of an array in a JSON file, gzipped or not, without holding the file.

    The file is the array itself, or the top-level object holds it under the key ``member``.

    Where the text is not JSON, the file is read again from the last good element by a slower scanner that finds the
    next element which parses, and reports what lies between, with its line.
    """
    count = 0
    try:
        with open_content(path, advance) as file:
            for value in ijson.items(_Guarded(file), f"{member}.item" if member else "item", use_float=True):
                count += 1
                yield f"record {count}", value
        if count:
            return
        # Nothing came: the array is empty, or it is not there, which the scanner tells apart.
    except (ijson.JSONError, NestingError, *UNREADABLE):
        pass
    yield from _salvage(path, member, skip=count)


def stream_json_array(path: Path, advance: Advance = lambda _: None, *, member: str) -> Iterator[Element]:
    """Yield ("record 7", value) for every element of an array in a JSON file too large to be held, even a damaged one.

    It differs from `read_json_array` in three ways. The file may also be the only JSON file of a ``.zip`` or
    ``.tar.gz``. NaN, which Python writes although JSON does not know it, is read as null. Where the text stops being
    JSON one `BadRow` says after which element, and nothing follows.
    """
    last = "the beginning"
    try:
        with open_content(path, advance) as file:
            values = ijson.items(_Guarded(_WithoutNaN(file)), f"{member}.item", use_float=True)
            for number, value in enumerate(values, start=1):
                last = f"record {number}"
                yield last, value
        if last == "the beginning":
            yield BadRow(last, f'the file holds no record under "{member}"')
    except (ijson.JSONError, NestingError, *UNREADABLE) as error:
        yield _stopped(error, last)


def _stopped(error: Exception, where: str) -> BadRow:
    if isinstance(error, UnreadableError):
        return BadRow(where, str(error), ends=True)
    reason = " ".join(str(error).split())[:120]
    fault = "damaged" if isinstance(error, (*DAMAGED_GZIP, zipfile.BadZipFile, tarfile.TarError)) else "invalid JSON"
    return BadRow(f"after {where}", f"{fault} from here on ({reason}); what follows cannot be read", ends=True)


class _Guarded:
    """A binary file of JSON that is read no further where lists and objects are nested too deeply."""

    def __init__(self, file: CountedFile | _WithoutNaN) -> None:
        self.file = file
        self.guard = NestingGuard()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.guard.feed(data)
        return data


class _WithoutNaN:
    """A binary file of JSON in which the word NaN is null. Inside a string too, so not for texts that are kept."""

    def __init__(self, file: CountedFile) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        while re.match(rb"\w", data[-1:]) and (more := self.file.read(16)):  # the word may go on
            data += more
        return re.sub(rb"\bNaN\b", b"null", data) if b"NaN" in data else data


def _salvage(path: Path, member: str, *, skip: int) -> Iterator[Element]:
    text, damage = _text_of(path)
    try:
        check_depth(text)
    except NestingError as error:
        yield BadRow(
            f"after record {skip}" if skip else "the beginning", f"{error}; what follows cannot be read", ends=True
        )
        return
    decoder = json.JSONDecoder()
    opening = re.search(rf'"{re.escape(member)}"\s*:\s*\[' if member else r"\A\s*\[", text)
    if opening is None:
        what = f'an array under "{member}"' if member else "a JSON array"
        yield BadRow("line 1", damage or f"the file does not hold {what}", text[:200], ends=True)
        return
    position, count = opening.end(), 0
    separator = re.compile(r"[\s,]*")
    closing = len(text)
    while True:
        position = separator.match(text, position).end()  # type: ignore[union-attr]  # it matches the empty string
        if position >= closing or text[position] == "]":
            if damage or position >= closing:
                reason = damage or "the array is not closed: the file ends early"
                yield BadRow(f"line {text.count(chr(10)) + 1}", reason, ends=True)
            return
        try:
            value, end = decoder.raw_decode(text, position)
            fault = "not valid UTF-8" if not is_text(text[position:end]) else "" if is_text(value) else HALF_A_PAIR
        except (ValueError, RecursionError) as error:
            value, end = None, _next_object(text, opening.end(), position, decoder)
            fault = (
                f"invalid JSON ({error.msg if isinstance(error, json.JSONDecodeError) else 'a value out of bounds'})"
            )
        count += 1
        if fault:
            at = f"record {count} (line {text.count(chr(10), 0, position) + 1})"
            yield BadRow(at, fault, text[position : position + 200])
        elif count > skip:
            yield f"record {count}", value
        position = end


def _text_of(path: Path) -> tuple[str, str]:
    """Return the text of a file, its bad bytes as surrogates, and what is wrong with its container."""
    data = bytearray()
    damage = ""
    for block in read_pieces(path, lambda _: None):
        if isinstance(block, BadRow):
            damage = block.reason
        else:
            data += block
    return data.decode("utf-8", "surrogateescape"), damage


def _next_object(text: str, opening: int, broken: int, decoder: json.JSONDecoder) -> int:
    """Return where, after a broken element, the next element begins; the end of the text where none is found.

    The elements of one array are written by one program: the next one is an object that parses and whose first key
    is that of the array's first element. Objects inside the broken element parse too, but begin with another key.
    """
    first = re.compile(r'[\s,]*\{\s*("(?:[^"\\]|\\.)*")\s*:').match(text, opening)
    if first is None:
        return len(text)
    for mark in re.compile(r"\{\s*" + re.escape(first.group(1)) + r"\s*:").finditer(text, broken + 1):
        try:
            decoder.raw_decode(text, mark.start())
        except (ValueError, RecursionError):
            continue
        return mark.start()
    return len(text)
