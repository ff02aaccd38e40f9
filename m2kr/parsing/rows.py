"""Reading raw files as they are downloaded: in one pass, in bounded memory, with the place of every record.

Each reader yields `Batch`: the records that could be read, as a table, and those that could not, with their reasons.
None of them decides what happens to a bad record; `m2kr.parsing.releases` does.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
from isal import igzip, isal_zlib

from m2kr.common.concurrency import prefetch

BLOCK_BYTES = 8 << 20
"""How much is read at once. A batch of lines is about as large, and a handful are in flight."""

_DAMAGED: tuple[type[BaseException], ...] = (
    *(EOFError, zlib.error, gzip.BadGzipFile),
    cast("type[BaseException]", isal_zlib.error),  # its type hints call it an instance
)
"""What a gzip that is truncated or damaged raises."""

_UNREADABLE = (UnicodeDecodeError, *_DAMAGED, zipfile.BadZipFile, tarfile.TarError)
"""The same, of whatever `_content` opens."""

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

    def __post_init__(self) -> None:
        # What is quoted may hold halves of characters, which no file can be written with.
        for name in ("reason", "content", "id"):
            text = getattr(self, name)
            object.__setattr__(self, name, text.encode("utf-8", "replace").decode("utf-8"))


@dataclass
class Batch:
    """Some records in file order. ``frame`` has a column ``row`` (where each stands) beside those of the reader."""

    frame: pl.DataFrame
    bad: list[BadRow] = field(default_factory=list)


@contextmanager
def _content(path: Path, advance: Advance) -> Iterator[_Counting]:
    """Open the text of a raw file for a parser: as it is, out of its gzip, or out of the archive it came alone in."""
    with path.open("rb") as file, _unpacked(path, file) as content:
        yield _Counting(content, file, advance)


@contextmanager
def _unpacked(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    source: Any = igzip.IGzipFile(fileobj=file) if path.suffix in (".gz", ".tgz") else file  # type: ignore[no-untyped-call]
    with ExitStack() as opened:
        try:
            if path.suffix == ".zip":
                archive = opened.enter_context(zipfile.ZipFile(file))
                source = opened.enter_context(archive.open(_only_json(archive)))
            elif path.name.endswith((".tar", ".tar.gz", ".tgz")):
                # As a stream: a look at all its members would decompress the archive once more.
                tar = opened.enter_context(tarfile.open(fileobj=source, mode="r|"))
                source = _first_json(tar)
        except (OSError, ValueError, NotImplementedError, struct.error) as error:
            # These come of damage that zipfile and tarfile do not look for.
            raise zipfile.BadZipFile(str(error)) from error
        yield source


def _only_json(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if _is_json(member.filename)]
    if len(members) != 1:
        raise zipfile.BadZipFile(f"the archive holds {len(members)} JSON files where one is expected")
    if members[0].flag_bits & 1 or members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile("the archive is encrypted, or packed by other means than deflate")
    return members[0]


def _first_json(archive: tarfile.TarFile) -> IO[bytes]:
    for member in archive:
        content = archive.extractfile(member) if member.isreg() and _is_json(member.name) else None
        if content is not None:
            return content
    raise tarfile.ReadError("the archive holds no JSON file")


def _is_json(member: str) -> bool:
    # Archives made on a Mac hold beside each file one of its attributes, "._" and its name.
    return member.endswith(".json") and not member.rpartition("/")[2].startswith(".")


def read_pieces(path: Path, advance: Advance) -> Iterator[bytes | BadRow]:
    """Yield the file's bytes in blocks; a damaged gzip ends with a `BadRow` after what could be read."""
    done = total = 0
    ended: BadRow | None = None
    with path.open("rb") as raw:
        zipped = path.suffix == ".gz"
        # isal decompresses three times as fast as the standard library, but loses a whole buffer where a file is
        # damaged. There the standard library takes over, which stops at the very byte.
        source: Any = igzip.IGzipFile(fileobj=raw) if zipped else raw  # type: ignore[no-untyped-call]
        exact = not zipped
        while ended is None:
            pieces: list[bytes] = []
            size = 0
            try:
                # In pieces, because a read that meets the damage gives nothing of what it had decompressed before.
                while size < BLOCK_BYTES and (piece := source.read1(BLOCK_BYTES)):
                    pieces.append(piece)
                    size += len(piece)
            except _DAMAGED as error:
                if exact:
                    reason = f"the gzip file is truncated or damaged ({error}); what follows cannot be read"
                    ended = BadRow(f"after {total + size:,} decompressed bytes", reason)
                else:
                    raw.seek(0)
                    source = gzip.GzipFile(fileobj=raw)
                    source.seek(total + size)
                    exact = True
                    if not pieces:
                        continue
            if pieces:
                total += size
                advance(max(0, raw.tell() - done))
                done = max(done, raw.tell())
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

    for block in prefetch(read_pieces(path, advance)):
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


def read_jsonl(path: Path, advance: Advance = lambda _: None) -> Iterator[tuple[str, Any] | BadRow]:
    """Yield ("line 7", value) for every line of a JSON Lines file, ``.gz`` or not; blank lines are passed over."""
    for batch in read_lines(path, advance):
        yield from batch.bad
        for row, text in batch.frame.iter_rows():
            if not text.strip():
                continue
            value = parse_json(text)
            yield BadRow(row, value.reason, text[:200]) if isinstance(value, BadRow) else (row, value)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, or a `BadRow` without a place where it is none or cannot be written as UTF-8."""
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # half a surrogate pair may be escaped, and is no character
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        return BadRow("", f"invalid JSON ({error.msg})")
    except RecursionError:
        return BadRow("", "invalid JSON (nested too deeply)")
    except UnicodeEncodeError:
        return BadRow("", "a text holds half a surrogate pair, which is no character")
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        return BadRow("", "invalid JSON (a number of thousands of digits)")
    return value


def read_json_members(path: Path, advance: Advance = lambda _: None) -> Iterator[tuple[str, Any] | BadRow]:
    """Yield (key, value) for every member of a file that is one JSON object, without holding the file.

    The file may be compressed (``.gz``), or the only JSON file of a ``.zip`` or ``.tar.gz``. A knowledge base of tens
    of gigabytes passes through in the memory of its largest member. Where the text stops being JSON, one `BadRow` says
    after which member, and nothing follows: the rest cannot be told apart.
    """
    import ijson

    last = ""
    count = 0
    try:
        with _content(path, advance) as file:
            for key, value in ijson.kvitems(file, "", use_float=True):
                last, count = key, count + 1
                yield key, value
    except (ijson.JSONError, *_UNREADABLE) as error:
        yield _stopped(error, f"member {count} ({last})" if count else "the beginning")


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
        with _content(path, advance) as file:
            for value in ijson.items(file, prefix, use_float=True):
                count += 1
                yield f"record {count}", value
        if count:
            return
        # Nothing came: the array is empty, or it is not there, which the scanner tells apart.
    except (ijson.JSONError, *_UNREADABLE):
        pass
    yield from _salvage(path, member, skip=count)


def stream_json_array(path: Path, member: str, advance: Advance = lambda _: None) -> Iterator[tuple[str, Any] | BadRow]:
    """Yield ("record 7", value) for every element of an array in a JSON file too large to be held, even a damaged one.

    It differs from `read_json_array` in three ways. The file may also be the only JSON file of a ``.zip`` or
    ``.tar.gz``. NaN, which Python writes although JSON does not know it, is read as null. Where the text stops being
    JSON one `BadRow` says after which element, and nothing follows.

    Args:
        path: the file.
        member: key that holds the array in the top-level object.
        advance: told of the bytes read.
    """
    import ijson

    count = 0
    try:
        with _content(path, advance) as file:
            for value in ijson.items(_WithoutNaN(file), f"{member}.item", use_float=True):
                count += 1
                yield f"record {count}", value
        if not count:
            yield BadRow("the beginning", f'the file holds no record under "{member}"')
    except (ijson.JSONError, *_UNREADABLE) as error:
        yield _stopped(error, f"record {count}" if count else "the beginning")


def _stopped(error: Exception, where: str) -> BadRow:
    reason = " ".join(str(error).split())[:120]
    fault = "damaged" if isinstance(error, (*_DAMAGED, zipfile.BadZipFile, tarfile.TarError)) else "invalid JSON"
    return BadRow(f"after {where}", f"{fault} from here on ({reason}); what follows cannot be read")


class _Counting:
    """A binary file that reports how far ``below``, the file that it is decompressed from, was read."""

    def __init__(self, file: IO[bytes], below: IO[bytes], advance: Advance) -> None:
        self.file = file
        self.below = below
        self.advance = advance
        self.done = 0

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        at = self.below.tell()
        if at > self.done:
            self.advance(at - self.done)
            self.done = at
        return data


class _WithoutNaN:
    """A binary file of JSON in which the word NaN is null. Inside a string too, so not for texts that are kept."""

    def __init__(self, file: _Counting) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        while re.match(rb"\w", data[-1:]) and (more := self.file.read(16)):  # the word may go on
            data += more
        return re.sub(rb"\bNaN\b", b"null", data) if b"NaN" in data else data


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
            checked = parse_json(text[position:end]) if is_text(text[position:end]) else BadRow("", "not valid UTF-8")
            fault = checked.reason if isinstance(checked, BadRow) else ""
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


def is_text(value: object) -> bool:
    """Whether all strings of a JSON value can be written: a lone surrogate, which JSON can spell, cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (UnicodeEncodeError, TypeError, ValueError):
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
        except (ValueError, RecursionError):
            continue
        return mark.start()
    return len(text)
