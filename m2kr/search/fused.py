"""The fused kernel for CUDA GPUs: product, maximum and sum in one, through the package late-interaction-kernels.

It has not run on a GPU yet. That it takes what it is given here and returns what torch does was tried in Triton's
interpreter on a CPU, in float16 (late-interaction-kernels 0.4.5, Triton 3.9); the interpreter gets bfloat16 wrong by
itself, and cannot tune.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from m2kr.search.device import kind_of

if TYPE_CHECKING:
    from torch import Tensor

# Each piece of a query reads the whole tile, so a tile has to fit into the second-level cache, 40 MB and more on
# data-centre GPUs.
TILE_BYTES = 16 << 20

_DEVICES = ("cuda",)
_DIMS = range(16, 1025)
# A query goes to the kernel in pieces of this many vectors: it would round 320 vectors up to 512. Query tiles of 64 are
# what its authors measured as fastest on an H100.
_PIECE = 64
_SMALLEST_PIECE = 16
# For up to 500 pairs of pieces and passages the package takes another kernel, which adds up in another order.
_FEWEST_PAIRS = 501


def fused_kernel(device: str, dtype: object, dim: int) -> Callable[..., Tensor] | None:
    """Return the function ``maxsim`` of late-interaction-kernels, where it is exact and can run; else None.

    Args:
        device: as torch names it. A CUDA GPU of compute capability 7.5, for bfloat16 8.0.
        dtype: torch's, of queries and passages. float16 or bfloat16, whose products float32 holds exactly; it would
            round float32 to float16.
        dim: numbers in a vector, from 16, the smallest that its matrix units take, to 1,024.
    """
    import torch

    if kind_of(device) not in _DEVICES or dtype not in (torch.float16, torch.bfloat16) or dim not in _DIMS:
        return None
    if kind_of(device) == "cuda":
        needed = (8, 0) if dtype == torch.bfloat16 else (7, 5)
        if torch.cuda.get_device_capability(device) < needed or find_spec("triton") is None:
            return None
    try:
        maxsim: Callable[..., Tensor] = import_module("late_interaction_kernels").maxsim
    except ImportError:
        return None
    return maxsim


def piece_length(longest: int) -> int:
    """Return how many query vectors the kernel gets at once, a power of two, for queries of up to ``longest``."""
    return min(_PIECE, max(_SMALLEST_PIECE, 1 << (longest - 1).bit_length()))


def fused_scores(maxsim: Callable[..., Tensor], pieces: Tensor, tile: Tensor) -> Tensor:
    """Return the scores of queries with the passages of a tile, shape (passages, queries), float32.

    MaxSim is a sum over query vectors, so that of a query is the sum of those of its pieces. Every call has pieces of
    one length, so that the kernel is tuned once and equal passages score the same bits.

    Args:
        maxsim: as `fused_kernel` gives it.
        pieces: of the queries, shape (queries, pieces, piece, dim), padded with zero vectors.
        tile: shape (passages, tokens, dim), of the same type.
    """
    flat = pieces.flatten(0, 1)
    passages = len(tile)
    if len(flat) * passages < _FEWEST_PAIRS:
        tile = tile.repeat(-(-_FEWEST_PAIRS // (len(flat) * passages)), 1, 1)
    with warnings.catch_warnings():
        # It remarks on vectors that are not of length one, which a retriever's may be.
        warnings.simplefilter("ignore", UserWarning)
        scores = maxsim(flat, tile)
    return scores[:, :passages].view(*pieces.shape[:2], passages).sum(1).T
