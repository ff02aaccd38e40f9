"""Boards: the tables and lists of figures that pages show, of retrieval and of answering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from leaderboard.facts import Facts, answer_facts, published_facts, run_facts
from leaderboard.marks import MARKS, fewest_first, labels
from leaderboard.measures import ANSWER_MEASURES, COMPARED, MAIN, MEASURES, short
from leaderboard.published import ANSWER_BLOCK, ANSWER_STATUS, BLOCKS, STATUS, FigureBlock
from leaderboard.records import AnswerRecord, Record, RunRecord, models_of
from leaderboard.significance import LEVEL, Pairs

if TYPE_CHECKING:
    import pandas as pd

Leaders = Mapping[tuple[str, str, str], tuple[float, str]]
"""(task, measure, pool) -> the best ranked figure, and the slug of its model."""

PairsOf = Mapping[tuple[str, str], Pairs]
"""(pool, measure) -> p-values between models."""


@dataclass(frozen=True)
class Cell:
    """One figure of a board.

    Attributes:
        value: percent.
        low, high: its interval, or None.
        pool: digest of queries and passages.
        best: no other ranked figure of its column and pool is better, and there are others.
        tied: the best one is not significantly better; False where that is not known.
        status: of a published figure, a key of `leaderboard.published.STATUS`; of a result, "computed".
        title: what is said when a pointer rests on it.
    """

    value: float
    low: float | None
    high: float | None
    pool: str
    best: bool
    tied: bool
    status: str
    title: str


@dataclass(frozen=True)
class Row:
    """One model, or one result of answering.

    Attributes:
        key: unique in the board.
        name: of the model or reader.
        label: tells it from others of the same name.
        slug: names the page of the model, or is empty.
        cells: one for each column; None where there is no figure.
        ranked: whether its figures are.
        facts: source, caveats, settings.
        parameters: their number, or None.
        mean: of the main measures, percent; None unless all are there and of the usual kind.
        answer: of answering, the result.
        run: of answering, that of the passages, where it is one of the results.
        aside: what sets that run apart and not the answers, such as "without images"; mostly empty.
    """

    key: str
    name: str
    label: str
    slug: str
    cells: list[Cell | None]
    ranked: bool
    facts: Facts
    parameters: int | None = None
    mean: float | None = None
    answer: AnswerRecord | None = None
    run: RunRecord | None = None
    aside: str = ""


@dataclass(frozen=True)
class Item:
    """Published figures of one model or reader, in no column of a board.

    Attributes:
        name: of the model or reader.
        about: the task or, of a reader, whose passages it was given.
        figures: (measure, percent).
        source: where they are from: document and place.
        status: how they are known, a key of `leaderboard.published.STATUS` or `ANSWER_STATUS`.
        caveat: what has to be known of them.
    """

    name: str
    about: str
    figures: list[tuple[str, float]]
    source: str
    status: str
    caveat: str


@dataclass(frozen=True)
class Board:
    """A table of rows whose figures are comparable, or a list of single figures.

    Attributes:
        key: of the block or group.
        title: heading.
        note: what sets it apart.
        own: whether its figures are of result files.
        columns: (task, measure) of each cell of a row.
        rows: empty where ``items`` are used.
        items: figures that are in no column of a board.
    """

    key: str
    title: str
    note: str
    own: bool
    columns: list[tuple[str, str]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    @property
    def has_mean(self) -> bool:
        """Whether any row has a mean."""
        return any(row.mean is not None for row in self.rows)


def run_boards(records: Sequence[RunRecord], table: pd.DataFrame, pairs: PairsOf | None = None) -> list[Board]:
    """Return the boards of retrieval: plain runs, the official figures, runs that are set apart, other published ones.

    Args:
        records: results, marked.
        table: their figures and the published ones, as `leaderboard.figures.run_figures` gives them.
        pairs: p-values between models, where runs could be looked into.
    """
    own = [_run_board(marks, records, table, pairs or {}) for marks in _sets_of_marks(records)]
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


def _run_board(marks: tuple[str, ...], records: Sequence[RunRecord], table: pd.DataFrame, pairs: PairsOf) -> Board:
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
    leaders = _leaders(figures)
    rows = [
        _row(model.slug, figures[figures["slug"] == model.slug], leaders, pairs, run_facts(model, marks))
        for model in models_of(records)
        if model.slug in there
    ]
    pools = [{cell.pool for row in rows if (cell := row.cells[place])} for place in range(len(MEASURES))]
    if any(len(pool) > 1 for pool in pools):
        rows = [replace(row, mean=None) for row in rows]  # an order by mean would compare what cannot be compared
        notes.append("A column is ranked only among rows of the same queries and passages, and no mean is taken.")
    return Board(group, _title(marks), " ".join(notes), True, MEASURES, _ordered(rows))


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
    leaders = _leaders(figures)
    rows = []
    for number, record in enumerate(answers, start=1):
        run = run_of.get(record.result["run_sha256"] or "")
        rows.append(
            Row(
                key=str(number),
                name=record.result["reader"],
                label=f"{record.result['reader']}, passages: {record.passages}",
                slug="",
                cells=_cells(figures[figures["source"] == record.source], columns, leaders, {}),
                ranked=record.result["source"] != "oracle",
                facts=answer_facts(record, run),
                answer=record,
                run=run,
                aside=labels(mark for mark in (run.marks if run else ()) if mark not in marks),
            )
        )
    return Board(answers[0].group, _title(marks), " ".join(notes), True, columns, rows)


def _title(marks: tuple[str, ...]) -> str:
    return f"Runs: {labels(marks)}" if marks else "Runs"


def _published_board(block: FigureBlock, table: pd.DataFrame) -> Board:
    own = table[(table["origin"] == "published") & (table["group"] == block.key)]
    board = Board(block.key, block.title, block.note, False)
    if block is ANSWER_BLOCK:
        quoted = own.assign(
            caveat=own["status"].map(ANSWER_STATUS) + own["caveat"].map(lambda text: text and f"; {text}")
        )
        return replace(board, items=_items(quoted, ["reader", "passages", "metric"]))
    if not block.tabular:
        return replace(board, items=_items(own, ["model", "task"]))
    leaders = _leaders(own)
    rows = [
        _row(f"{block.key}-{number}", mine, leaders, {}, published_facts(mine))
        for number, (_, mine) in enumerate(own.groupby("model", sort=False))
    ]
    return replace(board, columns=MEASURES, rows=_ordered(rows))


def _items(own: pd.DataFrame, keys: list[str]) -> list[Item]:
    """Return an item for each model or reader, task or passages, and way of being known, as they come in the file."""
    found = []
    for _, mine in own.groupby([*keys, "source", "place", "status", "caveat"], sort=False):
        first = mine.iloc[0]
        figures = list(zip(mine["metric"], mine["value"], strict=True))
        source = f"{first['source']}, {first['place']}"
        found.append(Item(first[keys[0]], first[keys[1]], figures, source, first["status"], first["caveat"]))
    return found


def _leaders(figures: pd.DataFrame) -> Leaders:
    """Return the leaders of each column and pool; not where there is only one ranked figure."""
    found = {}
    for (task, metric, pool), group in figures[figures["ranked"]].groupby(["task", "metric", "pool"]):
        if len(group) > 1:
            first = group.iloc[int(group["value"].argmax())]
            found[str(task), str(metric), str(pool)] = float(first["value"]), str(first.get("slug", ""))
    return found


def _row(key: str, own: pd.DataFrame, leaders: Leaders, pairs: PairsOf, facts: Facts) -> Row:
    cells = _cells(own, MEASURES, leaders, pairs)
    main = [cell for cell, name in zip(cells, MEASURES, strict=True) if name in MAIN]
    whole = all(cell is not None and cell.status != "digitised" for cell in main)
    first = own.iloc[0]
    known = own["parameters"].dropna()
    return Row(
        key=key,
        name=first["model"],
        label=first["model"],
        slug=first["slug"],
        cells=cells,
        ranked=bool(own["ranked"].any()),
        facts=facts,
        parameters=int(known.iloc[0]) if len(known) else None,
        mean=sum(cell.value for cell in main if cell) / len(main) if whole else None,
    )


def _cells(
    own: pd.DataFrame, columns: Sequence[tuple[str, str]], leaders: Leaders, pairs: PairsOf
) -> list[Cell | None]:
    figures = own.drop_duplicates(["task", "metric"]).to_dict("records")
    found = {(figure["task"], figure["metric"]): _cell(figure, leaders, pairs) for figure in figures}
    return [found.get(column) for column in columns]


def _cell(figure: Mapping[Any, Any], leaders: Leaders, pairs: PairsOf) -> Cell:
    metric, pool, value = figure["metric"], figure["pool"], figure["value"]
    best, leader = leaders.get((figure["task"], metric, pool), (None, ""))
    is_best = bool(figure["ranked"] and value == best)
    known = pairs.get((pool, metric))
    p_value = known.p(figure["slug"], leader) if known and leader else None
    own = figure["origin"] == "run"
    said = [f"{figure['task']} {short(metric)} {value:.2f} %"]
    if own:
        sizes = ("questions",) if "questions" in figure else ("queries", "passages")
        said.append(f"95 % interval {figure['low']:.2f} to {figure['high']:.2f}")
        said += [*(f"{figure[size]:,} {size}" for size in sizes), f"data {figure['dataset']}"]
    else:
        said += [STATUS[figure["status"]], f"{figure['source']}, {figure['place']}", figure["caveat"]]
    return Cell(
        value=value,
        low=figure["low"] if own else None,
        high=figure["high"] if own else None,
        pool=pool,
        best=is_best,
        tied=not is_best and p_value is not None and p_value >= LEVEL,
        status=figure["status"],
        title="; ".join(part for part in said if part),
    )


def _ordered(rows: Iterable[Row]) -> list[Row]:
    """Order rows by mean; those without one follow, those with more figures first, else as they came."""
    return sorted(
        rows,
        key=lambda row: (
            row.mean is None,
            -(row.mean or 0.0),
            not row.ranked,
            -sum(cell is not None for cell in row.cells),
        ),
    )
