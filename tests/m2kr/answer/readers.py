"""Readers of no model, which the tests of answering ask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2kr.answer.options import AnswerTaskOptions
from m2kr.answer.task import answer_task
from m2kr.dataset import TaskData
from m2kr.reader import Answer, ReaderInput
from m2kr.results.answer_record import AnswerResult


class Seeker:
    """Knows the answers, and gives one that stands in its passages; else it says that it does not know."""

    def __init__(self, known: dict[str, list[str]] | None = None, **given: Any) -> None:
        self.name, self.given = type(self).__name__.lower(), given
        self.reads = frozenset({"text", "image"})
        self.settings: dict[str, Any] = {"prompt": "what?"}
        self.known = known or {}
        self.asked: list[ReaderInput] = []

    def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
        self.asked += asked
        return [self.say(item) for item in asked]

    def say(self, asked: ReaderInput) -> Answer:
        text = " ".join(asked.passages).lower()
        found = [word for word in self.known.get(asked.question, ()) if word.lower() in text]
        return Answer(found[0], -0.1) if found else Answer("unknown", -0.5)


class Blind(Seeker):
    def __init__(self, known: dict[str, list[str]] | None = None, **given: Any) -> None:
        super().__init__(known, **given)
        self.reads = frozenset({"text"})


def seeker(data: TaskData) -> Seeker:
    assert data.answers is not None
    return Seeker(dict(zip(data.queries["question"], data.answers.values(), strict=True)))


def answered(made: Any, data: TaskData, evidence: Any, out: Path, bem: Any = None, **options: Any) -> AnswerResult:
    return answer_task(made, data, evidence, out, AnswerTaskOptions(ignore_images=True, quiet=True, **options), bem=bem)
