"""Answering by processes on other GPUs or machines: each holds the reader, and answers chunks of questions."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from m2kr.answer.generate import Answered, AnswerGenerator
from m2kr.answer.options import AnswerTaskOptions
from m2kr.common.cluster import Job
from m2kr.common.measure import environment, peak_memory, reset_peak_memory
from m2kr.reader import get_reader
from m2kr.search.device import check_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from m2kr.answer.evidence import RetrievedPassages
    from m2kr.common.cluster import Cluster
    from m2kr.dataset import TaskData
    from m2kr.reader import Answer, ReaderInput

_WORKER = "m2kr.answer.remote:AnswerWorker"


@dataclass(frozen=True)
class QuestionChunk:
    """Some questions, with all that answering them needs.

    Attributes:
        data: the task with these questions alone, and the passages that they are answered from.
        passages: which of those, for each question.
        options: how they are answered.
        with_images: ask with their pictures.
    """

    data: TaskData
    passages: RetrievedPassages
    options: AnswerTaskOptions
    with_images: bool


class AnswerWorker:
    """A reader on the machine where it computes.

    Args:
        reader: as for `m2kr.reader.get_reader`.
        loading: its keyword arguments.
        device: where it computes.
        threads: that torch computes with on a CPU; 0 leaves that to torch.

    Raises:
        M2KRError: as `get_reader`; the device is not there.
    """

    def __init__(self, reader: str, loading: dict[str, Any], device: str, *, threads: int = 0) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        check_device(device)
        self._device = device
        self._reader = get_reader(reader, **loading)
        self._batch_size: int | None = None  # what fitted before

    def facts(self) -> dict[str, Any]:
        """Return what the reader says of itself, and where it is."""
        told = {name: getattr(self._reader, name) for name in ("name", "reads", "settings")}
        return {"reader": told, "environment": environment(self._device)}

    def ask(self, asked: Sequence[ReaderInput], batch_size: int) -> list[Answer]:
        """Answer, as the reader itself does."""
        return self._reader.answer(asked, batch_size)

    def answer(self, chunk: QuestionChunk) -> Answered:
        """Answer the questions of a chunk.

        Raises:
            ImageError, M2KRError: as `AnswerGenerator.answer_all`.
        """
        generator = AnswerGenerator(self._reader, chunk.data, chunk.passages, chunk.options, chunk.with_images)
        if chunk.options.batch_size is None and self._batch_size is not None:
            generator.batch.size = self._batch_size
        reset_peak_memory()
        ((predictions, size, _),) = generator.answered(0)
        self._batch_size = size
        return predictions, size, peak_memory()


class RemoteReader:
    """A `m2kr.reader.Reader` whose model is in the processes of a cluster, and not in this one.

    `answer` asks one of them. `m2kr.answer.task.answer_task` gives all of them work.

    Args:
        cluster: entered already; its processes are started here.
        reader: as for `m2kr.reader.get_reader`.
        loading: its keyword arguments.
        device: where it computes.

    Raises:
        M2KRError: the reader cannot be made on a node, which is named; there is no room for it.
    """

    name: str
    reads: frozenset[str]
    settings: dict[str, Any]

    def __init__(self, cluster: Cluster, reader: str, loading: dict[str, Any], device: str) -> None:
        self.cluster = cluster
        threads = cluster.cpus if device == "cpu" else 0
        facts = cluster.start(_WORKER, reader=reader, loading=loading, device=device, threads=threads)
        self.__dict__.update(facts["reader"])
        self.environment: dict[str, Any] = facts["environment"]

    def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
        """Answer in one of the processes."""
        answers: list[Answer] = self.cluster.one(Job("questions", "ask", (asked, batch_size)))
        return answers

    def answered(self, generator: AnswerGenerator, chunks: Iterable[range]) -> Generator[Answered]:
        """Yield what is made of chunks of the questions of a generator, in their order, by all processes at once."""
        options = AnswerTaskOptions(
            **{each.name: getattr(generator.options, each.name) for each in fields(AnswerTaskOptions)}
        )
        data, passages = generator.data, generator.passages
        texts = data.passages.select("passage_id", "passage_content")

        def jobs() -> Iterator[Job]:
            for rows in chunks:
                some = slice(rows.start, rows.stop)
                own = replace(passages, ids=passages.ids[some], log_probabilities=passages.log_probabilities[some])
                wanted = list({name for names in own.ids for name in names})
                small = replace(
                    data,
                    queries=data.queries[some],
                    passages=texts.filter(texts["passage_id"].is_in(wanted)),
                    qrels={},
                    files=(),
                )
                chunk = QuestionChunk(small, own, options, generator.with_images)
                yield Job(f"{data.task.key} questions {rows.start:,} to {rows.stop - 1:,}", "answer", (chunk,))

        return self.cluster.in_order(jobs())
