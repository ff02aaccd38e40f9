"""The site: pages, plots, style sheet and scripts, and the figures as JSON and CSV."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from leaderboard.boards import Board, answer_boards, run_boards
from leaderboard.charts import SIZE_PAGES, curve, radar_page, size_page
from leaderboard.explorer import Exploration, explore
from leaderboard.figures import answer_figures, run_figures
from leaderboard.marks import MARKS, usual_data
from leaderboard.measures import ANSWER_NOTES, COMPARED, short
from leaderboard.models import ModelFacts
from leaderboard.published import ANSWER_STATUS, ANSWERING, BLOCKS, STATUS, read_published
from leaderboard.records import Model, RunRecord, models_of, read_records
from leaderboard.rows import PairsOf
from leaderboard.significance import LEVEL, as_json, pairwise
from m2kr import __version__
from m2kr.common.files import atomic, writing
from m2kr.common.locks import exclusive
from m2kr.common.work import discard, move_into_place
from m2kr.errors import M2KRError

if TYPE_CHECKING:
    import pandas as pd

    from m2kr.images.roots import ImageRoots

_HERE = Path(__file__).parent
_MARKER = ".m2kr-leaderboard"
# A folder with this file was made here, and is made anew.

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
)
"""Of every page: nothing but the site's own scripts, style sheets and pictures, and nothing written into the page."""


COLUMNS = {
    "size": ("Size", "Number of parameters"),
    "mean": ("Mean", "Mean of the first measure of each of the nine tasks; only where a model has all nine"),
    "rank": (
        "Mean rank",
        "Mean over the nine tasks of the rank among the models here that have all nine; 1 is the best. "
        "◆: no other of them is as good on every task and better on one",
    ),
    "year": ("Year", "Of the article, or of the checkpoint"),
    "licence": ("Licence", "Of the weights"),
    "open": ("Open", "Whether anybody can get the weights"),
    "vectors": ("Vectors", "How many vectors a passage has, at most"),
    "dimension": ("Dim.", "Numbers in a vector"),
    "bytes": ("Bytes", "Bytes that a passage takes at most, in half precision"),
    "search": ("Search", "How passages were found"),
}
"""Columns that readers can hide, in their order: heading, and what it means."""


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
    """Build the site, complete or not at all. While another process builds it, this waits.

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
    making = out.with_name(f".{out.name}.making")
    with exclusive(out.with_name(f".{out.name}.lock"), out, wait=True, quiet=quiet):
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARKER).is_file())):
            raise M2KRError(f"{out} is there and is no site of the leaderboard. Choose another folder with --out.")
        try:
            with writing(making):
                discard(making)
                making.mkdir(parents=True)
                shutil.copytree(_HERE / "static", making / "static")
            built = _made(results, making, data=data, images=images, shown=shown, quiet=quiet)
            move_into_place(making, out)
        finally:
            discard(making)
    return built


def _made(results: Path, out: Path, *, data: str | None, images: ImageRoots | None, shown: int, quiet: bool) -> Built:
    """Write all files of the site but the static ones into its folder."""
    runs, answers = read_records(results)
    published, published_answers = read_published(), read_published(ANSWERING)
    seen = Exploration()
    if data is not None:
        seen = explore(runs, data, out, images=images, shown=shown, quiet=quiet)
    usual = [usual_data(record.result for record in records) for records in (answers, runs)]
    reference = {**usual[0], **usual[1], **seen.fingerprints}
    runs = [record.marked(reference) for record in runs]
    answers = [record.marked(reference) for record in answers]
    figures, answered = run_figures(runs, published), answer_figures(answers, published_answers)
    pages = _Pages(out, answered=len(answered) > 0)
    boards = _write_runs(pages, runs, figures, seen, looked=data is not None)
    if len(answered):
        pages.write("answers.html", "answers.html", boards=answer_boards(answers, answered, runs), notes=ANSWER_NOTES)
    known = {row.name: row.about for board in boards for row in board.rows}
    _write_data(figures, answered, known, out)
    with atomic(out / _MARKER, durable=False):
        pass
    return Built(len(models_of(runs)), pages.count, seen.absent)


class _Pages:
    """Writes pages and counts them."""

    def __init__(self, out: Path, *, answered: bool) -> None:
        self.out = out
        self.count = 0
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
            "bytes": _bytes,
            "seconds": _seconds,
            "gib": lambda value: f"{value / (1 << 30):.2f} GiB",
            "compact": lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
        }
        self.environment.globals |= {
            "csp": CONTENT_SECURITY_POLICY,
            "version": __version__,
            "answered": answered,
            "tasks": COMPARED,
            "pictured": [task.key for task in COMPARED if task.reads_images],
            "marks": MARKS,
            "columns": COLUMNS,
        }

    def write(self, name: str, template: str, **values: Any) -> None:
        root = "../" * name.count("/")
        text = self.environment.get_template(template).render(root=root, page=name, **values)
        with atomic(self.out / name, "w", durable=False) as file:
            file.write(text)
        self.count += 1


def _write_runs(
    pages: _Pages, runs: Sequence[RunRecord], figures: pd.DataFrame, seen: Exploration, *, looked: bool
) -> list[Board]:
    """Write the pages of retrieval, and return their boards."""
    pairs = _pairs(runs, seen)
    hits = {
        (record.source, metric): values
        for record in runs
        if (explored := seen.runs.get(record.path))
        for metric, values in explored.hits.items()
    }
    boards = run_boards(runs, figures, pairs, hits)
    significance = _safe_json(as_json(pairs))
    pages.write("index.html", "index.html", boards=boards, significance=significance, level=LEVEL, looked=looked)
    pages.write("radar.html", "plots.html", **radar_page(boards))
    for name, page in SIZE_PAGES.items():
        pages.write(name, "plots.html", **size_page(page, boards))
    models = models_of(runs)
    pages.write("runs/index.html", "runs.html", models=models)
    for model in models:
        _write_model(pages, model, seen)
    return boards


def _write_model(pages: _Pages, model: Model, seen: Exploration) -> None:
    parts = []
    for record in model.records:
        if explored := seen.runs.get(record.path):
            values = {"model": model, "record": record, "seen": explored}
            pages.write(f"runs/{model.slug}/{record.page}", "explore.html", **values)
        parts.append(
            {
                "record": record,
                "seen": explored,
                "why": seen.absent.get(record.path, "the site was built without the benchmark (--data)"),
                "curve": curve(record),
                "measures": _measures(record.result["metrics"]),
            }
        )
    pages.write(f"runs/{model.slug}/index.html", "run.html", model=model, parts=parts)


def _pairs(runs: Sequence[RunRecord], seen: Exploration) -> PairsOf:
    hits: dict[tuple[str, str], dict[str, Any]] = {}
    for record in runs:
        if explored := seen.runs.get(record.path):
            for metric, values in explored.hits.items():
                hits.setdefault((record.pool, metric), {})[record.slug] = values
    return {key: pairwise(values) for key, values in hits.items()}


def _measures(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return a table of measures: a row for each cut-off, a column for each measure that has cut-offs, and others."""
    kinds: dict[str, dict[int, float]] = {"Recall": {}, "PRecall": {}, "recall_fraction": {}}
    others = []
    for name, value in metrics.items():
        kind, _, cutoff = name.partition("@")
        if kind in kinds:
            kinds[kind][int(cutoff)] = 100 * value
        else:
            others.append((name, 100 * value))
    there = {kind: values for kind, values in kinds.items() if values}
    cutoffs = sorted({k for values in there.values() for k in values})
    rows = [(k, [values.get(k) for values in there.values()]) for k in cutoffs]
    return {"kinds": list(there), "rows": rows, "others": others}


def _write_data(figures: pd.DataFrame, answered: pd.DataFrame, known: Mapping[str, ModelFacts], out: Path) -> None:
    """Write every figure of retrieval as ``leaderboard.csv``, of answering as ``answers.csv``, and of both as JSON.

    The JSON also has what is known of the models.
    """
    for name, table in (("leaderboard.csv", figures), ("answers.csv", answered)):
        if len(table):
            with atomic(out / name, "w", durable=False) as file:
                table.to_csv(file, index=False, lineterminator="\n", float_format="%.6g")
    notes = {
        "percent": ["value", "low", "high"],
        "interval": "95 %, percentile bootstrap over queries",
        "groups": {block.key: block.title for block in BLOCKS.values()} | {"run": "results, plain or with marks"},
        "marks": {mark.label: mark.note for mark in MARKS.values()},
        "status": {**STATUS, **ANSWER_STATUS, "computed": "of a result file"},
    }
    lists = {
        name: [{key: _json_value(value) for key, value in row.items()} for row in table.to_dict("records")]
        for name, table in (("figures", figures), ("answers", answered))
    }
    with atomic(out / "leaderboard.json", "w", durable=False) as file:
        models = {name: {**asdict(about), "trained": dict(about.trained)} for name, about in known.items()}
        json.dump(
            {"m2kr": __version__, **notes, "models": models, **lists},
            file,
            ensure_ascii=False,
            indent=1,
            allow_nan=False,
        )
        file.write("\n")


def _json_value(value: Any) -> Any:
    import pandas as pd

    if pd.isna(value):
        return None
    return round(value, 6) if isinstance(value, float) else value.item() if hasattr(value, "item") else value


def _parameters(value: int | None) -> str:
    if value is None:
        return "–"
    if value == 0:
        return "none"
    return f"{value / 1e9:.3g} B" if value >= 1e9 else f"{value / 1e6:.0f} M"


def _bytes(value: int) -> str:
    return f"{value / 1e3:.3g} kB" if value >= 1000 else f"{value} B"


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
