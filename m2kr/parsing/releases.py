"""Raw releases as a source reads them: files by name, staged tables, and what the source makes of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from m2kr import __version__
from m2kr.common.concurrency import ordered_map, prefetch
from m2kr.common.files import digest, write_json, writing
from m2kr.common.json_input import read_json
from m2kr.common.memory import give_back
from m2kr.common.partitions import parts_by_hash
from m2kr.common.progress import progress
from m2kr.errors import BadRowsError, M2KRError, MissingReleaseError
from m2kr.parsing.compressed import read_pieces
from m2kr.parsing.json_files import Element
from m2kr.parsing.json_records import rows_of
from m2kr.parsing.rejected import RejectedRows, bad_rows
from m2kr.parsing.rows import Advance, BadRow, Batch, Schema, from_rows
from m2kr.tasks import RELEASES

PLAIN_BYTES = 1 << 28
"""Bytes of a task's raw files whose staged tables are not compressed: that would take a seventh of a small build."""

_COMPRESSED = (".gz", ".tgz", ".zip")  # their size tells nothing of that of their tables


@dataclass
class Tables:
    """What a source makes: lazy tables by query split, and facts it counted on the way.

    Attributes:
        data: query split -> rows of ``<TASK>_data``.
        passages: query split -> rows of ``<TASK>_passages``.
        counts: facts for the card and the manifest.
        lacking: what could not be built and why, one sentence each.
    """

    data: dict[str, pl.LazyFrame] = field(default_factory=dict)
    passages: dict[str, pl.LazyFrame] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)

    def count_all(self, name: str, holding: int, of: int) -> None:
        """Count the rows that keep to a rule of the format which every row has to keep to.

        Raises:
            M2KRError: some do not, which only a fault of the source module can cause.
        """
        self.counts[name] = holding
        if holding != of:
            raise M2KRError(
                f"{name} is {holding:,} where it must be {of:,}: a defect of this program, please report it."
            )


class RawFiles:
    """Raw releases in their folders, read into staged tables.

    Args:
        folders: folder of each release, by its name; it need not be there.
        work: folder for staged tables; they are reused when their file and settings are the same.
        rejected: what becomes of bad rows.
        on_read: told of each file when its reading begins.
        workers: threads that parse at the same time. The result does not depend on it.
        quiet: show no progress.

    Attributes:
        used: "release/name" -> path of the raw files that were found.
        missing: "release/name" of those that were not.
        staged: names of what is under ``work``; equal names hold equal rows.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        work: Path,
        *,
        rejected: RejectedRows | None = None,
        on_read: Callable[[Path], object] = lambda _: None,
        workers: int = 1,
        quiet: bool = False,
    ) -> None:
        self.folders = folders
        self.work = work
        self.rejected = rejected or RejectedRows()
        self.on_read = on_read
        self.workers = max(1, workers)
        self.quiet = quiet
        self.used: dict[str, Path] = {}
        self.missing: list[str] = []
        self.staged: list[str] = []
        self._plain_bytes = PLAIN_BYTES

    def find(self, release: str, name: str, *, optional: bool = False) -> Path | None:
        """Return the path of a raw file, or of its ``.gz``; None where it is missing and that is allowed.

        With ``optional``, the source does without the file as well, so its absence is nobody's fault.

        Raises:
            MissingReleaseError: it is missing, is not optional, and ``--allow-missing`` was not given.
        """
        folder = self.folders[release]
        for candidate in possible_names(name):
            if (folder / candidate).is_file():
                self.used[f"{release}/{candidate}"] = folder / candidate
                return folder / candidate
        if optional:
            return None
        label = f"{release}/{name}"
        if label not in self.missing:
            self.missing.append(label)
        if not self.rejected.allow_missing:
            raise MissingReleaseError(
                f"{folder / name} is missing. {RELEASES[release].title} is at {RELEASES[release].url}; put the file "
                f"there, name its folder with --source {release}=PATH, or pass --allow-missing to build without it."
            )
        return None

    def stage(
        self,
        path: Path,
        what: str,
        batches: Callable[[Path, Advance], Iterator[Batch]],
        refine: Callable[[Batch], Batch] = lambda batch: batch,
        *,
        settings: object = None,
        unique: str | None = None,
    ) -> pl.LazyFrame:
        """Read a raw file once into a table on disk, and return that table lazily; later runs reuse it.

        Args:
            path: the raw file.
            what: names the result, for the progress bar and the staged file.
            batches: reader, called with the path and a progress callback.
            refine: turns a batch into the wanted columns, and moves bad rows out; runs in worker threads.
            settings: whatever else the result depends on.
            unique: column of which each value may stand once; see `without_repeats`.
        """
        state = path.stat()
        key = digest(__version__, what, str(path.resolve()), state.st_size, state.st_mtime_ns, settings)
        faults = self.work / f"{what}-{key}.bad.json"

        def read(target: Path) -> None:
            self.on_read(path)
            bad: list[BadRow] = []
            plain = path.suffix not in _COMPRESSED and state.st_size <= self._plain_bytes
            if plain:
                self._plain_bytes -= state.st_size
            with progress(state.st_size, f"read {path.name}", unit="B", quiet=self.quiet) as bar:
                refined = ordered_map(refine, prefetch(batches(path, bar.update)), self.workers)
                rows = _write(target, self._good(path, refined, bad), path, plain=plain)
            if not rows and (ended := [row for row in bad if row.ends]):
                # A file that cannot be read is no row to be left out: its split would vanish.
                raise BadRowsError(
                    f"{path}, {ended[0].row}: {ended[0].reason}. No row of the file can be used: get it again."
                )
            write_json(faults, [asdict(row) for row in bad])

        table = pl.scan_parquet(self.make_once(f"{what}-{key}.parquet", read))
        self.rejected.add(path, read_json(faults, list[BadRow], "list of bad rows", f"Delete {self.work}."))
        return self.without_repeats(path, table, unique) if unique else table

    def stage_records(
        self,
        path: Path,
        what: str,
        read: Callable[[Path, Advance], Iterable[Element]],
        parse: Callable[[Any], Iterable[dict[str, Any]]],
        schema: Schema,
        refine: Callable[[Batch], Batch] = lambda batch: batch,
        *,
        about: Callable[[Any], tuple[str, object]],
        settings: object = None,
        unique: str | None = None,
        size: int = 20_000,
    ) -> pl.LazyFrame:
        """Stage the rows that ``parse`` makes of each record of a JSON file; see `stage`, `rows_of` and `from_rows`."""

        def batches(path: Path, advance: Advance) -> Iterator[Batch]:
            return from_rows(rows_of(read(path, advance), parse, about), {"row": pl.String, **schema}, size)

        return self.stage(path, what, batches, refine, settings=settings, unique=unique)

    def make_once(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the file or folder of that name under ``work``; where it is not there, ``make`` writes it.

        It is there whole or not at all: ``make`` is called with the path of a temporary one.
        """
        target = self.work / name
        self.staged.append(name)
        if not target.exists():
            with writing(target):
                self.work.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{name}.tmp")
            _remove(temporary)  # a kill may have left one
            try:
                make(temporary)
                temporary.replace(target)
            finally:
                _remove(temporary)
        return target

    def _good(self, path: Path, batches: Iterable[Batch], bad: list[BadRow]) -> Iterator[pl.DataFrame]:
        for batch in batches:
            if batch.bad and self.rejected.on_bad_rows == "error":
                self.rejected.add(path, batch.bad)  # raises: no need to read on
            bad += batch.bad
            yield batch.frame

    def without_repeats(self, path: Path, frame: pl.LazyFrame, column: str) -> pl.LazyFrame:
        """Return ``frame`` (with a column ``row``) with the first of each value of ``column`` only.

        The others are rejected as duplicate ids.
        """
        indexed = frame.with_row_index("_index")
        repeated = pl.concat(
            part.group_by(column)
            .agg(pl.len().alias("_count"), pl.col("_index").min().alias("_first"))
            .filter(pl.col("_count") > 1)
            .collect(engine="streaming")
            for (part,) in parts_by_hash((indexed.select("_index", column), column))
        )
        if not repeated.height:
            return frame
        again = (
            indexed.join(repeated.lazy().select(column, "_first"), on=column, how="inner", maintain_order="left")
            .filter(pl.col("_index") != pl.col("_first"))
            .sort("_index")
        )
        firsts = repeated.lazy().select(_index="_first")
        first = indexed.join(firsts, on="_index", how="semi", maintain_order="left")
        placed = again.select("row", column, "_index").join(first.select(column, _at="row"), on=column).sort("_index")
        reason = pl.format("the id stands already at {}", "_at")
        self.rejected.add(path, bad_rows(placed.collect(), reason, id=pl.format(column + " {}", column)))
        return indexed.join(again.select("_index"), on="_index", how="anti", maintain_order="left").drop("_index")


def possible_names(name: str) -> tuple[str, ...]:
    """Return the names that a raw file may have, plain or compressed, in the order in which they are tried."""
    plain = name.removesuffix(".gz")
    return tuple(dict.fromkeys((name, plain, f"{plain}.gz")))


def scratch(path: Path, schema: pa.Schema, *, plain: bool = False) -> pq.ParquetWriter:
    """Open a table that is read back a few times and then deleted, and should take no more disk than what is made.

    ``plain`` leaves out to compress it, where there is little of it.
    """
    packing: dict[str, Any] = {"compression": "none"} if plain else {"compression": "zstd", "compression_level": 1}
    return pq.ParquetWriter(path, schema, use_dictionary=False, write_statistics=False, **packing)


def _write(path: Path, frames: Iterator[pl.DataFrame], source: Path, *, plain: bool) -> int:
    """Write frames of one schema as one Parquet file, each as it comes; return the number of rows."""
    writer: pq.ParquetWriter | None = None
    rows = 0
    try:
        for frame in frames:
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            if writer is None:
                writer = scratch(path, table.schema, plain=plain)
            writer.write_table(table.cast(writer.schema), row_group_size=50_000)
            rows += frame.height
    finally:
        if writer is not None:
            writer.close()
        give_back()
    if writer is None:
        something = next(read_pieces(source, lambda _: None), None) is not None
        raise BadRowsError(f"{source} {'has its header and no rows' if something else 'is empty'}. Download it again.")
    return rows


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
