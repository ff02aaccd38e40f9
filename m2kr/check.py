"""Check a benchmark folder: ``python -m m2kr.check DATA [--images ROOT]``.

Files against the manifest (there, nothing else there, size, rows, SHA-256), columns and types, the rules of the format
(`m2kr.formats.schema.check_split`), and every image that a query names: there, whole, decodable, of sane size. A folder without
a manifest, such as the published benchmark, is checked too, but for its hashes.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import __version__
from m2kr.common.progress import progress, say
from m2kr.errors import M2KRError, run_command
from m2kr.tasks import TASKS, Task, parse_tasks

if TYPE_CHECKING:
    from m2kr.images.roots import ImageRoots

LISTED = 10_000
"""Problems of one kind that are listed for a task; all are counted. A wrong root makes one of every image."""

_SHOWN = 10
_EXAMPLES = """examples:
  python -m m2kr.check m2kr-data
  python -m m2kr.check m2kr-data --images raw --report check.json
  python -m m2kr.check m2kr-data --tasks KVQA --images KVQA=downloads/KVQAimgs.tar.gz

exit code: 0 nothing found, 1 problems found, 2 the check could not be done
"""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        task: key of the task; empty for a file that belongs to none.
        kind: "file", "hash", "columns", "rules", or what is wrong with an image ("missing image" and so on).
        where: file, or config and split, below the folder that was checked.
        says: what is wrong.
        ids: question ids that name the image.
        img_path: the image.
    """

    task: str
    kind: str
    where: str
    says: str
    ids: tuple[str, ...] = ()
    img_path: str | None = None

    def line(self) -> str:
        """Return the problem as one line. Text from data is shown as Python spells it: it may hold anything."""
        image = f", image {self.img_path!r}" if self.img_path is not None else ""
        ids = ""
        if self.ids:
            ids = f", question {self.ids[0]!r}" + (f" and {len(self.ids) - 1:,} more" if self.ids[1:] else "")
        says = "".join(c if c.isprintable() else repr(c)[1:-1] for c in self.says)
        return f"{self.kind}: {self.where}{image}{ids}: {says}"


@dataclass
class Report:
    """What a check found.

    Attributes:
        hashes_checked: whether there was a manifest to check against.
        images_checked: whether images were looked at.
        tasks: task -> counts: ``files``, ``rows``, ``images``.
        problems: up to `LISTED` of each kind for each task.
        counts: task -> kind -> number of problems, all of them.
    """

    hashes_checked: bool = False
    images_checked: bool = False
    tasks: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def add(self, problem: Problem) -> None:
        """Count a problem, and list it unless there are too many like it."""
        counter = self.counts.setdefault(problem.task, Counter())
        counter[problem.kind] += 1
        if counter[problem.kind] <= LISTED:
            self.problems.append(problem)

    def to_json(self) -> dict[str, Any]:
        """Return the report as it is written."""
        return {
            "format": 1,
            "m2kr": __version__,
            "clean": self.clean,
            "hashes_checked": self.hashes_checked,
            "images_checked": self.images_checked,
            "tasks": self.tasks,
            "counts": {task: dict(sorted(counter.items())) for task, counter in self.counts.items()},
            "listed_at_most": LISTED,
            "problems": [{**asdict(problem), "ids": list(problem.ids)} for problem in self.problems],
        }


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
    from m2kr.formats.manifest import MANIFEST, read_manifest

    report = Report(hashes_checked=(data / MANIFEST).exists())
    manifest = read_manifest(data)
    entries, packed = manifest["tasks"], manifest.get("images", {})
    for task in tasks:
        shards = [
            shard
            for splits in entries.get(task.key, {}).get("configs", {}).values()
            for facts in splits.values()
            for shard in facts["shards"]
        ]
        shards += packed.get(task.key, {}).get("shards", [])
        folders = [
            folder for suffix in ("data", "passages", "images") if (folder := data / f"{task.key}_{suffix}").is_dir()
        ]
        if not shards and not folders:
            continue
        report.tasks[task.key] = {"files": 0, "rows": 0, "images": 0}
        if report.hashes_checked:
            _check_files(report, data, task, shards, quiet=quiet)
            listed = {shard["path"] for shard in shards}
            for file in sorted(file for folder in folders for file in folder.rglob("*") if file.is_file()):
                name = file.relative_to(data).as_posix()
                if name not in listed and not file.name.startswith("."):
                    report.add(Problem(task.key, "file", name, "the manifest does not list this file"))
        _check_tables(report, data, task, sorted(entries.get(task.key, {}).get("configs", {})))
        if task.reads_images and (data / task.data_config).is_dir():
            _check_images(report, data, task, images, workers=workers, quiet=quiet)
    if report.hashes_checked and len(tasks) == len(TASKS):
        known = {"README.md", MANIFEST, "croissant.json", "quarantine"}
        known |= {f"{task.key}_{suffix}" for task in tasks for suffix in ("data", "passages", "images")}
        for path in sorted(data.iterdir()):
            if path.name not in known and not path.name.startswith("."):
                report.add(Problem("", "file", path.name, "this belongs to no task and to no benchmark folder"))
    return report


def _check_files(report: Report, data: Path, task: Task, shards: list[dict[str, Any]], *, quiet: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from m2kr.common.files import sha256_of

    with progress(sum(shard["bytes"] for shard in shards), f"{task.key} files", unit="B", quiet=quiet) as bar:
        for shard in shards:
            name = str(shard["path"])
            path = data / name
            try:
                # A manifest may come from anywhere: it has no say over what is read outside the folder.
                if not path.resolve().is_relative_to(data.resolve()):
                    report.add(Problem(task.key, "file", name, "the manifest names a file outside the folder"))
                elif not path.is_file():
                    report.add(Problem(task.key, "file", name, "the file is missing; get it or build the task again"))
                elif (size := path.stat().st_size) != shard["bytes"]:
                    says = f"{size:,} bytes where the manifest has {shard['bytes']:,}"
                    report.add(Problem(task.key, "hash", name, says))
                elif sha256_of(path) != shard["sha256"]:
                    report.add(Problem(task.key, "hash", name, "the SHA-256 is not that of the manifest"))
                elif (rows := pq.read_metadata(path).num_rows) != shard["rows"]:
                    report.add(
                        Problem(task.key, "hash", name, f"{rows:,} rows where the manifest has {shard['rows']:,}")
                    )
            except (OSError, pa.ArrowException) as error:
                report.add(Problem(task.key, "file", name, f"the file cannot be read ({_first_line(error)})"))
            bar.update(shard["bytes"])


def _check_tables(report: Report, data: Path, task: Task, promised: list[str]) -> None:
    """Check columns of every shard, then the rules of every split whose shards can be read."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from m2kr.formats.rules import DatasetError, check_columns, check_split

    tables: dict[tuple[str, str], list[Path]] = {}
    spoiled: set[tuple[str, str]] = set()
    for config in (task.data_config, task.passages_config):
        splits = task.splits if config == task.data_config else tuple(f"{split}_passages" for split in task.splits)
        for split in splits:
            for path in sorted((data / config).glob(f"{split}-*.parquet")):
                tables.setdefault((config, split), []).append(path)
                name = f"{config}/{path.name}"
                try:
                    metadata = pq.read_metadata(path)
                    report.tasks[task.key]["files"] += 1
                    report.tasks[task.key]["rows"] += metadata.num_rows
                    check_columns(config, metadata.schema.to_arrow_schema(), name)
                except DatasetError as error:
                    report.add(Problem(task.key, "columns", name, str(error).removeprefix(f"{name}: ")))
                    spoiled.add((config, split))
                except (OSError, pa.ArrowException) as error:
                    report.add(Problem(task.key, "file", name, f"the file cannot be read ({_first_line(error)})"))
                    spoiled.add((config, split))
    for config in (task.data_config, task.passages_config):
        if not any(key[0] == config for key in tables) and config not in promised:
            report.add(Problem(task.key, "file", config, "the folder has no shards of this config"))
    for split in task.splits:
        halves = [(task.data_config, split), (task.passages_config, f"{split}_passages")]
        there = [half in tables for half in halves]
        if not any(there):
            continue
        if not all(there):
            config, name = halves[there.index(False)]
            report.add(Problem(task.key, "file", f"{config}/{name}", "the other half of the split is here, not this"))
            continue
        for half in halves:
            count = tables[half][0].stem.rsplit("-of-", 1)[-1]
            if count.isdigit() and int(count) != len(tables[half]):
                says = f"{len(tables[half])} of its {int(count)} shards are here"
                report.add(Problem(task.key, "file", "/".join(half), says))
                spoiled.add(half)
        if spoiled.intersection(halves):
            continue
        try:
            check_split(task, split, pl.scan_parquet(tables[halves[0]]), pl.scan_parquet(tables[halves[1]]))
        except DatasetError as error:
            report.add(Problem(task.key, "rules", "/".join(halves[0]), str(error)))
        except (pl.exceptions.PolarsError, OSError) as error:
            report.add(Problem(task.key, "file", "/".join(halves[0]), f"cannot be read ({_first_line(error)})"))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _check_images(
    report: Report, data: Path, task: Task, images: ImageRoots | None, *, workers: int, quiet: bool
) -> None:
    """Decode every image, each once, and list the questions that name a bad one."""
    from concurrent.futures import ThreadPoolExecutor
    from itertools import islice

    from m2kr.images.packed import packed_images
    from m2kr.images.roots import ImageError, image_paths

    roots = images.for_task(task) if images else packed_images(data, task)
    if roots is None:
        return
    report.images_checked = True
    try:
        paths = dict.fromkeys(path for _, _, path in image_paths(data, task))
    except M2KRError:  # said already, of the shard
        return
    bad: dict[str, tuple[str, str]] = {}

    def look(path: str) -> tuple[str, str, str] | None:
        try:
            roots.open(path)
        except ImageError as error:
            return path, error.fault, error.reason or str(error)
        except M2KRError as error:  # the archive itself
            return path, "unreadable", str(error)
        return None

    def looked() -> Iterator[tuple[str, str, str] | None]:
        waiting = iter(paths)
        with ThreadPoolExecutor(workers) as pool:
            while some := list(islice(waiting, 64 * workers)):  # and not millions of tasks at once
                yield from pool.map(look, some)

    with progress(len(paths), f"{task.key} images", unit="images", quiet=quiet) as bar:
        for found in looked():
            bar.update()
            report.tasks[task.key]["images"] += 1
            if found:
                bad[found[0]] = found[1:]
    if not bad:
        return
    # The questions are read again for these alone: the ids of all of them would take a gigabyte.
    questions: dict[str, list[str]] = {path: [] for path in bad}
    first: dict[str, str] = {}
    for split, question, path in image_paths(data, task):
        if path in bad:
            questions[path].append(question)
            first.setdefault(path, split)
    for path, (fault, says) in bad.items():
        where = f"{task.data_config}/{first[path]}"
        report.add(Problem(task.key, f"{fault} image", where, says, tuple(questions[path]), path))


def table(report: Report) -> str:
    """Return the counts as a table in plain text."""
    rows = [["task", "files", "rows", "images", "problems"]]
    for task in dict.fromkeys([*report.tasks, *report.counts]):
        facts = report.tasks.get(task, {})
        counts = report.counts.get(task, Counter())
        detail = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
        cells = [f"{facts.get(name, 0):,}" for name in ("files", "rows", "images")]
        rows.append([task or "(folder)", *cells, f"{counts.total():,}" + (f" ({detail})" if detail else "")])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:4], widths[1:], strict=True)),
                row[4],
            ]
        )
        for row in rows
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m m2kr.check",
        description="Check a benchmark folder: files and hashes, columns, rules of the format, images.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="folder of a built or downloaded benchmark")
    parser.add_argument("--tasks", default="all", help="comma-separated, or all (those that are there)")
    parser.add_argument(
        "--images",
        action="append",
        default=[],
        metavar="[TASK=]ROOT",
        help="folder, .zip, .tar or .tar.gz; without it packed images are checked, where there are some",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all that was found as JSON")
    parser.add_argument("--workers", type=int, default=0, help="threads that decode images; default one per core")
    parser.add_argument("--quiet", action="store_true", help="no progress, no notices; only the table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    arguments = _parser().parse_args(argv)
    from m2kr.common.files import write_json
    from m2kr.formats.manifest import read_manifest
    from m2kr.images.roots import parse_roots

    data: Path = arguments.data
    if not data.is_dir():
        raise M2KRError(f"{data} is not a folder. Name the folder of a benchmark.")
    if arguments.workers < 0:
        raise M2KRError(f"--workers is {arguments.workers}; it has to be 1 or more, or 0 for one per core.")
    images = parse_roots(arguments.images) if arguments.images else None
    listed = read_manifest(data)["tasks"]
    there = [
        key
        for key, task in TASKS.items()
        if key in listed or any((data / config).is_dir() for config in (task.data_config, task.passages_config))
    ]
    if not there:
        raise M2KRError(f"{data} holds no task of M2KR. Build one with python -m m2kr.build, or name another folder.")
    tasks = list(TASKS.values()) if arguments.tasks.strip().casefold() == "all" else parse_tasks(arguments.tasks)
    lacking = [task.key for task in tasks if task.key not in there]
    if lacking and len(tasks) < len(TASKS):
        raise M2KRError(f"{data} has no {', '.join(lacking)}; it has {', '.join(there)}.")
    report = check(data, tasks, images=images, workers=arguments.workers or os.cpu_count() or 1, quiet=arguments.quiet)
    if arguments.report:
        write_json(arguments.report, report.to_json())
    print(table(report))
    for problem in report.problems[:_SHOWN]:
        print(problem.line())
    total = sum(counts.total() for counts in report.counts.values())
    if total > _SHOWN:
        where = f"all in {arguments.report}" if arguments.report else "pass --report FILE for all"
        print(f"... and {total - _SHOWN:,} more; {where}")
    if not report.hashes_checked:
        say(f"hashes were not checked: {data} has no manifest.json", quiet=arguments.quiet)
    if not report.images_checked and any(TASKS[key].reads_images for key in report.tasks):
        say("images were not checked: none are packed, and no --images was given", quiet=arguments.quiet)
    return 0 if report.clean else 1


if __name__ == "__main__":
    raise SystemExit(run_command(main))
