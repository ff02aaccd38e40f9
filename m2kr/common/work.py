"""Resuming interrupted work: notes on disk say what is finished, so that the same command goes on after it.

A note holds facts in a JSON file. It is written atomically after the work that it tells of, under a key, the `digest`
of all that the work depends on, and under another key it counts as empty. The three uses:

    note = Note(folder / "table.json", key)              # something made at once
    if not note.facts:
        note.save(shards=write(folder))

    note = Note(folder / "encoding.json", key)           # rows in chunks; time and memory are added up
    note.in_chunks(encode_and_append, len(texts), 2048, "encode passages")
    note.seconds, note.memory

    claim(out / "run.json", settings, "run")             # a folder of a user's choice, for one run's files

A `Workplace` is the folder for the unfinished work on one result, and the lock that one process at a time holds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from m2kr.common.files import digest, write_json, writing
from m2kr.common.json_input import as_record, read_json
from m2kr.common.locks import exclusive, is_unclaimed
from m2kr.common.measure import peak_memory, reset_peak_memory
from m2kr.common.progress import progress
from m2kr.errors import M2KRError


class _Progress(Struct):
    """What `Note.in_chunks` notes."""

    rows: Annotated[int, Meta(ge=0)] = 0
    seconds: float = 0.0
    memory: int = 0


class Note:
    """Facts of finished work, in a file.

    Args:
        path: the file; it need not exist.
        key: of the work. None takes the facts of any key, and that key.
        whole: whether what the facts tell of is still there; facts of which it is not are forgotten.
    """

    def __init__(
        self, path: Path, key: str | None = None, *, whole: Callable[[dict[str, Any]], bool] = lambda facts: True
    ) -> None:
        self.path = path
        self.key = key
        self.facts: dict[str, Any] = {}
        try:
            found = read_json(path, dict[str, Any], "note", "It is made again.")
            of = found.pop("key")
            if "rows" in found:  # other notes have times of their own
                as_record(found, _Progress)
            if key in (None, of) and whole(found):
                self.key, self.facts = of, found
        except (M2KRError, OSError, ValueError, TypeError, KeyError, AttributeError):
            pass  # none, or none of ours: the work is done again

    def save(self, **facts: Any) -> None:
        """Add facts, or replace those of the same names; when this returns, they survive a crash."""
        self.facts |= facts
        write_json(self.path, {"key": self.key, **self.facts})

    @property
    def rows(self) -> int:
        """Rows finished by `in_chunks`."""
        return int(self.facts.get("rows", 0))

    @property
    def seconds(self) -> float:
        """Wall time of `in_chunks`, over all interruptions."""
        return float(self.facts.get("seconds", 0.0))

    @property
    def memory(self) -> int:
        """Largest resident memory during `in_chunks`, bytes."""
        return int(self.facts.get("memory", 0))

    def in_chunks(
        self,
        make: Callable[[range], None],
        count: int,
        size: int,
        description: str,
        *,
        first: int | None = None,
        unit: str = "rows",
        quiet: bool = False,
    ) -> None:
        """Call ``make`` with each range of rows that is not finished, and note it with its time and memory.

        A range begins at a multiple of ``size``, as in a run that nothing interrupted, so that batches in it are the
        same. What ``make`` writes has to survive a crash when it returns.

        Args:
            make: does the rows of a range, and may raise.
            count: rows in all.
            size: rows between two notes: what a kill costs at most.
            description: for the progress bar.
            first: the row to go on at, where the work itself knows better than the note.
            unit: of the progress bar.
            quiet: no progress.
        """
        row = self.rows if first is None else first
        with progress(count, description, unit=unit, quiet=quiet) as bar:
            bar.initial = bar.n = row  # the rate is that of what is left
            reset_peak_memory()
            start = time.perf_counter()
            while row < count:
                rows = range(row, min(row - row % size + size, count))
                make(rows)
                row, now = rows.stop, time.perf_counter()
                memory = max(self.memory, peak_memory())
                self.save(rows=row, of=count, seconds=self.seconds + now - start, memory=memory)
                start = now
                bar.update(len(rows))
        if count and (self.rows, self.facts.get("of")) != (row, count):
            # The work knew better: a kill came after its last rows were made, and before they were noted.
            self.save(rows=row, of=count, seconds=self.seconds, memory=self.memory)


def claim(note: Path, settings: dict[str, Any], what: str) -> None:
    """Make the folder of ``note`` that of the work with these settings, unless it is another's.

    Args:
        note: file of the settings, in a folder that need not exist.
        settings: all that the result depends on, JSON-like.
        what: the work ("run"), for messages.

    Raises:
        M2KRError: the folder holds work with other settings (which is said), or other things.
    """
    folder = note.parent
    if not note.is_file():
        if not is_unclaimed(folder, note.name):
            raise M2KRError(f"{folder} is there and holds no {note.name}, so it is no {what}'s: choose another --out.")
        write_json(note, settings)
        return
    found = read_json(note, dict[str, Any], f"note of a {what}", f"Delete {folder}, or choose another --out.")
    other = [name for name in {**found, **settings} if digest(found.get(name)) != digest(settings.get(name))]
    if other:
        raise M2KRError(
            f"{folder} holds a {what} with other settings ({', '.join(other)}): delete it, or choose another --out."
        )


class Workplace:
    """The folder of the unfinished work on a result, ``.<name>.work-<key>`` beside it, and the lock of that result.

    Other settings have another key, so no command reads what one with other settings has begun.

    Args:
        out: folder of the result; it need not exist.
        name: what the files of the result are called.
        key: of all that the result depends on.
    """

    def __init__(self, out: Path, name: str, key: str) -> None:
        self.out, self.name, self.key = out, name, key
        self.folder = out / f".{name}.work-{key}"
        self._lock = out / f".{name}.lock"

    def locked(self) -> AbstractContextManager[None]:
        """Be the only process that works on the result, under any settings.

        Raises:
            M2KRError: another one is (which, and since when), or the folder cannot be written.
        """
        return exclusive(self._lock, self.out / self.name)

    def tidy(self, clear: Callable[[], None] | None = None) -> None:
        """Call ``clear``, by default that of this, if a kill left something; not while another process is at it."""
        if any(any(self.out.glob(f".{self.name}.{what}")) for what in ("work*", "lock*")):
            with suppress(M2KRError), self.locked():
                (clear or self.clear)()

    def clear(self) -> None:
        """Delete all unfinished work on the result, under any settings. To be called inside of `locked` only."""
        for folder in self.out.glob(f".{self.name}.work*"):
            discard(folder)


def discard(path: Path) -> None:
    """Delete a working folder, if it is there; of a link, the link alone."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def tidy_place(target: Path) -> None:
    """Delete what a kill in `move_into_place` has left of what had the name before, after the new one has it."""
    discard(_replaced(target))


def move_into_place(work: Path, target: Path) -> None:
    """Give a finished working folder its final name, in the place of what had that name.

    What had it is renamed first, to ``.<name>.replaced``, and deleted last. So there is the old folder, none or the new
    one, and never half of one, whenever this is killed; the next call for this target deletes what is left.
    """
    replaced = _replaced(target)
    with writing(target):
        discard(replaced)
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            target.replace(replaced)
        work.replace(target)
        discard(replaced)
