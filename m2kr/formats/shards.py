"""Parquet shards of a split, ``<config>/<split>-NNNNN-of-NNNNN.parquet``: writing them, finding them, reading them.

Bytes depend on the tables and on pyarrow's version alone. Each table is a row group; nothing of the time, the machine
or the number of threads goes into a file. A shard appears under its name when it is whole.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from m2kr.common.files import atomic, sha256_of, writing
from m2kr.errors import M2KRError, first_line
from m2kr.tasks import TASKS, Task, parse_tasks

if TYPE_CHECKING:
    from threading import Event

    import pyarrow as pa


class Shard(TypedDict):
    """A written shard, as the manifest lists it: its path, the SHA-256 of its bytes, its rows and bytes."""

    path: str
    sha256: str
    rows: int
    bytes: int


# --- writing ---


def write_shards(
    folder: Path,
    split: str,
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    *,
    is_full: Callable[[int, int, int], bool],
    counted: bool = True,
    stop: Event | None = None,
    **layout: Any,
) -> list[Shard]:
    """Write tables as shards of a split, and hash each shard while the next one is written.

    Args:
        folder: created if need be. Shards of the split that are there already are replaced.
        split: what their names begin with.
        schema: what all tables are cast to.
        tables: one at least; each becomes a row group.
        is_full: whether a table begins a new shard: (rows in the shard so far, their bytes in memory, rows to come).
        counted: whether names end with "-of-" and the number of shards.
        stop: when set by another thread, hashing ends with an error.
        **layout: of pyarrow's ``ParquetWriter``: compression and so on.

    Raises:
        M2KRError: the disk is full, or the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(f"{split}-*.parquet*"):
            stale.unlink()
    number = rows = size = 0

    def shard_of(table: pa.Table) -> int:
        nonlocal number, rows, size
        if rows and is_full(rows, size, table.num_rows):
            number, rows, size = number + 1, 0, 0
        rows += table.num_rows
        size += table.nbytes
        return number

    parts: list[tuple[Path, int, Future[str]]] = []
    with ThreadPoolExecutor(1) as beside:
        for index, members in itertools.groupby(tables, shard_of):
            part = folder / f"{split}-{index:05d}.parquet.part"
            count = write_shard(part, schema, members, **layout)
            parts.append((part, count, beside.submit(sha256_of, part, stop)))
        shards: list[Shard] = []
        for index, (part, count, sha256) in enumerate(parts):
            path = shard_path(folder, split, index, len(parts)) if counted else part.with_suffix("")
            found = sha256.result()
            with writing(path):
                part.replace(path)
            shards.append({"path": path.name, "sha256": found, "rows": count, "bytes": path.stat().st_size})
    return shards


def write_shard(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], **layout: Any) -> int:
    """Write tables as one shard, a row group each, and return the number of its rows; see `write_shards`."""
    import pyarrow.parquet as pq

    rows = 0
    with atomic(path) as file, pq.ParquetWriter(file, schema, **layout) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=max(table.num_rows, 1))
            rows += table.num_rows
    return rows


def shard_path(folder: Path, split: str, index: int, count: int) -> Path:
    """Return where a shard of a split stands."""
    return folder / f"{split}-{index:05d}-of-{count:05d}.parquet"


# --- finding ---


def find_shards(folder: Path, split: str = "*") -> list[Path]:
    """Return the shards of a split in the folder of a config, in order; by default of all its splits.

    They are named as here, or as on the hub's branch ``refs/convert/parquet``: ``<config>/<split>/0000.parquet``.
    """
    converted = (path for path in folder.glob(f"{split}/*.parquet") if re.fullmatch("[0-9]+", path.stem))
    return sorted(folder.glob(f"{split}-*.parquet")) or sorted(converted)


def missing_shards(shards: Sequence[Path]) -> str:
    """Return "2 of the 3 shards" where the names of a split's shards tell of more than there are; else nothing."""
    counted = re.search("-of-([0-9]{1,9})$", shards[0].stem)
    numbered = re.fullmatch("[0-9]{1,9}", shards[-1].stem)
    count = int(counted[1]) if counted else int(numbered[0]) + 1 if numbered else len(shards)
    return f"{len(shards)} of the {count} shards" if count != len(shards) else ""


def split_shards(data: Path, config: str, split: str) -> list[Path]:
    """Return the shards of a split of a benchmark.

    Raises:
        M2KRError: there are none, or some are missing.
    """
    shards = find_shards(data / config, split)
    if not shards:
        found = find_shards(data / config)
        there = sorted({shard.parent.name if shard.stem.isdecimal() else shard.name.split("-")[0] for shard in found})
        has = f"{config} has {', '.join(there)}" if there else f"it has no {config}"
        raise M2KRError(f"{data} holds no {config}/{split}: {has}. Build it with python -m m2kr.build.")
    if some := missing_shards(shards):
        raise M2KRError(f"{data / config} has {some} of {split}. Get the rest.")
    return shards


def tasks_in(data: Path, split: str = "*") -> list[str]:
    """Return the keys of the tasks that a benchmark has queries of, in the order of `TASKS`."""
    return [key for key, task in TASKS.items() if find_shards(data / task.data_config, split)]


def choose_tasks(names: str, folder: Path, split: str, among: Iterable[str] = TASKS) -> list[Task]:
    """Return the tasks of a list such as ``--tasks``, all of which have a split in a benchmark.

    Args:
        names: comma-separated, or "all" for those that are there.
        folder: of the benchmark; `m2kr.formats.hub` makes one of a dataset of the hub.
        split: of the queries.
        among: keys of the tasks to choose from.

    Raises:
        M2KRError: a task is not there, or none is.
    """
    if folder.exists() and not folder.is_dir():
        raise M2KRError(f"--data {folder} is a file. Name the folder of a benchmark, or a dataset id of the hub.")
    there = [key for key in among if find_shards(folder / TASKS[key].data_config, split)]
    if not there:
        raise M2KRError(f"{folder} holds no task with a {split} split. Build one with python -m m2kr.build.")
    tasks = parse_tasks(names, there)
    if lacking := [task.key for task in tasks if task.key not in there]:
        raise M2KRError(f"{folder} has no {split} split of {', '.join(lacking)}; it has one of {', '.join(there)}.")
    return tasks


# --- reading ---


@contextmanager
def readable(what: object, remedy: str = "Get or build it again.") -> Iterator[None]:
    """Explain what pyarrow and Polars raise of a damaged file as an error about ``what``.

    Raises:
        M2KRError: naming it, the reason and the remedy.
    """
    import polars as pl
    import pyarrow as pa

    try:
        yield
    except M2KRError:
        raise
    # Polars panics over some damage, and Arrow raises what Python raises of a text that is none.
    except (
        pa.ArrowException,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OSError,
        KeyError,
        ValueError,
    ) as error:
        raise M2KRError(f"{what} could not be read ({first_line(error)}). {remedy}") from error


def read_batches(shards: Iterable[Path], columns: list[str], rows: int = 1 << 16) -> Iterator[pa.RecordBatch]:
    """Yield some columns of shards in batches, in order.

    Raises:
        M2KRError: a shard cannot be read, or lacks a column.
    """
    import pyarrow.parquet as pq

    for shard in shards:
        with readable(shard), pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                yield batch.select(columns)  # in this order, and an error where one is lacking
