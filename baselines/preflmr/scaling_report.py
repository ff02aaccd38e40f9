"""What a scaling study says: tables in Markdown, and a plot of the metric against parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from baselines.common.markdown import markdown_table
from baselines.preflmr.scaling_plan import ALL_STAGES, WITHOUT
from m2kr.tasks import TASKS

_AXES = {"vision": "vision encoder", "text": "text encoders"}


class RunScores(TypedDict):
    """What ``scores.json`` of a run holds.

    Attributes:
        run: name of the run.
        vision: size of its vision encoder.
        text: size of its text encoders.
        seed: of its weights, order of data and draws.
        stages: that it went through.
        parameters: numbers in the vision encoder, in both text encoders together, and in all of the model,
            under ``vision``, ``text`` and ``all``.
        mean: over the tasks with an image and a question of their first metrics, each task alike, 0 to 1.
        metrics: first metric of each task, 0 to 1.
        seconds: of training each stage, wall time.
    """

    run: str
    vision: str
    text: str
    seed: int
    stages: list[int]
    parameters: dict[str, int]
    mean: float
    metrics: dict[str, float]
    seconds: dict[str, float]


def report(scores: Sequence[RunScores], middle: tuple[str, str]) -> str:
    """Return the tables of a study in Markdown: the pairs of sizes, and what the stages add at the middle pair.

    Figures are in per cent. Behind a mean over seeds stands the range of the seeds, least to most. ``middle`` names the
    middle sizes of vision and text encoder, whose runs are among the scores.
    """
    seeds = sorted({run["seed"] for run in scores})
    counted = f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else f"seed {seeds[0]} alone"
    parts = [
        f"Means over {counted}; in brackets the least and the most of the seeds. In per cent.",
        "### Sizes",
        _pairs(scores),
    ]
    if any(len(run["stages"]) < len(ALL_STAGES) for run in scores):
        parts += ["### Stages", f"At the pair {middle[0]} and {middle[1]}.", _stages(scores, middle)]
        parts += ["Against all stages, image + question, seed by seed:", _differences(scores, middle)]
    return "\n\n".join(parts) + "\n"


def _whole(scores: Sequence[RunScores]) -> list[RunScores]:
    return [run for run in scores if run["stages"] == list(ALL_STAGES)]


def _at(scores: Sequence[RunScores], middle: tuple[str, str], stages: Sequence[int]) -> list[RunScores]:
    """Return the runs of the middle pair through some stages, by seed."""
    found = [run for run in scores if (run["vision"], run["text"]) == middle and run["stages"] == list(stages)]
    return sorted(found, key=lambda run: run["seed"])


def _pairs(scores: Sequence[RunScores]) -> str:
    groups: dict[tuple[str, str], list[RunScores]] = {}
    for run in _whole(scores):
        groups.setdefault((run["vision"], run["text"]), []).append(run)
    rows = []
    for pair, own in sorted(groups.items(), key=lambda item: [item[1][0]["parameters"][axis] for axis in _AXES]):
        sizes = (_millions(own[0]["parameters"][name]) for name in (*_AXES, "all"))
        rows.append([*pair, *sizes, *_figures(own)])
    heads = ["vision", "text", *(f"{name}, M" for name in (*_AXES.values(), "all")), *_columns(scores)]
    return markdown_table(heads, rows, left=2)


def _stages(scores: Sequence[RunScores], middle: tuple[str, str]) -> str:
    runs = {stages: _at(scores, middle, stages) for stages in (ALL_STAGES, *WITHOUT.values())}
    rows = [[", ".join(map(str, stages)), *_figures(own)] for stages, own in runs.items() if own]
    return markdown_table(["stages", *_columns(scores)], rows)


def _differences(scores: Sequence[RunScores], middle: tuple[str, str]) -> str:
    whole = {run["seed"]: run["mean"] for run in _at(scores, middle, ALL_STAGES)}
    rows = []
    for missing, stages in WITHOUT.items():
        apart = {run["seed"]: run["mean"] - whole[run["seed"]] for run in _at(scores, middle, stages)}
        if apart:
            cells = (f"{100 * apart[seed]:+.1f}" if seed in apart else "" for seed in whole)
            rows.append([f"stage {missing}", *cells, f"{100 * _mean(list(apart.values())):+.1f}"])
    return markdown_table(["left out", *(f"seed {seed}" for seed in whole), "mean"], rows)


def _columns(scores: Sequence[RunScores]) -> list[str]:
    short = (f"{key} {TASKS[key].metrics[0].replace('Recall', 'R')}" for key in scores[0]["metrics"])
    return ["image + question", *short]


def _figures(runs: Sequence[RunScores]) -> list[str]:
    means = [100 * run["mean"] for run in runs]
    first = f"{_mean(means):.1f}" + (f" [{min(means):.1f}, {max(means):.1f}]" if len(means) > 1 else "")
    tasks = (f"{100 * _mean([run['metrics'][key] for run in runs]):.1f}" for key in runs[0]["metrics"])
    return [first, *tasks]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _millions(number: int) -> str:
    """Return a number of parameters in millions, with three digits that count at most: 0.024, 1.74, 304."""
    value = number / 1e6
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def draw(scores: Sequence[RunScores], middle: tuple[str, str], path: Path) -> None:
    """Draw the mean of the tasks with image and question against parameters, a panel for each kind of encoder.

    The other kind is of its middle size. Every seed is a dot, and a line goes through the means. The picture is a PNG
    of 1,320 x 560 pixels.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from m2kr.common.files import atomic

    figure, panels = plt.subplots(1, 2, figsize=(8.8, 3.73), dpi=150, layout="constrained", sharey=True)
    fixed = {"vision": ("text", middle[1]), "text": ("vision", middle[0])}
    for axes, (axis, title), colour in zip(panels, _AXES.items(), ("#1f5a9a", "#a8481c"), strict=True):
        other, size = fixed[axis]
        points = _points([run for run in _whole(scores) if _name(run, other) == size], axis)
        for (number, _), values in points.items():
            axes.plot([number] * len(values), values, "o", color=colour, alpha=0.45, markersize=6, markeredgewidth=0)
        axes.plot([number for number, _ in points], [_mean(values) for values in points.values()], "-", color=colour)
        axes.set_xscale("log")
        axes.set_xticks([number for number, _ in points], [f"{name}\n{_millions(number)} M" for number, name in points])
        axes.minorticks_off()
        axes.margins(x=0.12)
        axes.set_xlabel(f"parameters of the {title}")
        axes.set_title(f"with the {size} {_AXES[other]}", fontsize=10)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("image + question, mean recall in per cent")
    with atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    plt.close(figure)


def _name(run: RunScores, axis: str) -> str:
    return run["vision"] if axis == "vision" else run["text"]


def _points(runs: Sequence[RunScores], axis: str) -> Mapping[tuple[int, str], list[float]]:
    """Return the figures of all seeds in per cent, by parameters and name of a size, smallest first."""
    found: dict[tuple[int, str], list[float]] = {}
    for run in sorted(runs, key=lambda run: run["parameters"][axis]):
        found.setdefault((run["parameters"][axis], _name(run, axis)), []).append(100 * run["mean"])
    return found
