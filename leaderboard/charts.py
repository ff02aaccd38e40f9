"""Which figures the site draws: radar charts, figures against sizes of models, and measures against the cut-off."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from leaderboard import plots
from leaderboard.boards import Board
from leaderboard.figures import interval
from leaderboard.measures import COMPARED, MEASURES, short
from leaderboard.models import ModelFacts
from leaderboard.published import BENCHMARK
from leaderboard.records import RunRecord
from m2kr.common.files import safe_name

_RADAR_SERIES = 6


def radar_page(boards: Sequence[Board]) -> dict[str, Any]:
    """Return what the page of radar charts shows: one chart for each board whose models cover most tasks.

    As in the article, the tasks with Pseudo Recall are drawn by it.
    """
    axes = [(task.key, task.metrics[-1]) for task in COMPARED]
    figures = []
    for board in boards:
        series = []
        for row in board.rows:
            cells = dict(zip(MEASURES, row.cells, strict=True))
            values = [cell.value if (cell := cells[axis]) else None for axis in axes]
            if sum(value is not None for value in values) >= len(axes) - 1:
                series.append((row.name, values))
        if not series:
            continue
        shown = series[:_RADAR_SERIES]
        used = [n for n in range(len(axes)) if any(values[n] is not None for _, values in shown)]
        labels = [f"{axes[n][0]}\n{short(axes[n][1])}" for n in used]
        picked = [(model, [values[n] for n in used]) for model, values in shown]
        name = f"radar-{board.key}"
        note = board.note
        if len(series) > len(shown):
            note += f" The first {_RADAR_SERIES} of {len(series)} models."
        drawing = plots.radar(labels, picked, title=f"Radar chart: {board.title}", name=name)
        figures.append(_figure(board.title, note, [drawing], [model for model, _ in picked], name))
    intro = (
        "Drawn as in the article: one axis for each task, from the smallest figure on the inner ring to the largest at "
        "the rim, ten points at least; the range stands beside the axis. A model alone is drawn from 0 to "
        "100. Pseudo Recall@5 where answers are known, "
        "else Recall@K. Charts of different blocks are not comparable."
    )
    return {"title": "Radar charts", "intro": intro, "figures": figures, "wide": len(figures) == 1}


@dataclass(frozen=True)
class SizePage:
    """A page of figures against a size of the models.

    Attributes:
        axis: what they are drawn against.
        size: of a model; None, or 0, where there is none.
        title: heading.
        intro: what has to be known of the size.
        key: begins the names of its plots.
    """

    axis: plots.SizeAxis
    size: Callable[[ModelFacts], int | None]
    title: str
    intro: str
    key: str


SIZE_PAGES = {
    "parameters.html": SizePage(
        plots.PARAMETERS,
        lambda about: about.parameters,
        "Figures against parameters",
        "Models whose number of parameters is known, on a logarithmic scale; each plot has its own range of percent, "
        "ten points at least. Sources disagree on PreFLMR ViT-G: 2.1 B in the model list, 1.96 B in the article.",
        "size",
    ),
    "storage.html": SizePage(
        plots.PASSAGE_BYTES,
        lambda about: about.passage_bytes,
        "Figures against bytes a passage",
        "What a passage takes at most, on a logarithmic scale: the vectors it can have, their numbers in half "
        "precision. A short passage takes less where each of its words has a vector, and a store of 8 bits half of it.",
        "bytes",
    ),
}
"""The pages of figures against a size, by their file."""

_FRONT = (
    " A ring marks the front: no other model of the series, ranked ones only, is as small or smaller and has a higher "
    "figure, or a smaller one and has as high a figure; the dotted line is its steps."
)


def size_page(page: SizePage, boards: Sequence[Board]) -> dict[str, Any]:
    """Return what a page of figures against a size shows: boards with models whose size is known.

    Runs on the published data are drawn with the figures published of them; each group of runs that is set apart, and
    figures published of another benchmark, alone.
    """
    here = [board for board in boards if (board.key == "run" if board.own else board.benchmark == BENCHMARK)]
    apart = [board for board in boards if board not in here]
    figures = []
    for number, group in enumerate(([here] if here else []) + [[board] for board in apart]):
        panels: dict[str, list[tuple[str, list[tuple[str, float, float]]]]] = {}
        fronts: dict[str, dict[str, set[str]]] = {}
        for place, (task, metric) in enumerate(MEASURES):
            panel = f"{task} {short(metric)}"
            for board in group:
                sizes = [(row, page.size(row.about), row.cells[place]) for row in board.rows]
                points = [(row.name, float(size), cell.value) for row, size, cell in sizes if size and cell]
                ranked = [
                    (row.name, float(size), cell.value) for row, size, cell in sizes if size and cell and row.ranked
                ]
                if points:
                    panels.setdefault(panel, []).append((board.title, points))
                    fronts.setdefault(panel, {})[board.title] = front(ranked)
        different = {size for series in panels.values() for _, points in series for _, size, _ in points}
        if not panels or not (len(different) > 1 or group is here or group[0].own):
            continue  # of another benchmark, models of one size show nothing
        labels = list(dict.fromkeys(label for series in panels.values() for label, _ in series))
        joined = {board.title for board in group if not board.own}
        drawings = [
            plots.against_size(
                page.axis,
                series,
                styles=labels,
                joined=joined,
                fronts=fronts[panel],
                title=panel,
                name=f"{page.key}-{number}-{place}",
            )
            for place, (panel, series) in enumerate(panels.items())
        ]
        title, note = ("Figures on the published data", "") if group is here else (group[0].title, group[0].note)
        figures.append(_figure(title, note, drawings, labels, f"{page.key}s-{number}", joined))
    return {"title": page.title, "intro": page.intro + _FRONT, "figures": figures, "wide": True}


def front(points: Sequence[tuple[str, float, float]]) -> set[str]:
    """Return the models that no other dominates; none where there is only one.

    Args:
        points: (model, size, percent): small sizes and high figures are good.
    """
    if len(points) < 2:
        return set()
    return {
        model
        for model, size, value in points
        if not any(
            other_size <= size and other >= value and (other_size, other) != (size, value)
            for _, other_size, other in points
        )
    }


def _figure(
    title: str,
    note: str,
    drawings: Sequence[Markup],
    labels: Sequence[str],
    name: str,
    joined: Collection[str] | None = None,
) -> dict[str, Any]:
    marks = plots.legend_marks(labels, f"{name}-legend", joined)
    return {"title": title, "note": note, "drawings": drawings, "legend": list(zip(marks, labels, strict=True))}


def curve(record: RunRecord) -> Markup | None:
    """Return hit rates against the cut-off, with their intervals; None where there is only one cut-off."""
    result = record.result
    series = []
    for kind in ("Recall", "PRecall"):
        cutoffs = sorted(int(name.split("@")[1]) for name in result["metrics"] if name.startswith(f"{kind}@"))
        points = []
        for k in cutoffs:
            value = result["metrics"][f"{kind}@{k}"]
            low, high = interval(value, result["queries"])
            points.append((k, 100 * value, 100 * low, 100 * high))
        if len(points) > 1:
            series.append((f"{kind}@K", points))
    title = f"{result['task']}: percent against the cut-off K"
    return plots.curve(series, title=title, name=f"curve-{safe_name(record.path.stem)}") if series else None
