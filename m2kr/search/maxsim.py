"""MaxSim of many queries with a block of passages: what `m2kr.search` spends its time on.

How it is made fast. Torch multiplies a tile of passages with a stack of queries (`m2kr.search.tiles`) and takes the
maximum over the middle axis while the product is still in the cache. On a CUDA GPU, with both sides in the same half
precision, one fused kernel does both, and the product never leaves the chip (`m2kr.search.fused`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from m2kr.errors import M2KRError
from m2kr.search.fused import fused_kernel, fused_scores
from m2kr.search.ragged import Ragged
from m2kr.search.tiles import Block, Plan, Stack

if TYPE_CHECKING:
    from torch import Tensor


# From 769 numbers a vector on, MKL adds up in another order for 128 columns than for 192, whatever the rows. Longer
# vectors are multiplied in pieces, so that the bits of a score do not depend on what else a product holds.
_WHOLE, _PIECE = 768, 512


def maxsim_reference(query: npt.ArrayLike, passage: npt.ArrayLike) -> float:
    """Return the MaxSim score of a (tokens, dim) query and a (tokens, dim) passage, in float64, as plainly as it goes.

    What `m2kr.search.search` computes, for tests and readers. Zero query vectors are masked tokens and count for
    nothing.
    """
    score = 0.0
    for query_vector in np.asarray(query, dtype=np.float64):
        if not query_vector.any():
            continue
        highest = -np.inf
        for passage_vector in np.asarray(passage, dtype=np.float64):
            highest = max(highest, float(query_vector @ passage_vector))
        score += highest
    return score


def scores_of(stack: Stack, queries: Ragged, block: Block, product: Tensor, plan: Plan) -> Tensor:
    """Return the scores of the queries of a stack with the passages of a block, shape (queries, passages), float32.

    Args:
        stack: which queries.
        queries: all of them.
        block: the passages; its device is that of the result.
        product: scratch of `Plan.product_numbers` numbers, float32, there.
        plan: sizes.

    Raises:
        M2KRError: a score is too large for float32.
    """
    import torch

    device = block.vectors.device
    if stack.longest == 0:
        return torch.zeros((len(stack.queries), len(block.rows)), device=device)
    if not block.tiles:
        found = torch.full((len(block.rows), len(stack.queries)), -torch.inf, device=device)
    else:
        if block.fused:
            found = _by_kernel(stack, queries, block, plan)
        else:
            if not len(product):  # meant for the kernel, but these passages are of another type than the queries
                product = torch.empty(plan.tile_rows * stack.width, device=device)
            found = product_scores(stack, stack.vectors(queries, str(device)), block, product, plan)
        if not torch.isfinite(found).all():
            raise M2KRError("the embeddings are too large: a score does not fit into float32")
    found[:, torch.from_numpy(stack.lengths == 0).to(device)] = 0  # a sum over no vectors
    return found.T


def product_scores(stack: Stack, queries: Tensor, block: Block, product: Tensor, plan: Plan) -> Tensor:
    """Return the scores of the passages of a block that has vectors, shape (passages, queries), by torch's product.

    Args:
        stack: which queries.
        queries: their vectors, as the stack gives them.
        block: the passages.
        product: scratch, as for `scores_of`.
        plan: sizes.
    """
    import torch

    count, longest = len(stack.queries), stack.longest
    step = plan.dim if plan.dim <= _WHOLE else _PIECE

    def multiply(first: int, stop: int) -> Tensor:
        """Return the product of vectors ``first`` to ``stop`` of the block with the stack, held in ``product``."""
        # A product of too few rows takes in some before them, which are then left out.
        start = max(0, min(first, stop - plan.least_rows))
        rows = max(stop - start, plan.least_rows)
        out = product[: rows * len(queries)].view(rows, len(queries))
        some = block.vectors[start : start + rows]
        torch.mm(some[:, :step], queries[:, :step].T, out=out)
        for at in range(step, plan.dim, step):
            out.addmm_(some[:, at : at + step], queries[:, at : at + step].T)
        return out[first - start : stop - start, : count * longest]

    found = torch.empty((len(block.rows), count), device=block.vectors.device)
    done = 0
    for row, members, length in block.tiles:
        if members == 1 and length > plan.tile_rows:  # one long passage
            highest = multiply(row, row + plan.tile_rows).amax(0, keepdim=True)
            for start in range(row + plan.tile_rows, row + length, plan.tile_rows):
                part = multiply(start, min(start + plan.tile_rows, row + length))
                highest = torch.maximum(highest, part.amax(0, keepdim=True))
        else:
            highest = multiply(row, row + members * length)
            if length > 1:
                highest = highest.view(members, length, count * longest).amax(1)
        torch.sum(highest.reshape(members, count, longest), 2, out=found[done : done + members])
        done += members
    return found


def _by_kernel(stack: Stack, queries: Ragged, block: Block, plan: Plan) -> Tensor:
    """Return scores, shape (passages that have vectors, queries), as `product_scores` does."""
    import torch

    device = str(block.vectors.device)
    kernel = fused_kernel(device, block.vectors.dtype, plan.dim)
    assert kernel is not None  # the plan asked for it
    pieces = stack.pieces(queries, device, plan.piece)
    found = torch.empty((len(block.rows), len(pieces)), device=device)
    done = 0
    for row, members, length in block.tiles:
        tile = block.vectors[row : row + members * length].view(members, length, plan.dim)
        found[done : done + members] = fused_scores(kernel, pieces, tile)
        done += members
    return found
