"""Locks: one process at a time writes a folder or a result; the next waits or is refused, and is told for whom.

A lock is an empty file, ``.lock`` in the folder or ``.<name>.lock`` beside what it guards, and beside it ``-holder``
says who holds it. Both are gone when the work ends. After a kill they stay, free, until the next command.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.common.files import not_written, write_json
from m2kr.common.json_input import read_json
from m2kr.common.progress import say
from m2kr.errors import M2KRError

if TYPE_CHECKING:
    from filelock import FileLock

_LOCK = ".lock"
_REFRESH = 0.1
# Seconds between two looks at a lock that is waited for.


@contextmanager
def exclusive(lock: Path, what: object, *, wait: bool = False, quiet: bool = False) -> Iterator[None]:
    """Be the only process that holds a lock while the block runs.

    Args:
        lock: its file; the folder is made if need be, and removed again if nothing was written into it.
        what: what it guards, for messages.
        wait: wait for a process that holds it, instead of refusing.
        quiet: do not say that this waits.

    Raises:
        M2KRError: another process holds it (which, and since when), or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    folder, holder = lock.parent, _holder(lock)
    held = FileLock(lock)
    try:
        existed = folder.exists()
        try:
            _acquire(held, lock, timeout=0)
        except Timeout as error:
            if not wait:
                raise M2KRError(
                    f"{what} is being made by {_held_by(holder)}. Wait until that has ended, or choose another --out."
                ) from error
            say(f"{what} is being written by {_held_by(holder)}: waiting until that has ended", quiet=quiet)
            _acquire(held, lock, timeout=-1)
    except OSError as error:
        raise not_written(folder, error) from error
    try:
        write_json(holder, {"pid": os.getpid(), "since": datetime.now().astimezone().isoformat(" ", "seconds")})
        yield
    finally:
        try:
            # Before the release, as they may be another's after it. Who has opened the lock meanwhile opens it anew.
            for path in (holder, lock):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        finally:
            held.release()
        if not existed:
            with suppress(OSError):  # it holds something, as it should
                folder.rmdir()


def _acquire(held: FileLock, lock: Path, timeout: int) -> None:
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            if lock.is_symlink():
                lock.unlink()  # not ours, and not to be followed
            held.acquire(timeout=timeout, poll_interval=_REFRESH)
            return
        except (FileNotFoundError, FileExistsError):
            if lock.parent.exists():
                raise
            # Whoever held it has taken away the folder, which was empty.


def one_writer(folder: Path, *, wait: bool = True, quiet: bool = False) -> AbstractContextManager[None]:
    """Be the only process that writes a folder while the block runs; see `exclusive`."""
    return exclusive(folder / _LOCK, folder, wait=wait, quiet=quiet)


def is_left_locked(folder: Path) -> bool:
    """Whether `one_writer` has left a lock in a folder, which a kill does, or holds it now."""
    return (folder / _LOCK).exists() or _holder(folder / _LOCK).exists()


def clear_lock(folder: Path) -> None:
    """Delete the lock that a kill has left in a folder; not while a process holds it."""
    if is_left_locked(folder):
        with suppress(M2KRError), one_writer(folder, wait=False):
            pass


def is_unclaimed(folder: Path, note: str) -> bool:
    """Whether a folder is new, or holds no more than a kill leaves before its first file, ``note``, has its name."""
    if not folder.exists():
        return True
    holder = _holder(folder / _LOCK).name
    ours = {f".{note}.tmp", _LOCK, holder, f".{holder}.tmp"}
    return folder.is_dir() and all(path.name in ours for path in folder.iterdir())


def _holder(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}-holder")


def _held_by(holder: Path) -> str:
    try:
        found = read_json(holder, dict[str, Any], "note of a lock", "")
        return f"process {found['pid']:d}, since {found['since']:.40}"
    except (M2KRError, ValueError, TypeError, KeyError):
        return "another process"
