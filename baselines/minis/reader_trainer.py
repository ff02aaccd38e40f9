"""The trainer of transformers, with the loss of a reader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from transformers import Trainer, TrainingArguments

from baselines.common.checkpoints import load_model
from baselines.minis.reader_data import ReaderConfig
from baselines.preflmr.training.trainer import CHECKPOINTS


class ReaderTrainer(Trainer):
    """Trains on ready-made batches, one item each.

    Args:
        passage_loss: weight of the loss of the passages' tokens.
        **settings: of transformers' Trainer.
    """

    def __init__(self, *, passage_loss: float, **settings: Any) -> None:
        super().__init__(data_collator=_only, **settings)
        self._passage_loss = passage_loss
        # The loss is a mean already: the trainer is not to divide it by a number of tokens.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        """Return the mean loss of the answers' tokens plus the weighted one of the passages'."""
        return reader_loss(model, inputs, self._passage_loss)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # The trainer's own compares names of files with names of modules, which differ in a LLaVA, and goes on with
        # the weights it has.
        made: Any = self.model
        found = load_model(type(made), Path(resume_from_checkpoint), device=torch.device("cpu"), dtype=torch.float32)
        made.load_state_dict(found.state_dict())


def _only(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return items[0]


def reader_loss(model: Any, batch: dict[str, torch.Tensor], passage_loss: float) -> torch.Tensor:
    """Return the loss of a batch of `baselines.minis.reader_data.Batches`, float32 ``()``.

    It is the mean cross-entropy of the tokens of weight 2, and ``passage_loss`` times that of weight 1. Only at these
    are tokens predicted, which is all that the loss reads. Padding is on the right, where no token looks.
    """
    states = model.model(input_ids=batch["input_ids"], pixel_values=batch.get("pixel_values")).last_hidden_state
    weights, targets = batch["weights"][:, 1:], batch["input_ids"][:, 1:]
    read = weights > 0
    each = F.cross_entropy(model.lm_head(states[:, :-1][read]).float(), targets[read], reduction="none")
    loss = each[weights[read] == 2].mean()
    passages = each[weights[read] == 1]
    return loss + passage_loss * passages.mean() if len(passages) else loss


def arguments_of(config: ReaderConfig, out: Path, *, quiet: bool) -> TrainingArguments:
    """Return the settings as the trainer takes them; an item is a batch."""
    return TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        max_steps=config.steps,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=1.0,
        use_cpu=True,
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=quiet or not sys.stderr.isatty(),
    )
