"""Members of a zip: where each lies, and its content; of a file on the disk as of one that is read over a network."""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from typing import IO, NamedTuple

from m2kr.images.members import plain_name

_HEADER = struct.Struct("<4s22xHH")
# What stands in front of a member's name: the lengths of the name and of what follows it are used.

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


def zip_members(file: IO[bytes]) -> dict[str, Member]:
    """Return the files of a zip by name: no folders, no links, nothing encrypted; of several of one name, the last.

    Raises:
        One of `DAMAGED_ZIP`: it is damaged.
    """
    found: dict[str, Member] = {}
    respelled: dict[str, Member] = {}
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir() or info.external_attr >> 28 == 0xA or info.flag_bits & 1:
                continue
            place = (info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC)
            found[plain_name(info.filename)] = Member(plain_name(info.filename), *place)
            # Some programs write UTF-8 without saying so.
            if not info.flag_bits & 0x800 and not info.filename.isascii():
                with contextlib.suppress(UnicodeError):
                    name = plain_name(info.filename.encode("cp437").decode("utf-8"))
                    respelled[name] = Member(name, *place)
    return {**respelled, **found}


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
