"""One training run: a pipeline, its data and its settings, through the trainer of sentence-transformers.

The folder of a run holds ``run.json`` (settings), ``checkpoints/`` (weights, optimiser, random numbers: what resuming
needs), logs, and, when the run has ended, the best checkpoint in official form with ``training.json``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.multi_vector_encoder.losses import (
    CachedMultiVectorMultipleNegativesRankingLoss,
    MultiVectorMultipleNegativesRankingLoss,
)
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from baselines.preflmr.scoring import batch_maxsim
from baselines.preflmr.training.batches import Collator, Plan, TrainingTask, plan
from baselines.preflmr.training.stages import StageConfig
from baselines.preflmr.training.validation import Validation
from m2kr.common.files import digest, write_json
from m2kr.common.measure import versions
from m2kr.common.progress import say
from m2kr.dataset import TaskData
from m2kr.errors import M2KRError

RUN, DONE, CHECKPOINTS = "run.json", "training.json", "checkpoints"
_STATE = "trainer_state.json"  # the trainer writes it last, so a checkpoint with it is whole
_METRIC = "eval_Recall@5"


def train(
    encoder: MultiVectorEncoder,
    config: StageConfig,
    tasks: Sequence[TrainingTask],
    valid: Sequence[TaskData],
    out: Path,
    *,
    identity: dict[str, Any],
    prepare: Callable[[Any], Any] | None = None,
    workers: int = 0,
    report: str = "none",
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a pipeline, going on where an earlier run of the same settings stopped, and write its best checkpoint.

    The trainer is that of sentence-transformers: mixed precision, gradient accumulation, several GPUs (start it with
    ``accelerate launch`` or ``torchrun``) and logging are its own. On one CPU thread count and in float32, a run that
    was killed and started again has the same losses as one that was not.

    Args:
        encoder: its first module is what is trained and saved: it has ``preprocess(inputs, task=...)`` and ``save``,
            ``load`` that undo each other. Which parameters are trained is their ``requires_grad``.
        config: settings.
        tasks: what to train on, in the order of ``config.tasks``.
        valid: what chooses the best checkpoint; without any, the last one is kept.
        out: folder of the run.
        identity: what else the result depends on (data, where it started); a run with another one is not gone on with.
        prepare: what makes of a picture the array the model sees.
        workers: processes that make batches; 0: none.
        report: "tensorboard", "trackio" or "none".
        quiet: no progress.

    Returns:
        What is written to ``training.json``.

    Raises:
        M2KRError: the folder holds another run, or the loss is no longer a number.
    """
    settings = {"config": config.to_json(), **identity}
    done = claim(out, settings)
    if done is not None:
        say(f"{out}: already trained, nothing to do", quiet=quiet)
        return done
    if report == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "logs")
    arguments = _arguments(config, out, bool(valid), encoder.device.type, workers, report, quiet)
    module: Any = encoder[0]
    order = plan(
        tasks,
        list(config.tasks.values()),
        config.steps * config.accumulate * arguments.world_size,
        config.batch_size,
        config.seed,
    )
    callbacks: list[TrainerCallback] = [NoNonsense()]
    trainer = _Trainer(
        model=encoder,
        args=arguments,
        train_dataset=_entries(order),
        loss=loss_of(encoder, config),
        evaluator=Validation(valid, config.batch_size, instructions=config.instructions != "none") if valid else None,
        data_collator=cast("Any", Collator(tasks, module.preprocess, config, prepare)),
        callbacks=callbacks,
    )
    if quiet or not sys.stderr.isatty():
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
    last = last_checkpoint(out)
    if last is not None:
        say(f"{out}: going on after {last.name}", quiet=quiet)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds = time.perf_counter() - start
    log = [entry for entry in trainer.state.log_history if "loss" in entry or _METRIC in entry]
    result = {
        **settings,
        "seconds": round(seconds, 1),
        "resumed": last is not None,
        "best_step": _best_step(trainer),
        "Recall@5": trainer.state.best_metric,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "trained_parameters": sum(p.numel() for p in encoder.parameters() if p.requires_grad),
        "versions": versions(),
        "log": log,
    }
    if trainer.is_world_process_zero():
        module.save(str(out))
        write_json(out / DONE, result)
    return result


def loss_of(encoder: MultiVectorEncoder, config: StageConfig) -> torch.nn.Module:
    """Return the in-batch contrastive loss (PreFLMR, section 3): the cross-entropy of the positive among all passages.

    It equals `baselines.preflmr.scoring.contrastive_losses` (in_batch) of the same vectors. Cached with a mini-batch
    (Gao et al., 2021): the same gradients in less memory, for a second forward pass.

    On a CPU scores are `batch_maxsim`, elsewhere sentence-transformers' own: a GPU would add up the gradients of a
    passage's vectors in an order of its own each time, and was not there to be measured.
    """
    settings: dict[str, Any] = {
        "scale": config.scale,
        "similarity_fct": batch_maxsim if encoder.device.type == "cpu" else None,
        "gather_across_devices": config.gather,
    }
    if config.mini_batch:
        return CachedMultiVectorMultipleNegativesRankingLoss(encoder, mini_batch_size=config.mini_batch, **settings)
    return MultiVectorMultipleNegativesRankingLoss(encoder, **settings)


class _Trainer(MultiVectorEncoderTrainer):
    """The trainer, with checkpoints of the first module alone, in the form in which that is loaded elsewhere."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        module: Any = self.model[0]
        if self.args.should_save:  # every process comes here
            module.save(output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:  # type: ignore[override]
        module: Any = self.model[0]
        module.load_state_dict(type(module).load(checkpoint_path).state_dict())

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Make no model card: it would look for examples in the data, which are row numbers here."""


class NoNonsense(TrainerCallback):
    """Ends a run whose loss is no longer a number, which never comes back."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Raise an M2KRError if the loss is infinite or NaN."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise M2KRError(
                f"the loss is {loss} after {state.global_step} updates: lower learning_rate, or train in float32."
            )


def in_order(dataset: Dataset, **keywords: Any) -> DefaultBatchSampler:
    """Return batches of the plan as they stand; the order was drawn before."""
    return DefaultBatchSampler(SequentialSampler(dataset), **keywords)


def _entries(order: Plan) -> Dataset:
    batches, size = order.query.shape
    return Dataset.from_dict(
        {
            "task": order.task.repeat(size),
            "query": order.query.reshape(-1),
            "place": torch.arange(batches * size).numpy(),
        }
    )


def _arguments(
    config: StageConfig, out: Path, validated: bool, device: str, workers: int, report: str, quiet: bool
) -> MultiVectorEncoderTrainingArguments:
    watched = "steps" if validated else "no"
    return MultiVectorEncoderTrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision == "bfloat16",
        use_cpu=device == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        batch_sampler=in_order,
        dataloader_drop_last=True,
        dataloader_num_workers=workers,
        dataloader_pin_memory=device != "cpu",
        eval_strategy=watched,
        eval_steps=config.evaluate_every,
        save_strategy="steps",
        save_steps=config.evaluate_every,
        save_total_limit=2,
        load_best_model_at_end=validated,
        metric_for_best_model=_METRIC if validated else None,
        greater_is_better=True if validated else None,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        report_to=[] if report == "none" else [report],
        disable_tqdm=quiet or not sys.stderr.isatty(),
        # With cached gradients, each mini-batch reaches one encoder only, and the others are without gradients then.
        # Without, all encoders run before the one backward pass, in which DDP must not look for such parameters.
        ddp_find_unused_parameters=config.mini_batch > 0,
        ddp_broadcast_buffers=False,
    )


def _best_step(trainer: Any) -> int:
    best = trainer.state.best_model_checkpoint
    return int(best.rsplit("-", 1)[-1]) if best else int(trainer.state.global_step)


def claim(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a finished run wrote; else make the folder this run's, unless it is another's.

    Args:
        out: folder of the run.
        settings: all that its result depends on.

    Raises:
        M2KRError: the folder holds another run, or something else.
    """
    known = out / RUN
    if not first_process():
        return json.loads((out / DONE).read_text(encoding="utf-8")) if (out / DONE).is_file() else None
    if known.is_file():
        try:
            found = json.loads(known.read_text(encoding="utf-8"))
        except ValueError as error:
            raise M2KRError(f"{known} is no JSON ({error}): delete {out}, or choose another --out.") from error
        if digest(found) != digest(settings):
            names = [name for name in {**found, **settings} if digest(found.get(name)) != digest(settings.get(name))]
            raise M2KRError(
                f"{out} holds a run with other settings ({', '.join(names)}): delete it, or choose another --out."
            )
        if (out / DONE).is_file():
            result: dict[str, Any] = json.loads((out / DONE).read_text(encoding="utf-8"))
            return result
        return None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise M2KRError(f"{out} is there and holds no {RUN}, so it is not a run's: choose another --out.")
    write_json(known, settings)
    return None


def last_checkpoint(out: Path) -> Path | None:
    """Return the newest checkpoint that is whole, and delete later ones, which a kill cut off."""
    found = sorted(
        (folder for folder in (out / CHECKPOINTS).glob("checkpoint-*") if folder.name.rsplit("-", 1)[-1].isdigit()),
        key=lambda folder: -int(folder.name.rsplit("-", 1)[-1]),
    )
    for folder in found:
        try:
            json.loads((folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if first_process():
                shutil.rmtree(folder)
            continue
        return folder
    return None


def first_process() -> bool:
    """Whether this is the only process, or the first of those that accelerate or torchrun started."""
    return os.environ.get("RANK", "0") == "0"
