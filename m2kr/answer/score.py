"""Scoring the answers of a task by its official metric, with intervals; see `m2kr.answer.metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from m2kr.answer.metrics import QUESTION_TYPES, evqa_exact_match, harmonic_accuracy, infoseek_score, vqa_score
from m2kr.errors import M2KRError
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    import polars as pl

    from m2kr.answer.bem import Equivalence

ANSWER_TASKS = tuple(key for key, task in TASKS.items() if task.answer_metric)
"""Tasks that have an answer metric."""


def check_answerable(task: str) -> None:
    """Raise an `M2KRError` unless a task has an answer metric."""
    if task not in ANSWER_TASKS:
        raise M2KRError(f"{task} has no answer metric. Those that have one are {', '.join(ANSWER_TASKS)}.")


@dataclass(frozen=True)
class AnswerScores:
    """Scores of a task's answers.

    Attributes:
        metrics: measure -> value between 0 and 1.
        headline: the measures the task is compared by, first the main one.
        table: column ``question_id`` and one of Float64 for each measure that a question has by itself.
        groups: measure -> for each question, whether the measure is over it. Those over all questions are left out.
    """

    metrics: dict[str, float]
    headline: list[str]
    table: pl.DataFrame
    groups: dict[str, list[bool]]


def score_answers(
    task: str, queries: pl.DataFrame, predictions: Mapping[str, str], *, bem: Equivalence | None = None
) -> AnswerScores:
    """Score the answers to the questions of a task by its official metric.

    Args:
        task: one of `ANSWER_TASKS`.
        queries: rows of ``<TASK>_data``.
        predictions: question_id -> answer, of every question.
        bem: answer-equivalence model, for EVQA.

    Raises:
        M2KRError: the task has no answer metric, a question has no prediction, or a row lacks what its metric needs.
    """
    check_answerable(task)
    lacking = [name for name in queries["question_id"] if name not in predictions]
    if lacking or not queries.height:
        reason = f"{len(lacking):,} of {queries.height:,} have none, the first is {lacking[0]}" if lacking else "none"
        raise M2KRError(f"every question of {task} needs a prediction: {reason}.")
    metric = TASKS[task].answer_metric
    if metric == "vqa":
        return _score_okvqa(queries, predictions)
    if metric == "infoseek":
        return _score_infoseek(queries, predictions)
    return _score_evqa(queries, predictions, bem)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _frame(queries: pl.DataFrame, columns: Mapping[str, Sequence[float]]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(
        {
            "question_id": queries["question_id"],
            **{name: pl.Series(values, dtype=pl.Float64) for name, values in columns.items()},
        }
    )


def _score_okvqa(queries: pl.DataFrame, predictions: Mapping[str, str]) -> AnswerScores:
    scores = []
    for name, answers in queries.select("question_id", "answers").iter_rows():
        if not answers:
            raise M2KRError(f"question {name} of OKVQA has no answers, and the VQA score needs them.")
        scores.append(vqa_score(predictions[name], answers))
    return AnswerScores({"VQA": _mean(scores)}, ["VQA"], _frame(queries, {"VQA": scores}), {})


def _score_infoseek(queries: pl.DataFrame, predictions: Mapping[str, str]) -> AnswerScores:
    """Score InfoSeek, as infoseek_eval.py does; a row without ``answer_eval`` is compared with its ``answers``."""
    scores, kinds, unseen = [], [], []
    columns = ("question_id", "answers", "answer_eval", "wikidata_range", "question_type", "data_split")
    for name, answers, accepted, bounds, kind, split in queries.select(columns).iter_rows():
        numerical = kind.casefold() == "numerical" if kind else bool(bounds)
        if numerical and len(bounds or ()) < 2:
            raise M2KRError(f"question {name} of Infoseek is numerical and has no wikidata_range to compare with.")
        if not numerical and not (accepted or answers):
            raise M2KRError(f"question {name} of Infoseek has no accepted answers.")
        limits = (float(bounds[0]), float(bounds[1])) if numerical else None
        scores.append(infoseek_score(predictions[name], accepted or answers or (), limits))
        kinds.append("numerical" if numerical else "time" if (kind or "").casefold() == "time" else "string")
        unseen.append((split or "").rpartition("unseen_")[2] if "unseen_" in (split or "") else "")
    groups = {
        **{f"accuracy_{kind}": [other == kind for other in kinds] for kind in ("string", "time", "numerical")},
        **{f"accuracy_unseen_{part}": [other == part for other in unseen] for part in ("question", "entity")},
    }
    groups = {name: members for name, members in groups.items() if any(members)}
    metrics = {"accuracy": _mean(scores)}
    for name, members in groups.items():
        metrics[name] = _mean([score for score, member in zip(scores, members, strict=True) if member])
    headline = ["accuracy"]
    if {"accuracy_unseen_question", "accuracy_unseen_entity"} <= set(metrics):
        metrics["accuracy_harmonic"] = harmonic_accuracy(
            metrics["accuracy_unseen_question"], metrics["accuracy_unseen_entity"]
        )
        headline = ["accuracy_harmonic", "accuracy"]
    return AnswerScores(metrics, headline, _frame(queries, {"accuracy": scores}), groups)


def _score_evqa(queries: pl.DataFrame, predictions: Mapping[str, str], bem: Equivalence | None) -> AnswerScores:
    """Score Encyclopedic-VQA: the best over the references of exact match, else of the model's judgement."""
    exact: list[float] = []
    judged: list[tuple[int, str, str, str]] = []
    for row, (name, question, answers, kind) in enumerate(
        queries.select("question_id", "question", "answers", "question_type").iter_rows()
    ):
        if kind is not None and kind not in QUESTION_TYPES:
            raise M2KRError(f"question {name} of EVQA is of the type {kind!r}, none of {', '.join(QUESTION_TYPES)}.")
        references = [answer for answer in answers or () if answer]
        if not references:
            raise M2KRError(f"question {name} of EVQA has no answers to compare with.")
        multiple = kind == "multi_answer"
        said = predictions[name]
        exact.append(float(any(evqa_exact_match(said, reference, multiple=multiple) for reference in references)))
        if not exact[-1]:
            told = [reference.replace("&&", ",") if multiple else reference for reference in references]
            judged += [(row, question or "", reference, said) for reference in told]
    columns = {"EM": exact}
    if bem is not None:
        columns["BEM"] = list(exact)
        rows, *triples = zip(*judged, strict=True) if judged else ((), (), (), ())
        for row, probability in zip(rows, bem(*triples), strict=True):
            columns["BEM"][row] = max(columns["BEM"][row], float(probability >= 0.5))
    metrics = {name: _mean(values) for name, values in columns.items()}
    return AnswerScores(metrics, ["EM"] if bem is None else ["BEM", "EM"], _frame(queries, columns), {})


def intervals(scores: AnswerScores, *, resamples: int = 10_000, seed: int = 0) -> dict[str, list[float]]:
    """Return the 95 % interval of every measure, [low, high]: percentiles of a bootstrap over the questions."""
    import numpy as np

    from m2kr.significance import bootstrap_means

    main = scores.table.columns[1]
    columns = {name: scores.table[name].to_numpy() for name in scores.table.columns[1:]}
    members = {name: np.array(group, dtype=np.float64) for name, group in scores.groups.items()}
    parts = [*columns.values(), *(part for group in members.values() for part in (columns[main] * group, group))]
    drawn = bootstrap_means(np.column_stack(parts), resamples, seed)
    values = {name: drawn[:, place] for place, name in enumerate(columns)}
    for place, name in enumerate(members):
        total, size = (drawn[:, len(columns) + 2 * place + part] for part in range(2))
        # A draw without a question of the group says nothing of it.
        values[name] = np.divide(total, size, out=np.full_like(total, np.nan), where=size > 0)
    if "accuracy_harmonic" in scores.metrics:
        both = (values["accuracy_unseen_question"].tolist(), values["accuracy_unseen_entity"].tolist())
        values["accuracy_harmonic"] = np.array([harmonic_accuracy(*pair) for pair in zip(*both, strict=True)])
    return {name: [float(end) for end in np.nanpercentile(values[name], (2.5, 97.5))] for name in scores.metrics}
