"""`m2kr.metrics.kernels`: what is measured depends on no other query, and compiling is waited for by nobody else."""

from __future__ import annotations

import importlib.abc
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from m2kr.metrics import kernels
from m2kr.metrics.kernels import compile_kernels, compiled_ahead, measured
from m2kr.metrics.measures import MEASURES

NAMES = [f"{measure.ranx}@{k}" for measure in MEASURES if not measure.of_answers for k in (1, 3, 10, 50)]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that are started."""
    made: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def popen(*given: Any, **named: Any) -> subprocess.Popen[bytes]:
        made.append(start(*given, **named))
        return made[-1]

    monkeypatch.setattr(kernels.subprocess, "Popen", popen)
    return made


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As after an installation: numba has kept nothing, for processes that are started and those who look."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))


def drawn(queries: int) -> tuple[list[list[str]], list[list[str]]]:
    """Runs of 0 to 60 passages, and 0 to 40 positives of each query, found or not; passages may stand twice."""
    rng = np.random.default_rng(0)
    runs = [[f"p{number}" for number in rng.integers(90, size=rng.integers(60))] for _ in range(queries)]
    positives = [[f"p{number}" for number in rng.integers(120, size=rng.integers(40))] for _ in range(queries)]
    return runs, positives


def test_a_query_has_the_same_bits_whatever_stands_beside_it() -> None:
    runs, positives = drawn(60)
    together = measured(runs, [positives, positives[::-1]], NAMES)
    for query, run in enumerate(runs):
        alone = measured([run], [[positives[query]], [positives[::-1][query]]], NAMES)
        for name in NAMES:
            assert alone[name].tobytes() == together[name][:, query].tobytes()
    assert 0 < together["ndcg@10"].mean() < 1


def test_a_passage_that_a_shorter_run_lacks_is_not_found_by_the_length_of_a_longer_one() -> None:
    longer = [f"p{number}" for number in range(20)]
    values = measured([["a"], longer], [[["b", "c"], ["p19"]]], ["hit_rate@20", "mrr@20"])
    assert values["hit_rate@20"].tolist() == [[0.0, 1.0]]
    assert values["mrr@20"].tolist() == [[0.0, 1 / 20]]


def test_nothing_is_started_where_the_kernels_are_there(started: list[subprocess.Popen[bytes]]) -> None:
    compile_kernels()
    with compiled_ahead():
        assert not started


@pytest.mark.usefixtures("uncompiled")
def test_the_process_ends_with_the_block_and_prints_nothing(
    started: list[subprocess.Popen[bytes]], capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        with compiled_ahead():
            assert started[0].poll() is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert started[0].poll() is not None
    assert capfd.readouterr() == ("", "")
    with compiled_ahead(), compiled_ahead():
        assert len(started) == 2


@pytest.mark.usefixtures("uncompiled")
def test_scoring_waits_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Fake:
        def __init__(self, command: Sequence[str], **_: Any) -> None:
            told.append(f"start {command[2]}")

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: told.append(name)

    monkeypatch.setattr(kernels.subprocess, "Popen", Fake)
    with compiled_ahead():
        assert measured([["a"]], [[["a"]]], ["mrr@1", "mrr@2"])["mrr@1"].tolist() == [[1.0]]
    assert told == ["start m2kr.metrics.kernels", "wait", "kill", "communicate"]


@pytest.mark.usefixtures("uncompiled")
def test_without_a_process_scoring_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(kernels.subprocess, "Popen", fails)
    with compiled_ahead():
        assert measured([["a"]], [[["a"]]], ["mrr@1", "mrr@2"])["mrr@2"].tolist() == [[1.0]]


def test_the_process_ends_when_the_one_that_started_it_is_gone(tmp_path: Path) -> None:
    makeshift = tmp_path / "makeshift"
    makeshift.mkdir()
    command = [sys.executable, "-m", "m2kr.metrics.kernels", str(makeshift)]
    environment = {"PATH": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        process.stdin.close()  # as the system does when its other end is killed
        assert process.wait(60) == 1
    assert not makeshift.exists()


def test_the_process_compiles_after_work_that_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[int] = []
    ended = threading.Event()
    monkeypatch.setattr(kernels.os, "nice", given.append)
    monkeypatch.setattr(kernels.os, "_exit", lambda _: ended.set())
    monkeypatch.setattr(kernels, "_makeshift", None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    kernels.main(str(tmp_path))
    assert given == [5]
    assert ended.wait(60)


def test_where_numba_can_write_nowhere_the_kernels_go_to_a_folder_of_this_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Finder(importlib.abc.MetaPathFinder):
        """Fails as ranx does while numba has no folder."""

        def find_spec(self, name: str, *_: Any) -> None:
            if name == "ranx" and str(tmp_path) != numba.config.CACHE_DIR:
                raise RuntimeError("cannot cache function 'clean_qrels': no locator available")

    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(kernels, "_makeshift", str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "ranx", raising=False)
    assert measured([["a"]], [[["a"]]], ["mrr@1", "mrr@2"])["mrr@2"].tolist() == [[1.0]]
    assert str(tmp_path) == numba.config.CACHE_DIR
