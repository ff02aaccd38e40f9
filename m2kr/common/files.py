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

from m2kr.errors import M2KRError


@contextmanager
def atomic(path: Path, mode: Literal["w", "wb"] = "wb", *, durable: bool = True) -> Iterator[IO[Any]]:
    r"""Open a temporary file beside ``path``; rename it to ``path`` when the block ends without an exception.

    Text is UTF-8 with "\n" line ends on every platform. A block that fails leaves ``path`` as it was.
    Unless ``durable`` is false, the bytes are on the disk before the rename, which costs milliseconds: thousands of
    small files that can be made again do without. A link under the temporary name is not followed, but replaced.

    Raises:
        M2KRError: the disk is full, or the folder cannot be written.
    """
    # One name, not one for each process: what a kill left behind is overwritten by the same command later on.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text: dict[str, Any] = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
        temporary.unlink(missing_ok=True)
        # "x" makes the file or fails, so a link that somebody puts there meanwhile is not followed either.
        with temporary.open(mode.replace("w", "x"), **text) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # Only what the system says about *this* file is ours to explain; the rest belongs to the caller.
        if error.filename not in (None, str(temporary), str(path), str(path.parent)):
            raise
        reason = error.strerror or type(error).__name__
        raise M2KRError(f"{path} could not be written: {reason}. Free some space or choose another folder.") from error
    finally:
        with suppress(OSError):  # where the folder is none, the error above has said so
            temporary.unlink(missing_ok=True)


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


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits that identify JSON-like values: the key under which finished work is kept."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def safe_name(name: str) -> str:
    """Return ``name`` as one harmless path component ("org/model" becomes "org--model")."""
    kept = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in name.replace("/", "--"))
    return kept.strip(".-") or "unnamed"
