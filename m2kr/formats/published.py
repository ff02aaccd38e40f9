"""A benchmark's tables beside what is known of the published ones: rows, texts, positives, bytes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.common.text_table import aligned
from m2kr.formats.manifest import read_manifest
from m2kr.formats.shards import find_shards, read_batches, readable
from m2kr.tasks import PASSAGE_IMAGE, Task

if TYPE_CHECKING:
    import polars as pl

_KNOWN: dict[str, Any] = tomllib.loads((files("m2kr.formats") / "published.toml").read_text(encoding="utf-8"))
_NEAR = 0.01
# Relative difference up to which a figure is near: that of a sample drawn anew.


@dataclass(frozen=True)
class Comparison:
    """A figure of a split beside the published one.

    Attributes:
        config: of the table.
        split: of the table.
        what: what is compared; lengths are in characters, bytes those of an Arrow table divided by its rows.
        published: the figure; several are the least, the mean and the most.
        here: the same of this benchmark.
        columns: of bytes a row, each column's share here.
        why: what explains a difference, where that is known.
    """

    config: str
    split: str
    what: str
    published: tuple[float, ...]
    here: tuple[float, ...]
    columns: dict[str, float] = field(default_factory=dict)
    why: str = ""

    @property
    def verdict(self) -> str:
        """OK where the figures are equal as far as the published one is told, "near" within 1 %, else "off"."""
        pairs = list(zip(self.published, self.here, strict=True))
        if all(round(here, _digits(published)) == published for published, here in pairs):
            return "OK"
        return "near" if all(abs(here - published) <= _NEAR * published for published, here in pairs) else "off"


def compare_with_published(data: Path, tasks: Sequence[Task]) -> list[Comparison]:
    """Set the splits of tasks that a benchmark folder has beside the published ones.

    Args:
        data: folder of a built or downloaded benchmark.
        tasks: which; those that are not there are passed over.

    Raises:
        M2KRError: a shard cannot be read.
    """
    manifest = read_manifest(data)["tasks"]
    found: list[Comparison] = []
    for task in tasks:
        made_up = "made-up data" if manifest.get(task.key, {}).get("synthetic") else ""
        for split, published_rows in task.published.items():
            for config, name, rows in zip(
                (task.data_config, task.passages_config), (split, f"{split}_passages"), published_rows, strict=True
            ):
                shards = find_shards(data / config, name)
                if shards:
                    with readable(f"{config}/{name} in {data}"):
                        found += _compared(task, config, split, name, rows, shards, made_up)
    return found


def _compared(
    task: Task, config: str, split: str, name: str, published_rows: int, shards: list[Path], made_up: str
) -> Iterator[Comparison]:
    import pyarrow.parquet as pq

    rows = sum(pq.read_metadata(shard).num_rows for shard in shards)
    yield Comparison(config, name, "rows", (published_rows,), (rows,), why=made_up)
    sizes: dict[str, int] = {}
    names = pq.read_schema(shards[0]).names
    if config == task.passages_config and task.takes_passage_images:
        names = [column for column in names if column != PASSAGE_IMAGE]
    for batch in read_batches(shards, names):
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            sizes[column] = sizes.get(column, 0) + values.nbytes
    columns = {column: round(size / max(rows, 1), 2) for column, size in sizes.items()}
    here, published = sum(sizes.values()) / max(rows, 1), round(_KNOWN["bytes"][config][name] / published_rows, 2)
    why = made_up or _KNOWN["reasons"].get(config, "")
    yield Comparison(config, name, "bytes a row", (published,), (here,), columns, why)
    known = _KNOWN["statistics"].get(task.key, {}).get(split, {})
    expressions = {
        what: _expressions(what) for what in known if _is_of_passages(what) == (config == task.passages_config)
    }
    if expressions:
        import polars as pl

        each = [
            part.alias(f"{what} {place}") for what, parts in expressions.items() for place, part in enumerate(parts)
        ]
        values = iter(pl.scan_parquet(shards).select(each).collect(engine="streaming").row(0))
        for what, parts in expressions.items():
            published = known[what] if isinstance(known[what], list) else [known[what]]
            here = tuple(float(next(values) or 0) for _ in parts)
            yield Comparison(config, name, what, tuple(published), here, why=made_up)


def _is_of_passages(what: str) -> bool:
    return what.startswith("passage")


def _expressions(what: str) -> list[pl.Expr]:
    """Return what gives a statistic of `published.toml`, one expression or the three of least, mean and most."""
    import polars as pl

    def spread(values: pl.Expr) -> list[pl.Expr]:
        return [values.min(), values.mean(), values.max()]

    positives = pl.col("pos_item_ids")
    known = {
        "passages, distinct texts": lambda: [pl.col("passage_content").n_unique()],
        # Of distinct texts, as where the figures come from.
        "passage length": lambda: spread(pl.col("passage_content").unique().str.len_chars()),
        "question length": lambda: spread(pl.col("question").str.len_chars()),
        "distinct questions": lambda: [pl.col("question").n_unique()],
        "distinct pictures": lambda: [pl.col("img_path").n_unique()],
        "distinct entities": lambda: [pl.col("entity_id").n_unique()],
        "positives a query": lambda: spread(positives.list.len()),
        "pairs of query and positive": lambda: [positives.list.len().sum()],
        "distinct positives": lambda: [positives.list.explode(keep_nulls=False, empty_as_null=False).n_unique()],
    }
    if what in known:
        return known[what]()
    column, _, value = what.partition(" ")
    return [(pl.col(column) == value).sum()]


def _digits(figure: float) -> int:
    """Return the number of decimal places that a published figure is told in."""
    return len(f"{figure}".partition(".")[2]) if isinstance(figure, float) else 0


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Return comparisons as a table in plain text; below bytes that are off, each column's share."""
    rows = [["split", "what", "published", "here", "", "why"]]
    for found in comparisons:
        figures = [
            "  ".join(f"{value:,.{_digits(told)}f}" for told, value in zip(found.published, side, strict=True))
            for side in (found.published, found.here)
        ]
        rows.append(
            [
                f"{found.config}/{found.split}",
                found.what,
                *figures,
                found.verdict,
                found.why if found.verdict != "OK" else "",
            ]
        )
    lines = aligned(rows, 2)
    shares = [
        f"bytes a row of {found.config}/{found.split} here: "
        + ", ".join(f"{name} {share:g}" for name, share in found.columns.items())
        for found in comparisons
        if found.columns and found.verdict == "off"
    ]
    return "\n".join([*lines, *shares])
