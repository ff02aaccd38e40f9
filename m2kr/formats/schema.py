"""Columns of the configs as Arrow and Polars have them, made of the task records (`m2kr.tasks`)."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import pyarrow as pa

from m2kr.tasks import PASSAGE_IMAGE, TASKS

if TYPE_CHECKING:
    import polars as pl

_PLAIN = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_(), "null": pa.null()}


def arrow_schema(config: str, *, passage_images: bool = False) -> pa.Schema:
    """Return the Arrow schema of ``<TASK>_data`` or ``<TASK>_passages``, columns in published order.

    With ``passage_images``, passages have the column ``img_path`` besides, the last one.
    """
    key, _, table = config.rpartition("_")
    columns = TASKS[key].query_columns if table == "data" else TASKS[key].passage_columns
    more = {PASSAGE_IMAGE: "string"} if passage_images else {}
    return pa.schema([pa.field(name, arrow_type(spelled)) for name, spelled in {**columns, **more}.items()])


def takes_passage_images(config: str) -> bool:
    """Whether the tables of a config may have the column of `PASSAGE_IMAGE`; see `Task.takes_passage_images`."""
    key, _, table = config.rpartition("_")
    return table == "passages" and TASKS[key].takes_passage_images


@functools.cache
def arrow_type(spelled: str) -> pa.DataType:
    """Return a type that is spelled as Arrow prints it, such as "list<struct<text: string, score: double>>"."""
    outer, _, inner = spelled.removesuffix(">").partition("<")
    if outer == "list":
        return pa.list_(arrow_type(inner))
    if outer == "struct":
        fields = (field.split(": ", 1) for field in _outer_fields(inner))
        return pa.struct([pa.field(name, arrow_type(kind)) for name, kind in fields])
    return _PLAIN[spelled]


def _outer_fields(text: str) -> list[str]:
    """Split a struct's fields at the commas that stand outside of every bracket."""
    fields, depth = [""], 0
    for token in re.findall(r"[<>]|, |[^<>,]+", text):
        depth += (token == "<") - (token == ">")
        if token == ", " and not depth:
            fields.append("")
        else:
            fields[-1] += token
    return fields


def polars_schema(config: str, *, passage_images: bool = False) -> pl.Schema:
    """Return the schema of ``config`` in Polars types; as `arrow_schema`."""
    import polars as pl

    # from_arrow would import pandas, which takes longer than all else here.
    return pl.Schema(arrow_schema(config, passage_images=passage_images))
