"""Cutting the ids of a table into parts that fit into memory, each with all rows of its ids."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

PART_ROWS = 2_000_000
"""Rows of a part: with ids of 30 bytes, to group or join so many takes some 300 MB."""


def parts_by_hash(*keyed: tuple[pl.LazyFrame, str]) -> Iterator[tuple[pl.LazyFrame, ...]]:
    """Yield parts of tables, by the hash of a column of each: what is equal in those columns is in one part.

    What has to look at all ids at once, such as grouping and joining by id, does so part by part in bounded memory.
    For each part the tables are read once more, so they should be cheap to read: columns of ids on disk, no texts.

    Args:
        keyed: tables, each with the name of the column to go by.

    Yields:
        One part of each table. There is a single part where no table has more than `PART_ROWS` rows.
    """
    rows = max(int(frame.select(pl.len()).collect(engine="streaming").item()) for frame, _ in keyed)
    count = -(-rows // PART_ROWS)
    if count <= 1:
        yield tuple(frame for frame, _ in keyed)
        return
    for part in range(count):
        yield tuple(frame.filter(pl.col(column).hash() % count == part) for frame, column in keyed)
