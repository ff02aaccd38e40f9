"""Bad rows of raw files: found by rules, then reported as an error or set aside in a list with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from m2kr.errors import BadRowsError, MissingFilesError
from m2kr.parsing.rows import BadRow, Batch

OnBadRows = Literal["error", "skip"]
Kind = Literal["bad", "missing"]
"""A row's own content is at fault, or its other half (a passage, a question) is not in the files given."""

Rule = tuple[pl.Expr, pl.Expr | str]
"""A condition under which a row is bad, and the reason."""


@dataclass(frozen=True)
class RejectedRow:
    """One row that was left out of the build, as the file of such rows records it."""

    kind: Kind
    file: str
    row: str
    id: str
    reason: str
    content: str


class RejectedRows:
    """Rows that cannot be used. In ``error`` mode the first one ends the build; else they are kept, with reasons.

    Both kinds are tolerated by ``--on-bad-rows skip``; those whose other half is missing also by ``--allow-missing``.
    """

    def __init__(self, on_bad_rows: OnBadRows = "error", *, allow_missing: bool = False) -> None:
        self.on_bad_rows = on_bad_rows
        self.allow_missing = allow_missing
        self.rows: list[RejectedRow] = []

    def add(self, file: Path | str, rows: Iterable[BadRow], *, kind: Kind = "bad") -> None:
        """Take rows of ``file`` out of the build.

        Raises:
            BadRowsError: such rows are not tolerated; the message names the first and counts the others.
            MissingFilesError: the same, for rows whose other half is missing.
        """
        found = list(rows)
        if found and self.on_bad_rows == "error" and not (kind == "missing" and self.allow_missing):
            first = found[0]
            name = f" ({first.id})" if first.id else ""
            more = f" {len(found) - 1:,} more rows are like it." if len(found) > 1 else ""
            fault = f"{file}, {first.row}{name}: {first.reason}.{more}"
            if kind == "bad":
                raise BadRowsError(
                    f"{fault} Mend the file, or pass --on-bad-rows skip to leave such rows out and list them."
                )
            raise MissingFilesError(
                f"{fault} Add what is missing, or pass --allow-missing to build what has both halves and list the rest."
            )
        where = str(file) if isinstance(file, str) else f"{file.parent.name}/{file.name}"
        self.rows += [RejectedRow(kind, where, row.row, row.id, row.reason, row.content[:200]) for row in found]

    def count(self, kind: Kind) -> int:
        """Return how many rows of that kind were left out."""
        return sum(row.kind == kind for row in self.rows)


def bad_rows(
    frame: pl.DataFrame, reason: pl.Expr | str, *, id: pl.Expr | str = "", content: pl.Expr | str = ""
) -> list[BadRow]:
    """Return the rows of a frame with a column ``row`` as bad ones; a string is the same for all of them."""
    columns = {"reason": reason, "content": content, "id": id}
    told = frame.select("row", **{name: pl.lit(v) if isinstance(v, str) else v for name, v in columns.items()})
    return [BadRow(*fields) for fields in told.iter_rows()]


def split_bad_rows(
    batch: Batch, rules: Sequence[Rule], *, row_id: str | None = None, raw_text: str | None = None
) -> Batch:
    """Move rows that break one of ``rules`` to the bad ones; the first that holds gives the reason.

    Args:
        batch: rows and bad ones.
        rules: tried in order. A null condition does not hold.
        row_id: column whose value names a row.
        raw_text: column with the raw record: it is quoted of bad rows, and the good ones do without it.
    """
    frame = batch.frame
    rules = [(bad.fill_null(value=False), reason) for bad, reason in rules]
    # Hardly a batch has a bad row, and to spell out a reason for each row takes longer than to look.
    if not frame.select(pl.any_horizontal(bad for bad, _ in rules)).to_series().any():
        return Batch(frame.drop(raw_text) if raw_text else frame, batch.bad)
    reason = pl.coalesce([pl.when(bad).then(pl.lit(text) if isinstance(text, str) else text) for bad, text in rules])
    judged = frame.with_columns(reason.alias("_reason"))
    name: pl.Expr | str = ""
    if row_id:
        value = pl.col(row_id).cast(pl.String).fill_null("")
        name = pl.when(value != "").then(pl.format(row_id + " {}", value)).otherwise(pl.lit(""))
    content = pl.col(raw_text).str.slice(0, 200) if raw_text else ""
    found = bad_rows(judged.filter(pl.col("_reason").is_not_null()), pl.col("_reason"), id=name, content=content)
    good = judged.filter(pl.col("_reason").is_null()).drop("_reason")
    return Batch(good.drop(raw_text) if raw_text else good, batch.bad + found)


def in_file_order(found: list[BadRow], batch: Batch) -> list[BadRow]:
    """Return bad rows of ``batch``, judged in several steps, in the order they stand in it."""
    if len(found) < 2:
        return found
    order = {row: index for index, row in enumerate(batch.frame["row"])}
    return sorted(found, key=lambda fault: order[fault.row])
