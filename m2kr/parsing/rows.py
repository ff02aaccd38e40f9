"""Rows of raw files: those that could be read, as batches, and those that could not, with their places and reasons.

No reader decides what becomes of a bad row; `m2kr.parsing.rejected` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl

Advance = Callable[[int], object]
"""Called with the number of bytes read since the last call."""

Schema = Mapping[str, pl.DataType | type[pl.DataType]]
"""Column -> type."""


@dataclass(frozen=True)
class BadRow:
    """A record that cannot be used.

    Attributes:
        row: where it stands: "line 12", "record 3".
        reason: why it cannot be used.
        content: the beginning of the record.
        id: its id, where it has one.
        ends: whether nothing of the file behind it can be read.
    """

    row: str
    reason: str
    content: str = ""
    id: str = ""
    ends: bool = False

    def __post_init__(self) -> None:
        # What is quoted may hold halves of characters, which no file can be written with.
        for name in ("reason", "content", "id"):
            text = getattr(self, name)
            object.__setattr__(self, name, text.encode("utf-8", "replace").decode("utf-8"))


@dataclass
class Batch:
    """Some records in file order. ``frame`` has a column ``row`` (where each stands) beside those of the reader."""

    frame: pl.DataFrame
    bad: list[BadRow] = field(default_factory=list)


def from_rows(rows: Iterable[dict[str, object] | BadRow], schema: Schema, size: int = 20_000) -> Iterator[Batch]:
    """Gather Python rows, and the bad ones among them, into batches of ``size`` with the columns of ``schema``."""
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


def own_texts(rows: pl.DataFrame) -> pl.DataFrame:
    """Return a copy whose texts are its own: a few rows of a batch would else keep all of its texts in memory."""
    copy = pl.from_arrow(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
    assert isinstance(copy, pl.DataFrame)
    return copy.cast(rows.schema)


def own_text(column: str) -> pl.Expr:
    """Return the texts of a column as `own_texts` does, batch by batch, for the few rows that a lazy table keeps."""
    own = pl.col(column).map_batches(
        lambda texts: own_texts(texts.to_frame()).to_series(), return_dtype=pl.String, is_elementwise=True
    )
    return own.alias(column)
