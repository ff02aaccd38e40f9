"""Scores and rows as one number each, so that the best of parts searched anywhere, in any order, merge exactly.

A key is an int64 where "greater" means "a higher score, or the same score and a lower row": the upper half is the score
as an integer of the same order, the lower half 2**32 - 1 minus the row. All keys of a query differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 0xFFFFFFFF


def packed(scores: Tensor, rows: Tensor) -> Tensor:
    """Return the keys of scores, float32 of shape (..., items), and of rows, int64 of a shape that fits it."""
    import torch

    # Floats order like their bits as integers, but for the negative ones, whose order is turned round.
    # Adding zero makes -0.0 the same as 0.0.
    bits = (scores + 0.0).contiguous().view(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits.to(torch.int64).bitwise_left_shift_(32).add_(_ROWS - rows)


def unpacked(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores, float32, and rows, int64, that `packed` packed."""
    import torch

    bits = (keys >> 32).to(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits.view(torch.float32), _ROWS - (keys & _ROWS)


def best(keys: Tensor, more: Tensor, k: int) -> Tensor:
    """Return the ``k`` greatest keys of each query, greatest first, of two parts of shape (queries, any)."""
    import torch

    both = torch.cat([keys, more], dim=1)
    return both.topk(min(k, both.shape[1]), dim=1).values
