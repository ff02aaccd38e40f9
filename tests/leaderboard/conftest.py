"""Result files for the leaderboard's tests: made up, and of real retrievers on the made-up world."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from baselines.bm25 import BM25
from m2kr.answer.evidence import no_passages, oracle_passages, run_passages
from m2kr.answer.options import AnswerTaskOptions
from m2kr.answer.task import answer_task
from m2kr.dataset import load_task
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.reader import Answer, ReaderInput
from m2kr.results.answer_record import AnswerResult
from m2kr.results.record import Result
from m2kr.tasks import TASKS

Maker = Callable[..., Path]


def a_result(**changes: Any) -> dict[str, Any]:
    """A possible result of 1,000 queries with every key; ``changes`` replace some."""
    task = TASKS[changes.get("task", "OKVQA")]
    hits = {1: 0.2, 5: 0.43, 10: 0.55}
    metrics = {f"Recall@{k}": value for k, value in hits.items()}
    metrics |= {f"recall_fraction@{k}": value / 2 for k, value in hits.items()}
    if "PRecall@5" in task.metrics:
        metrics |= {f"PRecall@{k}": value + 0.1 for k, value in hits.items()}
    result = {
        "format": 1,
        "model": "my-model",
        "model_settings": {"k1": 1.2},
        "task": task.key,
        "split": "test",
        "metrics": {**metrics, "MRR@10": 0.25, "nDCG@10": 0.125},
        "headline": list(task.metrics),
        "queries": 1000,
        "passages": 5000,
        "queries_without_positive": 0,
        "dataset": "0123456789abcdef",
        "synthetic": False,
        "limited": False,
        "nano": False,
        "seed": None,
        "ignored_inputs": [],
        "instructions": True,
        "search": "exact",
        "top_k": 500,
        "device": "cpu",
        "dtype": "float32",
        "store_dtype": "float32",
        "quantisation": None,
        "batch_size": 32,
        "hardware": "x86_64, 2 cores",
        "seconds": {"search": 1.5},
        "reused": [],
        "memory": {"search": 1 << 30},
        "peak_memory": 1 << 30,
        "versions": {"m2kr": "0.1.0"},
        "commit": None,
        "run_sha256": "0" * 64,
        "key": "fedcba9876543210",
        **changes,
    }
    assert not set(Result.__annotations__) - set(result)
    return result


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Write a result file under ``results/<folder>/`` and return its path."""

    def write(folder: str = "my-model", *, name: str | None = None, **changes: Any) -> Path:
        result = a_result(**changes)
        path = tmp_path / "results" / folder / (name or f"{result['task']}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result), encoding="utf-8")
        return path

    return write


class FirstWords(BM25):
    """BM25 that sees the beginning of a passage only, which is worse."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "first-words"
        self.settings = {**self.settings, "characters": 80}

    def index(self, passages: Sequence[str]) -> None:
        super().index([passage[:80] for passage in passages])


@pytest.fixture(scope="session")
def evaluated(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two retrievers on OKVQA and MSMARCO of the made-up world, with their runs. Not to be changed."""
    out = tmp_path_factory.mktemp("evaluated") / "results"
    for retriever in (BM25(), FirstWords()):
        for task in ("OKVQA", "MSMARCO"):
            evaluate_task(
                retriever, load_task(task, built), out / retriever.name, TaskOptions(ignore_images=True, quiet=True)
            )
    return out


def an_answer(**changes: Any) -> dict[str, Any]:
    """A possible result of answering 1,000 questions with every key; ``changes`` replace some."""
    task = changes.get("task", "OKVQA")
    bare = changes.get("source") == "none"
    metrics = {"OKVQA": {"VQA": 0.43}, "Infoseek": {"accuracy": 0.25}, "EVQA": {"EM": 0.125}}[task]
    run = changes.get("source", "run") == "run"
    result = {
        "format": 1,
        "reader": "my-reader",
        "reader_settings": {"prompt": "Question: {question}"},
        "source": "run",
        "retriever": "bm25" if run else None,
        "run_sha256": "0" * 64 if run else None,
        "k": 0 if bare else 5,
        "combine": None if bare else "joint",
        "task": task,
        "split": "test",
        "metrics": metrics,
        "intervals": {name: [value - 0.03, value + 0.03] for name, value in metrics.items()},
        "headline": list(metrics),
        "bem": None,
        "queries": 1000,
        "queries_without_passages": 1000 if bare else 0,
        "dataset": "0123456789abcdef",
        "synthetic": False,
        "limited": False,
        "nano": False,
        "seed": None,
        "ignored_inputs": [],
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 8,
        "hardware": "x86_64, 2 cores",
        "seconds": 12.5,
        "peak_memory": 1 << 30,
        "versions": {"m2kr": "0.1.0"},
        "commit": None,
        "predictions_sha256": "0" * 64,
        "key": "fedcba9876543210",
        **changes,
    }
    result.setdefault("answers_key", "-".join(str(result[name]) for name in ("reader", "task", "retriever", "source")))
    assert not set(AnswerResult.__annotations__) - set(result)
    return result


@pytest.fixture
def make_answer(tmp_path: Path) -> Maker:
    """Write a result file of answering under ``results/<folder>/answers/my-reader/`` and return its path."""

    def write(folder: str = "bm25", *, name: str | None = None, **changes: Any) -> Path:
        result = an_answer(**changes)
        path = tmp_path / "results" / folder / "answers" / "my-reader" / (name or f"{result['task']}.joint-5.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result), encoding="utf-8")
        return path

    return write


class Seeker:
    """A reader that knows the answers, and gives one that stands in its passages; else says that it does not know."""

    name = "seeker"
    reads = frozenset({"text"})

    def __init__(self, known: dict[str, list[str]]) -> None:
        self.known = known
        self.settings: dict[str, Any] = {"prompt": "what?"}

    def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
        found = []
        for item in asked:
            text = " ".join(item.passages).lower()
            there = [word for word in self.known.get(item.question, ()) if word.lower() in text]
            found.append(Answer(there[0], -0.1) if there else Answer("unknown", -0.5))
        return found


@pytest.fixture(scope="session")
def answered(evaluated: Path, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`evaluated`, and answers of one reader without passages, with those of both and the positive. As read-only."""
    out = tmp_path_factory.mktemp("answered") / "results"
    shutil.copytree(evaluated, out)
    for task in ("OKVQA", "EVQA"):
        data = load_task(task, built)
        assert data.answers is not None
        reader = Seeker(dict(zip(data.queries["question"], data.answers.values(), strict=True)))
        given = {"no-retrieval": no_passages(data), "oracle": oracle_passages(data, 3, allow_missing=True)}
        for name in ("bm25", "first-words") if task == "OKVQA" else ():
            given[name] = run_passages(data, out / name / f"{task}.run.trec.gz", 3)
        for folder, evidence in given.items():
            answer_task(reader, data, evidence, out / folder, AnswerTaskOptions(k=3, ignore_images=True, quiet=True))
    return out
