"""`--ray`: a cluster of two nodes on this machine, whose processes and nodes are killed."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import psutil  # type: ignore[import-untyped]
import pytest

from m2kr.answer.__main__ import main as answer
from m2kr.common.work import Note
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.__main__ import main
from m2kr.evaluate.encode import CHUNK
from tests.m2kr.evaluating import comparable, run_of

pytest.importorskip("ray", reason='needs Ray: pip install "m2kr[ray]"')

INTERRUPTED = "interrupted; what was finished is kept, and the same command goes on from there"
OWN = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
# Of a node.


@pytest.fixture(autouse=True)
def _each_input_once() -> None:
    """Here samples of inputs are encoded twice, as nobody counts them: the fixture of `conftest` does not apply."""


@pytest.fixture(scope="module", autouse=True)
def _by_itself() -> Iterator[None]:
    """Let Ray neither call home nor keep its notes of a session where it finds them later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or a file in the home folder decides
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    """The first of two nodes, the head, which no test kills: pytest would die with it."""
    from ray.cluster_utils import Cluster

    soon = {"health_check_period_ms": 200, "health_check_failure_threshold": 5}  # a dead one refuses at once
    made = Cluster(initialize_head=True, head_node_args={**OWN, "_system_config": soon})
    yield made
    made.shutdown()


@pytest.fixture
def cluster(started: Any) -> Any:
    """Two nodes, with another second one where a test has killed it."""
    for node in [node for node in started.worker_nodes if not node.remaining_processes_alive()]:
        started.remove_node(node)
    if not started.worker_nodes:
        started.add_node(**OWN)
    return started


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The retriever, in a folder where tests say what it is to do."""
    file = tmp_path_factory.mktemp("model") / "hashing_elsewhere.py"
    shutil.copyfile(Path(__file__).with_name("remote_model.py"), file)
    return file


@pytest.fixture(scope="module")
def large(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MS MARCO's task with so many passages that they are four blocks, many of them equal."""
    out = tmp_path_factory.mktemp("large")
    shutil.copytree(built / "MSMARCO_data", out / "MSMARCO_data")
    (out / "MSMARCO_passages").mkdir()
    passages = pl.read_parquet(built / "MSMARCO_passages" / "test_passages-*.parquet")
    copies = 3 * CHUNK // passages.height + 1
    more = [
        passages.with_columns(
            pl.format("{}-{}", "passage_id", pl.lit(number)),
            passage_content=pl.when(pl.int_range(pl.len()) % 3 > 0)
            .then(pl.format("{} {}", "passage_content", pl.lit(f"word{number % 50}")))
            .otherwise("passage_content"),
        )
        for number in range(copies)
    ]
    pl.concat([passages, *more]).write_parquet(out / "MSMARCO_passages" / "test_passages-00000-of-00001.parquet")
    return out


def command(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return ["--model", f"{model}:Hashing", "--data", str(data), "--out", str(out), "--device", "cpu", *more]


@pytest.fixture(scope="module")
def expected(model: Path, large: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of `large`."""
    out = tmp_path_factory.mktemp("expected")
    main([*command(model, large, out), "--quiet"])
    return out / "hashing"


def ours() -> list[psutil.Process]:
    """The processes of ours that a Ray of this session runs."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # which one that has ended is, too
            if any("Host" in part for part in process.cmdline()):
                found.append(process)
    return found


def assert_equal(found: Path, expected: Path, task: str = "MSMARCO") -> None:
    assert lines_of(found, task) == lines_of(expected, task)  # which says where they differ
    assert run_of(found, task) == run_of(expected, task)
    result = comparable(found / f"{task}.json")
    result.pop("ray")
    assert result == comparable(expected / f"{task}.json")


def lines_of(out: Path, task: str) -> list[str]:
    """The lines of a run."""
    return gzip.decompress(run_of(out, task)).decode().splitlines()


def assert_tidy(out: Path, task: str) -> None:
    """Nothing but a task's result and run is there, and no working folder."""
    assert {path.name.partition(".")[0] for path in out.iterdir()} == {task}


def test_ctrl_c_ends_a_local_cluster_with_one_line(
    model: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (model.parent / "wait").touch()
    argv = [*command(model, large, tmp_path), "--ray", "local", "--ray-actors", "1", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "m2kr.evaluate", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while (model.parent / "wait").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    assert below
    os.killpg(process.pid, signal.SIGINT)
    said, told = process.communicate(timeout=60)
    assert (process.returncode, said, told.splitlines()) == (130, "", [INTERRUPTED])
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive
    assert not (tmp_path / "home" / ".ray").exists()
    assert not list(Path("/tmp").glob(f"m2kr-ray-{process.pid}-*"))


def test_every_task_with_its_pictures_is_as_in_one_process(
    cluster: Any, model: Path, built: Path, world: Path, tmp_path: Path
) -> None:
    given = ["--images", str(world), "--quiet", "--top-k", "50"]
    main([*command(model, built, tmp_path / "one"), *given])
    main([*command(model, built, tmp_path / "more"), *given, "--ray", cluster.address])
    tasks = sorted(path.stem for path in (tmp_path / "one" / "hashing").glob("*.json"))
    assert len(tasks) == 9
    for task in tasks:
        assert_equal(tmp_path / "more" / "hashing", tmp_path / "one" / "hashing", task)


def test_answers_are_those_of_one_process(cluster: Any, model: Path, built: Path, world: Path, tmp_path: Path) -> None:
    given = ["--reader", f"{model}:Answering", "--data", str(built), "--tasks", "OKVQA", "--no-retrieval"]
    given += ["--images", str(world), "--device", "cpu", "--quiet"]
    answer([*given, "--out", str(tmp_path / "one")])
    answer([*given, "--out", str(tmp_path / "more"), "--ray", cluster.address])
    one, more = (tmp_path / name / "no-retrieval" / "answers" / "answering" for name in ("one", "more"))
    told = comparable(more / "OKVQA.json")
    assert told.pop("ray")["nodes"] == 2
    assert told == comparable(one / "OKVQA.json")
    name = "OKVQA.predictions.jsonl"
    assert (more / name).read_bytes() == (one / name).read_bytes()


def test_what_cannot_be_encoded_ends_it_with_the_line_of_one_process(
    cluster: Any, model: Path, large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*more: str) -> str:
        (model.parent / "not-finite").touch()
        assert run_command(main, [*command(model, large, tmp_path), "--quiet", *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    alone = told("--store-dtype", "float16")
    assert "row 7 hold NaN" in alone
    found = told("--store-dtype", "float16", "--ray", cluster.address, "--ray-actors", "1")
    assert re.fullmatch(rf"node [\d.]+: {re.escape(alone)}", found)
    _, alive = psutil.wait_procs(ours(), timeout=30)
    assert not alive


def test_too_large_processes_are_refused(cluster: Any, model: Path, large: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match=r"no machine has room for a process of 64 CPUs and 0 GPUs: .* has 1 CPUs"):
        main([*command(model, large, tmp_path), "--quiet", "--ray", cluster.address, "--ray-cpus", "64"])


def test_results_are_those_of_one_process_whatever_dies(
    cluster: Any, model: Path, large: Path, expected: Path, tmp_path: Path
) -> None:
    """The command; and while it is given again, a process of ours and a node."""
    (model.parent / "wait").touch()  # one block is never done, while the other process does the rest
    argv = [*command(model, large, tmp_path), "--ray", cluster.address, "--ray-actors", "2"]
    process = subprocess.Popen([sys.executable, "-m", "m2kr.evaluate", *argv, "--quiet"], start_new_session=True)
    done: list[int] = []
    deadline = time.monotonic() + 120
    while len(done) < 2 and time.monotonic() < deadline and process.poll() is None:
        done = [first for note in tmp_path.rglob("blocks.json") for first in Note(note).facts.get("done", ())]
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert len(done) >= 2
    for what in ("kill-actor", "kill-node"):
        (model.parent / what).touch()
    made = subprocess.run([sys.executable, "-m", "m2kr.evaluate", *argv], capture_output=True, text=True, check=True)
    again = [line for line in made.stderr.splitlines() if line.endswith("is gone, so it is done again")]
    assert len(again) >= 2
    assert not [line for line in again for first in done if f"passages {first:,} to" in line]  # what was done is kept
    assert "ray" not in made.stdout
    assert_equal(tmp_path / "hashing", expected)
    assert_tidy(tmp_path / "hashing", "MSMARCO")
