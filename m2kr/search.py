"""Exact top-k search: MaxSim for several vectors an item, the dot product for one.

    score(q, d) = sum over the vectors of q of the maximum over the vectors of d of their dot product

One pass over the passages, so they may stream from disk; memory is bounded whatever their number.

How it is made fast. A dot product is the MaxSim of one vector each, so there is one path. Passages are taken in chunks
and sorted by length within a chunk. A tile of them, padded to the longest by repeating one of their own vectors (which
changes no maximum, where padding of zeros would beat similarities below zero), is then a regular block: one matrix
product with a stack of queries, and one maximum over its middle axis while it is still in the cache.

How ties are kept. Score and row are packed into one int64, where "greater" means "a higher score, or the same score
and a lower row". All keys differ, so any top-k of them is exact and stable, in whatever order passages come. For that,
equal passages must score the same bits wherever they lie, which `_LEAST_ROWS` sees to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from m2kr.embeddings import Array, EmbeddingStore, Ragged, as_tensor, first_not_finite
from m2kr.errors import M2KRError
from m2kr.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

Embeddings: TypeAlias = "Ragged | EmbeddingStore | Array | Sequence[Array]"
Passages: TypeAlias = "Embeddings | Iterable[Ragged | Array]"

# Query vectors and queries multiplied at once, and numbers in a product. Measured on 2 cores of an AMD EPYC (Zen 5),
# dim 128: products of 1,024 x 1,280 are fastest, those of 320 columns 5% slower; beyond 8 MiB they leave the cache.
_STACK_VECTORS = 1280
_STACK_QUERIES = 256
_PRODUCT_NUMBERS = {"cpu": 1024 * 1280, "other": 1 << 27}
# Matrix libraries add up in another order when one side is a single vector (seen with MKL), so that a duplicate of a
# passage could differ from it in the last bit and lose its place. From 16 rows on, every shape gave the same bits.
_LEAST_ROWS = 16


def search(
    query_embeddings: Embeddings,
    passage_embeddings: Passages,
    k: int,
    *,
    device: str = "cpu",
    memory: int = 1 << 30,
    quiet: bool = True,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the ``k`` best passages of each query, exactly, in one pass over the passages.

    Equal scores are ordered by row, the lower first, also where ``k`` cuts through them: order the passages by id, and
    ties are ordered by id. Computed and returned in float32, whatever the type of the embeddings.

    Args:
        query_embeddings: a `Ragged` or a list of (tokens_i, dim) arrays or tensors for MaxSim, one (n, dim) array or
            tensor for the dot product, or an `EmbeddingStore` of either kind. Vectors that are exactly zero are
            masked tokens and dropped; a query without any other scores 0 with every passage.
        passage_embeddings: likewise. Also an iterable that is no list, of shards (`Ragged`, or (n, dim) arrays for
            the dot product) or, for MaxSim, of passages. A passage without vectors scores minus infinity.
        k: passages to return for each query; all of them where there are fewer.
        device: where torch computes: "cpu", "cuda", "cuda:1".
        memory: bytes of scratch beyond the inputs and the result: a chunk of passages as read and in float32, the
            product of a tile, the scores of a chunk. Not bounded by it: 16 bytes a query vector, 16 rows of a product
            with the longest query, the longest single passage, and the few MiB that the matrix library takes for
            itself. Results do not depend on it.
        quiet: show no progress bar.

    Returns:
        Scores, shape (queries, k'), float32, best first; and the row numbers of their passages, shape (queries, k'),
        int64, with k' the smaller of ``k`` and the number of passages.

    Raises:
        M2KRError: ``k`` or ``memory`` below 1; a device that is not there; embeddings of different kinds or dimensions;
            NaN or infinity in them; scores too large for float32.

    Source: Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction
    over BERT", SIGIR 2020, equation 3.
    """
    import torch

    if k < 1:
        raise M2KRError(f"k must be at least 1, not {k}")
    if memory < 1:
        raise M2KRError(f"memory must be at least 1 byte, not {memory}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise M2KRError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    single = _one_kind(query_embeddings, passage_embeddings)
    queries = _queries(query_embeddings)
    stacks = _stacks(queries, memory)
    plan = _Plan.within(memory, stacks, queries.dim, device)
    best = [torch.empty((len(stack.queries), 0), dtype=torch.int64, device=device) for stack in stacks]
    first = 0
    with (
        torch.no_grad(),
        _full_precision(),
        progress(_count(passage_embeddings), "search", unit="passages", quiet=quiet) as bar,
    ):
        product = torch.empty(plan.product_numbers, device=device)
        for chunk in _chunks(_shards(passage_embeddings, single, plan), plan):
            block = _Block.of(chunk, first, plan)
            for number, stack in enumerate(stacks):
                scores = _scores(stack, stack.vectors(queries, device), block, product, plan)
                keys = torch.cat([best[number], _keys(scores, first)], dim=1)
                best[number] = keys.topk(min(k, keys.shape[1]), dim=1).values
            first += len(chunk)
            bar.update(len(chunk))
    all_scores = np.empty((len(queries), min(k, first)), dtype=np.float32)
    all_rows = np.empty((len(queries), min(k, first)), dtype=np.int64)
    for stack, keys in zip(stacks, best, strict=True):
        all_scores[stack.queries], all_rows[stack.queries] = _unpacked(keys.cpu())
    return all_scores, all_rows


def maxsim_reference(query: npt.ArrayLike, passage: npt.ArrayLike) -> float:
    """Return the MaxSim score of a (tokens, dim) query and a (tokens, dim) passage, in float64, as plainly as it goes.

    What `search` computes, for tests and readers. Zero query vectors are masked tokens and count for nothing.
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


# --- What is searched: every form of input as `Ragged` ---


def _is_single(embeddings: Passages) -> bool | None:
    """Whether there is one vector an item; None for an iterable, whose items follow the kind of the queries."""
    if isinstance(embeddings, EmbeddingStore):
        return embeddings.kind == "single"
    if isinstance(embeddings, Ragged | list | tuple):
        return False
    if hasattr(embeddings, "ndim"):
        if embeddings.ndim != 2:
            shape = tuple(getattr(embeddings, "shape", ()))
            raise M2KRError(f"embeddings of shape {shape}: pass one (n, dim) array, or a list of (tokens, dim) arrays")
        return True
    return None


def _one_kind(queries: Embeddings, passages: Passages) -> bool:
    kinds = {True: "one vector an item", False: "several vectors an item", None: "an unknown kind"}
    query_kind, passage_kind = _is_single(queries), _is_single(passages)
    if query_kind is None or passage_kind not in (None, query_kind):
        raise M2KRError(
            f"the queries have {kinds[query_kind]} and the passages {kinds[passage_kind]}: pass (n, dim) arrays for "
            "both, or a Ragged or a list of (tokens, dim) arrays for both"
        )
    return query_kind


def _one_each(vectors: Array) -> Ragged:
    return Ragged.from_lengths(vectors, np.ones(len(vectors), np.int64))


def _queries(embeddings: Embeddings) -> Ragged:
    whole = embeddings.load() if isinstance(embeddings, EmbeddingStore) else embeddings
    if isinstance(whole, list | tuple):
        whole = Ragged.from_list(whole)
    queries = whole if isinstance(whole, Ragged) else _one_each(whole)  # type: ignore[arg-type]
    if (row := first_not_finite(queries)) is not None:
        raise M2KRError(f"the embeddings of query {row} hold NaN or infinity")
    return queries


def _count(passages: Passages) -> int | None:
    return len(passages) if isinstance(passages, Sized) and not isinstance(passages, list | tuple) else None


def _shards(passages: Passages, single: bool, plan: _Plan) -> Iterator[Ragged]:
    """Yield the passages in parts, as they come."""
    parts: Iterable[Ragged | Array]
    if isinstance(passages, EmbeddingStore):
        parts = passages.shards()
    elif isinstance(passages, Ragged) or hasattr(passages, "ndim"):
        parts = [passages]  # type: ignore[list-item]
    else:
        parts = passages
    if not single:
        yield from _joined(parts, plan)
        return
    for number, part in enumerate(parts):
        if isinstance(part, Ragged) or getattr(part, "ndim", None) != 2:
            shape = tuple(getattr(part, "shape", ())) or type(part).__name__
            raise M2KRError(f"shard {number} of the passages is {shape}, where the queries call for an (n, dim) array")
        yield _one_each(part)


def _joined(parts: Iterable[Ragged | Array], plan: _Plan) -> Iterator[Ragged]:
    """Yield shards as they are, and passages that come one by one put together."""
    waiting: list[Array] = []
    row = vectors = 0
    for part in parts:
        if not isinstance(part, Ragged):
            waiting.append(part)
            vectors += len(part)
            if vectors < plan.chunk_vectors and len(waiting) < plan.chunk_items:
                continue
        if waiting:
            yield Ragged.from_list(waiting, first=row)
            row += len(waiting)
            waiting, vectors = [], 0
        if isinstance(part, Ragged):
            yield part
            row += len(part)
    if waiting:
        yield Ragged.from_list(waiting, first=row)


def _chunks(shards: Iterable[Ragged], plan: _Plan) -> Iterator[Ragged]:
    """Cut large shards and put small ones together, so that every chunk but the last is as large as the plan allows."""
    waiting: list[Ragged] = []
    vectors = items = row = 0
    for shard in shards:
        if len(shard.vectors) and plan.dim not in (0, shard.dim):
            raise M2KRError(
                f"the passages from row {row} on have dimension {shard.dim}, but the queries have {plan.dim}"
            )
        row += len(shard)
        start = 0
        while start < len(shard):
            room = shard.offsets[start] + plan.chunk_vectors - vectors
            stop = int(np.searchsorted(shard.offsets, room, side="right")) - 1
            stop = min(stop, start + plan.chunk_items - items)
            if stop <= start and not waiting:
                stop = start + 1  # a passage that is larger than a chunk is one by itself
            if stop > start:
                waiting.append(shard.rows(start, stop))
                vectors += len(waiting[-1].vectors)
                items += len(waiting[-1])
                start = stop
            if start < len(shard):  # what comes next did not fit
                yield Ragged.concatenate(waiting)
                waiting, vectors, items = [], 0, 0
    if waiting:
        yield Ragged.concatenate(waiting)


# --- How the work is cut ---


@dataclass(frozen=True)
class _Stack:
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
        return int(self.lengths.max())

    @property
    def width(self) -> int:
        """Vectors of the stack with its padding, at least as many as a product needs."""
        return max(len(self.queries) * self.longest, _LEAST_ROWS)

    def vectors(self, queries: Ragged, device: str) -> Tensor:
        """Return the stack, shape (width, dim), float32. Made when needed: those of all queries may be large."""
        import torch

        every = as_tensor(queries.vectors)
        found = every.index_select(0, torch.from_numpy(self.source).to(every.device))
        filled = np.arange(self.longest) < self.lengths[:, None]
        stack = torch.zeros((self.width, queries.dim), device=device)
        stack[torch.from_numpy(np.flatnonzero(filled)).to(device)] = found.to(device, torch.float32)
        return stack


def _stacks(queries: Ragged, memory: int) -> list[_Stack]:
    """Sort the queries by length, so that little is padded, and cut them into stacks."""
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
    stack_vectors = min(_STACK_VECTORS, memory // 8 // (4 * max(queries.dim, 1)))
    stacks = []
    start = 0
    while start < len(order):
        count = min(max(1, stack_vectors // max(1, int(lengths[order[start]]))), _STACK_QUERIES)
        chosen = order[start : start + count]
        source = np.concatenate([where[offsets[query] : offsets[query + 1]] for query in chosen])
        stacks.append(_Stack(chosen, lengths[chosen], source))
        start += count
    return stacks


@dataclass(frozen=True)
class _Plan:
    """Sizes of the pieces of work, within the memory that the caller allows."""

    device: str
    dim: int
    chunk_vectors: int  # vectors of a chunk of passages
    chunk_items: int  # passages of a chunk
    tile_rows: int  # vectors of a tile of passages
    least_rows: int  # rows of the smallest product
    product_numbers: int  # numbers of the largest product

    @classmethod
    def within(cls, memory: int, stacks: Sequence[_Stack], dim: int, device: str) -> _Plan:
        widest = max((stack.width for stack in stacks), default=_LEAST_ROWS)
        most = max((len(stack.queries) for stack in stacks), default=1)
        wanted = _PRODUCT_NUMBERS["cpu" if device == "cpu" else "other"]
        tile_rows = max(_LEAST_ROWS, min(wanted, memory // 8 // 4) // widest)
        return cls(
            device=device,
            dim=dim,
            # A vector is held as read twice (put together, sorted) and in float32.
            chunk_vectors=max(1, memory // 2 // (12 * dim + 8)),
            # A passage has a score and a key for each query of a stack, in a few copies while the best are picked.
            chunk_items=max(1, memory // 4 // (40 * most)),
            tile_rows=tile_rows,
            # GPU libraries choose among many kernels by the shape, so there every product gets the same shape.
            least_rows=_LEAST_ROWS if device == "cpu" else tile_rows,
            product_numbers=tile_rows * widest,
        )


@dataclass(frozen=True)
class _Block:
    """A chunk of passages, sorted by length and padded, in tiles of passages of one length.

    Attributes:
        vectors: shape (at least `_Plan.least_rows`, dim), float32, on the device.
        order: which passages of the chunk have vectors, longest first.
        tiles: of each, its first vector, its passages and the vectors of each of them.
        items: passages of the chunk.
    """

    vectors: Tensor
    order: npt.NDArray[np.int64]
    tiles: list[tuple[int, int, int]]
    items: int

    @classmethod
    def of(cls, chunk: Ragged, first: int, plan: _Plan) -> _Block:
        import torch

        lengths = chunk.lengths
        order = np.argsort(-lengths, kind="stable")
        order = order[: int(np.count_nonzero(lengths))]
        source: list[npt.NDArray[np.int64]] = []
        tiles = []
        start = row = 0
        while start < len(order):
            longest = int(lengths[order[start]])
            members = order[start : start + max(1, plan.tile_rows // longest)]
            # Past its end a passage repeats its last vector.
            inside = np.minimum(np.arange(longest), lengths[members][:, None] - 1)
            source.append((chunk.offsets[members][:, None] + inside).reshape(-1))
            tiles.append((row, len(members), longest))
            start += len(members)
            row += len(members) * longest
        every = as_tensor(chunk.vectors)
        where = np.concatenate(source) if source else np.zeros(0, np.int64)
        if not np.array_equal(where, np.arange(len(every))):
            every = every.index_select(0, torch.from_numpy(where).to(every.device))
        vectors = every.to(plan.device, torch.float32)
        if (bad := first_not_finite(_one_each(vectors))) is not None:
            passage = first + int(np.searchsorted(chunk.offsets, where[bad], side="right")) - 1
            raise M2KRError(f"the embeddings of passage {passage} hold NaN or infinity")
        if len(vectors) < plan.least_rows:
            vectors = torch.cat([vectors, vectors.new_zeros(plan.least_rows - len(vectors), vectors.shape[1])])
        return cls(vectors, order, tiles, len(chunk))


# --- The work itself ---


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep torch from using TF32 or bfloat16 for float32 products, whatever the caller's setting."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _scores(stack: _Stack, queries: Tensor, block: _Block, product: Tensor, plan: _Plan) -> Tensor:
    """Return the scores of the queries of a stack with the passages of a block, shape (queries, items), float32."""
    import torch

    count, longest = len(stack.queries), stack.longest
    scores = torch.full((block.items, count), -torch.inf, device=plan.device)
    if longest == 0:
        return scores.zero_().T

    def multiply(first: int, stop: int) -> Tensor:
        """Return the product of vectors ``first`` to ``stop`` of the block with the stack, held in ``product``."""
        # A product of too few rows takes in some before them, which are then left out.
        start = max(0, min(first, stop - plan.least_rows))
        rows = max(stop - start, plan.least_rows)
        out = product[: rows * stack.width].view(rows, stack.width)
        torch.mm(block.vectors[start : start + rows], queries.T, out=out)
        return out[first - start : stop - start, : count * longest]

    found = torch.empty((len(block.order), count), device=plan.device)
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
    if not torch.isfinite(found).all():
        raise M2KRError("the embeddings are too large: a score does not fit into float32")
    scores[torch.from_numpy(block.order).to(plan.device)] = found
    scores[:, torch.from_numpy(stack.lengths == 0).to(plan.device)] = 0  # a sum over no vectors
    return scores.T


def _keys(scores: Tensor, first: int) -> Tensor:
    """Pack scores, shape (queries, items), and the rows from ``first`` on into int64 that order as results do.

    The upper half is the score as an integer of the same order, the lower half 2**32 - 1 minus the row.
    """
    import torch

    # Floats order like their bits as integers, but for the negative ones, whose order is turned round.
    # Adding zero makes -0.0 the same as 0.0.
    bits = (scores + 0.0).contiguous().view(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    rows = torch.arange(first, first + scores.shape[1], device=scores.device)
    return bits.to(torch.int64).bitwise_left_shift_(32).add_(0xFFFFFFFF - rows)


def _unpacked(keys: Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the scores and rows that `_keys` packed."""
    import torch

    bits = (keys >> 32).to(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits.view(torch.float32).numpy(), (0xFFFFFFFF - (keys & 0xFFFFFFFF)).numpy()
