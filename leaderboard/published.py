"""Published figures, each with its source: ``published.csv`` and the blocks it is divided into.

Figures of different blocks are not comparable: the benchmark's data, its passages or the way of measuring differ.
A figure is in the file only if its source says that it was measured on the benchmark, or on the named variant of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.errors import M2KRError
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = Path(__file__).with_name("published.csv")

COLUMNS = ("model", "task", "metric", "value", "block", "source", "status", "ranked", "parameters", "caveat")
"""Columns of ``published.csv``. ``value`` is in percent, ``ranked`` yes or no, ``parameters`` a count or empty."""

STATUS = {
    "verified": "seen in the source",
    "digitised": "read off a plot",
    "second-hand": "quoted by another work",
}
"""What ``status`` can be."""


@dataclass(frozen=True)
class Block:
    """A group of published figures that were measured alike.

    Attributes:
        key: as in ``published.csv``.
        title: a few words.
        note: what sets it apart.
        tabular: whether it is shown as a table of models and tasks; else as a list of figures.
    """

    key: str
    title: str
    note: str
    tabular: bool = True


BLOCKS = {
    block.key: block
    for block in (
        Block(
            "official",
            "Published: current official figures",
            "Converted PreFLMR checkpoints on the benchmark as it is published today, found by the approximate "
            "search of the ColBERT engine. The reference that a run on the published data compares with.",
        ),
        Block(
            "paper-era",
            "Published: figures of the paper's time",
            "Original checkpoints, on the benchmark before June 2024, when OVEN's splits and the instructions were "
            "corrected. For OKVQA, Infoseek and EVQA only Pseudo Recall was reported. Figures of the radar plot are "
            "not ranked; one with ~ was read off the plot.",
        ),
        Block(
            "encn",
            "Published: English and Chinese model, English tasks",
            "Another text encoder, trained on English and Chinese. IGLUE and Pseudo Recall were not reported.",
        ),
        Block(
            "ret-m2kr",
            "Published: ReT on ReT-M2KR",
            "Another benchmark of the same task names: passages of OVEN, Infoseek, EVQA and OKVQA carry pictures, and "
            "MSMARCO is left out.",
        ),
        Block("fine-tuned", "Published: trained on one task", "Not ranked.", tabular=False),
        Block("reruns", "Published: reruns by others", "Reported in public threads. Not ranked.", tabular=False),
    )
}
"""Blocks of published figures, in the order they are shown."""


def read_published(path: Path = PUBLISHED) -> pd.DataFrame:
    """Return the published figures, columns `COLUMNS`, in the order of the file.

    ``value`` is float64 in percent, ``ranked`` bool, ``parameters`` a nullable Int64, the rest strings.

    Raises:
        M2KRError: the file lacks a column, or a row has an unknown task, block, status or measure, no number, no
            source, or stands twice.
    """
    import pandas as pd

    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    lacking = [column for column in COLUMNS if column not in frame.columns]
    if lacking:
        raise M2KRError(f"{path} lacks the column {', '.join(lacking)}.")
    for column, known in (
        ("task", {key for key, task in TASKS.items() if task.metrics}),
        ("block", set(BLOCKS)),
        ("status", set(STATUS)),
        ("ranked", {"yes", "no"}),
    ):
        others = frame[~frame[column].isin(known)]
        if len(others):
            row = others.iloc[0]
            raise M2KRError(f"{path}, {row['model']}: {column} is {row[column]!r}, not one of {', '.join(known)}.")
    value = pd.to_numeric(frame["value"], errors="coerce")
    for wrong, what in (
        (~value.between(0, 100), "a value that is no percentage"),
        (frame["source"].str.strip() == "", "no source"),
        (~frame["metric"].str.fullmatch(r"P?Recall@[1-9]\d*"), "a measure other than Recall@K and PRecall@K"),
        (frame.duplicated(["model", "task", "metric", "block"]), "a figure that stands twice"),
    ):
        if wrong.any():
            row = frame[wrong].iloc[0]
            raise M2KRError(f"{path} has {what}: {row['model']}, {row['task']}, {row['metric']}.")
    parameters = pd.to_numeric(frame["parameters"].replace("", None)).astype("Int64")
    return frame.assign(value=value, ranked=frame["ranked"] == "yes", parameters=parameters)[list(COLUMNS)]
