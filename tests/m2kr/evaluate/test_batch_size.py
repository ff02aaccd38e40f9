"""Batches that fit: halved where the device runs out of memory, unless the user chose their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from m2kr.dataset import TaskData
from m2kr.errors import M2KRError
from m2kr.evaluate import task
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from tests.m2kr.evaluating import Single, evaluated, kill


class Small(Single):
    """Has memory for so many inputs at once."""

    room = 5
    error: type[Exception] = torch.cuda.OutOfMemoryError

    def _kept(self, kept: list[Any], inputs: Any, batch_size: int) -> Any:
        self.batch_sizes.add(batch_size)
        if min(batch_size, len(inputs)) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 1 GiB")
        return super()._kept(kept, inputs, batch_size)


def test_batches_are_halved_until_they_fit_and_the_result_says_so(
    okvqa: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = evaluated(Single(), okvqa, tmp_path / "whole")
    capsys.readouterr()
    small = Small()
    result = evaluate_task(small, okvqa, tmp_path / "small", TaskOptions(ignore_images=True))
    assert small.batch_sizes == {32, 16, 8, 4}
    assert (whole["batch_size"], result["batch_size"]) == (32, 4)
    assert (result["metrics"], result["run_sha256"]) == (whole["metrics"], whole["run_sha256"])
    told = [line for line in capsys.readouterr().err.splitlines() if "at once from here" in line]
    assert [line.split(" at once")[0].split()[-1] for line in told] == ["16", "8", "4"]


def test_after_a_kill_the_size_is_that_of_the_run(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(task, "score", kill)
        with pytest.raises(ZeroDivisionError):
            evaluated(Small(), okvqa, tmp_path)
    assert evaluated(Single(), okvqa, tmp_path)["batch_size"] == 4


@pytest.mark.parametrize(("given", "room", "said"), [(8, 5, "--batch-size than 8"), (None, 0, "a single input")])
def test_what_cannot_fit_is_refused_with_a_remedy(
    okvqa: TaskData, tmp_path: Path, given: int | None, room: int, said: str
) -> None:
    small = Small()
    small.room = room
    with pytest.raises(M2KRError, match=said) as caught:
        evaluated(small, okvqa, tmp_path, batch_size=given)
    assert isinstance(caught.value.__cause__, torch.cuda.OutOfMemoryError)


def test_other_errors_of_a_retriever_are_its_own(okvqa: TaskData, tmp_path: Path) -> None:
    small = Small()
    small.error = RuntimeError
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluated(small, okvqa, tmp_path)
    assert small.batch_sizes == {32}
