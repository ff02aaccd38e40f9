"""Bringing pictures to the passages of a built task: the column ``img_path`` of ``<TASK>_passages``.

The published passages of some tasks are texts, and others have published pictures for them. A list of them is a file
of JSON lines, gzipped or not, each an object with ``passage_image_path``, a path below an image root, and either
``passage_id`` or, for passages that have a title, ``title``; a ``passage_text`` is compared with the passage's. Other
keys are let be. It is the form of ReT's edition of M2KR (github.com/aimagelab/ReT).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from m2kr import __version__
from m2kr.common.files import digest, sha256_of
from m2kr.common.json_input import as_record, parse_json
from m2kr.common.locks import clear_lock, one_writer
from m2kr.common.progress import progress, say
from m2kr.common.work import Note, discard, tidy_place
from m2kr.errors import M2KRError
from m2kr.formats.integrity import are_listed
from m2kr.formats.manifest import publish, read_manifest, shards_of, with_passages
from m2kr.formats.rules import leaves_root
from m2kr.formats.schema import arrow_schema
from m2kr.formats.shards import Shard, read_batches, readable, write_shard
from m2kr.parsing.lines import read_lines
from m2kr.tasks import PASSAGE_IMAGE, TASKS, Task

_NOTE = "attach.json"


class _Line(msgspec.Struct):
    """A line of a list."""

    passage_image_path: str | None = None
    passage_id: str | int | None = None
    title: str | None = None
    passage_text: str | None = None


@dataclass
class _Listed:
    """What a list says of passages.

    Attributes:
        by: the column by which it names them, "passage_id" or "title".
        paths: name -> path of the picture.
        texts: name -> hash of the text, where it has one.
        lines: name -> number of the line.
        without: how many passages it names without a picture.
    """

    by: str = ""
    paths: dict[str, str] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    without: int = 0


def attach(
    data: Path, task: Task, passages: Path, *, other_texts: bool = False, rerun: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Give the passages of a built task the pictures of a list, in place of those of an earlier one.

    The tables are written anew, with their column ``img_path``, and take the place of the old ones when all are there.
    Fingerprint, card and metadata change with them. Equal tables and lists give equal bytes. While another process
    writes the folder, this waits.

    Args:
        data: folder of the benchmark, as `m2kr.build` made it.
        task: whose passages.
        passages: the list; see the module.
        other_texts: let passages have pictures although the list has another text for them.
        rerun: do it again where it is done.
        quiet: no progress, no notices.

    Returns:
        What the manifest says of it: ``list`` (file, sha256), ``of`` (the fingerprint of the tables before), ``key``
        and ``counts``: ``listed`` passages, of which ``without_picture``, ``unknown`` ids and ``other_text``; and for
        each split the passages that have a picture.

    Raises:
        M2KRError: the task's passages cannot have pictures; it is not built; its files are not those of the manifest;
            the list cannot be read, names no passage of it, has two pictures for one, or another text; a path leads
            out of its root, or is an address of the web.
    """
    if not task.takes_passage_images:
        able = ", ".join(key for key, each in TASKS.items() if each.takes_passage_images)
        raise M2KRError(
            f"the passages of {task.key} have a column img_path in the published benchmark: the picture of their own "
            f"query, which nobody is to find them by. Pictures can be attached to those of {able}."
        )
    if not passages.is_file():
        raise M2KRError(f"--passages {passages} is no file. Name a list of passages and pictures, as JSON lines.")
    work = data / ".build" / f"{task.passages_config}-attach"
    listed = read_manifest(data)["tasks"].get(task.key)
    if listed is None and not Note(work / _NOTE, task.key).facts:
        raise M2KRError(
            f"{data} has no manifest of {task.key}, so nothing says what its tables are. Pictures are attached to what "
            "python -m m2kr.build has made there."
        )
    source = {"file": passages.name, "sha256": sha256_of(passages)}

    def key_of(entry: dict[str, Any]) -> str:
        return digest(__version__, source["sha256"], other_texts, _without_pictures(entry))

    def done(entry: dict[str, Any]) -> bool:
        known = entry.get("passage_images", {})
        return not rerun and known.get("key") == key_of(entry) and are_listed(data, shards_of(entry))

    finished = listed is not None and done(listed) and not work.exists()
    if finished:
        clear_lock(data)
    with nullcontext() if finished else one_writer(data, quiet=quiet):
        entry = _entry(data, task, work)  # now, as another process may have changed it
        if done(entry):
            say(f"{task.key}: attached already", quiet=quiet)
        else:
            record = _made(data, task, entry, passages, work, other_texts=other_texts, quiet=quiet)
            entry = {**record, "passage_images": {"list": source, **record["passage_images"], "key": key_of(entry)}}
            Note(work / _NOTE, task.key).save(entry=entry)
            publish(data, task, entry, {task.passages_config: work / task.passages_config})
        if not finished:
            discard(work)
            if not any(work.parent.iterdir()):
                work.parent.rmdir()
    found: dict[str, Any] = entry["passage_images"]
    return found


def _without_pictures(entry: dict[str, Any]) -> str:
    """Return the fingerprint that a task's tables had without pictures."""
    return str(entry.get("passage_images", {}).get("of", entry["fingerprint"]))


def _entry(data: Path, task: Task, work: Path) -> dict[str, Any]:
    """Return the task's entry of the manifest; after a kill while it was replaced, put the new one in its place."""
    entry: dict[str, Any] | None = read_manifest(data)["tasks"].get(task.key)
    if entry is None:
        entry = Note(work / _NOTE, task.key).facts["entry"]
        folder = work / task.passages_config
        if not folder.is_dir():  # it was moved
            tidy_place(data / task.passages_config)
        publish(data, task, entry, {task.passages_config: folder} if folder.is_dir() else {})
    return entry


def _made(
    data: Path, task: Task, entry: dict[str, Any], passages: Path, work: Path, *, other_texts: bool, quiet: bool
) -> dict[str, Any]:
    """Write the tables with pictures into the working folder, and return the entry of the manifest."""
    splits = entry["configs"][task.passages_config]
    if not are_listed(data, shards_of(entry)):
        raise M2KRError(
            f"the files of {task.key} in {data} are not those of its manifest. Build the task again with "
            "python -m m2kr.build."
        )
    listed = _read_list(passages, task, quiet=quiet)
    counts = _compared(data, task, splits, listed, passages, other_texts=other_texts, quiet=quiet)
    discard(work)
    schema = arrow_schema(task.passages_config, passage_images=True)
    written: dict[str, list[Shard]] = {}
    rows = sum(facts["rows"] for facts in splits.values())
    with progress(rows, f"write {task.passages_config}", quiet=quiet) as bar:
        for split, facts in splits.items():
            written[split], counts[split] = [], 0
            for shard in facts["shards"]:
                path = work / shard["path"]
                tables = _Pictured(data / shard["path"], schema, listed)
                write_shard(path, schema, tables, compression="zstd", use_dictionary=False)
                counts[split] += tables.with_picture
                size = path.stat().st_size
                written[split].append(Shard(path=path.name, sha256=sha256_of(path), rows=shard["rows"], bytes=size))
                bar.update(shard["rows"])
    return with_passages(entry, task, written, {"of": _without_pictures(entry), "counts": counts})


class _Pictured:
    """The row groups of a shard with the pictures of a list, and how many rows have one."""

    def __init__(self, path: Path, schema: pa.Schema, listed: _Listed) -> None:
        self.path, self.schema, self.listed = path, schema, listed
        self.with_picture = 0

    def __iter__(self) -> Iterator[pa.Table]:
        names = [name for name in self.schema.names if name != PASSAGE_IMAGE]
        with readable(self.path), pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=names)
                paths = pa.array(map(self.listed.paths.get, table.column(self.listed.by).to_pylist()), pa.string())
                self.with_picture += len(paths) - paths.null_count
                yield table.select(names).append_column(self.schema.field(PASSAGE_IMAGE), paths)


def _read_list(path: Path, task: Task, *, quiet: bool) -> _Listed:
    """Read a list, and refuse what cannot be used, naming file and line.

    Raises:
        M2KRError: as `attach`.
    """
    listed = _Listed()
    with progress(path.stat().st_size, f"read {path.name}", unit="B", quiet=quiet) as bar:
        for batch in read_lines(path, bar.update):
            for row, text in batch.frame.iter_rows():
                if text.strip():
                    try:
                        _take(listed, as_record(parse_json(text), _Line), int(row.removeprefix("line ")), task)
                    except ValueError as error:
                        raise M2KRError(f"{path}, {row}: {error}. Mend the list, and run it again.") from error
            for bad in batch.bad:
                raise M2KRError(f"{path}, {bad.row}: {bad.reason}. Get the list again.")
    if not listed.lines:
        raise M2KRError(f"{path} names no passages. A line is an object with passage_id and passage_image_path.")
    _check_paths(listed, path)
    return listed


def _take(listed: _Listed, line: _Line, number: int, task: Task) -> None:
    """Note what a line says.

    Raises:
        ValueError: it does not go with the lines before, or names nothing.
    """
    by = "passage_id" if line.passage_id is not None else "title"
    name = str(line.passage_id if by == "passage_id" else line.title or "")
    if not name:
        raise ValueError("it has neither passage_id nor title")
    if by == "title" and "title" not in task.passage_columns:
        raise ValueError(f"it names a passage by its title, and those of {task.key} have none: it needs a passage_id")
    if listed.by not in ("", by):
        raise ValueError(f"it names a passage by its {by}, and the lines before by {listed.by}")
    listed.by = by
    before = listed.lines.setdefault(name, number)
    path = line.passage_image_path or ""
    if before != number and listed.paths.get(name, "") != path:
        raise ValueError(f"{name!r:.200} has another picture in line {before}")
    if before == number and not path:
        listed.without += 1
    if path:
        listed.paths[name] = path
    if line.passage_text is not None and by == "passage_id":
        listed.texts[name] = hash(line.passage_text.strip())


def _check_paths(listed: _Listed, file: Path) -> None:
    """Check that the paths are below an image root.

    Raises:
        M2KRError: one is not; or is an address.
    """
    paths = pl.Series("path", list(listed.paths.values()), dtype=pl.String)
    for wrong, why in (
        (
            pl.col("path").str.contains("^[A-Za-z][A-Za-z0-9+.-]*://"),
            "is an address. Pictures are read from files here: fetch them, with the terms of their source in mind, and "
            "write each file's path below your image root in its place",
        ),
        (leaves_root(pl.col("path")), "does not stay below an image root. Write paths that are relative to one"),
    ):
        found = pl.DataFrame({"path": paths, "name": list(listed.paths)}).filter(wrong)
        if found.height:
            bad, name = found.row(0)
            more = f" ({found.height:,} lines in all)" if found.height > 1 else ""
            raise M2KRError(f"{file}, line {listed.lines[name]}: the picture {bad!r:.200} {why}{more}.")


def _compared(
    data: Path, task: Task, splits: dict[str, Any], listed: _Listed, file: Path, *, other_texts: bool, quiet: bool
) -> dict[str, int]:
    """Return the counts of a list beside the passages, and say them.

    Raises:
        M2KRError: no passage is listed, or one with another text, unless that is to be let be.
    """
    shards = [data / shard["path"] for facts in splits.values() for shard in facts["shards"]]
    known: set[str] = set()
    unlike: dict[str, None] = {}
    for batch in read_batches(shards, [listed.by, "passage_content"]):
        for name, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if name in listed.lines:
                known.add(name)
                if name in listed.texts and listed.texts[name] != hash(text.strip()):
                    unlike[name] = None
    counts = {
        "listed": len(listed.lines),
        "without_picture": listed.without,
        "unknown": len(listed.lines) - len(known),
        "other_text": len(unlike),
    }
    if not known:
        name, line = next(iter(listed.lines.items()))
        raise M2KRError(
            f"{file} names no passage of {task.key} in {data}: {listed.by} {name!r:.200} of line {line} is none, nor "
            f"are the other {len(listed.lines) - 1:,}. Choose the list of this task, or build with the ids it has."
        )
    if unlike and not other_texts:
        name = next(iter(unlike))
        raise M2KRError(
            f"{file}, line {listed.lines[name]}: passage {name!r:.200} has another text in {data} "
            f"({len(unlike):,} of {len(known):,} passages have), so its picture may be of something else. Pass "
            "--other-texts to attach it all the same."
        )
    for count, what in (
        (counts["unknown"], f"are no passages of {task.key} here"),
        (counts["without_picture"], "have no picture in the list"),
        (counts["other_text"], "have another text here"),
    ):
        if count:
            say(f"{task.key}: {count:,} of {counts['listed']:,} listed passages {what}", quiet=quiet)
    return counts
