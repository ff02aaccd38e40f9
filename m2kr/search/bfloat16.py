"""Vectors and products in bfloat16: what rounding takes from them, and what this machine's product of them is worth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from m2kr.search.ragged import gather

if TYPE_CHECKING:
    from torch import Tensor

_ROUNDED_AT_ONCE = 1 << 16  # numbers, so that all steps find them in the second-level cache


@dataclass(frozen=True)
class Rounded:
    """Vectors rounded to bfloat16, and how far that takes them.

    Attributes:
        vectors: shape (n, dim), bfloat16.
        lengths: at least the length of each vector, rounded or not, shape (n,), float32.
        lost: at least the length of the difference, shape (n,), float32.
    """

    vectors: Tensor
    lengths: Tensor
    lost: Tensor

    @classmethod
    def of(cls, vectors: Tensor, source: npt.NDArray[np.int64] | None = None) -> Rounded:
        """Round vectors, shape (n, dim), on the CPU, to float32 first; those of ``source``, or all.

        NaN or infinity gives a length that is none, either.
        """
        import torch

        count, dim = len(vectors) if source is None else len(source), vectors.shape[1]
        # numpy asks the system for large pages, which are there several times as fast.
        rounded = torch.from_numpy(np.empty((count, dim), np.int16)).view(torch.bfloat16)
        lengths, lost = torch.empty((2, count))
        step = max(1, _ROUNDED_AT_ONCE // max(dim, 1))
        # Memory is taken once: what is freed and taken again comes back page by page.
        gathered, difference = torch.empty((2, min(step, count), dim))
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            into, lose = gathered[: part.stop - start], difference[: part.stop - start]
            if source is None:
                into.copy_(vectors[part])
            else:
                gather(vectors, source[part], into)
            rounded[part] = into
            lose.copy_(rounded[part])
            torch.sub(into, lose, out=lose)
            torch.linalg.vector_norm(lose, dim=1, out=lost[part])
            torch.linalg.vector_norm(into, dim=1, out=lengths[part])
        lengths, lost = (more(norms, dim) for norms in (lengths, lost))
        return cls(rounded, lengths.add_(lost), lost)


@cache
def rounds_once(rows: int, dim: int, columns: int) -> bool:
    """Whether torch adds up a product in bfloat16 of this shape in float32 and rounds it to nearest, but once.

    Tried on random numbers, in some of the rows.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(shape, generator=generator).bfloat16() for shape in ((rows, dim), (dim, columns)))
    some = slice(0, rows, max(1, rows // 16))
    product = torch.mm(left, right)[some].float()
    exact = left[some].double() @ right.double()
    half = further_from_zero(product) - product
    added_up = dim * 2.0**-22 * left[some].float().norm(dim=1, keepdim=True) * right.float().norm(dim=0)
    return bool(((product - exact).abs() <= half.abs() + added_up).all())


def more(norms: Tensor, dim: int) -> Tensor:
    """Return at least the lengths of vectors whose norms were computed in float32. Changes ``norms``."""
    return norms.mul_(1 + (dim + 4) * 2.0**-22).add_(dim**0.5 * 2.0**-62)


def further_from_zero(values: Tensor, out: Tensor | None = None) -> Tensor:
    """Return float32 in which bfloat16 numbers are exact further from zero by half a unit of their last place there."""
    import torch

    out = torch.empty_like(values) if out is None else out
    torch.add(values.view(torch.int32), 0x8000, out=out.view(torch.int32))
    return out
