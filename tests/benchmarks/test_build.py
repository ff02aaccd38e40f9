"""Time and memory of building MSMARCO from 400,000 made-up passages, beside a plain `datasets.map` version.

    make bench     or     python -m pytest tests/benchmarks/test_build.py --override-ini addopts= -s

Each build runs in a process of its own, start included, and is measured as one: wall time, and the largest resident
memory that the kernel saw. The yardstick, map_build.py, does the same reading, joining, sampling and writing, without
the checks, hashes, quarantine and card that ours makes besides. Nothing here asserts a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from m2kr.synthetic.write import generate

SCALE = 200  # 400,000 passages, 150,000 judged queries
YARDSTICK = Path(__file__).with_name("map_build.py")

measured: dict[str, tuple[float, int]] = {}  # seconds and bytes, by what was measured


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("bench") / "raw"
    generate(root, scale=SCALE, releases=("msmarco",), quiet=True)
    yield root
    shutil.rmtree(root)


def sizes(out: Path) -> dict[str, int]:
    return {
        name: pl.scan_parquet(out / "/".join((config, f"{split}-*.parquet"))).select(pl.len()).collect().item()
        for name, config, split in (
            ("train", "MSMARCO_data", "train"),
            ("test", "MSMARCO_data", "test"),
            ("collection", "MSMARCO_passages", "train_passages"),
            ("pool", "MSMARCO_passages", "test_passages"),
        )
    }


def rounds_of(benchmark, measure, name: str, command: list[str], out: Path, rounds: int) -> dict[str, int]:
    found: list[tuple[float, int]] = []

    def once() -> None:
        shutil.rmtree(out, ignore_errors=True)
        found.append(measure(command))

    benchmark.pedantic(once, rounds=rounds)
    measured[name] = min(seconds for seconds, _ in found), max(peak for _, peak in found)
    benchmark.extra_info["peak_mib"] = round(measured[name][1] / 2**20)
    return sizes(out)


@pytest.mark.benchmark(group="build 400,000 passages")
def test_m2kr_build(benchmark, measure, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    command = ["m2kr.build", "--raw", str(raw), "--out", str(out), "--tasks", "MSMARCO", "--quiet"]
    assert rounds_of(benchmark, measure, "m2kr.build", command, out, rounds=3)["collection"] == 2_000 * SCALE


@pytest.mark.benchmark(group="build 400,000 passages")
def test_datasets_map(benchmark, measure, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "map"
    options = json.loads((raw / "msmarco" / "SYNTHETIC.json").read_text(encoding="utf-8"))["options"]["MSMARCO"]
    command = [str(YARDSTICK), str(raw / "msmarco"), str(out), str(options["pool"]), str(options["test_queries"])]
    found = rounds_of(benchmark, measure, "datasets.map", command, out, rounds=1)
    assert found == {
        "train": 600 * SCALE,
        "test": options["test_queries"],
        "collection": 2_000 * SCALE,
        "pool": options["pool"],
    }
    ours = measured.get("m2kr.build")
    if ours:
        print()
        for name, (seconds, peak) in measured.items():
            print(f"{name:14} {seconds:6.1f} s  {peak / 2**20:6.0f} MiB")
        print(f"datasets.map / m2kr.build: {measured['datasets.map'][0] / ours[0]:.1f} times the time, "
              f"{measured['datasets.map'][1] / ours[1]:.1f} times the memory")  # fmt: skip
