"""What the tables of a task depend on: where its raw files are, and every choice that was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct

from m2kr.common.json_input import read_json
from m2kr.parsing.rejected import OnBadRows
from m2kr.parsing.releases import possible_names
from m2kr.sources.options import make_options
from m2kr.tasks import RELEASES, Task


class _Mark(Struct):
    """What a made-up world says of itself, as far as a build wants to know it."""

    generator: str
    seed: int
    scale: int | float
    options: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class TaskInputs:
    """The inputs of one task's build; of equal ones, and equal raw files, come equal tables.

    Attributes:
        task: the task.
        folders: folder of each of its releases.
        options: ``Options`` of its source.
        seed: of everything drawn by chance.
        on_bad_rows: "error" stops at a row that cannot be used; "skip" leaves such rows out and lists them.
        allow_missing: build what is there; missing files and halves are listed.
        synthetic: generator, seed and scale of the made-up world that the releases are of, if they are.
    """

    task: Task
    folders: dict[str, Path]
    options: Any
    seed: int
    on_bad_rows: OnBadRows
    allow_missing: bool
    synthetic: dict[str, Any] | None

    @property
    def choices(self) -> dict[str, Any]:
        """Every choice by name, as the manifest records them."""
        names = ("seed", "on_bad_rows", "allow_missing")
        return {**asdict(self.options), **{name: getattr(self, name) for name in names}}

    def absent(self) -> list[str]:
        """Return "<release>/<name>" of the raw files that would be read, or might with some option, if they were there.

        Of the names a file may have, plain or ``.gz``, those count that are tried before the one which is there.
        """
        absent = []
        for folder, place in self.folders.items():
            release = RELEASES[folder]
            for name in (*release.files, *release.optional):
                for candidate in possible_names(name):
                    if (place / candidate).is_file():
                        break
                    absent.append(f"{folder}/{candidate}")
        return absent


def task_inputs(
    task: Task,
    raw_root: Path,
    *,
    sources: dict[str, Path] | None = None,
    options: dict[str, Any] | None = None,
    seed: int = 0,
    on_bad_rows: OnBadRows = "error",
    allow_missing: bool = False,
) -> TaskInputs:
    """Return the inputs of a task; what is not said here is as in `TaskInputs`.

    Releases are folders of ``raw_root``, but for those that ``sources`` names. ``options`` of the task's source, by
    name, go before those that a made-up release brings along.

    Raises:
        M2KRError: an option does not fit, or the mark of a made-up world cannot be read.
    """
    folders = {folder: (sources or {}).get(folder, raw_root / folder) for folder in task.releases}
    synthetic: dict[str, Any] | None = None
    defaults: dict[str, Any] = {}
    for folder in folders.values():
        path = folder / "SYNTHETIC.json"
        if not path.is_file():
            continue
        mark = read_json(path, _Mark, "mark of m2kr.synthetic", "Make that world again.")
        synthetic = {"generator": mark.generator, "seed": mark.seed, "scale": mark.scale}
        defaults |= mark.options.get(task.key, {})
    settings = make_options(task.key, {**defaults, **(options or {})})
    return TaskInputs(task, folders, settings, seed, on_bad_rows, allow_missing, synthetic)
