"""Members of a zip: where each lies, and its content; of a file on the disk as of one that is read over a network."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from m2kr.images.members import plain_name

_HEADER = struct.Struct("<4s22xHH")
# What stands in front of a member's name: the lengths of the name and of what follows it are used.

_ENTRY = struct.Struct("<4s4xHH4xLLLHHH4xLL")
# An entry of the list: flags, method, checksum, bytes in the archive and without compression, lengths of name, extra
# fields and comment, rights, and where the member's header is.

_END = struct.Struct("<4sH6xLL2x")
_LOCATOR = struct.Struct("<4s4xQ4x")
_LONG_END = struct.Struct("<4s36xQQ")
# What stands at the end: bytes and begin of the list; before it, in an archive of more than 4 GiB, the place of a
# record that has both in 64 bits.

HEADER_BYTES = _HEADER.size
"""Bytes that `content_start` needs."""

DAMAGED_ZIP = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, OverflowError, struct.error)
"""What reading a zip raises that is damaged."""


class Member(NamedTuple):
    """A member of an archive.

    Attributes:
        name: within the archive, without "./" in front.
        start: byte at which its header begins in a zip, its content in a tar.
        packed: bytes of its content in the archive.
        size: bytes of its content.
        method: how it is compressed, as zip numbers it.
        crc: checksum of its content; -1 in a tar, which has none.
    """

    name: str
    start: int
    packed: int
    size: int
    method: int = zipfile.ZIP_STORED
    crc: int = -1


def zip_members(file: IO[bytes]) -> Iterator[Member]:
    """Yield the files of a zip: no folders, no links, nothing encrypted; of several of one name, the last counts.

    One after the other, in bounded memory: `zipfile` takes a kilobyte for each, and an archive can have millions. A
    file whose name was written in UTF-8 without saying so comes under both spellings.

    Raises:
        One of `DAMAGED_ZIP`: it is damaged.
    """
    start, size, shift = _directory(file)
    file.seek(start)
    end = start + size
    while file.tell() < end:
        header = file.read(_ENTRY.size)
        magic, flags, method, crc, packed, full, name_length, extra_length, comment_length, rights, offset = (
            _ENTRY.unpack(header)
        )
        texts = file.read(name_length + extra_length + comment_length)
        if magic != b"PK\x01\x02" or len(texts) != name_length + extra_length + comment_length:
            raise zipfile.BadZipFile(f"no entry at byte {file.tell() - len(header) - len(texts):,} of its list")
        raw, extra = texts[:name_length], texts[name_length : name_length + extra_length]
        full, packed, offset = _long_numbers(extra, full, packed, offset)
        if raw.endswith(b"/") or rights >> 28 == 0xA or flags & 1:
            continue
        place = (offset + shift, packed, full, method, crc)
        if not flags & 0x800 and not raw.isascii():
            with contextlib.suppress(UnicodeError):
                yield Member(plain_name(raw.decode("utf-8")), *place)
        yield Member(plain_name(raw.decode("utf-8" if flags & 0x800 else "cp437")), *place)


def _directory(file: IO[bytes]) -> tuple[int, int, int]:
    """Return where the list of members begins, its bytes, and what is to be added to the places that it names."""
    length = file.seek(0, io.SEEK_END)
    for looked_at in (_LOCATOR.size + _END.size, _LOCATOR.size + _END.size + (1 << 16)):  # with the longest comment
        file.seek(max(length - looked_at, 0))
        tail = file.read(looked_at)
        at = tail.rfind(b"PK\x05\x06")
        if at >= 0 and at + _END.size <= len(tail):
            break
    else:
        raise zipfile.BadZipFile("it has no list of members at its end")
    end = length - len(tail) + at
    _, disk, size, start = _END.unpack_from(tail, at)
    if disk not in (0, 0xFFFF):
        raise zipfile.BadZipFile("it is the last of several disks")
    if at >= _LOCATOR.size and tail[at - _LOCATOR.size :].startswith(b"PK\x06\x07"):
        _, place = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        before = end - _LOCATOR.size - _LONG_END.size
        for end in (before, place):  # the second where something stands between the two
            file.seek(end)
            magic, size, start = _LONG_END.unpack(file.read(_LONG_END.size))
            if magic == b"PK\x06\x06":
                break
        else:
            raise zipfile.BadZipFile("its list of members is not where it says")
    shift = end - size - start  # bytes that stand in front of the archive
    if shift < 0:
        raise zipfile.BadZipFile("its list of members is cut off")
    return start + shift, size, shift


def _long_numbers(extra: bytes, *numbers: int) -> list[int]:
    """Return numbers of an entry, those that do not fit into 32 bits from the field that has them."""
    found = list(numbers)
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            for index, number in enumerate(found):
                if number == 0xFFFFFFFF:
                    (found[index],) = struct.unpack_from("<Q", field)
                    field = field[8:]
            break
        at += 4 + length
    return found


def content_start(header: bytes) -> int:
    """Return how many bytes behind the begin of a member's header its content begins.

    Raises:
        struct.error: the header is cut off.
        ValueError: it is none.
    """
    magic, name_length, extra_length = _HEADER.unpack(header[:HEADER_BYTES])
    if magic != b"PK\x03\x04":
        raise ValueError("there is no header of a member")
    return int(HEADER_BYTES + name_length + extra_length)


def unpacked(member: Member, packed: bytes) -> bytes:
    """Return the content of a member, from its bytes in the archive.

    Raises:
        NotImplementedError: they are packed by a method other than deflate.
        ValueError: they are damaged.
    """
    content = packed
    if member.method == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompressobj(-15).decompress(packed, member.size + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
    elif member.method != zipfile.ZIP_STORED:
        raise NotImplementedError(f"packed with method {member.method}")
    if len(content) != member.size or (member.crc >= 0 and zlib.crc32(content) != member.crc):
        raise ValueError("checksum")
    return content
