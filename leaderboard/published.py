"""Published figures, each with its source: ``published.csv`` and ``published_answers.csv``.

Figures of retrieval are divided into blocks. Figures of different blocks are not comparable: the benchmark's data, its
passages or the way of measuring differ. A figure is in the file only if its source says that it was measured on the
benchmark, or on the named variant of it.

Figures of answering are what articles report of readers with and without PreFLMR's passages. No source that was at hand
says that questions and passages are those of M2KR, so none is ranked, and each says how it is known. Figures of systems
with a retriever whose passages are known to be others, or are not described, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboard.measures import ANSWER_MEASURES
from m2kr.errors import M2KRError
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd

STATUS = {
    "verified": "seen in the source",
    "digitised": "read off a plot",
    "second-hand": "quoted by another work",
    "superseded": "seen in the source, which other figures replaced since",
}
"""What ``status`` can be of a figure of retrieval. One that is superseded, or read off a plot, is never ranked."""

_NEVER_RANKED = ("digitised", "superseded")

ANSWER_STATUS = {
    "second-hand": "second-hand: quoted by another work",
    "copy": "seen in a copy of the source",
}
"""What ``status`` can be of a figure of answering."""


BENCHMARK = "M2KR"
"""The benchmark that is evaluated here, as published figures call it."""


@dataclass(frozen=True)
class FigureBlock:
    """A group of published figures that were measured alike.

    Attributes:
        key: as in ``published.csv``.
        title: a few words.
        note: what sets it apart.
        search: how passages were found, as far as it is known.
        benchmark: whose queries and passages they are of.
        tabular: whether it is shown as a table of models and tasks; else as a list of figures.
    """

    key: str
    title: str
    note: str
    search: str = "unknown"
    benchmark: str = BENCHMARK
    tabular: bool = True


_COLBERT = "approximate: ColBERT engine, 8 bits"

BLOCKS = {
    block.key: block
    for block in (
        FigureBlock(
            "official",
            "Published: current official figures",
            "Converted PreFLMR checkpoints on the benchmark as it is published today, found by the approximate "
            "search of the ColBERT engine. The reference that a run on the published data compares with.",
            search=_COLBERT,
        ),
        FigureBlock(
            "paper-era",
            "Published: figures of the paper's time",
            "Original checkpoints, on the benchmark before June 2024, when OVEN's splits and the instructions were "
            "corrected. For OKVQA, Infoseek and EVQA only Pseudo Recall was reported. Figures of the radar plot are "
            "not ranked; one with ~ was read off the plot.",
            search="approximate: ColBERT engine",
        ),
        FigureBlock(
            "encn",
            "Published: English and Chinese model, English tasks",
            "Another text encoder, trained on English and Chinese. IGLUE and Pseudo Recall were not reported. The code "
            "that gave these figures counts passages' padding: --option padding_mask=official repeats that. In the "
            "same table, the row of PreFLMR_ViT-L has Pseudo Recall of EVQA, OKVQA and Infoseek under the name Recall.",
            search=_COLBERT,
        ),
        FigureBlock(
            "m2kr-cn",
            "Published: English and Chinese model, M2KR-CN",
            "Another benchmark: the tasks translated to Chinese by a language model. WIT has 512 queries and some "
            "4,000 passages there, MSMARCO 300 and some 5,340, of another translation; the other tasks are as large as "
            "here. Not ranked.",
            search=_COLBERT,
            benchmark="M2KR-CN",
        ),
        FigureBlock(
            "ret-m2kr",
            "Published: ReT on ReT-M2KR",
            "Another benchmark of the same task names: passages of OVEN, Infoseek, EVQA and OKVQA carry pictures, and "
            "MSMARCO is left out.",
            search=_COLBERT,
            benchmark="ReT-M2KR",
        ),
        FigureBlock("fine-tuned", "Published: trained on one task", "Not ranked.", tabular=False),
        FigureBlock("reruns", "Published: reruns by others", "Reported in public threads. Not ranked.", tabular=False),
        FigureBlock(
            "superseded",
            "Published: superseded",
            "Figures that their authors replaced; here, so that one who finds them elsewhere knows. Not ranked.",
            tabular=False,
        ),
    )
}
"""Blocks of published figures of retrieval, in the order they are shown."""

ANSWER_BLOCK = FigureBlock(
    "published",
    "Published",
    "Quoted by another work, or seen in a copy of the source, as each row says. What was seen of them does not "
    "say that questions and passages are those of M2KR, so they are not ranked and compare with no run here.",
    tabular=False,
)
"""The block of all published figures of answering."""


@dataclass(frozen=True)
class FigureFile:
    """A file of published figures, and what may stand in it.

    Attributes:
        path: the file.
        columns: its columns. ``value`` is in percent, ``source`` a document and ``place`` where in it, ``ranked`` yes
            or no, ``parameters`` a count or empty, and ``passages``, which a reader was given, a retriever or "none".
        identity: the columns that together name a figure, which stands once.
        allowed: column -> what can stand in it.
        measures: task -> the measures known of it, as a regular expression.
    """

    path: Path
    columns: tuple[str, ...]
    identity: tuple[str, ...]
    allowed: Mapping[str, Collection[str]]
    measures: Mapping[str, str]


_HERE = Path(__file__).parent

RETRIEVAL = FigureFile(
    _HERE / "published.csv",
    columns=(
        *("model", "task", "metric", "value", "block", "source", "place", "status", "ranked", "parameters", "caveat"),
    ),
    identity=("model", "task", "metric", "block"),
    allowed={"block": BLOCKS, "status": STATUS, "ranked": ("yes", "no")},
    measures={key: r"P?Recall@[1-9]\d*" for key, task in TASKS.items() if task.metrics},
)

ANSWERING = FigureFile(
    _HERE / "published_answers.csv",
    columns=("reader", "passages", "task", "metric", "value", "source", "place", "status", "caveat"),
    identity=("reader", "passages", "task", "metric"),
    allowed={"status": ANSWER_STATUS},
    measures={task: "|".join(name for names in choices for name in names) for task, choices in ANSWER_MEASURES.items()},
)


def read_published(file: FigureFile = RETRIEVAL) -> pd.DataFrame:
    """Return published figures, in the order of their file.

    ``value`` is float64 in percent, ``rounding`` half of its last digit, ``ranked`` bool, ``parameters`` a nullable
    Int64, all other columns are strings. Figures of answering get ``block`` and ``ranked``, and have no ``parameters``.

    Raises:
        M2KRError: the file lacks a column, or a row has an unknown task, measure, block or status, no percentage, no
            source, place or other name, is ranked though it was replaced or read off a plot, or stands twice.
    """
    import pandas as pd

    frame = pd.read_csv(file.path, dtype=str, keep_default_na=False)
    if lacking := [column for column in file.columns if column not in frame.columns]:
        raise M2KRError(f"{file.path} lacks the column {', '.join(lacking)}.")
    twice = frame.duplicated(list(file.identity))
    for line, (row, again) in enumerate(zip(frame.to_dict("records"), twice, strict=True), start=2):
        if problem := _problem(file, row) or ("it stands twice" if again else None):
            figure = ", ".join(row[column] for column in file.identity)
            raise M2KRError(f"{file.path}, line {line} ({figure}): {problem}.")
    frame = frame[list(file.columns)].assign(
        value=frame["value"].astype(float), rounding=0.5 * 0.1 ** frame["value"].str.partition(".")[2].str.len()
    )
    if "block" not in frame:
        return frame.assign(block=ANSWER_BLOCK.key, ranked=False)
    parameters = pd.to_numeric(frame["parameters"].replace("", None)).astype("Int64")
    return frame.assign(ranked=frame["ranked"] == "yes", parameters=parameters)


def _problem(file: FigureFile, row: Mapping[Any, str]) -> str | None:
    for column, known in {"task": file.measures, **file.allowed}.items():
        if row[column] not in known:
            return f"{column} is {row[column]!r}, not one of {', '.join(known)}"
    if not re.fullmatch(file.measures[row["task"]], row["metric"]):
        return f"{row['metric']!r} is no measure of {row['task']}"
    if empty := [column for column in (*file.identity, "source", "place") if not row[column].strip()]:
        return f"it has no {empty[0]}"
    if row.get("ranked") == "yes" and row["status"] in _NEVER_RANKED:
        return f"it is ranked, and {row['status']}"
    try:
        possible = 0 <= float(row["value"]) <= 100
    except ValueError:
        possible = False
    return None if possible else f"value is {row['value']!r}, which is no percentage"
