"""The passages that questions are answered from: those of a run, the positive ones, or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.answer.score import ANSWER_TASKS, check_answerable
from m2kr.errors import M2KRError
from m2kr.formats.hub import local_tasks
from m2kr.results.record import read_run, result_of_run
from m2kr.tasks import parse_tasks

if TYPE_CHECKING:
    from m2kr.answer.options import AnswerOptions
    from m2kr.dataset import TaskData
    from m2kr.results.answer_record import Source


@dataclass(frozen=True)
class RetrievedPassages:
    """The passages that the questions of a split are answered from.

    Attributes:
        source: where they are from.
        ids: for each question, at most k ids of passages, best first.
        log_probabilities: for each question, the logarithm of the softmax of their scores.
        retriever: name of what retrieved them; None if nothing did.
        run_sha256: hash of the run file.
    """

    source: Source
    ids: list[list[str]]
    log_probabilities: list[list[float]]
    retriever: str | None = None
    run_sha256: str | None = None


def choose_runs(options: AnswerOptions) -> dict[str, Path | None]:
    """Return the tasks to answer, and the run of each; None without one.

    Raises:
        M2KRError: a task has no answer metric or no run, or a run is of another task than those asked for.
    """
    everything = options.tasks.strip().casefold() == "all"
    asked = [] if everything else [task.key for task in parse_tasks(options.tasks)]
    for name in asked:
        check_answerable(name)
    if options.run:
        runs: dict[str, Path | None] = {}
        for path in options.run:
            name = result_of_run(path)["task"]
            if name in runs or (asked and name not in asked):
                reason = f"so is {runs[name]}" if name in runs else f"--tasks does not name it, but {options.tasks}"
                raise M2KRError(f"--run {path} is of {name}, and {reason}.")
            runs[name] = path
        if lacking := [name for name in asked if name not in runs]:
            raise M2KRError(f"there is no --run of {', '.join(lacking)}. Pass it, or leave the task out of --tasks.")
        return runs
    if options.run_dir:
        suffix = "run.trec.gz" if options.split == "test" else f"{options.split}.run.trec.gz"
        places = {name: options.run_dir / f"{name}.{suffix}" for name in asked or ANSWER_TASKS}
        runs = {name: path for name, path in places.items() if asked or path.is_file()}
        if not runs:
            raise M2KRError(
                f"{options.run_dir} holds no run of {', '.join(ANSWER_TASKS)} ({options.split}). Make one with "
                "python -m m2kr.evaluate."
            )
        return runs
    tasks = local_tasks(options.data, options.tasks, options.split, ANSWER_TASKS, quiet=options.quiet)[1]
    return {task.key: None for task in tasks}


def no_passages(data: TaskData) -> RetrievedPassages:
    """Return no passages for every question."""
    nothing: list[list[str]] = [[] for _ in range(data.queries.height)]
    return RetrievedPassages("none", nothing, [[] for _ in nothing])


def oracle_passages(data: TaskData, k: int, *, allow_missing: bool = False) -> RetrievedPassages:
    """Return the first k positive passages of every question, equally probable.

    Raises:
        M2KRError: a question has none among the passages, unless ``allow_missing``.
    """
    known = set(data.passages["passage_id"])
    ids = [[name for name in positives if name in known][:k] for positives in data.qrels.values()]
    _check_complete(data, ids, f"{data.task.key} has no positive passage for", allow_missing=allow_missing)
    return RetrievedPassages("oracle", ids, [log_softmax([0.0] * len(found)) for found in ids])


def run_passages(data: TaskData, path: Path, k: int, *, allow_missing: bool = False) -> RetrievedPassages:
    """Return the first k passages of a run that `m2kr.evaluate` wrote, and their probabilities.

    Args:
        data: the split, which has to be the one that was searched.
        path: ``<TASK>.run.trec.gz``, with the result file beside it.
        k: passages for each question.
        allow_missing: let questions be without passages.

    Raises:
        M2KRError: the run or its result is not there, it is of other data or another split, it keeps fewer than k
            passages, or it has none for a question, unless ``allow_missing``.
    """
    result = result_of_run(path)
    if (result["task"], result["split"]) != (data.task.key, data.split):
        raise M2KRError(
            f"{path} is of {result['task']}/{result['split']}, and the questions are of {data.task.key}/{data.split}."
        )
    if result["dataset"] != data.fingerprint:
        raise M2KRError(
            f"{path} is of the data {result['dataset']}, and --data has {data.fingerprint} of {data.task.key}. "
            "Name the benchmark that was evaluated, or evaluate on this one."
        )
    if result["top_k"] < min(k, result["passages"]):
        raise M2KRError(f"--k is {k}, and {path} keeps {result['top_k']} passages. Evaluate with a larger --top-k.")
    run = read_run(path, result)
    found = dict(zip(run.query_ids, zip(run.passage_ids, run.scores, strict=True), strict=True))
    names = data.queries["question_id"].to_list()
    ids = [found[name][0][:k] if name in found else [] for name in names]
    _check_complete(data, ids, f"{path} has no passage for", allow_missing=allow_missing)
    known = set(data.passages["passage_id"])
    if strange := next((name for row in ids for name in row if name not in known), None):
        raise M2KRError(f"{path} holds the passage {strange!r}, which {data.task.key} does not have.")
    scores = [found[name][1][:k].tolist() if name in found else [] for name in names]
    return RetrievedPassages("run", ids, [log_softmax(row) for row in scores], result["model"], result["run_sha256"])


def log_softmax(scores: Sequence[float]) -> list[float]:
    """Return the logarithms of the softmax of scores."""
    if not scores:
        return []
    highest = max(scores)
    total = highest + math.log(sum(math.exp(score - highest) for score in scores))
    return [score - total for score in scores]


def _check_complete(data: TaskData, ids: list[list[str]], what: str, *, allow_missing: bool) -> None:
    lacking = [name for name, found in zip(data.queries["question_id"], ids, strict=True) if not found]
    if lacking and not allow_missing:
        raise M2KRError(
            f"{what} {len(lacking):,} of {data.queries.height:,} questions, the first is {lacking[0]}. Pass "
            "--allow-missing to ask them without passages; the result counts them."
        )
