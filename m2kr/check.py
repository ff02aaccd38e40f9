"""Check a benchmark folder: ``python -m m2kr.check DATA [--images ROOT]``.

Files against the manifest (there, nothing else there, size, rows, SHA-256), columns and types, the rules of the format
(`m2kr.formats.rules.check_split`), and every image that a query or passage names: there, whole, decodable, of sane
size. A folder without a manifest, such as the published benchmark, is checked too, but for its hashes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2kr.common.cli import MOST_WORKERS, option, parse
from m2kr.common.options import HERE, ImagesOption, QuietOption, TasksOption
from m2kr.common.progress import progress, say
from m2kr.errors import M2KRError, first_line, run_command
from m2kr.formats.report import Report, table
from m2kr.tasks import TASKS, Task, parse_tasks

if TYPE_CHECKING:
    from m2kr.formats.shards import Shard
    from m2kr.images.roots import ImageRoots

_SHOWN = 10
_EXAMPLES = """examples:
  python -m m2kr.check m2kr-data
  python -m m2kr.check m2kr-data --images raw --report check.json
  python -m m2kr.check m2kr-data --against published
  python -m m2kr.check m2kr-data --tasks KVQA --images KVQA=downloads/KVQAimgs.tar.gz

exit code: 0 nothing found, 1 problems found, 2 the check could not be done
"""


def check(
    data: Path, tasks: Sequence[Task], *, images: ImageRoots | None = None, workers: int = 1, quiet: bool = False
) -> Report:
    """Check tasks of a benchmark folder.

    Args:
        data: the folder.
        tasks: which. Of a task that is neither in the folder nor in its manifest, nothing is said.
        images: where images are. Without it, those that are packed in the folder are checked, and no others.
        workers: threads that decode images.
        quiet: no progress.

    Raises:
        M2KRError: the manifest cannot be read.
    """
    from m2kr.formats.manifest import (
        CARD,
        CROISSANT,
        MANIFEST,
        check_finished,
        is_of_its_hashes,
        read_manifest,
        shards_of,
    )

    report = Report(hashes_checked=(data / MANIFEST).exists())
    manifest = read_manifest(data)
    for task in tasks:
        entry = manifest["tasks"].get(task.key, {})
        if entry and not is_of_its_hashes(entry):
            report.add(task.key, "hash", MANIFEST, "the fingerprint is not that of the hashes it lists")
        for part in ("tasks", "images"):
            try:
                check_finished(data, manifest, part, task.key)
            except M2KRError as error:
                report.add(task.key, "file", MANIFEST, str(error))
        shards = [*shards_of(entry), *manifest.get("images", {}).get(task.key, {}).get("shards", [])]
        folders = [folder for config in _configs(task) if (folder := data / config).is_dir()]
        if not shards and not folders:
            continue
        report.tasks[task.key] = {"files": 0, "rows": 0, "images": 0, "scaled_images": 0}
        if report.hashes_checked:
            _check_files(report, data, task, shards, quiet=quiet)
            listed = {shard["path"] for shard in shards}
            for file in sorted(file for folder in folders for file in folder.rglob("*") if file.is_file()):
                name = file.relative_to(data).as_posix()
                if name not in listed and not file.name.startswith("."):
                    report.add(task.key, "file", name, "the manifest does not list this file")
        _check_tables(report, data, task, entry.get("configs", {}))
        if task.reads_images and (data / task.data_config).is_dir():
            _check_images(report, data, task, images, workers=workers, quiet=quiet)
    if report.hashes_checked and len(tasks) == len(TASKS):
        known = {CARD, MANIFEST, CROISSANT, "quarantine", *(config for task in tasks for config in _configs(task))}
        for path in sorted(data.iterdir()):
            if path.name not in known and not path.name.startswith("."):
                report.add("", "file", path.name, "this belongs to no task and to no benchmark folder")
    return report


def _configs(task: Task) -> tuple[str, ...]:
    return task.data_config, task.passages_config, task.images_config


def _check_files(report: Report, data: Path, task: Task, shards: list[Shard], *, quiet: bool) -> None:
    with progress(sum(shard["bytes"] for shard in shards), f"{task.key} files", unit="B", quiet=quiet) as bar:
        for shard in shards:
            if problem := _file_problem(data, shard):
                report.add(task.key, problem[0], shard["path"], problem[1])
            bar.update(shard["bytes"])


def _file_problem(data: Path, shard: Shard) -> tuple[str, str] | None:
    """Return how a file differs from the manifest: kind, and what is wrong."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from m2kr.common.files import sha256_of

    path = data / shard["path"]
    try:
        # A manifest may come from anywhere: it has no say over what is read outside the folder.
        if not path.resolve().is_relative_to(data.resolve()):
            return "file", "the manifest names a file outside the folder"
        if not path.is_file():
            return "file", "the file is missing; get it or build the task again"
        if (size := path.stat().st_size) != shard["bytes"]:
            return "hash", f"{size:,} bytes where the manifest has {shard['bytes']:,}"
        if sha256_of(path) != shard["sha256"]:
            return "hash", "the SHA-256 is not that of the manifest"
        if (rows := pq.read_metadata(path).num_rows) != shard["rows"]:
            return "hash", f"{rows:,} rows where the manifest has {shard['rows']:,}"
    except (OSError, pa.ArrowException) as error:
        return "file", f"the file cannot be read ({first_line(error)})"
    return None


def _check_tables(report: Report, data: Path, task: Task, promised: dict[str, Any]) -> None:
    """Check columns of every shard, then the rules of every split whose shards can be read."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from m2kr.formats.rules import DatasetError, check_columns, check_split, check_usable, doubts
    from m2kr.formats.shards import find_shards, missing_shards

    names = {task.data_config: [*task.splits], task.passages_config: [f"{split}_passages" for split in task.splits]}
    tables: dict[tuple[str, str], list[Path]] = {}
    spoiled: set[tuple[str, str]] = set()
    unlike: set[tuple[str, str]] = set()
    for config, splits in names.items():
        for split in splits:
            for path in find_shards(data / config, split):
                tables.setdefault((config, split), []).append(path)
                name = f"{config}/{path.name}"
                try:
                    metadata = pq.read_metadata(path)
                    report.tasks[task.key]["files"] += 1
                    report.tasks[task.key]["rows"] += metadata.num_rows
                    check_columns(config, metadata.schema.to_arrow_schema(), name)
                    continue
                except DatasetError as error:
                    report.add(task.key, "columns", name, str(error).removeprefix(f"{name}: "))
                    unlike.add((config, split))
                    continue
                except (OSError, pa.ArrowException) as error:
                    report.add(task.key, "file", name, f"the file cannot be read ({first_line(error)})")
                spoiled.add((config, split))
    for config in names:
        if not any(key[0] == config for key in tables) and config not in promised:
            report.add(task.key, "file", config, "the folder has no shards of this config")
    for queries, passages in zip(
        *([(config, split) for split in splits] for config, splits in names.items()), strict=True
    ):
        lacking = [half for half in (queries, passages) if half not in tables]
        if len(lacking) == 1:
            report.add(task.key, "file", "/".join(lacking[0]), "the other half of the split is here, not this")
        if lacking:
            continue
        for half in (queries, passages):
            if some := missing_shards(tables[half]):
                report.add(task.key, "file", "/".join(half), f"{some.replace('the', 'its')} are here")
                spoiled.add(half)
        if spoiled & {queries, passages}:
            continue
        where, split = "/".join(queries), queries[1]
        rows, pool = (pl.scan_parquet(tables[half]) for half in (queries, passages))
        try:
            for table in (rows, pool) if not promised else ():
                for _ in table.collect_batches(engine="streaming"):
                    pass  # without hashes, damage shows when all columns are read
            if not unlike & {queries, passages}:
                check_split(task, split, rows, pool)
                for config, says, ids in doubts(task, rows, pool):
                    half = queries if config == queries[0] else passages
                    report.add(task.key, "rules", "/".join(half), says, ids=ids)
            check_usable(task, split, rows, pool)  # as an evaluation does
        except DatasetError as error:
            report.add(task.key, "rules", where, str(error))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
            report.add(task.key, "file", where, f"cannot be read ({first_line(error)})")


def _check_images(
    report: Report, data: Path, task: Task, images: ImageRoots | None, *, workers: int, quiet: bool
) -> None:
    """Decode every image, each once, and list the queries, else the passages, that name a bad one."""
    from m2kr.common.concurrency import ordered_map
    from m2kr.images.decode import ImageError
    from m2kr.images.packed import packed_images
    from m2kr.images.roots import image_paths

    roots = images.for_task(task) if images else packed_images(data, task)
    if roots is None:
        return
    report.images_checked = True
    try:
        paths = dict.fromkeys(path for _, _, path in image_paths(data, task))
    except M2KRError:  # said already, of the shard
        return

    roots.fetch(paths, quiet=quiet)

    def look(path: str) -> tuple[str, str] | bool:
        """Return what is wrong, else whether the numbers were scaled to 8 bits."""
        try:
            return "scaled" in roots.open(path).info
        except ImageError as error:
            return error.fault, error.reason or str(error)
        except M2KRError as error:  # the archive itself
            return "unreadable", str(error)

    bad: dict[str, tuple[str, str]] = {}
    with progress(len(paths), f"{task.key} images", unit="images", quiet=quiet) as bar:
        for path, found in zip(paths, ordered_map(look, paths, workers), strict=True):
            bar.update()
            report.tasks[task.key]["images"] += 1
            if isinstance(found, tuple):
                bad[path] = found
            report.tasks[task.key]["scaled_images"] += found is True
    if not bad:
        return
    # The questions are read again for these alone: the ids of all of them would take a gigabyte.
    questions: dict[str, list[tuple[str, str]]] = {path: [] for path in bad}
    for split, question, path in image_paths(data, task):
        if path in bad:
            questions[path].append((split, question))
    for path, (fault, says) in bad.items():
        split = questions[path][0][0]
        of_passages = split.endswith("_passages")
        where = f"{task.passages_config if of_passages else task.data_config}/{split}"
        ids = tuple(name for named_by, name in questions[path] if named_by.endswith("_passages") == of_passages)
        report.add(task.key, f"{fault} image", where, says, ids=ids, img_path=path)


@dataclass(frozen=True, kw_only=True)
class CheckOptions(TasksOption, ImagesOption, QuietOption):
    """Options of ``python -m m2kr.check``."""

    data: Path = option("folder of a built or downloaded benchmark", Path(HERE), positional=True)
    report: Path | None = option("write all that was found as JSON", None, metavar="FILE")
    workers: int = option("threads that decode images; default one per core", 0, least=0, most=MOST_WORKERS)
    against: Literal["published"] | None = option("set the tables beside what is known of the published ones", None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        CheckOptions,
        argv,
        prog="python -m m2kr.check",
        description="Check a benchmark folder: files and hashes, columns, rules of the format, and images: those "
        "packed in it, or those under --images.",
        epilog=_EXAMPLES,
    )
    from m2kr.common.files import write_json
    from m2kr.formats.manifest import read_manifest
    from m2kr.formats.published import compare_with_published, comparison_table
    from m2kr.images.roots import parse_roots

    data = options.data
    if not data.is_dir():
        raise M2KRError(f"{data} is not a folder. Name the folder of a benchmark.")
    images = parse_roots(options.images) if options.images else None
    listed = read_manifest(data)["tasks"]
    there = [
        key
        for key, task in TASKS.items()
        if key in listed or (data / task.data_config).is_dir() or (data / task.passages_config).is_dir()
    ]
    if not there:
        raise M2KRError(f"{data} holds no task of M2KR. Build one with python -m m2kr.build, or name another folder.")
    tasks = parse_tasks(options.tasks)
    lacking = [task.key for task in tasks if task.key not in there]
    if lacking and len(tasks) < len(TASKS):
        raise M2KRError(f"{data} has no {', '.join(lacking)}; it has {', '.join(there)}.")
    report = check(data, tasks, images=images, workers=options.workers or os.cpu_count() or 1, quiet=options.quiet)
    compared = compare_with_published(data, tasks) if options.against else []
    if options.report:
        beside = [{**asdict(found), "verdict": found.verdict} for found in compared]
        write_json(options.report, {**report.to_json(), **({"against_published": beside} if options.against else {})})
    print(table(report))
    if compared:
        print(f"\n{comparison_table(compared)}\n")
    for problem in report.problems[:_SHOWN]:
        print(problem.line())
    total = sum(counts.total() for counts in report.counts.values())
    if total > _SHOWN:
        where = f"all in {options.report}" if options.report else "pass --report FILE for all"
        print(f"... and {total - _SHOWN:,} more; {where}")
    if scaled := sum(counts["scaled_images"] for counts in report.tasks.values()):
        say(f"{scaled:,} images have more than 8 bits a channel and are scaled to 8; see docs/images.md")
    if not report.hashes_checked:
        say(f"hashes were not checked: {data} has no manifest.json", quiet=options.quiet)
    if not report.images_checked and any(TASKS[key].reads_images for key in report.tasks):
        say("images were not checked: none are packed, and no --images was given", quiet=options.quiet)
    return 0 if report.clean else 1


if __name__ == "__main__":
    raise SystemExit(run_command(main))
