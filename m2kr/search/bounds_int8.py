"""Bounds of scores from a product in whole numbers of 8 bits, in the place of bfloat16.

Processors with instructions for it (VNNI) multiply 8-bit whole numbers twice as fast as bfloat16, and exactly; many of
them have none for bfloat16. The bounds are wider, as 8 bits are spread evenly over a range here: each passage has a
scale, so that its largest number becomes 127, and so has each query vector. The proof is that of `m2kr.search.bounds`,
with these differences:

2. The product of q' and d' is exact. `multiplies_exactly` tries it, also with the largest numbers: some processors
   without VNNI cut off what does not fit into 16 bits.
3. What is left is the product in float32, and sums: those of the scores, and here those of the maxima, rounded to
   float32, times their scales, that times the passage's scale, and the bound added. They are fewer than there.
4. Numbers times the inverse of a scale are off by at most 2**-22 of themselves, which counts as lost.

Spreading. Where numbers of one dimension are much larger than others, as in vectors of all-MiniLM-L6-v2, a scale that
they fit is too wide for the others. Such a dimension is replaced by 4 or 16 that hold a half or a quarter of its
number: neither lengths nor dot products change, and nothing is rounded, as the factors are powers of two, but where a
quarter of a number is below 2**-126, which is no more than what 4 of the proof allows for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from m2kr.search.bfloat16 import more
from m2kr.search.bounds import LARGEST, Bounded, added_up, error_of, product_sizes, unsure_of
from m2kr.search.layout import Layout
from m2kr.search.products import Part, highest_products, turned
from m2kr.search.ragged import Ragged, as_tensor, gather
from m2kr.search.tiles import Stack

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 127
_LEAST_SCALE = 2.0**-126  # float32 that is normal
_SAMPLED = 1024  # vectors of a chunk that tell which dimensions to spread
_FAR = 6.0  # root mean squares: numbers beyond are spread; normally distributed ones hardly reach it
_HALVED = 2  # times at most
_WIDER = 4  # a quarter more dimensions at most, or 16: where so many numbers are large, it would gain little


@dataclass(frozen=True)
class Spread:
    """Dimensions in the place of those of vectors.

    Attributes:
        source: the dimension whose number each holds, shape (new dim,), int64.
        factors: what it is multiplied with, 1, 1/2 or 1/4, shape (new dim,), float32.
    """

    source: Tensor
    factors: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Spread | None:
        """Return how to spread vectors like these, shape (n, dim), float32; None where there is no need."""
        import torch

        far = _FAR * vectors.square().mean().sqrt()
        if not 0 < float(far) < torch.inf:
            return None
        halved = (vectors.abs().amax(0) / far).log2().ceil().clamp(0, _HALVED)
        # By whole numbers: the copies' squared factors have to add up to 1 exactly, which a computed power might miss.
        halvings, dim = halved.long(), vectors.shape[1]
        times = torch.tensor([4**many for many in range(_HALVED + 1)])[halvings]
        if not dim < int(times.sum()) <= dim + max(dim // _WIDER, 4**_HALVED):
            return None
        source = torch.arange(dim).repeat_interleave(times)
        return cls(source, torch.tensor([0.5**many for many in range(_HALVED + 1)])[halvings[source]])

    def over(self, vectors: Tensor) -> Tensor:
        """Return vectors with the dimensions spread."""
        return vectors.index_select(-1, self.source).mul_(self.factors)


@dataclass(frozen=True)
class Int8Bounded(Bounded):
    """`Bounded` by products in whole numbers of 8 bits.

    Attributes:
        scales: of the passages, shape (passages,), float32.
        spread: how dimensions were spread; None: not at all.
    """

    scales: Tensor
    spread: Spread | None

    tile_numbers: ClassVar[int] = 1 << 17  # with what they become in float32 and int8, they stay in the cache

    @classmethod
    def of(cls, chunk: Ragged, first: int, layouts: Iterable[Layout]) -> Int8Bounded:
        """See `Bounded.of`."""
        import torch

        every, dim = as_tensor(chunk.vectors), chunk.dim
        spread = Spread.of(every[:: -(-len(every) // _SAMPLED)].to(torch.float32))
        wide = len(spread.source) if spread else dim
        parts, rows, facts = [], [], []
        for layout in layouts:
            # numpy asks the system for large pages, which are there several times as fast.
            numbers = torch.from_numpy(np.empty((len(layout.source), wide), np.int8))
            lengths = layout.lengths
            room = torch.empty((2, max(members * length for _, members, length in layout.tiles), wide))
            found = torch.empty((3, len(lengths)))
            done = 0
            for row, members, length in layout.tiles:
                some = slice(row, row + members * length)
                vectors, scratch = room[:, : members * length]
                gathered = scratch.view(-1)[: len(vectors) * dim].view(-1, dim) if spread else vectors
                gather(every, layout.source[some], gathered)
                if spread:
                    torch.index_select(gathered, 1, spread.source, out=vectors)
                    vectors.mul_(spread.factors)
                items, own, into = (part.view(members, length, wide) for part in (vectors, scratch, numbers[some]))
                quantise(items, own, into, found[:, done : done + members])
                done += members
            parts.append(Part(numbers, layout.starts, lengths))
            rows.append(first + layout.passages)
            facts.append(found)
        scales, longest, lost = torch.cat(facts, dim=1).unbind()
        bounded = cls(chunk, first, np.concatenate(rows), parts, longest, lost, scales, spread)
        bounded.check()
        return bounded

    def bounds(self, stack: Stack, vectors: Tensor, product: Tensor) -> tuple[Tensor, Tensor] | None:
        """See `Bounded.bounds`."""
        import torch

        count, longest, dim = len(stack.queries), stack.longest, vectors.shape[1]
        own = vectors[: count * longest]
        own = self.spread.over(own) if self.spread else own.clone()
        numbers, found = torch.empty(own.shape, dtype=torch.int8), torch.empty((3, len(own)))
        quantise(own[:, None], torch.empty_like(own)[:, None], numbers[:, None], found)
        scales, *norms = found
        lengths, lost = (added_up(norm, longest) for norm in norms)
        unsure = unsure_of(dim, longest)
        # A score is at most A D; before it is multiplied with the scale of the passage, A times the length of numbers.
        highest = max(float(self.longest.max()), _LARGEST * own.shape[1] ** 0.5)
        if unsure is None or not float(lengths.max()) * highest < LARGEST:
            return None
        each, columns, most = product_sizes(stack, product)
        if not all(multiplies_exactly(min(most, len(part.vectors)), own.shape[1], columns) for part in self.parts):
            return None
        error = error_of(lengths, lost, self.longest, self.lost, added_up=unsure, dim=dim, longest=longest)
        groups = turned(numbers, each, longest)
        weights = torch.zeros((len(groups) * each, columns))  # what the maximum of a column counts for in a score
        columns_of = (torch.arange(count) % each * longest)[:, None] + torch.arange(longest)
        weights[:count].scatter_(1, columns_of, scales.view(count, longest))
        middle = torch.empty((len(weights), len(self.rows)))
        for part, where, scratch in self.products(product.view(torch.int32), most, columns):
            _maxsims(part, groups, weights.view(-1, each, columns), scratch, middle[:, where])
        middle = middle[:count].mul_(self.scales)
        return middle - error, error.add_(middle)


def quantise(items: Tensor, scratch: Tensor, numbers: Tensor, found: Tensor) -> None:
    """Round items of vectors to whole numbers of up to 127, of a scale for each item.

    Args:
        items: shape (items, vectors, dim), float32; overwritten. NaN or infinity gives a length that is none, either.
        scratch: of that shape, float32.
        numbers: gets the result, of that shape, int8.
        found: gets, for each item, its scale, at least the length of its longest vector, rounded or not, and at least
            that of the largest rounding error, shape (3, items), float32.
    """
    import torch

    dim = items.shape[2]
    scales, longest, lost = found
    longest.copy_(more(torch.linalg.vector_norm(items, dim=2).amax(1), dim))
    torch.abs(items, out=scratch)
    torch.div(scratch.amax((1, 2)), _LARGEST, out=scales)
    scales.clamp_(min=_LEAST_SCALE)
    items.mul_(scales.reciprocal()[:, None, None])
    torch.round(items, out=scratch)
    numbers.copy_(scratch)
    items.sub_(scratch)
    lost.copy_(more(torch.linalg.vector_norm(items, dim=2).amax(1), dim).mul_(scales).add_(longest, alpha=2.0**-21))
    longest.add_(lost)


def _maxsims(part: Part, groups: Tensor, weights: Tensor, product: Tensor, found: Tensor) -> None:
    """Write what the MaxSims of rounded vectors are, but for the scales of passages.

    Args:
        part: the passages.
        groups: query vectors, as `turned` gives them, int8.
        weights: shape (groups, queries, columns).
        product: scratch, shape (rows, columns), int32.
        found: gets the result, shape (groups * queries, passages).
    """
    import torch

    rows, columns = product.shape
    values = torch.empty((part.most(rows), columns))
    some = found.view(*weights.shape[:2], -1)

    def multiply(vectors: Tensor, group: Tensor) -> None:
        torch._int_mm(vectors, group, out=product)

    def add_up(group: int, first: int, highest: Tensor) -> None:
        own = values[: len(highest)].copy_(highest)
        some[group, :, first : first + len(highest)] = torch.mm(weights[group], own.T)

    highest_products(part, groups, product, multiply, add_up)


@cache
def multiplies_exactly(rows: int, dim: int, columns: int) -> bool:
    """Whether torch's product of 8-bit whole numbers of this shape is exact: tried in some of the rows."""
    import torch

    generator = torch.Generator().manual_seed(0)
    product = torch.empty((rows, columns), dtype=torch.int32)
    some = slice(0, rows, max(1, rows // 16))
    for least in (-_LARGEST, _LARGEST):
        left, right = (
            torch.randint(least, _LARGEST + 1, shape, generator=generator, dtype=torch.int8)
            for shape in ((rows, dim), (dim, columns))
        )
        for sign in (1, -1):
            torch._int_mm(left, sign * right, out=product)
            if not torch.equal(product[some].double(), left[some].double() @ (sign * right).double()):
                return False
    return True
