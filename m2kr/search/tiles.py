"""Cutting a search into pieces: queries into stacks, passages into blocks of tiles, within a given memory.

Queries are put together in stacks, passages are sorted by length and cut into tiles of one length, the shorter ones
padded by repeating one of their own vectors (which changes no maximum, where padding of zeros would beat similarities
below zero). A tile is then a regular block, which `m2kr.search.maxsim` multiplies with a stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from m2kr.errors import M2KRError
from m2kr.search.device import kind_of
from m2kr.search.fused import TILE_BYTES, fused_kernel, piece_length
from m2kr.search.ragged import Ragged, as_tensor, first_not_finite

if TYPE_CHECKING:
    from torch import Tensor

# Query vectors and queries multiplied at once, and numbers in a product, on a CPU and elsewhere. Measured on 2 cores of
# an AMD EPYC (Zen 5), dim 128: products of 1,024 x 1,280 are fastest, those of 320 columns 5% slower; beyond 8 MiB
# they leave the cache. On a Xeon of 2 MiB of it a core, dim 64, 512 rows are 8% faster than 1,024. A GPU wants fewer
# and larger steps; its sizes are reckoned, not measured.
_STACK_VECTORS = {"cpu": 1280, "other": 1 << 17}
_STACK_QUERIES = {"cpu": 256, "other": 1024}
_PRODUCT_NUMBERS = {"cpu": 512 * 1280, "other": 1 << 27}
# Vectors of passages that are put together at once, and searched before others are left out because of them
# (`m2kr.search.bounded`). Of dim 128, those of a CPU's block are 64 MiB.
_BLOCK_VECTORS = {"cpu": 1 << 17, "other": 1 << 40}
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
        chunk_vectors: vectors of a chunk of passages.
        chunk_items: passages of a chunk.
        block_rows: vectors after which a block ends.
        tile_rows: vectors of a tile of passages.
        least_rows: rows of the smallest product.
        product_numbers: numbers of scratch for products.
        fused_rows: vectors of a tile for the fused kernel.
        fused_items: passages of it.
        piece: query vectors that the kernel gets at once, a power of two; 0: there is no kernel to use.
    """

    dim: int
    chunk_vectors: int
    chunk_items: int
    block_rows: int
    tile_rows: int
    least_rows: int
    product_numbers: int
    fused_rows: int
    fused_items: int
    piece: int

    @classmethod
    def within(cls, memory: int, stacks: Sequence[Stack], queries: Ragged, device: str) -> Plan:
        """Return the plan for a device on which search may take ``memory`` bytes."""
        dim, kind = queries.dim, kind_of(device)
        widest = max((stack.width for stack in stacks), default=_LEAST_ROWS)
        most = max((len(stack.queries) for stack in stacks), default=1)
        longest = max((stack.longest for stack in stacks), default=0)
        # On a CPU there is room for two products, or one of four times the rows in bfloat16 (`m2kr.search.bounded`).
        products = 2 if kind == "cpu" else 1
        tile_rows = max(_LEAST_ROWS, min(_at(_PRODUCT_NUMBERS, kind), memory // 8 // 4 // products) // widest)
        fused = longest > 0 and fused_kernel(device, as_tensor(queries.vectors).dtype, dim) is not None
        piece = piece_length(longest) if fused else 0
        pieces = max((len(stack.queries) * -(-stack.longest // piece) for stack in stacks), default=1) if piece else 1
        return cls(
            dim=dim,
            # Four copies at most: as read, put together, and, of those of a block, sorted in float32, and rounded.
            chunk_vectors=max(1, 3 * memory // 8 // (16 * dim + 8)),
            # A passage has a score and a key for each query of a stack, in a few copies while the best are picked.
            chunk_items=max(1, memory // 4 // (40 * most)),
            # In float32 a block takes at most an eighth.
            block_rows=min(_at(_BLOCK_VECTORS, kind), max(tile_rows, memory // 8 // (4 * max(dim, 1)))),
            tile_rows=tile_rows,
            # GPU libraries choose among many kernels by the shape, so there every product gets the same shape.
            least_rows=_LEAST_ROWS if kind == "cpu" else tile_rows,
            product_numbers=0 if piece else products * tile_rows * widest,
            fused_rows=max(1, TILE_BYTES // (2 * max(dim, 1))),
            fused_items=max(1, memory // 8 // (4 * pieces)),
            piece=piece,
        )


def _at(sizes: dict[str, int], kind: str) -> int:
    return sizes["cpu" if kind == "cpu" else "other"]


@dataclass(frozen=True)
class Block:
    """Some passages of a chunk, sorted by length and padded, in tiles of passages of one length.

    Attributes:
        vectors: shape (at least `Plan.least_rows`, dim), on the device; float32, or for the kernel as they were.
        rows: of the passages, in the order of the block, int64, on the device.
        tiles: of each, its first vector, its passages and the vectors of each of them. Without any, the passages are
            those that have no vectors.
        fused: whether the kernel takes them.
    """

    vectors: Tensor
    rows: Tensor
    tiles: list[tuple[int, int, int]]
    fused: bool

    @classmethod
    def cut(cls, chunk: Ragged, first: int, plan: Plan, queries: Ragged, device: str) -> Iterator[Block]:
        """Cut a chunk, whose first passage has the row ``first``, into blocks on the device, and yield them.

        The whole chunk is sorted, so that little is padded, and what a block holds is put together when it is its turn:
        it comes from the cache then, and takes the memory of the block before.

        Raises:
            M2KRError: NaN or infinity.
        """
        import torch

        every = as_tensor(chunk.vectors)
        fused = bool(plan.piece) and every.dtype == as_tensor(queries.vectors).dtype
        every = every.to(device)  # as they are: a GPU sorts and widens them faster than they come
        size, most = (plan.fused_rows, plan.fused_items) if fused else (plan.tile_rows, plan.tile_rows)
        order = np.argsort(-chunk.lengths, kind="stable")
        filled = int(np.count_nonzero(chunk.lengths))
        starts, lengths = chunk.offsets[order], chunk.lengths[order]
        start = 0
        while start < filled:
            where, tiles = _tiles(starts[start:filled], lengths[start:filled], size, most, plan.block_rows)
            begin, row = start, len(where)
            start += sum(members for _, members, _ in tiles)
            if np.array_equal(where, np.arange(where[0], where[0] + row)):
                vectors = every[where[0] : where[0] + row]
            else:
                vectors = every.index_select(0, torch.from_numpy(where).to(device))
            vectors = vectors if fused else vectors.to(torch.float32)
            if (bad := first_not_finite(Ragged.one_each(vectors))) is not None:
                passage = first + int(np.searchsorted(chunk.offsets, where[bad], side="right")) - 1
                raise M2KRError(f"the embeddings of passage {passage} hold NaN or infinity")
            if not fused and row < plan.least_rows:
                vectors = torch.cat([vectors, vectors.new_zeros(plan.least_rows - row, vectors.shape[1])])
            yield cls(vectors, torch.from_numpy(first + order[begin:start]).to(device), tiles, fused)
            del vectors  # or the next block would be made beside it
        if filled < len(order):
            yield cls(every[:0], torch.from_numpy(first + order[filled:]).to(device), [], fused)

    @property
    def used(self) -> int:
        """Vectors of all tiles."""
        return sum(members * length for _, members, length in self.tiles)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Vectors of each passage with its padding, shape (passages,); none is longer than one before it."""
        return np.repeat([length for _, _, length in self.tiles], [members for _, members, _ in self.tiles])

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """The first vector of each passage, shape (passages,)."""
        return np.concatenate([row + length * np.arange(members) for row, members, length in self.tiles])

    def some(self, passages: npt.NDArray[np.int64], size: int, most: int) -> Iterator[Block]:
        """Yield some of the passages, given in order, as blocks that end after ``most`` vectors.

        Tiles are of ``size`` vectors, or of one passage.
        """
        import torch

        starts, lengths = self.starts[passages], self.lengths[passages]
        done = 0
        while done < len(passages):
            source, tiles = _tiles(starts[done:], lengths[done:], size, size, most)
            vectors = self.vectors.index_select(0, torch.from_numpy(source))
            if len(vectors) < _LEAST_ROWS:
                vectors = torch.cat([vectors, vectors.new_zeros(_LEAST_ROWS - len(vectors), vectors.shape[1])])
            members = sum(count for _, count, _ in tiles)
            yield Block(vectors, self.rows[torch.from_numpy(passages[done : done + members])], tiles, self.fused)
            done += members


def _tiles(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], size: int, items: int, most: int
) -> tuple[npt.NDArray[np.int64], list[tuple[int, int, int]]]:
    """Cut passages into tiles, until these have ``most`` vectors; return where their vectors lie, and `Block.tiles`.

    Lengths do not increase. A tile has as many passages as fit into ``size`` vectors, one at least and ``items`` at
    most. Past its end a passage repeats its last vector.
    """
    source: list[npt.NDArray[np.int64]] = []
    tiles: list[tuple[int, int, int]] = []
    done = row = 0
    while done < len(starts) and row < most:
        longest = int(lengths[done])
        members = slice(done, done + max(1, min(size // longest, items)))
        inside = starts[members, None] + np.minimum(np.arange(longest), lengths[members, None] - 1)
        source.append(inside.reshape(-1))
        tiles.append((row, *inside.shape))
        done += len(inside)
        row += inside.size
    return np.concatenate(source), tiles
