"""Train PreFLMR: ``python -m baselines.preflmr.train --stage 4 --init stage3 --data m2kr-data --out stage4``.

Four stages (PreFLMR, section 3), each beginning with the checkpoint of the one before: 1, the text encoders on MS
MARCO; 2, the projections from image to text; 3, all but the image encoder on E-VQA; 4, the same on all of M2KR. A
stage is also how a checkpoint is tuned to questions and passages of one's own; see docs/training.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command

_EXAMPLES = """examples:
  python -m baselines.preflmr.train --stage 1 --text bert-base-uncased --vision openai/clip-vit-base-patch32 \\
      --data m2kr-data --out runs/stage1
  python -m baselines.preflmr.train --stage 2 --init runs/stage1 --data m2kr-data --images raw --out runs/stage2
  python -m baselines.preflmr.train --stage 4 --init preflmr-folder --data my-data --set tasks=EVQA --out runs/mine
  accelerate launch --multi_gpu -m baselines.preflmr.train --stage 4 --device cuda ...
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m baselines.preflmr.train",
        description="Train one stage of PreFLMR. Running it again goes on where it stopped.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stage", type=int, required=True, choices=(1, 2, 3, 4))
    parser.add_argument("--data", required=True, help="folder of a built benchmark, or of data in its format")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; gets the best checkpoint")
    parser.add_argument("--init", metavar="PATH", help="checkpoint to begin with: a folder or a hub id")
    parser.add_argument("--text", metavar="PATH", help="without --init: a BERT for the text encoders")
    parser.add_argument("--vision", metavar="PATH", help="without --init: a CLIP for the image encoder")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings; default: those of the stage")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting, as in --set steps=100"
    )
    parser.add_argument(
        "--images", action="append", default=[], metavar="[TASK=]ROOT", help="pictures: folder or archive"
    )
    parser.add_argument("--device", default="cpu", help="as torch names it; default cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches; default 0")
    parser.add_argument("--log", choices=("none", "tensorboard", "trackio"), default="none", help="default none")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def parse_changes(values: Sequence[str]) -> dict[str, Any]:
    """Return the settings of ``--set NAME=VALUE``: the value as TOML, or else as text.

    Tasks are also taken as ``tasks=EVQA,OKVQA`` (equal shares), and ``validate`` likewise.

    Raises:
        M2KRError: one has no "=", or a name stands twice.
    """
    import tomllib

    changes: dict[str, Any] = {}
    for value in values:
        name, separator, text = value.partition("=")
        if not separator or not name:
            raise M2KRError(f"--set {value}: write it as NAME=VALUE.")
        if name in changes:
            raise M2KRError(f"--set {name} is given twice.")
        try:
            changes[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            changes[name] = text
        if isinstance(changes[name], str) and name in ("tasks", "validate"):
            keys = [key for key in changes[name].split(",") if key]
            changes[name] = dict.fromkeys(keys, 1.0) if name == "tasks" else keys
    return changes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    arguments = _parser().parse_args(argv)
    from baselines.preflmr.training.stages import config_file, read_config

    path = arguments.config or config_file(arguments.stage)
    config = read_config(path, parse_changes(arguments.set))
    if config.stage != arguments.stage:
        raise M2KRError(f"{path} has the settings of stage {config.stage}, and --stage is {arguments.stage}.")
    if (arguments.init is None) == (arguments.text is None or arguments.vision is None):
        raise M2KRError("say what to begin with: --init CHECKPOINT, or --text BERT and --vision CLIP.")
    if arguments.workers < 0:
        raise M2KRError(f"--workers is {arguments.workers}; it has to be 0 or more.")
    if arguments.log != "none":
        import importlib.util

        if importlib.util.find_spec(arguments.log) is None:
            raise M2KRError(f"--log {arguments.log} needs the package {arguments.log}: pip install {arguments.log}.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches are made in forked processes
    from m2kr.images.roots import parse_roots

    result = run_stage(
        config,
        arguments.data,
        arguments.out,
        init=arguments.init,
        encoders=(arguments.text, arguments.vision),
        images=parse_roots(arguments.images) if arguments.images else None,
        device=arguments.device,
        workers=arguments.workers,
        report=arguments.log,
        quiet=arguments.quiet,
    )
    best = "" if result["Recall@5"] is None else f", Recall@5 {100 * result['Recall@5']:.1f} on the valid splits"
    if int(os.environ.get("RANK", "0")) == 0:
        say(f"{arguments.out}: trained, the best checkpoint is that of update {result['best_step']}{best}")
    return 0


def run_stage(
    config: Any,
    data: str | Path,
    out: Path,
    *,
    init: str | Path | None,
    encoders: tuple[str | None, str | None] = (None, None),
    images: Any = None,
    device: str = "cpu",
    single: bool = False,
    workers: int = 0,
    report: str = "none",
    quiet: bool = False,
) -> dict[str, Any]:
    """Train one stage; see `baselines.preflmr.training.train`, whose result is returned.

    Args:
        config: a `baselines.preflmr.training.stages.StageConfig`.
        data: folder of the benchmark.
        out: folder of the run.
        init: checkpoint to begin with; None to begin with ``encoders``, a BERT and a CLIP.
        encoders: see ``init``.
        images: an `ImageRoots` for the pictures, unless they are packed in ``data``.
        device: as torch names it.
        single: train for one vector, the mean of all, instead of late interaction.
        workers: processes that make batches.
        report: where to log to.
        quiet: no progress.
    """
    from sentence_transformers import MultiVectorEncoder

    from baselines.common.batching import device_of
    from baselines.common.checkpoints import weights_hash
    from baselines.preflmr import PreFLMR
    from baselines.preflmr.module import PreFLMRModule
    from baselines.preflmr.training.assemble import assemble
    from baselines.preflmr.training.batches import load_training
    from baselines.preflmr.training.heads import ImageVectors, OneVector
    from baselines.preflmr.training.negatives import mine
    from baselines.preflmr.training.stages import freeze
    from baselines.preflmr.training.trainer import train
    from baselines.preflmr.training.validation import load_validation

    tasks = load_training(
        config, data, images, lambda split: mine(split, config.mined_depth, out.parent / "negatives", quiet=quiet)
    )
    valid = load_validation(config, data, images)
    if init is None:
        text, vision = encoders
        assert text is not None
        assert vision is not None
        start = out.parent / f"{out.name}-start"
        model = assemble(text, vision, start, seed=config.seed)
    else:
        start = Path(init)
        model = PreFLMR.from_pretrained(init)
    identity = {
        "data": [task.fingerprint for task in tasks],
        "start": weights_hash(start) if start.is_dir() else str(init),
        "single": single,
    }
    model = model.to(device_of(device))
    freeze(model, config.stage)
    if config.stage == 1:
        model.missing_image = "none"  # text-to-text: what an image's vectors would be is not trained
    modules: list[Any] = [PreFLMRModule(model)]
    if not config.query_text:
        modules.append(ImageVectors())  # type: ignore[no-untyped-call]
    if single:
        modules.append(OneVector())  # type: ignore[no-untyped-call]
    encoder = MultiVectorEncoder(modules=modules, device=str(model.device))
    return train(
        encoder,
        config,
        tasks,
        valid,
        out,
        identity=identity,
        prepare=model.pictures.prepare,
        workers=workers,
        report=report,
        quiet=quiet,
    )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
