"""Train reader-mini: ``python -m baselines.minis.reader --work runs/mini``.

A LLaVA of 1.5 M parameters learns to answer questions about the pictures of a made-up world, from passages where there
are any. The world is that of `baselines.minis.train`, made if it is not there. Running the command again goes on after
the last checkpoint, with the same losses as if nothing had stopped it. The model is written in float16 to
``WORK/minis/reader-mini``; `baselines.minis.reader_judge` judges it and writes its card.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.minis import folder
from baselines.minis.train import SCALE, SEED, make_data, settings_file
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command

if TYPE_CHECKING:
    from baselines.minis.reader_data import ReaderConfig
    from m2kr.dataset import TaskData
    from m2kr.images.roots import ImageRoots

NAME = "reader-mini"


def train_reader(
    work: Path,
    data: Path,
    images: ImageRoots,
    config: ReaderConfig,
    *,
    clip: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train, going on where an earlier run of the same settings stopped; return what ``training.json`` holds.

    Args:
        work: gets ``reader-start``, the model before training, and ``reader``, the run and the trained model.
        data: folder of the benchmark.
        images: where its pictures are.
        config: settings.
        clip: folder of the CLIP whose vision tower is used, frozen. By default clip-mini, that of ``WORK/minis`` if
            it is there.
        quiet: no progress.

    Raises:
        M2KRError: the folder holds another run, the data lack something, or the loss is no longer a number.
    """
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration, set_seed
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from baselines.common.checkpoints import count_parameters, load_model, weights_hash
    from baselines.minis.reader_data import Batches
    from baselines.minis.reader_model import write_start
    from baselines.minis.reader_trainer import ReaderTrainer, arguments_of
    from baselines.preflmr.training.trainer import DONE, NoNonsense, claim, last_checkpoint
    from m2kr.common.files import write_json
    from m2kr.common.measure import versions
    from m2kr.dataset import load_task

    torch.set_num_threads(1)  # sums are added up in the same order wherever it runs
    set_seed(config.seed)
    splits = [load_task(key, data, "train", images=images) for key in config.tasks]
    trained = work / "minis" / "clip-mini"
    clip = clip or (trained if trained.is_dir() else folder("clip-mini"))
    settings = {
        "config": config.to_json(),
        "data": [split.fingerprint for split in splits],
        "clip": weights_hash(clip),
    }
    out, start = work / "reader", work / "reader-start"
    done = claim(out, settings)
    if done is not None:
        say(f"{out}: already trained, nothing to do", quiet=quiet)
        return done
    if not (last := last_checkpoint(out)):
        write_start(_texts(splits), clip, start, config)
    else:
        say(f"{out}: going on after {last.name}", quiet=quiet)
    make: Any = AutoProcessor
    processor = make.from_pretrained(start, local_files_only=True)
    model = load_model(LlavaForConditionalGeneration, start, device=torch.device("cpu"), dtype=torch.float32)
    model.model.vision_tower.requires_grad_(False)
    trainer = ReaderTrainer(
        model=model,
        args=arguments_of(config, out, quiet=quiet),
        train_dataset=Batches(splits, processor, config),
        passage_loss=config.passage_loss,
        callbacks=[NoNonsense()],
    )
    if quiet or not sys.stderr.isatty():
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
    began, computed = time.perf_counter(), time.process_time()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    result = {
        **settings,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - computed, 1),
        "resumed": last is not None,
        "parameters": count_parameters(model),
        "versions": versions(),
        "log": [entry for entry in trainer.state.log_history if "loss" in entry],
    }
    _save(model, processor, out)
    write_json(out / DONE, result)
    return result


def _texts(splits: Sequence[TaskData]) -> Iterator[str]:
    """Yield what the vocabulary is learned from: passages, questions, and the words of a prompt."""
    from baselines.image_text_to_text import PROMPT_WITH_PASSAGES

    for split in splits:
        yield from split.passages["passage_content"]
        yield from (question for question in split.queries["question"] if question)
    yield from [f"\n{PROMPT_WITH_PASSAGES}"] * 100  # often enough to be whole tokens


def _save(model: Any, processor: Any, out: Path) -> None:
    from baselines.common.checkpoints import quiet_loading

    with quiet_loading():
        model.save_pretrained(out)
    processor.save_pretrained(out)


def export(trained: Path, out: Path) -> None:
    """Write a trained reader in float16, as `baselines.image_text_to_text.ImageTextToText` reads it."""
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from baselines.common.checkpoints import load_model

    model = load_model(LlavaForConditionalGeneration, trained, device=torch.device("cpu"), dtype=torch.float16)
    make: Any = AutoProcessor
    _save(model, make.from_pretrained(trained, local_files_only=True), out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m baselines.minis.reader",
        description="Train reader-mini on a made-up world. Running it again goes on.",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the data and of the run")
    parser.add_argument("--data", type=Path, help="a benchmark that is built; default: WORK/m2kr, made if need be")
    parser.add_argument("--images", action="append", default=[], metavar="[TASK=]ROOT", help="its pictures")
    parser.add_argument("--clip", type=Path, help="folder of the CLIP whose eyes it gets; default: clip-mini")
    parser.add_argument("--out", type=Path, help="where the model goes; default: WORK/minis")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the world; default {SEED}")
    parser.add_argument("--scale", type=float, default=SCALE, help=f"of the world; default {SCALE:g}")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _changes(values: Sequence[str]) -> Mapping[str, Any]:
    from baselines.preflmr.train import parse_changes

    changes = parse_changes(values)
    if isinstance(changes.get("tasks"), dict):  # as stages have them, with shares
        changes["tasks"] = list(changes["tasks"])
    return changes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    arguments = _parser().parse_args(argv)
    if bool(arguments.data) != bool(arguments.images):
        raise M2KRError("--data and --images go together: the benchmark that is read, and its pictures.")
    if not arguments.scale > 0:
        raise M2KRError(f"--scale is {arguments.scale}; it has to be more than 0.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from baselines.minis.reader_data import read_config
    from m2kr.images.roots import parse_roots

    config = read_config(settings_file("reader"), _changes(arguments.set))
    if arguments.data:
        data, images = arguments.data, parse_roots(arguments.images)
    else:
        data, images = make_data(arguments.work, arguments.seed, arguments.scale, quiet=arguments.quiet)
    done = train_reader(arguments.work, data, images, config, clip=arguments.clip, quiet=arguments.quiet)
    out = (arguments.out or arguments.work / "minis") / NAME
    export(arguments.work / "reader", out)
    say(f"{out}: the reader, after {done['seconds']:.0f} s of training", quiet=arguments.quiet)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
