"""Reading an archive that was cut into parts, ``X.zip.001``, ``X.zip.002`` and so on, as if they were joined."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import BinaryIO, cast

FIRST_PART = ".001"
"""What the name of the first part ends in; it stands for all of them."""


def parts_of(path: Path) -> list[Path]:
    """Return the parts of a file in order, as far as there is no gap; of one that is not cut, the file itself."""
    if path.suffix != FIRST_PART:
        return [path]
    numbered = (path.with_suffix(f".{number:03d}") for number in itertools.count(1))
    return list(itertools.takewhile(Path.is_file, numbered))


def open_whole(path: Path) -> BinaryIO:
    """Open a file for reading, or all of its parts as one file."""
    parts = parts_of(path)
    return path.open("rb") if len(parts) < 2 else cast(BinaryIO, io.BufferedReader(_Joined(parts)))


def whole_size(path: Path) -> int:
    """Return the bytes of a file, or of all its parts together."""
    return sum(part.stat().st_size for part in parts_of(path))


class _Joined(io.RawIOBase):
    """Files one behind the other."""

    def __init__(self, parts: list[Path]) -> None:
        self._files = [part.open("rb", buffering=0) for part in parts]
        sizes = (file.seek(0, io.SEEK_END) for file in self._files)
        self._ends = list(itertools.accumulate(sizes))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}[whence]
        if self._at < 0:
            raise ValueError(f"there is nothing at {self._at}")
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        for file, end in zip(self._files, self._ends, strict=True):
            if self._at < end:
                file.seek(self._at - end, io.SEEK_END)
                count = file.readinto(view[: end - self._at]) or 0
                self._at += count
                return count
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
