"""Reading the bytes of a raw file: plain, compressed with gzip, or the only JSON file of a zip or tar archive."""

from __future__ import annotations

import codecs
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

from m2kr.common.tar_headers import BoundedTarInfo
from m2kr.parsing.rows import Advance, BadRow

BLOCK_BYTES = 8 << 20
"""How much is read at once. A batch of lines is about as large, and a handful are in flight."""

DAMAGED_GZIP: tuple[type[BaseException], ...] = (
    *(EOFError, zlib.error, gzip.BadGzipFile),
    cast("type[BaseException]", isal_zlib.error),  # its type hints call it an instance
)
"""What a gzip that is truncated or damaged raises."""

_MARK = codecs.BOM_UTF8
# The byte order mark that spreadsheets and editors put in front of a text is no part of it.
_START = 4
# So many bytes tell a text from other files.
_OTHER_TEXT = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


class UnreadableError(Exception):
    """A raw file is not what a reader of text can take; its text says what it is."""


UNREADABLE = (UnicodeDecodeError, UnreadableError, *DAMAGED_GZIP, zipfile.BadZipFile, tarfile.TarError)
"""What `open_content` and the file that it gives raise for a file that cannot be read."""


class _Gunzip:
    """The content of a gzip file, up to the very byte where it is damaged, whatever the file is called.

    isal decompresses three times as fast as the standard library, but loses a whole buffer where a file is damaged, and
    takes bytes behind the end for a truncated file. There the standard library takes over.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._source: Any = igzip.IGzipFile(fileobj=file)  # type: ignore[no-untyped-call]
        self._exact = False
        self._given = 0

    def read1(self, size: int = -1) -> bytes:
        """Read at most ``size`` bytes, none at the end only."""
        try:
            piece: bytes = self._source.read1(size)
        except DAMAGED_GZIP as error:
            if self._exact:
                behind = str(error).startswith("Not a gzipped file")  # the file's own beginning was looked at before
                what = "has bytes behind its end that are no gzip" if behind else "is truncated or damaged"
                raise gzip.BadGzipFile(f"the gzip file {what} ({error})") from error
            self._file.seek(0)
            self._source = gzip.GzipFile(fileobj=self._file)
            self._source.seek(self._given)
            self._exact = True
            return self.read1(size)
        self._given += len(piece)
        return piece

    read = read1
    """The same: a reading that fails must not lose what was read before."""


def _unzipped(file: IO[bytes]) -> Any:
    """Return what reads the content of a file: decompressed if it begins as a gzip file does, otherwise the file."""
    start = file.read(2)
    file.seek(0)
    return _Gunzip(file) if start == b"\x1f\x8b" else file


def _text_at_start(data: bytes) -> bytes:
    """Return the beginning of a text without a byte order mark.

    Raises:
        UnreadableError: it is the beginning of something else.
    """
    if data.startswith(b"PK\x03\x04"):
        raise UnreadableError("the file is a zip archive where text is expected; unpack it")
    for mark, name in _OTHER_TEXT.items():
        if data.startswith(mark):
            raise UnreadableError(f"the file is {name} where UTF-8 is expected; save it as UTF-8")
    return data.removeprefix(_MARK)


class CountedFile:
    """A binary file of text that reports how far ``below``, the file that it is decompressed from, was read."""

    def __init__(self, file: Any, below: IO[bytes], advance: Advance) -> None:
        self.file = file
        self.below = below
        self.advance = advance
        self.done = 0
        self.begun = False

    def read(self, size: int = -1) -> bytes:
        """Read as any binary file does."""
        data: bytes = self.file.read(size)
        if not self.begun and size:
            self.begun = True
            while len(data) < _START and (more := self.file.read(_START - len(data))):
                data += more
            data = _text_at_start(data) or self.file.read(size)
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
    source = _unzipped(file)
    with ExitStack() as opened:
        try:
            if path.suffix == ".zip":
                archive = opened.enter_context(zipfile.ZipFile(file))
                source = opened.enter_context(archive.open(_only_json(archive)))
            elif path.name.endswith((".tar", ".tar.gz", ".tgz")):
                # As a stream: a look at all its members would decompress the archive once more.
                tar = opened.enter_context(tarfile.open(fileobj=source, mode="r|", tarinfo=BoundedTarInfo))
                source = _first_json(tar)
        except (OSError, ValueError, NotImplementedError, OverflowError, struct.error) as error:
            # These come of damage that zipfile and tarfile do not look for.
            raise zipfile.BadZipFile(str(error)) from error
        yield source


def _only_json(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if _is_json(member.filename)]
    if len(members) != 1:
        raise UnreadableError(
            f"the archive holds {len(members)} JSON files where one is expected; unpack it, and leave the right one"
        )
    (member,) = members
    locked = member.flag_bits & 1
    if locked or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        means = "encrypted" if locked else "packed by other means than deflate"
        raise UnreadableError(f"the archive is {means}; unpack it, and put {member.filename!r:.200} in its place")
    return member


def _first_json(archive: tarfile.TarFile) -> IO[bytes]:
    for member in archive:
        content = archive.extractfile(member) if member.isreg() and _is_json(member.name) else None
        if content is not None:
            return content
    raise UnreadableError("the archive holds no JSON file where one is expected; get another, or put that file here")


def _is_json(member: str) -> bool:
    # Archives made on a Mac hold beside each file one of its attributes, "._" and its name.
    return member.endswith(".json") and not member.rpartition("/")[2].startswith(".")


def read_pieces(path: Path, advance: Advance) -> Iterator[bytes | BadRow]:
    """Yield the text of a file in blocks, decompressed and without a byte order mark.

    What is no text, and a damaged gzip, end with a `BadRow` after what could be read.
    """
    done = total = 0
    ended: BadRow | None = None
    with path.open("rb") as raw:
        source = _unzipped(raw)
        while ended is None:
            pieces: list[bytes] = []
            size = 0
            try:
                # In pieces, because a read that meets the damage gives nothing of what it had decompressed before.
                while size < BLOCK_BYTES and (piece := source.read1(BLOCK_BYTES)):
                    if not total and not pieces:
                        piece = _text_at_start(piece)
                    pieces.append(piece)
                    size += len(piece)
            except UnreadableError as error:
                ended = BadRow("the beginning", str(error), ends=True)
            except gzip.BadGzipFile as error:
                reason = f"{error}; what follows cannot be read"
                ended = BadRow(f"after {total + size:,} decompressed bytes", reason, ends=True)
            if pieces:
                total += size
                advance(max(0, raw.tell() - done))
                done = max(done, raw.tell())
                yield b"".join(pieces)
            elif ended is None:
                return
        yield ended
