"""The command ``python -m m2kr.images pack``, which packs the images of tasks into Parquet shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m2kr.common.cli import option, parse
from m2kr.common.options import QuietOption, RerunOption, TasksOption
from m2kr.errors import M2KRError, run_command
from m2kr.tasks import TASKS, parse_tasks

_EXAMPLES = """examples:
  python -m m2kr.images pack --data m2kr-data --tasks OKVQA,LLaVA --images raw
  python -m m2kr.images pack --data m2kr-data --tasks KVQA --images KVQA=downloads/KVQAimgs.tar.gz
"""


@dataclass(frozen=True, kw_only=True)
class PackOptions(TasksOption, RerunOption, QuietOption):
    """Options of ``python -m m2kr.images``."""

    command: Literal["pack"] = option("what to do: pack images into Parquet shards", positional=True)
    data: Path = option("folder of the benchmark")
    images: tuple[str, ...] = option("folder, .zip, .tar or .tar.gz", metavar="[TASK=]ROOT")
    out: Path | None = option("another folder to write to; default DATA", None)
    allow_missing: bool = option("pack the images that are there", False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module.

    Raises:
        M2KRError: the folder has none of the tasks, or images are missing.
    """
    options = parse(
        PackOptions,
        argv,
        prog="python -m m2kr.images",
        description="Put the images that a task's queries name into Parquet shards, DATA/<TASK>_images, which "
        "evaluation and load_dataset read. Each image is there once, with the bytes it has.",
        epilog=_EXAMPLES,
    )
    from m2kr.formats.shards import tasks_in
    from m2kr.images.pack import pack_task
    from m2kr.images.roots import parse_roots

    roots = parse_roots(options.images)
    there = [key for key in tasks_in(options.data) if TASKS[key].reads_images]
    if not there:
        raise M2KRError(f"{options.data} holds no task that asks with images. Build one with python -m m2kr.build.")
    tasks = parse_tasks(options.tasks, there)
    for task in tasks:
        if task.key not in there:
            why = "asks without images" if not task.reads_images else f"is not in {options.data}"
            raise M2KRError(f"there is nothing to pack: {task.key} {why}. Tasks to pack: {', '.join(there)}.")
    out = options.out or options.data
    for task in tasks:
        facts = pack_task(
            options.data,
            task,
            roots,
            out=out,
            allow_missing=options.allow_missing,
            rerun=options.rerun,
            quiet=options.quiet,
        )
        print(f"{out / task.images_config}: {facts['rows']:,} images, {facts['bytes']:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
