"""Atomic writes of files, their hashes, digests of settings, and safe file names."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from m2kr.errors import REMEDIES, M2KRError, first_line, system_error


def not_written(path: Path, error: BaseException) -> M2KRError:
    """Return what to tell where a file or folder could not be written: what the system says, and what helps."""
    number = system_error(error)
    reason = os.strerror(number) if number else first_line(error)
    return M2KRError(f"{path} could not be written: {reason}. {REMEDIES.get(number or 0, 'Choose another folder.')}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Explain what the system says while a file or folder is written as an error about it; see `not_written`.

    Raises:
        M2KRError: it could not be written.
    """
    try:
        yield
    except OSError as error:
        raise not_written(path, error) from error


class _AnotherWriterError(M2KRError):
    """Another process writes the same file."""


@contextmanager
def atomic(path: Path, mode: Literal["w", "wb"] = "wb", *, durable: bool = True) -> Iterator[IO[Any]]:
    r"""Open a temporary file beside ``path``; rename it to ``path`` when the block ends without an exception.

    Text is UTF-8 with "\n" line ends on every platform. A block that fails leaves ``path`` as it was.
    Unless ``durable`` is false, the bytes are on the disk before the rename, which costs milliseconds: thousands of
    small files that can be made again do without. A link under the temporary name is not followed, but replaced.

    Raises:
        M2KRError: the disk is full, the folder cannot be written, or another process writes the same file.
    """
    text: dict[str, Any] = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
    # "x" makes the file or fails, so a link that somebody puts there meanwhile is not followed either.
    with atomic_path(path, durable=False) as temporary, temporary.open(mode.replace("w", "x"), **text) as file:
        yield file
        file.flush()
        if durable:
            os.fsync(file.fileno())
        if not _is_at(temporary, file):
            raise _AnotherWriterError(f"{path} is being written by another process, too. Run one after the other.")


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield the path of a temporary file beside ``path`` for a library to write; then rename it, as `atomic` does.

    Raises:
        M2KRError: the disk is full, or the folder cannot be written.
    """
    # One name, not one for each process: what a kill left behind is overwritten by the same command later on.
    temporary = path.with_name(f".{path.name}.tmp")
    ours = True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except _AnotherWriterError:
        ours = False
        raise
    except OSError as error:
        # Only what the system says about *this* file is ours to explain; the rest belongs to the caller.
        if error.filename is not None and Path(error.filename) not in (temporary, path, *path.parents):
            raise
        raise not_written(path, error) from error
    finally:
        if ours:
            with suppress(OSError):  # where the folder is none, the error above has said so
                temporary.unlink(missing_ok=True)


def _is_at(path: Path, file: IO[Any]) -> bool:
    """Whether an open file still is the one of that path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically. Key order is kept, so equal values give equal bytes."""
    with atomic(path, "w") as file:
        json.dump(value, file, ensure_ascii=False, indent=2, allow_nan=False)
        file.write("\n")


def sha256_of(path: Path, stop: threading.Event | None = None) -> str:
    """Return the lowercase hexadecimal SHA-256 of a file's bytes, read in blocks.

    Raises:
        M2KRError: ``stop`` was set, by another thread, before the end.
    """
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        block = memoryview(bytearray(1 << 20))
        while size := file.readinto(block):
            if stop is not None and stop.is_set():
                raise M2KRError(f"hashing {path} was stopped. Run it again to finish it.")
            found.update(block[:size])
    return found.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted; those in folders that are links, too, each folder once."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [path for name in names if (path := Path(place, name)).is_file()]
    return sorted(found)


def cache_folder() -> Path:
    """Return the folder of what can be made again: ``M2KR_CACHE``, or ``m2kr`` in the user's cache.

    Raises:
        M2KRError: the user has no home.
    """
    if named := os.environ.get("M2KR_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "m2kr"
    except RuntimeError as error:
        raise M2KRError("this user has no home folder: set M2KR_CACHE to a folder.") from error


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits that identify JSON-like values: the key under which finished work is kept."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def safe_name(name: str) -> str:
    """Return ``name`` as one harmless path component ("org/model" becomes "org--model")."""
    kept = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in name.replace("/", "--"))
    return kept.strip(".-") or "unnamed"
