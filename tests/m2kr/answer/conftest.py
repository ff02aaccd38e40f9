"""Runs that the tests of answering read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from baselines.bm25 import BM25
from m2kr.dataset import load_task
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task


@pytest.fixture(scope="session")
def evaluated(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of BM25 on two tasks. Not to be changed."""
    out = tmp_path_factory.mktemp("results") / "bm25"
    for task in ("OKVQA", "EVQA"):
        evaluate_task(BM25(), load_task(task, built), out, TaskOptions(top_k=20, ignore_images=True, quiet=True))
    return out


@pytest.fixture
def results(evaluated: Path, tmp_path: Path) -> Path:
    """The folder above them, for a test to write to."""
    shutil.copytree(evaluated, tmp_path / "results" / "bm25")
    return tmp_path / "results"


@pytest.fixture
def run(results: Path) -> Path:
    """The run of one of them, for a test to change."""
    return results / "bm25" / "OKVQA.run.trec.gz"
