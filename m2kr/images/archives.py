"""Reading single files out of .zip, .tar and .tar.gz archives, as they are downloaded.

A zip carries its own list of members; it may come in parts (`m2kr.images.parts`). A tar is listed once, and a .tar.gz
is given places to restart at, or unpacked (`m2kr.images.tars`).

Members are never written as files, whatever their names say. Links inside a tar mean other members of it, or nothing.
Nothing is kept open between reads, so that threads and forked processes may read at the same time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import tarfile
import threading
import zipfile
import zlib
from pathlib import Path

from m2kr.common.tar_headers import BoundedTarInfo
from m2kr.images.members import Archive, ArchiveError, check_size, plain_name, top_folder
from m2kr.images.parts import FIRST_PART, open_whole, parts_of, whole_size
from m2kr.images.tars import Tar

_ZIP_HEADER = struct.Struct("<4s22xHH")


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


@functools.lru_cache(maxsize=4096)  # the pictures of Google Landmarks alone come in 500 archives, all of them asked
def _open(path: Path, size: int, mtime_ns: int) -> Archive | str:
    """Return the archive, or what is wrong: it may have taken an hour to find out, and is asked for again."""
    kind = archive_kind(path)
    try:
        if kind == "zip":
            return _Zip(path)
        if kind and len(parts_of(path)) > 1:
            return f"{path} is the first of several parts of a {kind}. Join them: cat {path.stem}.0* > {path.stem}"
        if kind:
            return Tar(path, packed=kind == "tar.gz")
    except ArchiveError as error:
        return str(error)
    return f"{path} is not a .zip, .tar or .tar.gz archive. Unpack it and name the folder."


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
                    self._members[plain_name(info.filename)] = place
                    # Some programs write UTF-8 without saying so.
                    if not info.flag_bits & 0x800 and not info.filename.isascii():
                        with contextlib.suppress(UnicodeError):
                            self._members.setdefault(plain_name(info.filename.encode("cp437").decode("utf-8")), place)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError, struct.error) as error:
            count = len(parts_of(path))
            parts = f", joined of {count} part{'s' * (count > 1)}," if path.suffix == FIRST_PART else ""
            raise ArchiveError(f"{path}{parts} cannot be read as a zip ({error}). Download it again.") from error
        tops = {top_folder(name) for name in self._members}
        self.top = tops.pop() if len(tops) == 1 else ""

    def size(self, name: str) -> int | None:
        member = self._members.get(name)
        return None if member is None else member[2]

    def read(self, name: str) -> bytes:
        if name not in self._members:
            raise ArchiveError(f"{self.path} has no member {name!r}.")
        offset, packed, size, method, crc = self._members[name]
        check_size(self.path, name, max(size, packed))
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
