"""Options of ``python -m m2kr.build``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m2kr.common.cli import MOST_WORKERS, option
from m2kr.common.options import QuietOption, SeedOption
from m2kr.errors import M2KRError, did_you_mean
from m2kr.tasks import RELEASES, get_task


@dataclass(frozen=True, kw_only=True)
class BuildOptions(SeedOption, QuietOption):
    """What the command was given."""

    raw: Path = option("folder with one folder per raw release (see --list)", Path("raw"))
    out: Path = option("folder of the benchmark", Path("m2kr-data"))
    tasks: str | None = option("comma-separated, or all; default those whose files are there", None)
    source: tuple[str, ...] = option("a release kept elsewhere", (), metavar="NAME=PATH")
    set: tuple[str, ...] = option("an option of a source", (), metavar="TASK.OPTION=VALUE")
    on_bad_rows: Literal["error", "skip"] = option("whether rows that cannot be used end the build", "error")
    allow_missing: bool = option("build what is there, list what is not", False)
    images: tuple[str, ...] = option("check that every image is there", (), metavar="[TASK=]ROOT")
    workers: int = option("threads; default one per core; changes no byte", 0, most=MOST_WORKERS)
    list: bool = option("show tasks and the raw files they need", False)

    @property
    def sources(self) -> dict[str, Path]:
        """Release folder -> path, for those that ``--source`` names.

        Raises:
            M2KRError: there is no such release or folder.
        """
        sources = {}
        for pair in self.source:
            name, separator, path = pair.partition("=")
            if not separator or not path:
                raise M2KRError(f"--source {pair!r} is not of the form NAME=PATH.")
            if name not in RELEASES:
                raise M2KRError(
                    f"--source names the release {name!r}, which there is not.{did_you_mean(name, RELEASES)}"
                )
            if not Path(path).is_dir():
                raise M2KRError(f"--source {name}: {path} is not a folder.")
            sources[name] = Path(path)
        return sources

    @property
    def source_options(self) -> dict[str, dict[str, str]]:
        """Task -> what ``--set`` gives of its source's options.

        Raises:
            M2KRError: one is not of that form, or there is no such task.
        """
        options: dict[str, dict[str, str]] = {}
        for pair in self.set:
            name, separator, value = pair.partition("=")
            task, dot, option_name = name.partition(".")
            if not separator or not dot:
                raise M2KRError(f"--set {pair!r} is not of the form TASK.OPTION=VALUE.")
            options.setdefault(get_task(task).key, {})[option_name] = value
        return options
