"""An evaluation whose batches do not fit into the device's memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from m2kr.dataset import TaskData
from m2kr.evaluate import task
from tests.m2kr.evaluating import Single, evaluated, kill


class Small(Single):
    """Has memory for five inputs at once."""

    def _kept(self, kept: list[Any], inputs: Any, batch_size: int) -> Any:
        if min(batch_size, len(inputs)) > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super()._kept(kept, inputs, batch_size)


def test_smaller_batches_give_the_same_run_and_the_result_says_their_size(okvqa: TaskData, tmp_path: Path) -> None:
    small, whole = (evaluated(made(), okvqa, tmp_path / made.__name__) for made in (Small, Single))
    assert (small["batch_size"], whole["batch_size"]) == (4, 32)
    assert (small["metrics"], small["run_sha256"]) == (whole["metrics"], whole["run_sha256"])


def test_after_a_kill_the_size_is_that_of_the_run(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(task, "score", kill)
        with pytest.raises(ZeroDivisionError):
            evaluated(Small(), okvqa, tmp_path)
    assert evaluated(Single(), okvqa, tmp_path)["batch_size"] == 4
