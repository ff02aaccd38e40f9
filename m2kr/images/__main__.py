"""The commands ``python -m m2kr.images pack``, which packs the images of tasks, and ``attach``, for passages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m2kr.common.cli import option, parse
from m2kr.common.options import HERE, QuietOption, RerunOption, TasksOption
from m2kr.errors import M2KRError, run_command
from m2kr.tasks import TASKS, get_task, parse_tasks

_EXAMPLES = """examples:
  python -m m2kr.images pack --data m2kr-data --tasks OKVQA,LLaVA --images raw
  python -m m2kr.images pack --data m2kr-data --tasks KVQA --images KVQA=downloads/KVQAimgs.tar.gz
  python -m m2kr.images attach --data m2kr-data --task EVQA --passages evqa_passages.jsonl
"""


@dataclass(frozen=True, kw_only=True)
class ImagesOptions:
    """The argument of ``python -m m2kr.images``: which command."""

    command: Literal["pack", "attach"] = option(
        "pack: images into Parquet shards; attach: a list of pictures to passages; each has its own --help",
        positional=True,
    )


@dataclass(frozen=True, kw_only=True)
class PackOptions(TasksOption, RerunOption, QuietOption):
    """Options of ``python -m m2kr.images pack``."""

    data: Path = option("folder of the benchmark", Path(HERE))
    images: tuple[str, ...] = option("folder, .zip, .tar or .tar.gz; or hub", metavar="[TASK=]ROOT")
    out: Path | None = option("another folder to write to; default DATA", None)
    allow_missing: bool = option("pack the images that are there", False)


@dataclass(frozen=True, kw_only=True)
class AttachOptions(RerunOption, QuietOption):
    """Options of ``python -m m2kr.images attach``."""

    data: Path = option("folder of the benchmark, as m2kr.build made it", Path(HERE))
    task: str = option("whose passages")
    passages: Path = option(
        "JSON lines, gzipped or not: passage_id (or title), passage_image_path, and perhaps passage_text",
        metavar="FILE",
    )
    other_texts: bool = option("attach to passages whose text is not the list's, too", False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; see the module.

    Raises:
        M2KRError: as the command.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    chosen = parse(
        ImagesOptions,
        given[:1],
        prog="python -m m2kr.images",
        description="Pack the images of tasks, or attach pictures to their passages.",
        epilog=_EXAMPLES,
    )
    return {"pack": _pack, "attach": _attach}[chosen.command](given[1:])


def _pack(argv: Sequence[str]) -> int:
    options = parse(
        PackOptions,
        argv,
        prog="python -m m2kr.images pack",
        description="Put the images that a task's queries and passages name into Parquet shards, DATA/<TASK>_images, "
        "which evaluation and load_dataset read. Each image is there once, with the bytes it has.",
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


def _attach(argv: Sequence[str]) -> int:
    options = parse(
        AttachOptions,
        argv,
        prog="python -m m2kr.images attach",
        description="Bring a list of pictures to the passages of a built task, as their column img_path. The tables "
        "are others then, with another fingerprint.",
        epilog=_EXAMPLES,
    )
    from m2kr.images.attach import attach

    task = get_task(options.task)
    facts = attach(
        options.data,
        task,
        options.passages,
        other_texts=options.other_texts,
        rerun=options.rerun,
        quiet=options.quiet,
    )
    counts = facts["counts"]
    for split in (f"{split}_passages" for split in task.splits):
        if split in counts:
            print(f"{options.data / task.passages_config}/{split}: {counts[split]:,} passages have a picture")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
