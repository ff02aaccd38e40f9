"""What a result file has to be before its figures are shown: types, ranges, and measures that can stand together.

Files of retrieval and of answering. Whether a result of answering agrees with its predictions is looked at as well, as
these are small and hold the scores of every question.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec

from leaderboard.measures import ANSWER_MEASURES
from m2kr.answer.metrics import harmonic_accuracy
from m2kr.answer.score import ANSWER_TASKS
from m2kr.common.files import sha256_of
from m2kr.common.json_input import as_record, read_json
from m2kr.errors import M2KRError
from m2kr.results.answer_record import AnswerResult, read_answer_result, read_predictions
from m2kr.results.record import Result, read_result
from m2kr.tasks import TASKS

_MEASURE = re.compile(r"(P?Recall|recall_fraction|MRR|nDCG)@[1-9]\d{0,5}")

TOLERANCE = 1e-6
"""Largest difference between a measure of a result file and the one computed again."""

_LONGEST_NAME = 200

_SETTINGS = ("model_settings", "reader_settings", "versions", "bem")
# Keys whose values are the model's own: anything may stand there.


class _Prediction(msgspec.Struct):
    """A line of a file of predictions, as far as it is looked at."""

    question_id: str
    scores: Annotated[dict[str, Annotated[float, msgspec.Meta(ge=0, le=1)]], msgspec.Meta(min_length=1)]


def is_answer(path: Path) -> bool:
    """Return whether a result file is one of answering; not where it cannot be read."""
    try:
        return "reader" in read_json(path, dict[str, Any], "result file", "")
    except M2KRError:
        return False  # `read_result` gives the reason


def read_valid_result(path: Path) -> Result:
    """Read a result file of retrieval whose figures are possible.

    The hit rates Recall@K and PRecall@K are counts of queries divided by their number, and grow with K. So a figure
    that was typed in by hand seldom passes, even where the run cannot be looked at.

    Raises:
        M2KRError: it cannot be read, a value has a wrong type or is out of range, or measures contradict each other.
    """
    result = read_result(path)
    if problem := _implausible(result, Result) or _impossible_run(result):
        raise M2KRError(f"{path} is refused: {problem}.")
    return result


def read_valid_answer(path: Path) -> AnswerResult:
    """Read a result file of answering whose figures are possible, and those of its predictions where these are there.

    Raises:
        M2KRError: it cannot be read, a value has a wrong type or is out of range, measures contradict each other, or
            the predictions beside it are others or give other figures.
    """
    result = read_answer_result(path)
    problem = _implausible(result, AnswerResult) or _impossible_answer(result)
    predictions = predictions_of(path)
    if problem is None and predictions.is_file():
        problem = _contradicted_by_predictions(result, predictions)
    if problem:
        raise M2KRError(f"{path} is refused: {problem}.")
    return result


def predictions_of(path: Path) -> Path:
    """Return where the predictions of a result file of answering stand."""
    return path.with_name(f"{path.stem}.predictions.jsonl")


def _implausible(result: Mapping[str, Any], kind: type) -> str | None:
    try:
        json.dumps(result, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        return f"it holds what cannot be written again ({error})"
    for name in kind.__annotations__:
        least = 1 if name in ("queries", "passages", "top_k", "batch_size") else 0
        if name in result and name not in _SETTINGS and not _plausible(result[name], least):
            return f"{name} is {_short(result[name])}, which no evaluation writes"
    if result["split"] not in TASKS[result["task"]].splits:
        return f"{result['task']} has no split {_short(result['split'])}"
    return None


def _plausible(value: Any, least: int) -> bool:
    """Return whether all in a value are numbers that are not too small, or lines of text that can be shown."""
    if isinstance(value, dict):
        return all(_plausible(item, least) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return all(_plausible(item, least) for item in value)
    if isinstance(value, str):
        return bool(value.strip()) and len(value) <= _LONGEST_NAME and value.isprintable()
    return value is None or value >= least


def _impossible(
    result: Result | AnswerResult, headlines: Collection[tuple[str, ...]], is_count: Callable[[str], bool], lacking: int
) -> str | None:
    """Return what is wrong with the measures of a result of either kind, whatever they are.

    Args:
        result: what a file holds.
        headlines: measures that its task can be compared by.
        is_count: whether a measure is a number of queries divided by that of all.
        lacking: number of queries without a positive, or passages.
    """
    queries = result["queries"]
    if tuple(result["headline"]) not in headlines:
        names = ", ".join(next(iter(headlines)))
        return f"{result['task']} is compared by {names}, not by {_short(result['headline'])}"
    if lacking > queries:
        return f"it has {lacking:,} queries without positive or passage, of {queries:,}"
    for name, value in result["metrics"].items():
        if value > 1:
            return f"{name} is {value}, above 1"
        if is_count(name) and abs(value * queries - round(value * queries)) > 1e-4:
            return f"{name} is {value}, which is no count of {queries:,} queries divided by their number"
    return None


def _impossible_run(result: Result) -> str | None:
    metrics, without = result["metrics"], result["queries_without_positive"]
    task = TASKS[result["task"]]
    if not task.metrics:
        return f"{task.key} is for training only"
    if unknown := [name for name in metrics if not _MEASURE.fullmatch(name)]:
        return f"there is no measure {_short(unknown[0])}"
    if task.metrics[0] not in metrics:
        return f"it lacks {task.metrics[0]}, which ranks {task.key}"
    if problem := _impossible(result, [task.metrics], lambda name: "Recall@" in name, without):
        return problem
    curves: dict[str, list[tuple[int, float]]] = {}
    most = 1 - without / result["queries"]
    for name, value in metrics.items():
        kind, _, cutoff = name.partition("@")
        curves.setdefault(kind, []).append((int(cutoff), value))
        if kind in ("Recall", "recall_fraction") and value > most + 1e-9:
            return f"{name} is {value}, and only {most:.4f} of the queries have a positive"
        if kind == "recall_fraction" and value > (hit_rate := metrics.get(f"Recall@{cutoff}", 1.0)) + 1e-9:
            return f"{name} is {value}, above the hit rate at the same cut-off, {hit_rate}"
    for kind in ("Recall", "PRecall", "recall_fraction"):
        for (low, first), (high, second) in pairwise(sorted(curves.get(kind, []))):
            if second < first - 1e-9:
                return f"{kind}@{high} is {second}, below {kind}@{low}, which is {first}"
    return None


def _impossible_answer(result: AnswerResult) -> str | None:
    metrics, task, source = result["metrics"], result["task"], result["source"]
    if task not in ANSWER_TASKS:
        return f"{task} has no answer metric"
    counts, without = ("EM", "BEM", "accuracy"), result["queries_without_passages"]
    if problem := _impossible(result, ANSWER_MEASURES[task], counts.__contains__, without):
        return problem
    for name in result["headline"]:
        if name not in metrics or name not in result["intervals"]:
            return f"it lacks {name} or its interval"
    for name, ends in result["intervals"].items():
        if len(ends) != 2 or not ends[0] <= ends[1] <= 1:
            return f"the interval of {name} is {_short(ends)}"
    if ("BEM" in metrics) != isinstance((result["bem"] or {}).get("checkpoint"), str):
        return "BEM stands with the settings of the model that judged it, and one of both is missing"
    run, bare = source == "run", source == "none"
    if run != (result["retriever"] is not None) or run != (result["run_sha256"] is not None):
        return f"its passages are of the source {source}, which its retriever and run contradict"
    if bare != (result["k"] == 0) or bare != (result["combine"] is None):
        return f"its passages are of the source {source}, which k and the way of combining contradict"
    if metrics.get("BEM", 1.0) < metrics.get("EM", 0.0) - 1e-9:
        return f"BEM is {metrics['BEM']}, below the exact match, which is {metrics['EM']}"
    if "accuracy_harmonic" in metrics:
        parts = [metrics.get(f"accuracy_unseen_{part}", math.nan) for part in ("question", "entity")]
        if not abs(harmonic_accuracy(*parts) - metrics["accuracy_harmonic"]) <= TOLERANCE:
            return f"accuracy_harmonic is {metrics['accuracy_harmonic']}, not the harmonic mean of its two parts"
    return None


def _contradicted_by_predictions(result: AnswerResult, path: Path) -> str | None:
    if sha256_of(path) != result["predictions_sha256"]:
        return f"{path.name} beside it are not its predictions (the sha256 differs)"
    try:
        lines = as_record(read_predictions(path), list[_Prediction])
    except ValueError as error:
        return f"{path.name} lacks the scores of a question, between 0 and 1 ({error})"
    if len({line.question_id for line in lines}) != result["queries"] or len(lines) != result["queries"]:
        return f"{path.name} has {len(lines):,} lines, for {result['queries']:,} questions"
    for name in lines[0].scores:
        if any(name not in line.scores for line in lines):
            return f"{path.name} has a question without {_short(name)}"
        computed = sum(line.scores[name] for line in lines) / len(lines)
        if name not in result["metrics"] or abs(computed - result["metrics"][name]) > TOLERANCE:
            return f"{name} is {result['metrics'].get(name)} in the file, and {computed:.6f} in its predictions"
    main = {"accuracy_harmonic": "accuracy"}.get(result["headline"][0], result["headline"][0])
    return None if main in lines[0].scores else f"{path.name} lacks the scores {main}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
