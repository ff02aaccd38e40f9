"""The commands that are tortured, each on the smallest work that takes every way through it, and what they read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

TIMES = {
    *("seconds", "cpu_seconds", "memory", "peak_memory", "reused", "resumed"),
    *("eval_runtime", "eval_samples_per_second", "eval_steps_per_second"),
}
"""Keys of JSON files whose values differ from run to run."""

_TRAINING = (
    "batch_size=2 learning_rate=1e-3 negatives=1 mined=0 precision=float32 steps=4 warmup_steps=0 schedule=constant "
    "accumulate=1 mini_batch=0 tasks=MSMARCO validate=MSMARCO valid_queries=4 valid_passages=8 evaluate_every=2 "
    "log_every=1"
)


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        name: in the table.
        module: has ``main``.
        arguments: with IN for the folder of inputs and OUT for that of outputs.
        reads: patterns of the files under IN that may be damaged.
        other: arguments of different work that goes into the same OUT.
        mixes: arguments of parts of that other work, each of which is whole beside the rest of the first.
        imports: modules, which it imports where it uses them, and which take long.
        exact: whether it is refused, or gives the same bytes, where a table is damaged.
    """

    name: str
    module: str
    arguments: str
    reads: tuple[str, ...]
    other: str = ""
    mixes: tuple[str, ...] = ()
    exact: bool = True
    imports: str = "m2kr.evaluate.task"

    def argv(self, inputs: Path, out: Path, *, more: str = "") -> list[str]:
        """Return the arguments for these folders, and more."""
        text = f"{self.arguments} {more}"
        return [word.replace("IN/", f"{inputs}/").replace("OUT", str(out)) for word in text.split()]

    def main(self) -> Any:
        """Return the function that runs it."""
        return import_module(self.module).main


_TABLES = ("data/manifest.json", "data/*/*.parquet")
_EVALUATE = "--data IN/data --out OUT --quiet --tasks OKVQA"
_SETTINGS = " ".join(f"--set {setting}" for setting in _TRAINING.split())

COMMANDS = (
    Command(
        "synthetic",
        "m2kr.synthetic.__main__",
        "--out OUT/raw --scale 0.01 --releases okvqa --quiet",
        (),
        "--seed 1",
        imports="m2kr.synthetic.write",
    ),
    Command(
        "build",
        "m2kr.build.__main__",
        "--raw IN/raw --out OUT --tasks MSMARCO,OKVQA --workers 1 --quiet",
        ("raw/okvqa/*", "raw/msmarco/*", "raw/wikipedia/*", "raw/*/SYNTHETIC.json"),
        "--seed 1",
        ("--seed 1 --tasks MSMARCO", "--seed 1 --tasks OKVQA"),
        exact=False,
        imports="m2kr.build.task m2kr.formats.croissant m2kr.formats.dataset_card",
    ),
    Command(
        "pack",
        "m2kr.images.__main__",
        "pack --data IN/data --images IN/raw --tasks OKVQA --out OUT --quiet",
        (*_TABLES, "raw/coco/*/*"),
        exact=False,
        imports="m2kr.images.pack datasets",
    ),
    Command(
        "check",
        "m2kr.check",
        "IN/data --quiet --workers 1",
        (*_TABLES, "data/*_images/*"),
        imports="m2kr.formats.rules pyarrow.parquet",
    ),
    Command(
        "evaluate bm25", "m2kr.evaluate.__main__", f"--model bm25 --ignore-images {_EVALUATE}", _TABLES, "--top-k 7"
    ),
    Command(
        "evaluate preflmr-mini",
        "m2kr.evaluate.__main__",
        f"--model preflmr-vit-b --checkpoint IN/models/preflmr-mini --nano --images IN/raw --workers 0 {_EVALUATE}",
        (*_TABLES, "models/preflmr-mini/*", "models/preflmr-mini/*/*"),
        "--seed 1",
        imports="m2kr.evaluate.task baselines.preflmr.preflmr",
    ),
    Command(
        "score",
        "m2kr.score",
        "--data IN/data --task OKVQA --run IN/results/bm25/OKVQA.run.trec.gz --name mine --out OUT --quiet",
        (*_TABLES, "results/bm25/*.gz"),
        "--top-k 7",
    ),
    Command(
        "ask",
        "m2kr.ask",
        "--model preflmr-vit-b --checkpoint IN/models/preflmr-mini --data IN/data --task OKVQA --question what --out "
        "OUT --quiet",
        (*_TABLES, "models/preflmr-mini/*", "models/preflmr-mini/*/*"),
        imports="m2kr.dataset m2kr.search.exact m2kr.evaluate.encode m2kr.evaluate.task baselines.preflmr.preflmr",
    ),
    Command(
        "answer",
        "m2kr.answer.__main__",
        "--reader IN/models/reader-mini --run-dir IN/results/bm25 --data IN/data --images IN/raw --tasks OKVQA "
        "--limit 8 --k 2 --out OUT --quiet",
        (*_TABLES, "results/bm25/*", "models/reader-mini/*"),
        imports="m2kr.answer.task baselines.minis.reader baselines.image_text_to_text",
    ),
    *(
        Command(f"export {form}", "m2kr.export.__main__", f"IN/data --to {form} --out OUT --quiet{more}", _TABLES)
        for form, more in (("trec", ""), ("beir", ""), ("mteb", " --tasks OKVQA"))
    ),
    Command(
        "export mteb-results", "m2kr.export.__main__", "IN/results --to mteb-results --out OUT --quiet",
        ("results/bm25/*.json",), exact=False,
    ),
    Command(
        "leaderboard",
        "leaderboard.__main__",
        "--results IN/results --out OUT/site --data IN/data --images IN/raw --queries 3 --quiet",
        (*_TABLES, "results/*/*.json", "results/*/*.gz", "results/*/answers/*/*"),
        imports="leaderboard.site matplotlib.pyplot m2kr.dataset",
        exact=False,
    ),
    Command(
        "train",
        "baselines.preflmr.train",
        f"--stage 1 --init IN/models/preflmr-mini --data IN/data --out OUT/run --quiet {_SETTINGS}",
        (*_TABLES, "models/preflmr-mini/*", "models/preflmr-mini/*/*"),
        "--set seed=1",
        imports="baselines.preflmr.training.trainer",
    ),
)  # fmt: skip


def make_inputs(inputs: Path, commands: Sequence[Command]) -> None:
    """Write what some commands read: raw files, a benchmark with packed pictures, models, results."""
    from baselines.minis.models import model_folder
    from m2kr.answer.__main__ import main as answer
    from m2kr.build.__main__ import main as build
    from m2kr.evaluate.__main__ import main as evaluate
    from m2kr.images.__main__ import main as pack
    from m2kr.synthetic.write import generate

    raw, data, results = (str(inputs / name) for name in ("raw", "data", "results"))
    generate(inputs / "raw", scale=0.01, releases=["okvqa", "msmarco", "wikipedia"], quiet=True)
    build(["--raw", raw, "--out", data, "--tasks", "MSMARCO,OKVQA", "--quiet", "--workers", "1"])
    pack(["pack", "--data", data, "--images", raw, "--tasks", "OKVQA", "--quiet"])
    for name in ("preflmr-mini", "reader-mini"):
        shutil.copytree(model_folder(name), inputs / "models" / name)
    if not any("IN/results" in command.arguments for command in commands):
        return
    shared = ["--data", data, "--tasks", "OKVQA", "--out", results, "--quiet"]
    evaluate(["--model", "bm25", "--ignore-images", *shared])
    answer(["--reader", "reader-mini", "--run-dir", f"{results}/bm25", "--k", "1", "--images", raw, *shared])


def contents(out: Path) -> dict[str, bytes]:
    """Return the files of an output by name, JSON without times, and its empty folders."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if "checkpoints/" in name:
            continue  # of training: what it goes on from, with times in it
        if path.is_file():
            data = path.read_bytes()
            found[name] = json.dumps(_without_times(json.loads(data))).encode() if path.suffix == ".json" else data
        elif not any(path.iterdir()):
            found[f"{name}/"] = b""  # an empty folder may be a leftover
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value
