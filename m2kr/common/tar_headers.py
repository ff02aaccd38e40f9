"""Members of tar archives, with the sizes that their headers claim kept within bounds."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Self

_TEXTS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_MOST_TEXT = 1 << 20

DAMAGED_TAR = (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError)
"""What a tar raises that is damaged or claims what it has not."""


class BoundedTarInfo(tarfile.TarInfo):
    """A header of `tarfile` whose size is no negative number, and a small one where the content is a text of its own.

    Such texts (long names, times of files) are read as a whole, whatever their header says of their size.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the header in a block of 512 bytes.

        Raises:
            HeaderError: it is none, or its size is out of bounds.
        """
        header = super().frombuf(buf, encoding, errors)
        if not 0 <= header.size < (_MOST_TEXT if header.type in _TEXTS else 1 << 62):
            raise tarfile.InvalidHeaderError(f"a member of {header.size:,} bytes")  # type: ignore[attr-defined]
        return header


def tar_members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yield every member of an uncompressed tar that begins where the file stands, and the place where it ends.

    Between two members, the file may be read on, as in the member's content.

    Raises:
        One of `DAMAGED_TAR`: it is damaged.
    """
    with tarfile.open(fileobj=file, mode="r:", tarinfo=BoundedTarInfo) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep all, a kilobyte each
            yield member, archive.offset
        end = archive.offset
    file.seek(end)
    # At a header that is cut off or damaged tarfile stops as it does at the end, which is a block of zeros.
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"no header at byte {end:,}")
