"""MaxSim of many queries with a block of passages: what `m2kr.search` spends its time on.

How it is made fast. Queries are put together in stacks, passages are sorted by length and cut into tiles of one length,
the shorter ones padded by repeating one of their own vectors (which changes no maximum, where padding of zeros would
beat similarities below zero). A tile is then a regular block. Torch multiplies it with a stack and takes the maximum
over the middle axis while the product is still in the cache. On a CUDA GPU, with both sides in the same half precision
and the package late-interaction-kernels (extra ``gpu``) installed, one fused kernel does both, and the product never
leaves the chip.

The GPU paths have not run on a GPU yet. That the kernel takes what it is given here and returns what torch does was
tried in Triton's interpreter on a CPU, in float16 (late-interaction-kernels 0.4.5, Triton 3.9); the interpreter gets
bfloat16 wrong by itself, and cannot tune.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from m2kr.errors import M2KRError
from m2kr.search.store import Ragged, as_tensor, first_not_finite

if TYPE_CHECKING:
    from torch import Tensor

# Query vectors and queries multiplied at once, and numbers in a product, on a CPU and elsewhere. Measured on 2 cores of
# an AMD EPYC (Zen 5), dim 128: products of 1,024 x 1,280 are fastest, those of 320 columns 5% slower; beyond 8 MiB
# they leave the cache. A GPU wants fewer and larger steps; its sizes are reckoned, not measured.
_STACK_VECTORS = {"cpu": 1280, "other": 1 << 17}
_STACK_QUERIES = {"cpu": 256, "other": 1024}
_PRODUCT_NUMBERS = {"cpu": 1024 * 1280, "other": 1 << 27}
# Vectors of passages that are put together at once. Of dim 128, those of a CPU's block are 16 MiB.
_BLOCK_VECTORS = {"cpu": 1 << 15, "other": 1 << 40}
# Matrix libraries add up in another order when one side is a single vector (seen with MKL), so that a duplicate of a
# passage could differ from it in the last bit and lose its place. From 16 rows on, every shape gave the same bits.
_LEAST_ROWS = 16

_FUSED_DEVICES = ("cuda",)
_FUSED_DIMS = range(16, 1025)
# A query goes to the kernel in pieces of this many vectors: it would round 320 vectors up to 512. Query tiles of 64 are
# what its authors measured as fastest on an H100.
_PIECE = 64
_SMALLEST_PIECE = 16
# Each piece reads the whole tile, so a tile has to fit into the second-level cache, 40 MB and more on data-centre GPUs.
_FUSED_TILE_BYTES = 16 << 20
# For up to 500 pairs of pieces and passages the package takes another kernel, which adds up in another order.
_FEWEST_PAIRS = 501
_launch = threading.Lock()  # Triton's autotuner keeps its state in the kernel's object, which threads share


def kind_of(device: str) -> str:
    """Return the kind of a device as torch names it: "cpu", "cuda"."""
    import torch

    return torch.device(device).type


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
        product_numbers: numbers of the largest product.
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
    def within(cls, memory: int, stacks: Sequence[Stack], queries: Ragged, devices: Sequence[str]) -> Plan:
        """Return the plan for devices of one kind that have ``memory`` bytes each."""
        dim, kind = queries.dim, kind_of(devices[0])
        widest = max((stack.width for stack in stacks), default=_LEAST_ROWS)
        most = max((len(stack.queries) for stack in stacks), default=1)
        longest = max((stack.longest for stack in stacks), default=0)
        tile_rows = max(_LEAST_ROWS, min(_at(_PRODUCT_NUMBERS, kind), memory // 8 // 4) // widest)
        fused = all(fused_kernel(device, as_tensor(queries.vectors).dtype, dim) for device in devices)
        piece = min(_PIECE, max(_SMALLEST_PIECE, 1 << (longest - 1).bit_length())) if fused and longest else 0
        pieces = max((len(stack.queries) * -(-stack.longest // piece) for stack in stacks), default=1) if piece else 1
        return cls(
            dim=dim,
            # Three copies at most: as read, put together, and, of those of a block, sorted and in float32.
            chunk_vectors=max(1, memory // 2 // (12 * dim + 8)),
            # A passage has a score and a key for each query of a stack, in a few copies while the best are picked.
            chunk_items=max(1, memory // 4 // (40 * most)),
            # In float32 a block takes at most an eighth.
            block_rows=min(_at(_BLOCK_VECTORS, kind), max(tile_rows, memory // 8 // (4 * max(dim, 1)))),
            tile_rows=tile_rows,
            # GPU libraries choose among many kernels by the shape, so there every product gets the same shape.
            least_rows=_LEAST_ROWS if kind == "cpu" else tile_rows,
            product_numbers=0 if piece else tile_rows * widest,
            fused_rows=max(1, _FUSED_TILE_BYTES // (2 * max(dim, 1))),
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
        lengths = chunk.lengths
        order = np.argsort(-lengths, kind="stable")
        filled = int(np.count_nonzero(lengths))
        start = 0
        while start < filled:
            source: list[npt.NDArray[np.int64]] = []
            tiles: list[tuple[int, int, int]] = []
            begin, row = start, 0
            while start < filled and row < plan.block_rows:
                longest = int(lengths[order[start]])
                members = order[start : min(filled, start + max(1, min(size // longest, most)))]
                # Past its end a passage repeats its last vector.
                inside = np.minimum(np.arange(longest), lengths[members][:, None] - 1)
                source.append((chunk.offsets[members][:, None] + inside).reshape(-1))
                tiles.append((row, len(members), longest))
                start += len(members)
                row += len(members) * longest
            where = np.concatenate(source)
            if np.array_equal(where, np.arange(where[0], where[0] + row)):
                vectors = every[where[0] : where[0] + row]
            else:
                vectors = every.index_select(0, torch.from_numpy(where).to(device))
            vectors = vectors if fused else vectors.to(torch.float32)
            if (bad := first_not_finite(Ragged(vectors, np.arange(row + 1)))) is not None:
                passage = first + int(np.searchsorted(chunk.offsets, where[bad], side="right")) - 1
                raise M2KRError(f"the embeddings of passage {passage} hold NaN or infinity")
            if not fused and row < plan.least_rows:
                vectors = torch.cat([vectors, vectors.new_zeros(plan.least_rows - row, vectors.shape[1])])
            yield cls(vectors, torch.from_numpy(first + order[begin:start]).to(device), tiles, fused)
            del vectors  # or the next block would be made beside it
        if filled < len(order):
            yield cls(every[:0], torch.from_numpy(first + order[filled:]).to(device), [], fused)


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep torch from using TF32 or bfloat16 for float32 products, whatever the caller's setting."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def current(device: str) -> AbstractContextManager[object]:
    """Return a context in which a CUDA device is the one that kernels are started on, of this thread."""
    import torch

    return torch.cuda.device(device) if kind_of(device) == "cuda" else nullcontext()


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
            found = _by_torch(stack, stack.vectors(queries, str(device)), block, product, plan)
        if not torch.isfinite(found).all():
            raise M2KRError("the embeddings are too large: a score does not fit into float32")
    found[:, torch.from_numpy(stack.lengths == 0).to(device)] = 0  # a sum over no vectors
    return found.T


def _by_torch(stack: Stack, queries: Tensor, block: Block, product: Tensor, plan: Plan) -> Tensor:
    """Return scores, shape (passages that have vectors, queries)."""
    import torch

    count, longest = len(stack.queries), stack.longest

    def multiply(first: int, stop: int) -> Tensor:
        """Return the product of vectors ``first`` to ``stop`` of the block with the stack, held in ``product``."""
        # A product of too few rows takes in some before them, which are then left out.
        start = max(0, min(first, stop - plan.least_rows))
        rows = max(stop - start, plan.least_rows)
        out = product[: rows * stack.width].view(rows, stack.width)
        torch.mm(block.vectors[start : start + rows], queries.T, out=out)
        return out[first - start : stop - start, : count * longest]

    found = torch.empty((len(block.rows), count), device=block.vectors.device)
    done = 0
    for row, members, length in block.tiles:
        if length > plan.tile_rows:  # one long passage
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


# --- The fused kernel ---


def fused_kernel(device: str, dtype: object, dim: int) -> Callable[..., Tensor] | None:
    """Return the function ``maxsim`` of late-interaction-kernels, where it is exact and can run; else None.

    Args:
        device: as torch names it. A CUDA GPU of compute capability 7.5, for bfloat16 8.0.
        dtype: torch's, of queries and passages. float16 or bfloat16, whose products float32 holds exactly; it would
            round float32 to float16.
        dim: numbers in a vector, from 16, the smallest that its matrix units take, to 1,024.
    """
    import torch

    if kind_of(device) not in _FUSED_DEVICES or dtype not in (torch.float16, torch.bfloat16) or dim not in _FUSED_DIMS:
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


def _by_kernel(stack: Stack, queries: Ragged, block: Block, plan: Plan) -> Tensor:
    """Return scores, shape (passages that have vectors, queries), as `_by_torch` does.

    MaxSim is a sum over query vectors, so that of a query is the sum of those of its pieces. Every call has pieces of
    one length, so that the kernel is tuned once and equal passages score the same bits.
    """
    import torch

    device = str(block.vectors.device)
    maxsim = fused_kernel(device, block.vectors.dtype, plan.dim)
    assert maxsim is not None  # the plan asked for it
    stacked = stack.pieces(queries, device, plan.piece)
    count, pieces = stacked.shape[:2]
    flat = stacked.flatten(0, 1)
    found = torch.empty((len(block.rows), count), device=device)
    done = 0
    for row, members, length in block.tiles:
        tile = block.vectors[row : row + members * length].view(members, length, plan.dim)
        if len(flat) * members < _FEWEST_PAIRS:
            tile = tile.repeat(-(-_FEWEST_PAIRS // (len(flat) * members)), 1, 1)
        with _launch, warnings.catch_warnings():
            # It remarks on vectors that are not of length one, which a retriever's may be.
            warnings.simplefilter("ignore", UserWarning)
            scores = maxsim(flat, tile)
        found[done : done + members] = scores[:, :members].view(count, pieces, members).sum(1).T
        done += members
    return found
