"""Exact top-k search: MaxSim for several vectors an item, the dot product for one.

    score(q, d) = sum over the vectors of q of the maximum over the vectors of d of their dot product

One pass over the passages, so they may stream from disk; memory is bounded whatever their number. A dot product is the
MaxSim of one vector each, so there is one path. `m2kr.search.maxsim` says how it is made fast.

Ties are kept by `m2kr.search.best`. For that, equal passages must score the same bits wherever they lie, which
`m2kr.search.maxsim` sees to. `m2kr.search.bounded` leaves out passages that cannot be among the best.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from m2kr.common.progress import progress
from m2kr.errors import M2KRError
from m2kr.search.bounded import Searched, Way
from m2kr.search.device import check_device, exactly_on, kind_of
from m2kr.search.ragged import Array, Ragged, as_tensor, first_not_finite
from m2kr.search.store import EmbeddingStore
from m2kr.search.tiles import Plan, stacks_of

Embeddings: TypeAlias = "Ragged | EmbeddingStore | Array | Sequence[Array]"
Passages: TypeAlias = "Embeddings | Iterable[Ragged | Array]"


def search(
    query_embeddings: Embeddings,
    passage_embeddings: Passages,
    k: int,
    *,
    device: str = "cpu",
    memory: int = 1 << 30,
    quiet: bool = True,
    way: Way = "measured",
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the ``k`` best passages of each query, exactly, in one pass over the passages.

    Equal scores are ordered by row, the lower first, also where ``k`` cuts through them: order the passages by id, and
    ties are ordered by id. Computed and returned in float32, whatever the type of the embeddings. On a CPU the bits of
    a query's scores do not depend on the other queries.

    Args:
        query_embeddings: a `Ragged` or a list of (tokens_i, dim) arrays or tensors for MaxSim, one (n, dim) array or
            tensor for the dot product, or an `EmbeddingStore` of either kind. Vectors that are exactly zero are
            masked tokens and dropped; a query without any other scores 0 with every passage.
        passage_embeddings: likewise. Also an iterable that is no list, of shards (`Ragged`, or (n, dim) arrays for
            the dot product) or, for MaxSim, of passages. A passage without vectors scores minus infinity.
        k: passages to return for each query; all of them where there are fewer.
        device: where torch computes: "cpu", "cuda" (the first GPU), "cuda:1". On a GPU the kernel of
            `m2kr.search.fused` is used where queries and passages are both float16 or both bfloat16 and the extra
            ``gpu`` is installed; torch in float32 otherwise, of what is left (``way``). None has run on a GPU yet.
        memory: bytes of scratch beyond the inputs and the result: a chunk of passages as read, in float32 and in
            half precision, the product of a tile, the scores of a chunk. Not bounded by it: 16 bytes a query vector, 16
            rows of a product with the longest query, the longest single passage, a few MiB that the matrix library
            takes for itself and that the C library keeps of what was freed; on a GPU a copy of the queries. From
            512 KiB on, results do not depend on it.
        quiet: show no progress bar.
        way: how passages are scored; the result is the same. "plain": all in float32, or by the fused kernel.
            "bounded": in float32 only those that a product in half precision does not keep out of the best
            (`m2kr.search.bounded`), on a CPU, and on a GPU where the kernel does not take the vectors as they are.
            "int8": likewise, by a product in 8 bits, on a CPU. "measured": the fastest, which is found out on the way.

    Returns:
        Scores, shape (queries, k'), float32, best first; and the row numbers of their passages, shape (queries, k'),
        int64, with k' the smaller of ``k`` and the number of passages.

    Raises:
        M2KRError: ``k`` is no whole number or below 1; ``memory`` is below 1; a device is not there; embeddings are no
            real numbers, or of different kinds or dimensions; NaN or infinity in them; scores too large for float32.

    Source: Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction
    over BERT", SIGIR 2020, equation 3.
    """
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise M2KRError(f"k must be a whole number, at least 1, not {k!r:.100}")
    if not isinstance(memory, int | float | np.integer) or not memory >= 1:
        raise M2KRError(f"memory must be a number of bytes, at least 1, not {memory!r:.100}")
    if way not in get_args(Way):
        raise M2KRError(f"way must be 'measured', 'plain', 'bounded' or 'int8', not {way!r:.100}")
    check_device(device)
    single = _one_kind(query_embeddings, passage_embeddings)
    queries = _queries(query_embeddings)
    stacks = stacks_of(queries, memory, kind_of(device))
    plan = Plan.within(memory, stacks, queries, device)
    row = 0
    with exactly_on(device), progress(_count(passage_embeddings), "search", unit="passages", quiet=quiet) as bar:
        queries = Ragged(as_tensor(queries.vectors).to(device), queries.offsets)
        searched = Searched(queries, stacks, plan, k, device=device, way=way)
        chunks = _chunks(_shards(passage_embeddings, single, plan), plan)
        while (chunk := next(chunks, None)) is not None:
            searched.add(chunk, row)
            row += len(chunk)
            bar.update(len(chunk))
            del chunk  # or it would be held while the next one is made
    found_scores = np.empty((len(queries), min(k, row)), dtype=np.float32)
    found_rows = np.empty(found_scores.shape, dtype=np.int64)
    for stack, best in zip(stacks, searched.best, strict=True):
        found_scores[stack.queries], found_rows[stack.queries] = best.found()
    return found_scores, found_rows


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
    streamed = isinstance(passages, Iterable) and not isinstance(passages, str | bytes | Mapping)
    if query_kind is None or (not streamed if passage_kind is None else passage_kind != query_kind):
        raise M2KRError(
            f"the queries have {kinds[query_kind]} and the passages {kinds[passage_kind]}: pass (n, dim) arrays for "
            "both, or a Ragged or a list of (tokens, dim) arrays for both"
        )
    return query_kind


def _queries(embeddings: Embeddings) -> Ragged:
    whole = embeddings.load() if isinstance(embeddings, EmbeddingStore) else embeddings
    if isinstance(whole, list | tuple):
        whole = Ragged.from_list(whole)
    queries = whole if isinstance(whole, Ragged) else Ragged.one_each(whole)  # type: ignore[arg-type]
    if (row := first_not_finite(queries)) is not None:
        raise M2KRError(f"the embeddings of query {row} hold NaN or infinity")
    return queries


def _count(passages: Passages) -> int | None:
    return len(passages) if isinstance(passages, Sized) and not isinstance(passages, list | tuple) else None


def _shards(passages: Passages, single: bool, plan: Plan) -> Iterator[Ragged]:
    """Yield the passages in parts, as they come."""
    parts: Iterable[Ragged | Array]
    if isinstance(passages, EmbeddingStore):
        # Widened 8-bit vectors are not files in memory: a few blocks of them count, so a block is a part of a chunk.
        parts = passages.shards(most=max(1, plan.chunk_vectors // 4))
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
        yield Ragged.one_each(part)


def _joined(parts: Iterable[Ragged | Array], plan: Plan) -> Iterator[Ragged]:
    """Yield shards as they are, and passages that come one by one put together."""
    waiting: list[Array] = []
    row = vectors = 0
    for part in parts:
        if not isinstance(part, Ragged):
            if getattr(part, "ndim", None) != 2:
                Ragged.from_list([part], first=row + len(waiting))  # says what it is in place of an array
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


def _chunks(shards: Iterable[Ragged], plan: Plan) -> Iterator[Ragged]:
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
            room = shard.offsets[start] + (plan.chunk_vectors - vectors if waiting else plan.view_vectors)
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
                yield _taken(waiting)
                vectors = items = 0
        del shard  # or it would be held, whatever it is, until the next one is there
    if waiting:
        yield _taken(waiting)


def _taken(parts: list[Ragged]) -> Ragged:
    """Return parts put together, and keep none of them: a chunk is not to be in memory twice."""
    whole = Ragged.concatenate(parts)
    parts.clear()
    return whole
