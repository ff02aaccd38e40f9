"""Cutting a search into pieces: queries into stacks, passages into blocks of tiles, within a given memory.

Queries are put together in stacks, passages are sorted by length and cut into tiles of one length, the shorter ones
padded by repeating one of their own vectors (which changes no maximum, where padding of zeros would beat similarities
below zero). A tile is then a regular block, which `m2kr.search.maxsim` multiplies with a stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from m2kr.errors import M2KRError
from m2kr.search.device import kind_of
from m2kr.search.fused import TILE_BYTES, fused_kernel, piece_length
from m2kr.search.layout import Layout, Sizes, TriedSizes
from m2kr.search.ragged import Ragged, as_tensor, first_not_finite, gather

if TYPE_CHECKING:
    from torch import Tensor

# Query vectors and queries of a stack, and numbers in a product, on a CPU and elsewhere. On a CPU products of half and
# of twice the rows are tried (`m2kr.search.layout`). On a Xeon of 2 MiB of second-level cache a core, dim 64, stacks of
# 640 were 4% faster than those of 1,280 with products as large. A GPU wants fewer and larger steps; its sizes are
# reckoned, not measured.
_STACK_VECTORS = {"cpu": 640, "other": 1 << 17}
_STACK_QUERIES = {"cpu": 256, "other": 1024}
_PRODUCT_NUMBERS = {"cpu": 1024 * 640, "other": 1 << 24}
# Query vectors of a product; without a number, those of a stack. Where GPU libraries choose among many kernels by the
# shape, all products of a stack have one: narrow, as passages that few queries ask for are scored again with as many
# columns, and high, as 64 MiB nearly stay in the second-level cache.
_PRODUCT_VECTORS = {"cpu": 0, "other": 128}
_LANES = 32  # columns are a multiple of it there
# Numbers of passages that are sorted and widened at once: each stack reads them anew, on a CPU from the last level of
# the cache. Of dim 128, blocks of 64 MiB took up to a third longer than those of 8 to 32 MiB (Zen 4).
_BLOCK_NUMBERS = {"cpu": 1 << 23, "other": 1 << 60}
_PART_VECTORS = 1 << 17  # of passages that are rounded, on a CPU: they take less memory, and each part takes its time
# Matrix libraries add up in another order when one side is a single vector (seen with MKL), so that a duplicate of a
# passage could differ from it in the last bit and lose its place. From 16 rows on, every shape gave the same bits.
_LEAST_ROWS = 16


@dataclass(frozen=True)
class Stack:
    """Some queries that are multiplied together, each padded to the longest with zero vectors, which add 0 to a score.

    Attributes:
        queries: their row numbers, shape (n,).
        lengths: how many vectors each has that are not zero, shape (n,).
        source: where those lie among the vectors of all queries.
    """

    queries: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]

    @property
    def longest(self) -> int:
        """Vectors of the longest query."""
        return int(self.lengths.max())

    @property
    def width(self) -> int:
        """Vectors of the stack with its padding, at least as many as a product needs."""
        return max(len(self.queries) * self.longest, _LEAST_ROWS)

    def vectors(self, queries: Ragged, device: str) -> Tensor:
        """Return the stack, shape (width, dim), float32. Made when needed: those of all queries may be large."""
        import torch

        stack = torch.zeros((self.width, queries.dim), device=device)
        return self._fill(stack, queries, self.longest)

    def pieces(self, queries: Ragged, device: str, piece: int) -> Tensor:
        """Return the stack in the type of the queries, shape (n, pieces, piece, dim)."""
        import torch

        count = -(-self.longest // piece)
        dtype = as_tensor(queries.vectors).dtype
        stack = torch.zeros((len(self.queries) * count * piece, queries.dim), device=device, dtype=dtype)
        return self._fill(stack, queries, count * piece).view(len(self.queries), count, piece, queries.dim)

    def columns(self, most: int) -> int:
        """Return how many vectors a product has, of `groups` of that size."""
        return -(-self._each(most) * self.longest // _LANES) * _LANES if most else self.width

    def groups(self, vectors: Tensor, most: int) -> Iterator[tuple[slice, Stack, Tensor]]:
        """Yield queries that are multiplied together: where they stand, a stack of them, and its vectors.

        Args:
            vectors: of the stack, as `vectors` returns them.
            most: vectors of a group, unless it is of one query; 0: the group is the stack. Groups have `columns`
                vectors, the last ones zeros.
        """
        import torch

        if not most:
            yield slice(0, len(self.queries)), self, vectors
            return
        each, columns = self._each(most), self.columns(most)
        for start in range(0, len(self.queries), each):
            where = slice(start, min(start + each, len(self.queries)))
            own = vectors[where.start * self.longest : where.stop * self.longest]
            some = Stack(self.queries[where], np.full(where.stop - start, self.longest), self.source[:0])
            yield where, some, torch.nn.functional.pad(own, (0, 0, 0, columns - len(own)))

    def _each(self, most: int) -> int:
        return min(len(self.queries), max(1, most // self.longest))

    def _fill(self, stack: Tensor, queries: Ragged, padded: int) -> Tensor:
        import torch

        every = as_tensor(queries.vectors)
        found = every.index_select(0, torch.from_numpy(self.source).to(every.device))
        filled = np.flatnonzero(np.arange(padded) < self.lengths[:, None])
        stack[torch.from_numpy(filled).to(stack.device)] = found.to(stack.device, stack.dtype)
        return stack


def stacks_of(queries: Ragged, memory: int, kind: str) -> list[Stack]:
    """Sort the queries by length, so that little is padded, and cut them into stacks.

    Args:
        queries: vectors that are exactly zero are dropped.
        memory: bytes; a stack takes at most an eighth.
        kind: of device.
    """
    import torch

    if len(queries.vectors) == 0 or queries.dim == 0:
        used = np.zeros(len(queries.vectors), dtype=bool)
    else:
        low, high = torch.aminmax(as_tensor(queries.vectors), dim=1)
        used = ((low != 0) | (high != 0)).cpu().numpy()
    where = np.flatnonzero(used)
    offsets = np.concatenate([[0], np.cumsum(used)])[queries.offsets]
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    stack_vectors = min(_at(_STACK_VECTORS, kind), memory // 8 // (4 * max(queries.dim, 1)))
    stacks = []
    start = 0
    while start < len(order):
        count = min(max(1, stack_vectors // max(1, int(lengths[order[start]]))), _at(_STACK_QUERIES, kind))
        chosen = order[start : start + count]
        source = np.concatenate([where[offsets[query] : offsets[query + 1]] for query in chosen])
        stacks.append(Stack(chosen, lengths[chosen], source))
        start += count
    return stacks


@dataclass(frozen=True)
class Plan:
    """Sizes of the pieces of work on one device, within the memory that the caller allows.

    Attributes:
        dim: numbers in a vector.
        chunk_vectors: vectors of a chunk of passages that is put together.
        view_vectors: of one that is part of a larger shard, and so needs no copy.
        chunk_items: passages of a chunk.
        block_rows: vectors after which a block ends.
        part_rows: vectors after which a part of rounded ones ends, on a CPU.
        tile_rows: vectors of a tile of passages.
        least_rows: rows of the smallest product.
        product_vectors: query vectors of a product, unless they are those of one query; 0: those of a stack.
        product_numbers: numbers of scratch for products.
        fused: whether the fused kernel takes the queries as they are.
        fused_rows: vectors of a tile for it.
        fused_items: passages of it.
        piece: query vectors that it gets at once, a power of two.
    """

    dim: int
    chunk_vectors: int
    view_vectors: int
    chunk_items: int
    block_rows: int
    part_rows: int
    tile_rows: int
    least_rows: int
    product_vectors: int
    product_numbers: int
    fused: bool
    fused_rows: int
    fused_items: int
    piece: int

    @classmethod
    def within(cls, memory: int, stacks: Sequence[Stack], queries: Ragged, device: str) -> Plan:
        """Return the plan for a device on which search may take ``memory`` bytes."""
        dim, kind = queries.dim, kind_of(device)
        product_vectors = _at(_PRODUCT_VECTORS, kind)
        widths = (stack.columns(product_vectors) for stack in stacks if stack.longest)
        widest = max(widths, default=_LEAST_ROWS)
        most = max((len(stack.queries) for stack in stacks), default=1)
        longest = max((stack.longest for stack in stacks), default=0)
        # On a CPU there is room for a product of twice the rows, or of four times the numbers in bfloat16
        # (`m2kr.search.bounds`) or twice as many whole numbers (`m2kr.search.bounds_int8`); elsewhere for one, and its
        # maxima.
        tile_rows = min(_at(_PRODUCT_NUMBERS, kind), memory // 8 // 4 // 2) // widest
        if kind == "cpu":  # a block ends after the tile that fills it, which may have twice the rows
            tile_rows = min(tile_rows, min(_BLOCK_NUMBERS["cpu"], memory // 16 // 4) // 2 // max(dim, 1))
        tile_rows = max(_LEAST_ROWS, tile_rows)
        fused = longest > 0 and fused_kernel(device, as_tensor(queries.vectors).dtype, dim) is not None
        piece = piece_length(longest)
        pieces = max(1, max((len(stack.queries) * -(-stack.longest // piece) for stack in stacks), default=1))
        chunks = 3 * memory // 8
        # In float32 a block takes at most an eighth.
        most_rows = max(tile_rows, memory // 8 // (4 * max(dim, 1)))
        return cls(
            dim=dim,
            # At most as read and put together, both in float32, and rounded to bfloat16 or less, with two norms.
            chunk_vectors=max(1, chunks // (10 * dim + 8)),
            view_vectors=max(1, chunks // (2 * dim + 8 if kind == "cpu" else 10 * dim + 8)),
            # A passage has a score and a key for each query of a stack, in a few copies while the best are picked.
            chunk_items=max(1, memory // 4 // (40 * most)),
            block_rows=min(max(tile_rows, _at(_BLOCK_NUMBERS, kind) // max(dim, 1)), most_rows),
            part_rows=min(_PART_VECTORS, most_rows),
            tile_rows=tile_rows,
            least_rows=_LEAST_ROWS if kind == "cpu" else tile_rows,
            product_vectors=product_vectors,
            product_numbers=0 if fused else (2 if kind == "cpu" else 1) * tile_rows * widest,
            fused=fused,
            fused_rows=max(1, TILE_BYTES // (2 * max(dim, 1))),
            fused_items=max(1, memory // 8 // (4 * pieces)),
            piece=piece,
        )

    def sizes(self, fused: bool = False) -> Sizes:
        """Return those of blocks, for the fused kernel or for products."""
        if fused:
            return Sizes(self.fused_rows, self.fused_items, self.block_rows)
        return Sizes(self.tile_rows, self.tile_rows, self.block_rows)

    def tried_sizes(self) -> Sizes:
        """Return those of blocks for products on a CPU, whose fastest tiles are found out."""
        most = 2 * self.tile_rows
        return TriedSizes(most, most, self.block_rows, choices=(max(self.least_rows, self.tile_rows // 2), most))


def _at(sizes: dict[str, int], kind: str) -> int:
    return sizes["cpu" if kind == "cpu" else "other"]


@dataclass(frozen=True)
class Block:
    """The vectors of a layout, on the device.

    Attributes:
        vectors: shape (at least `Plan.least_rows`, dim); float32, or for the kernel as they were.
        rows: of the passages, in the order of the layout, int64, on the device.
        tiles: as of the layout.
        fused: whether the kernel takes them.
    """

    vectors: Tensor
    rows: Tensor
    tiles: list[tuple[int, int, int]]
    fused: bool

    @classmethod
    def cut(
        cls,
        chunk: Ragged,
        first: int,
        plan: Plan,
        queries: Ragged,
        device: str,
        sizes: Sizes | None = None,
        room: Tensor | None = None,
    ) -> Iterator[Block]:
        """Cut a chunk, whose first passage has the row ``first``, into blocks on the device, and yield them.

        The whole chunk is sorted, so that little is padded, and what a block holds is put together when it is its turn:
        it comes from the cache then, and takes the memory of the block before. ``room`` is as for `some`; without
        ``sizes``, and for the kernel, those of the plan are taken.

        Raises:
            M2KRError: NaN or infinity.
        """
        every = as_tensor(chunk.vectors)
        fused = plan.fused and every.dtype == as_tensor(queries.vectors).dtype
        if fused or sizes is None:
            sizes = plan.sizes(fused)
        # As they are: a GPU sorts and widens them faster than they come.
        chunk = Ragged(every.to(device), chunk.offsets)
        for layout in Layout.of(chunk, sizes):
            block = cls._of(layout, chunk, first, fused, plan.least_rows, room)
            if layout.tiles and (bad := first_not_finite(Ragged.one_each(block.vectors))) is not None:
                passage = first + int(np.searchsorted(chunk.offsets, layout.source[bad], side="right")) - 1
                raise M2KRError(f"the embeddings of passage {passage} hold NaN or infinity")
            yield block
            del block  # or the next one would be made beside it

    @classmethod
    def some(
        cls,
        chunk: Ragged,
        first: int,
        passages: npt.NDArray[np.int64],
        size: int,
        most: int,
        least: int = _LEAST_ROWS,
        room: Tensor | None = None,
    ) -> Iterator[Block]:
        """Yield some passages of a chunk as blocks that end after ``most`` vectors.

        Args:
            chunk: finite numbers, on the device; its first passage has the row ``first``.
            first: that row.
            passages: which of the chunk. All have vectors, and none has more than one before it.
            size: vectors of a tile, unless it is of one passage.
            most: vectors of a block.
            least: rows of the smallest product.
            room: on a CPU, where the vectors of a block that fits go, shape (vectors, dim), float32. Memory that is
                kept costs half of what new memory does. The next block takes it.
        """
        for layout in Layout.of(chunk, Sizes(size, size, most), passages):
            yield cls._of(layout, chunk, first, fused=False, least=least, room=room)

    @classmethod
    def _of(
        cls, layout: Layout, chunk: Ragged, first: int, fused: bool, least: int, room: Tensor | None = None
    ) -> Block:
        import torch

        every, source = as_tensor(chunk.vectors), layout.source
        device, count = every.device, len(source)
        rows = torch.from_numpy(first + layout.passages).to(device)
        as_is = count > 0 and source[-1] - source[0] == count - 1 and bool((np.diff(source) == 1).all())
        ready = fused or (as_is and every.dtype == torch.float32)
        if room is not None and not ready and least <= count <= len(room):
            vectors = room[:count]
            gather(every, source, vectors)
            return cls(vectors, rows, layout.tiles, fused)
        if as_is:
            vectors = every[source[0] : source[0] + count]
        else:
            vectors = every.index_select(0, torch.from_numpy(source).to(device))
        vectors = vectors if fused else vectors.to(torch.float32)
        if layout.tiles and not fused and count < least:
            vectors = torch.cat([vectors, vectors.new_zeros(least - count, vectors.shape[1])])
        return cls(vectors, rows, layout.tiles, fused)
