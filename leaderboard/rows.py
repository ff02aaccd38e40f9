"""Rows and cells of boards, and what each is made of: figures, marks, what is known of the model, its standing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from leaderboard.facts import Facts, model_facts, published_facts, run_facts
from leaderboard.measures import MAIN, MEASURES, short
from leaderboard.models import ModelFacts, facts_of, names_of_run
from leaderboard.published import STATUS, FigureBlock
from leaderboard.records import AnswerRecord, Model, RunRecord
from leaderboard.significance import LEVEL, Pairs
from leaderboard.standing import Standing, standings

if TYPE_CHECKING:
    import pandas as pd

Leaders = Mapping[tuple[str, str, str], tuple[float, str]]
"""(task, measure, pool) -> the best ranked figure, and the slug of its model."""

PairsOf = Mapping[tuple[str, str], Pairs]
"""(pool, measure) -> p-values between models."""

HitsOf = Mapping[tuple[str, str], npt.NDArray[np.float64]]
"""(result file, measure) -> its value for each query."""


_TRAINED = {"yes": "the model was trained on this dataset", "no": "the model was not trained on this dataset"}


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
        source: of a result, its file.
        queries: how many it is the mean of; None where that is not known.
        trained: whether the model was trained on the task's dataset: yes, no or unknown.
        title: what is said when a pointer rests on it.
    """

    value: float
    low: float | None
    high: float | None
    pool: str
    best: bool
    tied: bool
    status: str
    source: str
    queries: int | None
    trained: str
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
        about: what is known of the model.
        search: how passages were found.
        standing: over all tasks; None unless the main measures of all are there and ranked.
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
    about: ModelFacts = field(default_factory=ModelFacts)
    search: str = ""
    standing: Standing | None = None
    answer: AnswerRecord | None = None
    run: RunRecord | None = None
    aside: str = ""

    @property
    def mean(self) -> float | None:
        """Of the main measures, percent; None unless all are there."""
        return self.standing.mean if self.standing else None


@dataclass(frozen=True)
class Item:
    """Published figures of one model or reader, in no column of a board.

    Attributes:
        name: of the model or reader.
        about: the task or, of a reader, whose passages it was given.
        figures: (measure, percent).
        source: where they are from: document and place.
        status: how they are known, a key of `leaderboard.published.STATUS` or `ANSWER_STATUS`.
        trained: as in `Cell`.
        caveat: what has to be known of them.
    """

    name: str
    about: str
    figures: list[tuple[str, float]]
    source: str
    status: str
    trained: str
    caveat: str


def items_of(own: pd.DataFrame, keys: list[str]) -> list[Item]:
    """Return an item for each model or reader, task or passages, and way of being known, as they come in the file."""
    found = []
    for _, mine in own.groupby([*keys, "source", "place", "status", "caveat"], sort=False):
        first = mine.iloc[0]
        figures = list(zip(mine["metric"], mine["value"], strict=True))
        source = f"{first['source']}, {first['place']}"
        trained = facts_of([first[keys[0]]]).trained_on(first["task"])
        found.append(Item(first[keys[0]], first[keys[1]], figures, source, first["status"], trained, first["caveat"]))
    return found


def leaders_of(figures: pd.DataFrame) -> Leaders:
    """Return the leaders of each column and pool; not where there is only one ranked figure."""
    found = {}
    for (task, metric, pool), group in figures[figures["ranked"]].groupby(["task", "metric", "pool"]):
        if len(group) > 1:
            first = group.iloc[int(group["value"].argmax())]
            found[str(task), str(metric), str(pool)] = float(first["value"]), str(first.get("slug", ""))
    return found


def run_row(model: Model, marks: tuple[str, ...], own: pd.DataFrame, leaders: Leaders, pairs: PairsOf) -> Row:
    """Return the row of a model, of its results that have these marks; ``own`` holds their figures."""
    results = [record.result for record in model.records if record.marks == marks]
    most = results[0]["model_settings"].get("doc_maxlen")
    about = facts_of(names_of_run(results[0]), parameters=_parameters(own), vectors=most)
    search = "; ".join(dict.fromkeys(result["search"] for result in results))
    facts = run_facts(model, marks)
    # What is known of training is of the datasets. Made-up data only have their names.
    row = _row(model.slug, own, leaders, pairs, ModelFacts() if "made-up" in marks else about, search, facts)
    return replace(row, about=about, facts=facts + model_facts(about))


def published_row(key: str, block: FigureBlock, own: pd.DataFrame, leaders: Leaders) -> Row:
    """Return the row of a model in a block of published figures, which ``own`` holds."""
    about = facts_of([own.iloc[0]["model"]], parameters=_parameters(own))
    return _row(key, own, leaders, {}, about, block.search, published_facts(own))


def _parameters(own: pd.DataFrame) -> int | None:
    known = own["parameters"].dropna()
    return int(known.iloc[0]) if len(known) else None


def _row(
    key: str,
    own: pd.DataFrame,
    leaders: Leaders,
    pairs: PairsOf,
    about: ModelFacts,
    search: str,
    facts: Facts,
) -> Row:
    first = own.iloc[0]
    return Row(
        key=key,
        name=first["model"],
        label=first["model"],
        slug=first["slug"],
        cells=cells_of(own, MEASURES, leaders, pairs, about),
        ranked=bool(own["ranked"].any()),
        facts=facts + model_facts(about),
        about=about,
        search=search,
    )


def with_standings(rows: list[Row], hits: HitsOf) -> list[Row]:
    """Return rows of one pool, those that have the main measures of all tasks with their standing among each other."""
    mains = {row.key: [row.cells[MEASURES.index(name)] for name in MAIN] for row in rows if row.ranked}
    whole = {
        key: [cell for cell in cells if cell]
        for key, cells in mains.items()
        if all(cell is not None and cell.status != "digitised" for cell in cells)
    }
    if not whole:
        return rows
    figures = np.array([[cell.value for cell in cells] for cells in whole.values()])
    counts = [[cell.queries or 0 for cell in cells] for cells in whole.values()]
    queries = np.array(counts) if all(map(all, counts)) else None
    by_task = []
    for (_, name), cells in zip(MAIN, zip(*whole.values(), strict=True), strict=True):
        known = [hits[cell.source, name] for cell in cells if (cell.source, name) in hits]
        by_task.append(np.stack(known, axis=1) if len(known) == len(cells) else None)
    looked = [values for values in by_task if values is not None]
    found = dict(zip(whole, standings(figures, queries, looked if len(looked) == len(MAIN) else None), strict=True))
    return [replace(row, standing=found.get(row.key)) for row in rows]


def cells_of(
    own: pd.DataFrame,
    columns: Sequence[tuple[str, str]],
    leaders: Leaders,
    pairs: PairsOf,
    about: ModelFacts | None = None,
) -> list[Cell | None]:
    """Return a cell for each column, (task, measure), of the figures of one row; None where there is none."""
    figures = own.drop_duplicates(["task", "metric"]).to_dict("records")
    found = {
        (figure["task"], figure["metric"]): _cell(figure, leaders, pairs, about or ModelFacts()) for figure in figures
    }
    return [found.get(column) for column in columns]


def _cell(figure: Mapping[Any, Any], leaders: Leaders, pairs: PairsOf, about: ModelFacts) -> Cell:
    metric, pool, value = figure["metric"], figure["pool"], figure["value"]
    best, leader = leaders.get((figure["task"], metric, pool), (None, ""))
    is_best = bool(figure["ranked"] and value == best)
    known = pairs.get((pool, metric))
    p_value = known.p(figure["slug"], leader) if known and leader else None
    own = figure["origin"] == "run"
    trained = about.trained_on(figure["task"])
    said = [f"{figure['task']} {short(metric)} {value:.2f} %"]
    if own:
        sizes = ("questions",) if "questions" in figure else ("queries", "passages")
        said.append(f"95 % interval {figure['low']:.2f} to {figure['high']:.2f}")
        said += [*(f"{figure[size]:,} {size}" for size in sizes), f"data {figure['dataset']}"]
    else:
        said += [STATUS[figure["status"]], f"{figure['source']}, {figure['place']}", figure["caveat"]]
    said.append(_TRAINED.get(trained, ""))
    return Cell(
        value=value,
        low=figure["low"] if own else None,
        high=figure["high"] if own else None,
        pool=pool,
        best=is_best,
        tied=not is_best and p_value is not None and p_value >= LEVEL,
        status=figure["status"],
        source=figure["source"],
        queries=figure["queries"] if own and "queries" in figure else None,
        trained=trained,
        title="; ".join(part for part in said if part),
    )


def ordered(rows: Iterable[Row]) -> list[Row]:
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
