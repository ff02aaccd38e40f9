"""Every command says in one line why it could not write: the disk is full, read-only, forbidden, a name too long."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baselines.preflmr.training.runs import run_training
from leaderboard.__main__ import main as leaderboard
from m2kr.build.__main__ import main as build
from m2kr.dataset import load_task
from m2kr.errors import REMEDIES, M2KRError, run_command
from m2kr.evaluate.__main__ import main as evaluate
from m2kr.export.__main__ import main as export
from m2kr.images.__main__ import main as images
from m2kr.results.run import Run
from m2kr.score import main as score
from m2kr.synthetic.__main__ import main as synthetic
from tests.kills import Fault
from tests.made_results import a_result, write

Main = Callable[[Any], int]
COMMANDS = [
    "build",
    "pack",
    "trec",
    "mteb",
    "mteb-results",
    "synthetic",
    "site",
    "evaluate",
    "encode",
    "score",
    "train",
]


def train(arguments: list[str]) -> int:
    def stop(*_: Any) -> Any:
        raise AssertionError("it wrote, and trains")

    run_training(Path(arguments[-1]), {"seed": 1}, stop, stop, quiet=True)
    return 0


class FullTrainer:
    """A trainer whose disk is full when torch writes a checkpoint."""

    def add_callback(self, _: Any) -> None: ...

    def remove_callback(self, _: Any) -> None: ...

    def train(self, **_: Any) -> None:
        raise RuntimeError(
            "[enforce fail at x.cc:1] . PytorchStreamWriter failed writing file data/0: file write failed"
        )


def test_a_checkpoint_that_torch_cannot_write_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        M2KRError, match=r"run.checkpoints could not be written .*PytorchStreamWriter.* Free some space"
    ):
        run_training(tmp_path / "run", {"seed": 1}, lambda _: FullTrainer(), lambda _: {}, quiet=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


@pytest.fixture
def commands(world: Path, built: Path, tmp_path: Path, registered: list[Any]) -> dict[str, tuple[Main, list[Any]]]:
    """Commands by name, without where they write to."""
    results = write(tmp_path / "results" / "my-model" / "OKVQA.json", a_result(synthetic=True)).parents[1]
    loaded = load_task("MSMARCO", built)
    run = {loaded.queries["question_id"][0]: {loaded.passages["passage_id"][0]: 1.0}}
    Run.from_dict(run).write_trec(tmp_path / "run.trec.gz", "x")
    data = ["--data", built, "--quiet"]
    return {
        "build": (build, ["--raw", world, "--tasks", "MSMARCO", "--quiet"]),
        "pack": (images, ["pack", *data, "--tasks", "OKVQA", "--images", world]),
        "trec": (export, [built, "--to", "trec", "--tasks", "MSMARCO", "--quiet"]),
        "mteb": (export, [built, "--to", "mteb", "--tasks", "MSMARCO", "--quiet"]),
        "mteb-results": (export, [results, "--to", "mteb-results", "--quiet"]),
        "synthetic": (synthetic, ["--scale", "0.1", "--releases", "msmarco", "--quiet"]),
        "site": (leaderboard, ["--results", results, "--quiet"]),
        "evaluate": (evaluate, ["--model", "bm25", *data, "--tasks", "MSMARCO"]),
        "encode": (evaluate, ["--model", "single", *data, "--tasks", "MSMARCO", "--keep-embeddings"]),
        "score": (score, [*data, "--task", "MSMARCO", "--run", tmp_path / "run.trec.gz", "--name", "x"]),
        "train": (train, []),
    }


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("code", "number"),
    [(errno.ENOSPC, 9), (errno.ENOSPC, 3), (errno.EROFS, 1), (errno.EACCES, 2), (errno.ENAMETOOLONG, 5)],
    ids=lambda value: errno.errorcode.get(value, "") if value > 20 else str(value),
)
def test_a_command_that_cannot_write_says_why_in_a_line(
    commands: dict[str, tuple[Main, list[Any]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: int,
    number: int,
) -> None:
    main, arguments = commands[name]
    under = tmp_path / "under"
    under.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, under, number, code)
        exit_code = run_command(main, [*map(str, arguments), "--out", str(under / "out")])
    printed = capsys.readouterr()
    if fault.count < number:
        assert number > 5, "it writes no more than that"
        return
    assert exit_code == 2
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("error: ")
    assert os.strerror(code) in printed.err
    assert REMEDIES[code] in printed.err
    assert str(under) in printed.err
