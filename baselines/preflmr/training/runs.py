"""The folder of a training run: what it holds, how a run that was stopped goes on, what is written at its end.

It holds ``run.json`` (settings), ``checkpoints/`` (weights, optimiser, random numbers: what resuming needs), logs, and,
when the run has ended, the trained model with ``training.json``.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from m2kr.common.files import write_json
from m2kr.common.json_input import read_json
from m2kr.common.locks import clear_lock, one_writer
from m2kr.common.measure import versions
from m2kr.common.progress import say
from m2kr.common.work import claim
from m2kr.dataset import TaskData
from m2kr.errors import M2KRError, first_line

RUN, DONE, CHECKPOINTS = "run.json", "training.json", "checkpoints"
_STATE = "trainer_state.json"  # the trainer writes it last, so a checkpoint with it is whole
METRIC = "eval_Recall@5"


def run_training(
    out: Path,
    settings: dict[str, Any],
    make_trainer: Callable[[Path | None], Any],
    finish: Callable[[Any], dict[str, Any]],
    *,
    data: Sequence[TaskData] = (),
    quiet: bool,
) -> dict[str, Any]:
    """Train, going on where an earlier run of the same settings stopped; return what ``training.json`` holds.

    Args:
        out: folder of the run.
        settings: all that its result depends on.
        make_trainer: makes a trainer of transformers, given the checkpoint that is gone on from.
        finish: called with the trainer after training; writes the model and returns what is said of it.
        data: what is trained and validated on: compared with its files again before ``finish``.
        quiet: no progress.

    Raises:
        M2KRError: the folder holds another run, another process is training in it, the loss is no longer a number, or
            the data changed meanwhile.
    """
    # A run that is finished may be in a folder that is read-only.
    finished = read_done(out) is not None
    if finished and first_process():
        clear_lock(out)
    with one_writer(out, wait=False) if first_process() and not finished else nullcontext():
        if first_process():
            claim(out / RUN, settings, "run")
        if (done := read_done(out)) is not None:
            say(f"{out}: already trained, nothing to do", quiet=quiet)
            return done
        return _trained(out, settings, make_trainer, finish, data, quiet=quiet)


def _trained(
    out: Path,
    settings: dict[str, Any],
    make_trainer: Callable[[Path | None], Any],
    finish: Callable[[Any], dict[str, Any]],
    data: Sequence[TaskData],
    *,
    quiet: bool,
) -> dict[str, Any]:
    last = last_checkpoint(out)
    if last is not None:
        say(f"{out}: going on after {last.name}", quiet=quiet)
    trainer = make_trainer(last)
    trainer.add_callback(FiniteLoss())
    if quiet or not sys.stderr.isatty():
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
    began, computed = time.perf_counter(), time.process_time()
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except RuntimeError as error:
        if "PytorchStreamWriter" in str(error):  # as torch says that a file could not be written whole
            raise M2KRError(
                f"{out / CHECKPOINTS} could not be written ({first_line(error)}). Free some space, then run it again."
            ) from error
        raise
    for split in data:
        split.check_unchanged()
    result = {
        **settings,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - computed, 1),
        "resumed": last is not None,
        **finish(trainer),
        "versions": versions(),
        "log": [
            dict(sorted(entry.items())) for entry in trainer.state.log_history if "loss" in entry or METRIC in entry
        ],
    }
    if trainer.is_world_process_zero():
        write_json(out / DONE, result)
    return result


def shared_arguments(config: Any, out: Path, device: str, *, quiet: bool) -> dict[str, Any]:
    """Return the arguments of a trainer that follow alike from the settings of any run."""
    return {
        "output_dir": str(out / CHECKPOINTS),
        "max_steps": config.steps,
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup_steps,
        "weight_decay": config.weight_decay,
        "use_cpu": device == "cpu",
        "seed": config.seed,
        "data_seed": config.seed,
        "dataloader_pin_memory": device != "cpu",
        "save_strategy": "steps",
        "save_total_limit": 2,
        "logging_steps": config.log_every,
        "logging_nan_inf_filter": False,
        "disable_tqdm": quiet or not sys.stderr.isatty(),
    }


class FiniteLoss(TrainerCallback):
    """Ends a run whose loss is no longer a number, which never comes back."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Raise an M2KRError if the loss is infinite or NaN."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise M2KRError(
                f"the loss is {loss} after {state.global_step} updates: lower learning_rate, or train in float32."
            )


def read_done(out: Path) -> dict[str, Any] | None:
    """Return what a finished run wrote, or None."""
    if not (out / DONE).is_file():
        return None
    return read_json(out / DONE, dict[str, Any], "note of a finished training", f"Delete {out}, or choose another.")


def last_checkpoint(out: Path) -> Path | None:
    """Return the newest checkpoint that is whole, and delete later ones, which a kill cut off."""
    numbers = {folder: folder.name.rsplit("-", 1)[-1] for folder in (out / CHECKPOINTS).glob("checkpoint-*")}
    found = sorted((folder for folder, number in numbers.items() if number.isdecimal()), key=lambda f: -int(numbers[f]))
    for folder in found:
        try:
            read_json(folder / _STATE, dict[str, Any], "state of a training", "It is deleted.")
        except M2KRError:
            if first_process():
                shutil.rmtree(folder)
            continue
        return folder
    return None


def first_process() -> bool:
    """Whether this is the only process, or the first of those that accelerate or torchrun started."""
    return os.environ.get("RANK", "0") == "0"
