"""The best device of this machine, and the number format that suits it, for commands that are given none."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Literal


@functools.cache
def best_device() -> str:
    """Return "cuda", "mps" or "cpu": the first of them that torch can compute on here."""
    drivers = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
    if sys.platform.startswith("linux") and not any(driver.exists() for driver in drivers):
        return "cpu"  # without asking torch, which takes a second to import
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_dtype(device: str) -> Literal["float32", "bfloat16"]:
    """Return bfloat16 for a CUDA device that computes in it, otherwise float32."""
    if not device.startswith("cuda"):
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
