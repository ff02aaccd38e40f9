"""Result files for the leaderboard's tests: made up, and of a real retriever on the made-up world."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from baselines.bm25 import BM25
from m2kr.dataset import load_task
from m2kr.evaluate import evaluate_task
from m2kr.results import Result
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
            evaluate_task(retriever, load_task(task, built), out / retriever.name, ignore_images=True, quiet=True)
    return out
