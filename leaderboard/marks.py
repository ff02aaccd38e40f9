"""Marks on results of another kind than a full evaluation, such as made-up data; equal marks are ranked together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from m2kr.results.answer_record import AnswerResult
from m2kr.results.record import Result, depends_on_batch

DataKind = tuple[str, str, bool]
"""Task, split, and whether the data are made up."""


class Mark(NamedTuple):
    """A mark: a few words, and one sentence that says what it means."""

    label: str
    note: str


MARKS = {
    "made-up": Mark("made-up data", "The data are invented, and these figures compare with no published one."),
    "other-data": Mark("other data", "The tables are not those that most results here, or the named benchmark, have."),
    "other-split": Mark("other split", "Not the test split."),
    "nano": Mark("small subset", "A few queries and passages were drawn, which is much easier than the task (--nano)."),
    "limited": Mark("first queries only", "Only the first queries were evaluated (--limit)."),
    "no-images": Mark("without images", "The pictures of the queries were not given to the model (--ignore-images)."),
    "bad-images": Mark(
        "pictures missing", "Some pictures could not be read, and their queries were asked without (--bad-images)."
    ),
    "passage-images": Mark(
        "with passages' pictures", "Passages had pictures, which the model read; the published benchmark has none."
    ),
    "approximate": Mark("approximate search", "Not every query was compared with every passage."),
    "elsewhere": Mark(
        "run made elsewhere", "How the passages were found is not known; the run was scored (m2kr.score)."
    ),
    "batch-dependent": Mark(
        "depends on the batch",
        "The model encodes an input differently alone and in a batch, so another batch size gives other figures.",
    ),
}
"""Every mark, in the order it is said."""


def marks_of(result: Result | AnswerResult, reference: Mapping[DataKind, str]) -> tuple[str, ...]:
    """Return what sets a result apart, of retrieval or of answering: keys of `MARKS`, in their order.

    Args:
        result: what a result file holds.
        reference: (task, split, made up) -> fingerprint of the data that count; see `usual_data`.
    """
    expected = reference.get(_kind_of_data(result))
    said = {
        "made-up": result["synthetic"],
        "other-data": expected is not None and result["dataset"] != expected,
        "other-split": result["split"] != "test",
        "nano": result["nano"],
        "limited": result["limited"],
        "no-images": bool(result["ignored_inputs"]),
        "bad-images": bool(result.get("bad_images")),
        "passage-images": result.get("passage_images") == "read",
        "approximate": result.get("search", "exact") not in ("exact", "elsewhere"),  # answering searches nothing
        "elsewhere": result.get("search") == "elsewhere",
        "batch-dependent": depends_on_batch(result),
    }
    return tuple(mark for mark in MARKS if said[mark])


def usual_data(results: Iterable[Result | AnswerResult]) -> dict[DataKind, str]:
    """Return the data most results have: (task, split, made up) -> fingerprint; of equally many the first in order."""
    counted: dict[DataKind, Counter[str]] = {}
    for result in results:
        counted.setdefault(_kind_of_data(result), Counter())[result["dataset"]] += 1
    return {
        kind: min(counts, key=lambda name: (-counts[name], name))  # not the order of the files
        for kind, counts in counted.items()
    }


def _kind_of_data(result: Result | AnswerResult) -> DataKind:
    return result["task"], result["split"], result["synthetic"]


def labels(marks: Iterable[str], separator: str = ", ") -> str:
    """Return marks in words."""
    return separator.join(MARKS[mark].label for mark in marks)


def fewest_first(marks: tuple[str, ...]) -> tuple[int, list[int]]:
    """Return the key that orders sets of marks: those of fewer marks first, then as `MARKS` has them."""
    order = list(MARKS)
    return len(marks), [order.index(mark) for mark in marks]
