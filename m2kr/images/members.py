"""What the readers of archives share: the error they raise, how members are named, and how large one may be."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from m2kr.errors import M2KRError

MAX_MEMBER_BYTES = 320_000_000
"""A larger member is refused, as a few kilobytes of zip can stand for it. No picture that can be decoded is larger: the
largest (`m2kr.images.decode.MAX_PIXELS`) has 300 million bytes without any compression."""


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


def plain_name(name: str) -> str:
    """Return a member's name without the "./" that some programs put in front, and without outer slashes."""
    return name.removeprefix("./").strip("/")


def top_folder(name: str) -> str:
    """Return the first folder of a member's name, with "/" at the end; an empty string without one."""
    return name[: name.find("/") + 1]


def check_size(path: Path, name: str, size: int) -> None:
    """Refuse a member that is too large.

    Raises:
        ArchiveError: it is.
    """
    if size > MAX_MEMBER_BYTES:
        raise ArchiveError(f"{path}, member {name!r} has {size:,} bytes, more than {MAX_MEMBER_BYTES:,}: no picture.")
