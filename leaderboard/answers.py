"""Answering with what was retrieved: result files of ``python -m m2kr.answer``, and published figures.

They stand on a page of their own and are never ranked with retrieval, as they depend on the reader as well.

``published_answers.csv`` holds what articles report of readers with and without PreFLMR's passages. No source that was
at hand says that questions and passages are those of M2KR, so none is ranked, and each says how it is known. Figures of
systems with a retriever whose passages are known to be others, or are not described, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboard.records import MARKS
from leaderboard.validate import ANSWER_MEASURES, read_valid_answer
from m2kr.common.files import digest
from m2kr.errors import M2KRError
from m2kr.results.answer_record import AnswerResult
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED_ANSWERS = Path(__file__).with_name("published_answers.csv")

PUBLISHED_COLUMNS = ("reader", "passages", "task", "metric", "value", "source", "status", "caveat")
"""Columns of ``published_answers.csv``. ``passages`` is a retriever or "none", ``value`` in percent."""

ANSWER_STATUS = {
    "second-hand": "second-hand: quoted by another work",
    "copy": "seen in a copy of the source",
}
"""What ``status`` can be."""

ANSWER_FIELDS = {
    "origin": "string",  # run or published
    "group": "string",  # figures of different groups are not comparable
    "reader": "string",
    "passages": "string",  # none, oracle, or the retriever
    "k": "Int64",  # passages for each question, at most; 0 without
    "combine": "string",  # joint, concat, or empty
    "task": "string",
    "metric": "string",
    "value": "float64",  # percent
    "low": "float64",  # 95 % bootstrap interval, percent; own results only
    "high": "float64",
    "rank": "Int64",  # 1 is best; within group, task, measure and pool; null where not ranked
    "ranked": "bool",  # results that were not given the positive passages
    "pool": "string",  # digest of questions, and of the model that judged them; empty for published figures
    "marks": "string",
    "status": "string",
    "source": "string",
    "caveat": "string",
    "split": "string",
    "questions": "Int64",
    "questions_without_passages": "Int64",
    "dataset": "string",
    "judge": "string",  # the model of BEM, or empty
}
"""Columns of the table of answering, which is also ``answers.csv``, and their types."""


@dataclass(frozen=True)
class AnswerRecord:
    """One result file of answering.

    Attributes:
        path: where it is.
        result: what it holds, validated.
        marks: keys of `leaderboard.records.MARKS`, in their order.
    """

    path: Path
    result: AnswerResult
    marks: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Its path from the folder of results; unique."""
        return "/".join(self.path.parts[-4:])

    @property
    def group(self) -> str:
        """Key of the tables it stands in."""
        return "-".join(["run", *self.marks])

    @property
    def passages(self) -> str:
        """Where its passages are from, in a word: none, oracle, or the retriever's name."""
        return self.result["retriever"] or self.result["source"]

    def pool(self, metric: str) -> str:
        """Digest of the questions and, of BEM, of the judge: figures of different pools are never ranked together."""
        result = self.result
        seed = result["seed"] if result["nano"] else None
        judge = result["bem"] if metric == "BEM" else None
        return digest(result["task"], result["split"], result["dataset"], result["queries"], seed, judge)


def read_answer_records(folder: Path) -> list[AnswerRecord]:
    """Return the validated results of answering under ``folder/<retriever>/answers/<reader>/``; without marks.

    They are ordered by task, split and reader, and for each reader: without passages, with those of retrievers, with
    the positive ones.

    Raises:
        M2KRError: a file there is no result of answering, or its figures are impossible or not those of its
            predictions, or a result stands twice.
    """
    records: list[AnswerRecord] = []
    there: dict[str, Path] = {}
    for path in sorted(folder.glob("*/answers/*/*.json")):
        record = AnswerRecord(path, read_valid_answer(path))
        if (other := there.setdefault(record.result["answers_key"], path)) != path:
            raise M2KRError(f"{other} and {path} are one and the same result. Take one of them out.")
        records.append(record)
    order = list(TASKS)

    def place(record: AnswerRecord) -> tuple[Any, ...]:
        result = record.result
        source = ("none", "run", "oracle").index(result["source"])
        by = (order.index(result["task"]), result["split"] != "test", result["split"], result["reader"].casefold())
        return *by, source, record.passages.casefold(), result["k"], record.source

    return sorted(records, key=place)


def read_published_answers(path: Path = PUBLISHED_ANSWERS) -> pd.DataFrame:
    """Return the published figures of answering, columns `PUBLISHED_COLUMNS`, in the order of the file.

    ``value`` is float64 in percent, the rest strings.

    Raises:
        M2KRError: the file lacks a column, or a row has an unknown task, measure or status, no percentage, no reader,
            passages or source, or stands twice.
    """
    import pandas as pd

    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if lacking := [column for column in PUBLISHED_COLUMNS if column not in frame.columns]:
        raise M2KRError(f"{path} lacks the column {', '.join(lacking)}.")
    known = [(task, metric) for task, choices in ANSWER_MEASURES.items() for names in choices for metric in names]
    value = pd.to_numeric(frame["value"], errors="coerce")
    for wrong, what in (
        (
            [pair not in known for pair in zip(frame["task"], frame["metric"], strict=True)],
            "an unknown task or measure",
        ),
        (~frame["status"].isin(ANSWER_STATUS), f"a status other than {', '.join(ANSWER_STATUS)}"),
        (~value.between(0, 100), "a value that is no percentage"),
        ((frame[["reader", "passages", "source"]] == "").any(axis=1), "no reader, passages or source"),
        (frame.duplicated(["reader", "passages", "task", "metric"]), "a figure that stands twice"),
    ):
        if len(rows := frame[wrong]):
            row = rows.iloc[0]
            raise M2KRError(f"{path} has {what}: {row['reader']}, {row['task']}, {row['metric']}.")
    return frame.assign(value=value)[list(PUBLISHED_COLUMNS)]


def answer_figures(records: Iterable[AnswerRecord], published: pd.DataFrame) -> pd.DataFrame:
    """Return all figures of answering with their ranks, columns `ANSWER_FIELDS`: results first, then published ones.

    What a reader does with the positive passages is no result of a retriever, so it is not ranked.

    Args:
        records: results, marked.
        published: as `read_published_answers` gives it.
    """
    import pandas as pd

    own = pd.DataFrame([figure for record in records for figure in _figures(record)])
    theirs = published.assign(
        origin="published",
        group="published",
        ranked=False,
        combine="",
        pool="",
        marks="",
        split="",
        dataset="",
        judge="",
    )
    parts = [part.reindex(columns=list(ANSWER_FIELDS)) for part in (own, theirs) if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(ANSWER_FIELDS))
    table = table.astype(ANSWER_FIELDS)
    ranked = table[table["ranked"]]
    places = ranked.groupby(["group", "task", "metric", "pool"])["value"].rank(method="min", ascending=False)
    table["rank"] = places.reindex(table.index).astype("Int64")
    return table


def _figures(record: AnswerRecord) -> Iterable[dict[str, Any]]:
    result = record.result
    for metric in result["headline"]:
        low, high = result["intervals"][metric]
        yield {
            "origin": "run",
            "group": record.group,
            "reader": result["reader"],
            "passages": record.passages,
            "k": result["k"],
            "combine": result["combine"] or "",
            "task": result["task"],
            "metric": metric,
            "value": 100 * result["metrics"][metric],
            "low": 100 * low,
            "high": 100 * high,
            "ranked": result["source"] != "oracle",
            "pool": record.pool(metric),
            "marks": "; ".join(MARKS[mark] for mark in record.marks),
            "status": "computed",
            "source": record.source,
            "caveat": "",
            "split": result["split"],
            "questions": result["queries"],
            "questions_without_passages": result["queries_without_passages"],
            "dataset": result["dataset"],
            "judge": str(result["bem"]["checkpoint"]) if metric == "BEM" and result["bem"] else "",
        }
