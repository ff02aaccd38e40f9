"""Training of a pipeline, with its data and settings, through the trainer of sentence-transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
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

from baselines.preflmr.scoring import batch_maxsim
from baselines.preflmr.training.batches import BatchOrder, Collator, draw_order, load_training
from baselines.preflmr.training.runs import METRIC, run_training, shared_arguments
from baselines.preflmr.training.stages import StageConfig
from baselines.preflmr.training.validation import Validation, load_validation
from m2kr.images.roots import ImageRoots
from m2kr.retriever import instruction_end


def train(
    encoder: MultiVectorEncoder,
    config: StageConfig,
    data: str | Path,
    images: ImageRoots | None,
    out: Path,
    *,
    prepare: Callable[[Any], Any],
    identity: Mapping[str, Any] = {},
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
        config: settings. Without tasks to validate on, the last checkpoint counts as the best.
        data: folder of the benchmark.
        images: where its pictures are, unless they are packed in ``data``.
        out: folder of the run; hard negatives are kept beside it.
        prepare: what makes of a picture the array the model sees.
        identity: what the result depends on besides; a run with another one is not gone on with.
        workers: processes that make batches; 0: none.
        report: "tensorboard", "trackio" or "none".
        quiet: no progress.

    Returns:
        What is written to ``training.json``.

    Raises:
        M2KRError: data are missing or change meanwhile, the folder holds another run, or the loss is no longer a
            number.
    """
    tasks = load_training(config, data, images, out.parent / "negatives", quiet=quiet)
    valid = load_validation(config, data, images)
    settings = {"config": config.to_json(), "data": [task.fingerprint for task in tasks], **identity}
    if report == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "logs")
    module: Any = encoder[0]
    end = instruction_end(module)

    def make_trainer(_: Path | None) -> PipelineTrainer:
        arguments = _arguments(config, out, bool(valid), encoder.device.type, workers, report, quiet=quiet)
        batches = config.steps * config.accumulate * arguments.world_size
        order = draw_order(tasks, list(config.tasks.values()), batches, config.batch_size, config.seed)
        instructions = config.instructions != "none"
        return PipelineTrainer(
            model=encoder,
            args=arguments,
            train_dataset=_entries(order),
            loss=loss_of(encoder, config),
            evaluator=Validation(valid, config.batch_size, instructions=instructions, end=end) if valid else None,
            data_collator=cast("Any", Collator(tasks, module.preprocess, config, prepare, end)),
        )

    def finish(trainer: Any) -> dict[str, Any]:
        best = trainer.state.best_model_checkpoint
        if trainer.is_world_process_zero():
            module.save(str(out))
        return {
            "best_step": int(best.rsplit("-", 1)[-1]) if best else int(trainer.state.global_step),
            "Recall@5": trainer.state.best_metric,
            "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "trained_parameters": sum(p.numel() for p in encoder.parameters() if p.requires_grad),
        }

    return run_training(out, settings, make_trainer, finish, data=[*(task.data for task in tasks), *valid], quiet=quiet)


def loss_of(encoder: MultiVectorEncoder, config: StageConfig) -> torch.nn.Module:
    """Return the in-batch contrastive loss (PreFLMR, section 3): the cross-entropy of the positive among all passages.

    It equals the in-batch loss of the official implementation, of the same vectors. Cached with a mini-batch
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


class PipelineTrainer(MultiVectorEncoderTrainer):
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


def in_order(dataset: Dataset, **keywords: Any) -> DefaultBatchSampler:
    """Return batches of the plan as they stand; the order was drawn before."""
    return DefaultBatchSampler(SequentialSampler(dataset), **keywords)


def _entries(order: BatchOrder) -> Dataset:
    batches, size = order.query.shape
    return Dataset.from_dict(
        {
            "task": order.task.repeat(size),
            "query": order.query.reshape(-1),
            "place": torch.arange(batches * size).numpy(),
        }
    )


def _arguments(
    config: StageConfig, out: Path, validated: bool, device: str, workers: int, report: str, *, quiet: bool
) -> MultiVectorEncoderTrainingArguments:
    return MultiVectorEncoderTrainingArguments(
        **shared_arguments(config, out, device, quiet=quiet),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        lr_scheduler_type=config.schedule,
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision == "bfloat16",
        batch_sampler=in_order,
        dataloader_drop_last=True,
        dataloader_num_workers=workers,
        eval_strategy="steps" if validated else "no",
        eval_steps=config.evaluate_every,
        save_steps=config.evaluate_every,
        load_best_model_at_end=validated,
        metric_for_best_model=METRIC if validated else None,
        greater_is_better=True if validated else None,
        report_to=[] if report == "none" else [report],
        # With cached gradients, each mini-batch reaches one encoder only, and the others are without gradients then.
        # Without, all encoders run before the one backward pass, in which DDP must not look for such parameters.
        ddp_find_unused_parameters=config.mini_batch > 0,
        ddp_broadcast_buffers=False,
    )
