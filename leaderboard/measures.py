"""The measures that results are compared by, and their names."""

from __future__ import annotations

from m2kr.tasks import TASKS

COMPARED = [task for task in TASKS.values() if task.metrics]
"""The tasks that figures of retrieval are of."""

MEASURES = [(task.key, metric) for task in COMPARED for metric in task.metrics]
"""Columns of a board of retrieval: (task, measure)."""

MAIN = [(task.key, task.metrics[0]) for task in COMPARED]
"""The measures that a mean is of, where a model has all of them."""

ANSWER_MEASURES = {
    "OKVQA": (("VQA",),),
    "Infoseek": (("accuracy_harmonic", "accuracy"), ("accuracy",)),
    "EVQA": (("BEM", "EM"), ("EM",)),
}
"""Task -> the measures its answers can be compared by, first the main one: see `m2kr.answer.score`."""

ANSWER_NOTES = {
    "OKVQA": "VQA score: how far ten annotators gave the same answer.",
    "Infoseek": "Accuracy over all questions. The official figure is its harmonic mean over questions that are unseen "
    "in training and entities that are; it stands where the data tell them apart.",
    "EVQA": "BEM also counts an answer that a model judges to mean the same as an accepted one. EM counts only "
    "one that is equal to it after normalisation. EM is lower, and the two do not compare.",
}
"""What is said of them."""

_NAMES = {
    "Recall": "R",
    "PRecall": "PR",
    "VQA": "VQA score",
    "accuracy": "Accuracy",
    "accuracy_harmonic": "Harmonic mean",
}


def short(metric: str) -> str:
    """Return a measure's name as the articles have it: "PRecall@5" is "PR@5"."""
    kind, at, cutoff = metric.partition("@")
    return f"{_NAMES.get(kind, kind)}{at}{cutoff}"
