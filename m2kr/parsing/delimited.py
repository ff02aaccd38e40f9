"""Reading delimited files whose fields may be quoted: WIT, psgs_w100, Encyclopedic-VQA.

A record may span physical lines, so a file is never split at line feeds; and a record that lost a quote must not
swallow its neighbours. Blocks are cut where a line feed has an even number of quotes before it and parsed by pyarrow;
a block that is irregular in any way is read record by record with the csv module, which finds the bad ones.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from m2kr.common.concurrency import prefetch
from m2kr.errors import BadRowsError
from m2kr.parsing.compressed import read_pieces
from m2kr.parsing.rows import Advance, BadRow, Batch

MAX_RECORD_BYTES = 8 << 20
"""A record longer than this is bad, in either way of parsing: no release has a field of a megabyte."""

csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES))  # as pyarrow, which has no limit of its own

_PIECE_BYTES = 1 << 18
"""What is looked through at once for the ends of records."""


def read_quoted(
    path: Path,
    columns: Sequence[str],
    advance: Advance = lambda _: None,
    *,
    delimiter: str = "\t",
    any_order: bool = False,
    refine: Callable[[Batch], Batch] = lambda batch: batch,
    workers: int = 1,
) -> Iterator[Batch]:
    """Yield the records of a file with a header, whose fields may be quoted and hold line breaks.

    Columns: ``row`` ("line 7", the physical line a record begins at) and ``columns``, as strings, "" where a field is
    empty. The dialect is the csv module's: a field that holds a delimiter, a quote or a line break is in double quotes,
    and a quote inside it is doubled. A record that lost its closing quote is reported alone: reading goes on at the
    next physical line.

    Args:
        path: the file, gzipped or not.
        columns: names the header must have, in order.
        advance: told of the bytes read.
        delimiter: what separates fields.
        any_order: the header may have ``columns`` in another order, and others beside them, which are left out.
        refine: done to each batch, in the threads that parse.
        workers: threads that parse. The result does not depend on it.
    """
    reader = _QuotedReader(path, tuple(columns), delimiter, any_order=any_order)

    def refined(batch: Batch) -> Batch:
        return refine(Batch(batch.frame.select("row", *columns), batch.bad))

    return _read(reader, prefetch(read_pieces(path, advance)), refined, workers)


def _read(
    reader: _QuotedReader, blocks: Iterable[bytes | BadRow], refine: Callable[[Batch], Batch], workers: int
) -> Iterator[Batch]:
    """Cut blocks and parse them in threads, each on the understanding that those before it are regular.

    Where one is not, its records may end elsewhere, and so where the next begin is not known: it and those cut after it
    are read again, one after the other.
    """
    carry = b""
    cuts: deque[tuple[_Cut, Future[Batch | None]]] = deque()

    def parse(cut: _Cut) -> Batch | None:
        batch = reader.parse_fast(cut)
        return None if batch is None else refine(batch)

    def take(block: bytes, *, at_end: bool = False) -> Iterator[Batch]:
        nonlocal carry
        batch, carry = reader.take(carry + block, at_end=at_end)
        if batch.frame.height or batch.bad:
            yield refine(batch)

    def settle() -> Iterator[Batch]:
        nonlocal carry
        first, future = cuts.popleft()
        batch = future.result()
        if batch is not None:
            yield batch
            return
        again = [first, *(cut for cut, _ in cuts)]
        for _, later in cuts:
            later.cancel()
        cuts.clear()
        reader.line, carry = first.line, first.data[: first.carried]
        for cut in again:
            yield from take(cut.data[cut.carried :])

    with ThreadPoolExecutor(workers) as pool:
        try:
            for block in blocks:
                while len(cuts) > workers:
                    yield from settle()
                cut = None if isinstance(block, BadRow) else reader.cut(carry, block)
                if cut is not None:
                    cuts.append((cut, pool.submit(parse, cut)))
                    carry = cut.data[int(cut.starts[-1]) :]
                    continue
                while cuts:
                    yield from settle()
                if isinstance(block, BadRow):
                    yield Batch(refine(Batch(reader.empty)).frame, [block])
                    return
                yield from take(block)
            while cuts:
                yield from settle()
            yield from take(b"", at_end=True)
        finally:
            for _, future in cuts:
                future.cancel()


@dataclass(frozen=True)
class _Cut:
    """Complete records at the front of ``data``, if they are regular: they can be parsed beside others.

    ``data`` begins with the ``carried`` bytes that were left of the block before. ``starts`` are where records start
    and the last one ends, ``lines`` how many line breaks stand before each; the first is on the physical line ``line``.
    ``quotes`` are where quotes stand, in all of ``data``.
    """

    data: bytes
    carried: int
    starts: np.ndarray[Any, Any]
    lines: np.ndarray[Any, Any]
    quotes: np.ndarray[Any, Any]
    line: int

    def quotes_enclose(self, delimiter: int) -> bool:
        """Whether each first quote of two opens a field, or follows the one before, and each second one closes it.

        Only then is a line break with an even number of quotes before it one outside quotes, as the csv module sees it.
        """
        size = int(self.starts[-1])
        quotes = self.quotes[: np.searchsorted(self.quotes, size)]
        if not len(quotes):
            return True
        data = np.frombuffer(self.data, np.uint8)
        opening, closing = quotes[::2], quotes[1::2]
        before, after = data[opening - 1], data[np.minimum(closing + 1, size - 1)]
        opens = (before == delimiter) | (before == 10) | (opening == 0)
        closes = (after == delimiter) | (after == 10) | (after == 13) | (closing == size - 1)
        doubled = opening[1:] == closing[:-1] + 1
        opens[1:] |= doubled
        closes[:-1] |= doubled
        return bool(opens.all() and closes.all())


class _QuotedReader:
    """Cuts blocks at record boundaries. Records are parsed by pyarrow; a block it finds fault with, one by one."""

    def __init__(self, path: Path, columns: tuple[str, ...], delimiter: str, *, any_order: bool = False) -> None:
        self.path = path
        self.delimiter = delimiter
        self.columns = columns
        self.any_order = any_order
        self.line = 1
        self.header_seen = False
        self.empty = pl.DataFrame(schema=dict.fromkeys(("row", *columns), pl.String))

    def take(self, data: bytes, *, at_end: bool) -> tuple[Batch, bytes]:
        """Return the complete records at the front of ``data``, and the rest."""
        if not self.header_seen and (b"\n" in data or (at_end and data)):
            data = self._after_header(data)
        rows: list[Batch] = []
        while data:
            starts, lines, quotes = self._boundaries(data, at_end=at_end)
            fast = self.parse_fast(_Cut(data, 0, starts, lines, quotes, self.line)) if len(starts) > 1 else None
            if fast is not None:
                rows.append(fast)
                self.line += int(lines[-1])
                data = data[int(starts[-1]) :]
                if not at_end and len(data) <= MAX_RECORD_BYTES:
                    break  # what is left is the beginning of a record
            elif len(starts) == 1 and not at_end and len(data) <= MAX_RECORD_BYTES:
                break  # the record goes on in the next block
            else:
                batch, used = self._parse_slow(data, at_end=at_end)
                rows.append(batch)
                data = data[used:]
        frames = [batch.frame for batch in rows if batch.frame.height]
        bad = [row for batch in rows for row in batch.bad]
        return Batch(pl.concat(frames) if frames else self.empty, bad), data

    def cut(self, carry: bytes, block: bytes) -> _Cut | None:
        """Cut complete records off ``carry + block`` without parsing them; None where that takes a closer look."""
        if not self.header_seen:
            return None
        data = carry + block
        starts, lines, quotes = self._boundaries(data, at_end=False)
        if len(starts) == 1 or len(data) - int(starts[-1]) > MAX_RECORD_BYTES:
            return None
        cut = _Cut(data, len(carry), starts, lines, quotes, self.line)
        self.line += int(lines[-1])
        return cut

    def _after_header(self, data: bytes) -> bytes:
        header, _, rest = data.partition(b"\n")
        found = [name.strip('"') for name in header.rstrip(b"\r").decode("utf-8", "replace").split(self.delimiter)]
        accepted = set(self.columns) <= set(found) if self.any_order else found == list(self.columns)
        if not accepted or len(set(found)) < len(found):
            raise BadRowsError(
                f"{self.path}, line 1: the header has the columns {', '.join(map(_seen, found))[:200]} where "
                f"{', '.join(self.columns)} are expected. Check that this is the file it is named after."
            )
        if self.any_order:
            self.columns = tuple(found)
            self.empty = pl.DataFrame(schema=dict.fromkeys(("row", *found), pl.String))
        self.header_seen = True
        self.line += 1
        return rest

    @staticmethod
    def _boundaries(data: bytes, *, at_end: bool) -> tuple[np.ndarray[Any, Any], ...]:
        """Return where records start (and the last one ends), how many line breaks stand before each, and quotes."""
        view = np.frombuffer(data, np.uint8)
        # Texts hold few of either, so they are looked for together and told apart afterwards. In pieces, because what
        # is compared then stays in the cache, and needs no new pages of memory.
        pieces = range(0, len(view), _PIECE_BYTES)
        found = [_line_feeds_and_quotes(view[start : start + _PIECE_BYTES]) + start for start in pieces]
        marks = np.concatenate([np.empty(0, np.int64), *found])
        is_break = view[marks] == 10
        breaks = np.cumsum(is_break)
        # A line break outside quotes has an even number of quotes before it.
        quotes = np.arange(1, len(marks) + 1) - breaks
        ends = is_break & (quotes % 2 == 0)
        starts = np.concatenate([[0], marks[ends] + 1])
        lines = np.concatenate([[0], breaks[ends]])
        if at_end and starts[-1] != len(data) and (not len(quotes) or quotes[-1] % 2 == 0):
            starts = np.append(starts, len(data))
            lines = np.append(lines, breaks[-1] if len(breaks) else 0)
        return starts, lines, marks[~is_break]

    def parse_fast(self, cut: _Cut) -> Batch | None:
        """Parse all records at once, or return None where anything about them is not regular. Changes nothing here."""
        sizes = np.diff(cut.starts)
        if (sizes < len(self.columns)).any() or (sizes > MAX_RECORD_BYTES).any():
            return None  # too short for so many fields: pyarrow takes an empty line for a record of empty fields
        if not cut.quotes_enclose(ord(self.delimiter)):
            return None
        block = memoryview(cut.data)[: int(cut.starts[-1])]
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(pa.py_buffer(block)),
                read_options=pa_csv.ReadOptions(
                    column_names=self.columns, block_size=len(block) + 1, use_threads=False
                ),
                parse_options=pa_csv.ParseOptions(
                    delimiter=self.delimiter, newlines_in_values=True, ignore_empty_lines=False
                ),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(self.columns, pa.large_string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid:  # a record of more or fewer fields, or bytes that are not UTF-8
            return None
        if table.num_rows != len(cut.starts) - 1:
            return None
        numbers = pl.Series(cut.lines[:-1] + cut.line).cast(pl.String)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        frame = frame.select(("line " + numbers).alias("row"), *self.columns)
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
        if len(raw) > MAX_RECORD_BYTES:
            return f"the record is longer than {MAX_RECORD_BYTES >> 20} MiB", ()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            return "the record is not valid UTF-8", ()
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            return f"the quoting is broken ({error})", ()
        if len(rows) > 1:
            return f"a carriage return outside quotes breaks it into {len(rows)} records", ()
        if not rows or len(rows[0]) != len(self.columns):
            count = len(rows[0]) if rows else 0
            fields = "field" if count == 1 else "fields"
            return f"{count} {fields} where {len(self.columns)} are expected ({', '.join(self.columns)})", ()
        return "", tuple(rows[0])


def _line_feeds_and_quotes(view: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.flatnonzero((view == 10) | (view == 34))


def _seen(name: str) -> str:
    """Return a name so that what cannot be seen in it is seen."""
    return name if name.isprintable() and name.isascii() and name == name.strip() else ascii(name)


_OPEN_QUOTE = "a quoted field is opened and never closed"
