"""Which figures the site draws: radar charts, figures against parameters, and measures against the cut-off."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from markupsafe import Markup

from leaderboard import plots
from leaderboard.boards import Board
from leaderboard.figures import interval
from leaderboard.measures import COMPARED, MEASURES, short
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


def parameters_page(boards: Sequence[Board]) -> dict[str, Any]:
    """Return what the page of figures against parameters shows: boards with models whose size is known.

    Runs on the published data are drawn with the published figures; each group of runs that is set apart, alone.
    """
    together = [board for board in boards if not board.own or board.key == "run"]
    apart = [board for board in boards if board.own and board.key != "run"]
    figures = []
    for number, group in enumerate(([together] if together else []) + [[board] for board in apart]):
        panels: dict[str, list[tuple[str, list[tuple[str, float, float]]]]] = {}
        for place, (task, metric) in enumerate(MEASURES):
            for board in group:
                points = [
                    (row.name, float(row.parameters), cell.value)
                    for row in board.rows
                    if row.parameters and (cell := row.cells[place])
                ]
                if points:
                    panels.setdefault(f"{task} {short(metric)}", []).append((board.title, points))
        if not panels:
            continue
        labels = list(dict.fromkeys(label for series in panels.values() for label, _ in series))
        joined = {board.title for board in group if not board.own}
        drawings = [
            plots.against_parameters(series, styles=labels, joined=joined, title=panel, name=f"size-{number}-{place}")
            for place, (panel, series) in enumerate(panels.items())
        ]
        title, note = ("Figures on the published data", "") if group is together else (group[0].title, group[0].note)
        figures.append(_figure(title, note, drawings, labels, f"sizes-{number}", joined))
    intro = (
        "Models whose number of parameters is known, on a logarithmic scale; each plot has its own range of percent, "
        "ten points at least. Sources disagree on PreFLMR ViT-G: 2.1 B in the model list, 1.96 B in the article."
    )
    return {"title": "Figures against parameters", "intro": intro, "figures": figures, "wide": True}


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
