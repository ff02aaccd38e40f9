"""What a result file has to be before its figures are shown: types, ranges, and what measures owe each other.

Files of retrieval and of answering. What a result of answering owes its predictions is looked at as well, as these
are small and hold the scores of every question.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from m2kr.answer.metrics import harmonic_accuracy
from m2kr.answer.score import ANSWER_TASKS
from m2kr.common.files import sha256_of
from m2kr.errors import M2KRError
from m2kr.results.answer_record import AnswerResult, read_answer_result, read_predictions
from m2kr.results.record import Result, read_result
from m2kr.tasks import TASKS

MEASURE = re.compile(r"(?P<kind>P?Recall|recall_fraction|MRR|nDCG)@(?P<cutoff>[1-9]\d{0,5})")

ANSWER_MEASURES = {
    "OKVQA": (("VQA",),),
    "Infoseek": (("accuracy_harmonic", "accuracy"), ("accuracy",)),
    "EVQA": (("BEM", "EM"), ("EM",)),
}
"""Task -> the measures it can be compared by, first the main one: see `m2kr.answer.score`."""

TOLERANCE = 1e-6
"""Largest difference between a measure of a result file and the one computed again."""

_LONGEST_NAME = 200


def read_valid_result(path: Path) -> Result:
    """Read a result file whose figures are possible.

    The hit rates Recall@K and PRecall@K are counts of queries divided by their number, and grow with K. So a figure
    that was typed in by hand seldom passes, even where the run cannot be looked at.

    Raises:
        M2KRError: it cannot be read, a value has a wrong type or is out of range, or measures contradict each other.
    """
    result = read_result(path)
    problem = _types(result) or _figures(result)
    if problem:
        raise M2KRError(f"{path} is refused: {problem}.")
    return result


def _types(result: Mapping[str, Any]) -> str | None:
    checks: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("model", "split", "dataset", "search", "device", "dtype", "store_dtype"), _is_name),
        **dict.fromkeys(("hardware", "run_sha256"), _is_name),
        **dict.fromkeys(("queries", "passages", "top_k", "batch_size"), lambda value: _is_count(value, 1)),
        **dict.fromkeys(("queries_without_positive", "peak_memory"), _is_count),
        **dict.fromkeys(("synthetic", "limited", "nano", "instructions"), lambda value: isinstance(value, bool)),
        **dict.fromkeys(("model_settings", "versions"), lambda value: isinstance(value, dict)),
        **dict.fromkeys(("metrics", "seconds", "memory"), _is_numbers),
        **dict.fromkeys(("headline", "ignored_inputs", "reused"), _is_names),
        "quantisation": lambda value: value is None or _is_numbers(value),
        "seed": lambda value: value is None or _is_count(value),
        "commit": lambda value: value is None or isinstance(value, str),
    }
    return _wrong(result, checks)


def _wrong(result: Mapping[str, Any], checks: Mapping[str, Callable[[Any], bool]]) -> str | None:
    try:
        json.dumps(result, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        return f"it holds what cannot be written again ({error})"
    wrong = [name for name, fits in checks.items() if not fits(result[name])]
    if wrong:
        return f"{wrong[0]} is {_short(result[wrong[0]])}, which no evaluation writes"
    if result["split"] not in TASKS[result["task"]].splits:
        return f"{result['task']} has no split {_short(result['split'])}"
    return None


def _figures(result: Result) -> str | None:
    metrics, queries = result["metrics"], result["queries"]
    task = TASKS[result["task"]]
    if not task.metrics:
        return f"{task.key} is for training only"
    unknown = [name for name in metrics if not MEASURE.fullmatch(name)]
    if unknown:
        return f"there is no measure {_short(unknown[0])}"
    if task.metrics[0] not in metrics:
        return f"it lacks {task.metrics[0]}, which ranks {task.key}"
    if tuple(result["headline"]) != task.metrics:
        return f"{task.key} is compared by {', '.join(task.metrics)}, not by {_short(result['headline'])}"
    if result["queries_without_positive"] > queries:
        return "more queries have no positive than there are queries"
    for name, value in metrics.items():
        if value > 1:
            return f"{name} is {value}, above 1"
        if "Recall@" in name and abs(value * queries - round(value * queries)) > 1e-4:
            return f"{name} is {value}, which is no count of {queries:,} queries divided by their number"
        if name.startswith(("Recall@", "recall_fraction@")):
            most = (queries - result["queries_without_positive"]) / queries
            if value > most + 1e-9:
                return f"{name} is {value}, and only {most:.4f} of the queries have a positive"
    for kind in ("Recall", "PRecall", "recall_fraction"):
        curve = sorted(
            (int(name.split("@")[1]), value) for name, value in metrics.items() if name.startswith(kind + "@")
        )
        for (low, first), (high, second) in pairwise(curve):
            if second < first - 1e-9:
                return f"{kind}@{high} is {second}, below {kind}@{low}, which is {first}"
    for name, value in metrics.items():
        hit_rate = metrics.get(name.replace("recall_fraction", "Recall"), 1.0)
        if name.startswith("recall_fraction@") and value > hit_rate + 1e-9:
            return f"{name} is {value}, above the hit rate at the same cut-off, {hit_rate}"
    return None


def read_valid_answer(path: Path) -> AnswerResult:
    """Read a result file of answering whose figures are possible, and those of its predictions where these are there.

    Raises:
        M2KRError: it cannot be read, a value has a wrong type or is out of range, measures contradict each other, or
            the predictions beside it are others or give other figures.
    """
    result = read_answer_result(path)
    problem = _answer_types(result) or _answer_figures(result)
    predictions = predictions_of(path)
    if problem is None and predictions.is_file():
        problem = _answer_scores(result, predictions)
    if problem:
        raise M2KRError(f"{path} is refused: {problem}.")
    return result


def predictions_of(path: Path) -> Path:
    """Return where the predictions of a result file of answering stand."""
    return path.with_name(f"{path.stem}.predictions.jsonl")


def _answer_types(result: AnswerResult) -> str | None:
    def is_count_or_none(value: Any) -> bool:
        return value is None or _is_count(value)

    checks: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("reader", "split", "dataset", "device", "dtype", "hardware", "answers_key"), _is_name),
        "predictions_sha256": _is_name,
        **dict.fromkeys(("queries", "batch_size"), lambda value: _is_count(value, 1)),
        **dict.fromkeys(("queries_without_passages", "k", "peak_memory"), _is_count),
        **dict.fromkeys(("synthetic", "limited", "nano"), lambda value: isinstance(value, bool)),
        **dict.fromkeys(("reader_settings", "versions"), lambda value: isinstance(value, dict)),
        **dict.fromkeys(("retriever", "run_sha256"), lambda value: value is None or _is_name(value)),
        **dict.fromkeys(("headline", "ignored_inputs"), _is_names),
        "source": lambda value: value in ("run", "oracle", "none"),
        "combine": lambda value: value in ("joint", "concat", None),
        "metrics": lambda value: _is_numbers(value) and all(_is_name(name) for name in value),
        "intervals": lambda value: isinstance(value, dict) and all(_is_interval(ends) for ends in value.values()),
        "bem": lambda value: value is None or (isinstance(value, dict) and _is_name(value.get("checkpoint"))),
        "seconds": lambda value: _is_numbers({"seconds": value}),
        "seed": is_count_or_none,
        "commit": lambda value: value is None or isinstance(value, str),
    }
    return _wrong(result, checks)


def _answer_figures(result: AnswerResult) -> str | None:
    metrics, queries, task = result["metrics"], result["queries"], result["task"]
    if task not in ANSWER_TASKS:
        return f"{task} has no answer metric"
    if tuple(result["headline"]) not in ANSWER_MEASURES[task]:
        return f"{task} is compared by {', '.join(ANSWER_MEASURES[task][0])}, not by {_short(result['headline'])}"
    for name in result["headline"]:
        if name not in metrics or name not in result["intervals"]:
            return f"it lacks {name} or its interval"
    if ("BEM" in metrics) != (result["bem"] is not None):
        return "BEM stands with the settings of the model that judged it, and one of both is missing"
    run, bare = result["source"] == "run", result["source"] == "none"
    if run != (result["retriever"] is not None) or run != (result["run_sha256"] is not None):
        return f"its passages are of the source {result['source']}, which its retriever and run contradict"
    if bare != (result["k"] == 0) or bare != (result["combine"] is None):
        return f"its passages are of the source {result['source']}, which k and the way of combining contradict"
    if result["queries_without_passages"] > queries:
        return "more questions have no passage than there are questions"
    for name, value in metrics.items():
        if value > 1:
            return f"{name} is {value}, above 1"
        if name in ("EM", "BEM", "accuracy") and abs(value * queries - round(value * queries)) > 1e-4:
            return f"{name} is {value}, which is no count of {queries:,} questions divided by their number"
    if metrics.get("BEM", 1.0) < metrics.get("EM", 0.0) - 1e-9:
        return f"BEM is {metrics['BEM']}, below the exact match, which is {metrics['EM']}"
    if "accuracy_harmonic" in metrics:
        parts = [metrics.get(f"accuracy_unseen_{part}", math.nan) for part in ("question", "entity")]
        if not abs(harmonic_accuracy(*parts) - metrics["accuracy_harmonic"]) <= TOLERANCE:
            return f"accuracy_harmonic is {metrics['accuracy_harmonic']}, not the harmonic mean of its two parts"
    return None


def _answer_scores(result: AnswerResult, path: Path) -> str | None:
    if sha256_of(path) != result["predictions_sha256"]:
        return f"{path.name} beside it are not its predictions (the sha256 differs)"
    lines = read_predictions(path)
    scores: list[Any] = [line.get("scores") for line in lines if isinstance(line, dict)]
    if len(scores) != len(lines) or not all(_is_numbers(row) and row for row in scores):
        return f"{path.name} lacks the scores of a question"
    if len({str(line.get("question_id")) for line in lines}) != result["queries"] or len(lines) != result["queries"]:
        return f"{path.name} has {len(lines):,} lines, for {result['queries']:,} questions"
    for name in scores[0]:
        if any(name not in row or row[name] > 1 for row in scores):
            return f"{path.name} has a question without {_short(name)}, or one above 1"
        computed = sum(row[name] for row in scores) / len(scores)
        if name not in result["metrics"] or abs(computed - result["metrics"][name]) > TOLERANCE:
            return f"{name} is {result['metrics'].get(name)} in the file, and {computed:.6f} in its predictions"
    main = {"accuracy_harmonic": "accuracy"}.get(result["headline"][0], result["headline"][0])
    return None if main in scores[0] else f"{path.name} lacks the scores {main}"


def _is_interval(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_numbers(dict(enumerate(value)))
        and value[0] <= value[1] <= 1
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= _LONGEST_NAME and value.isprintable()


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(_is_name(item) for item in value)


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item) and item >= 0
        for item in value.values()
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
