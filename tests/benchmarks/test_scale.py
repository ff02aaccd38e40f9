"""Time and peak memory of the converters on millions of rows, and on half as many: flat memory, linear time.

    python -m pytest tests/benchmarks/test_scale.py --override-ini addopts= --import-mode=importlib -s

Raw files come from made_raw.py. Each build is one process, start included. Nothing here asserts a time; memory is
asserted, since 2 GB is promised. M2KR_BENCH_SHARE=0.1 makes everything a tenth as large.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from m2kr.formats.manifest import read_manifest
from m2kr.sources.wit_rows import COLUMNS as WIT_COLUMNS

HERE = Path(__file__).parent
SHARE = float(os.environ.get("M2KR_BENCH_SHARE", "1"))
LIMIT = 2 << 30


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made = _load("made_raw")


def make_wit(root: Path, rows: int) -> list[str]:
    train, val = (f"wit_v1.train.all-{0:05d}-of-00010.tsv.gz", f"wit_v1.val.all-{0:05d}-of-00005.tsv.gz")
    made.wit(root / "wit", rows, WIT_COLUMNS, {train: 95, val: 5})
    return ["WIT"]


def make_blocks(root: Path, rows: int) -> list[str]:
    titles = rows // 20
    made.blocks(root / "wikipedia" / "psgs_w100.tsv", rows, titles)
    made.okvqa(root / "okvqa", (5_000, 5_000), titles)
    return ["OKVQA"]


def make_infoseek(root: Path, rows: int) -> list[str]:
    titles = rows // 20
    made.blocks(root / "wikipedia" / "psgs_w100.tsv", rows, titles)
    made.infoseek(root / "infoseek", (20_000, 20_000), titles)
    return ["Infoseek"]


def make_evqa(root: Path, rows: int) -> list[str]:
    made.evqa(root / "evqa", rows, dict.fromkeys(("train", "val", "test"), 10_000), made.EVQA_COLUMNS)
    return ["EVQA"]


@pytest.mark.benchmark(group="scale")
@pytest.mark.parametrize(
    ("make", "rows"),
    [(make_wit, 2_000_000), (make_evqa, 200_000), (make_blocks, 2_000_000), (make_infoseek, 2_000_000)],
    ids=["WIT", "EVQA", "OKVQA", "Infoseek"],
)
def test_memory_is_flat_and_time_linear(
    benchmark, measure: Callable[[list[str]], tuple[float, int]], tmp_path: Path, make, rows: int
) -> None:
    found = []
    for size in (int(rows * SHARE) // 2, int(rows * SHARE)):
        root, out = tmp_path / f"raw{size}", tmp_path / f"out{size}"
        (task,) = make(root, size)
        command = ["m2kr.build", "--raw", str(root), "--out", str(out), "--tasks", task, "--allow-missing", "--quiet"]
        if size == int(rows * SHARE):
            benchmark.pedantic(lambda command=command: found.append(measure(command)), rounds=1)
        else:
            found.append(measure(command))
        seconds, peak = found[-1]
        configs = read_manifest(out)["tasks"][task]["configs"]
        counted = {split: facts["rows"] for splits in configs.values() for split, facts in splits.items()}
        print(f"\n{task:9} {size:9,} rows: {seconds:6.1f} s  {peak / 2**20:6.0f} MiB  {counted}")
        assert peak < LIMIT
        if task == "WIT" and size == int(rows * SHARE):
            plain = measure([str(HERE / "arrow_wit.py"), str(root / "wit"), str(tmp_path / "plain")])
            print(f"          pyarrow read and write: {plain[0]:.1f} s  {plain[1] / 2**20:.0f} MiB; "
                  f"ours takes {seconds / plain[0]:.2f} times as long")  # fmt: skip
        shutil.rmtree(root)
        shutil.rmtree(out)
    (half, half_peak), (whole, whole_peak) = found
    print(f"          twice the rows: {whole / half:.2f} times the time, {whole_peak / half_peak:.2f} times the memory")
