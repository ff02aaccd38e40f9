"""The command ``python -m m2kr.build``: build the benchmark from raw releases.

What is finished is kept: the same command after a kill goes on from the last finished file, and ends with the same
bytes as if nothing had happened. A finished task is not built again as long as everything that it came from is as it
was: this program's version, the options, every raw file that was read (by its sha256), and the absence of those that
were not there. Images are no part of what is built, so with ``--images`` they are looked for each time, finished or
not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from m2kr.build.options import BuildOptions
from m2kr.common.cli import parse
from m2kr.common.memory import keep_freed
from m2kr.common.progress import say
from m2kr.errors import M2KRError, MissingReleaseError, run_command
from m2kr.tasks import RELEASES, TASKS, Task, parse_tasks

_EXAMPLES = """examples:
  python -m m2kr.build
  python -m m2kr.build --list
  python -m m2kr.build --raw raw --out m2kr-data --tasks MSMARCO,OKVQA
  python -m m2kr.build --raw raw --out m2kr-data --tasks LLaVA --source llava_instruct=/data/llava --allow-missing
  python -m m2kr.build --raw raw --out m2kr-data --set MSMARCO.pool=100000 --on-bad-rows skip
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        BuildOptions,
        argv,
        prog="python -m m2kr.build",
        description="Build M2KR from the raw releases of its datasets.",
        epilog=_EXAMPLES,
    )
    if options.list:
        _list()
        return 0
    raw, out = options.raw, options.out
    if not raw.is_dir():
        raise M2KRError(
            f"--raw: {raw} is not a folder. It should hold one folder per release; python -m m2kr.build --list says "
            f"which, and where to get them. To try it, make a small made-up world: python -m m2kr.synthetic --out {raw}"
        )
    if out.exists() and not out.is_dir():
        raise M2KRError(f"--out {out} is a file. Name a folder.")
    workers = options.workers or os.cpu_count() or 1
    _prepare_polars(workers)

    from m2kr.build.inputs import task_inputs
    from m2kr.build.task import build_task
    from m2kr.formats.manifest import read_manifest
    from m2kr.images.roots import parse_roots
    from m2kr.sources.options import make_options

    tasks = parse_tasks(options.tasks or "all")
    lacking: list[tuple[Task, MissingReleaseError]] = []
    sources, source_options = options.sources, options.source_options
    for name, given in source_options.items():
        make_options(name, given)  # a wrong one is said before anything is built
    roots = parse_roots(options.images) if options.images else None
    built = 0
    for task in tasks:
        images = roots.for_task(task) if roots else None
        inputs = task_inputs(
            task,
            raw,
            sources=sources,
            options=source_options.get(task.key),
            seed=options.seed,
            on_bad_rows=options.on_bad_rows,
            allow_missing=options.allow_missing,
        )
        try:
            entry = build_task(inputs, out, images=images, workers=workers, rerun=False, quiet=options.quiet)
        except MissingReleaseError as error:
            if options.tasks is not None:
                raise
            say(f"{task.key}: not built, a file is missing", quiet=options.quiet)
            lacking.append((task, error))
            continue
        if entry is None:
            say(f"{task.key}: nothing could be built")
            continue
        built += 1
        for config, splits in entry["configs"].items():
            sizes = ", ".join(f"{split} {facts['rows']:,}" for split, facts in splits.items())
            say(f"  {config}: {sizes}", quiet=options.quiet)
    for task, reason in lacking:
        print(f"{task.key} was not built: {reason}")
    if not built:
        raise M2KRError("nothing was built, for the reasons above. See --list for what is needed and where to get it.")
    example = f"load_dataset({str(out)!r}, '{next(iter(read_manifest(out)['tasks']))}_data')"
    print(f"{out}: {built} of {len(tasks)} tasks; read them with {example}")
    return 0


def _list() -> None:
    for task in TASKS.values():
        print(f"{task.key:9} {task.kind:4} {', '.join(task.splits)}")
        for folder in task.releases:
            release = RELEASES[folder]
            print(f"          {folder}/: {', '.join(release.files)}")
            if release.optional:
                print(f"          not needed, but read where they are: {', '.join(release.optional)}")
            print(f"          {release.title}, {release.url}, licence {release.licence}")


def _prepare_polars(workers: int) -> None:
    """Set what Polars reads when it is first imported, which is why nothing above imports it.

    Its own 100,000 rows a step are hundreds of megabytes where a row is an article; steps of 2,000 are as fast. So are
    those of the row groups that it reads ahead. Its allocator is to keep what is freed for a while, and so is the C
    library's; but not for good in threads that have ended their work, for which it needs a thread of its own.
    """
    os.environ.setdefault("POLARS_MAX_THREADS", str(workers))
    os.environ.setdefault("POLARS_IDEAL_MORSEL_SIZE", "2000")
    os.environ.setdefault("POLARS_ROW_GROUP_PREFETCH_SIZE", "1")
    os.environ.setdefault("POLARS_MAX_CONCURRENT_SCANS", "1")
    os.environ.setdefault("_RJEM_MALLOC_CONF", "background_thread:true,dirty_decay_ms:2000,muzzy_decay_ms:0")
    keep_freed()


if __name__ == "__main__":
    raise SystemExit(run_command(main))
