"""`python -m m2kr.evaluate` from start to result, as a process of its own: bm25 and a small encoder, on made-up data.

    python -m pytest tests/benchmarks/test_evaluate.py --override-ini addopts= --import-mode=importlib -s

The 1,000 passages and 110 test queries of the synthetic MSMARCO at scale 1. The phases and their peak memory are those
of the result file; the rest of a run is Python starting and libraries loading. Nothing here asserts a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.synthetic.write import generate
from m2kr.tasks import TASKS

Measure = Callable[[list[str]], tuple[float, int]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    generate(root / "raw", scale=1, releases=("msmarco",), quiet=True)
    build_task(task_inputs(TASKS["MSMARCO"], root / "raw"), root / "m2kr", quiet=True)
    return root / "m2kr"


@pytest.mark.benchmark(group="evaluate MSMARCO, made up")
@pytest.mark.parametrize("model", ["bm25", "all-minilm-l6-v2"])
def test_evaluate(benchmark: Any, measure: Measure, data: Path, tmp_path: Path, model: str) -> None:
    out = tmp_path / "results"
    command = [
        "m2kr.evaluate",
        "--model",
        model,
        "--data",
        str(data),
        "--tasks",
        "MSMARCO",
        "--out",
        str(out),
        "--quiet",
    ]
    found: list[tuple[float, int, dict[str, Any]]] = []

    def once() -> None:
        shutil.rmtree(out, ignore_errors=True)
        seconds, peak = measure(command)
        result = next(out.glob("*/MSMARCO.json"))
        found.append((seconds, peak, json.loads(result.read_text(encoding="utf-8"))))

    benchmark.pedantic(once, rounds=2)
    seconds, peak, result = min(found, key=lambda one: one[0])
    assert result["metrics"] == found[0][2]["metrics"]
    assert result["run_sha256"] == found[0][2]["run_sha256"]
    phases = result["seconds"]
    benchmark.extra_info.update(phases, peak_mib=peak >> 20)
    print(
        f"\n{model}: {result['queries']:,} queries, {result['passages']:,} passages: {seconds:.1f} s, {peak >> 20} MiB"
    )
    for phase, took in phases.items():
        print(f"  {phase:16} {took:8.2f} s  {result['memory'][phase] >> 20:6} MiB")
    print(f"  {'start, load, end':16} {seconds - sum(phases.values()):8.2f} s")
