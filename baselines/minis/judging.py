"""Judging the small models: their scores on a world that they were not trained on, tables of them, and their cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.common.markdown import markdown_table
from baselines.minis.models import READER, RETRIEVERS, SCALE, OneVectorRetriever, clip_mini, model_folder, preflmr_mini
from baselines.minis.models import SEED as TRAINED_SEED
from m2kr.common.files import atomic, safe_name
from m2kr.common.json_input import read_json
from m2kr.common.measure import hardware
from m2kr.common.progress import say
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    import numpy.typing as npt

    from m2kr.images.roots import ImageRoots
    from m2kr.results.answer_record import AnswerResult

    Scores = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]

SEED, READER_SEED = 0, 5
"""The worlds to judge on: for the retrievers that of ``make demo``; for the reader one on which no early attempt was
looked at."""

RESAMPLES = 10_000
PASSAGES, BATCH_SIZE = 5, 32
"""Of answering: passages of each question, and prompts answered at once."""

ROWS = ("no retrieval", "bm25", "dpr-mini", "preflmr-mini", "oracle")
"""Where the reader's passages are from."""


# --- judging retrievers ---------------------------------------------------------------------------------------------


def retrievers_in(work: Path | None) -> Iterator[tuple[str, Any, bool]]:
    """Yield what is judged, one after the other: a name, a retriever, and whether it does without pictures.

    They are those of the recipe's folder ``work``, with the stages before the last, or for None the committed ones.
    """
    from baselines.bm25 import BM25

    makers: dict[str, Any] = {"clip-mini": clip_mini, "dpr-mini": OneVectorRetriever, "preflmr-mini": preflmr_mini}
    yield "bm25", BM25(), True
    for name in RETRIEVERS:
        made = work / "minis" / name if work else model_folder(name)
        if made.is_dir():
            yield name, makers[name](checkpoint=str(made)), False
    for name in ("preflmr-mini", "dpr-mini") if work else ():
        assert work is not None
        for done in sorted((work / name.removesuffix("-mini")).glob("stage[123]/training.json")):
            stage, run = done.parent.name, str(done.parent)
            if stage == "stage1":  # what the vectors of an image would be is not trained yet
                retriever = makers[name](checkpoint=run, missing_image="none")
                retriever.reads = frozenset({"text"})
            else:
                retriever = makers[name](checkpoint=run)
            yield f"{name} {stage}", retriever, stage == "stage1"


def judge_retrievers(work: Path | None, data: Path, images: Any, out: Path, *, quiet: bool = False) -> Scores:
    """Evaluate all retrievers; return their scores for every query, float64, by retriever and task.

    The score is the task's first metric: Recall@10 of WIT, Recall@1 of IGLUE and LLaVA, Recall@5 of the others.
    """
    from m2kr.dataset import load_task
    from m2kr.evaluate.options import TaskOptions
    from m2kr.evaluate.task import evaluate_task
    from m2kr.metrics import score_queries
    from m2kr.results.run import Run

    tested = [task for task in TASKS.values() if "test" in task.splits]
    splits = {task.key: load_task(task, data, "test", images=images) for task in tested}
    scores: dict[str, dict[str, Any]] = {}
    for name, retriever, without_images in retrievers_in(work):
        retriever.name = name
        scores[name] = {}
        results = out / safe_name(name)
        for key, split in splits.items():
            evaluate_task(retriever, split, results, TaskOptions(ignore_images=without_images, top_k=100, quiet=True))
            run = Run.read_trec(results / f"{key}.run.trec.gz")
            metric = split.task.metrics[0]
            table = score_queries(run, split.qrels, ks=[int(metric.split("@")[1])])
            scores[name][key] = table[metric].to_numpy().astype(np.float64)
        say(f"{name}: judged", quiet=quiet)
    return scores


def difference(scores: Scores, ours: str, other: str, keys: Sequence[str], seed: int = 0) -> tuple[float, float, float]:
    """Return by how much one model is better than another on the mean of tasks, with a 95 % interval.

    Queries are drawn with replacement within each task, the same for both models (a paired bootstrap); every task
    counts alike, whatever its number of queries.
    """
    from m2kr.significance import bootstrap_means

    apart = [(scores[ours][key] - scores[other][key])[:, None] for key in keys]
    drawn = np.mean(
        [bootstrap_means(values, RESAMPLES, seed + number)[:, 0] for number, values in enumerate(apart)], axis=0
    )
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.mean([values.mean() for values in apart])), float(low), float(high)


def retrievers_report(scores: Scores) -> str:
    """Return tables in Markdown: all models, what each stage adds, and how far preflmr-mini is from the others."""
    tasks = [TASKS[key] for key in next(iter(scores.values()))]
    both = [task.key for task in tasks if task.kind == "IQ2T"]
    stages = [name for name in scores if " " in name]
    final = [name for name in scores if " " not in name]
    heads = ["model", *(f"{task.key} {task.metrics[0].replace('Recall', 'R')}" for task in tasks), "image + question"]

    def row(name: str, label: str = "") -> list[str]:
        means = [float(values.mean()) for values in scores[name].values()]
        means.append(float(np.mean([scores[name][key].mean() for key in both])))
        return [label or name, *(f"{100 * mean:.1f}" for mean in means)]

    by_stage = []
    for model in [name for name in ("preflmr-mini", "dpr-mini") if name in final]:
        by_stage += [row(name) for name in stages if name.startswith(model)] + [row(model, f"{model} (stage 4)")]
    tables = [markdown_table(heads, map(row, final)), markdown_table(heads, by_stage)]
    if (ours := "preflmr-mini") in final:
        differences = []
        for other in [name for name in final if name != ours]:
            cells = [difference(scores, ours, other, keys) for keys in [*([task.key] for task in tasks), both]]
            shown = (f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for mean, low, high in cells)
            differences.append([other, *shown])
        heads = [f"{ours} against", *(task.key for task in tasks), "image + question"]
        tables.append(markdown_table(heads, differences))
    return "\n\n".join(tables)


# --- judging the reader ---------------------------------------------------------------------------------------------


def judge_reader(
    work: Path | None, data: Path, images: ImageRoots, results: Path, *, quiet: bool = False
) -> dict[str, list[AnswerResult]]:
    """Retrieve and answer what is not there yet; return the results of answering, for each of `ROWS` those of tasks.

    The models are those of the recipe's folder ``work``, or for None the committed ones.
    """
    from m2kr.answer.evidence import no_passages, oracle_passages, run_passages
    from m2kr.answer.options import AnswerTaskOptions
    from m2kr.answer.score import ANSWER_TASKS
    from m2kr.answer.task import answer_task
    from m2kr.dataset import load_task
    from m2kr.evaluate.options import TaskOptions
    from m2kr.evaluate.task import evaluate_task
    from m2kr.reader import get_reader
    from m2kr.retriever import get_retriever

    def checkpoint(name: str) -> Path | None:
        return work / "minis" / name if work and (work / "minis" / name).is_dir() else None

    splits = [load_task(key, data, "test", images=images) for key in ANSWER_TASKS]
    reader = get_reader(str(checkpoint(READER) or model_folder(READER)))
    found: dict[str, list[AnswerResult]] = {}
    for name in ROWS:
        out = results / name.replace(" ", "-")
        if name not in ("no retrieval", "oracle"):
            own = checkpoint(name)
            retriever = get_retriever(name, checkpoint=str(own) if own else None)
            for split in splits:
                evaluate_task(retriever, split, out, TaskOptions(ignore_images=name == "bm25", quiet=True))
        found[name] = []
        for split in splits:
            if name == "no retrieval":
                passages = no_passages(split)
            elif name == "oracle":
                passages = oracle_passages(split, PASSAGES)
            else:
                passages = run_passages(split, out / f"{split.task.key}.run.trec.gz", PASSAGES)
            result = answer_task(
                reader, split, passages, out, AnswerTaskOptions(k=PASSAGES, batch_size=BATCH_SIZE, quiet=True)
            )
            found[name].append(result)
        say(f"{READER}, passages of {name}: judged", quiet=quiet)
    return found


def reader_report(results: Mapping[str, Sequence[AnswerResult]]) -> str:
    """Return the results as a table in Markdown: in per cent, with 95 % intervals."""
    heads = ["passages from"]
    for result in next(iter(results.values())):
        heads.append(f"{result['task']} {result['headline'][0].replace('_harmonic', ', harmonic')}")
    rows = []
    for name, own in results.items():
        rows.append([name])
        for result in own:
            measure = result["headline"][0]
            low, high = result["intervals"][measure]
            rows[-1].append(f"{100 * result['metrics'][measure]:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    return markdown_table(heads, rows)


# --- cards ----------------------------------------------------------------------------------------------------------

_SYNTHETIC = (
    "and was trained on made-up data alone. It knows nothing of the real world: it is there to show, on a laptop,"
)
_ABOUT = {
    "clip-mini": "an image tower and a text tower, one vector each, compared by cosine (CLIP)",
    "dpr-mini": "the encoders of preflmr-mini with one vector for a query and one for a passage: the mean of all, "
    "trained as such",
    "preflmr-mini": "late interaction of the vectors of a question and a picture with those of a passage (PreFLMR), a "
    "checkpoint in official form",
}


def write_retriever_cards(work: Path, scores: Scores, scale: float) -> None:
    """Write ``README.md`` beside each small retriever that was made in ``WORK/minis``; ``scale`` is that of `SEED`."""
    for name, about in _ABOUT.items():
        if not (work / "minis" / name).is_dir():
            continue
        alone = name == "clip-mini"
        own = [] if alone else sorted((work / name.removesuffix("-mini")).glob("stage?"))
        runs = {run.name: _training_of(run) for run in (work / "clip", *own)}
        steps = []
        for step, run in runs.items():
            valid = f"{100 * run['Recall@5']:.1f} ({', '.join(run['config']['validate'])})"
            steps.append([step, _settings(step), str(run["config"]["steps"]), f"{run['seconds']:.0f}", valid])
        heads = ["step", "settings", "updates", "seconds", "Recall@5 on valid splits"]
        values = [f"{100 * float(own.mean()):.1f}" for own in scores[name].values()]
        _write_card(
            work,
            name,
            tag="retrieval",
            about=f"A small retriever: {about}. It has {list(runs.values())[-1]['parameters']:,} parameters, in "
            f"float16, {_SYNTHETIC} what the models of this repository do, and to test all that a model goes through.",
            command=f"python -m m2kr.evaluate --model {name} --data m2kr-data --tasks all --images raw",
            data="the train splits",
            how="" if alone else "The image encoder is that of clip-mini, frozen.",
            training=markdown_table(heads, steps, left=2),
            times=f"Seconds are wall time on {hardware('cpu')}, shared with other work"
            + ("." if alone else "; the steps of the two models ran side by side."),
            judged=f"On the test splits of another world (seed {SEED}, scale {scale:g}), in per cent:",
            scores=markdown_table([f"{key} {TASKS[key].metrics[0]}" for key in scores[name]], [values], left=0),
            more="Comparisons with the other models, with intervals, and what each stage adds: docs/training.md.",
        )


def write_reader_card(work: Path, scores: str, scale: float) -> None:
    """Write ``README.md`` beside reader-mini in ``WORK/minis``; ``scores`` are the table of `reader_report`."""
    done = _training_of(work / "reader")
    config = done["config"]
    heads = ["settings", "updates", "seconds", "CPU seconds", f"loss of the last {config['log_every']} updates"]
    times = [f"{done['seconds']:.0f}", f"{done['cpu_seconds']:.0f}"]
    row = [_settings("reader"), str(config["steps"]), *times, f"{done['log'][-1]['loss']:.2f}"]
    _write_card(
        work,
        READER,
        tag="visual-question-answering",
        about=f"A small reader: a LLaVA (the vision tower of clip-mini, a Llama of {config['layers']} layers) that "
        f"answers a question about a picture, from passages where there are any. It has {done['parameters']:,} "
        f"parameters, in float16, {_SYNTHETIC} what becomes of an answer with what was retrieved.",
        command=f"python -m m2kr.answer --reader {READER} --data m2kr-data --run-dir results/bm25 --images raw",
        reads="Answers are in lower case. ",
        data=f"the train splits of {', '.join(config['tasks'])}",
        how="The vision tower is frozen. The first two layers of the Llama begin as a copying circuit "
        "(baselines/minis/reader.py).",
        training=markdown_table(heads, [row]),
        times=f"One thread on {hardware('cpu')}, shared with other work.",
        judged=f"On the test splits of another world (seed {READER_SEED}, scale {scale:g}), in per cent, with 95 % "
        f"intervals;\n{PASSAGES} passages, joint:",
        scores=scores,
        more="What they show: docs/answering.md.",
    )


def _training_of(run: Path) -> dict[str, Any]:
    return read_json(run / "training.json", dict[str, Any], "note of a finished training", "Train again.")


def _settings(step: str) -> str:
    return f"baselines/minis/configs/{step}.toml"


def _write_card(work: Path, name: str, *, about: str, data: str, how: str, reads: str = "", **texts: str) -> None:
    """Write a card from its parts; those in prose are broken into lines here."""
    from baselines.preflmr.training.encoders import IMAGE_SIZE

    reads = (
        "The data are those of `python -m m2kr.synthetic` and `python -m m2kr.build`, whatever the seed. "
        f"{reads}Pictures are read at {IMAGE_SIZE}\xa0x\xa0{IMAGE_SIZE} pixels."  # kept on one line
    )
    recipe = (
        f"`make train-mini` repeats it: `python -m baselines.minis.recipe`, on {data} of the made-up world of seed "
        f"{TRAINED_SEED} at scale {SCALE:g}. {how}"
    )
    prose = {"about": about, "reads": reads, "recipe": recipe}
    text = (
        (Path(__file__).parent / "card.md")
        .read_text(encoding="utf-8")
        .format(name=name, **{key: fill(value, 120).replace("\xa0", " ") for key, value in prose.items()}, **texts)
    )
    with atomic(work / "minis" / name / "README.md", "w") as file:
        file.write(text)
