"""MaxSim of many queries with a block of passages: what `m2kr.search` spends its time on.

How it is made fast. Torch multiplies a tile of passages with a stack of queries (`m2kr.search.tiles`) and takes the
maximum over the middle axis while the product is still in the cache. On a CUDA GPU, with both sides in the same half
precision, one fused kernel does both, and the product never leaves the chip (`m2kr.search.fused`).

Equal passages are to score the same bits wherever they lie, and a query whatever is multiplied beside it. Elsewhere
than on a CPU kernels are chosen by the shape, so all products of a stack have one. Maxima are added up in an order that
neither the shape nor the padding changes.
"""

from __future__ import annotations

import math
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
# Maxima that are added up at once: because of what a call of torch costs, those of several tiles, and on a CPU no more
# than stay in the cache, half a MiB.
_WAITING = 1 << 17
_SUMMED = 32  # of a query, by torch's sum, on a CPU


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
            found = kernel_scores(stack.pieces(queries, str(device), plan.piece), block)
        else:
            if not len(product):  # meant for the kernel, but these passages are of another type than the queries
                product = torch.empty(plan.tile_rows * stack.columns(plan.product_vectors), device=device)
            groups = stack.groups(stack.vectors(queries, str(device)), plan.product_vectors)
            parts = [product_scores(some, own, block, product, plan) for _, some, own in groups]
            found = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if len(found) and not all(map(math.isfinite, found.aminmax())):  # in one pass, and without a copy
            raise M2KRError("the embeddings are too large: a score does not fit into float32")
    found[:, torch.from_numpy(stack.lengths == 0).to(device)] = 0  # a sum over no vectors
    return found.T


def product_scores(stack: Stack, queries: Tensor, block: Block, product: Tensor, plan: Plan) -> Tensor:
    """Return the scores of the passages of a block that has vectors, shape (passages, queries), by torch's product.

    Args:
        stack: which queries.
        queries: their vectors, as the stack or a group of it gives them. float32, as those of the block, or elsewhere
            than on a CPU both float16.
        block: the passages.
        product: scratch, as for `scores_of`.
        plan: sizes.
    """
    import torch

    count, longest = len(stack.queries), stack.longest
    used = count * longest
    step = plan.dim if plan.dim <= _WHOLE else _PIECE
    columns = [piece.T for piece in torch.split(queries, step, dim=1)]
    at_once = 1 if plan.product_vectors else _SUMMED
    width = -(-longest // at_once) * at_once
    room = plan.tile_rows if plan.product_vectors else max(1, _WAITING // (count * width))
    waiting = torch.zeros((min(len(block.rows), room) if longest > 1 else 0, count, width), device=block.vectors.device)

    def multiply(first: int, stop: int) -> Tensor:
        """Return the product of vectors ``first`` to ``stop`` of the block with the stack, held in ``product``."""
        # A product of too few rows takes in some before them, which are then left out.
        start = max(0, min(first, stop - plan.least_rows))
        rows = max(stop - start, plan.least_rows)
        out = product[: rows * len(queries)].view(rows, len(queries))
        some = block.vectors[start : start + rows]
        if some.dtype == torch.float16:
            half_product(some, queries.T, out)
        else:
            pieces = torch.split(some, step, dim=1)
            torch.mm(pieces[0], columns[0], out=out)
            for own, others in zip(pieces[1:], columns[1:], strict=True):
                out.addmm_(own, others)
        return out if rows == stop - first and used == len(queries) else out[first - start : stop - start, :used]

    def find(row: int, members: int, length: int, into: Tensor) -> None:
        """Write the highest products of a tile, shape (members, used)."""
        if members == 1 and length > plan.tile_rows:  # one long passage
            torch.amax(multiply(row, row + plan.tile_rows), 0, keepdim=True, out=into)
            for start in range(row + plan.tile_rows, row + length, plan.tile_rows):
                part = multiply(start, min(start + plan.tile_rows, row + length))
                torch.maximum(into, part.amax(0, keepdim=True), out=into)
        elif length > 1:
            torch.amax(multiply(row, row + members * length).view(members, length, used), 1, out=into)
        else:
            into.copy_(multiply(row, row + members))

    found = torch.empty((len(block.rows), count), device=block.vectors.device)
    summed = held = 0
    for row, members, length in block.tiles:
        if longest == 1:
            find(row, members, length, found[summed : summed + members])
            summed += members
            continue
        if held and held + members > len(waiting):
            found[summed : summed + held] = _sums(waiting[:held], at_once)
            summed, held = summed + held, 0
        if longest == width and members <= len(waiting):
            find(row, members, length, waiting[held : held + members].view(members, used))
            held += members
            continue
        highest = found.new_empty((members, count, longest))
        find(row, members, length, highest.view(members, used))
        if longest == width:
            found[summed : summed + members] = _sums(highest, at_once)
            summed += members
            continue
        for some in torch.split(highest, len(waiting)):
            waiting[held : held + len(some), :, :longest] = some
            held += len(some)
            if held == len(waiting):
                found[summed : summed + held] = _sums(waiting[:held], at_once)
                summed, held = summed + held, 0
    if held:
        found[summed : summed + held] = _sums(waiting[:held], at_once)
    return found


def half_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Multiply two matrices in float16 on a GPU into one in float32, which is not rounded to float16."""
    import torch

    torch.mm(left, right, out_dtype=torch.float32, out=out)


def _sums(values: Tensor, at_once: int) -> Tensor:
    """Return the sums of the last axis, in an order that zeros behind its end do not change. Changes ``values``.

    Torch adds up ``at_once`` numbers each, in an order of its own, which depends on how many they are. What there is to
    add up then is added up by halves: what stands from the largest power of two on is added to what stands before it.
    """
    if at_once > 1:
        values = values.reshape(*values.shape[:-1], -1, at_once).sum(-1)
    left = values.shape[-1]
    while left > 1:
        half = 1 << (left - 1).bit_length() - 1
        values[..., : left - half].add_(values[..., half:left])
        left = half
    return values[..., 0]


def kernel_scores(pieces: Tensor, block: Block) -> Tensor:
    """Return scores, shape (passages that have vectors, queries), as `product_scores` does, by the fused kernel.

    Args:
        pieces: of the queries, as a stack gives them, of the type of the block.
        block: the passages, in a type and dimension for which there is a kernel.
    """
    import torch

    device, dim = block.vectors.device, block.vectors.shape[1]
    kernel = fused_kernel(str(device), block.vectors.dtype, dim)
    assert kernel is not None
    found = torch.empty((len(block.rows), len(pieces)), device=device)
    done = 0
    for row, members, length in block.tiles:
        tile = block.vectors[row : row + members * length].view(members, length, dim)
        found[done : done + members] = fused_scores(kernel, pieces, tile)
        done += members
    return found
