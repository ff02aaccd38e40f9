"""Hashing raw files in a thread beside the build, with a cache of hashes of files that did not change."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

from m2kr.common.files import sha256_of, write_json
from m2kr.common.json_input import read_json
from m2kr.errors import M2KRError


class FileHasher:
    """The SHA-256 of files, found in a thread of its own, one after the other.

    A file can be hashed while it is read for something else: then the disk is asked once. What is found is kept in
    ``cache``, and a file of the same path, size and time is not read again. When the block ends, hashing does.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache
        self.known: dict[str, str] = {}
        if cache is not None and cache.exists():
            with suppress(M2KRError):  # damaged: all is hashed again
                self.known = read_json(cache, dict[str, str], "list of hashes", "Delete it.")
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
