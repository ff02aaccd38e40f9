"""The highest product of each passage with each query vector, from a fast product that stays in the cache."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

_SUMMED_AT_ONCE = 512  # passages
_TIMED = 1 << 16  # numbers of a product whose time is taken: it takes a fraction of a millisecond
_TURNS = 6
LANES = 32
"""Columns of a product are a multiple of it, or the maximum is several times as slow."""


@dataclass(frozen=True)
class Part:
    """Some passages in the numbers of a fast product.

    Attributes:
        vectors: shape (at least those of one product, dim).
        starts: the first vector of each passage, shape (passages,).
        lengths: vectors of each, none longer than one before it, shape (passages,).
    """

    vectors: Tensor
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    def most(self, rows: int) -> int:
        """Return how many passages' maxima are kept at most, where a product has so many rows."""
        return min(max(_SUMMED_AT_ONCE, rows // int(self.lengths[-1])), len(self.starts))


def turned(queries: Tensor, each: int, longest: int) -> Tensor:
    """Return the vectors of queries as columns, shape (groups, dim, columns), the last of which are zeros.

    Those multiplied at once are next to each other: a product is several times as fast then.

    Args:
        queries: vectors, shape (queries * longest, dim).
        each: queries multiplied at once.
        longest: vectors of each query.
    """
    import torch

    count, columns = len(queries) // longest, -(-each * longest // LANES) * LANES
    groups = torch.zeros((-(-count // each), queries.shape[1], columns), dtype=queries.dtype)
    for group, some in zip(groups, torch.split(queries, each * longest), strict=True):
        group[:, : len(some)] = some.T
    return groups


def highest_products(
    part: Part,
    groups: Tensor,
    product: Tensor,
    multiply: Callable[[Tensor, Tensor], None],
    add_up: Callable[[int, int, Tensor], None],
) -> None:
    """Find the highest product of each passage with each query vector, as whole numbers.

    Args:
        part: the passages.
        groups: query vectors, as `turned` gives them.
        product: scratch, shape (rows, columns), of whole numbers that order as the products do. As every product gets
            this shape, one kernel is made.
        multiply: writes the product of as many vectors with a group there.
        add_up: gets the number of a group, that of a passage, and the maxima of it and those that follow it, shape
            (passages, columns), which are then overwritten. Passages are at most `Part.most`.
    """
    import torch

    vectors, starts, lengths = part.vectors, part.starts.tolist(), part.lengths.tolist()
    ends = (part.starts + part.lengths).tolist()
    rows, columns = product.shape
    most = part.most(rows)
    each = groups.unbind()
    highest = torch.empty((len(each), most, columns), dtype=product.dtype)
    # Where passages of another length begin.
    changes = [*(np.flatnonzero(np.diff(part.lengths)) + 1).tolist(), len(starts)]

    def found(first: int, stop: int) -> None:
        for number, maxima in enumerate(highest[:, : stop - first]):
            add_up(number, first, maxima)

    summed = done = 0
    while done < len(starts):
        start = min(starts[done], len(vectors) - rows)
        # As many passages as end within the product; or one that is longer.
        stop = bisect_right(ends, start + rows)
        if max(stop, done + 1) - summed > most:
            found(summed, done)
            summed = done
        some = vectors[start : start + rows]
        if stop <= done:
            for group, into in zip(each, highest[:, done - summed], strict=True):
                multiply(some, group)
                torch.amax(product, 0, out=into)
                for at in range(start + rows, ends[done], rows):
                    first = min(at, ends[done] - rows)
                    multiply(vectors[first : first + rows], group)
                    torch.maximum(into, product.amax(0), out=into)
            done += 1
            continue
        runs = []  # of passages of one length: where their maxima go, and their products
        while done < stop:
            until = min(stop, changes[bisect_right(changes, done)])
            row, count, length = starts[done] - start, until - done, lengths[done]
            same = product[row : row + count * length].view(count, length, columns)
            runs.append((slice(done - summed, until - summed), same))
            done = until
        for group, into in zip(each, highest, strict=True):
            multiply(some, group)
            for where, same in runs:
                torch.amax(same, 1, out=into[where])
    found(summed, done)


@cache
def is_quick(dim: int, numbers: Literal["bfloat16", "int8"]) -> bool:
    """Whether a product in such numbers is faster than one in float32, so that it is worth trying what goes with it.

    A product takes a fraction of a millisecond: of a smaller one, what each call costs would decide, and so chance.
    They take turns, into memory that is kept, as new memory takes longer than a product.
    """
    import torch

    rows, columns = max(1, _TIMED // max(dim, 1)), 320

    def timed(dtype: torch.dtype, result: torch.dtype) -> Callable[[], float]:
        left, right = torch.ones((rows, dim), dtype=dtype), torch.ones((dim, columns), dtype=dtype)
        out = torch.empty((rows, columns), dtype=result)

        def seconds() -> float:
            start = time.perf_counter()
            (torch._int_mm if dtype == torch.int8 else torch.mm)(left, right, out=out)
            return time.perf_counter() - start

        return seconds

    plain, other = (
        timed(torch.float32, torch.float32),
        timed(torch.int8, torch.int32) if numbers == "int8" else timed(torch.bfloat16, torch.bfloat16),
    )
    rounds = [(plain(), other()) for _ in range(_TURNS)]
    return min(other for _, other in rounds) < min(plain for plain, _ in rounds)
