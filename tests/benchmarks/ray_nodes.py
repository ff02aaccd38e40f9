"""Two nodes of Ray on one machine, and a command of ours that runs on them: what the scripts about Ray share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import psutil  # type: ignore[import-untyped]

from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.synthetic.write import generate
from m2kr.tasks import TASKS
from tests.m2kr.evaluating import comparable, run_of

PORT = 6399
ADDRESSES = ("10.99.77.1", "10.99.77.2")
SPACES = ("m2kr-a", "m2kr-b")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}


def world(folder: Path, scale: float, tasks: Sequence[str] = tuple(TASKS)) -> tuple[Path, Path]:
    """Return the raw releases of a made-up world, and the benchmark built of them."""
    raw, out = folder / "raw", folder / "m2kr"
    generate(raw, scale=scale, quiet=True)
    for name in tasks:
        build_task(task_inputs(TASKS[name], raw), out, quiet=True)
    return raw, out


def many_passages(built: Path, out: Path, count: int) -> Path:
    """Return MS MARCO's task with ``count`` passages: copies, most of which begin with another word."""
    shutil.copytree(built / "MSMARCO_data", out / "MSMARCO_data")
    (out / "MSMARCO_passages").mkdir()
    passages = pl.read_parquet(built / "MSMARCO_passages" / "test_passages-*.parquet")
    more = [passages] + [
        passages.with_columns(
            pl.format("{}-{}", "passage_id", pl.lit(number)),
            pl.format("{} {}", pl.lit(f"word{number % 50}"), "passage_content").alias("passage_content"),
        )
        for number in range(count // passages.height)
    ]
    pl.concat(more).head(count).write_parquet(out / "MSMARCO_passages" / "test_passages-00000-of-00001.parquet")
    return out


def evaluate(model: str, data: Path, out: Path, *more: str) -> list[str]:
    """Return the command that evaluates."""
    given = ["--model", model, "--data", str(data), "--out", str(out), "--device", "cpu", *more]
    return [sys.executable, "-m", "m2kr.evaluate", *given]


def equal(found: Path, expected: Path, task: str) -> bool:
    """Whether run and result are those expected, and nothing else was left beside them."""
    result = comparable(found / f"{task}.json")
    result.pop("ray", None)
    names = {path.name.partition(".")[0] for path in found.iterdir() if path.name != ".embeddings"}
    others = {path.stem for path in expected.glob("*.json")}
    return (
        run_of(found, task) == run_of(expected, task)
        and result == comparable(expected / f"{task}.json")
        and (names <= others)
    )


@dataclass
class Nodes:
    """Two nodes, each with a raylet and CPUs of its own, in network namespaces of their own where that works.

    Attributes:
        folder: for what Ray keeps; its path is to be short.
        cpus: of each node.
        apart: whether they are in network namespaces of their own, joined by a virtual cable.
    """

    folder: Path
    cpus: int = 1
    apart: bool = True
    _started: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Of the cluster."""
        return f"{self._at(0)}:{PORT}"

    @property
    def environment(self) -> dict[str, str]:
        """Of all processes."""
        return {**os.environ, **QUIET, "RAY_TMPDIR": str(self.folder)}

    def inside(self, node: int, command: Sequence[str]) -> list[str]:
        """Return a command that runs on a node."""
        return [*(["ip", "netns", "exec", SPACES[node]] if self.apart else []), *command]

    def start(self, node: int) -> None:
        """Start a node; the first is the head."""
        where = ["--head", f"--port={PORT}", "--include-dashboard=false"] if node == 0 else ["--address", self.address]
        own = [f"--node-ip-address={self._at(node)}", f"--num-cpus={self.cpus}", "--object-store-memory=100000000"]
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            *where,
            *own,
            "--disable-usage-stats",
            "--block",
        ]
        with (self.folder / f"node-{node}.log").open("ab") as log:
            self._started[node] = subprocess.Popen(
                self.inside(node, command), env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 90
        while not self.raylet(node):
            if self._started[node].poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"node {node} did not start:\n{(self.folder / f'node-{node}.log').read_text()}")
            time.sleep(0.2)
        time.sleep(3)  # until it is known to the head

    def raylet(self, node: int) -> psutil.Process | None:
        """Return the raylet of a node."""
        return next((each for each in self._below(node) if _named(each, "raylet/raylet")), None)

    def ours(self) -> list[psutil.Process]:
        """Return the processes of ours on both nodes."""
        return [each for node in self._started for each in self._below(node) if _named(each, "ray::Host")]

    def _below(self, node: int) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self._started[node].pid).children(recursive=True))
        return []

    def _at(self, node: int) -> str:
        return ADDRESSES[node] if self.apart else "127.0.0.1"

    def stop(self, node: int) -> None:
        """End a node with all its processes."""
        below = self._below(node)
        process = self._started.pop(node)
        for each in [*below, process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                each.kill()
        process.wait()

    def __enter__(self) -> Nodes:
        if self.apart:
            (one, other), (first, second) = SPACES, ADDRESSES
            for line in (
                f"netns add {one}",
                f"netns add {other}",
                f"link add m2kr-va netns {one} type veth peer name m2kr-vb netns {other}",
                f"-n {one} address add {first}/24 dev m2kr-va",
                f"-n {other} address add {second}/24 dev m2kr-vb",
                *(f"-n {space} link set {link} up" for space, link in zip(SPACES, ("m2kr-va", "m2kr-vb"), strict=True)),
                *(f"-n {space} link set lo up" for space in SPACES),
            ):
                if (
                    done := subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
                ).returncode:
                    self._apart_no_more()
                    raise SystemExit(f"ip {line}: {done.stderr.strip()}. Pass --together for nodes of one network.")
        try:
            for node in range(2):
                self.start(node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in sorted(self._started, reverse=True):
            self.stop(node)
        self._apart_no_more()

    def _apart_no_more(self) -> None:
        for space in SPACES if self.apart else ():
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


def _named(process: psutil.Process, name: str) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any(name in part for part in process.cmdline())
    return False


@contextmanager
def peaks(pid: int, found: dict[str, int]) -> Iterator[None]:
    """Watch the largest resident memory of a process, "driver", and of ours that Ray starts below it, "actor"."""
    import threading

    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(pid)
                seen: list[tuple[str, Any]] = [("driver", parent)]
                seen += [("actor", each) for each in parent.children(recursive=True) if _named(each, "ray::Host")]
                for name, each in seen:
                    with suppress(psutil.NoSuchProcess):
                        found[name] = max(found.get(name, 0), each.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
