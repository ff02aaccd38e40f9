"""What a result file has to be before its figures are shown: types, ranges, and what measures owe each other."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from m2kr.errors import M2KRError
from m2kr.results import Result, read_result
from m2kr.tasks import TASKS

MEASURE = re.compile(r"(?P<kind>P?Recall|recall_fraction|MRR|nDCG)@(?P<cutoff>[1-9]\d{0,5})")

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
        "seed": lambda value: value is None or _is_count(value),
        "quantisation": lambda value: value is None or _is_numbers(value),
        "commit": lambda value: value is None or isinstance(value, str),
    }
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
