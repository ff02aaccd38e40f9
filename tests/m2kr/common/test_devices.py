"""What a command computes on that is not told: the best device there is, in a format that suits it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from m2kr.common import devices
from m2kr.common.cli import parse
from m2kr.common.options import ComputeOptions


@pytest.mark.parametrize(
    ("driver", "cuda", "mps", "bf16", "arguments", "device", "dtype"),
    [
        (False, True, True, True, [], "cpu", "float32"),
        (True, False, False, True, [], "cpu", "float32"),
        (True, False, True, True, [], "mps", "float32"),
        (True, True, False, True, [], "cuda", "bfloat16"),
        (True, True, False, False, [], "cuda", "float32"),
        (True, True, False, True, ["--device", "cpu"], "cpu", "float32"),
        (True, True, False, True, ["--device", "cuda:1"], "cuda:1", "bfloat16"),
        (True, True, False, True, ["--dtype", "float32"], "cuda", "float32"),
    ],
)
def test_the_best_there_is_unless_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
    driver: bool,
    cuda: bool,
    mps: bool,
    bf16: bool,
    arguments: list[str],
    device: str,
    dtype: str,
) -> None:
    monkeypatch.setattr(devices.sys, "platform", "linux")
    monkeypatch.setattr(devices.Path, "exists", lambda _: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    devices.best_device.cache_clear()
    found: Any = parse(ComputeOptions, arguments, prog="", description="")
    devices.best_device.cache_clear()
    assert (found.device, found.dtype) == (device, dtype)


def test_a_caller_of_the_library_gets_what_it_always_did() -> None:
    assert (ComputeOptions().device, ComputeOptions().dtype) == ("cpu", "float32")
