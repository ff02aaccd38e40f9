"""Exact search that multiplies most passages in bfloat16 only: those that a proven bound keeps out of the best.

A product in bfloat16 is several times as fast as one in float32 where the processor has instructions for it (AMX), and
it tells nearly as well which passages are far from the best ones. It gives each passage an upper and a lower bound of
its score. What has an upper bound below the k-th highest lower bound is not among the k best; only the others are
scored, in float32, exactly as without all this. So scores, order and ties are the same to the bit.

The bound. Let q_1 ... q_m be the vectors of a query, of n numbers, and d those of a passage; q' and d' what they are
rounded to, each number to the nearest bfloat16; and

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
4. Where numbers below 2**-126 are taken for zero, as AMX does, a dot product loses at most n 2**-126 (2 + |q| + |d|).
5. What the bounds are made of is computed in float32 itself: norms with a relative error of at most gamma(n) and an
   absolute one of sqrt(n) 2**-63 through underflow, the rest in a few operations; `_MORE` and the terms beside it allow
   for that.

Norms whose product could leave the range of float32 are left to the plain way, which says so if a score does. So is
everything where torch's product in bfloat16 is not what 2 and 3 say: `m2kr.search.bfloat16.rounds_once` tries it.

The choice. Both ways are tried on some passages of the first large block, and the search goes on in the faster one. It
is asked anew whether leaving passages out pays: after a block in which it did not, and, as the bar rises with the
passages seen, after 1, 2, 4, ... blocks of the plain way.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from m2kr.search.best import Best
from m2kr.search.bfloat16 import Rounded, further_from_zero, is_quick, rounds_once
from m2kr.search.device import kind_of
from m2kr.search.maxsim import product_scores, scores_of
from m2kr.search.ragged import Ragged
from m2kr.search.tiles import Block, Plan, Stack

if TYPE_CHECKING:
    from torch import Tensor

Way: TypeAlias = Literal["measured", "plain", "bounded"]

_MORE = 1 + 2.0**-18  # for the rounding of what the bound is computed with
_TINY = 2.0**-120  # above everything that is lost where small numbers are taken for zero
_LARGEST = 2.0**125  # of a bound of a score
_SUMMED_AT_ONCE = 256  # passages
_AGAIN_ROWS = 2048  # vectors of a tile of passages that are scored again: of few passages, so that little is padded
_AGAIN_AT_ONCE = 1 << 14  # vectors copied for that

# From 769 numbers a vector on, MKL adds up in another order for 128 columns than for 192, whatever the rows.
_MANY, _WIDE = 512, 256

# Measuring: one passage of so many is tried, of blocks with so many passages and products. It has to be this much
# faster, as what is measured is not exact.
_TRIED = 32
_WARM = 4
_FEWEST_PASSAGES = 512
_FOR_EACH = 40  # passages seen, for each that is to be found: of fewer, too many are left to be scored again
_LEAST_WORK = 1 << 30
_GAIN = 0.9


@dataclass(frozen=True)
class Bounded:
    """A block of passages with what their bounds are made of.

    Attributes:
        block: the passages as they are.
        rounded: their vectors in bfloat16.
        longest: for each passage at least the length of its longest vector, rounded or not, shape (passages,), float32.
        lost: at least the length of the largest rounding error of a vector.
    """

    block: Block
    rounded: Tensor
    longest: Tensor
    lost: Tensor

    @classmethod
    def of(cls, block: Block) -> Bounded:
        """Round the passages of a block that has some."""
        import torch

        rounded = Rounded.of(block.vectors)
        longest, lost = (
            torch.from_numpy(np.maximum.reduceat(norms.numpy()[: block.used], block.starts))
            for norms in (rounded.lengths, rounded.lost)
        )
        return cls(block, rounded.vectors, longest, lost)


class Searched:
    """A search on its way: queries, and what was found so far.

    Args:
        queries: all of them, on the device.
        stacks: of them.
        plan: sizes.
        k: passages to find for each query.
        device: as torch names it. The plain way is the only one on another than a CPU.
        way: "plain": every product in float32. "bounded": as this module says. "measured": the faster one.
    """

    def __init__(
        self, queries: Ragged, stacks: list[Stack], plan: Plan, k: int, *, device: str, way: Way = "measured"
    ) -> None:
        import torch

        self.best = [Best(len(stack.queries), k, device) for stack in stacks]
        self._queries, self._stacks, self._plan, self._k = queries, stacks, plan, k
        self._product = torch.empty(plan.product_numbers, device=device)
        self._way = way if kind_of(device) == "cpu" else "plain"
        self._faster = way == "bounded"
        self._plain_seconds = 0.0  # for a vector of a passage and one of a query
        self._wait, self._pause = 0, 1

    def add(self, block: Block) -> None:
        """Search the passages of a block as well."""
        if self._way == "plain" or not block.tiles or not self._pays(block):
            for stack, best in zip(self._stacks, self.best, strict=True):
                best.add(self._scores(stack, block), block.rows)
            return
        start = time.perf_counter()
        bounded = Bounded.of(block)
        for stack, best in zip(self._stacks, self.best, strict=True):
            self._add_bounded(stack, best, bounded)
        if self._way == "measured":
            seconds = time.perf_counter() - start
            self._found(seconds < self._plain_seconds * block.used * sum(stack.width for stack in self._stacks))

    def _scores(self, stack: Stack, block: Block) -> Tensor:
        return scores_of(stack, self._queries, block, self._product, self._plan)

    def _add_bounded(self, stack: Stack, best: Best, bounded: Bounded) -> None:
        import torch

        vectors = stack.vectors(self._queries, "cpu")
        bounds = self.bounds(stack, vectors, bounded) if stack.longest else None
        if bounds is None:
            best.add(self._scores(stack, bounded.block), bounded.block.rows)
            return
        lower, upper = bounds
        left = (upper >= best.bar(lower)).numpy()
        del lower, upper, bounds
        scores, rows = [], []
        for query, mine in enumerate(left):
            passages = np.flatnonzero(mine)
            scores.append(self._again(stack, vectors, query, bounded.block, passages))
            rows.append(bounded.block.rows[torch.from_numpy(passages)])
        best.add_some(scores, rows, len(bounded.block.rows))

    def bounds(self, stack: Stack, vectors: Tensor, bounded: Bounded) -> tuple[Tensor, Tensor] | None:
        """Return lower and upper bounds of scores as `product_scores` gives them, each of shape (queries, passages).

        None where there are none: a score could leave the range of float32, or `rounds_once` says no.
        """
        import torch

        count, longest, dim = len(stack.queries), stack.longest, self._plan.dim
        rounded = Rounded.of(vectors)
        own = slice(0, count * longest)
        lengths = rounded.lengths[own].view(count, longest).sum(1) * (1 + longest * 2.0**-22)
        lost = rounded.lost[own].view(count, longest).sum(1) * (1 + longest * 2.0**-22)
        if not rounds_once(min(4 * self._plan.tile_rows, len(bounded.rounded)), dim, len(vectors)):
            return None
        terms = (1.01 * (dim + longest) + 8) * 2.0**-23
        if not (terms < 0.5 and float(lengths.max()) * float(bounded.longest.max()) < _LARGEST):
            return None
        small = dim * _TINY * (lengths + longest)
        error = torch.outer(lengths, bounded.lost)
        error.addr_(lost + 2 * terms / (1 - terms) * lengths + small, bounded.longest)
        error.add_(small[:, None]).mul_(_MORE)
        lower, upper = self._nearly(stack, rounded.vectors, bounded)
        return lower.sub_(error), upper.add_(error)

    def _nearly(self, stack: Stack, queries: Tensor, bounded: Bounded) -> Tensor:
        """Return what the MaxSims of rounded vectors are at least and at most, shape (2, queries, passages), float32.

        The product comes in bfloat16, and its maximum is taken of the bits as whole numbers, several times as fast.
        Those order as the numbers do, but for negative ones, whose order is turned round: where all are negative, the
        lowest is found, and the highest is between it and zero.
        """
        import torch

        vectors, starts, lengths = bounded.rounded, bounded.block.starts, bounded.block.lengths
        count, longest, width = len(stack.queries), stack.longest, len(queries)
        turned = queries.T.contiguous()  # several times as fast
        # Every product gets the same shape, as a kernel is made for each.
        rows = min(4 * self._plan.tile_rows, len(vectors))
        product = self._product.view(torch.bfloat16)[: rows * width].view(rows, width)
        bits = product.view(torch.int16)[:, : count * longest]
        most = min(_SUMMED_AT_ONCE, len(starts))
        highest = torch.empty((most, count * longest), dtype=torch.int16)
        found = torch.empty((2, count, len(starts)))
        # Where passages of another length begin.
        changes = np.append(np.flatnonzero(np.diff(lengths)) + 1, len(starts))
        summed = done = 0
        while done < len(starts):
            start = min(int(starts[done]), len(vectors) - rows)
            # As many passages as end within the product, and have room among the highest.
            stop = int(np.searchsorted(starts + lengths, start + rows, side="right"))
            stop = min(stop, summed + most)
            torch.mm(vectors[start : start + rows], turned, out=product)
            if stop <= done:  # one passage that is longer than a product
                into = highest[done - summed]
                torch.amax(bits, 0, out=into)
                end = start + int(lengths[done])
                for part in range(start + rows, end, rows):
                    first = min(part, end - rows)
                    torch.mm(vectors[first : first + rows], turned, out=product)
                    torch.maximum(into, bits.amax(0), out=into)
                done += 1
            while done < stop:
                until = min(stop, int(changes[np.searchsorted(changes, done, side="right")]))
                length, first = int(lengths[done]), int(starts[done]) - start
                same = bits[first : first + (until - done) * length].view(until - done, length, count * longest)
                torch.amax(same, 1, out=highest[done - summed : until - summed])
                done = until
            if done - summed == most or done == len(starts):
                self._sum(highest[: done - summed].view(-1, count, longest), found[:, :, summed:done])
                summed = done
        return found

    @staticmethod
    def _sum(bits: Tensor, found: Tensor) -> None:
        """Write what MaxSims are at least and at most, shape (2, queries, passages).

        Args:
            bits: of the highest products, shape (passages, queries, vectors), as `_nearly` finds them.
            found: gets the result.
        """
        import torch

        values = bits.view(torch.bfloat16).to(torch.float32)
        further = further_from_zero(values)
        if int(bits.min()) >= 0:
            upper = further.sum(2).T
            lower = 2 * values.sum(2).T - upper
        else:
            negative = bits < 0
            upper = further.masked_fill(negative, 0).sum(2).T
            lower = torch.where(negative, further, 2 * values - further).sum(2).T
        found[0], found[1] = lower, upper

    def _again(
        self, stack: Stack, vectors: Tensor, query: int, block: Block, passages: npt.NDArray[np.int64]
    ) -> Tensor:
        """Return the scores of one query of a stack with some passages of a block, as `scores_of` gives them."""
        import torch

        if stack.lengths[query] == 0 or not len(passages):
            return torch.zeros(len(passages))
        longest = stack.longest
        alone = Stack(stack.queries[query : query + 1], np.array([longest]), stack.source[:0])
        width = alone.width if self._plan.dim <= _MANY else max(alone.width, min(stack.width, _WIDE))
        own = torch.nn.functional.pad(vectors[query * longest : (query + 1) * longest], (0, 0, 0, width - longest))
        size = min(_AGAIN_ROWS, self._plan.product_numbers // width)
        found = [
            product_scores(alone, own, some, self._product, self._plan)[:, 0]
            for some in block.some(passages, size, _AGAIN_AT_ONCE)
        ]
        return torch.cat(found)

    def _pays(self, block: Block) -> bool:
        """Whether to leave passages of this block out; measured, where that is due."""
        if self._way == "bounded":
            return True
        # The first stack has the longest queries.
        work = block.used * self._plan.dim * (self._stacks[0].width if self._stacks and self._stacks[0].longest else 0)
        if len(block.rows) < _FEWEST_PASSAGES or not work or work < _LEAST_WORK:
            return False
        if self.best[0].seen + len(block.rows) < _FOR_EACH * self._k:
            return False
        if not self._faster:
            if self._wait:
                self._wait -= 1
                return False
            self._found(self._measured(block))
        return self._faster

    def _found(self, faster: bool) -> None:
        """Remember whether leaving passages out was faster, and if it was not, for how long not to try again."""
        self._faster = faster
        if not faster:
            self._wait, self._pause = self._pause, 2 * self._pause

    def _measured(self, block: Block) -> bool:
        """Try both ways on some passages of a block, and tell whether leaving passages out will be faster."""
        import torch

        if not is_quick(self._plan.dim):
            return False
        stack, best = self._stacks[0], self.best[0]
        vectors = stack.vectors(self._queries, "cpu")
        every = np.arange(0, len(block.rows), _TRIED)
        for passages in (every[:_WARM], every):  # in the first round everything starts up
            some = next(block.some(passages, self._plan.tile_rows, len(block.vectors)))
            times = [time.perf_counter()]
            scores = self._scores(stack, some)
            times.append(time.perf_counter())
            bounded = Bounded.of(some)
            times.append(time.perf_counter())
            bounds = self.bounds(stack, vectors, bounded)
            times.append(time.perf_counter())
            again = self._again(stack, vectors, 0, some, np.arange(len(passages)))
            times.append(time.perf_counter())
        # That a product in another shape gives the same bits is what all this rests on.
        if bounds is None or not torch.equal(again.view(torch.int32), scores[0].view(torch.int32)):
            return False
        plain, rounding, bounding, scoring = np.diff(times) / some.used
        lower, upper = bounds
        # Where among those tried the k-th of all will be, when this block has been searched.
        place = math.ceil(self._k / (best.seen + len(block.rows)) * len(every))
        bar = lower.topk(min(place, len(every)), dim=1).values[:, -1:]
        left = float((upper >= torch.maximum(bar, best.bar())).float().mean())
        stacks = sum(other.width for other in self._stacks) / stack.width
        self._plain_seconds = float(plain) / stack.width
        faster = rounding + stacks * (bounding + left * len(stack.queries) * scoring)
        return bool(faster < _GAIN * stacks * plain)
