"""Reading single files out of .zip, .tar and .tar.gz archives, as they are downloaded.

A zip carries its own list of members; it may come in parts (`m2kr.images.parts`). A tar is listed once, in an index
file beside it (``X.tar.m2kr-index``), and then read by seeking. A .tar.gz cannot be read from the middle, so it is
unpacked once to a tar beside it (``X.tar.gz.m2kr.tar``; images hardly compress, so it takes about as much space
again). Where the archive's folder cannot be written, both go to ``M2KR_CACHE``, else ``~/.cache/m2kr``. They are made
again when size or time of the archive change; a hidden lock file keeps two processes from doing it at once. An
interrupted unpacking begins anew: a gzip stream has no place to go on from.

Members are never written as files, whatever their names say. Links inside a tar mean other members of it, or nothing.
Nothing is kept open between reads, so that threads and forked processes may read at the same time.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import os
import shutil
import sqlite3
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from m2kr.common.files import atomic, cache_folder, digest
from m2kr.common.locks import exclusive
from m2kr.common.progress import progress, say
from m2kr.common.tar_headers import DAMAGED_TAR, BoundedTarInfo, tar_members
from m2kr.errors import M2KRError
from m2kr.images.parts import FIRST_PART, open_whole, parts_of, whole_size

MAX_MEMBER_BYTES = 320_000_000
"""A larger member is refused, as a few kilobytes of zip can stand for it. No picture that can be decoded is larger: the
largest (`m2kr.images.decode.MAX_PIXELS`) has 300 million bytes without any compression."""

FREE_BYTES = 1 << 30
"""What unpacking leaves free on the disk at least."""

_BLOCK = 1 << 22
_ZIP_HEADER = struct.Struct("<4s22xHH")


class ArchiveError(M2KRError):
    """An archive, or a member of it, cannot be read."""


class Archive(Protocol):
    """Files by name. ``top`` is the one folder that all members stand in, with "/" at the end; empty without one."""

    path: Path
    top: str

    def size(self, name: str) -> int | None:
        """Return the bytes of a member; None where there is no file of exactly that name."""

    def read(self, name: str) -> bytes:
        """Return the content of a member.

        Raises:
            ArchiveError: there is no such member, it is larger than `MAX_MEMBER_BYTES`, or the archive is damaged.
        """


def archive_kind(path: Path) -> str:
    """Return "zip", "tar" or "tar.gz", whatever the file is called; an empty string for anything else."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return ""
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head[:2] == b"\x1f\x8b":
        return "tar.gz"
    if head[257:262] != b"ustar":  # old tars have none: their header has a checksum instead, which tarfile knows
        try:
            BoundedTarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return ""
    return "tar"


def open_archive(path: Path) -> Archive:
    """Return an archive, with its members listed; the list is kept in this process for as long as the file is the same.

    Raises:
        ArchiveError: it is no archive, it is damaged, or there is no room to unpack it.
    """
    try:
        size, mtime_ns = whole_size(path), path.stat().st_mtime_ns
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}. Check the image root.") from error
    with _opening:  # one thread makes the list, the others wait for it
        archive = _open(path, size, mtime_ns)
    if isinstance(archive, str):
        raise ArchiveError(archive)
    return archive


_opening = threading.Lock()


@functools.lru_cache(maxsize=256)
def _open(path: Path, size: int, mtime_ns: int) -> Archive | str:
    """Return the archive, or what is wrong: it may have taken an hour to find out, and is asked for again."""
    kind = archive_kind(path)
    try:
        if kind == "zip":
            return _Zip(path)
        if kind and len(parts_of(path)) > 1:
            return f"{path} is the first of several parts of a {kind}. Join them: cat {path.stem}.0* > {path.stem}"
        if kind:
            return _Tar(path, packed=kind == "tar.gz", state=[size, mtime_ns])
    except ArchiveError as error:
        return str(error)
    return f"{path} is not a .zip, .tar or .tar.gz archive. Unpack it and name the folder."


def _plain(name: str) -> str:
    return name.removeprefix("./").strip("/")


def _top_folder(name: str) -> str:
    return name[: name.find("/") + 1]


class _Zip:
    """A zip: its central directory is read once, members straight from the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members: dict[str, tuple[int, int, int, int, int]] = {}
        try:
            with open_whole(path) as file, zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    # No folders, no links, nothing encrypted.
                    if info.is_dir() or info.external_attr >> 28 == 0xA or info.flag_bits & 1:
                        continue
                    place = (info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC)
                    self._members[_plain(info.filename)] = place
                    # Some programs write UTF-8 without saying so.
                    if not info.flag_bits & 0x800 and not info.filename.isascii():
                        with contextlib.suppress(UnicodeError):
                            self._members.setdefault(_plain(info.filename.encode("cp437").decode("utf-8")), place)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError, struct.error) as error:
            count = len(parts_of(path))
            parts = f", joined of {count} part{'s' * (count > 1)}," if path.suffix == FIRST_PART else ""
            raise ArchiveError(f"{path}{parts} cannot be read as a zip ({error}). Download it again.") from error
        tops = {_top_folder(name) for name in self._members}
        self.top = tops.pop() if len(tops) == 1 else ""

    def size(self, name: str) -> int | None:
        member = self._members.get(name)
        return None if member is None else member[2]

    def read(self, name: str) -> bytes:
        if name not in self._members:
            raise ArchiveError(f"{self.path} has no member {name!r}.")
        offset, packed, size, method, crc = self._members[name]
        _check_size(self.path, name, max(size, packed))
        try:
            with open_whole(self.path) as file:
                file.seek(offset)
                magic, name_length, extra_length = _ZIP_HEADER.unpack(file.read(_ZIP_HEADER.size))
                file.seek(name_length + extra_length, os.SEEK_CUR)
                content = file.read(packed)
        except (OSError, struct.error, OverflowError, ValueError) as error:  # the place may be any number
            raise ArchiveError(f"{self.path}, member {name!r} cannot be read ({error}). Download it again.") from error
        if method == zipfile.ZIP_DEFLATED:
            try:
                content = zlib.decompressobj(-15).decompress(content, size + 1)
            except zlib.error as error:
                raise ArchiveError(f"{self.path}, member {name!r} is damaged ({error}). Download it again.") from error
        elif method != zipfile.ZIP_STORED:
            raise ArchiveError(f"{self.path}, member {name!r} is packed with method {method}; unpack this archive.")
        if magic != b"PK\x03\x04" or len(content) != size or zlib.crc32(content) != crc:
            raise ArchiveError(f"{self.path}, member {name!r} is damaged (checksum). Download it again.")
        return content


class _Tar:
    """A tar with its index."""

    def __init__(self, path: Path, *, packed: bool, state: list[int]) -> None:
        self.path = path
        self._local = threading.local()
        key = f"{state}"
        for home in _homes(path):
            self._place(home, packed=packed)
            if self._fits(key, state, packed=packed):
                break
        else:
            home = next(iter(_homes(path, writable=True)))
            self._place(home, packed=packed)
            # Other processes may want the same archive now.
            with exclusive(home / f".{path.name}.m2kr-lock", self._index, wait=True):
                if not self._fits(key, state, packed=packed):
                    if packed and not _is_unpacked(self._tar, state):
                        _unpack(path, self._tar, state)
                    _write_index(self._tar, self._index, key)
        self.top = self._fact("top") or ""
        self._bytes = self._tar.stat().st_size

    def _place(self, home: Path, *, packed: bool) -> None:
        self._tar = home / f"{self.path.name}.m2kr.tar" if packed else self.path
        self._index = home / f"{self.path.name}.m2kr-index"

    def _fits(self, key: str, state: list[int], *, packed: bool) -> bool:
        """Whether the index is there, whole, and of the archive as it is now."""
        if not self._index.is_file() or (packed and not _is_unpacked(self._tar, state)):
            return False
        try:
            return self._fact("key") == key and self._fact("bytes") == str(self._tar.stat().st_size)
        except (sqlite3.Error, OSError):
            return False
        finally:
            self._forget()

    def _fact(self, name: str) -> str | None:
        row = self._connection().execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection; one from before a fork is left alone."""
        known = getattr(self._local, "known", None)
        if known is None or known[0] != os.getpid():
            known = (os.getpid(), sqlite3.connect(f"{self._index.absolute().as_uri()}?mode=ro&immutable=1", uri=True))
            self._local.known = known
        return known[1]

    def _forget(self) -> None:
        known = getattr(self._local, "known", None)
        if known is not None:
            known[1].close()
            self._local.known = None

    def _member(self, name: str) -> tuple[int, int] | None:
        try:
            row = self._connection().execute("SELECT start, size FROM members WHERE name = ?", (name,)).fetchone()
        except UnicodeEncodeError:  # a lone surrogate, which no index holds
            return None
        except sqlite3.Error as error:
            raise ArchiveError(f"{self._index} is damaged ({error}). Delete it; it is made again.") from error
        if row is None:
            return None
        # An index may have come with the archive, and SQLite keeps any type in any column.
        if not all(isinstance(number, int) and number >= 0 for number in row) or sum(row) > self._bytes:
            raise ArchiveError(f"{self._index} says what cannot be of {name!r}. Delete it; it is made again.")
        return row[0], row[1]

    def size(self, name: str) -> int | None:
        member = self._member(name)
        return None if member is None else member[1]

    def read(self, name: str) -> bytes:
        member = self._member(name)
        if member is None:
            raise ArchiveError(f"{self.path} has no member {name!r}.")
        start, size = member
        _check_size(self.path, name, size)
        try:
            with self._tar.open("rb") as file:
                file.seek(start)
                content = file.read(size)
        except OSError as error:
            raise ArchiveError(f"{self._tar}, member {name!r} cannot be read ({error.strerror}).") from error
        if len(content) != size:
            raise ArchiveError(f"{self.path}, member {name!r} is cut off. Download the archive again.")
        return content


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise ArchiveError(f"{path}, member {name!r} has {size:,} bytes, more than {MAX_MEMBER_BYTES:,}: no picture.")


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


def _is_unpacked(tar: Path, state: list[int]) -> bool:
    """Whether ``tar`` was made of the archive in this state: it bears its time (some disks round to two seconds)."""
    return tar.is_file() and abs(tar.stat().st_mtime_ns - state[1]) <= 2 * 10**9


def _unpack(path: Path, target: Path, state: list[int]) -> None:
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
            "free. Free some space, set M2KR_CACHE where there is some and the archive's folder cannot be written, or "
            "unpack it elsewhere and name that folder."
        )
    say(f"unpacking {path.name} once, to {target.name}")
    with atomic(target) as file, progress(size, f"unpack {path.name}", unit="B") as bar:
        for number, block in enumerate(_gzip_blocks(path)):
            # A small file can unpack to more than there is room for.
            if number % 16 == 0 and (free := shutil.disk_usage(target.parent).free) < FREE_BYTES:
                raise ArchiveError(
                    f"{path} cannot be unpacked: only {free:,} bytes are free in {target.parent}. Free some space."
                )
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.utime(file.fileno(), ns=(state[1], state[1]))


def _gzip_blocks(path: Path) -> Iterator[bytes]:
    done = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(_BLOCK):
                done += len(block)
                yield block
    except (EOFError, OSError, zlib.error) as error:
        raise ArchiveError(f"{path} is damaged after {done:,} unpacked bytes ({error}). Download it again.") from error


def _write_index(tar: Path, index: Path, key: str) -> None:
    """List the members of a tar: name -> where its content begins, and its size."""
    temporary = index.with_name(f".{index.name}.tmp")
    temporary.unlink(missing_ok=True)
    total = tar.stat().st_size
    tops: set[str] = set()
    try:
        connection = sqlite3.connect(temporary)
        try:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT)")
            connection.execute("CREATE TABLE members (name TEXT PRIMARY KEY, start INT, size INT) WITHOUT ROWID")
            with progress(total, f"index {tar.name}", unit="B") as bar:
                for name, start, size, end in _members(tar, connection):
                    if len(tops) < 2:
                        tops.add(_top_folder(name))
                    connection.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?)", (name, start, size))
                    bar.update(end - bar.n)
            top = tops.pop() if len(tops) == 1 else ""
            connection.executemany(
                "INSERT INTO facts VALUES (?, ?)", [("key", key), ("bytes", str(total)), ("top", top)]
            )
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


def _members(tar: Path, listed: sqlite3.Connection) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, start, size and end of every regular file; of several with one name the last counts, as in tar."""
    try:
        for member, end in tar_members(tar):
            name = _plain(member.name)
            try:
                name.encode()
            except UnicodeEncodeError:  # no path in the data is spelled so
                continue
            if member.isreg() and not member.issparse():
                yield name, member.offset_data, member.size, end
            elif member.islnk():
                known = "SELECT start, size FROM members WHERE name = ?"
                target = listed.execute(known, (_plain(member.linkname),)).fetchone()
                if target is not None:
                    yield name, *target, end
    except DAMAGED_TAR as error:
        raise ArchiveError(f"{tar} is damaged ({error}). Download the archive again.") from error
