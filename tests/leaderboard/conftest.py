"""Result files for the leaderboard's tests: made up, and of real retrievers on the made-up world."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from baselines.bm25 import BM25
from leaderboard.models import records_by_name
from m2kr.answer.evidence import no_passages, oracle_passages, run_passages
from m2kr.answer.options import AnswerTaskOptions
from m2kr.answer.task import answer_task
from m2kr.dataset import load_task
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.reader import Answer, ReaderInput
from tests.made_results import a_result, an_answer, write

Maker = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _installed_models() -> None:
    """Forget which models there were where a test before has put others in the place of those installed."""
    records_by_name.cache_clear()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The folder of the result files that `make` and `make_answer` write."""
    (tmp_path / "results").mkdir(exist_ok=True)
    return tmp_path / "results"


@pytest.fixture
def make(results: Path) -> Maker:
    """Write a result file under ``results/<folder>/`` and return its path."""

    def made(folder: str = "my-model", *, name: str | None = None, **changes: Any) -> Path:
        result = a_result(**changes)
        return write(results / folder / (name or f"{result['task']}.json"), result)

    return made


@pytest.fixture
def make_answer(results: Path) -> Maker:
    """Write a result file of answering under ``results/<folder>/answers/my-reader/`` and return its path."""

    def made(folder: str = "bm25", *, name: str | None = None, **changes: Any) -> Path:
        result = an_answer(**changes)
        return write(results / folder / "answers" / "my-reader" / (name or f"{result['task']}.joint-5.json"), result)

    return made


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
            options = TaskOptions(ignore_images=True, quiet=True)
            evaluate_task(retriever, load_task(task, built), out / retriever.name, options)
    return out


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


@pytest.fixture
def submitted(answered: Path, tmp_path: Path) -> Path:
    """A copy of `answered` that may be changed."""
    return shutil.copytree(answered, tmp_path / "submitted")
