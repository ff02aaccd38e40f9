"""Reading single files out of .zip, .tar and .tar.gz archives, as they are downloaded.

A zip carries its own list of members; it may come in parts (`m2kr.images.parts`). A tar is listed once, and a .tar.gz
is given places to restart at, or unpacked (`m2kr.images.tars`).

Members are never written as files, whatever their names say. Links inside a tar mean other members of it, or nothing.
Nothing is kept open between reads, so that threads and forked processes may read at the same time.
"""

from __future__ import annotations

import functools
import tarfile
import threading
from pathlib import Path

from m2kr.common.tar_headers import BoundedTarInfo
from m2kr.images.members import Archive, ArchiveError, check_size, top_folder
from m2kr.images.parts import FIRST_PART, open_whole, parts_of, whole_size
from m2kr.images.tars import Tar
from m2kr.images.zip_members import DAMAGED_ZIP, HEADER_BYTES, content_start, unpacked, zip_members


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
        try:
            with open_whole(path) as file:
                self._members = {member.name: member for member in zip_members(file)}
        except DAMAGED_ZIP as error:
            count = len(parts_of(path))
            parts = f", joined of {count} part{'s' * (count > 1)}," if path.suffix == FIRST_PART else ""
            raise ArchiveError(f"{path}{parts} cannot be read as a zip ({error}). Download it again.") from error
        tops = {top_folder(name) for name in self._members}
        self.top = tops.pop() if len(tops) == 1 else ""

    def size(self, name: str) -> int | None:
        member = self._members.get(name)
        return None if member is None else member.size

    def read(self, name: str) -> bytes:
        if name not in self._members:
            raise ArchiveError(f"{self.path} has no member {name!r}.")
        member = self._members[name]
        check_size(self.path, name, max(member.size, member.packed))
        try:
            with open_whole(self.path) as file:
                file.seek(member.start)
                file.seek(member.start + content_start(file.read(HEADER_BYTES)))
                return unpacked(member, file.read(member.packed))
        except NotImplementedError as error:
            raise ArchiveError(f"{self.path}, member {name!r} is {error}; unpack this archive.") from error
        except DAMAGED_ZIP as error:  # the place may be any number
            raise ArchiveError(f"{self.path}, member {name!r} is damaged ({error}). Download it again.") from error
