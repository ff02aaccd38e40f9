"""Building one task: read its raw files into staged tables, join them, write the configs, check them, publish."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m2kr import __version__
from m2kr.build.hashing import FileHasher
from m2kr.build.inputs import TaskInputs
from m2kr.build.tables import write_tables
from m2kr.build.up_to_date import check_built_images, file_facts, is_up_to_date
from m2kr.common.files import atomic, digest
from m2kr.common.locks import is_left_locked, one_writer
from m2kr.common.progress import say
from m2kr.common.work import discard
from m2kr.errors import M2KRError
from m2kr.formats.manifest import entry, publish, read_manifest
from m2kr.images.roots import ImageRoots
from m2kr.parsing.rejected import RejectedRows
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.sources.options import source_of
from m2kr.tasks import Task

STATE = ".build"
"""Folder in the output folder that holds unfinished work; it is gone when that work is finished."""


def build_task(
    inputs: TaskInputs,
    out: Path,
    *,
    images: ImageRoots | None = None,
    workers: int = 1,
    rerun: bool = True,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Build one task into ``out`` and return its manifest entry; None where nothing of it could be built.

    While another process writes ``out``, this waits.

    Args:
        inputs: the task, its raw files and choices.
        out: folder of the benchmark; other tasks in it are kept.
        images: if given, every query's image has to be there.
        workers: threads that parse raw files.
        rerun: build it even where it is up to date.
        quiet: no progress and no notices.

    Raises:
        M2KRError: and then ``out`` is as it was, but for finished intermediate files under ``.build``.
    """
    task = inputs.task
    before = _entry(out, task)
    found = None if rerun else _up_to_date(inputs, out, images)
    if found is None:
        with one_writer(out, quiet=quiet):
            if not rerun and _entry(out, task) != before:  # another process has built it meanwhile
                found = _up_to_date(inputs, out, images)
            if found is None:
                say(f"{task.key}: building", quiet=quiet)
                return _built(inputs, out, images=images, workers=workers, quiet=quiet)
    if is_left_locked(out) or (out / STATE / task.key).exists():
        with suppress(M2KRError), one_writer(out, wait=False):  # not while another process is at it
            _clear_up(out, task)
    say(f"{task.key}: up to date", quiet=quiet)
    return found


def _entry(out: Path, task: Task) -> dict[str, Any] | None:
    entry: dict[str, Any] | None = read_manifest(out)["tasks"].get(task.key)
    return entry


def _up_to_date(inputs: TaskInputs, out: Path, images: ImageRoots | None) -> dict[str, Any] | None:
    """Return the manifest entry of a task that need not be built, after looking for its images."""
    if not is_up_to_date(inputs, out):
        return None
    if images and inputs.task.reads_images:
        check_built_images(inputs.task, out, images)
    return _entry(out, inputs.task)


def _built(
    inputs: TaskInputs, out: Path, *, images: ImageRoots | None, workers: int, quiet: bool
) -> dict[str, Any] | None:
    task = inputs.task
    state = out / STATE / task.key
    rejected = RejectedRows(inputs.on_bad_rows, allow_missing=inputs.allow_missing)
    absent = inputs.absent()  # before: a file may come meanwhile
    try:
        with FileHasher(state / "hashes.json") as hashing:
            raw = RawFiles(
                inputs.folders,
                state / "staged",
                rejected=rejected,
                on_read=hashing.begin,
                workers=workers,
                quiet=quiet,
            )
            tables: Tables = source_of(task.key).build(raw, inputs.options, inputs.seed)
            if raw.missing:
                say(f"  missing: {', '.join(raw.missing)}", quiet=quiet)
            for line in tables.lacking:
                say(f"  {line}", quiet=quiet and bool(tables.data))
            if tables.data:
                for path in raw.used.values():  # those that were not read just now
                    hashing.begin(path)
                key = digest(__version__, inputs.choices, sorted(raw.staged), repr(tables.counts))
                work = state / "tables"
                configs = write_tables(task, tables, work, key=key, images=images, workers=workers, quiet=quiet)
                sources = file_facts(raw.used, hashing)
    except M2KRError:
        _tidy(out, state)
        raise
    _report(task, rejected, out, quiet=quiet)
    if not tables.data:
        discard(state)
        _tidy(out, state)
        return None
    counts: dict[str, Any] = {
        **tables.counts,
        "rows_left_out": rejected.count("bad"),
        "rows_without_their_other_half": rejected.count("missing"),
    }
    if tables.lacking:
        counts["lacking"] = tables.lacking
    for split, facts in configs[task.data_config].items():
        counts[f"{task.data_config}/{split}"] = facts["checked"]
    listed = {config: {split: facts["shards"] for split, facts in splits.items()} for config, splits in configs.items()}
    record = entry(listed, sources=sources, options=inputs.choices, counts=counts, synthetic=inputs.synthetic)
    record["absent"] = absent
    publish(out, task, record, {config: work / config for config in configs})
    _clear_up(out, task)
    return record


def _report(task: Task, rejected: RejectedRows, out: Path, *, quiet: bool) -> None:
    """Write the rows that were left out to ``quarantine/<TASK>.jsonl``, and print how many there are and why."""
    path = out / "quarantine" / f"{task.key}.jsonl"
    if not rejected.rows:
        path.unlink(missing_ok=True)
        _remove_if_empty(path.parent)
        return
    with atomic(path, "w") as file:
        for row in rejected.rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
    bad, missing = rejected.count("bad"), rejected.count("missing")
    say(f"  {task.key}: {bad:,} bad rows and {missing:,} rows without their other half left out; see {path}")
    files = Counter((row.kind, row.file) for row in rejected.rows)
    for (kind, file_name), count in files.items():
        first = next(row for row in rejected.rows if (row.kind, row.file) == (kind, file_name))
        say(f"    {file_name}: {count:,} ({kind}), the first at {first.row}: {first.reason}", quiet=quiet)


def _clear_up(out: Path, task: Task) -> None:
    """Delete what a finished task's build has left behind; after a kill at its very end, that is something."""
    discard(out / STATE / task.key)
    _tidy(out, out / STATE / task.key)


def _tidy(out: Path, state: Path) -> None:
    """Keep finished intermediate files only, and no empty folders."""
    discard(state / "tables")
    if not (state / "staged").is_dir() or not any((state / "staged").iterdir()):
        (state / "hashes.json").unlink(missing_ok=True)
    for folder in (state / "staged", state, out / STATE):
        _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
