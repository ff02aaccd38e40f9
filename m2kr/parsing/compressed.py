"""Reading the bytes of a raw file: plain, compressed with gzip, or the only JSON file of a zip or tar archive."""

from __future__ import annotations

import gzip
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from isal import igzip, isal_zlib

from m2kr.parsing.rows import Advance, BadRow

BLOCK_BYTES = 8 << 20
"""How much is read at once. A batch of lines is about as large, and a handful are in flight."""

DAMAGED_GZIP: tuple[type[BaseException], ...] = (
    *(EOFError, zlib.error, gzip.BadGzipFile),
    cast("type[BaseException]", isal_zlib.error),  # its type hints call it an instance
)
"""What a gzip that is truncated or damaged raises."""

UNREADABLE = (UnicodeDecodeError, *DAMAGED_GZIP, zipfile.BadZipFile, tarfile.TarError)
"""The same, of whatever `open_content` opens."""


class CountedFile:
    """A binary file that reports how far ``below``, the file that it is decompressed from, was read."""

    def __init__(self, file: IO[bytes], below: IO[bytes], advance: Advance) -> None:
        self.file = file
        self.below = below
        self.advance = advance
        self.done = 0

    def read(self, size: int = -1) -> bytes:
        """Read as any binary file does."""
        data = self.file.read(size)
        at = self.below.tell()
        if at > self.done:
            self.advance(at - self.done)
            self.done = at
        return data


@contextmanager
def open_content(path: Path, advance: Advance) -> Iterator[CountedFile]:
    """Open the text of a raw file for a parser: as it is, out of its gzip, or out of the archive it came alone in."""
    with path.open("rb") as file, _unpacked(path, file) as content:
        yield CountedFile(content, file, advance)


@contextmanager
def _unpacked(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    source: Any = igzip.IGzipFile(fileobj=file) if path.suffix in (".gz", ".tgz") else file  # type: ignore[no-untyped-call]
    with ExitStack() as opened:
        try:
            if path.suffix == ".zip":
                archive = opened.enter_context(zipfile.ZipFile(file))
                source = opened.enter_context(archive.open(_only_json(archive)))
            elif path.name.endswith((".tar", ".tar.gz", ".tgz")):
                # As a stream: a look at all its members would decompress the archive once more.
                tar = opened.enter_context(tarfile.open(fileobj=source, mode="r|"))
                source = _first_json(tar)
        except (OSError, ValueError, NotImplementedError, struct.error) as error:
            # These come of damage that zipfile and tarfile do not look for.
            raise zipfile.BadZipFile(str(error)) from error
        yield source


def _only_json(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if _is_json(member.filename)]
    if len(members) != 1:
        raise zipfile.BadZipFile(f"the archive holds {len(members)} JSON files where one is expected")
    if members[0].flag_bits & 1 or members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile("the archive is encrypted, or packed by other means than deflate")
    return members[0]


def _first_json(archive: tarfile.TarFile) -> IO[bytes]:
    for member in archive:
        content = archive.extractfile(member) if member.isreg() and _is_json(member.name) else None
        if content is not None:
            return content
    raise tarfile.ReadError("the archive holds no JSON file")


def _is_json(member: str) -> bool:
    # Archives made on a Mac hold beside each file one of its attributes, "._" and its name.
    return member.endswith(".json") and not member.rpartition("/")[2].startswith(".")


def read_pieces(path: Path, advance: Advance) -> Iterator[bytes | BadRow]:
    """Yield the file's bytes in blocks; a damaged gzip ends with a `BadRow` after what could be read."""
    done = total = 0
    ended: BadRow | None = None
    with path.open("rb") as raw:
        zipped = path.suffix == ".gz"
        # isal decompresses three times as fast as the standard library, but loses a whole buffer where a file is
        # damaged. There the standard library takes over, which stops at the very byte.
        source: Any = igzip.IGzipFile(fileobj=raw) if zipped else raw  # type: ignore[no-untyped-call]
        exact = not zipped
        while ended is None:
            pieces: list[bytes] = []
            size = 0
            try:
                # In pieces, because a read that meets the damage gives nothing of what it had decompressed before.
                while size < BLOCK_BYTES and (piece := source.read1(BLOCK_BYTES)):
                    pieces.append(piece)
                    size += len(piece)
            except DAMAGED_GZIP as error:
                if exact:
                    reason = f"the gzip file is truncated or damaged ({error}); what follows cannot be read"
                    ended = BadRow(f"after {total + size:,} decompressed bytes", reason)
                else:
                    raw.seek(0)
                    source = gzip.GzipFile(fileobj=raw)
                    source.seek(total + size)
                    exact = True
                    if not pieces:
                        continue
            if pieces:
                total += size
                advance(max(0, raw.tell() - done))
                done = max(done, raw.tell())
                yield b"".join(pieces)
            elif ended is None:
                return
        yield ended
