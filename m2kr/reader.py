"""What a reader has to speak, how one is found by name, the passages it is given, and how it is asked.

A reader answers a question about a picture, with or without passages. It is found as a retriever is (see
`m2kr.retriever`), through an entry point of the group ``m2kr.readers``: a package of yours that declares

    [project.entry-points."m2kr.readers"]
    my-reader = "my_package:MyReader"

is run by ``python -m m2kr.answer --reader my-reader``. The entry point is called with ``checkpoint``, ``device`` and
``dtype`` by keyword, and with what the user gives as ``--option NAME=VALUE``, which are strings.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from m2kr.common.progress import progress
from m2kr.common.registry import by_name, make
from m2kr.errors import M2KRError

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.dataset import TaskData
    from m2kr.results.record import Result

Source = Literal["run", "oracle", "none"]
Combine = Literal["joint", "concat"]

CHUNK = 32
"""Questions answered between two writes: what a kill costs at most. Their pictures are in memory together."""

_FACTS = "answering.json"

GROUP = "m2kr.readers"
"""Entry-point group in which readers are registered."""

ANY_MODEL = "image-text-to-text"
"""Registered reader that loads a folder or a hub id."""


@dataclass(frozen=True)
class Asked:
    """What a reader answers.

    Attributes:
        question: in the words of the data set; may be empty where the picture alone asks.
        passages: texts to answer from, best first; none without retrieval.
        image: in RGB; None for a reader that reads no images.
    """

    question: str
    passages: tuple[str, ...] = ()
    image: Image | None = None


class Answer(NamedTuple):
    """What a reader says.

    Attributes:
        text: the answer alone, stripped; may be empty.
        log_probability: natural logarithm of its probability, given what was asked; at most 0.
    """

    text: str
    log_probability: float


@runtime_checkable
class Reader(Protocol):
    """A model that answers questions.

    How a prompt is worded, and how passages are cut where they are too long, is the reader's own affair; both stand in
    its ``settings``. The answers are in the order of what was asked. Answering the same list again, with the same
    ``batch_size``, gives the same answers: nothing is drawn.

    Attributes:
        name: what it is called in results.
        reads: the kinds of input it uses, of "text" and "image".
        settings: what else its answers depend on (checkpoint, prompt, lengths, ...); kept in the result file.
    """

    name: str
    reads: frozenset[str]
    settings: dict[str, Any]

    def answer(self, asked: Sequence[Asked], batch_size: int = 8) -> list[Answer]:
        """Return one answer for each, ``batch_size`` of them at a time."""


def registered() -> dict[str, EntryPoint]:
    """Return the registered readers by name.

    Raises:
        M2KRError: two installed packages register one name.
    """
    return by_name(entry_points(group=GROUP), "reader")


def get_reader(
    name: str,
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    options: Mapping[str, str] | None = None,
) -> Reader:
    """Return the reader called ``name``.

    A name that is not registered but is a folder, or has the form ``org/model``, is taken for the checkpoint of an
    image-text-to-text model of transformers.

    Args:
        name: registered name, folder or hub id.
        checkpoint: folder or hub id to load instead of the reader's own.
        device: as torch names it.
        dtype: "float32", "float16" or "bfloat16".
        options: further keyword arguments of its entry point.

    Raises:
        M2KRError: there is no such reader (with the closest name there is), it does not have such an option, or it
            cannot be loaded.
    """
    reader, code = make(
        "reader",
        registered(),
        name,
        otherwise=(ANY_MODEL, "An image-text-to-text model of transformers"),
        checkpoint=checkpoint,
        device=device,
        dtype=dtype,
        options=options or {},
    )
    if not isinstance(reader, Reader):
        raise M2KRError(f"{code} does not speak the protocol of m2kr.reader.Reader.")
    return reader


# --- passages -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
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


def no_passages(data: TaskData) -> Evidence:
    """Return no passages for every question."""
    return Evidence("none", [[] for _ in range(data.queries.height)], [[] for _ in range(data.queries.height)])


def oracle_passages(data: TaskData, k: int, *, allow_missing: bool = False) -> Evidence:
    """Return the first k positive passages of every question, equally probable.

    Raises:
        M2KRError: a question has none among the passages, unless ``allow_missing``.
    """
    known = set(data.passages["passage_id"])
    ids = [[name for name in positives if name in known][:k] for positives in data.qrels.values()]
    _check_complete(data, ids, f"{data.task.key} has no positive passage for", allow_missing=allow_missing)
    return Evidence("oracle", ids, [log_softmax([0.0] * len(found)) for found in ids])


def run_passages(data: TaskData, path: Path, k: int, *, allow_missing: bool = False) -> Evidence:
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
    from m2kr.common.files import sha256_of
    from m2kr.results.record import Run

    result = run_result(path)
    if (result["task"], result["split"]) != (data.task.key, data.split):
        raise M2KRError(
            f"{path} is of {result['task']}/{result['split']}, and the questions are of {data.task.key}/{data.split}."
        )
    if result["dataset"] != data.fingerprint:
        raise M2KRError(
            f"{path} is of the data {result['dataset']}, and --data has {data.fingerprint} of {data.task.key}. "
            "Name the benchmark that was evaluated, or evaluate on this one."
        )
    sha256 = sha256_of(path)
    if sha256 != result["run_sha256"]:
        raise M2KRError(f"{path} is not the run that its result file was computed from. Evaluate with --rerun.")
    if result["top_k"] < min(k, result["passages"]):
        raise M2KRError(f"--k is {k}, and {path} keeps {result['top_k']} passages. Evaluate with a larger --top-k.")
    run = Run.read_trec(path)
    found = dict(zip(run.query_ids, zip(run.passage_ids, run.scores, strict=True), strict=True))
    names = data.queries["question_id"].to_list()
    ids = [found[name][0][:k] if name in found else [] for name in names]
    _check_complete(data, ids, f"{path} has no passage for", allow_missing=allow_missing)
    known = set(data.passages["passage_id"])
    if strange := next((name for row in ids for name in row if name not in known), None):
        raise M2KRError(f"{path} holds the passage {strange!r}, which {data.task.key} does not have.")
    scores = [found[name][1][:k].tolist() if name in found else [] for name in names]
    return Evidence("run", ids, [log_softmax(row) for row in scores], result["model"], sha256)


def run_result(path: Path) -> Result:
    """Return the result file that stands beside a run.

    Raises:
        M2KRError: one of them is not there, or cannot be read.
    """
    from m2kr.results.record import read_result

    if not path.is_file():
        raise M2KRError(f"the run {path} is not there. Make it with python -m m2kr.evaluate, or pass --no-retrieval.")
    name, suffix, _ = path.name.partition(".run.trec")
    beside = path.with_name(f"{name}.json")
    if not suffix or not beside.is_file():
        raise M2KRError(
            f"{path} has no result file beside it ({beside.name}), which says what data it is of. Name a run that "
            "python -m m2kr.evaluate wrote, where it wrote it."
        )
    return read_result(beside)


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


# --- asking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asking:
    """A reader, what it is asked, and how.

    Attributes:
        reader: what answers.
        data: the questions.
        evidence: their passages.
        combine: "joint" answers once for each passage and takes the answer for which the probability of the passage
            times that of the answer is largest; "concat" puts all passages in one prompt.
        batch_size: prompts answered at once.
        workers: processes that decode pictures; 0 or 1: none.
        blind: ask without pictures.
        quiet: no progress.
    """

    reader: Reader
    data: TaskData
    evidence: Evidence
    combine: Combine
    batch_size: int
    workers: int
    blind: bool
    quiet: bool

    def all(self, work: Path, key: str) -> tuple[list[dict[str, Any]], float, int]:
        """Answer what is not answered yet; return a line for each question, seconds, and peak memory in bytes.

        Finished chunks are kept in the folder ``work``, under a key of all that the answers depend on. A chunk begins
        at a multiple of the chunk size, as in a run that nothing interrupted, so that its batches are the same.
        """
        from m2kr.common.files import atomic, write_json
        from m2kr.common.measure import peak_memory, reset_peak_memory

        count = self.data.queries.height
        facts = _read_facts(work, key) or {"key": key, "questions": 0, "seconds": 0.0, "memory": 0}
        first = facts["questions"]
        with (
            progress(count, f"{self.data.task.key} answer", unit="questions", quiet=self.quiet) as bar,
            closing(self._pictures(first)) as pictures,
        ):
            bar.initial = bar.n = first  # the rate is that of what is left
            reset_peak_memory()
            start = time.perf_counter()
            while first < count:
                rows = range(first, min(first + CHUNK, count))
                lines = self._chunk(rows, list(islice(pictures, len(rows))))
                with atomic(work / _chunk_name(first), "w") as file:
                    file.writelines(dumped(line) for line in lines)
                now = time.perf_counter()
                facts["seconds"] += now - start
                facts["memory"] = max(facts["memory"], peak_memory())
                facts["questions"] = first = rows.stop
                write_json(work / _FACTS, facts)
                start = now
                bar.update(len(rows))
        lines = [line for start_row in range(0, count, CHUNK) for line in read_lines(work / _chunk_name(start_row))]
        return lines, facts["seconds"], facts["memory"]

    def _pictures(self, first: int) -> Generator[Any]:
        """Yield the picture of every question from a row on, or None where the reader gets none."""
        from m2kr.evaluate.encode import decoded
        from m2kr.images.roots import ImageError

        names = self.data.queries["question_id"]
        if self.blind or not self.data.task.reads_images:
            yield from [None] * (len(names) - first)
            return
        assert self.data.images is not None  # looked for before anything was answered
        paths = self.data.queries["img_path"][first:].to_list()
        with closing(decoded(self.data.images, paths, workers=self.workers)) as pictures:
            for row, picture in enumerate(pictures, start=first):
                if isinstance(picture, ImageError):
                    raise ImageError(
                        f"the picture {paths[row - first]} of question {names[row]} of {self.data.task.key} cannot be "
                        f"used: {picture} The answers before it are kept.",
                        picture.fault,
                        picture.reason,
                    ) from picture
                yield picture

    def _chunk(self, rows: range, pictures: list[Any]) -> list[dict[str, Any]]:
        """Return a line for each question of some rows."""
        questions, names = self.data.queries["question"], self.data.queries["question_id"]
        asked: list[Asked] = []
        groups: list[range] = []
        for row, picture in zip(rows, pictures, strict=True):
            texts = [self._texts[name] for name in self.evidence.ids[row]]
            together = self.combine == "concat" or not texts
            given = [tuple(texts)] if together else [(text,) for text in texts]
            groups.append(range(len(asked), len(asked) + len(given)))
            asked += [Asked(questions[row] or "", passages, picture) for passages in given]
        answers = self.reader.answer(asked, batch_size=self.batch_size)
        if len(answers) != len(asked):
            raise M2KRError(f"{self.reader.name} gave {len(answers)} answers to {len(asked)} prompts.")
        found = []
        for row, group in zip(rows, groups, strict=True):
            line = self._line(row, [answers[place] for place in group])
            found.append({"question_id": names[row], **line})
        return found

    def _line(self, row: int, answers: list[Answer]) -> dict[str, Any]:
        """Return what is written of one question: its answer, and what it was chosen from."""
        ids, weights = self.evidence.ids[row], self.evidence.log_probabilities[row]
        for answer in answers:
            if not -math.inf < answer.log_probability <= 0:  # NaN too
                raise M2KRError(
                    f"{self.reader.name} gave an answer the log-probability {answer.log_probability}, which is no "
                    f"logarithm of a probability (question {self.data.queries['question_id'][row]})."
                )
        if self.combine == "concat" or not ids:
            chosen = answers[0]
            return {"answer": chosen.text, "log_probability": chosen.log_probability, "passages": ids}
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


def _chunk_name(first: int) -> str:
    return f"{first:08}.jsonl"


def _read_facts(work: Path, key: str) -> dict[str, Any] | None:
    """Return what is known of the finished chunks, if they are of the same answers."""
    try:
        facts = json.loads((work / _FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(facts, dict) and facts.get("key") == key
    whole = same and all((work / _chunk_name(first)).is_file() for first in range(0, facts["questions"], CHUNK))
    return facts if whole else None


def dumped(line: dict[str, Any]) -> str:
    """Return a line of a file of predictions, as JSON; equal answers give equal lines."""
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of predictions.

    Raises:
        M2KRError: it cannot be read.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise M2KRError(f"{path} cannot be read ({error}). Answer again with --rerun.") from error
