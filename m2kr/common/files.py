"""Reading ahead, writing files so that a reader never sees half of one, and hashing them."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, Self, TypeVar

from m2kr.errors import M2KRError

_T = TypeVar("_T")


@contextmanager
def atomic(path: Path, mode: Literal["w", "wb"] = "wb", *, durable: bool = True) -> Iterator[IO[Any]]:
    r"""Open a temporary file beside ``path``; rename it to ``path`` when the block ends without an exception.

    Text is UTF-8 with "\n" line ends on every platform. A block that fails leaves ``path`` as it was.
    Unless ``durable`` is false, the bytes are on the disk before the rename, which costs milliseconds: thousands of
    small files that can be made again do without.

    Raises:
        M2KRError: the disk is full, or the folder cannot be written.
    """
    # One name, not one for each process: what a kill left behind is overwritten by the same command later on.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text: dict[str, Any] = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
        with temporary.open(mode, **text) as file:
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


def ahead(items: Iterable[_T], depth: int = 1) -> Iterator[_T]:
    """Yield ``items`` in order while a thread makes the next ones: reading overlaps with what is done with them.

    An exception of ``items`` is raised where it would have been. The thread ends when the caller stops.
    """
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(last: bool, value: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((last, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(False, item):
                    return
            put(True, None)
        except BaseException as error:
            put(True, error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            last, value = waiting.get()
            if not last:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        stopped.set()
        thread.join()


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


class Hashing:
    """The SHA-256 of files, found in a thread of its own, one after the other.

    A file can be hashed while it is read for something else: then the disk is asked once. What is found is kept in
    ``cache``, and a file of the same path, size and time is not read again. When the block ends, hashing does.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache
        self.known: dict[str, str] = {}
        if cache is not None and cache.exists():
            self.known = json.loads(cache.read_text(encoding="utf-8"))
        self.begun: dict[Path, Future[str]] = {}
        self.stop = threading.Event()
        self.beside = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.beside.shutdown(cancel_futures=True)

    def begin(self, path: Path) -> Future[str]:
        """Have a file hashed, unless it is already."""
        if path not in self.begun:
            self.begun[path] = self.beside.submit(self._hash, path)
        return self.begun[path]

    def of(self, path: Path) -> str:
        """Return the hash of a file, begun or not, waiting for it."""
        return self.begin(path).result()

    def _hash(self, path: Path) -> str:
        state = path.stat()
        key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
        if key not in self.known:
            self.known[key] = sha256_of(path, self.stop)
            if self.cache is not None:
                write_json(self.cache, self.known)
        return self.known[key]


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits that identify JSON-like values: the key under which finished work is kept."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def safe_name(name: str) -> str:
    """Return ``name`` as one harmless path component ("org/model" becomes "org--model")."""
    kept = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in name.replace("/", "--"))
    return kept.strip(".-") or "unnamed"
