"""Train PreFLMR: ``python -m baselines.preflmr.train --stage 4 --init stage3 --data m2kr-data --out stage4``.

Four stages (PreFLMR, section 3), each beginning with the checkpoint of the one before: 1, the text encoders on MS
MARCO; 2, the projections from image to text; 3, all but the image encoder on E-VQA; 4, the same on all of M2KR. A
stage is also how a checkpoint is tuned to questions and passages of one's own; see docs/training.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from baselines.common.settings import parse_changes, read_settings
from m2kr.common.cli import MOST_WORKERS, option, parse
from m2kr.common.options import DeviceOption, ImagesOption, QuietOption
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command

if TYPE_CHECKING:
    from baselines.preflmr.training.stages import StageConfig
    from m2kr.images.roots import ImageRoots

_EXAMPLES = """examples:
  python -m baselines.preflmr.train --stage 1 --text bert-base-uncased --vision openai/clip-vit-base-patch32 \\
      --data m2kr-data --out runs/stage1
  python -m baselines.preflmr.train --stage 2 --init runs/stage1 --data m2kr-data --images raw --out runs/stage2
  python -m baselines.preflmr.train --stage 4 --init preflmr-folder --data my-data --set tasks=EVQA --out runs/mine
  accelerate launch --multi_gpu -m baselines.preflmr.train --stage 4 --device cuda ...
"""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ImagesOption, DeviceOption, QuietOption):
    """Options of the command."""

    stage: Literal["1", "2", "3", "4"] = option("which stage")
    data: str = option("folder of a built benchmark, or of data in its format")
    out: Path = option("folder of the run; gets the best checkpoint")
    init: str | None = option("checkpoint to begin with: a folder or a hub id", None, metavar="PATH")
    text: str | None = option("without --init: a BERT for the text encoders", None, metavar="PATH")
    vision: str | None = option("without --init: a CLIP for the image encoder", None, metavar="PATH")
    config: Path | None = option("settings; default: those of the stage", None, metavar="FILE")
    set: tuple[str, ...] = option("change a setting, as in --set steps=100", (), metavar="NAME=VALUE")
    workers: int = option("processes that make batches", 0, least=0, most=MOST_WORKERS)
    log: Literal["none", "tensorboard", "trackio"] = option("where losses are logged to", "none")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        TrainOptions,
        argv,
        prog="python -m baselines.preflmr.train",
        description="Train one stage of PreFLMR. Running it again goes on where it stopped.",
        epilog=_EXAMPLES,
    )
    from baselines.preflmr.training.stages import StageConfig, config_file

    stage = int(options.stage)
    path = options.config or config_file(stage)
    config = read_settings(StageConfig, path, parse_changes(options.set))
    if config.stage != stage:
        raise M2KRError(f"{path} has the settings of stage {config.stage}, and --stage is {stage}.")
    encoders = (options.text, options.vision) if options.text and options.vision else None
    if (options.init is None) == (encoders is None):
        raise M2KRError("say what to begin with: --init CHECKPOINT, or --text BERT and --vision CLIP.")
    if options.log != "none":
        import importlib.util

        if importlib.util.find_spec(options.log) is None:
            raise M2KRError(f"--log {options.log} needs the package {options.log}: pip install {options.log}.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches are made in forked processes
    from m2kr.images.roots import parse_roots

    result = run_stage(
        config,
        options.data,
        options.out,
        init=options.init,
        encoders=encoders,
        images=parse_roots(options.images) if options.images else None,
        device=options.device,
        workers=options.workers,
        report=options.log,
        quiet=options.quiet,
    )
    best = "" if result["Recall@5"] is None else f", Recall@5 {100 * result['Recall@5']:.1f} on the valid splits"
    if int(os.environ.get("RANK", "0")) == 0:
        say(f"{options.out}: trained, the best checkpoint is that of update {result['best_step']}{best}")
    return 0


def run_stage(
    config: StageConfig,
    data: str | Path,
    out: Path,
    *,
    init: str | Path | None = None,
    encoders: tuple[str, str] | None = None,
    images: ImageRoots | None = None,
    device: str = "cpu",
    single: bool = False,
    workers: int = 0,
    report: str = "none",
    quiet: bool = False,
) -> dict[str, Any]:
    """Train one stage; see `baselines.preflmr.training.trainer.train`, whose result is returned.

    Args:
        config: settings.
        data: folder of the benchmark.
        out: folder of the run.
        init: checkpoint to begin with, a folder or a hub id; None to begin with ``encoders``.
        encoders: folders or hub ids of a BERT and a CLIP.
        images: where the pictures are, unless they are packed in ``data``.
        device: as torch names it.
        single: train for one vector, the mean of all, instead of late interaction.
        workers: processes that make batches.
        report: "tensorboard", "trackio" or "none".
        quiet: no progress.
    """
    from sentence_transformers import MultiVectorEncoder

    from baselines.common.batching import device_of
    from baselines.common.checkpoints import weights_hash
    from baselines.preflmr import PreFLMR
    from baselines.preflmr.module import PreFLMRModule
    from baselines.preflmr.training.assemble import assemble
    from baselines.preflmr.training.heads import ImageVectors, OneVector
    from baselines.preflmr.training.stages import freeze
    from baselines.preflmr.training.trainer import train
    from m2kr.common.locks import one_writer

    if encoders is not None:
        start = out.parent / f"{out.name}-start"
        with one_writer(start, quiet=quiet):  # of several processes of one run, each makes it
            model = assemble(*encoders, start, seed=config.seed)
    else:
        assert init is not None
        start = Path(init)
        model = PreFLMR.from_pretrained(init)
    model = model.to(device_of(device))
    freeze(model, config.stage)
    # Stage 1 is text-to-text: what an image's vectors would be is not trained.
    model.missing_image = "none" if config.stage == 1 else "black"
    modules: list[Any] = [PreFLMRModule(model)]
    if not config.query_text:
        modules.append(ImageVectors())  # type: ignore[no-untyped-call]
    if single:
        modules.append(OneVector())  # type: ignore[no-untyped-call]
    return train(
        MultiVectorEncoder(modules=modules, device=str(model.device)),
        config,
        data,
        images,
        out,
        prepare=model.pictures.prepare,
        identity={"start": weights_hash(start) if start.is_dir() else str(init), "single": single},
        workers=workers,
        report=report,
        quiet=quiet,
    )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
