"""Whether shards are the files that the manifest of their benchmark lists, and whether they still are at the end.

Sizes are compared each time. The SHA-256 of a file is found once, and remembered outside of the benchmark by the file's
path, size and time of modification.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2kr.common.files import cache_folder, digest, sha256_of, write_json
from m2kr.common.json_input import read_json
from m2kr.errors import M2KRError
from m2kr.formats.manifest import MANIFEST, check_finished, is_of_its_hashes, read_manifest, shards_of
from m2kr.formats.shards import Shard
from m2kr.tasks import Task

WITHOUT_MANIFEST = "no-manifest-"
"""What the fingerprint of tables begins with that no manifest lists: it is of none that was published."""

_SETTLED_NS = 2 * 10**9
# Nanoseconds after which a change of a file is sure to show in its time, whatever the file system.


@dataclass(frozen=True)
class ReadFile:
    """A file that is read, as it was found.

    Attributes:
        path: where it is.
        bytes: its size.
        mtime_ns: time of its last modification, nanoseconds.
        sha256: of its bytes, where it was looked at.
    """

    path: Path
    bytes: int
    mtime_ns: int
    sha256: str | None = None

    @classmethod
    def at(cls, path: Path) -> ReadFile:
        """Return the file of a path as it is now.

        Raises:
            M2KRError: there is none.
        """
        try:
            state = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        return cls(path, state.st_size, state.st_mtime_ns)

    def check_unchanged(self) -> None:
        """Check that the file is as it was found. One that was written again with the same bytes is.

        Raises:
            M2KRError: it is not.
        """
        now = ReadFile.at(self.path)
        if (now.bytes, now.mtime_ns) == (self.bytes, self.mtime_ns):
            return
        if self.sha256 is None or now.bytes != self.bytes or _sha256(self.path) != self.sha256:
            raise M2KRError(
                f"{self.path} changed while it was used, so that what was made of it would be of no known data. Run it "
                "again when nothing writes to that folder."
            )


@dataclass(frozen=True)
class Identity:
    """What the tables of a task are.

    Attributes:
        fingerprint: identifies them: that of the manifest, or `WITHOUT_MANIFEST` and the hash of their hashes.
        synthetic: whether they are made up.
        files: their shards.
    """

    fingerprint: str
    synthetic: bool
    files: tuple[ReadFile, ...]


def identify(data: Path, task: Task, shards: Sequence[Path], *, trust: bool = False) -> Identity:
    """Compare shards of a task with the manifest, and return what they are. To be called before they are read.

    Args:
        data: folder of the benchmark.
        task: the task.
        shards: all shards of the splits that are used.
        trust: compare sizes alone, no hashes.

    Raises:
        M2KRError: a shard is not the file that the manifest lists, or one of these splits lacks a shard, or the task
            is just being replaced.
    """
    found = [ReadFile.at(path) for path in shards]
    manifest = read_manifest(data)
    entry = manifest["tasks"].get(task.key)
    known = KnownHashes(data)
    if entry is None:
        check_finished(data, manifest, "tasks", task.key)
        files = tuple(known.hashed(file) for file in found)
        return Identity(WITHOUT_MANIFEST + digest([file.sha256 for file in files]), False, files)
    if not is_of_its_hashes(entry):
        raise M2KRError(
            f"{data / MANIFEST} is not as it was written: the fingerprint of {task.key}, {entry['fingerprint']!r:.40}, "
            "is not that of the hashes it lists. Get it again, or build the task again with python -m m2kr.build."
        )
    listed = {shard["path"]: shard for shard in shards_of(entry)}
    _check_none_lacks(data, entry, found)
    files = tuple(_compared(data, file, listed, known, trust=trust) for file in found)
    return Identity(entry["fingerprint"], entry["synthetic"] is not None, files)


def identify_images(folder: Path, shards: Sequence[Path], *, trust: bool) -> tuple[ReadFile, ...]:
    """Compare shards of packed images with the manifest, where it lists their folder, and return the shards.

    Args:
        folder: the folder of the shards, in that of the benchmark.
        shards: which.
        trust: compare sizes alone, no hashes.

    Raises:
        M2KRError: one is not the file that the manifest lists, or they are just being replaced.
    """
    data, found = folder.parent, tuple(ReadFile.at(path) for path in shards)
    manifest = read_manifest(data)
    entries = manifest.get("images", {}).values()
    listed = {shard["path"]: shard for entry in entries for shard in entry["shards"]}
    if any(path.startswith(f"{folder.name}/") for path in listed):
        known = KnownHashes(data)
        return tuple(_compared(data, file, listed, known, trust=trust) for file in found)
    check_finished(data, manifest, "images", folder.name.removesuffix("_images"))
    return found


def are_listed(data: Path, listed: Iterable[Shard], *, trust: bool = False) -> bool:
    """Whether all shards that a manifest lists are there, of the size and, unless ``trust``, the hash that it lists."""
    known = KnownHashes(data)
    for shard in listed:
        path = data / shard["path"]
        if not path.is_file():
            return False
        file = ReadFile.at(path)
        if file.bytes != shard["bytes"] or (not trust and known.hashed(file).sha256 != shard["sha256"]):
            return False
    return True


def _check_none_lacks(data: Path, entry: dict[str, Any], found: Sequence[ReadFile]) -> None:
    """Raise `M2KRError` where the manifest lists more shards of the splits that are used."""
    names = {_name(data, file.path) for file in found}
    for splits in entry["configs"].values():
        for facts in splits.values():
            paths = [shard["path"] for shard in facts["shards"]]
            lacking = [path for path in paths if path not in names]
            if 0 < len(lacking) < len(paths):
                raise M2KRError(f"{data / lacking[0]} is missing, which {MANIFEST} lists. Get or build it again.")


def _compared(data: Path, file: ReadFile, listed: dict[str, Shard], known: KnownHashes, *, trust: bool) -> ReadFile:
    """Return a shard after comparing it with what the manifest lists."""
    shard = listed.get(_name(data, file.path))
    if shard is None:
        raise M2KRError(
            f"{file.path} is not in {data / MANIFEST}, so it is of another build or task. Move it away, or get the "
            "benchmark again."
        )
    if file.bytes == shard["bytes"]:
        if trust:
            return file
        file = known.hashed(file)
        if file.sha256 == shard["sha256"]:
            return file
    sha256 = file.sha256 or _sha256(file.path)
    remedy = "build the task again with python -m m2kr.build"
    if Path(shard["path"]).parent.name.endswith("_images"):
        remedy = "pack the images again with python -m m2kr.images pack --rerun"
    raise M2KRError(
        f"{file.path} is not the file that {MANIFEST} lists: it has {file.bytes:,} bytes of SHA-256 {sha256[:12]}, and "
        f"{shard['bytes']:,} of {shard['sha256'][:12]} are listed. Get that file again, or {remedy}."
    )


def _name(data: Path, path: Path) -> str:
    return path.relative_to(data).as_posix()


class KnownHashes:
    """Hashes of the files under a folder, each found once as long as its size and time stay the same.

    They are kept in the cache of this program, not in the folder: whoever made that has no say in them, and it may be
    read-only. Where they cannot be kept, they are found again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._file: Path | None = None
        self._known: dict[str, list[Any]] = {}
        with suppress(M2KRError, OSError):
            self._file = cache_folder() / "hashes" / f"{digest(str(self._folder))}.json"
            self._known = read_json(self._file, dict[str, list[Any]], "list of hashes", "Delete it.")

    def hashed(self, file: ReadFile) -> ReadFile:
        """Return a file with its hash.

        Raises:
            M2KRError: it changed while it was read.
        """
        name = os.path.relpath(file.path.resolve(), self._folder)
        state = [file.bytes, file.mtime_ns]
        known = self._known.get(name)
        if isinstance(known, list) and known[:2] == state and len(known) == 3:
            return replace(file, sha256=known[2])
        sha256 = _sha256(file.path)
        if ReadFile.at(file.path) != file:
            raise M2KRError(f"{file.path} changed while it was read. Run it again when nothing writes to that folder.")
        if self._file is not None and time.time_ns() - file.mtime_ns > _SETTLED_NS:
            self._known[name] = [*state, sha256]
            with suppress(M2KRError):
                write_json(self._file, self._known)
        return replace(file, sha256=sha256)


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> M2KRError:
    return M2KRError(f"{path} could not be read: {error.strerror or error}. Get or build it again.")
