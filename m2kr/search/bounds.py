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

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from m2kr.errors import M2KRError
from m2kr.search.bfloat16 import Rounded, further_from_zero, rounds_once
from m2kr.search.layout import Layout
from m2kr.search.products import LANES, Part, highest_products, turned
from m2kr.search.ragged import Ragged, as_tensor, first_not_finite
from m2kr.search.tiles import Block, Stack

if TYPE_CHECKING:
    from torch import Tensor

_MORE = 1 + 2.0**-18  # for the rounding of what the bound is computed with
_TINY = 2.0**-120  # above everything that is lost where small numbers are taken for zero
LARGEST = 2.0**125
"""Of a bound of a score."""
_LEAST = 2.0**-126  # float32 that is normal
# Sizes of a product, for each thread: measured with dimension 64 and 384 on a Xeon of 2 MiB of second-level cache a
# core, where product and maximum of 2,048 x 320 are fastest: 1,024 x 640 and 512 x 640 take 1.1 to 2 times as long.
COLUMNS, ROW_BYTES = 320, 2048 * 2


@dataclass(frozen=True)
class Bounded(ABC):
    """The passages of a chunk that have vectors, or some of them, with what bounds of their scores are made of.

    Attributes:
        chunk: all of it, as it came.
        first: the row of its first passage.
        rows: of the passages, shape (passages,), int64; no passage has more vectors than one before it.
        parts: their rounded vectors, in the order of `rows`.
        longest: for each passage at least the length of its longest vector, rounded or not, shape (passages,), float32.
        lost: at least the length of the largest rounding error of a vector.
    """

    chunk: Ragged
    first: int
    rows: npt.NDArray[np.int64]
    parts: list[Part]
    longest: Tensor
    lost: Tensor

    tile_numbers: ClassVar[int] = 0
    """That a tile of a layout has at most, unless it is of one passage; 0: as many as a product."""

    @classmethod
    @abstractmethod
    def of(cls, chunk: Ragged, first: int, layouts: Iterable[Layout]) -> Bounded:
        """Round the passages of layouts of a chunk, each of which has vectors.

        Raises:
            M2KRError: NaN or infinity.
        """

    @abstractmethod
    def bounds(self, stack: Stack, vectors: Tensor, product: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what scores are at least and at most, each of shape (queries, passages), float32.

        They hold for scores as `m2kr.search.maxsim.product_scores` gives them. None where there are no bounds.

        Args:
            stack: which queries; the longest has a vector.
            vectors: theirs, as the stack gives them.
            product: scratch, float32.
        """

    def some(self, passages: npt.NDArray[np.int64], size: int, room: Tensor) -> Iterator[Block]:
        """Yield some of the passages, given in order, as `Block.some` does, where there is room for a block."""
        rows = self.rows[passages] - self.first
        return Block.some(self.chunk, self.first, rows, size, max(1, len(room) - size), room=room)

    def products(self, scratch: Tensor, most: int, columns: int) -> Iterator[tuple[Part, slice, Tensor]]:
        """Yield each part, where its passages stand among all, and memory for a product with it.

        Args:
            scratch: which is taken, if there is enough, shape (n,).
            most: rows of a product at most.
            columns: of it.
        """
        done = 0
        for part in self.parts:
            rows, stop = min(most, len(part.vectors)), done + len(part.starts)
            if len(scratch) < rows * columns:
                scratch = scratch.new_empty(rows * columns)
            yield part, slice(done, stop), scratch[: rows * columns].view(rows, columns)
            done = stop

    def check(self) -> None:
        """Raise where what was rounded is not finite.

        Raises:
            M2KRError: NaN or infinity.
        """
        import torch

        if not torch.isfinite(self.longest).all() and (bad := first_not_finite(self.chunk)) is not None:
            raise M2KRError(f"the embeddings of passage {self.first + bad} hold NaN or infinity")


class Bfloat16Bounded(Bounded):
    """`Bounded` by products in bfloat16."""

    @classmethod
    def of(cls, chunk: Ragged, first: int, layouts: Iterable[Layout]) -> Bfloat16Bounded:
        """See `Bounded.of`."""
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
        bounded.check()
        return bounded

    def bounds(self, stack: Stack, vectors: Tensor, product: Tensor) -> tuple[Tensor, Tensor] | None:
        """See `Bounded.bounds`."""
        import torch

        count, longest, dim = len(stack.queries), stack.longest, vectors.shape[1]
        rounded = Rounded.of(vectors[: count * longest])
        lengths, lost = (added_up(norms, longest) for norms in (rounded.lengths, rounded.lost))
        unsure = unsure_of(dim, longest)
        if unsure is None or not float(lengths.max()) * float(self.longest.max()) < LARGEST:
            return None
        each, columns, most = product_sizes(stack, product.view(torch.bfloat16))
        if not all(rounds_once(min(most, len(part.vectors)), dim, columns) for part in self.parts):
            return None
        error = error_of(lengths, lost, self.longest, self.lost, added_up=unsure, dim=dim, longest=longest)
        groups = turned(rounded.vectors, each, longest)
        found = torch.empty((2, count, len(self.rows)))
        for part, where, scratch in self.products(product.view(torch.bfloat16), most, columns):
            _nearly(part, groups, longest, scratch, found[:, :, where])
        return found[0].sub_(error), found[1].add_(error)


def product_sizes(stack: Stack, scratch: Tensor) -> tuple[int, int, int]:
    """Return the queries that are multiplied at once, the columns of a product, and the rows that it has at most.

    Args:
        stack: which queries.
        scratch: for a product, shape (n,).
    """
    import torch

    each = min(len(stack.queries), max(1, COLUMNS // stack.longest))
    columns = -(-each * stack.longest // LANES) * LANES
    most = ROW_BYTES // scratch.element_size() * torch.get_num_threads()
    return each, columns, min(most, max(LANES, len(scratch) // columns))


def added_up(norms: Tensor, longest: int) -> Tensor:
    """Return at least the sums of norms of the vectors of each query, shape (queries,)."""
    return norms.view(-1, longest).sum(1) * (1 + longest * 2.0**-22)


def unsure_of(dim: int, longest: int) -> float | None:
    """Return what 3 multiplies A D with; None of vectors so long that it is of no use."""
    terms = (1.01 * (dim + longest) + 8) * 2.0**-23
    return 2 * terms / (1 - terms) if terms < 0.5 else None


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


def _nearly(part: Part, groups: Tensor, longest: int, product: Tensor, found: Tensor) -> None:
    """Write what the MaxSims of rounded vectors are at least and at most.

    The product comes in bfloat16, and its maximum is taken of the bits as whole numbers, several times as fast.
    Those order as the numbers do, but for negative ones, whose order is turned round: where all are negative, the
    lowest is found, and the highest is between it and zero.

    Args:
        part: the passages.
        groups: query vectors, as `turned` gives them.
        longest: vectors of each query.
        product: scratch, shape (rows, columns), bfloat16.
        found: gets the result, shape (2, queries, passages).
    """
    import torch

    rows, columns = product.shape
    summing = torch.empty((2, part.most(rows) * columns))
    some = torch.split(found, columns // longest, dim=1)

    def multiply(vectors: Tensor, group: Tensor) -> None:
        torch.mm(vectors, group, out=product)

    def add_up(group: int, first: int, highest: Tensor) -> None:
        own = some[group][:, :, first : first + len(highest)]
        queries = own.shape[1]
        _sum(highest[:, : queries * longest].view(-1, queries, longest), own, summing)

    highest_products(part, groups, product.view(torch.int16), multiply, add_up)


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
