"""Result files of answering, and the predictions beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

from m2kr.common.json_input import as_record, parse_json, read_text
from m2kr.errors import M2KRError
from m2kr.results.record import BadImages, read_record
from m2kr.tasks import TASKS

Source: TypeAlias = Literal["run", "oracle", "none"]
"""Where passages to answer from are taken."""

Combine: TypeAlias = Literal["joint", "concat"]
"""How several passages are used: an answer for each, of which one is chosen, or all in one prompt."""


class AnswerResult(TypedDict):
    """A result file of answering. Every key is always there.

    It stands in ``results/<retriever>/answers/<reader>/``, as ``<TASK>.<combine>-<k>.json``, or ``<TASK>.json``
    without passages; ``<TASK>...predictions.jsonl`` beside it has a line for each question. All but ``seconds`` and
    ``peak_memory`` are equal for equal runs. One of ``--ray`` has "ray" besides, as `m2kr.results.record.Result` has,
    and the ``peak_memory`` of the largest of its processes.
    """

    # 1; changes when a reader of these files has to change.
    format: int
    # Name of the reader, and what its answers depend on besides: checkpoint, its sha256, prompts, lengths.
    reader: str
    reader_settings: dict[str, Any]
    # Where the passages are from: "run", "oracle" (the positive ones) or "none".
    source: Source
    # Of a run: name of its retriever, and hash of the run file; else null.
    retriever: str | None
    run_sha256: str | None
    # Passages for each question, at most, and how they are used; 0 and null without.
    k: int
    combine: Combine | None
    # Key of the task, and the split of its questions.
    task: str
    split: str
    # Measure -> value between 0 and 1, and its 95 % interval (percentiles of a bootstrap over the questions).
    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    # The measures this task is compared by, first the main one.
    headline: list[str]
    # Settings of the answer-equivalence model that BEM was judged with; null without.
    bem: dict[str, Any] | None
    # Numbers of questions, and of those that had no passage (--allow-missing; all without retrieval).
    queries: int
    queries_without_passages: int
    # Identifies the tables: results of different fingerprints are not comparable.
    dataset: str
    # As in a result of retrieval.
    data_source: NotRequired[str]
    image_source: NotRequired[str | None]
    # The data are made up; scores compare with no published figure.
    synthetic: bool
    # Only the first questions were answered, or those of a small subset, drawn with ``seed``.
    limited: bool
    nano: bool
    seed: int | None
    # Kinds of input the task has and the reader was not given: ["image"] after --ignore-images.
    ignored_inputs: list[str]
    # As in a result of retrieval; questions that were skipped have an empty answer.
    bad_images: NotRequired[BadImages | None]
    device: str
    dtype: str
    batch_size: int
    hardware: str
    # Seconds of wall time that answering took, over all interruptions, and largest resident memory of it, bytes.
    seconds: float
    peak_memory: int
    # As in a result of retrieval.
    versions: dict[str, str]
    commit: str | None
    predictions_sha256: str
    # Digest of all that the answers depend on, and of all that the scores depend on.
    answers_key: str
    key: str


ANSWER_FORMAT = 1


def read_answer_result(path: Path) -> AnswerResult:
    """Read a result file of answering.

    Raises:
        M2KRError: it cannot be read, is no result file of this format, or is of an unknown task; the key is named.
    """
    return read_record(path, AnswerResult, ANSWER_FORMAT, "result file of answering")


def read_answer_results(folder: Path) -> list[AnswerResult]:
    """Return the results of answering under a folder of results, ordered by task, split, reader and passages.

    Those without passages come first, those from the positive ones last.
    """
    order, sources = list(TASKS), ("none", "run", "oracle")
    results = [read_answer_result(path) for path in sorted(folder.glob("*/answers/*/*.json"))]
    return sorted(
        results,
        key=lambda found: (
            order.index(found["task"]),
            found["split"],
            found["reader"],
            sources.index(found["source"]),
        ),
    )


def prediction_line(prediction: dict[str, Any]) -> str:
    """Return a line of a file of predictions, as JSON; equal predictions give equal lines."""
    return json.dumps(prediction, ensure_ascii=False, allow_nan=False) + "\n"


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of predictions.

    Raises:
        M2KRError: it cannot be read; the prediction is named.
    """
    found: list[dict[str, Any]] = []
    try:
        for line in read_text(path).split("\n"):
            if line:
                found.append(as_record(parse_json(line), dict[str, Any]))
    except ValueError as error:
        where = f"prediction {len(found) + 1} of {path}"
        raise M2KRError(f"{where} cannot be read ({error}). Answer again with --rerun.") from error
    return found
