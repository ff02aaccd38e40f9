"""Bounds of scores from a product in bfloat16: what each passage's score is at least and at most, proven.

A product in bfloat16 is several times as fast as one in float32 where the processor has instructions for it (AMX), and
it tells nearly as well which passages are far from the best ones. Let q_1 ... q_m be the vectors of a query, of n
numbers, and d those of a passage; q' and d' what they are rounded to, each number to the nearest bfloat16; and

    A = sum of max(|q_i|, |q_i'|),  B = sum of |q_i - q_i'|,  R = max of |d - d'|,  D = max of max(|d|, |d'|).

1. In exact arithmetic |q.d - q'.d'| <= |q.(d - d')| + |(q - q').d'| <= |q| |d - d'| + |q - q'| |d'| (Cauchy-Schwarz).
   Maxima over d of numbers that differ by at most e differ by at most e: the two MaxSims differ by at most A R + B D.
2. The product of q' and d' is rounded to bfloat16. Rounding to nearest keeps order, so the maximum of the rounded
   products is the rounded maximum, and that is off by at most half a unit of its last place.
3. A dot product of n numbers as it is computed, in any order, with or without fused operations, is off by at most
   gamma(n) |q| |d|, gamma(n) = n u / (1 - n u), and a sum of m numbers t by gamma(m) sum |t| (Higham, "Accuracy and
   Stability of Numerical Algorithms", 2nd edition, sections 3.1 and 4.2). For products, u is 2**-23 here, twice the
   unit roundoff of float32, so that they may cut off instead of round. Products of two bfloat16 numbers are exact in
   float32. There are two products, the rounded and the one in float32, and four sums, that of the scores and, as the
   lower bound is twice a sum less the upper one, three for the bounds. Together they are off by at most
   2 gamma(1.01 (n + m) + 8) A D, where 1.01 and 8 allow for what is added to the sums.
   On a GPU, 2 and 3 are as `m2kr.search.half` says, and the rest is the same.
4. Where numbers below 2**-126 are taken for zero, as AMX does, a dot product loses at most n 2**-126 (2 + |q| + |d|).
5. What the bounds are made of is computed in float32 itself: norms with a relative error of at most gamma(n) and an
   absolute one of sqrt(n) 2**-63 through underflow, the rest in a few operations; `_MORE` and the terms beside it allow
   for that.

Norms whose product could leave the range of float32 have no bounds. Nor have products where torch's product in bfloat16
is not what 2 and 3 say: `m2kr.search.bfloat16.rounds_once` tries it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from m2kr.errors import M2KRError
from m2kr.search.bfloat16 import Rounded, further_from_zero, rounds_once
from m2kr.search.ragged import Ragged, as_tensor, first_not_finite
from m2kr.search.tiles import Block, Layout, Stack

if TYPE_CHECKING:
    from torch import Tensor

_MORE = 1 + 2.0**-18  # for the rounding of what the bound is computed with
_TINY = 2.0**-120  # above everything that is lost where small numbers are taken for zero
LARGEST = 2.0**125
"""Of a bound of a score."""
_LEAST = 2.0**-126  # float32 that is normal
_SUMMED_AT_ONCE = 512  # passages
# Sizes of a product, for each thread: measured with dimension 64 and 384 on a Xeon of 2 MiB of second-level cache a
# core, where product and maximum of 2,048 x 320 are fastest: 1,024 x 640 and 512 x 640 take 1.1 to 2 times as long.
_COLUMNS, _ROWS = 320, 2048
_LANES = 32  # columns are a multiple of it, or the maximum is several times as slow


@dataclass(frozen=True)
class Part:
    """Some passages in bfloat16.

    Attributes:
        vectors: shape (at least those of one product, dim), bfloat16.
        starts: the first vector of each passage, shape (passages,).
        lengths: vectors of each, none longer than one before it, shape (passages,).
    """

    vectors: Tensor
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bounded:
    """The passages of a chunk that have vectors, or some of them, with what bounds of their scores are made of.

    Attributes:
        chunk: all of it, as it came.
        first: the row of its first passage.
        rows: of the passages, shape (passages,), int64; no passage has more vectors than one before it.
        parts: their vectors, in the order of `rows`.
        longest: for each passage at least the length of its longest vector, rounded or not, shape (passages,), float32.
        lost: at least the length of the largest rounding error of a vector.
    """

    chunk: Ragged
    first: int
    rows: npt.NDArray[np.int64]
    parts: list[Part]
    longest: Tensor
    lost: Tensor

    @classmethod
    def of(cls, chunk: Ragged, first: int, layouts: Iterable[Layout]) -> Bounded:
        """Round the passages of layouts of a chunk, each of which has vectors.

        Raises:
            M2KRError: NaN or infinity.
        """
        import torch

        parts, rows = [], []
        longest: list[Tensor] = []
        lost: list[Tensor] = []
        every = as_tensor(chunk.vectors)
        for layout in layouts:
            rounded, starts = Rounded.of(every, layout.source), layout.starts
            parts.append(Part(rounded.vectors, starts, layout.lengths))
            rows.append(first + layout.passages)
            for norms, found in ((rounded.lengths, longest), (rounded.lost, lost)):
                found.append(torch.from_numpy(np.maximum.reduceat(norms.numpy(), starts)))
        bounded = cls(chunk, first, np.concatenate(rows), parts, torch.cat(longest), torch.cat(lost))
        if not torch.isfinite(bounded.longest).all() and (bad := first_not_finite(chunk)) is not None:
            raise M2KRError(f"the embeddings of passage {first + bad} hold NaN or infinity")
        return bounded

    def some(self, passages: npt.NDArray[np.int64], size: int, room: Tensor) -> Iterator[Block]:
        """Yield some of the passages, given in order, as `Block.some` does, where there is room for a block."""
        rows = self.rows[passages] - self.first
        return Block.some(self.chunk, self.first, rows, size, max(1, len(room) - size), room=room)

    def bounds(self, stack: Stack, vectors: Tensor, product: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what scores are at least and at most, each of shape (queries, passages), float32.

        They hold for scores as `m2kr.search.maxsim.product_scores` gives them. None where there are no bounds.

        Args:
            stack: which queries; the longest has a vector.
            vectors: theirs, as the stack gives them.
            product: scratch, float32.
        """
        import torch

        count, longest, dim = len(stack.queries), stack.longest, vectors.shape[1]
        own = vectors[: count * longest]
        rounded = Rounded.of(own)
        lengths = rounded.lengths.view(count, longest).sum(1) * (1 + longest * 2.0**-22)
        lost = rounded.lost.view(count, longest).sum(1) * (1 + longest * 2.0**-22)
        terms = (1.01 * (dim + longest) + 8) * 2.0**-23
        if not (terms < 0.5 and float(lengths.max()) * float(self.longest.max()) < LARGEST):
            return None
        each = min(count, max(1, _COLUMNS // longest))  # queries multiplied at once
        columns = -(-each * longest // _LANES) * _LANES
        most = min(_ROWS * torch.get_num_threads(), max(_LANES, 2 * len(product) // columns))
        if not all(rounds_once(min(most, len(part.vectors)), dim, columns) for part in self.parts):
            return None
        added_up = 2 * terms / (1 - terms)
        error = error_of(lengths, lost, self.longest, self.lost, added_up=added_up, dim=dim, longest=longest)
        # Those multiplied at once are columns next to each other: a product is several times as fast then.
        turned = torch.zeros((-(-count // each), dim, columns), dtype=torch.bfloat16)
        for group, some in zip(turned, torch.split(rounded.vectors, each * longest), strict=True):
            group[:, : len(some)] = some.T
        found = torch.empty((2, count, len(self.rows)))
        done = 0
        for part in self.parts:
            rows = min(most, len(part.vectors))
            scratch = product.view(torch.bfloat16)
            if len(scratch) < rows * columns:
                scratch = torch.empty(rows * columns, dtype=torch.bfloat16)
            scratch = scratch[: rows * columns].view(rows, columns)
            stop = done + len(part.starts)
            _nearly(part, turned, longest, scratch, found[:, :, done:stop])
            done = stop
        return found[0].sub_(error), found[1].add_(error)


def error_of(
    lengths: Tensor,
    lost: Tensor,
    longest_vectors: Tensor,
    most_lost: Tensor,
    *,
    added_up: float,
    dim: int,
    longest: int,
) -> Tensor:
    """Return how far scores are at most from the MaxSims of rounded vectors, shape (queries, passages), float32.

    Args:
        lengths: A of each query.
        lost: B of each query.
        longest_vectors: D of each passage.
        most_lost: R of each passage.
        added_up: what 3 multiplies A D with.
        dim: n.
        longest: m of the longest query.
    """
    import torch

    small = dim * _TINY * (lengths + longest)
    error = torch.outer(lengths, most_lost)
    error.addr_(lost + added_up * lengths + small, longest_vectors)
    return error.add_(small[:, None]).mul_(_MORE)


def _nearly(part: Part, turned: Tensor, longest: int, product: Tensor, found: Tensor) -> None:
    """Write what the MaxSims of rounded vectors are at least and at most.

    The product comes in bfloat16, and its maximum is taken of the bits as whole numbers, several times as fast.
    Those order as the numbers do, but for negative ones, whose order is turned round: where all are negative, the
    lowest is found, and the highest is between it and zero.

    Args:
        part: the passages.
        turned: query vectors, shape (groups, dim, columns).
        longest: vectors of each query.
        product: scratch, shape (rows, columns). As every product gets this shape, one kernel is made.
        found: gets the result, shape (2, queries, passages).
    """
    import torch

    vectors, starts, lengths = part.vectors, part.starts.tolist(), part.lengths.tolist()
    ends = (part.starts + part.lengths).tolist()
    (rows, columns), bits, groups = product.shape, product.view(torch.int16), turned.unbind()
    # Room for as many passages as a product can have.
    most = min(max(_SUMMED_AT_ONCE, rows // lengths[-1]), len(starts))
    highest = torch.empty((len(groups), most, columns), dtype=torch.int16)
    summing = torch.empty((2, most * columns))
    # Where passages of another length begin.
    changes = [*(np.flatnonzero(np.diff(part.lengths)) + 1).tolist(), len(starts)]

    def add_up(first: int, stop: int) -> None:
        each = columns // longest
        for group, some in zip(
            highest[:, : stop - first], torch.split(found[:, :, first:stop], each, dim=1), strict=True
        ):
            queries = some.shape[1]
            _sum(group[:, : queries * longest].view(-1, queries, longest), some, summing)

    summed = done = 0
    while done < len(starts):
        start = min(starts[done], len(vectors) - rows)
        # As many passages as end within the product; or one that is longer.
        stop = bisect_right(ends, start + rows)
        if max(stop, done + 1) - summed > most:
            add_up(summed, done)
            summed = done
        some = vectors[start : start + rows]
        if stop <= done:
            for group, into in zip(groups, highest[:, done - summed], strict=True):
                torch.mm(some, group, out=product)
                torch.amax(bits, 0, out=into)
                for at in range(start + rows, ends[done], rows):
                    first = min(at, ends[done] - rows)
                    torch.mm(vectors[first : first + rows], group, out=product)
                    torch.maximum(into, bits.amax(0), out=into)
            done += 1
            continue
        runs = []  # of passages of one length: where their maxima go, and their products
        while done < stop:
            until = min(stop, changes[bisect_right(changes, done)])
            row, count, length = starts[done] - start, until - done, lengths[done]
            same = bits[row : row + count * length].view(count, length, columns)
            runs.append((slice(done - summed, until - summed), same))
            done = until
        for group, into in zip(groups, highest, strict=True):
            torch.mm(some, group, out=product)
            for where, same in runs:
                torch.amax(same, 1, out=into[where])
    add_up(summed, done)


def _sum(bits: Tensor, found: Tensor, scratch: Tensor) -> None:
    """Write what MaxSims are at least and at most, shape (2, queries, passages).

    Args:
        bits: of the highest products, shape (passages, queries, vectors), as `_nearly` finds them.
        found: gets the result.
        scratch: shape (2, at least as many), float32.
    """
    import torch

    values, further = scratch[:, : bits.numel()].view(2, *bits.shape)
    values.copy_(bits.view(torch.bfloat16))
    # A highest one below zero counts for nothing above, and twice below, which is lower than it can be. Zero is taken
    # for the least number that processors are quick with: half a unit of its last place is none.
    upper = _summed(further_from_zero(values, further).clamp_(min=_LEAST))
    found[0], found[1] = _summed(values).mul_(2).sub_(upper).T, upper.T


def _summed(values: Tensor) -> Tensor:
    """Add up the last axis of three, through the matrix library, which is faster for short ones."""
    return values.view(-1, values.shape[2]).mv(values.new_ones(values.shape[2])).view(values.shape[:2])
