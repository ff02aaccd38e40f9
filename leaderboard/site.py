"""The site: pages, plots, style sheet and scripts, and the figures as JSON and CSV."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from leaderboard import plots
from leaderboard.answer_boards import MEASURE_NAMES, MEASURE_NOTES, answer_boards
from leaderboard.answers import (
    ANSWER_STATUS,
    AnswerRecord,
    answer_figures,
    read_answer_records,
    read_published_answers,
)
from leaderboard.boards import COMPARED, MEASURES, Board, boards, long_table, short, task_kind
from leaderboard.explorer import Examination, examine
from leaderboard.published import BLOCKS, STATUS, read_published
from leaderboard.records import (
    MARK_NOTES,
    MARKS,
    Model,
    Record,
    interval,
    marks_of,
    models_of,
    read_records,
    usual_data,
    with_marks,
)
from leaderboard.significance import LEVEL, Pairs, as_json, pairwise
from m2kr import __version__
from m2kr.common.files import atomic, safe_name
from m2kr.errors import M2KRError

if TYPE_CHECKING:
    import pandas as pd

    from m2kr.images.roots import ImageRoots

_HERE = Path(__file__).parent
_MARKER = ".m2kr-leaderboard"
# A folder with this file was made here, and is made anew.
_RADAR_SERIES = 6

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
)
"""Of every page: nothing but the site's own scripts, style sheets and pictures, and nothing written into the page."""


@dataclass(frozen=True)
class Built:
    """What `build` made: numbers of models and pages, and results whose runs were not looked into, with the reason."""

    models: int
    pages: int
    absent: dict[Path, str]


def build(
    results: Path,
    out: Path,
    *,
    data: str | None = None,
    images: ImageRoots | None = None,
    shown: int = 40,
    quiet: bool = False,
) -> Built:
    """Build the site, complete or not at all.

    Args:
        results: folder of result files.
        out: folder of the site: new, empty, or made by this function before, in which case it is replaced.
        data: the benchmark that was evaluated; with it runs are checked, compared and can be explored.
        images: where the queries' pictures are.
        shown: queries shown for each run.
        quiet: no progress.

    Raises:
        M2KRError: a result file or its run is refused, or ``out`` holds something else.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARKER).is_file())):
        raise M2KRError(f"{out} is there and is no site of the leaderboard. Choose another folder with --out.")
    records = read_records(results)
    answers = read_answer_records(results)
    published, published_answers = read_published(), read_published_answers()
    making = out.with_name(f".{out.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    try:
        examination = (
            examine(records, data, making, images=images, shown=shown, quiet=quiet)
            if data is not None
            else Examination({}, {}, {})
        )
        reference = {**usual_data(answers), **usual_data(records), **examination.fingerprints}
        records = [with_marks(record, reference) for record in records]
        answers = [replace(answer, marks=marks_of(answer.result, reference)) for answer in answers]
        table, answered = long_table(records, published), answer_figures(answers, published_answers)
        writer = _Pages(making, answered=len(answered) > 0)
        writer.write_all(records, table, examination, looked=data is not None)
        if len(answered):
            writer.write_answers(answers, answered, records)
        write_data(table, answered, making)
        (making / _MARKER).touch()
        if out.exists():
            shutil.rmtree(out)
        making.replace(out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return Built(len(models_of(records)), writer.pages, examination.absent)


def write_data(table: pd.DataFrame, answered: pd.DataFrame, out: Path) -> None:
    """Write ``leaderboard.csv`` and ``leaderboard.json``: every figure of retrieval, columns `FIELDS`.

    Those of answering, columns `leaderboard.answers.ANSWER_FIELDS`, are in ``answers.csv`` and, as a list of their
    own, in ``leaderboard.json``.
    """
    for name, figures in (("leaderboard.csv", table), ("answers.csv", answered)):
        if len(figures):
            with atomic(out / name, "w", durable=False) as file:
                figures.to_csv(file, index=False, lineterminator="\n", float_format="%.6g")
    notes = {
        "percent": ["value", "low", "high"],
        "interval": "95 %, percentile bootstrap over queries",
        "groups": {block.key: block.title for block in BLOCKS.values()} | {"run": "results, plain or with marks"},
        "marks": {MARKS[mark]: note for mark, note in MARK_NOTES.items()},
        "status": {**STATUS, **ANSWER_STATUS, "computed": "of a result file"},
    }
    lists = {
        name: [{key: _json_value(value) for key, value in row.items()} for row in figures.to_dict("records")]
        for name, figures in (("figures", table), ("answers", answered))
    }
    with atomic(out / "leaderboard.json", "w", durable=False) as file:
        json.dump({"m2kr": __version__, **notes, **lists}, file, ensure_ascii=False, indent=1, allow_nan=False)
        file.write("\n")


def _json_value(value: Any) -> Any:
    import pandas as pd

    if pd.isna(value):
        return None
    return round(value, 6) if isinstance(value, float) else value.item() if hasattr(value, "item") else value


class _Pages:
    """Writes pages and counts them."""

    def __init__(self, out: Path, *, answered: bool) -> None:
        self.out = out
        self.pages = 0
        self.environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,  # every text of a result or of the data is somebody else's
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters |= {
            "short": short,
            "breakable": _breakable,
            "count": lambda value: f"{value:,}",
            "percent": lambda value: f"{value:.1f}",
            "parameters": _parameters,
            "seconds": _seconds,
            "gib": lambda value: f"{value / (1 << 30):.2f} GiB",
            "compact": lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
        }
        self.environment.globals |= {
            "csp": CONTENT_SECURITY_POLICY,
            "version": __version__,
            "answered": answered,
            "tasks": COMPARED,
            "task_kind": task_kind,
            "pictured": [task.key for task in COMPARED if task.reads_images],
        }

    def write(self, name: str, template: str, **values: Any) -> None:
        root = "../" * name.count("/")
        text = self.environment.get_template(template).render(root=root, page=name, **values)
        with atomic(self.out / name, "w", durable=False) as file:
            file.write(text)
        self.pages += 1

    def write_all(
        self, records: Sequence[Record], table: pd.DataFrame, examination: Examination, *, looked: bool
    ) -> None:
        shutil.copytree(_HERE / "static", self.out / "static")
        pairs = _pairs(records, examination)
        found = boards(records, table, pairs)
        self.write(
            "index.html",
            "index.html",
            boards=found,
            measures=MEASURES,
            significance=_safe_json(as_json(pairs)),
            level=LEVEL,
            looked=looked,
        )
        self.write("radar.html", "plots.html", **_radars(found))
        self.write("parameters.html", "plots.html", **_sizes(found))
        models = models_of(records)
        self.write("runs/index.html", "runs.html", models=models, marks=MARKS)
        for model in models:
            self._write_model(model, examination)

    def write_answers(self, answers: Sequence[AnswerRecord], answered: pd.DataFrame, records: Sequence[Record]) -> None:
        boards_ = answer_boards(answers, answered, records)
        names = {"measure_names": MEASURE_NAMES, "measure_notes": MEASURE_NOTES}
        self.write("answers.html", "answers.html", boards=boards_, **names)

    def _write_model(self, model: Model, examination: Examination) -> None:
        parts = []
        for record in model.records:
            seen = examination.found.get(record.path)
            if seen:
                self.write(f"runs/{model.slug}/{record.page}", "explore.html", model=model, record=record, seen=seen)
            parts.append(
                {
                    "record": record,
                    "seen": seen,
                    "why": examination.absent.get(record.path, "the site was built without the benchmark (--data)"),
                    "curve": _curve(record),
                    "phases": _phases(record),
                    "measures": _measures(record),
                }
            )
        self.write(f"runs/{model.slug}/index.html", "run.html", model=model, parts=parts, marks=MARKS, notes=MARK_NOTES)


def _pairs(records: Sequence[Record], examination: Examination) -> dict[tuple[str, str], Pairs]:
    hits: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        seen = examination.found.get(record.path)
        for metric, values in (seen.hits if seen else {}).items():
            hits.setdefault((record.pool, metric), {})[record.slug] = values
    return {key: pairwise(values) for key, values in hits.items()}


def _radars(found: Sequence[Board]) -> dict[str, Any]:
    """Return what the page of radar charts shows: one chart for each board whose models cover most tasks.

    As in the article, the tasks with Pseudo Recall are drawn by it.
    """
    axes = [(task.key, task.metrics[-1]) for task in COMPARED]
    figures = []
    for board in found:
        series = []
        for row in board.rows:
            cells = dict(zip(MEASURES, row.cells, strict=True))
            values = [cell.value if (cell := cells[axis]) else None for axis in axes]
            if sum(value is not None for value in values) >= len(axes) - 1:
                series.append((row.model, values))
        if not series:
            continue
        left_out = max(0, len(series) - _RADAR_SERIES)
        shown = series[:_RADAR_SERIES]
        used = [n for n in range(len(axes)) if any(values[n] is not None for _, values in shown)]
        labels = [f"{axes[n][0]}\n{short(axes[n][1])}" for n in used]
        picked = [(name, [values[n] for n in used]) for name, values in shown]
        name = f"radar-{board.key}"
        note = f"{board.note} The first {_RADAR_SERIES} of {len(series)} models." if left_out else board.note
        drawing = plots.radar(labels, picked, title=f"Radar chart: {board.title}", name=name)
        figures.append(_figure(board.title, note, [drawing], [name for name, _ in picked], name))
    intro = (
        "Drawn as in the article: one axis for each task, from the smallest figure on the inner ring to the largest at "
        "the rim, ten points at least; the range stands beside the axis. A model alone is drawn from 0 to "
        "100. Pseudo Recall@5 where answers are known, "
        "else Recall@K. Charts of different blocks are not comparable."
    )
    return {"title": "Radar charts", "intro": intro, "figures": figures, "wide": len(figures) == 1}


def _sizes(found: Sequence[Board]) -> dict[str, Any]:
    """Return what the page of metric against parameters shows: boards with models whose size is known.

    Runs on the published data are drawn with the published figures; each group of runs that is set apart, alone.
    """
    together = [board for board in found if not board.own or board.key == "run"]
    apart = [board for board in found if board.own and board.key != "run"]
    figures = []
    for number, group in enumerate(([together] if together else []) + [[board] for board in apart]):
        panels: dict[str, list[tuple[str, list[tuple[str, float, float]]]]] = {}
        for place, (task, metric) in enumerate(MEASURES):
            for board in group:
                points = [
                    (row.model, float(row.parameters), cell.value)
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


def _curve(record: Record) -> Markup | None:
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


def _phases(record: Record) -> list[tuple[str, float, int | None, bool]]:
    """Return each phase's name, seconds, bytes of memory, and whether its embeddings were found."""
    result = record.result
    return [
        (phase, float(seconds), result["memory"].get(phase), phase in result["reused"])
        for phase, seconds in result["seconds"].items()
    ]


def _measures(record: Record) -> dict[str, Any]:
    """Return a table of measures: a row for each cut-off, a column for each measure that has cut-offs, and others."""
    metrics = record.result["metrics"]
    kinds = [
        kind for kind in ("Recall", "PRecall", "recall_fraction") if any(n.startswith(kind + "@") for n in metrics)
    ]
    cutoffs = sorted({int(name.split("@")[1]) for name in metrics if name.split("@")[0] in kinds})
    return {
        "kinds": kinds,
        "rows": [(k, [_percent(metrics.get(f"{kind}@{k}")) for kind in kinds]) for k in cutoffs],
        "others": [(name, _percent(value)) for name, value in metrics.items() if name.split("@")[0] not in kinds],
    }


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _parameters(value: int | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1e9:.3g} B" if value >= 1e9 else f"{value / 1e6:.0f} M"


def _seconds(value: float) -> str:
    if value >= 3600:
        return f"{int(value // 3600)} h {int(value % 3600 // 60)} min"
    return f"{int(value // 60)} min {value % 60:.0f} s" if value >= 60 else f"{value:.2f} s"


def _breakable(name: str) -> Markup:
    """Return a name that may be broken after its punctuation."""
    return Markup("<wbr>").join(re.findall(r"[^_/\-.]*[_/\-.]*", name)[:-1])


def _safe_json(value: Any) -> Markup:
    """Return JSON that cannot end the element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
