"""Columns of a task's two tables, queries and passages, that sources fill alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

import polars as pl

from m2kr.formats.rules import leaves_root
from m2kr.formats.schema import polars_schema
from m2kr.parsing.rejected import split_bad_rows
from m2kr.parsing.rows import Batch
from m2kr.sources.sampling import instruction
from m2kr.tasks import Task

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

ONE_POSITIVE = {
    "pos_item_ids": pl.concat_list("passage_id"),
    "pos_item_contents": pl.concat_list("passage_content"),
}
"""The positives of rows that hold one passage each."""


def queries_of(task: Task, rows: Frame, seed: int, **columns: pl.Expr | str) -> Frame:
    """Return the table of queries: ``columns``, and what ``rows`` have already, in the order and types of the task.

    The instruction is one of the task's, drawn by ``question_id``, unless the rows bring their own.
    """
    rows = rows.with_columns(**columns)
    if task.instructions:
        rows = rows.with_columns(instruction(task, "question_id", seed))
    return _in_order(rows, task.data_config)


def passages_of(task: Task, rows: Frame, **columns: pl.Expr | str) -> Frame:
    """Return the table of passages: ``columns``, and what ``rows`` have already, in the order and types of the task."""
    return _in_order(rows.with_columns(**columns), task.passages_config)


def _in_order(rows: Frame, config: str) -> Frame:
    return rows.select(pl.col(name).cast(kind) for name, kind in polars_schema(config).items())


def numbered(queries: pl.LazyFrame) -> pl.LazyFrame:
    """Return the queries of a split with their row's number, from 0, as ``question_id``, and without ``image_id``."""
    ids = {"question_id": pl.col("_number").cast(pl.String), "image_id": pl.lit(None, pl.String)}
    return queries.with_row_index("_number").with_columns(**ids).drop("_number")


def most_frequent(answers: Iterable[str]) -> str:
    """Return the answer that most annotators gave; of equally frequent ones, the first."""
    return Counter(answers).most_common(1)[0][0]


def reject_leaving_paths(batch: Batch, column: str, row_id: str) -> Batch:
    """Move rows whose image path leads out of the folder of images to the bad ones."""
    rule = (leaves_root(pl.col(column)), pl.format("the image path {} leaves its root", column))
    return split_bad_rows(batch, [rule], row_id=row_id)
