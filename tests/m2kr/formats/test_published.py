"""A benchmark beside the published one: off where it is made up, OK where it has the published counts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from m2kr.formats.published import Comparison, compare_with_published, comparison_table
from m2kr.formats.schema import arrow_schema
from m2kr.tasks import TASKS

LLAVA = TASKS["LLaVA"]


def texts(count: int, distinct: int, least: int, mean: float, most: int) -> list[str]:
    """So many texts, of which some are equal, with lengths from ``least`` to ``most`` and their mean."""
    lengths = [least, most, *[int(mean)] * (distinct - 2)]
    for place in range(2, 2 + round(mean * distinct) - sum(lengths)):
        lengths[place] += 1
    made = [f"{number:07d}".ljust(length, "x") for number, length in enumerate(lengths)]
    return made + made[distinct // 2 : distinct // 2 + count - distinct]


def write(folder: Path, config: str, split: str, columns: dict[str, Any], filled: str, size: int) -> None:
    """Write a split; of the column ``filled``, each row's value is such that the table takes ``size`` bytes."""
    schema = arrow_schema(config)
    frame = pl.DataFrame(columns)
    rows = frame.height
    frame = frame.with_columns(
        **{name: pl.lit(None) for name in schema.names if name not in frame.columns and name != filled},
        **{filled: pl.lit("")},
    ).select(schema.names)
    short = size - frame.to_arrow().cast(schema).nbytes
    each = [short // rows + (row < short % rows) for row in range(rows)]
    frame = frame.with_columns(pl.Series(filled, ["y" * length for length in each]))
    (folder / config).mkdir(exist_ok=True)
    path = folder / config / f"{split}-00000-of-00001.parquet"

    pq.write_table(frame.to_arrow().cast(schema), path)


@pytest.fixture(scope="module")
def as_published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA's test split with the published counts and lengths, and texts that say nothing."""
    folder = tmp_path_factory.mktemp("published")
    passages = [f"p{row}" for row in range(6_006)]
    positives = [passages[row % 5_108] for row in range(5_120)]
    contents = texts(6_006, 5_994, 17, 546.2, 2_562)
    by_id = dict(zip(passages, contents, strict=True))
    queries = {
        "question_id": [f"q{row}" for row in range(5_120)],
        "question": texts(5_120, 3_906, 21, 59.65, 165),
        "img_path": [f"{row % 4_994}.jpg" for row in range(5_120)],
        "pos_item_ids": [[name] for name in positives],
        "pos_item_contents": [[by_id[name]] for name in positives],
    }
    write(folder, "LLaVA_data", "test", queries, "instruction", 4_429_239)
    write(
        folder,
        "LLaVA_passages",
        "test_passages",
        {"passage_id": passages, "passage_content": contents},
        "img_path",
        4_259_479,
    )
    return folder


def test_a_build_with_the_published_counts_is_ok(as_published):
    found = compare_with_published(as_published, [LLAVA])
    assert [one for one in found if one.verdict != "OK"] == []
    assert {one.what for one in found} >= {
        *("rows", "bytes a row", "passages, distinct texts", "passage length", "question length"),
        *("distinct questions", "distinct pictures", "positives a query", "distinct positives"),
    }
    sizes = next(one for one in found if one.what == "bytes a row" and one.config == "LLaVA_data")
    assert sum(sizes.columns.values()) == pytest.approx(4_429_239 / 5_120, abs=0.2)


def test_the_made_up_world_is_off_and_says_so(built):
    found = compare_with_published(built, list(TASKS.values()))
    assert {(one.config, one.split) for one in found} == {
        place
        for task in TASKS.values()
        for split in task.splits
        for place in ((task.data_config, split), (task.passages_config, f"{split}_passages"))
    }
    rows = [one for one in found if one.what == "rows"]
    assert {(one.verdict, one.why) for one in rows} == {("off", "made-up data")}
    printed = comparison_table(found)
    assert "bytes a row of CC_data/train here: original_data_id" in printed
    assert re.search(r"MSMARCO_passages/train_passages +rows +8,841,823 +[0-9,]+ +off  made-up data", printed)


def test_a_known_choice_explains_a_difference(as_published, built):
    table = next(one for one in compare_with_published(built, [TASKS["CC"]]) if one.what == "bytes a row")
    assert table.why == "made-up data"
    (as_published / "CC_data").symlink_to(built / "CC_data")  # without a manifest, nothing says that it is made up
    table = next(one for one in compare_with_published(as_published, [TASKS["CC"]]) if one.what == "bytes a row")
    assert "ids=records" in table.why


@pytest.mark.parametrize(
    ("published", "here", "verdict"),
    [
        ((1_000,), (1_000.0,), "OK"),
        ((1_000,), (1_001.0,), "near"),
        ((1_000,), (1_011.0,), "off"),
        ((7.43,), (7.4345,), "OK"),
        ((7.43,), (7.44,), "near"),
        ((1, 7.43, 9), (1.0, 7.43, 10.0), "off"),
        ((0,), (0.0,), "OK"),
        ((0,), (1.0,), "off"),
    ],
)
def test_what_is_told_of_two_figures(published, here, verdict):
    assert Comparison("X_data", "test", "rows", published, here).verdict == verdict
