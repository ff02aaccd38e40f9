"""Train the small models: ``python -m baselines.minis.train --work runs/mini``, or ``make train-mini``.

Everything from nothing: a made-up world, the benchmark built from it, two vocabularies, clip-mini, and the four stages
for late interaction (preflmr-mini) and for one vector (dpr-mini). Each step is kept, and the same command goes on after
the last that was finished. The checkpoints are written in float16, each with a card, to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.common.processes import pool
from baselines.minis import SINGLE_SCALE
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command

if TYPE_CHECKING:
    from baselines.preflmr.training.stages import StageConfig
    from m2kr.images.roots import ImageRoots

SEED, SCALE = 7, 10.0
"""The world that the small models are trained on: 5,000 articles, 13,000 pictures. They are judged on another."""

STAGES = ("stage1", "stage2", "stage3", "stage4")
QUERY_MAXLEN = 40
"""Tokens of a query: the longest instruction and question, which 32 would cut in this vocabulary."""

SHAPES = {"preflmr": {"dim": 64, "prefix": 8}, "dpr": {"dim": 128, "prefix": 4}}
"""Late interaction has a hundred vectors of 64 numbers for a query, the dual encoder one of 128."""


def settings_file(name: str) -> Path:
    """Return the settings of a step: clip, stage1, ..."""
    return Path(__file__).parent / "configs" / f"{name}.toml"


def make_data(work: Path, seed: int, scale: float, *, quiet: bool = False) -> tuple[Path, ImageRoots]:
    """Make a world and the benchmark of it, unless they are there; return the folder and where the pictures are."""
    from m2kr.build.task import main as build
    from m2kr.images.roots import parse_roots
    from m2kr.synthetic.write import generate

    raw, data = work / "raw", work / "m2kr"
    generate(raw, scale=scale, seed=seed, quiet=quiet)
    build(["--raw", str(raw), "--out", str(data), "--images", str(raw), *(["--quiet"] if quiet else [])])
    return data, parse_roots([str(raw)])


def train_minis(
    work: Path,
    *,
    seed: int = SEED,
    scale: float = SCALE,
    models: Sequence[str] = tuple(SHAPES),
    changes: dict[str, Any] | None = None,
    jobs: int = 2,
    quiet: bool = False,
) -> dict[str, Path]:
    """Train clip-mini and the four stages of ``models``; return the folder of every checkpoint by its name.

    Each model is trained by one thread, so that sums are added up in the same order wherever there are as many cores.

    Args:
        work: folder of everything; what is there and finished is not made again.
        seed: of the world.
        scale: of the world.
        models: of "preflmr" and "dpr".
        changes: of settings, the same in all steps, for trying things out.
        jobs: models that are trained at once, each in a process of its own; 1 for this one.
        quiet: no progress.
    """
    import torch
    from transformers import set_seed

    from baselines.minis.encoders import ClipModule, write_bert, write_clip
    from baselines.preflmr.training.stages import read_config

    torch.set_num_threads(1)
    set_seed(seed)
    data, images = make_data(work, seed, scale, quiet=quiet)
    bert, clip_start, clip = work / "bert", work / "clip-start", work / "clip"
    if not (bert / "model.safetensors").is_file():
        write_bert(texts(data), bert, seed)
    if not (clip_start / "preprocessor_config.json").is_file():
        write_clip(texts(data), clip_start, seed)
    train_clip(ClipModule(clip_start), read_config(settings_file("clip"), changes), data, images, clip, quiet=quiet)
    run = partial(_train_stages, work=work, seed=seed, changes=changes, quiet=quiet)
    if jobs > 1:
        with pool(jobs) as processes:
            found = list(processes.map(run, models))
    else:
        found = [run(model) for model in models]
    return {"clip-mini": clip} | {name: folder for made in found for name, folder in made.items()}


def _train_stages(model: str, *, work: Path, seed: int, changes: dict[str, Any] | None, quiet: bool) -> dict[str, Path]:
    """Train the four stages of one model; the data and the encoders are there."""
    import torch
    from transformers import set_seed

    from baselines.minis.encoders import DOC_MAXLEN
    from baselines.preflmr.train import run_stage
    from baselines.preflmr.training.assemble import assemble
    from baselines.preflmr.training.stages import read_config
    from m2kr.images.roots import parse_roots

    torch.set_num_threads(1)
    set_seed(seed)
    single = model == "dpr"
    start = work / model / "start"
    if not (start / "config.json").is_file():
        shape = SHAPES[model]
        assemble(
            str(work / "bert"),
            str(work / "clip"),
            start,
            dim=shape["dim"],
            prefix=shape["prefix"],
            query_maxlen=QUERY_MAXLEN,
            doc_maxlen=DOC_MAXLEN,
            seed=seed,
        )
    made = {}
    for name in STAGES:
        out = work / model / name
        config = read_config(settings_file(name), changes)
        if single:
            config = replace(config, scale=SINGLE_SCALE)
        images = parse_roots([str(work / "raw")])
        run_stage(config, work / "m2kr", out, init=start, images=images, single=single, quiet=quiet)
        made[f"{model}-mini {name}"] = start = out
    return made


def texts(data: Path) -> Iterator[str]:
    """Yield what vocabularies are learned from: all train passages and questions, and all instructions."""
    from m2kr.dataset import load_task
    from m2kr.tasks import TASKS

    for task in TASKS.values():
        if "train" in task.splits:
            split = load_task(task, data, "train")
            yield from split.passages["passage_content"]
            yield from (text for text in split.query_texts(instructions=True) if text)


def train_clip(module: Any, config: StageConfig, data: Path, images: ImageRoots, out: Path, *, quiet: bool) -> None:
    """Train a CLIP contrastively, its pictures as queries and its texts as passages.

    Args:
        module: a `baselines.minis.encoders.ClipModule`.
        config: settings, with ``stage = 0``.
        data: folder of the benchmark.
        images: where its pictures are.
        out: folder of the run, see `baselines.preflmr.training.train`.
        quiet: no progress.
    """
    from sentence_transformers import MultiVectorEncoder

    from baselines.preflmr.training.batches import load_training
    from baselines.preflmr.training.trainer import train
    from baselines.preflmr.training.validation import load_validation

    tasks = load_training(config, data, images)
    train(
        MultiVectorEncoder(modules=[module], device="cpu"),
        config,
        tasks,
        load_validation(config, data, images),
        out,
        identity={"data": [task.fingerprint for task in tasks]},
        prepare=module.pixels.prepare,
        quiet=quiet,
    )


def export(made: dict[str, Path], out: Path) -> None:
    """Write the last checkpoint of every model in float16, as `baselines.minis` reads it."""
    from baselines.minis.encoders import ClipModule
    from baselines.preflmr.preflmr import PreFLMR

    module = ClipModule(made["clip-mini"])
    module.model.half()
    module.save(str(out / "clip-mini"))
    for model in SHAPES:
        if f"{model}-mini {STAGES[-1]}" in made:
            PreFLMR.from_pretrained(made[f"{model}-mini {STAGES[-1]}"], dtype="float16").save_pretrained(
                out / f"{model}-mini"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m baselines.minis.train",
        description="Train clip-mini, preflmr-mini and dpr-mini on a made-up world. Running it again goes on.",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the data and of all runs")
    parser.add_argument("--out", type=Path, help="where the checkpoints go; default: WORK/minis")
    parser.add_argument("--models", default=",".join(SHAPES), help="besides clip-mini; default: %(default)s")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the world; default {SEED}")
    parser.add_argument("--scale", type=float, default=SCALE, help=f"of the world; default {SCALE:g}")
    parser.add_argument("--jobs", type=int, default=2, help="models trained at once, one thread each; default 2")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of all steps"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    arguments = _parser().parse_args(argv)
    if not arguments.scale > 0:
        raise M2KRError(f"--scale is {arguments.scale}; it has to be more than 0.")
    if arguments.jobs < 1:
        raise M2KRError(f"--jobs is {arguments.jobs}; it has to be 1 or more.")
    models = [name for name in arguments.models.split(",") if name]
    if unknown := [name for name in models if name not in SHAPES]:
        raise M2KRError(f"--models names {unknown[0]!r}; there are {', '.join(SHAPES)}.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from baselines.preflmr.train import parse_changes

    start = time.perf_counter()
    made = train_minis(
        arguments.work,
        seed=arguments.seed,
        scale=arguments.scale,
        models=models,
        changes=parse_changes(arguments.set),
        jobs=arguments.jobs,
        quiet=arguments.quiet,
    )
    out = arguments.out or arguments.work / "minis"
    export(made, out)
    for name, folder in made.items():
        seconds = json.loads((folder / "training.json").read_text(encoding="utf-8"))["seconds"]
        say(f"{name}: {seconds:.0f} s", quiet=arguments.quiet)
    say(f"{out}: the small models, after {time.perf_counter() - start:.0f} s", quiet=arguments.quiet)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
