"""Reading raw files as they are downloaded: in one pass, in bounded memory, with the place of every record.

Each reader yields `Batch`: the records that could be read, as a table, and those that could not, with their reasons.
None of them decides what happens to a bad record; `m2kr.sources.raw` does.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from m2kr.errors import BadRowsError

BLOCK_BYTES = 4 << 20
"""How much is read at once. A batch of lines is about as large, and a handful are in flight."""

MAX_RECORD_BYTES = 8 << 20
"""A quoted record longer than this has lost its closing quote: no release has a field of a megabyte."""

Advance = Callable[[int], object]
"""Called with the number of bytes read since the last call."""


@dataclass(frozen=True)
class BadRow:
    """A record that cannot be used.

    Attributes:
        row: where it stands: "line 12", "record 3".
        reason: why it cannot be used.
        content: the beginning of the record.
        id: its id, where it has one.
    """

    row: str
    reason: str
    content: str = ""
    id: str = ""


@dataclass
class Batch:
    """Some records in file order. ``frame`` has a column ``row`` (where each stands) beside those of the reader."""

    frame: pl.DataFrame
    bad: list[BadRow] = field(default_factory=list)


def open_raw(path: Path) -> IO[bytes]:
    """Open a raw file for reading bytes; ``.gz`` is decompressed as it is read."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _blocks(path: Path, advance: Advance) -> Iterator[bytes | BadRow]:
    """Yield the file's bytes in blocks; a damaged gzip ends with a `BadRow` after what could be read."""
    done = 0
    with path.open("rb") as raw:
        source = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        total = 0
        ended: BadRow | None = None
        while ended is None:
            pieces: list[bytes] = []
            size = 0
            try:
                # In pieces, because a read that meets the damage gives nothing of what it had decompressed before.
                while size < BLOCK_BYTES and (piece := source.read1(BLOCK_BYTES)):
                    pieces.append(piece)
                    size += len(piece)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                reason = f"the gzip file is truncated or damaged ({error}); what follows cannot be read"
                ended = BadRow(f"after {total + size:,} decompressed bytes", reason)
            if pieces:
                total += size
                advance(raw.tell() - done)
                done = raw.tell()
                yield b"".join(pieces)
            elif ended is None:
                return
        yield ended


def _lines_of(block: bytes) -> list[str | None] | pa.Array:
    r"""Split complete lines at b"\n" only (texts hold other line separators); None where one is not UTF-8."""
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        lines: list[str | None] = []
        for line in block.removesuffix(b"\n").split(b"\n"):
            try:
                lines.append(line.decode("utf-8"))
            except UnicodeDecodeError:
                lines.append(None)
        return lines
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + 1
    if not len(ends) or ends[-1] != len(block):
        ends = np.append(ends, len(block))
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    return pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(block))


def read_lines(path: Path, advance: Advance = lambda _: None) -> Iterator[Batch]:
    r"""Yield the lines of a UTF-8 file, ``.gz`` or not: columns ``row`` ("line 7") and ``text``, without the "\n".

    A line ends at "\n" and nowhere else: MS MARCO's texts hold U+0085, which ``str.splitlines`` would cut at.
    """
    number = 1
    carry = b""

    def batch(block: bytes) -> Batch:
        nonlocal number
        texts = pl.Series("text", _lines_of(block), dtype=pl.String)
        numbers = pl.int_range(number, number + len(texts), eager=True)
        number += len(texts)
        frame = pl.DataFrame(
            {"row": ("line " + numbers.cast(pl.String)).alias("row"), "text": texts.str.strip_suffix("\n")}
        )
        if not texts.null_count():
            return Batch(frame)
        bad = [BadRow(row, "the line is not valid UTF-8") for row in frame.filter(pl.col("text").is_null())["row"]]
        return Batch(frame.drop_nulls("text"), bad)

    for block in _blocks(path, advance):
        if isinstance(block, BadRow):
            # The last line before the damage may be cut short, so it is not trusted.
            yield Batch(pl.DataFrame(schema={"row": pl.String, "text": pl.String}), [block])
            return
        cut = block.rfind(b"\n") + 1
        if not cut:
            carry += block
            continue
        yield batch(carry + block[:cut])
        carry = block[cut:]
    if carry:
        yield batch(carry)


def read_quoted_tsv(path: Path, columns: Sequence[str], advance: Advance = lambda _: None) -> Iterator[Batch]:
    """Yield the records of a tab-separated file with a header, whose fields may be quoted and hold line breaks.

    Columns: ``row`` ("line 7", the physical line a record begins at) and ``columns``, as strings, "" where a field is
    empty. The dialect is the csv module's: a field that holds a tab, a quote or a line break is in double quotes, and
    a quote inside it is doubled. A record that lost its closing quote is reported alone: reading goes on at the next
    physical line.
    """
    reader = _QuotedReader(path, tuple(columns))
    carry = b""
    for block in _blocks(path, advance):
        if isinstance(block, BadRow):
            yield Batch(reader.empty, [block])
            return
        batch, carry = reader.take(carry + block, at_end=False)
        if batch.frame.height or batch.bad:
            yield batch
    batch, _ = reader.take(carry, at_end=True)
    if batch.frame.height or batch.bad:
        yield batch


class _QuotedReader:
    """Cuts blocks at record boundaries. Records are parsed by pyarrow; a block it finds fault with, one by one."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self.columns = columns
        self.line = 1
        self.header_seen = False
        self.empty = pl.DataFrame(schema=dict.fromkeys(("row", *columns), pl.String))

    def take(self, data: bytes, *, at_end: bool) -> tuple[Batch, bytes]:
        """Return the complete records at the front of ``data``, and the rest."""
        if not self.header_seen and (b"\n" in data or (at_end and data)):
            data = self._after_header(data)
        rows: list[Batch] = []
        while data:
            starts, length = self._boundaries(data, at_end=at_end)
            fast = self._parse_fast(data, starts) if len(starts) > 1 else None
            if fast is not None:
                rows.append(fast)
                data = data[length:]
            elif len(starts) == 1 and not at_end and len(data) <= MAX_RECORD_BYTES:
                break  # the record goes on in the next block
            else:
                batch, used = self._parse_slow(data, at_end=at_end)
                rows.append(batch)
                data = data[used:]
        frames = [batch.frame for batch in rows if batch.frame.height]
        bad = [row for batch in rows for row in batch.bad]
        return Batch(pl.concat(frames) if frames else self.empty, bad), data

    def _after_header(self, data: bytes) -> bytes:
        header, _, rest = data.partition(b"\n")
        found = [name.strip('"') for name in header.rstrip(b"\r").decode("utf-8", "replace").split("\t")]
        if found != list(self.columns):
            raise BadRowsError(
                f"{self.path}, line 1: the header has the columns {', '.join(found)[:200]} where "
                f"{', '.join(self.columns)} are expected. Check that this is the file it is named after."
            )
        self.header_seen = True
        self.line += 1
        return rest

    @staticmethod
    def _boundaries(data: bytes, *, at_end: bool) -> tuple[np.ndarray[Any, Any], int]:
        """Return where records start (and the last one ends), and how many bytes they cover together."""
        view = np.frombuffer(data, np.uint8)
        breaks = np.flatnonzero(view == 10)
        quotes = np.flatnonzero(view == 34)
        # A line break outside quotes has an even number of quotes before it.
        outside = breaks[np.searchsorted(quotes, breaks) % 2 == 0]
        starts = np.concatenate([[0], outside + 1])
        if at_end and starts[-1] != len(data) and len(quotes) % 2 == 0:
            starts = np.append(starts, len(data))
        return starts, int(starts[-1])

    def _parse_fast(self, data: bytes, starts: np.ndarray[Any, Any]) -> Batch | None:
        """Parse all records at once, or return None where anything about them is not regular."""
        if (np.diff(starts) < len(self.columns)).any():
            return None  # too short for so many fields: pyarrow takes an empty line for a record of empty fields
        block = data[: int(starts[-1])]
        faults: list[object] = []

        def refuse(row: object) -> str:
            faults.append(row)
            return "skip"

        try:
            table = pa_csv.read_csv(
                io.BytesIO(block),
                read_options=pa_csv.ReadOptions(column_names=self.columns, block_size=len(block) + 1),
                parse_options=pa_csv.ParseOptions(
                    delimiter="\t", newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=refuse
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(self.columns, pa.large_string()), strings_can_be_null=False
                ),
            )
        except (pa.ArrowInvalid, UnicodeDecodeError):
            return None
        if faults or table.num_rows != len(starts) - 1:
            return None
        breaks = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
        lines = np.searchsorted(breaks, starts[:-1]) + self.line
        self.line += len(breaks)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        frame = frame.select(("line " + pl.Series(lines).cast(pl.String)).alias("row"), *self.columns)
        return Batch(frame)

    def _parse_slow(self, data: bytes, *, at_end: bool) -> tuple[Batch, int]:
        """Parse record by record; a bad one costs its first physical line. Returns the bytes used, too."""
        records: list[tuple[str, ...]] = []
        bad: list[BadRow] = []
        position = 0
        while position < len(data):
            end = self._record_end(data, position, at_end=at_end)
            if end is None and not at_end and len(data) - position <= MAX_RECORD_BYTES:
                break
            row = f"line {self.line}"
            reason, fields = self._record(data[position:end]) if end is not None else (_OPEN_QUOTE, ())
            if reason:
                # Reading goes on at the next physical line: a broken record must not swallow its neighbours.
                end = data.find(b"\n", position) + 1 or len(data)
                bad.append(BadRow(row, reason, data[position:end][:200].decode("utf-8", "replace").rstrip("\n")))
            else:
                records.append((row, *fields))
            assert end is not None
            self.line += data.count(b"\n", position, end)
            position = end
        frame = pl.DataFrame(records, schema=self.empty.schema, orient="row")
        return Batch(frame, bad), position

    @staticmethod
    def _record_end(data: bytes, start: int, *, at_end: bool) -> int | None:
        """Return where the record that starts at ``start`` ends, or None where no end is in reach."""
        end, quotes = start, 0
        while end - start <= MAX_RECORD_BYTES:
            found = data.find(b"\n", end) + 1
            if not found and not at_end:
                return None
            quotes += data.count(b'"', end, found or len(data))
            end = found or len(data)
            if quotes % 2 == 0:
                return end
            if not found:
                return None
        return None

    def _record(self, raw: bytes) -> tuple[str, tuple[str, ...]]:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            return "the record is not valid UTF-8", ()
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))
        except csv.Error as error:
            return f"the quoting is broken ({error})", ()
        if len(rows) != 1 or len(rows[0]) != len(self.columns):
            count = len(rows[0]) if rows else 0
            fields = "field" if count == 1 else "fields"
            return f"{count} {fields} where {len(self.columns)} are expected ({', '.join(self.columns)})", ()
        return "", tuple(rows[0])


_OPEN_QUOTE = "a quoted field is opened and never closed"


def read_json_array(path: Path, member: str, advance: Advance = lambda _: None) -> Iterator[tuple[str, Any] | BadRow]:
    """Yield ("record 7", value) for every element of an array in a JSON file, without holding the file.

    Args:
        path: the file, ``.gz`` or not.
        member: "" where the file is the array itself, else the key that holds it in the top-level object.
        advance: told of the bytes read.

    Where the text is not JSON, the file is read again from the last good element by a slower scanner that finds the
    next element which parses, and reports what lies between, with its line.
    """
    import ijson

    prefix = f"{member}.item" if member else "item"
    count = 0
    try:
        with open_raw(path) as file:
            for value in ijson.items(_Counting(file, advance), prefix, use_float=True):
                count += 1
                yield f"record {count}", value
        if count:
            return
        # Nothing came: the array is empty, or it is not there, which the scanner tells apart.
    except (ijson.JSONError, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile):
        pass
    yield from _salvage(path, member, skip=count)


class _Counting:
    """A binary file that reports how much was read of it."""

    def __init__(self, file: IO[bytes], advance: Advance) -> None:
        self.file = file
        self.advance = advance

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.advance(len(data))
        return data


def _salvage(path: Path, member: str, *, skip: int) -> Iterator[tuple[str, Any] | BadRow]:
    text, damage = _text_of(path)
    decoder = json.JSONDecoder()
    opening = re.search(rf'"{re.escape(member)}"\s*:\s*\[' if member else r"\A\s*\[", text)
    if opening is None:
        what = f'an array under "{member}"' if member else "a JSON array"
        yield BadRow("line 1", f"the file does not hold {what}", text[:200])
        return
    position, count = opening.end(), 0
    separator = re.compile(r"[\s,]*")
    closing = len(text)
    while True:
        position = separator.match(text, position).end()  # type: ignore[union-attr]  # it matches the empty string
        if position >= closing or text[position] == "]":
            if damage or position >= closing:
                reason = damage or "the array is not closed: the file ends early"
                yield BadRow(f"line {text.count(chr(10)) + 1}", reason)
            return
        try:
            value, end = decoder.raw_decode(text, position)
            fault = "" if text[position:end].isascii() or _is_text(text[position:end]) else "not valid UTF-8"
        except (json.JSONDecodeError, RecursionError) as error:
            value, end = None, _next_object(text, opening.end(), position, decoder)
            fault = f"invalid JSON ({error.msg if isinstance(error, json.JSONDecodeError) else 'nested too deeply'})"
        count += 1
        if fault:
            at = f"record {count} (line {text.count(chr(10), 0, position) + 1})"
            yield BadRow(at, fault, text[position : position + 200].encode("utf-8", "replace").decode("utf-8"))
        elif count > skip:
            yield f"record {count}", value
        position = end


def _text_of(path: Path) -> tuple[str, str]:
    """Return the text of a file, its bad bytes as surrogates, and what is wrong with its container."""
    data = bytearray()
    damage = ""
    for block in _blocks(path, lambda _: None):
        if isinstance(block, BadRow):
            damage = block.reason
        else:
            data += block
    return data.decode("utf-8", "surrogateescape"), damage


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


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
        except (json.JSONDecodeError, RecursionError):
            continue
        return mark.start()
    return len(text)
