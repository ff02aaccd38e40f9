"""Restart points of a gzip file: places from which it can be unpacked without all that stands before them.

A point is a bit of the file at which a block of deflate begins, and the 32 KiB that were unpacked before it, to which
such a block may refer back; the beginning of each gzip stream in the file is one, too. `indexed_gzip` finds them, which
is an extra (``pip install 'm2kr[archives]'``); reading from them needs the standard dependencies only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

from isal import igzip, isal_zlib

from m2kr.images.members import ArchiveError

DAMAGED_GZIP: tuple[type[Exception], ...] = (
    *(EOFError, OSError, ValueError, zlib.error),
    cast("type[Exception]", isal_zlib.error),  # its type hints call it an instance
)
"""What a damaged gzip file raises, and one that cannot be read."""

_SPACING = 4 << 20
# Unpacked bytes between two points. Half of it is unpacked in vain at each read, and 32 KiB are kept for each point.
_POINTS = 16_384
# At most, as all of them are held in memory while they are looked for: half a gigabyte.
_STEP = 16
# Points that are found at once: each time, what follows the last point is unpacked again.
_UNPACKED = 1 << 22
# Unpacked bytes of a block of the whole file.
_BLOCK = 1 << 16
_PIECE = 1 << 20
# From a point on: compressed bytes read at once, and unpacked ones yielded at most, as few of the first can be many.
_HEADER = struct.Struct("<5sBBQQIII")
_POINT = struct.Struct("<QQBB")


@dataclass(frozen=True)
class RestartPoint:
    """A place to begin unpacking at.

    Attributes:
        start: bytes that unpack before it.
        place: byte of the file.
        shift: bits of that byte, 0 to 7, that belong to what stands before.
        window: what was unpacked before it; None at the beginning of a gzip stream (behind its header).
    """

    start: int
    place: int
    shift: int
    window: bytes | None


def can_find_points() -> bool:
    """Whether the library that finds points is installed."""
    return find_spec("indexed_gzip") is not None


class PointFinder:
    """Finds the restart points of a gzip file, some of which have to fit into memory until they are written."""

    def __init__(self, path: Path) -> None:
        from indexed_gzip import IndexedGzipFile

        self._spacing = max(_SPACING, path.stat().st_size // _POINTS)
        self._file = IndexedGzipFile(str(path), spacing=self._spacing)
        self._done = 0

    def go_to(self, start: int) -> None:
        """Find the points up to so many unpacked bytes, or leave some of that to the next call.

        Raises:
            OSError, ValueError: the file is damaged.
        """
        if start - self._done >= _STEP * self._spacing:
            self._file.seek(start)
            self._done = start

    def points(self, size: int, exported: Path) -> Iterator[RestartPoint]:
        """Find the rest, and yield all points in order.

        Args:
            size: bytes of all that is unpacked.
            exported: the points are written to this file first, which is deleted again.

        Raises:
            OSError, ValueError: the file is damaged.
        """
        self._file.seek(max(size - 1, 0))  # build_full_index would begin anew
        try:
            self._file.export_index(str(exported))
            self._file.close()
            with exported.open("rb") as file:
                name, version, _, _, _, _, size, count = _HEADER.unpack(file.read(_HEADER.size))
                if (name, version) != (b"GZIDX", 1):
                    raise ValueError(f"indexed_gzip writes its points in another form (version {version})")
                places = [_POINT.unpack(file.read(_POINT.size)) for _ in range(count)]
                for place, start, bits, has_window in places:
                    # `bits` of the byte before `place` are not read yet.
                    window = file.read(size) if has_window else None
                    yield RestartPoint(start, place - (bits > 0), -bits % 8, window)
        finally:
            exported.unlink(missing_ok=True)


def unpacked_blocks(path: Path, bar: Any, finder: PointFinder | None = None) -> Iterator[bytes]:
    """Yield what a gzip file unpacks to, while ``finder`` finds the points up to there.

    Args:
        path: the file.
        bar: progress over its bytes.
        finder: of points of the same file.

    Raises:
        ArchiveError: the file is damaged; its checksum is compared.
    """
    done = 0
    try:
        with path.open("rb") as below, igzip.IGzipFile(fileobj=below) as file:  # type: ignore[no-untyped-call]
            while block := file.read(_UNPACKED):
                done += len(block)
                if finder is not None:
                    finder.go_to(done)
                bar.update(below.tell() - bar.n)
                yield block
    except DAMAGED_GZIP as error:
        raise ArchiveError(f"{path} is damaged after {done:,} unpacked bytes ({error}). Download it again.") from error


def unpack_from(file: BinaryIO, point: RestartPoint) -> Iterator[bytes]:
    """Yield what a gzip file unpacks to from a point on, up to the end of the gzip stream that the point is in.

    Raises:
        EOFError: the file ends before the stream does.
        isal_zlib.error: what stands there is no deflate.
    """
    inflate = isal_zlib.decompressobj(-15, zdict=point.window) if point.window else isal_zlib.decompressobj(-15)
    file.seek(point.place)
    block = _begun_at(point.shift, file.read(1)) if point.shift else file.read(_BLOCK)
    while block:
        piece = inflate.decompress(block, _PIECE)
        yield piece
        while not inflate.eof and (piece or inflate.unconsumed_tail):
            piece = inflate.decompress(inflate.unconsumed_tail, _PIECE)
            yield piece
        if inflate.eof:
            return
        block = file.read(_BLOCK)
    raise EOFError("the file ends within a gzip stream")


def _begun_at(shift: int, byte: bytes) -> bytes:
    """Return what unpacks to nothing and ends within a byte, whose bits from ``shift`` on are those of ``byte``.

    So these stay where they are in their byte, which counts: what a block holds uncompressed begins at a whole byte. An
    empty block in deflate's own code takes 10 bits, and one that brings its code, `_EMPTY`, an odd number.
    """
    bits, length = (_EMPTY, _EMPTY_BITS) if shift % 2 else (0, 0)
    while length % 8 != shift:
        bits, length = bits | 0b0000000_01_0 << length, length + 10
    bits |= int.from_bytes(byte, "little") >> shift << length
    return bits.to_bytes(length // 8 + 1, "little") if byte else b""


def _fields(*fields: tuple[int, int]) -> tuple[int, int]:
    """Return the number that fields of (value, bits) make, one above the other, and its bits."""
    value = length = 0
    for number, bits in fields:
        value, length = value | number << length, length + bits
    return value, length


_EMPTY, _EMPTY_BITS = _fields(
    *((0, 1), (2, 2)),  # not the last block; it brings its code
    *((257 - 257, 5), (1 - 1, 5), (18 - 4, 4)),  # of how many symbols, distances and lengths there are codes
    *((0, 3), (0, 3), (2, 3), (2, 3), *[(0, 3)] * 13, (1, 3)),  # lengths 18, 0 and 1 have the codes 11, 10 and 0
    *((0b11, 2), (138 - 11, 7), (0b11, 2), (118 - 11, 7)),  # 18 twice: 256 times no code
    *((0b0, 1), (0b01, 2)),  # one bit for the end of a block, and no distances
    (0, 1),  # the end
)
