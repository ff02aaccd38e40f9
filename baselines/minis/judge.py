"""Judge the small models: ``python -m baselines.minis.judge --work runs/mini``.

They are evaluated, with BM25 beside them, on the test splits of another world than they were trained on. The tables go
to ``WORK/judged/scores.md``: every model on every task, what each stage adds, and how far preflmr-mini is from the
others, with paired bootstrap intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command
from m2kr.tasks import TASKS, Task

if TYPE_CHECKING:
    import numpy.typing as npt

    from m2kr.dataset import TaskData

SEED, SCALE = 0, 1.0
"""The world to judge on: that of ``make demo``."""

RESAMPLES = 10_000
_OURS = "preflmr-mini"

_Scores = Mapping[str, Mapping[str, "npt.NDArray[np.float64]"]]


def models_in(work: Path | None) -> Iterator[tuple[str, Any, bool]]:
    """Yield what is judged, one after the other: a name, a retriever, and whether it does without pictures.

    Args:
        work: folder of `baselines.minis.train`, whose stages are judged too; None for the committed models alone.
    """
    from baselines.bm25 import BM25
    from baselines.minis import NAMES, OneVectorRetriever, clip_mini, preflmr_mini
    from baselines.minis.train import STAGES

    makers: dict[str, Any] = {"clip-mini": clip_mini, "dpr-mini": OneVectorRetriever, "preflmr-mini": preflmr_mini}
    yield "bm25", BM25(), True
    for name in NAMES:
        exported = str(work / "minis" / name) if work else None
        yield name, makers[name](checkpoint=exported), False
    for model in ("preflmr", "dpr") if work else ():
        assert work is not None
        for stage in STAGES[:-1]:
            folder = work / model / stage
            if not (folder / "training.json").is_file():
                continue
            blind = stage == STAGES[0]  # what the vectors of an image would be is not trained yet
            retriever = makers[f"{model}-mini"](checkpoint=str(folder), missing_image="none" if blind else "black")
            if blind:
                retriever.reads = frozenset({"text"})
            yield f"{model}-mini {stage}", retriever, blind


def judge(work: Path | None, data: Path, images: Any, out: Path, *, quiet: bool = False) -> dict[str, dict[str, Any]]:
    """Evaluate all models; return their scores for every query, float64, by model and task.

    The score is the task's first metric: Recall@10 of WIT, Recall@1 of IGLUE and LLaVA, Recall@5 of the others.
    """
    from m2kr.common.files import safe_name
    from m2kr.dataset import load_task
    from m2kr.evaluate.task import evaluate_task
    from m2kr.metrics import score_queries
    from m2kr.results.record import Run

    tested = [task for task in TASKS.values() if "test" in task.splits]
    splits: dict[str, TaskData] = {task.key: load_task(task, data, "test", images=images) for task in tested}
    scores: dict[str, dict[str, Any]] = {}
    for name, retriever, blind in models_in(work):
        retriever.name = name
        scores[name] = {}
        folder = out / "results" / safe_name(name)
        for key, split in splits.items():
            evaluate_task(retriever, split, folder, ignore_images=blind, top_k=100, quiet=True)
            run = Run.read_trec(folder / f"{key}.run.trec.gz")
            metric = split.task.metrics[0]
            table = score_queries(run, split.qrels, ks=[int(metric.split("@")[1])])
            scores[name][key] = table[metric].to_numpy().astype(np.float64)
        say(f"{name}: judged", quiet=quiet)
    return scores


def difference(
    scores: _Scores, ours: str, other: str, keys: Sequence[str], seed: int = 0
) -> tuple[float, float, float]:
    """Return by how much one model is better than another on the mean of tasks, with a 95 % interval.

    Queries are drawn with replacement within each task, the same for both models (a paired bootstrap); every task
    counts alike, whatever its number of queries.
    """
    from m2kr.metrics import bootstrap_means

    apart = [(scores[ours][key] - scores[other][key])[:, None] for key in keys]
    drawn = np.mean(
        [bootstrap_means(values, RESAMPLES, seed + number)[:, 0] for number, values in enumerate(apart)], axis=0
    )
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.mean([values.mean() for values in apart])), float(low), float(high)


def report(scores: _Scores) -> str:
    """Return the tables in Markdown."""
    tasks = [TASKS[key] for key in next(iter(scores.values()))]
    both = [task.key for task in tasks if task.kind == "IQ2T"]
    stages = [name for name in scores if " " in name]
    final = [name for name in scores if " " not in name]
    models = [name for name in ("preflmr-mini", "dpr-mini") if name in final]
    ordered = [name for model in models for name in [*(s for s in stages if s.startswith(model)), model]]
    return "\n\n".join(
        [
            _table(scores, final, tasks, both),
            _table(scores, ordered, tasks, both, labels={model: f"{model} (stage 4)" for model in models}),
            _differences(scores, [name for name in final if name != _OURS], tasks, both),
        ]
    )


def _table(
    scores: _Scores, names: Sequence[str], tasks: Sequence[Task], both: Sequence[str], labels: Mapping[str, str] = {}
) -> str:
    heads = ["model", *(f"{task.key} {task.metrics[0].replace('Recall', 'R')}" for task in tasks), "image + question"]
    lines = [_row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    for name in names:
        means = [100 * float(scores[name][task.key].mean()) for task in tasks]
        mean = 100 * float(np.mean([scores[name][key].mean() for key in both]))
        lines.append(_row([labels.get(name, name), *(f"{value:.1f}" for value in means), f"{mean:.1f}"]))
    return "\n".join(lines)


def _differences(scores: _Scores, others: Sequence[str], tasks: Sequence[Task], both: Sequence[str]) -> str:
    heads = [f"{_OURS} against", *(task.key for task in tasks), "image + question"]
    lines = [_row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    for other in others:
        cells = [difference(scores, _OURS, other, keys) for keys in [*([task.key] for task in tasks), both]]
        lines.append(
            _row([other, *(f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for mean, low, high in cells)])
        )
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m baselines.minis.judge",
        description="Evaluate the small models on another made-up world than theirs, and compare them.",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of baselines.minis.train; gets judged/")
    parser.add_argument("--committed", action="store_true", help="judge the models of the repository instead")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the world; default {SEED}")
    parser.add_argument("--scale", type=float, default=SCALE, help=f"of the world; default {SCALE:g}")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    arguments = _parser().parse_args(argv)
    from baselines.minis import train
    from m2kr.common.files import atomic

    if arguments.seed == train.SEED:
        raise M2KRError(f"--seed {arguments.seed} is the world that the models were trained on: take another.")
    if not arguments.committed and not (arguments.work / "minis").is_dir():
        raise M2KRError(
            f"{arguments.work} holds no trained models: run python -m baselines.minis.train --work {arguments.work} "
            "first, or judge those of the repository with --committed."
        )
    out = arguments.work / ("judged-committed" if arguments.committed else "judged")
    data, images = train.make_data(out / "world", arguments.seed, arguments.scale, quiet=True)
    scores = judge(None if arguments.committed else arguments.work, data, images, out, quiet=arguments.quiet)
    text = report(scores)
    with atomic(out / "scores.md", "w") as file:
        file.write(text + "\n")
    if not arguments.committed:
        from baselines.minis.cards import write_cards

        write_cards(arguments.work, scores)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
