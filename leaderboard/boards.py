"""Boards: the tables and lists of figures that pages show, of retrieval and of answering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from leaderboard.facts import answer_facts
from leaderboard.marks import MARKS, fewest_first, labels
from leaderboard.measures import ANSWER_MEASURES, COMPARED, MEASURES
from leaderboard.published import ANSWER_BLOCK, ANSWER_STATUS, BENCHMARK, BLOCKS, FigureBlock
from leaderboard.records import AnswerRecord, Record, RunRecord, models_of
from leaderboard.rows import (
    HitsOf,
    Item,
    PairsOf,
    Row,
    cells_of,
    items_of,
    leaders_of,
    ordered,
    published_row,
    run_row,
    with_standings,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Board:
    """A table of rows whose figures are comparable, or a list of single figures.

    Attributes:
        key: of the block or group.
        title: heading.
        note: what sets it apart.
        own: whether its figures are of result files.
        benchmark: whose queries and passages they are of.
        columns: (task, measure) of each cell of a row.
        rows: empty where ``items`` are used.
        items: figures that are in no column of a board.
    """

    key: str
    title: str
    note: str
    own: bool
    benchmark: str = BENCHMARK
    columns: list[tuple[str, str]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    @property
    def has_mean(self) -> bool:
        """Whether any row has a mean."""
        return any(row.mean is not None for row in self.rows)

    @property
    def rank_ends(self) -> bool:
        """Whether mean ranks have intervals."""
        return any(row.standing and row.standing.rank_ends for row in self.rows)


def run_boards(
    records: Sequence[RunRecord], table: pd.DataFrame, pairs: PairsOf | None = None, hits: HitsOf | None = None
) -> list[Board]:
    """Return the boards of retrieval: plain runs, the official figures, runs that are set apart, other published ones.

    Args:
        records: results, marked.
        table: their figures and the published ones, as `leaderboard.figures.run_figures` gives them.
        pairs: p-values between models, where runs could be looked into.
        hits: what the queries gave, likewise.
    """
    own = [_run_board(marks, records, table, pairs or {}, hits or {}) for marks in _sets_of_marks(records)]
    return _arranged(own, [_published_board(block, table) for block in BLOCKS.values()])


def answer_boards(
    answers: Sequence[AnswerRecord], table: pd.DataFrame, runs: Sequence[RunRecord]
) -> dict[str, list[Board]]:
    """Return the boards of answering of each task that has any: plain results, published figures, results set apart.

    Args:
        answers: results of answering, marked.
        table: their figures and the published ones, as `leaderboard.figures.answer_figures` gives them.
        runs: results of retrieval, marked; their pages are linked.
    """
    run_of = {run.result["run_sha256"]: run for run in runs}
    found = {}
    for task in ANSWER_MEASURES:
        mine = [record for record in answers if record.result["task"] == task]
        own = [
            _answer_board([record for record in mine if record.marks == marks], table, run_of)
            for marks in _sets_of_marks(mine)
        ]
        found[task] = _arranged(own, [_published_board(ANSWER_BLOCK, table[table["task"] == task])])
    return {task: boards for task, boards in found.items() if boards}


def _sets_of_marks(records: Iterable[Record]) -> list[tuple[str, ...]]:
    return sorted({record.marks for record in records}, key=fewest_first)


def _arranged(own: list[Board], published: list[Board]) -> list[Board]:
    """Order boards: plain results, published figures to compare with, results set apart, and the other published."""
    plain = [board for board in own if board.key == "run"]
    apart = [board for board in own if board.key != "run"]
    return [board for board in (*plain, *published[:1], *apart, *published[1:]) if board.rows or board.items]


def _run_board(
    marks: tuple[str, ...], records: Sequence[RunRecord], table: pd.DataFrame, pairs: PairsOf, hits: HitsOf
) -> Board:
    there = {record.slug: record.group for record in records if record.marks == marks}
    group = next(iter(there.values()))
    notes = [MARKS[mark].note for mark in marks] or ["Exact search on the whole test split of each task."]
    figures = table[(table["group"] == group) & table["slug"].isin(there)]
    if "no-images" in marks:
        # A question without a picture is the same with and without --ignore-images, so the row shows it too.
        with_images = "-".join(["run", *(mark for mark in marks if mark != "no-images")])
        text_only = [task.key for task in COMPARED if not task.reads_images]
        same = (table["group"] == with_images) & table["task"].isin(text_only) & table["slug"].isin(there)
        figures = table[table.index.isin(figures.index) | same]
        notes.append("Tasks without pictures are shown all the same.")
    leaders = leaders_of(figures)
    rows = [
        run_row(model, marks, figures[figures["slug"] == model.slug], leaders, pairs)
        for model in models_of(records)
        if model.slug in there
    ]
    pools = [{cell.pool for row in rows if (cell := row.cells[place])} for place in range(len(MEASURES))]
    if any(len(pool) > 1 for pool in pools):  # an order by mean would compare what cannot be compared
        notes.append("A column is ranked only among rows of the same queries and passages, and no mean is taken.")
    else:
        rows = with_standings(rows, hits)
    return Board(group, _title(marks), " ".join(notes), True, columns=MEASURES, rows=ordered(rows))


def _answer_board(answers: Sequence[AnswerRecord], table: pd.DataFrame, run_of: Mapping[str, RunRecord]) -> Board:
    marks, task = answers[0].marks, answers[0].result["task"]
    there = {name for record in answers for name in record.result["headline"]}
    columns = [(task, name) for name in ANSWER_MEASURES[task][0] if name in there]
    notes = [MARKS[mark].note for mark in marks] or ["The whole test split."]
    figures = table[(table["origin"] == "run") & table["source"].isin([record.source for record in answers])]
    if (figures.groupby("metric")["pool"].nunique() > 1).any():
        notes.append("A column is ranked only among results of the same questions, and BEM of one judge.")
    if judges := sorted({str(record.result["bem"]["checkpoint"]) for record in answers if record.result["bem"]}):
        notes.append(f"BEM was judged by {', '.join(judges)}, not by the official TensorFlow weights.")
    leaders = leaders_of(figures)
    rows = []
    for number, record in enumerate(answers, start=1):
        run = run_of.get(record.result["run_sha256"] or "")
        rows.append(
            Row(
                key=str(number),
                name=record.result["reader"],
                label=f"{record.result['reader']}, passages: {record.passages}",
                slug="",
                cells=cells_of(figures[figures["source"] == record.source], columns, leaders, {}),
                ranked=record.result["source"] != "oracle",
                facts=answer_facts(record, run),
                answer=record,
                run=run,
                aside=labels(mark for mark in (run.marks if run else ()) if mark not in marks),
            )
        )
    return Board(answers[0].group, _title(marks), " ".join(notes), True, columns=columns, rows=rows)


def _title(marks: tuple[str, ...]) -> str:
    return f"Runs: {labels(marks)}" if marks else "Runs"


def _published_board(block: FigureBlock, table: pd.DataFrame) -> Board:
    own = table[(table["origin"] == "published") & (table["group"] == block.key)]
    board = Board(block.key, block.title, block.note, False, block.benchmark)
    if block is ANSWER_BLOCK:
        quoted = own.assign(
            caveat=own["status"].map(ANSWER_STATUS) + own["caveat"].map(lambda text: text and f"; {text}")
        )
        return replace(board, items=items_of(quoted, ["reader", "passages", "metric"]))
    if not block.tabular:
        return replace(board, items=items_of(own, ["model", "task"]))
    leaders = leaders_of(own)
    rows = [
        published_row(f"{block.key}-{number}", block, mine, leaders)
        for number, (_, mine) in enumerate(own.groupby("model", sort=False))
    ]
    return replace(board, columns=MEASURES, rows=ordered(with_standings(rows, {})))
