"""Random choices that do not depend on order, threads or library versions: a keyed hash of each row's id."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import polars as pl

from m2kr.tasks import Task

_BATCH_ROWS = 100_000
"""Rows that `sample_lazily` looks at at once."""


def draw(ids: Sequence[str] | pl.Series, seed: int, purpose: str) -> np.ndarray:
    """Return a number for each id, uniform over 64 bits.

    Args:
        ids: n strings.
        seed: the build's seed.
        purpose: what is drawn; different purposes give independent numbers.

    Returns:
        uint64 array of shape (n,). The same id, seed and purpose give the same number wherever they stand.
    """
    key = blake2b(f"{seed}/{purpose}".encode(), digest_size=32).digest()
    keyed = blake2b(digest_size=8, key=key)  # copied, because to take in the key is half the work

    def digest(value: str) -> bytes:
        found = keyed.copy()
        found.update(value.encode("utf-8"))
        return found.digest()

    joined = b"".join(map(digest, ids))
    return np.frombuffer(joined, dtype="<u8")


def instruction(task: Task, column: str, seed: int) -> pl.Expr:
    """Return an expression that picks one of the task's instructions for each id in ``column``, equal for equal ids."""
    templates = task.instructions
    if len(templates) == 1:
        return pl.lit(templates[0]).alias("instruction")

    def pick(ids: pl.Series) -> pl.Series:
        indices = draw(ids, seed, f"{task.key} instruction") % len(templates)
        return pl.Series([templates[index] for index in indices], dtype=pl.String)

    return pl.col(column).map_batches(pick, return_dtype=pl.String, is_elementwise=True).alias("instruction")


def sample(ids: pl.DataFrame, size: int, seed: int, purpose: str, column: str = "id") -> pl.DataFrame:
    """Return ``size`` of the rows, chosen by `draw` of ``column``, in their old order; all where there are fewer."""
    if ids.height <= size:
        return ids
    numbers = draw(ids[column], seed, purpose)
    kept = np.sort(np.argsort(numbers, kind="stable")[:size])
    return ids[kept]


def sample_lazily(ids: pl.LazyFrame, size: int, seed: int, purpose: str, column: str) -> pl.DataFrame:
    """Return `sample` of the rows, of which at most some ``size`` and a batch are held at once."""
    rows = ids.with_row_index("_row")
    kept = [rows.head(0).collect().with_columns(_number=pl.lit(0, pl.UInt64))]
    for frame in rows.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, engine="streaming"):
        numbers = pl.Series("_number", draw(frame[column], seed, purpose), dtype=pl.UInt64)
        kept.append(frame.with_columns(numbers))
        if sum(each.height for each in kept) > 2 * size + _BATCH_ROWS:
            kept = [_smallest(kept, size)]
    return _smallest(kept, size).sort("_row").drop("_row", "_number")


def _smallest(frames: list[pl.DataFrame], size: int) -> pl.DataFrame:
    return pl.concat(frames).bottom_k(size, by=["_number", "_row"])
