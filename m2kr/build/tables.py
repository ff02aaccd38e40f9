"""Writing the tables of a task as sharded Parquet, and checking them.

Rows are cut into row groups and shards by their number, so bytes depend on the tables and on pyarrow's version alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from m2kr.common.concurrency import prefetch
from m2kr.common.files import writing
from m2kr.common.progress import progress
from m2kr.common.work import Note
from m2kr.errors import M2KRError
from m2kr.formats.rules import check_columns, check_split, hash_passages, hash_positives
from m2kr.formats.schema import arrow_schema
from m2kr.formats.shards import Shard, shard_path, write_shards
from m2kr.parsing.releases import scratch
from m2kr.tasks import Task

if TYPE_CHECKING:
    from m2kr.images.roots import ImageRoots
    from m2kr.parsing.releases import Tables

SHARD_ROWS = 500_000
"""Rows of a shard. At 0.2 to 3.4 kB a row, a shard compresses to a few hundred megabytes at most."""

ROW_GROUP_ROWS = 20_000
"""Rows of a row group: what a reader holds at least."""


def write_tables(
    task: Task,
    tables: Tables,
    work: Path,
    *,
    key: str,
    images: ImageRoots | None = None,
    workers: int = 1,
    quiet: bool = False,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Write and check every split of a task, reusing those that a killed run finished under the same key.

    With several workers passages are written in a thread of their own, beside the queries: both are mostly compression,
    which keeps one core busy each. Whichever is done first takes what the other has not begun.

    The check compares texts as they were handed to the writer; ``python -m m2kr.check`` reads what is on the disk.

    Args:
        task: the task.
        tables: what its source made.
        work: folder for what is written, with a folder for each config.
        key: stands for all that the tables depend on.
        images: if given, every query's image has to be there.
        workers: 1 writes one table after the other.
        quiet: show no progress.

    Returns:
        config -> split -> ``shards`` and, with the queries, ``checked``, the counts of the check.

    Raises:
        DatasetError: a table breaks a rule of the format.
        M2KRError: the disk is full, or the folder cannot be written.
    """
    splits = [split for split in task.splits if split in tables.data]
    notes: dict[tuple[str, str], Note] = {}
    hashed: dict[str, pl.LazyFrame | None] = {}
    stop = Event()

    def paths(config: str, shards: list[Shard]) -> list[Path]:
        return [work / config / shard["path"] for shard in shards]

    def write(config: str, name: str, rows: pl.LazyFrame, shards: list[Shard] | None = None) -> None:
        """Write one split, or give it the shards of another one which is the same table."""

        def there(facts: dict[str, Any]) -> bool:
            # A kill while the task was being moved into place leaves a note without its shards.
            return all(path.exists() for path in paths(config, facts["shards"]))

        note = notes[config, name] = Note(work / f"{config}-{name}.json", key, whole=there)
        if note.facts:
            return
        if shards is None:
            hash_texts = hash_positives if config == task.data_config else hash_passages
            with _Texts(work / f"{config}-{name}.hashes", hash_texts) as texts:
                shards = write_split(work / config, config, name, rows, look=texts.look, stop=stop, quiet=quiet)
            hashed[name] = texts.hashes()
        else:
            shards = copy_split(work / config, shards, name)
        note.save(shards=shards)

    def write_passages(split: str, shards: list[Shard] | None = None) -> None:
        write(task.passages_config, f"{split}_passages", tables.passages[split], shards)

    # Splits often share one table (valid and test are searched in the same passages): it is written once.
    first = {id(tables.passages[split]): split for split in reversed(splits)}
    with ThreadPoolExecutor(1) as beside:
        try:
            passages: dict[str, Future[None]] = {}
            for split in sorted(first.values(), key=splits.index):
                passages[split] = beside.submit(write_passages, split)
                if workers == 1:
                    passages[split].result()
            for split in splits:
                write(task.data_config, split, tables.data[split])
            begun: list[Future[None]] = []
            for split, future in reversed(passages.items()):
                if future.cancel():
                    write_passages(split)
                else:
                    begun.append(future)
            for future in begun:
                future.result()
        except BaseException:
            stop.set()  # what is being written beside would else hold up the message
            raise
    for split in splits:
        origin = first[id(tables.passages[split])]
        if origin != split:
            write_passages(split, notes[task.passages_config, f"{origin}_passages"].facts["shards"])
        note = notes[task.data_config, split]
        if "checked" not in note.facts:
            data, pool = (
                pl.scan_parquet(paths(config, notes[config, name].facts["shards"]))
                for config, name in ((task.data_config, split), (task.passages_config, f"{split}_passages"))
            )
            # Texts that an earlier run has written are read again.
            positives, known = hashed.get(split), hashed.get(f"{origin}_passages")
            note.save(checked=check_split(task, split, data, pool, images, positives=positives, pool=known))
    names = {task.data_config: splits, task.passages_config: [f"{split}_passages" for split in splits]}
    return {config: {name: notes[config, name].facts for name in names[config]} for config in names}


def write_split(
    folder: Path,
    config: str,
    split: str,
    rows: pl.LazyFrame,
    *,
    look: Callable[[pa.Table], object] = lambda _: None,
    stop: Event | None = None,
    quiet: bool = False,
) -> list[Shard]:
    """Write one split of a config as ``folder/<split>-NNNNN-of-NNNNN.parquet``.

    Args:
        folder: created if need be. Shards of the split that are there already are replaced.
        config: names the schema.
        split: name of the split ("test", "test_passages").
        rows: the rows, streamed.
        look: called with each row group, in order, before it is written.
        stop: when set by another thread, writing ends with an error.
        quiet: show no progress.

    Raises:
        DatasetError: the columns are not those of the config.
        M2KRError: the disk is full, or the folder cannot be written.
    """
    schema = arrow_schema(config)
    with progress(None, f"write {config}/{split}", quiet=quiet) as bar:

        def tables() -> Iterator[pa.Table]:
            for table in prefetch(_row_groups(rows, config, schema, look)):
                if stop is not None and stop.is_set():
                    raise M2KRError(f"writing {config}/{split} was stopped. Run it again to finish it.")
                yield table
                bar.update(table.num_rows)

        return write_shards(
            folder,
            split,
            schema,
            tables(),
            is_full=lambda rows, _, more: rows + more > SHARD_ROWS,
            stop=stop,
            compression="zstd",
            # Passages differ from each other, and a dictionary of all of them costs time and helps nothing; queries
            # share their answers and positives.
            use_dictionary=config.endswith("_data"),
        )


def copy_split(folder: Path, shards: list[Shard], split: str) -> list[Shard]:
    """Give ``split`` the rows of another split of the same config, without encoding again.

    Raises:
        M2KRError: the disk is full, or the folder cannot be written.
    """
    copies: list[Shard] = []
    for index, shard in enumerate(shards):
        target = shard_path(folder, split, index, len(shards))
        part = target.with_name(f"{target.name}.part")
        with writing(target):
            shutil.copyfile(folder / shard["path"], part)
            part.replace(target)
        copies.append({**shard, "path": target.name})
    return copies


class _Texts:
    """Hashes of the texts that are written, for the check: to read them all again would take a tenth of a build.

    They go into a file of their own, since those of millions of rows are a gigabyte. It is of use to this process only.
    """

    def __init__(self, path: Path, hash_texts: Callable[[pl.LazyFrame], pl.LazyFrame]) -> None:
        self.path = path
        self.hash_texts = hash_texts
        self.writer: pq.ParquetWriter | None = None
        self.sound = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            with writing(self.path):
                self.writer.close()

    def look(self, table: pa.Table) -> None:
        """Hash the texts of a row group."""
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        try:
            found = self.hash_texts(frame.lazy()).collect(engine="streaming")
        except pl.exceptions.PolarsError:
            self.sound = False  # the check finds the same, and says what it means
            return
        hashes = found.to_arrow(compat_level=pl.CompatLevel.oldest())
        with writing(self.path):
            if self.writer is None:
                self.writer = scratch(self.path, hashes.schema)
            self.writer.write_table(hashes)

    def hashes(self) -> pl.LazyFrame | None:
        """Return those of all row groups; None where they tell nothing."""
        return pl.scan_parquet(self.path) if self.sound and self.writer is not None else None


def _row_groups(
    rows: pl.LazyFrame, config: str, schema: pa.Schema, look: Callable[[pa.Table], object]
) -> Iterator[pa.Table]:
    """Yield tables of `ROW_GROUP_ROWS` rows, the last one shorter; one empty table where there are none."""
    waiting: list[pl.DataFrame] = []
    height = seen = 0

    def cut(end: int) -> Iterator[pa.Table]:
        """Make tables of the first rows of those that wait. A row group may be 100 MB, so each is let go when made."""
        nonlocal waiting, height
        whole = pl.concat(waiting)
        parts = [whole.slice(start, ROW_GROUP_ROWS) for start in range(0, end, ROW_GROUP_ROWS)]
        height -= end
        waiting = [whole.slice(end)] if height else []
        del whole
        while parts:
            table = _to_arrow(parts.pop(0), config, schema)
            look(table)
            yield table
            del table

    for frame in rows.collect_batches(chunk_size=ROW_GROUP_ROWS, maintain_order=True, engine="streaming"):
        waiting.append(frame)
        height += frame.height
        seen += frame.height
        del frame
        if height >= ROW_GROUP_ROWS:
            yield from cut(height - height % ROW_GROUP_ROWS)
    if height:
        yield from cut(height)
    elif not seen:
        yield schema.empty_table()


def _to_arrow(frame: pl.DataFrame, config: str, schema: pa.Schema) -> pa.Table:
    table = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    try:
        return table.cast(schema)
    except (ValueError, pa.ArrowInvalid):
        check_columns(config, table.schema, config)  # says which column
        raise
