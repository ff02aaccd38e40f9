"""The recipe of the small models: ``python -m baselines.minis.recipe --work runs/mini``, or ``make train-mini``.

From nothing it makes a synthetic world and the benchmark of it, two vocabularies, clip-mini (contrastively), the four
stages for late interaction (preflmr-mini) and for one vector (dpr-mini), and reader-mini. It judges them, with BM25
beside the retrievers, on the test splits of worlds that they were not trained on, and writes them in float16, each with
a card, to ``WORK/minis``. Each step is kept, and the same command goes on after the last that was finished.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.common.processes import in_parallel
from baselines.common.settings import parse_changes, read_settings
from baselines.common.synthetic_data import make_data, train_texts
from baselines.minis.models import READER, RETRIEVERS, SCALE, SEED, SINGLE_SCALE, model_folder
from m2kr.common.cli import option, parse
from m2kr.common.files import atomic
from m2kr.common.locks import one_writer
from m2kr.common.options import QuietOption
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command

if TYPE_CHECKING:
    from m2kr.images.roots import ImageRoots

STAGES = ("stage1", "stage2", "stage3", "stage4")
QUERY_MAXLEN = 40
"""Tokens of a query: the longest instruction and question, which 32 would cut in this vocabulary."""

SHAPES = {"preflmr-mini": {"dim": 64, "prefix": 8}, "dpr-mini": {"dim": 128, "prefix": 4}}
"""Late interaction has a hundred vectors of 64 numbers for a query, the dual encoder one of 128."""


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(QuietOption):
    """Options of the command."""

    work: Path = option("folder of the data, of all runs and of the models")
    models: str = option("what is made, comma-separated", ",".join((*RETRIEVERS, READER)))
    committed: bool = option("make nothing; judge the models of the repository", False)
    seed: int = option("of the world that is trained on", SEED, least=0)
    scale: float = option("of the world that is trained on", SCALE, above=0)
    test_scale: float = option("of the worlds that are judged on", 1.0, above=0)
    jobs: int = option("retrievers that are trained at once, one thread each", 2, least=1)
    set: tuple[str, ...] = option(
        "change a setting of all steps; of the reader as reader.NAME=VALUE", (), metavar="NAME=VALUE"
    )


def settings_file(name: str) -> Path:
    """Return the settings of a step: clip, stage1, ..., reader."""
    return Path(__file__).parent / "configs" / f"{name}.toml"


def make_models(options: RecipeOptions, names: Sequence[str]) -> None:
    """Train models and write them in float16 to ``WORK/minis``; what is there and finished is not made again.

    Each is trained by one thread, so that sums are added up in the same order wherever there are as many cores.
    """
    import torch

    changes = parse_changes(options.set)
    of_reader = {name: value for name, value in changes.items() if name.startswith("reader.")}
    of_stages = {name: value for name, value in changes.items() if name not in of_reader}
    threads = torch.get_num_threads()
    data, images = make_data(options.work, options.seed, options.scale, quiet=options.quiet)
    try:
        if any(name in RETRIEVERS for name in names):
            _make_clip(options, of_stages, data, images)
            make = partial(_make_retriever, options, of_stages, data, images)
            in_parallel(make, [name for name in names if name in SHAPES], options.jobs)
        if READER in names:
            of_reader = {name.removeprefix("reader."): value for name, value in of_reader.items()}
            make_reader(options.work, data, images, of_reader, quiet=options.quiet)
    finally:
        torch.set_num_threads(threads)


def _make_clip(options: RecipeOptions, changes: Mapping[str, Any], data: Path, images: ImageRoots) -> None:
    """Write the encoders that all retrievers begin with, a BERT and a CLIP; train the CLIP."""
    import torch
    from transformers import set_seed

    from baselines.preflmr.training.encoders import ClipModule, train_clip, write_bert, write_clip
    from baselines.preflmr.training.stages import StageConfig

    torch.set_num_threads(1)
    set_seed(options.seed)
    bert, start, clip = (options.work / name for name in ("bert", "clip-start", "clip"))
    if not (bert / "model.safetensors").is_file():
        write_bert(train_texts(data), bert, options.seed)
    if not (start / "preprocessor_config.json").is_file():
        write_clip(train_texts(data), start, options.seed)
    config = read_settings(StageConfig, settings_file("clip"), changes)
    train_clip(start, config, data, images, clip, quiet=options.quiet)
    module = ClipModule(clip)
    module.model.half()
    module.save(str(options.work / "minis" / "clip-mini"))


def _make_retriever(
    options: RecipeOptions, changes: Mapping[str, Any], data: Path, images: ImageRoots, name: str
) -> None:
    """Train the four stages of preflmr-mini or dpr-mini, whose encoders are there."""
    import torch
    from transformers import set_seed

    from baselines.preflmr import PreFLMR
    from baselines.preflmr.train import run_stage
    from baselines.preflmr.training.assemble import assemble
    from baselines.preflmr.training.encoders import DOC_MAXLEN
    from baselines.preflmr.training.stages import StageConfig

    torch.set_num_threads(1)
    set_seed(options.seed)
    work, single = options.work, name == "dpr-mini"
    runs = work / name.removesuffix("-mini")
    start = runs / "start"
    if not (start / "config.json").is_file():
        lengths = {"query_maxlen": QUERY_MAXLEN, "doc_maxlen": DOC_MAXLEN}
        assemble(str(work / "bert"), str(work / "clip"), start, **SHAPES[name], **lengths, seed=options.seed)
    for stage in STAGES:
        config = read_settings(StageConfig, settings_file(stage), changes)
        if single:
            config = replace(config, scale=SINGLE_SCALE)
        run_stage(config, data, runs / stage, init=start, images=images, single=single, quiet=options.quiet)
        start = runs / stage
    PreFLMR.from_pretrained(start, dtype="float16").save_pretrained(work / "minis" / name)


def make_reader(
    work: Path, data: Path, images: ImageRoots, changes: Mapping[str, Any] | None = None, *, quiet: bool = False
) -> None:
    """Train reader-mini and write it in float16 to ``WORK/minis``.

    Its image encoder is that of the clip-mini there, or else of the repository's.
    """
    from baselines.minis.reader import export_reader, train_reader
    from baselines.minis.reader_data import ReaderConfig

    config = read_settings(ReaderConfig, settings_file("reader"), changes)
    trained = work / "minis" / "clip-mini"
    clip = trained if trained.is_dir() else model_folder("clip-mini")
    train_reader(work, data, images, config, clip, quiet=quiet)
    export_reader(work / "reader", work / "minis" / READER)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        RecipeOptions,
        argv,
        prog="python -m baselines.minis.recipe",
        description="Make the small models on a synthetic world, and judge them on others. Running it again goes on.",
    )
    from baselines.minis import judging

    names = [name for name in options.models.split(",") if name]
    if unknown := [name for name in names if name not in (*RETRIEVERS, READER)]:
        raise M2KRError(f"--models names {unknown[0]!r}; there are {', '.join((*RETRIEVERS, READER))}.")
    if options.seed in (judging.SEED, judging.READER_SEED):
        raise M2KRError(f"--seed {options.seed} is that of a world that the models are judged on: take another.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches are made in forked processes
    with one_writer(options.work, wait=False):
        _run(options, names)
    return 0


def _run(options: RecipeOptions, names: Sequence[str]) -> None:
    """Make the models and judge them."""
    from baselines.minis import judging

    work, quiet = options.work, options.quiet
    if not options.committed:
        start = time.perf_counter()
        make_models(options, names)
        say(f"{work / 'minis'}: made, after {time.perf_counter() - start:.0f} s", quiet=quiet)
    judged = None if options.committed else work
    suffix = "-committed" if options.committed else ""
    if any(name in RETRIEVERS for name in names):
        out = work / f"judged{suffix}"
        data, images = make_data(out / "world", judging.SEED, options.test_scale, quiet=True)
        scores = judging.judge_retrievers(judged, data, images, out / "results", quiet=quiet)
        _tell(judging.retrievers_report(scores), out)
        if judged:
            judging.write_retriever_cards(work, scores, options.test_scale)
    if READER in names:
        out = work / f"judged-reader{suffix}"
        data, images = make_data(out / "world", judging.READER_SEED, options.test_scale, quiet=True)
        answers = judging.judge_reader(judged, data, images, out / "results", quiet=quiet)
        table = judging.reader_report(answers)
        _tell(table, out)
        if judged:
            judging.write_reader_card(work, table, options.test_scale)


def _tell(report: str, out: Path) -> None:
    """Print a report and write it to ``scores.md``."""
    with atomic(out / "scores.md", "w") as file:
        file.write(report + "\n")
    print(report)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
