"""Figures brought together: one long table, ranks within groups, and the boards that pages show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from leaderboard.published import BLOCKS, STATUS
from leaderboard.records import MARK_NOTES, MARKS, Model, Record, figures, models_of
from leaderboard.significance import LEVEL, Pairs
from m2kr.tasks import TASKS, Task

if TYPE_CHECKING:
    import pandas as pd

FIELDS = {
    "origin": "string",  # run or published
    "group": "string",  # figures of different groups are not comparable
    "model": "string",
    "slug": "string",  # names the model's page; empty for published figures
    "task": "string",
    "metric": "string",
    "value": "float64",  # percent
    "low": "float64",  # 95 % bootstrap interval, percent; own hit rates only
    "high": "float64",
    "rank": "Int64",  # 1 is best; within group, task, measure and pool; null where not ranked
    "ranked": "bool",
    "pool": "string",  # digest of queries and passages; empty for published figures
    "marks": "string",
    "status": "string",
    "source": "string",
    "caveat": "string",
    "parameters": "Int64",
    "split": "string",
    "queries": "Int64",
    "passages": "Int64",
    "dataset": "string",
}
"""Columns of the long table, which is also ``leaderboard.csv``, and their types."""

COMPARED = [task for task in TASKS.values() if task.metrics]
"""The tasks that figures are of."""

MEASURES = [(task.key, metric) for task in COMPARED for metric in task.metrics]
"""Columns of a board: (task, measure)."""

MAIN = [(task.key, task.metrics[0]) for task in COMPARED]
"""The measures that a mean is of, where a model has all of them."""

_SHORT = {"Recall": "R", "PRecall": "PR"}


def short(metric: str) -> str:
    """Return a measure's name as the articles have it: "PRecall@5" is "PR@5"."""
    kind, _, cutoff = metric.partition("@")
    return f"{_SHORT.get(kind, kind)}@{cutoff}"


def long_table(records: Iterable[Record], published: pd.DataFrame) -> pd.DataFrame:
    """Return all figures with their ranks, columns `FIELDS`: results first, then published ones.

    Args:
        records: results, marked.
        published: as `leaderboard.published.read_published` gives it.
    """
    import pandas as pd

    theirs = published.rename(columns={"block": "group"}).assign(origin="published", slug="", pool="", marks="")
    parts = [part for part in (figures(records), theirs) if len(part)]
    table = pd.concat([part.reindex(columns=list(FIELDS)) for part in parts], ignore_index=True)
    table = table.astype(FIELDS)
    ranked = table[table["ranked"]]
    places = ranked.groupby(["group", "task", "metric", "pool"])["value"].rank(method="min", ascending=False)
    table["rank"] = places.reindex(table.index).astype("Int64")
    return table


@dataclass(frozen=True)
class Cell:
    """One figure of a board.

    Attributes:
        value: percent.
        low, high: its interval, or None.
        pool: digest of queries and passages.
        best: no other ranked figure of its column and pool is better, and there are others.
        tied: the best one is not significantly better; False where that is not known.
        digitised: read off a plot.
        title: what is said when a pointer rests on it.
    """

    value: float
    low: float | None
    high: float | None
    pool: str
    best: bool
    tied: bool
    digitised: bool
    title: str


@dataclass(frozen=True)
class Row:
    """One model of a board.

    Attributes:
        key: unique in the board.
        model: its name.
        slug: names its page, or is empty.
        parameters: their number, or None.
        cells: one for each of `MEASURES`; None where there is no figure.
        mean: of the main measures, percent; None unless all are there and of the usual kind.
        ranked: whether its figures are.
        facts: (what, value) for the row's card: source, caveats, settings.
    """

    key: str
    model: str
    slug: str
    parameters: int | None
    cells: list[Cell | None]
    mean: float | None
    ranked: bool
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Item:
    """Single figures of one model and task: (measure, percent), and where they are from."""

    model: str
    task: str
    figures: list[tuple[str, float]]
    source: str
    caveat: str


@dataclass(frozen=True)
class Board:
    """A table of models whose figures are comparable, or a list of single figures.

    Attributes:
        key: of the block or group.
        title: heading.
        note: what sets it apart.
        own: whether its figures are of result files.
        rows: models; empty where ``items`` are used.
        items: models and tasks with single figures that are in no column of a board.
    """

    key: str
    title: str
    note: str
    own: bool
    rows: list[Row] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    @property
    def has_mean(self) -> bool:
        """Whether any row has a mean."""
        return any(row.mean is not None for row in self.rows)


def boards(
    records: Sequence[Record], table: pd.DataFrame, pairs: Mapping[tuple[str, str], Pairs] | None = None
) -> list[Board]:
    """Return the boards of a page: plain runs, the official figures, runs that are set apart, other published ones.

    Args:
        records: results, marked.
        table: their figures and the published ones, as `long_table` gives them.
        pairs: (pool, measure) -> p-values between models, where runs could be looked into.
    """
    order = list(MARKS)
    groups = {record.group: [order.index(mark) for mark in record.marks] for record in records}
    names = sorted(groups, key=lambda group: (len(groups[group]), groups[group]))
    runs = [_run_board(group, records, table, pairs or {}) for group in names]
    published = [_published_board(key, table) for key in BLOCKS]
    plain = [board for board in runs if board.key == "run"]
    apart = [board for board in runs if board.key != "run"]
    found = [*plain, *published[:1], *apart, *published[1:]]
    return [board for board in found if board.rows or board.items]


def _run_board(
    group: str, records: Sequence[Record], table: pd.DataFrame, pairs: Mapping[tuple[str, str], Pairs]
) -> Board:
    marks = next(record.marks for record in records if record.group == group)
    there = {record.slug for record in records if record.group == group}
    note = " ".join(MARK_NOTES[mark] for mark in marks) or "Exact search on the whole test split of each task."
    accepted = {group}
    if "no-images" in marks:
        # A question without a picture is the same with and without --ignore-images, so the row shows it too.
        accepted.add("-".join(["run", *(mark for mark in marks if mark != "no-images")]))
        note += " Tasks without pictures are shown all the same."
    figures_ = table[table["group"].isin(accepted) & table["slug"].isin(there)]
    leaders = _leaders(figures_)
    rows = []
    for model in models_of(records):
        if model.slug in there:
            own = figures_[figures_["slug"] == model.slug]
            if "no-images" in marks:
                text_only = [task.key for task in COMPARED if not task.reads_images]
                own = own[(own["group"] == group) | own["task"].isin(text_only)]
            rows.append(_row(model.slug, own, leaders, _run_facts(model, group), pairs))
    pools = [{cell.pool for row in rows if (cell := row.cells[place])} for place in range(len(MEASURES))]
    if any(len(pool) > 1 for pool in pools):
        rows = [replace(row, mean=None) for row in rows]  # an order by mean would compare what cannot be compared
        note += " A column is ranked only among rows of the same queries and passages, and no mean is taken."
    title = "Runs" if not marks else f"Runs: {', '.join(MARKS[mark] for mark in marks)}"
    return Board(group, title, note, True, _ordered(rows))


def _published_board(key: str, table: pd.DataFrame) -> Board:
    block = BLOCKS[key]
    own = table[(table["origin"] == "published") & (table["group"] == key)]
    if not block.tabular:
        items = [
            Item(str(model), str(task), list(zip(mine["metric"], mine["value"], strict=True)), str(source), str(caveat))
            for (model, task, source, caveat), mine in own.groupby(["model", "task", "source", "caveat"], sort=False)
        ]
        return Board(key, block.title, block.note, False, items=items)
    leaders = _leaders(own)
    rows = [
        _row(f"{key}-{number}", mine, leaders, _published_facts(mine), {})
        for number, (_, mine) in enumerate(own.groupby("model", sort=False))
    ]
    return Board(key, block.title, block.note, False, _ordered(rows))


def _leaders(figures_: pd.DataFrame) -> dict[tuple[str, str, str], tuple[float, str]]:
    """Return the best ranked figure of each column and pool, and whose it is; not where there is only one."""
    found: dict[tuple[str, str, str], tuple[float, str]] = {}
    ranked = figures_[figures_["ranked"]]
    for _, group in ranked.groupby(["task", "metric", "pool"]):
        if len(group) > 1:
            first = group.iloc[int(group["value"].argmax())]
            key = (str(first["task"]), str(first["metric"]), str(first["pool"]))
            found[key] = (float(first["value"]), str(first["slug"]))
    return found


def _row(
    key: str,
    own: pd.DataFrame,
    leaders: Mapping[tuple[str, str, str], tuple[float, str]],
    facts: list[tuple[str, str]],
    pairs: Mapping[tuple[str, str], Pairs],
) -> Row:
    cells: list[Cell | None] = []
    for task, metric in MEASURES:
        mine = own[(own["task"] == task) & (own["metric"] == metric)]
        cells.append(_cell(mine.iloc[0], leaders, pairs) if len(mine) else None)
    main = [cell for cell, name in zip(cells, MEASURES, strict=True) if name in MAIN]
    whole = all(cell is not None and not cell.digitised for cell in main)
    first = own.iloc[0]
    known = own["parameters"].dropna()
    return Row(
        key=key,
        model=str(first["model"]),
        slug=str(first["slug"]),
        parameters=int(known.iloc[0]) if len(known) else None,
        cells=cells,
        mean=sum(cell.value for cell in main if cell) / len(main) if whole else None,
        ranked=bool(own["ranked"].any()),
        facts=facts,
    )


def _cell(
    figure: pd.Series[Any],
    leaders: Mapping[tuple[str, str, str], tuple[float, str]],
    pairs: Mapping[tuple[str, str], Pairs],
) -> Cell:
    task, metric, pool = str(figure["task"]), str(figure["metric"]), str(figure["pool"])
    best, leader = leaders.get((task, metric, pool), (None, ""))
    is_best = bool(figure["ranked"] and figure["value"] == best)
    known = pairs.get((pool, metric))
    p_value = known.p(str(figure["slug"]), leader) if known and leader else None
    own = figure["origin"] == "run"
    low, high = (float(figure[name]) if own else None for name in ("low", "high"))
    said = [f"{task} {short(metric)} {figure['value']:.2f} %"]
    if own:
        said += [f"95 % interval {low:.2f} to {high:.2f}", f"{figure['queries']:,} queries"]
        said += [f"{figure['passages']:,} passages", f"data {figure['dataset']}"]
    else:
        said += [STATUS[figure["status"]], figure["source"], figure["caveat"]]
    return Cell(
        value=float(figure["value"]),
        low=low,
        high=high,
        pool=pool,
        best=is_best,
        tied=not is_best and p_value is not None and p_value >= LEVEL,
        digitised=figure["status"] == "digitised",
        title="; ".join(str(part) for part in said if part),
    )


def _ordered(rows: list[Row]) -> list[Row]:
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


def _published_facts(own: pd.DataFrame) -> list[tuple[str, str]]:
    facts = [("Source", "; ".join(dict.fromkeys(own["source"])))]
    statuses = dict.fromkeys(own["status"])
    facts.append(("Status", "; ".join(f"{status}: {STATUS[status]}" for status in statuses)))
    for caveat, figures_ in own.groupby("caveat", sort=False):
        if caveat:
            every = len(figures_) == len(own)
            names = [
                f"{task} {short(metric)}" for task, metric in zip(figures_["task"], figures_["metric"], strict=True)
            ]
            facts.append(("Caveat" if every else f"Caveat, {', '.join(names)}", str(caveat)))
    return facts


def _run_facts(model: Model, group: str) -> list[tuple[str, str]]:
    records = [record for record in model.records if record.group == group]

    def all_of(values: Iterable[object]) -> str:
        return "; ".join(dict.fromkeys(str(value) for value in values))

    results = [record.result for record in records]
    facts = [
        (name, all_of(result["model_settings"].get(name, "not set") for result in results))
        for name in _settings(results)
    ]
    facts += [
        ("Search", all_of(result["search"] for result in results)),
        ("Passages kept", all_of(result["top_k"] for result in results)),
        ("Number format", all_of(result["dtype"] for result in results)),
        ("Passages stored as", all_of(result["store_dtype"] for result in results)),
        ("Instructions", all_of("read" if result["instructions"] else "not read" for result in results)),
        ("Hardware", all_of(result["hardware"] for result in results)),
        ("Commit", all_of(result["commit"] or "unknown" for result in results)),
        ("Data", "; ".join(f"{result['task']} {result['dataset']}" for result in results)),
    ]
    if model.mixed:
        facts.append(("Caveat", "not all results were made with the same settings"))
    return facts


def _settings(results: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result["model_settings"]))


def task_kind(task: Task) -> str:
    """Return what a task's query holds, in words."""
    return {"I2T": "image", "Q2T": "text", "IQ2T": "image and text"}[task.kind]
