"""What a source sees of the world: raw files by name, staged tables, and the rows it had to leave out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from m2kr import __version__
from m2kr.common.concurrency import ordered_map, prefetch
from m2kr.common.files import digest, write_json
from m2kr.common.progress import progress
from m2kr.errors import BadRowsError, M2KRError, MissingFilesError
from m2kr.parsing.rows import Advance, BadRow, Batch, read_pieces
from m2kr.tasks import RELEASES

OnBadRows = Literal["error", "skip"]
_T = TypeVar("_T")
_R = TypeVar("_R")


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


@dataclass(frozen=True)
class LeftOut:
    """One row that was left out of the build, as the quarantine file records it."""

    kind: Literal["bad", "missing"]
    file: str
    row: str
    id: str
    reason: str
    content: str


class Quarantine:
    """Rows that cannot be used. In ``error`` mode the first one ends the build; else they are kept, with reasons.

    A row is "bad" when its own content is at fault, and "missing" when its other half (a passage, a question) is not
    in the files given. Both are tolerated by ``--on-bad-rows skip``; the second kind also by ``--allow-missing``.
    """

    def __init__(self, on_bad_rows: OnBadRows = "error", *, allow_missing: bool = False) -> None:
        self.on_bad_rows = on_bad_rows
        self.allow_missing = allow_missing
        self.rows: list[LeftOut] = []

    def add(self, file: Path | str, rows: Iterable[BadRow], *, kind: Literal["bad", "missing"] = "bad") -> None:
        """Take rows of ``file`` out of the build.

        Raises:
            BadRowsError: such rows are not tolerated; the message names the first and counts the others.
            MissingFilesError: the same, for rows whose other half is missing.
        """
        found = list(rows)
        if not found:
            return
        tolerated = self.on_bad_rows == "skip" or (kind == "missing" and self.allow_missing)
        if not tolerated:
            first = found[0]
            name = f" ({first.id})" if first.id else ""
            more = f" {len(found) - 1:,} more rows are like it." if len(found) > 1 else ""
            if kind == "bad":
                remedy = "Mend the file, or pass --on-bad-rows skip to leave such rows out and list them."
                raise BadRowsError(f"{file}, {first.row}{name}: {first.reason}.{more} {remedy}")
            remedy = "Add what is missing, or pass --allow-missing to build what has both halves and list the rest."
            raise MissingFilesError(f"{file}, {first.row}{name}: {first.reason}.{more} {remedy}")
        where = str(file) if isinstance(file, str) else f"{file.parent.name}/{file.name}"
        self.rows += [LeftOut(kind, where, row.row, row.id, row.reason, row.content[:200]) for row in found]

    def count(self, kind: Literal["bad", "missing"]) -> int:
        """Return how many rows of that kind were left out."""
        return sum(row.kind == kind for row in self.rows)


class RawFiles:
    """Raw releases in their folders, read into staged tables.

    Args:
        root: folder with one folder per release.
        work: folder for staged tables; they are reused when their file and settings are the same.
        sources: release folder name -> path, where it is not ``root / name``.
        quarantine: what becomes of bad rows.
        on_read: told of each file when its reading begins.
        workers: threads that parse at the same time. The result does not depend on it.
        quiet: show no progress.
    """

    def __init__(
        self,
        root: Path,
        work: Path,
        *,
        sources: dict[str, Path] | None = None,
        quarantine: Quarantine | None = None,
        on_read: Callable[[Path], object] = lambda _: None,
        workers: int = 1,
        quiet: bool = False,
    ) -> None:
        self.root = root
        self.work = work
        self.sources = sources or {}
        self.quarantine = quarantine or Quarantine()
        self.on_read = on_read
        self.workers = max(1, workers)
        self.quiet = quiet
        self.used: dict[str, Path] = {}
        self.missing: list[str] = []

    def folder(self, release: str) -> Path:
        """Return the folder of a release, whether it exists or not."""
        return self.sources.get(release, self.root / release)

    def find(self, release: str, name: str, *, optional: bool = False) -> Path | None:
        """Return the path of a raw file, or of its ``.gz``; None where it is missing and that is allowed.

        Args:
            release: folder of the release.
            name: file name in that folder.
            optional: the source does without the file as well, so its absence is nobody's fault.

        Raises:
            MissingFilesError: it is missing, is not optional, and ``--allow-missing`` was not given.
        """
        folder = self.folder(release)
        plain = name.removesuffix(".gz")
        for candidate in (name, plain, f"{plain}.gz"):
            if (folder / candidate).is_file():
                self.used[f"{release}/{candidate}"] = folder / candidate
                return folder / candidate
        if optional:
            return None
        label = f"{release}/{name}"
        if label not in self.missing:
            self.missing.append(label)
        if not self.quarantine.allow_missing:
            raise MissingFilesError(
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
    ) -> pl.LazyFrame:
        """Read a raw file once into a table on disk, and return that table lazily; later runs reuse it.

        Args:
            path: the raw file.
            what: names the result, for the progress bar and the staged file.
            batches: reader, called with the path and a progress callback.
            refine: turns a batch into the wanted columns, and moves bad rows out; runs in worker threads.
            settings: whatever else the result depends on.
        """
        state = path.stat()
        key = digest(__version__, what, str(path.resolve()), state.st_size, state.st_mtime_ns, settings)
        target = self.work / f"{what}-{key}.parquet"
        faults = target.with_suffix(".bad.json")
        if not (target.exists() and faults.exists()):
            self.work.mkdir(parents=True, exist_ok=True)
            self.on_read(path)
            bad: list[BadRow] = []
            tolerant = self.quarantine.on_bad_rows == "skip"
            with progress(state.st_size, f"read {path.name}", unit="B", quiet=self.quiet) as bar:
                refined = ordered_map(refine, prefetch(batches(path, bar.update)), self.workers)
                temporary = target.with_name(f".{target.name}.tmp")
                try:
                    _write(temporary, self._good(path, refined, bad, tolerant=tolerant), path)
                    temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)
            write_json(faults, [asdict(row) for row in bad])
        self.quarantine.add(path, (BadRow(**row) for row in json.loads(faults.read_text(encoding="utf-8"))))
        return pl.scan_parquet(target)

    def _good(
        self, path: Path, batches: Iterable[Batch], bad: list[BadRow], *, tolerant: bool
    ) -> Iterator[pl.DataFrame]:
        for batch in batches:
            if batch.bad and not tolerant:
                self.quarantine.add(path, batch.bad)  # raises: no need to read on
            bad += batch.bad
            yield batch.frame

    def without_repeats(self, path: Path, frame: pl.LazyFrame, column: str) -> pl.LazyFrame:
        """Return ``frame`` (with a column ``row``) with the first of each value of ``column`` only.

        The others go to the quarantine as duplicate ids.
        """
        indexed = frame.with_row_index("_index")
        repeated = (
            indexed.select("_index", column)
            .group_by(column)
            .agg(pl.len().alias("_count"), pl.col("_index").min().alias("_first"))
            .filter(pl.col("_count") > 1)
            .collect(engine="streaming")
        )
        if not repeated.height:
            return frame
        again = (
            indexed.join(repeated.lazy().select(column, "_first"), on=column, how="inner")
            .filter(pl.col("_index") != pl.col("_first"))
            .sort("_index")
        )
        first = indexed.join(repeated.lazy().select(_index="_first"), on="_index", how="semi")
        places = again.select("row", column, "_index").join(first.select(column, _at="row"), on=column).sort("_index")
        self.quarantine.add(
            path,
            [
                BadRow(row, f"the id stands already at {at}", id=f"{column} {value}")
                for row, value, at in places.select("row", column, "_at").collect().iter_rows()
            ],
        )
        return indexed.join(again.select("_index"), on="_index", how="anti", maintain_order="left").drop("_index")


def where(
    frame: pl.DataFrame,
    rules: list[tuple[pl.Expr, pl.Expr | str]],
    *,
    row_id: str | None = None,
    raw_text: str | None = None,
) -> Batch:
    """Split a batch by ``rules``, pairs of (condition under which a row is bad, reason). The first that holds counts.

    Args:
        frame: rows with a column ``row``.
        rules: tried in order. A null condition does not hold.
        row_id: column whose value names a row.
        raw_text: column with the raw record: the quarantine quotes it, and the good rows do without it.
    """
    rules = [(bad.fill_null(value=False), reason) for bad, reason in rules]
    # Hardly a batch has a bad row, and to spell out a reason for each row takes longer than to look.
    if not frame.select(pl.any_horizontal(bad for bad, _ in rules)).to_series().any():
        return Batch(frame.drop(raw_text) if raw_text else frame)
    reason = pl.coalesce([pl.when(bad).then(pl.lit(text) if isinstance(text, str) else text) for bad, text in rules])
    judged = frame.with_columns(reason.alias("_reason"))
    found = [
        BadRow(
            row["row"],
            row["_reason"],
            row[raw_text][:200] if raw_text else "",
            f"{row_id} {row[row_id]}" if row_id and row[row_id] not in (None, "") else "",
        )
        for row in judged.filter(pl.col("_reason").is_not_null()).iter_rows(named=True)
    ]
    good = judged.filter(pl.col("_reason").is_null()).drop("_reason")
    return Batch(good.drop(raw_text) if raw_text else good, found)


def in_file_order(found: list[BadRow], batch: Batch) -> list[BadRow]:
    """Return bad rows of ``batch``, judged in several steps, in the order they stand in it."""
    if len(found) < 2:
        return found
    order = {row: index for index, row in enumerate(batch.frame["row"])}
    return sorted(found, key=lambda fault: order[fault.row])


def from_rows(
    rows: Iterable[dict[str, object] | BadRow],
    schema: Mapping[str, pl.DataType | type[pl.DataType]],
    size: int = 20_000,
) -> Iterator[Batch]:
    """Gather Python rows, and the bad ones among them, into batches with the columns of ``schema``."""
    good: list[dict[str, object]] = []
    bad: list[BadRow] = []
    empty = True
    for row in rows:
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            good.append(row)
        if len(good) + len(bad) >= size:
            yield Batch(pl.DataFrame(good, schema=schema, orient="row"), bad)
            good, bad, empty = [], [], False
    if good or bad or empty:
        yield Batch(pl.DataFrame(good, schema=schema, orient="row"), bad)


def scratch(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a table that is read back once or twice and then deleted: speed counts, size does not."""
    return pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_statistics=False)


def _write(path: Path, frames: Iterator[pl.DataFrame], source: Path) -> None:
    """Write frames of one schema as one Parquet file, each as it comes."""
    writer: pq.ParquetWriter | None = None
    try:
        for frame in frames:
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            if writer is None:
                writer = scratch(path, table.schema)
            writer.write_table(table.cast(writer.schema), row_group_size=50_000)
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        something = next(read_pieces(source, lambda _: None), None) is not None
        raise BadRowsError(f"{source} {'has its header and no rows' if something else 'is empty'}. Download it again.")
