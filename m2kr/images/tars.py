"""Reading members of a .tar or .tar.gz by name, without unpacking it into files.

It is gone through once, for an index in an SQLite file beside it (``X.tar.m2kr-index``): where each member begins. A
tar is then read by seeking. A .tar.gz is read in place, from the restart points that its index holds
(`m2kr.images.gzip_points`, which needs the extra ``archives``), or else unpacked once to a tar beside it
(``X.tar.gz.m2kr.tar``; pictures hardly compress, so it takes about as much space again). Where the archive's folder
cannot be written, both go to ``M2KR_CACHE``, else ``~/.cache/m2kr``.

An index is of the archive with that size, time, beginning and end, and is made again when one of them changes, or when
it is damaged. Of a .tar.gz it also has a checksum of each member, and what does not fit it is not given out. A hidden
lock file keeps two processes from making it at once. After a kill it begins anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from m2kr.common.files import atomic, cache_folder, digest
from m2kr.common.locks import exclusive
from m2kr.common.progress import progress, say
from m2kr.images.gzip_points import (
    DAMAGED_GZIP,
    PointFinder,
    RestartPoint,
    can_find_points,
    unpack_from,
    unpacked_blocks,
)
from m2kr.images.members import ArchiveError, check_size
from m2kr.images.tar_index import LAST_POINT, MEMBER, write_index

FREE_BYTES = 1 << 30
"""What unpacking leaves free on the disk at least."""

_ENDS = 1 << 16
# Bytes of the archive's beginning and of its end that tell it from another of its size and time.
_EXTRA = "with the extra (pip install 'm2kr[archives]') it is read in place"
_REMADE = "Delete it; it is made again."


class Tar:
    """A tar with its index; see the module.

    Args:
        path: the archive.
        packed: whether it is gzipped.

    Raises:
        ArchiveError: it is damaged, or there is no room for what is made of it.
    """

    def __init__(self, path: Path, *, packed: bool) -> None:
        self.path = path
        self._known: tuple[int, sqlite3.Connection, threading.Lock] | None = None
        state = _state(path)
        key = digest("2", *state)
        for home in _homes(path):
            if self._fits(home, key, state, packed=packed):
                break
        else:
            home = next(iter(_homes(path, writable=True)))
            index = home / f"{path.name}.m2kr-index"
            # Other processes may want the same archive now.
            with exclusive(home / f".{path.name}.m2kr-lock", index, wait=True):
                if not self._fits(home, key, state, packed=packed):
                    _make(path, home, index, key, state, packed=packed)
                    if not self._fits(home, key, state, packed=packed):
                        raise ArchiveError(f"{path} changed while it was indexed. Run this again when it is complete.")
        self.top = self._fact("top") or ""

    def _fits(self, home: Path, key: str, state: tuple[int, int, str], *, packed: bool) -> bool:
        """Whether what is made of the archive is there, whole, and of the archive as it is now; then it is read."""
        self._index = home / f"{self.path.name}.m2kr-index"
        if not _is_whole(self._index):
            return False
        try:
            self._points = self._fact("points") == "yes"
            self._tar = _unpacked_name(self.path, home) if packed and not self._points else self.path
            if packed and not self._points and not _is_unpacked(self._tar, state):
                return False
            self._bytes = int(self._fact("bytes") or -1)
            return self._fact("key") == key and (self._points or self._bytes == self._tar.stat().st_size)
        except (sqlite3.Error, OSError, ValueError):
            return False
        finally:
            if self._known is not None:
                self._known[1].close()
                self._known = None

    def _fact(self, name: str) -> str | None:
        row = self._query("SELECT value FROM facts WHERE name = ?", name)
        return None if row is None else str(row[0])

    def _query(self, query: str, value: object) -> tuple[Any, ...] | None:
        """Return a row of the index, read by this process's connection.

        All threads share one: a benchmark's pictures may lie in hundreds of archives. One from before a fork is left
        alone, with its lock, which a thread of the other process may have held.
        """
        known = self._known
        if known is None or known[0] != os.getpid():
            address = f"{self._index.absolute().as_uri()}?mode=ro&immutable=1"
            connection = sqlite3.connect(address, uri=True, check_same_thread=False)
            self._known = known = (os.getpid(), connection, threading.Lock())
        with known[2]:
            row: tuple[Any, ...] | None = known[1].execute(query, (value,)).fetchone()
        return row

    def _row(self, query: str, value: object) -> tuple[Any, ...] | None:
        try:
            return self._query(query, value)
        except UnicodeEncodeError:  # a lone surrogate, which no index holds
            return None
        except sqlite3.Error as error:
            raise ArchiveError(f"{self._index} is damaged ({error}). {_REMADE}") from error

    def _member(self, name: str) -> tuple[int, int, int | None] | None:
        row = self._row(MEMBER, name)
        if row is None:
            return None
        # An index may have come with the archive, and SQLite keeps any type in any column.
        if not all(isinstance(number, int) and number >= 0 for number in row[:2]) or sum(row[:2]) > self._bytes:
            raise ArchiveError(f"{self._index} says what cannot be of {name!r}. {_REMADE}")
        return row[0], row[1], row[2]

    def size(self, name: str) -> int | None:
        """Return the bytes of a member; None where there is no file of exactly that name."""
        member = self._member(name)
        return None if member is None else member[1]

    def read(self, name: str) -> bytes:
        """Return the content of a member.

        Raises:
            ArchiveError: see `m2kr.images.members.Archive.read`.
        """
        member = self._member(name)
        if member is None:
            raise ArchiveError(f"{self.path} has no member {name!r}.")
        start, size, crc = member
        check_size(self.path, name, size)
        try:
            with self._tar.open("rb") as file:
                if self._points:
                    content = self._unpacked(file, start, size)
                else:
                    file.seek(start)
                    content = file.read(size)
        except OSError as error:
            raise ArchiveError(f"{self._tar}, member {name!r} cannot be read ({error.strerror}).") from error
        except DAMAGED_GZIP as error:
            raise ArchiveError(
                f"{self._tar}, member {name!r} cannot be read with {self._index.name} ({error}). Delete that index; it "
                "is made again, and says whether the archive is damaged."
            ) from error
        if not self._points and len(content) != size:
            raise ArchiveError(f"{self.path}, member {name!r} is cut off. Download the archive again.")
        if self._points and zlib.crc32(content) != crc:
            raise ArchiveError(
                f"{self.path}, member {name!r} is not what it was when {self._index} was made. Delete that index; it "
                "is made again, and says whether the archive is damaged."
            )
        return content

    def _unpacked(self, file: BinaryIO, start: int, size: int) -> bytes:
        """Unpack a part of the archive, from the last restart point before it."""
        found = bytearray()
        last = -1
        while len(found) < size:
            at = start + len(found)
            number, point = self._point(at)
            if number <= last:
                raise EOFError(f"no point goes on at byte {at:,}")
            last, skip = number, at - point.start
            for piece in unpack_from(file, point):
                found += piece[skip : skip + size - len(found)]
                skip -= min(skip, len(piece))
                if len(found) == size:
                    break
        return bytes(found)

    def _point(self, start: int) -> tuple[int, RestartPoint]:
        row = self._row(LAST_POINT, start)
        if row is None:
            raise EOFError(f"it has no point before byte {start:,}")
        *numbers, window = row
        if not all(isinstance(value, int) and value >= 0 for value in numbers) or numbers[3] > 7:
            raise ValueError(f"its point before byte {start:,} cannot be")
        if not isinstance(window, bytes | None):
            raise ValueError(f"its point before byte {start:,} has no window")
        number, begun, place, shift = numbers
        return number, RestartPoint(begun, place, shift, window)


def _state(path: Path) -> tuple[int, int, str]:
    """Return what tells an archive from one that takes its place: size, time, and a hash of its beginning and end."""
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            ends = hashlib.sha256(file.read(_ENDS))
            file.seek(max(facts.st_size - _ENDS, 0))
            ends.update(file.read(_ENDS))
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}. Check the image root.") from error
    return facts.st_size, facts.st_mtime_ns, ends.hexdigest()


def _homes(path: Path, *, writable: bool = False) -> Iterator[Path]:
    """Yield the folders that may hold what is made of an archive: its own, then the cache."""
    if not writable or os.access(path.parent, os.W_OK):
        yield path.parent
    cache = cache_folder() / "archives" / digest(str(path.resolve()))
    if writable:
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArchiveError(
                f"neither the folder of {path} nor {cache} can be written ({error.strerror}), and the archive needs an "
                "index. Set M2KR_CACHE to a folder that can, or unpack the archive."
            ) from error
    yield cache


def _is_whole(index: Path) -> bool:
    """Whether an index is there, and as long as its first page says."""
    try:
        with index.open("rb") as file:
            head = file.read(100)
        page = int.from_bytes(head[16:18], "big")
        size = (65_536 if page == 1 else page) * int.from_bytes(head[28:32], "big")
        return size > 0 and size == index.stat().st_size
    except OSError:
        return False


def _unpacked_name(path: Path, home: Path) -> Path:
    return home / f"{path.name}.m2kr.tar"


def _is_unpacked(tar: Path, state: tuple[int, int, str]) -> bool:
    """Whether ``tar`` was made of the archive in this state: it bears its time (some disks round to two seconds)."""
    return tar.is_file() and abs(tar.stat().st_mtime_ns - state[1]) <= 2 * 10**9


def _make(path: Path, home: Path, index: Path, key: str, state: tuple[int, int, str], *, packed: bool) -> None:
    """Make the index of an archive, and unpack it where it cannot be read in place."""
    tar = _unpacked_name(path, home) if packed else path
    # With an index that does not fit, the tar is of another archive, whatever its time.
    if packed and (index.exists() or not _is_unpacked(tar, state)):
        if can_find_points():
            say(f"reading {path.name} once, for an index to read it in place")
            write_index(path, index, key, PointFinder(path))
            return
        _unpack(path, tar, state)
    write_index(tar, index, key)


def _unpack(path: Path, target: Path, state: tuple[int, int, str]) -> None:
    """Unpack a .tar.gz to an uncompressed tar."""
    # The stream ends with its size modulo 4 GiB. Pictures hardly compress, so the least such size is the likely one.
    with path.open("rb") as file:
        file.seek(max(state[0] - 4, 0))
        size = int.from_bytes(file.read(4), "little")
    while size < state[0] * 0.98:
        size += 1 << 32
    free = shutil.disk_usage(target.parent).free
    if free < size + FREE_BYTES:
        raise ArchiveError(
            f"{path} has to be unpacked once to be read, to about {size:,} bytes, and {target.parent} has {free:,} "
            f"free; {_EXTRA}. Free some space, set M2KR_CACHE where there is some and the archive's folder cannot be "
            "written, or unpack it elsewhere and name that folder."
        )
    say(f"unpacking {path.name} once, to {target.name}; {_EXTRA}")
    with atomic(target) as file, progress(state[0], f"unpack {path.name}", unit="B") as bar:
        for number, block in enumerate(unpacked_blocks(path, bar)):
            # A small file can unpack to more than there is room for.
            if number % 16 == 0 and (free := shutil.disk_usage(target.parent).free) < FREE_BYTES:
                raise ArchiveError(
                    f"{path} cannot be unpacked: only {free:,} bytes are free in {target.parent}. Free some space."
                )
            file.write(block)
        file.flush()
        os.utime(file.fileno(), ns=(state[1], state[1]))
