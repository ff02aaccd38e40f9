"""Writing the index of a tar: where each member begins, and where a .tar.gz can be unpacked from."""

from __future__ import annotations

import os
import sqlite3
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2kr.common.progress import progress
from m2kr.common.tar_headers import DAMAGED_TAR, tar_members
from m2kr.images.gzip_points import PointFinder, unpacked_blocks
from m2kr.images.members import ArchiveError, plain_name, top_folder

MEMBER = "SELECT start, size, crc FROM members WHERE name = ?"
"""Where a member begins, its bytes, and the CRC-32 of its content; null where an uncompressed tar is read."""

LAST_POINT = """
SELECT number, start, place, shift, window FROM points WHERE start <= ? ORDER BY start DESC, number DESC LIMIT 1
"""
"""The last restart point before a byte, as `m2kr.images.gzip_points.RestartPoint` has it."""

_PIECE = 1 << 20
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE members (name TEXT PRIMARY KEY, start INT, size INT, crc INT) WITHOUT ROWID;
CREATE TABLE points (number INTEGER PRIMARY KEY, start INT, place INT, shift INT, window BLOB);
CREATE INDEX points_by_start ON points (start, number);
"""


def write_index(path: Path, index: Path, key: str, finder: PointFinder | None = None) -> None:
    """Write the index of a tar, or with a finder of points that of a .tar.gz which is read in place.

    Args:
        path: the archive.
        index: the file to write, atomically.
        key: of the archive as it is now.
        finder: of its restart points.

    Raises:
        ArchiveError: the archive is damaged, or the disk is full.
    """
    temporary = index.with_name(f".{index.name}.tmp")
    temporary.unlink(missing_ok=True)
    tops: set[str] = set()
    try:
        connection = sqlite3.connect(temporary)
        try:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(_TABLES)
            with progress(path.stat().st_size, f"index {path.name}", unit="B") as bar, path.open("rb") as file:
                content = file if finder is None else _Stream(unpacked_blocks(path, bar, finder))
                for name, *member, end in _members(path, content, connection, check=finder is not None):
                    if len(tops) < 2:
                        tops.add(top_folder(name))
                    connection.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)", (name, *member))
                    if finder is None:
                        bar.update(end - bar.n)
                total = content.seek(0, os.SEEK_END)
            if finder is not None:
                connection.executemany("INSERT INTO points VALUES (?, ?, ?, ?, ?)", _rows(path, index, finder, total))
            facts = {"key": key, "bytes": str(total), "points": "yes" if finder else "no"}
            facts["top"] = tops.pop() if len(tops) == 1 else ""
            connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
            connection.commit()
        finally:
            connection.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(index)
    except (sqlite3.Error, OSError) as error:
        raise ArchiveError(f"{index} could not be written ({error}). Free some space, then try again.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _rows(
    path: Path, index: Path, finder: PointFinder, total: int
) -> Iterator[tuple[int, int, int, int, bytes | None]]:
    try:
        for number, point in enumerate(finder.points(total, index.with_name(f".{index.name}.points"))):
            yield number, point.start, point.place, point.shift, point.window
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None):
            raise  # what the system says of the temporary file
        raise ArchiveError(f"{path} could not be given an index ({error}). Unpack it, and name its folder.") from error


class _Stream:
    """A binary file of blocks that come one after the other. It goes back a little, as tarfile does at a header."""

    _BACK = 2 * tarfile.BLOCKSIZE

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._kept = b""
        self._start = self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            while self._more():
                self._at = self._start + len(self._kept)
            offset += self._start + len(self._kept)
        if offset < self._start:
            raise ValueError(f"byte {offset:,} of the stream is gone")
        self._at = offset
        return offset

    def read(self, size: int) -> bytes:
        while self._start + len(self._kept) < self._at + size and self._more():
            pass
        first = self._at - self._start
        piece = self._kept[first : first + size]
        self._at += len(piece)
        return piece

    def _more(self) -> bool:
        block = next(self._blocks, b"")
        gone = min(max(self._at - self._BACK - self._start, 0), len(self._kept))
        self._kept = self._kept[gone:] + block
        self._start += gone
        return bool(block)


def _checksum(content: Any, start: int, size: int) -> int:
    """Return the CRC-32 of a part of a file."""
    crc = 0
    content.seek(start)
    while size > 0 and (piece := content.read(min(size, _PIECE))):
        crc = zlib.crc32(piece, crc)
        size -= len(piece)
    return crc


def _members(
    path: Path, content: Any, listed: sqlite3.Connection, *, check: bool
) -> Iterator[tuple[str, int, int, int | None, int]]:
    """Yield name, start, size, checksum and end of every regular file; of several with one name the last counts."""
    try:
        for member, end in tar_members(content):
            name = plain_name(member.name)
            try:
                name.encode()
            except UnicodeEncodeError:  # no path in the data is spelled so
                continue
            if member.isreg() and not member.issparse():
                start, size = member.offset_data, member.size
                yield name, start, size, _checksum(content, start, size) if check else None, end
            elif member.islnk():
                target = listed.execute(MEMBER, (plain_name(member.linkname),)).fetchone()
                if target is not None:
                    yield name, *target, end
    except DAMAGED_TAR as error:
        raise ArchiveError(f"{path} is damaged ({error}). Download the archive again.") from error
