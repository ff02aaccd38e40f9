"""Archives of the hub: their lists of members, and pictures in them, read over the network.

Members of a zip are read by range requests, after its list of members. A tar has no such list: it is read once, from
the begin, until all that was asked for is found; what is kept are those pictures, and a list of its members as far as
it was read, so that later ones are read by range requests too, or the reading goes on. A .tar.gz is read from the begin
each time. No archive is ever stored. See `m2kr.images.hub_store` for what is.
"""

from __future__ import annotations

import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from m2kr.common.concurrency import ordered_map
from m2kr.common.files import digest, safe_name
from m2kr.common.hub import HubError, HubFile, HubListing, HubReader, hub_cache, read_range
from m2kr.common.progress import progress, say
from m2kr.common.tar_headers import DAMAGED_TAR, tar_members
from m2kr.images.hub_store import HubStore, Write
from m2kr.images.members import MAX_MEMBER_BYTES, plain_name
from m2kr.images.zip_members import DAMAGED_ZIP, HEADER_BYTES, Member, content_start, unpacked, zip_members

_READERS = 8
# Range requests at once.

_ONE_REQUEST = 4 << 20
_GAPS = 0.2
# Members that lie close together are read by one request, of so many bytes at most, and of so many others for each byte
# that is wanted.

_HEADER_ROOM = 128
# Bytes that a zip has in front of a member's content besides its header and name: times, rights and so on.

_KEPT_AT_ONCE = 32 << 20
_READ_AT_ONCE = 256 << 20
# What a kill costs at most: bytes of pictures, and of a tar that is read through.


@dataclass(frozen=True)
class HubArchive:
    """An archive of the hub, which may come in parts.

    Attributes:
        name: its path, without the number of a part.
        parts: its files, in order.
        store: what is kept of it.
    """

    name: str
    parts: tuple[HubFile, ...]
    store: HubStore

    def __str__(self) -> str:
        return f"{self.parts[0].repository}/{self.name}"

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def is_zip(self) -> bool:
        """Whether it has a list of its members."""
        return self.name.endswith(".zip")

    @property
    def is_packed(self) -> bool:
        """Whether it cannot be read from the middle."""
        return self.name.endswith(("gz", ".tgz"))

    @property
    def begin(self) -> int:
        """Byte at which a tar is read on."""
        return 0 if self.is_packed else self.store.scanned

    def names(self, path: str, prefix: str) -> list[str]:
        """Return the names under which a path may stand in it; see `member_names`."""
        return member_names(Path(self.name).name, self.store.top, prefix, path)


def member_names(archive: str, top: str, prefix: str, path: str) -> list[str]:
    """Return the names under which a path may stand in an archive, the likeliest first.

    Args:
        archive: its file name.
        top: the one folder that all of its members stand in, with "/" at the end; empty without one.
        prefix: folder that names inside archives may begin with.
        path: as in ``img_path``.
    """
    # A folder that was packed into an archive of its name may stand in it without that name.
    inner = path.removeprefix(f"{archive.split('.')[0]}/")
    return list(dict.fromkeys([*([f"{prefix}/{path}"] if prefix else []), path, inner, f"{top}{path}"]))


def archives_of(listing: HubListing, *, quiet: bool) -> list[HubArchive]:
    """Return the archives among files: zips first, then the smallest, in which the pictures of a test are likelier.

    What is kept of an archive that has changed since is deleted, and that is said.

    Raises:
        HubError: a part of an archive is missing.
    """
    files: dict[str, dict[int, HubFile]] = {}
    for file in listing.files:
        if match := re.fullmatch(r"(.+\.(?:zip|tar|tar\.gz|tgz))(?:\.(\d{3}))?", file.path):
            files.setdefault(match[1], {})[int(match[2] or 0)] = file
    archives = []
    home = hub_cache(listing.repository)
    for name, parts in files.items():
        numbers = [0] if 0 in parts else sorted(parts)
        if numbers[0] and numbers != list(range(1, len(numbers) + 1)):
            lacking = next(number for number in itertools.count(1) if number not in parts)
            raise HubError(f"{listing} has parts of {name}, and not {name}.{lacking:03d}. Name your own with --images.")
        chosen = tuple(parts[number] for number in numbers)
        stem = f"{safe_name(name)}-"
        path = home / f"{stem}{digest([part.etag for part in chosen])}.sqlite"
        for former in home.glob(f"{stem}{'?' * 16}.sqlite"):
            if former != path:
                say(f"{name} of {listing.repository} has changed: what was kept of it is left out", quiet=quiet)
                former.unlink()
        archives.append(HubArchive(name, chosen, HubStore(path)))
    return sorted(archives, key=lambda archive: (not archive.is_zip, archive.size, archive.name))


def list_zip(archive: HubArchive) -> None:
    """Read and keep the list of members that a zip has.

    Raises:
        HubError: it is damaged, or the hub cannot be reached any more.
    """
    try:
        with io.BufferedReader(HubReader(archive.parts), 1 << 20) as file, archive.store.writing() as write:
            for member in zip_members(file):
                archive.store.note(write, member)
            archive.store.reach(write, archive.size, whole=True)
    except DAMAGED_ZIP as error:
        raise HubError(f"{archive} cannot be read as a zip ({error}). Name a copy of yours with --images.") from error


def fetch_members(archive: HubArchive, members: Sequence[Member], *, quiet: bool) -> None:
    """Fetch members by range requests, those that lie close together by one.

    Raises:
        HubError: one is damaged, or the hub cannot be reached any more. What came before is kept.
        M2KRError: the disk is full.
    """
    waiting: list[tuple[str, bytes]] = []
    total = sum(member.packed for member in members)

    def keep() -> None:
        with archive.store.writing() as write:
            for name, content in waiting:
                archive.store.keep(write, name, content)
        waiting.clear()

    bar = progress(total, f"fetch from {archive.name}", unit="B", quiet=quiet)
    groups = ordered_map(partial(_fetch_group, archive), list(_groups(archive, members)), _READERS)
    with bar, ExitStack() as stack:
        stack.callback(keep)  # also of what came before an error
        for contents in groups:
            waiting += contents
            bar.update(sum(len(content) for _, content in contents))
            if sum(len(content) for _, content in waiting) > _KEPT_AT_ONCE:
                keep()


def _span(archive: HubArchive, member: Member) -> tuple[int, int]:
    """Return where the bytes of a member begin and end, with room for what a zip has in front of them."""
    if member.size > MAX_MEMBER_BYTES or member.packed > MAX_MEMBER_BYTES:
        raise HubError(f"{archive}, member {member.name!r} has {member.size:,} bytes: no picture.")
    room = HEADER_BYTES + len(member.name.encode()) + _HEADER_ROOM if archive.is_zip else 0
    return member.start, min(member.start + room + member.packed, archive.size)


def _groups(archive: HubArchive, members: Sequence[Member]) -> Iterator[list[Member]]:
    group: list[Member] = []
    first = last = wanted = 0
    for member in sorted(members, key=lambda member: member.start):
        start, stop = _span(archive, member)
        if group and (stop - first > _ONE_REQUEST or max(stop, last) - first > (1 + _GAPS) * (wanted + member.packed)):
            yield group
            group, wanted = [], 0
        if not group:
            first = start
        group.append(member)
        last, wanted = max(last, stop), wanted + member.packed
    if group:
        yield group


def _fetch_group(archive: HubArchive, members: Sequence[Member]) -> list[tuple[str, bytes]]:
    """Return names and contents of members, read by one request."""
    spans = [_span(archive, member) for member in members]
    first = spans[0][0]
    block = read_range(archive.parts, first, max(stop for _, stop in spans))
    found = []
    for member in members:
        at = member.start - first
        try:
            if archive.is_zip:
                at += content_start(block[at : at + HEADER_BYTES])
            content = block[at : at + member.packed]
            if len(content) < member.packed:
                rest = read_range(archive.parts, first + at + len(content), first + at + member.packed)
                content += rest
            found.append((member.name, unpacked(member, content)))
        except NotImplementedError as error:
            raise HubError(f"{archive}, member {member.name!r} is {error}. Download and unpack it.") from error
        except DAMAGED_ZIP as error:
            raise HubError(f"{archive}, member {member.name!r} is damaged ({error}).") from error
    return found


def read_through(archive: HubArchive, rest: Mapping[str, Sequence[str]], prefix: str, *, quiet: bool) -> None:
    """Read a tar on from where it was left, keep the pictures of some paths, and list all members on the way.

    Args:
        archive: the tar.
        rest: paths, each with its spellings. The reading ends when all are found.
        prefix: as of `member_names`.
        quiet: no progress.

    Raises:
        HubError: it is damaged, or the hub cannot be reached any more. What came before is kept.
        M2KRError: the disk is full.
    """
    store = archive.store
    open_ways = {path: set(ways) for path, ways in rest.items()}
    paths: dict[str, list[str]] = {}
    for path, ways in rest.items():
        for name in {name for way in ways for name in archive.names(way, prefix)} | set(ways):
            paths.setdefault(name, []).append(path)
    begin = reached = archive.begin
    bar = progress(archive.size, f"read through {archive.name}", unit="B", quiet=quiet)
    with ExitStack() as stack:
        raw = stack.enter_context(io.BufferedReader(HubReader(archive.parts), 1 << 20))
        stack.enter_context(bar)
        file: Any = stack.enter_context(gzip.GzipFile(fileobj=raw)) if archive.is_packed else raw
        file.seek(begin)
        bar.initial = bar.n = begin
        members = tar_members(file)
        whole, failure = False, None
        while open_ways and not whole:
            with store.writing() as write:
                noted, kept = reached, 0
                try:
                    while open_ways and kept < _KEPT_AT_ONCE and reached - noted < _READ_AT_ONCE:
                        member, end = next(members)
                        name = plain_name(member.name)
                        if (listed := _listed(write, member, name)) is not None:
                            store.note(write, listed)
                            ours = paths.get(name) or paths.get(name.partition("/")[2], [])
                            if ours and member.isreg() and member.size <= MAX_MEMBER_BYTES:
                                file.seek(member.offset_data)
                                store.keep(write, name, _whole(file.read(member.size), member))
                                kept += member.size
                                for path in ours:
                                    open_ways.pop(path, None)
                        reached = end
                        bar.update(raw.tell() - bar.n)
                except StopIteration:
                    whole = True
                except (*DAMAGED_TAR, OSError, zlib.error) as error:
                    failure = HubError(
                        f"{archive} is damaged behind byte {reached:,} ({error}). Name a copy of yours with --images."
                    )
                except HubError as error:
                    failure = error
                store.reach(write, reached, whole=whole)
            if failure is not None:  # what came before it is kept
                raise failure


def _whole(content: bytes, member: Any) -> bytes:
    if len(content) != member.size:
        raise EOFError(f"it ends within {member.name!r}")
    return content


def _listed(write: Write, member: Any, name: str) -> Member | None:
    """Return a member of a tar as it is listed; None for a folder and the like."""
    try:
        name.encode()
    except UnicodeEncodeError:  # no path in the data is spelled so
        return None
    if member.isreg() and not member.issparse():
        return Member(name, member.offset_data, member.size, member.size)
    if member.islnk():
        known = write(
            "SELECT start, packed, size FROM members WHERE name = ?", (plain_name(member.linkname),)
        ).fetchone()
        return None if known is None else Member(name, *cast("tuple[int, int, int]", known))
    return None
