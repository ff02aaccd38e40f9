"""Batches that fit: halved where the device runs out of memory, unless the user chose their size."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from m2kr.common.batch_size import BatchSize
from m2kr.errors import M2KRError


class Model:
    """Has memory for so many inputs at once."""

    def __init__(self, room: int, error: type[Exception] = torch.cuda.OutOfMemoryError) -> None:
        self.room, self.error = room, error
        self.tried: list[int] = []

    def __call__(self, inputs: list[Any], batch_size: int) -> list[Any]:
        self.tried.append(batch_size)
        if min(batch_size, len(inputs)) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 1 GiB")
        return inputs


def test_they_are_halved_until_they_fit_and_stay_so(capsys: pytest.CaptureFixture[str]) -> None:
    batch, model = BatchSize(None, 32), Model(room=5)
    for _ in range(2):
        assert batch.call(model, list(range(50)), "OKVQA encode passages") == list(range(50))
    assert (batch.size, model.tried) == (4, [32, 16, 8, 4, 4])
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" at once")[0].split()[-1] for line in told] == ["16", "8", "4"]


@pytest.mark.parametrize(("given", "room", "said"), [(8, 5, "--batch-size than 8"), (None, 0, "a single input")])
def test_what_cannot_fit_is_refused_with_a_remedy(given: int | None, room: int, said: str) -> None:
    with pytest.raises(M2KRError, match=said) as caught:
        BatchSize(given, 32, quiet=True).call(Model(room), list(range(50)), "OKVQA")
    assert isinstance(caught.value.__cause__, torch.cuda.OutOfMemoryError)


def test_other_errors_are_the_model_s_own() -> None:
    model = Model(5, RuntimeError)
    with pytest.raises(RuntimeError, match="out of memory"):
        BatchSize(None, 32).call(model, list(range(50)), "OKVQA")
    assert model.tried == [32]


@pytest.mark.parametrize("fails", [False, True])
def test_float32_is_float32_in_products_and_convolutions(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """On an NVIDIA GPU torch takes TF32 for convolutions where nothing is said; a caller may take it for products."""
    seen: list[tuple[str, bool]] = []

    def model(inputs: list[Any], batch_size: int) -> list[Any]:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        if fails:
            raise RuntimeError("of no use")
        return inputs

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(RuntimeError, match="of no use") if fails else nullcontext():
            BatchSize(None, 32).call(model, [1], "OKVQA")
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == [("highest", False)]
