"""Result files as tables of text, those of retrieval and those of answering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from m2kr.common.text_table import aligned
from m2kr.results.answer_record import AnswerResult
from m2kr.results.record import Result, depends_on_batch


def table(results: Sequence[Result]) -> str:
    """Return results as a table: one row for each model and task, the headline measures in percent.

    A star marks a row whose queries or passages were cut, whose images were ignored, whose passages had pictures that
    were read, whose run was made elsewhere or whose vectors depend on the batch; made-up data are said below the table.
    """
    rows: list[tuple[str, ...]] = [
        ("task", "split", "model", "queries", "passages", "R@K", "PR@K", "MRR@10", "nDCG@10")
    ]
    for result in results:
        metrics = result["metrics"]
        shown = {"Recall": "-", "PRecall": "-"}
        for name in result["headline"]:
            kind, cutoff = name.split("@")
            shown[kind] = f"{100 * metrics[name]:.1f} @{cutoff}" if name in metrics else "-"
        usual = (f"{100 * metrics[name]:.1f}" if name in metrics else "-" for name in ("MRR@10", "nDCG@10"))
        counts = (f"{result['queries']:,}", f"{result['passages']:,}")
        rows.append((result["task"], result["split"], _marked("model", result), *counts, *shown.values(), *usual))
    return "\n".join(aligned(rows, left=3) + notes_on(results))


def answer_table(results: Sequence[AnswerResult]) -> str:
    """Return results of answering as a table, in percent, with 95 % intervals."""
    rows: list[tuple[str, ...]] = [("task", "split", "reader", "passages", "k", "questions", "measure", "score")]
    for result in results:
        source = (result["retriever"] or "") if result["source"] == "run" else result["source"]
        used = f"{result['k']} {result['combine']}" if result["combine"] else "-"
        first = (result["task"], result["split"], _marked("reader", result), source, used, f"{result['queries']:,}")
        for name in result["headline"]:
            figures = [result["metrics"].get(name), *result["intervals"].get(name, ())]
            score, *ends = ("-" if figure is None else f"{100 * figure:.1f}" for figure in figures)
            rows.append((*first, name, f"{score} [{', '.join(ends)}]"))
    notes = []
    if any(result["ignored_inputs"] for result in results):
        notes.append("* the questions' images were not given to this reader (--ignore-images)")
    notes += _bad_images(results)
    if any(result["limited"] or result["nano"] for result in results):
        notes.append("* only some of the questions were answered (--limit, or a nano subset)")
    for judge in sorted({str(result["bem"].get("checkpoint")) for result in results if result["bem"]}):
        notes.append(f"BEM was judged by {judge}, a classifier of transformers, not by the official TensorFlow weights")
    return "\n".join(aligned(rows, left=4) + notes + _synthetic(results))


def notes_on(results: Sequence[Result]) -> list[str]:
    """Return what has to be said below a table of these results of retrieval."""
    notes = []
    if any(result["ignored_inputs"] for result in results):
        notes.append("* the queries' images were not given to this model (--ignore-images)")
    notes += _bad_images(results)
    if any(result.get("passage_images") == "read" for result in results):
        notes.append("* the model was given pictures of passages, which the published benchmark has not")
    if any(result["limited"] for result in results):
        notes.append("* only the first queries were evaluated (--limit)")
    if any(result["nano"] for result in results):
        notes.append("* only a small subset was evaluated, which is much easier than the task (--nano)")
    if any(_is_elsewhere(result) for result in results):
        notes.append("* the run was made elsewhere, and how is not known (m2kr.score)")
    if any(depends_on_batch(result) for result in results):
        notes.append(
            "* the model encodes an input differently alone and in a batch: another --batch-size, other scores"
        )
    return notes + _synthetic(results)


def _marked(name: str, result: Result | AnswerResult) -> str:
    """Return the name of what was evaluated, with a star where not the task as it is was evaluated."""
    cut = result["limited"] or result["nano"] or result["ignored_inputs"] or result.get("bad_images")
    more = result.get("passage_images") == "read"
    star = "*" if cut or more or _is_elsewhere(result) or depends_on_batch(result) else ""
    return f"{result[name]}{star}"  # type: ignore[literal-required]


def _bad_images(results: Sequence[Result | AnswerResult]) -> list[str]:
    bad: list[Any] = [result.get("bad_images") or {} for result in results]
    notes = []
    if any(each.get("queries") for each in bad):
        notes.append("* some pictures could not be read, and their queries were asked without (--bad-images)")
    if any(each.get("passages") for each in bad):
        notes.append("* some pictures of passages could not be read, and were left out or black (--bad-images)")
    return notes


def _is_elsewhere(result: Result | AnswerResult) -> bool:
    return result.get("search") == "elsewhere"


def _synthetic(results: Sequence[Result | AnswerResult]) -> list[str]:
    made_up = any(result["synthetic"] for result in results)
    return ["made-up data: these scores compare with no published figure"] if made_up else []
