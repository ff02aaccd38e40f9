"""The whole made-up evaluation on the device: made, built, evaluated; and whether runs, answers and losses are the
CPU's. Scores on made-up data compare with no published figure.
"""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.gpu.bench import Bench, Part, check, name_of
from tests.benchmarks.gpu.results import Skipped

SCALE = 1.0
COMPARED = ("OKVQA", "MSMARCO")
"""Tasks that are run on the CPU too: one with pictures, one without."""

_MAKING = ("ijson", "rapidfuzz", "jinja2", "yaml", "datasets")
# Packages that making and building the data needs, beside those of the section.
_K, _SAME_FIRST, _SAME_LOSS = 10, 0.02, 1e-3


def parts(bench: Bench) -> dict[str, Part]:
    """Making the data, what is compared with the CPU, and all tasks."""
    from m2kr.tasks import TASKS

    tested = ["OKVQA"] if bench.tiny else [task.key for task in TASKS.values() if "test" in task.splits]
    return {
        "made-up data": partial(_make_data, bench),
        **{
            f"{name}, runs as the CPU's": partial(_runs, bench, name)
            for name in ("preflmr-mini", "dpr-mini", "clip-mini")[: 1 if bench.tiny else 3]
        },
        "reader-mini, answers as the CPU's": partial(_answers, bench),
        "stage 4 of preflmr-mini, losses as the CPU's": partial(_losses, bench),
        **{f"preflmr-mini, {key}": partial(_task, bench, key) for key in tested},
    }


def _make_data(bench: Bench) -> dict[str, Any]:
    from m2kr.tasks import TASKS

    start = time.perf_counter()
    if not _has_data(bench):
        if lacking := [name for name in _MAKING if find_spec(name) is None]:
            raise Skipped(
                f"{', '.join(lacking)} not installed: make the data elsewhere (python -m m2kr.synthetic, m2kr.build), "
                "and name their folders with --data and --images"
            )
        from m2kr.build.inputs import task_inputs
        from m2kr.build.task import build_task
        from m2kr.synthetic.write import generate

        bench.need(40, "making them")
        generate(bench.images, scale=SCALE, quiet=True)
        for task in TASKS.values():
            build_task(
                task_inputs(task, bench.images), bench.data, workers=os.cpu_count() or 1, rerun=False, quiet=True
            )
    return {"kind": "note", "note": f"ready in {time.perf_counter() - start:.0f} s"}


def _has_data(bench: Bench) -> bool:
    from m2kr.tasks import TASKS

    return bench.images.is_dir() and all((bench.data / task.data_config).is_dir() for task in TASKS.values())


def _need_data(bench: Bench) -> None:
    if not _has_data(bench):
        raise Skipped("there are no data to evaluate on: see made-up data")


def _task(bench: Bench, key: str) -> dict[str, Any]:
    """Evaluate as the command does where nothing is said: in bfloat16, with several processes for the pictures."""
    _need_data(bench)
    bench.need(5, key)
    dtype = torch.bfloat16
    rate = bench.rate(dtype)
    _, facts = _evaluated(bench, "preflmr-mini", str(bench.device), name_of(dtype), key)
    scored = find_spec("ranx") is not None
    return {"kind": "evaluation", "task": key, "dtype": name_of(dtype), "matrix_rate": rate, "scored": scored, **facts}


def _runs(bench: Bench, name: str) -> dict[str, Any]:
    """Compare runs in float32: by how many queries another passage comes first, and what that does to Recall@5."""
    _need_data(bench)
    bench.need(15, "runs on the CPU")
    keys = COMPARED[: 1 if bench.tiny or name == "clip-mini" else 2]
    queries = others = 0
    overlap = 0.0
    recall: dict[str, list[float]] = {}
    for key in keys:
        (one, first), (other, second) = (
            _evaluated(bench, name, device, "float32", key) for device in ("cpu", str(bench.device))
        )
        recall[key] = [first["Recall@5"], second["Recall@5"]]
        for mine, theirs in zip(one.passage_ids, other.passage_ids, strict=True):
            queries += 1
            others += mine[0] != theirs[0]
            overlap += len(set(mine[:_K]) & set(theirs[:_K])) / min(_K, len(mine))
    return check(
        others / queries, _SAME_FIRST, dtype="float32", queries=queries, overlap=overlap / queries, recall=recall
    )


def _evaluated(bench: Bench, name: str, device: str, dtype: str, key: str) -> tuple[Any, dict[str, Any]]:
    """Return the run of a task, and what is known of it; without ranx it is not scored, but for Recall@5."""
    from m2kr.dataset import load_task, nano_subset
    from m2kr.evaluate.options import TaskOptions
    from m2kr.evaluate.task import evaluate_task, retrieve_task
    from m2kr.results.run import Run
    from tests.benchmarks.gpu.correctness import MINIS

    data = load_task(key, bench.data, "test", images=bench.images)
    if bench.tiny:
        data = nano_subset(data, queries=4, passages=24)
    out = bench.work / f"{name}-{device.partition(':')[0]}-{dtype}"
    options = TaskOptions(
        device=device, dtype=dtype, rerun=True, quiet=True, workers=0 if bench.tiny else min(4, os.cpu_count() or 1)
    )
    start = time.perf_counter()
    facts: dict[str, Any] = {}
    retriever = MINIS[name](device=device, dtype=dtype)
    with bench.memory() as memory:
        if find_spec("ranx") is None:
            run, _ = retrieve_task(retriever, data, out, options)
        else:
            result = evaluate_task(retriever, data, out, options)
            run = Run.read_trec(next(out.glob(f"{key}*.run.trec.gz")))
            facts = {
                "phases": result["seconds"],
                "batch_effect": result["batch_effect"],
                "batch": result["batch_size"],
            }
    order = {query: row for row, query in enumerate(run.query_ids)}
    found = [run.passage_ids[order[query]][:5] for query in data.qrels]
    hits = [bool(set(own) & set(positives)) for own, positives in zip(found, data.qrels.values(), strict=True)]
    took = time.perf_counter() - start
    return run, {
        "seconds": took,
        "queries": len(hits),
        "passages": data.passages.height,
        "Recall@5": sum(hits) / len(hits),
        **memory,
        **facts,
    }


def _answers(bench: Bench) -> dict[str, Any]:
    """Compare the small reader's answers from positive passages: how many are others."""
    from baselines.minis import reader_mini
    from m2kr.dataset import load_task
    from m2kr.reader import ReaderInput

    _need_data(bench)
    bench.need(15, "answers")
    data = load_task("OKVQA", bench.data, "test", images=bench.images, limit=4 if bench.tiny else 64)
    texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
    asked = [
        ReaderInput(question or "", tuple(texts[name] for name in positives[:2]), data.query_image(row))
        for row, (question, positives) in enumerate(zip(data.queries["question"], data.qrels.values(), strict=True))
    ]
    sides = [reader_mini(device=device).answer(asked) for device in ("cpu", str(bench.device))]
    others = sum(one.text != other.text for one, other in zip(*sides, strict=True))
    return check(others / len(asked), _SAME_FIRST, dtype="float32", answers=len(asked))


def _losses(bench: Bench) -> dict[str, Any]:
    """Train a few updates through the command's own road, and compare the losses."""
    from baselines.common.settings import read_settings
    from baselines.minis.models import model_folder
    from baselines.preflmr.train import run_stage
    from baselines.preflmr.training.runs import read_done
    from baselines.preflmr.training.stages import StageConfig, config_file
    from m2kr.images.roots import parse_roots

    _need_data(bench)
    bench.need(15, "training")
    # The scale keeps the loss of a model that was trained on this kind of data from being near zero.
    changes = {
        "tasks": {"EVQA": 1.0}, "validate": [], "precision": "float32", "log_every": 1, "evaluate_every": 10,
        "accumulate": 1, "negatives": 1, "scale": 0.05, "learning_rate": 1e-4, "warmup_steps": 0,
        "steps": 2 if bench.tiny else 6, "batch_size": 4 if bench.tiny else 16, "mini_batch": 4,
    }  # fmt: skip
    config = read_settings(StageConfig, config_file(4), changes)
    losses = []
    for side in ("cpu", "device"):
        out = _emptied(bench.work / f"training-{side}")
        device = "cpu" if side == "cpu" else str(bench.device)
        images = parse_roots([str(bench.images)])
        run_stage(config, bench.data, out, init=model_folder("preflmr-mini"), images=images, device=device, quiet=True)
        done = read_done(out)
        assert done is not None
        losses.append([entry["loss"] for entry in done["log"] if "loss" in entry])
    off = max(abs(one - other) / max(1.0, abs(one)) for one, other in zip(*losses, strict=True))
    return check(off, _SAME_LOSS, dtype="float32", losses=losses)


def _emptied(folder: Path) -> Path:
    """Return a folder of this benchmark's own work, without what an earlier run left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder
