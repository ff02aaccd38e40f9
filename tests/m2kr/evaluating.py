"""Retrievers made up for the tests of `m2kr.evaluate`, and what those tests share."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from baselines.bm25 import BM25
from m2kr.dataset import TaskData
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.results.record import Result

DIM = 16


@cache  # most of the time of an evaluation of the fakes
def vector_of(word: str) -> np.ndarray:
    """The unit vector that a word has in every run, float32[DIM]."""
    vector = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def text_of(item: Any) -> str:
    """The text of an input, which may have an image too."""
    return item if isinstance(item, str) else item["text"]


def many_vectors(text: str) -> np.ndarray:
    """One vector a word, float32[words, DIM]; a text without words has one of its own."""
    return np.array([vector_of(word) for word in re.findall(r"\w+", text.lower()) or [""]])


class Single:
    """One vector a text, the mean of those of its words, which come from their hashes. It keeps what it is given."""

    vectors: Literal["single", "multi"] = "single"
    reads = frozenset({"text"})
    reads_instructions = False

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.name = f"fake-{self.vectors}"
        self.settings: dict[str, Any] = {"dim": DIM}
        self.asked: list[Any] = []
        self.read: list[Any] = []
        self.batch_sizes: set[int] = set()
        self.fail: Callable[[], bool] = lambda: False

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.stack([np.mean(many_vectors(text_of(item)), axis=0) for item in inputs])

    def encode_query(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return self._kept(self.asked, inputs, batch_size)

    def encode_document(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return self._kept(self.read, inputs, batch_size)

    def _kept(self, kept: list[Any], inputs: Sequence[Any], batch_size: int) -> Any:
        self.batch_sizes.add(batch_size)
        if self.fail():
            kill()
        kept.extend(inputs)
        return self.encode(inputs)


class Multi(Single):
    """One vector a word."""

    vectors = "multi"

    def encode(self, inputs: Sequence[Any]) -> Any:
        return [many_vectors(text_of(item)) for item in inputs]


class Seeing(Single):
    """Reads images too, and instructions."""

    reads = frozenset({"text", "image"})
    reads_instructions = True


class Preparing(Seeing):
    """Gets pictures as its own function made them, and tells them apart."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.prepare_image = np.asarray

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.stack(
            [vector_of(item if isinstance(item, str) else item["image"].tobytes().hex()) for item in inputs]
        )


class Constant(Single):
    """Tells no text from another, so that all passages tie."""

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.ones((len(inputs), 2), dtype=np.float32)


KINDS: list[Callable[[], Any]] = [Single, Multi, BM25]


def run_of(out: Path, task: str) -> bytes:
    """The run as it was written: two that are equal are so to the byte."""
    return (out / f"{task}.run.trec.gz").read_bytes()


def evaluated(made: Any, data: TaskData, out: Path, **options: Any) -> Result:
    """Evaluate quietly, and without images, so that retrievers of texts do every task."""
    return evaluate_task(made, data, out, TaskOptions(quiet=True, ignore_images=True, **options))


def kill(*_: Any, **__: Any) -> NoReturn:
    """Stand in for a function where the evaluation is to end; m2kr itself raises no error of this kind."""
    raise ZeroDivisionError("killed")


def with_settings(made: Single, **settings: Any) -> Single:
    """The retriever itself, with more settings."""
    made.settings = {**made.settings, **settings}
    return made


def sorted_by_id(data: TaskData) -> list[str]:
    """The texts of the passages in the order in which they are encoded."""
    return data.passages.sort("passage_id", descending=True)["passage_content"].to_list()


def comparable(path: Path) -> dict[str, Any]:
    """A written result without what differs from one evaluation to the next; a commit may be made between the two."""
    measured = ("seconds", "memory", "peak_memory", "reused", "commit")
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in measured}


def entry_points_of(fakes: Mapping[str, Any], made: list[Any]) -> list[Any]:
    """Entry points that make the fakes by name, and put each one that is made into ``made``."""

    class Point:
        def __init__(self, name: str, cls: Any) -> None:
            self.name, self.value, self.cls = name, f"tests:{name}", cls

        def load(self) -> Any:
            def make(**given: Any) -> Any:
                made.append(self.cls(**given))
                return made[-1]

            make.__signature__ = signature(self.cls)  # type: ignore[attr-defined]
            return make

    return [Point(name, cls) for name, cls in fakes.items()]
