"""The device that torch computes on: checking its name, and float32 products in full precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from m2kr.common.devices import full_precision
from m2kr.errors import M2KRError, first_line


def check_device(name: str) -> None:
    """Raise `M2KRError` where torch has no device of that name ("cpu", "cuda", "cuda:1")."""
    import torch

    try:
        torch.empty(0, device=torch.device(name))
    except (RuntimeError, AssertionError, TypeError) as error:
        raise M2KRError(f"device {name!r} cannot be used: {first_line(error)}") from error


def kind_of(name: str) -> str:
    """Return the kind of a device as torch names it: "cpu", "cuda"."""
    import torch

    return torch.device(name).type


def wait_for(name: str) -> None:
    """Wait until a device has done what was asked of it."""
    import torch

    if kind_of(name) == "cuda":
        torch.cuda.synchronize(name)


@contextmanager
def exactly_on(name: str) -> Iterator[None]:
    """Compute without gradients and with float32 products in full precision, whatever the caller's setting.

    A CUDA device is the one that kernels are started on meanwhile.
    """
    import torch

    with full_precision(), torch.no_grad(), torch.cuda.device(name) if kind_of(name) == "cuda" else nullcontext():
        yield
