"""The page of answering: for each task a table of runs, one of published figures, and one for each set of marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leaderboard.answers import ANSWER_STATUS, AnswerRecord
from leaderboard.records import MARK_NOTES, MARKS, Record
from leaderboard.validate import ANSWER_MEASURES

if TYPE_CHECKING:
    import pandas as pd

MEASURE_NAMES = {
    "VQA": "VQA score",
    "accuracy": "Accuracy",
    "accuracy_harmonic": "Harmonic mean",
    "BEM": "BEM",
    "EM": "EM",
}

MEASURE_NOTES = {
    "OKVQA": "VQA score: how far ten annotators gave the same answer.",
    "Infoseek": "Accuracy over all questions. The official figure is its harmonic mean over questions that are unseen "
    "in training and entities that are; it stands where the data tell them apart.",
    "EVQA": "BEM also counts an answer that a model judges to mean the same as an accepted one. EM counts only "
    "one that is equal to it after normalisation. EM is lower, and the two do not compare.",
}

PUBLISHED_NOTE = (
    "Quoted by another work, or seen in a copy of the source, as each row says. What was seen of them does not "
    "say that questions and passages are those of M2KR, so they are not ranked and compare with no run here."
)


@dataclass(frozen=True)
class AnswerCell:
    """One figure, in percent, with its interval; ``best`` as in `leaderboard.boards.Cell`."""

    value: float
    low: float
    high: float
    best: bool
    title: str


@dataclass(frozen=True)
class AnswerRow:
    """One result.

    Attributes:
        reader: its name.
        passages: none, oracle, or the retriever.
        slug: names the retriever's page, where the run that was used is one of the results; else empty.
        aside: what sets that run apart and not the answers, such as "without images"; mostly empty.
        oracle: whether the reader was given the positive passages.
        k: passages for each question; 0 without.
        combine: joint, concat or empty.
        questions: their number.
        cells: one for each measure of the board; None where there is no figure.
        facts: (what, value) for the row's card.
    """

    reader: str
    passages: str
    slug: str
    aside: str
    oracle: bool
    k: int
    combine: str
    questions: int
    cells: list[AnswerCell | None]
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Quoted:
    """One published figure, in percent; ``status`` in words."""

    reader: str
    passages: str
    metric: str
    value: float
    source: str
    status: str
    caveat: str


@dataclass(frozen=True)
class AnswerBoard:
    """A table of one task: results whose figures may be compared, or published figures.

    Attributes:
        key: of its group.
        title: heading.
        note: what sets it apart.
        measures: columns of ``rows``.
        rows: results.
        quoted: published figures; no board has both.
    """

    key: str
    title: str
    note: str
    measures: list[str] = field(default_factory=list)
    rows: list[AnswerRow] = field(default_factory=list)
    quoted: list[Quoted] = field(default_factory=list)


def answer_boards(
    answers: Sequence[AnswerRecord], table: pd.DataFrame, records: Sequence[Record]
) -> dict[str, list[AnswerBoard]]:
    """Return the boards of each task that has any: plain runs, published figures, runs that are set apart.

    Args:
        answers: results of answering, marked.
        table: their figures and the published ones, as `leaderboard.answers.answer_figures` gives them.
        records: results of retrieval, marked; their pages are linked.
    """
    runs = {record.result["run_sha256"]: record for record in records}
    order = list(MARKS)
    found = {}
    for task in ANSWER_MEASURES:
        mine = [record for record in answers if record.result["task"] == task]
        sets = sorted(
            {record.marks for record in mine}, key=lambda marks: (len(marks), [order.index(mark) for mark in marks])
        )
        own = [_run_board([record for record in mine if record.marks == marks], table, runs) for marks in sets]
        plain = [board for board in own if board.key == "run"]
        apart = [board for board in own if board.key != "run"]
        boards = [*plain, *_published_board(task, table), *apart]
        if boards:
            found[task] = boards
    return found


def _run_board(answers: Sequence[AnswerRecord], table: pd.DataFrame, runs: dict[str, Record]) -> AnswerBoard:
    first = answers[0]
    there = {name for record in answers for name in record.result["headline"]}
    names = [name for name in ANSWER_MEASURES[first.result["task"]][0] if name in there]
    notes = [MARK_NOTES[mark] for mark in first.marks] or ["The whole test split."]
    if any(len({record.pool(name) for record in answers if name in record.result["headline"]}) > 1 for name in names):
        notes.append("A column is ranked only among results of the same questions, and BEM of one judge.")
    if judges := sorted({str(record.result["bem"]["checkpoint"]) for record in answers if record.result["bem"]}):
        notes.append(f"BEM was judged by {', '.join(judges)}, not by the official TensorFlow weights.")
    figures = table[table["origin"] == "run"]
    own = {(str(row["source"]), str(row["metric"])): row for row in figures.to_dict("records")}
    sizes = figures[figures["ranked"]].groupby(["group", "task", "metric", "pool"]).size().to_dict()
    rows = []
    for record in answers:
        result = record.result
        cells: list[AnswerCell | None] = []
        for name in names:
            row = own.get((record.source, name))
            if row is None:
                cells.append(None)
                continue
            rivals = sizes.get((row["group"], row["task"], row["metric"], row["pool"]), 0)
            said = f"{row['task']} {MEASURE_NAMES[name]} {row['value']:.2f} %; 95 % interval {row['low']:.2f} to "
            said += f"{row['high']:.2f}; {row['questions']:,} questions; data {row['dataset']}"
            best = bool(row["ranked"]) and rivals > 1 and row["rank"] == 1
            cells.append(AnswerCell(row["value"], row["low"], row["high"], best, said))
        run = runs.get(result["run_sha256"] or "")
        rows.append(
            AnswerRow(
                reader=result["reader"],
                passages=record.passages,
                slug=run.slug if run else "",
                aside=", ".join(MARKS[mark] for mark in (run.marks if run else ()) if mark not in record.marks),
                oracle=result["source"] == "oracle",
                k=result["k"],
                combine=result["combine"] or "",
                questions=result["queries"],
                cells=cells,
                facts=_facts(record, run),
            )
        )
    title = "Runs" if not first.marks else f"Runs: {', '.join(MARKS[mark] for mark in first.marks)}"
    return AnswerBoard(first.group, title, " ".join(notes), names, rows)


def _published_board(task: str, table: pd.DataFrame) -> list[AnswerBoard]:
    theirs = table[(table["origin"] == "published") & (table["task"] == task)]
    quoted = [
        Quoted(
            reader=row["reader"],
            passages=row["passages"],
            metric=MEASURE_NAMES[row["metric"]],
            value=row["value"],
            source=row["source"],
            status=ANSWER_STATUS[row["status"]],
            caveat=row["caveat"],
        )
        for row in theirs.to_dict("records")
    ]
    return [AnswerBoard("published", "Published", PUBLISHED_NOTE, quoted=quoted)] if quoted else []


def _facts(record: AnswerRecord, run: Record | None) -> list[tuple[str, str]]:
    result = record.result
    facts = [(str(name), str(value)) for name, value in result["reader_settings"].items()]
    if result["source"] == "run":
        whose = f"{run.path.parent.name}/{run.run_path.name}, " if run else "not among these results, "
        facts.append(("Run", f"{whose}sha256 {result['run_sha256']}"))
    if result["source"] != "none":
        facts.append(("Questions without passages", f"{result['queries_without_passages']:,}"))
    if result["bem"]:
        facts += [(f"BEM {name}", str(value)) for name, value in result["bem"].items()]
    return [
        *facts,
        ("Other measures", _others(record)),
        ("Number format", result["dtype"]),
        ("Time", f"{result['seconds']:.1f} s"),
        ("Hardware", result["hardware"]),
        ("Commit", result["commit"] or "unknown"),
        ("Data", result["dataset"]),
        ("File", record.source),
    ]


def _others(record: AnswerRecord) -> str:
    result = record.result
    others = [
        f"{name} {100 * value:.1f}" for name, value in result["metrics"].items() if name not in result["headline"]
    ]
    return ", ".join(others) or "none"
