"""Asking a reader every question of a split, in chunks, so that a kill costs one chunk at most.

Two ways to use k passages: ``joint`` answers once for each, and takes the answer for which the probability of the
passage (softmax of the k retrieval scores) times that of the answer is largest; ``concat`` puts all in one prompt.
Source of ``joint``: Lin and Byrne, "Retrieval Augmented Visual Question Answering with Outside Knowledge", EMNLP 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from m2kr.answer.options import BATCH_SIZE
from m2kr.common.batch_size import BatchSize
from m2kr.common.files import atomic
from m2kr.common.measure import peak_memory
from m2kr.common.work import Note
from m2kr.errors import M2KRError
from m2kr.images.query_pictures import query_pictures
from m2kr.reader import Answer, Reader, ReaderInput
from m2kr.results.answer_record import prediction_line, read_predictions

if TYPE_CHECKING:
    from m2kr.answer.evidence import RetrievedPassages
    from m2kr.answer.options import AnswerTaskOptions
    from m2kr.dataset import TaskData

Answered: TypeAlias = tuple[list[dict[str, Any]], int, int]
"""Predictions of a chunk of questions, how many prompts were answered at once, and the peak memory in bytes."""

CHUNK = 32
"""Questions answered between two writes: what a kill costs at most. Their pictures are in memory together."""


@dataclass(frozen=True)
class AnswerGenerator:
    """A reader, what it is asked, and how.

    Attributes:
        reader: what answers.
        data: the questions.
        passages: what they are answered from.
        options: how.
        with_images: ask with the questions' pictures.
        elsewhere: yields what comes of chunks of rows, in order, where they are answered elsewhere.
    """

    reader: Reader
    data: TaskData
    passages: RetrievedPassages
    options: AnswerTaskOptions
    with_images: bool
    elsewhere: Callable[[AnswerGenerator, Iterable[range]], Generator[Answered]] | None = None

    @cached_property
    def batch(self) -> BatchSize:
        """How many prompts are answered at once."""
        return BatchSize(self.options.batch_size, BATCH_SIZE, quiet=self.options.quiet)

    def answer_all(self, work: Path, key: str) -> tuple[list[dict[str, Any]], float, int]:
        """Answer what is not answered yet; return a prediction for each question, seconds, and peak memory in bytes.

        Finished chunks are kept in the folder ``work``, under a key of all that the answers depend on.
        """
        count = self.data.queries.height

        def whole(facts: dict[str, Any]) -> bool:
            return all(_chunk(work, row).is_file() for row in range(0, facts["rows"], CHUNK))

        note = Note(work / "answering.json", key, whole=whole)
        if self.options.batch_size is None:
            self.batch.size = note.facts.get("batch_size", self.batch.size)  # what fitted before a kill
        with closing(self.answered(note.rows)) as answered:

            def make(rows: range) -> None:
                predictions, size, memory = next(answered)
                self.batch.size = min(size, self.batch.size)
                with atomic(_chunk(work, rows.start), "w") as file:
                    file.writelines(map(prediction_line, predictions))
                note.facts["batch_size"] = self.batch.size
                if self.elsewhere:
                    note.facts["memory_elsewhere"] = max(memory, note.facts.get("memory_elsewhere", 0))

            label = f"{self.data.task.key} answer"
            note.in_chunks(make, count, CHUNK, label, unit="questions", quiet=self.options.quiet)
        predictions = [line for row in range(0, count, CHUNK) for line in read_predictions(_chunk(work, row))]
        return predictions, note.seconds, note.facts.get("memory_elsewhere", note.memory)

    def answered(self, row: int) -> Generator[Answered]:
        """Yield what comes of each chunk of questions from a row on."""
        count = self.data.queries.height
        chunks = [range(first, min(first + CHUNK, count)) for first in range(row, count, CHUNK)]
        if self.elsewhere is not None:
            yield from self.elsewhere(self, chunks)
            return
        with closing(self._pictures(row)) as pictures:
            for rows in chunks:
                predictions = self._answer(rows, list(islice(pictures, len(rows))))
                yield predictions, self.batch.size, peak_memory()

    def _pictures(self, row: int) -> Generator[Any]:
        """Yield the picture of every question from a row on, or None where the reader gets none."""
        data = self.data
        if not self.with_images:
            yield from repeat(None)
        left = data.queries.slice(row)
        with closing(query_pictures(data.images, data.task.key, left, workers=self.options.workers)) as pictures:
            yield from pictures

    def _answer(self, rows: range, pictures: list[Any]) -> list[dict[str, Any]]:
        """Return a prediction for each question of some rows."""
        questions, names = self.data.queries["question"], self.data.queries["question_id"]
        inputs: list[ReaderInput] = []
        groups: list[range] = []
        for row, picture in zip(rows, pictures, strict=True):
            texts = [self._texts[name] for name in self.passages.ids[row]]
            together = self.options.combine == "concat" or not texts
            given = [tuple(texts)] if together else [(text,) for text in texts]
            groups.append(range(len(inputs), len(inputs) + len(given)))
            inputs += [ReaderInput(questions[row] or "", passages, picture) for passages in given]
        answers = self.batch.call(self.reader.answer, inputs, f"{self.data.task.key} answer")
        if len(answers) != len(inputs):
            raise M2KRError(f"{self.reader.name} gave {len(answers)} answers to {len(inputs)} prompts.")
        return [
            {"question_id": names[row], **self._prediction(row, [answers[place] for place in group])}
            for row, group in zip(rows, groups, strict=True)
        ]

    def _prediction(self, row: int, answers: list[Answer]) -> dict[str, Any]:
        """Return what is written of one question: its answer, and what it was chosen from."""
        ids, weights = self.passages.ids[row], self.passages.log_probabilities[row]
        for answer in answers:
            if not -math.inf < answer.log_probability <= 0:  # NaN too
                raise M2KRError(
                    f"{self.reader.name} gave an answer the log-probability {answer.log_probability}, which is no "
                    f"logarithm of a probability (question {self.data.queries['question_id'][row]})."
                )
        if self.options.combine == "concat" or not ids:
            return {"answer": answers[0].text, "log_probability": answers[0].log_probability, "passages": ids}
        candidates = [
            {
                "passage_id": name,
                "passage_log_probability": weight,
                "answer": answer.text,
                "log_probability": answer.log_probability,
            }
            for name, weight, answer in zip(ids, weights, answers, strict=True)
        ]
        # The first of equals, which is the best retrieved.
        best = max(range(len(answers)), key=lambda place: weights[place] + answers[place].log_probability)
        total = weights[best] + answers[best].log_probability
        return {"answer": answers[best].text, "log_probability": total, "passages": ids, "candidates": candidates}

    @cached_property
    def _texts(self) -> dict[str, str]:
        return dict(self.data.passages.select("passage_id", "passage_content").iter_rows())


def _chunk(work: Path, row: int) -> Path:
    """Return the file of the chunk that begins with a row."""
    return work / f"{row:08}.jsonl"
