"""Result files that were never computed, for tests: each possible, with every key, and some keys replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m2kr.results.answer_record import AnswerResult
from m2kr.results.record import Result
from m2kr.tasks import TASKS

_COMMON = {
    "format": 1,
    "task": "OKVQA",
    "split": "test",
    "queries": 1000,
    "dataset": "0123456789abcdef",
    "data_source": "folder",
    "synthetic": False,
    "limited": False,
    "nano": False,
    "seed": None,
    "ignored_inputs": [],
    "bad_images": None,
    "device": "cpu",
    "dtype": "float32",
    "batch_size": 32,
    "hardware": "x86_64, 2 cores",
    "peak_memory": 1 << 30,
    "versions": {"m2kr": "0.1.0"},
    "commit": None,
    "run_sha256": "0" * 64,
    "key": "fedcba9876543210",
}


def a_result(**changes: Any) -> dict[str, Any]:
    """Return a result of retrieval, of 1,000 queries; ``changes`` replace some keys."""
    task = TASKS.get(changes.get("task", "OKVQA"))
    headline = task.metrics if task else ()
    hits = {1: 0.2, 5: 0.43, 10: 0.55}
    metrics = {f"Recall@{k}": value for k, value in hits.items()}
    metrics |= {f"recall_fraction@{k}": value / 2 for k, value in hits.items()}
    if "PRecall@5" in headline:
        metrics |= {f"PRecall@{k}": value + 0.1 for k, value in hits.items()}
    result = {
        **_COMMON,
        "model": "my-model",
        "model_settings": {"k1": 1.2},
        "metrics": {**metrics, "MRR@10": 0.25, "nDCG@10": 0.125},
        "headline": list(headline),
        "passages": 5000,
        "queries_without_positive": 0,
        "queries_with_absent_positive": 0,
        "instructions": True,
        "search": "exact",
        "top_k": 500,
        "store_dtype": "float32",
        "quantisation": None,
        "passage_images": None,
        "pictures": None,
        "image_source": None,
        "batch_effect": {"passages": 1.2e-07, "queries": 3.4e-07},
        "seconds": {"search": 1.5},
        "reused": [],
        "memory": {"search": 1 << 30},
        **changes,
    }
    assert set(Result.__annotations__) <= set(result)
    return result


def a_quantised_result(**changes: Any) -> dict[str, Any]:
    """Return a result of the size of OKVQA whose passages were kept in 8 bits; ``changes`` replace some keys."""
    usual = {
        "metrics": {"Recall@5": 0.4321, "PRecall@5": 0.5, "MRR@10": 0.25, "nDCG@10": 0.125},
        "headline": ["Recall@5", "PRecall@5"],
        "queries": 5046,
        "passages": 114809,
        "store_dtype": "int8",
        "quantisation": {"k": 5, "queries": 200, "recall": 0.5, "recall_int8": 0.495, "passages": 2000},
    }
    return a_result(**{**usual, **changes})


def an_answer(**changes: Any) -> dict[str, Any]:
    """Return a result of answering 1,000 questions with the passages of a run; ``changes`` replace some keys."""
    source = changes.get("source", "run")
    metrics = {"OKVQA": {"VQA": 0.43}, "Infoseek": {"accuracy": 0.25}, "EVQA": {"EM": 0.125}}
    metrics = changes.get("metrics", metrics.get(changes.get("task", "OKVQA"), {}))
    result = {
        **_COMMON,
        "reader": "my-reader",
        "reader_settings": {"prompt": "Question: {question}"},
        "source": source,
        "retriever": "bm25" if source == "run" else None,
        "run_sha256": "0" * 64 if source == "run" else None,
        "k": 0 if source == "none" else 5,
        "combine": None if source == "none" else "joint",
        "metrics": metrics,
        "intervals": {name: [0.1, 0.9] for name in metrics},
        "headline": [name for name in ("VQA", "accuracy_harmonic", "accuracy", "BEM", "EM") if name in metrics],
        "image_source": "folder",
        "bem": {"checkpoint": "my-bem"} if "BEM" in metrics else None,
        "queries_without_passages": 1000 if source == "none" else 0,
        "seconds": 12.5,
        "predictions_sha256": "0" * 64,
        **changes,
    }
    result.setdefault("answers_key", "-".join(str(result[name]) for name in ("reader", "task", "retriever", "source")))
    assert set(AnswerResult.__annotations__) <= set(result)
    return result


def write(path: Path, result: dict[str, Any]) -> Path:
    """Write a result file, its folders too, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result), encoding="utf-8")
    return path


def change(path: Path, **values: Any) -> None:
    """Replace keys of a result file."""
    write(path, {**json.loads(path.read_text(encoding="utf-8")), **values})
