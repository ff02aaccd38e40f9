"""The best device of this machine and the number format that suits it, and float32 that is float32."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute products and convolutions of float32 numbers in float32, whatever the caller's setting.

    Otherwise torch rounds the numbers of a convolution, and so of pictures' patches, to TF32's 11 bits on NVIDIA GPUs.
    Nothing is done where torch has not been imported: then nobody computes with it.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")  # neither TF32 nor bfloat16
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
