"""Vectors in 8 bits: a quarter of the disk, and what it costs in Recall.

Every vector has a scale of its own, the largest of its absolute numbers divided by 127, and its numbers are stored as
the nearest multiples of that. So a number comes back within half a scale, 1/254 of the largest one, and the dot product
with a vector q within scale / 2 * (sum of the absolute numbers of q). Zero stays zero. `quantisation_effect` measures
what that does to retrieval.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from m2kr.errors import M2KRError

if TYPE_CHECKING:
    from m2kr.search.exact import Embeddings
    from m2kr.search.store import Array, EmbeddingStore, Ragged

_SMALLEST = np.finfo(np.float32).tiny  # of the scales: none is 0, or so small that some processors take it for 0
_AT_ONCE = 1 << 16  # vectors widened at once: 32 MiB of float32 in 128 dimensions


def quantise(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return finite vectors, shape (n, dim), as int8 of that shape and float32 scales of shape (n,).

    Numbers below 6e-39, half the smallest scale, become 0.
    """
    largest = np.maximum(vectors.max(axis=1, initial=0), -vectors.min(axis=1, initial=0))
    scales = np.maximum(largest / np.float32(127), _SMALLEST)
    multiples = vectors / scales[:, None]
    return np.rint(multiples, out=multiples).astype(np.int8), scales


def widen(values: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what `quantise` made into 8 bits, shape (n, dim), float32."""
    vectors = values.astype(np.float32)
    vectors *= scales[:, None]
    return vectors


@dataclass(frozen=True)
class Effect:
    """What 8 bits do to the results of some queries.

    Attributes:
        k: the cut-off.
        queries: how many queries were searched.
        recall: Recall@k with the passages as they were: the fraction of queries with a positive among the first k.
        recall_int8: the same with the passages in 8 bits.
        changed: queries that have a positive among the first k in one form and not in the other.
        overlap: mean fraction of the first k that are the same passages.
    """

    k: int
    queries: int
    recall: float
    recall_int8: float
    changed: int
    overlap: float

    def __str__(self) -> str:
        return (
            f"8-bit passages, {self.queries:,} queries: Recall@{self.k} {100 * self.recall_int8:.2f} "
            f"({100 * self.recall:.2f} before, {self.changed:,} queries changed), "
            f"{100 * self.overlap:.1f} % of the first {self.k} the same"
        )


def quantisation_effect(
    queries: Embeddings,
    passages: Ragged | EmbeddingStore | Array,
    positives: Sequence[Collection[int]],
    *,
    k: int = 5,
    device: str | Sequence[str] = "cpu",
    memory: int = 1 << 30,
) -> Effect:
    """Search with the passages as they are and in 8 bits, exactly, and compare the results.

    A few hundred queries are enough to see an effect that matters; all passages should take part, as each is a rival.

    Args:
        queries: as `m2kr.search.search` takes them, n of them. They stay as they are, as in an evaluation.
        passages: in the form before; several vectors an item or one, as the queries. In 8 bits they are made shard by
            shard, as a store of the dtype "int8" would give them back.
        positives: for each query the rows of its positive passages, shape (n,).
        k: the cut-off.
        device: as in `m2kr.search.search`.
        memory: as in `m2kr.search.search`.

    Raises:
        M2KRError: there are no queries, or not as many as ``positives``; or as `m2kr.search.search`.
    """
    from m2kr.search.exact import search

    _, before = search(queries, passages, k, device=device, memory=memory)
    if len(positives) != len(before) or not len(before):
        raise M2KRError(
            f"there are {len(before)} queries, and positives of {len(positives)}: pass one query at least, and the "
            "rows of its positives for each"
        )
    _, after = search(queries, _in_8_bits(passages), k, device=device, memory=memory)
    hits = np.array(
        [
            [not wanted.isdisjoint(rows.tolist()) for rows in found]
            for wanted, *found in zip(map(frozenset, positives), before, after, strict=True)
        ]
    )
    same = [len(set(one.tolist()) & set(other.tolist())) for one, other in zip(before, after, strict=True)]
    return Effect(
        k=k,
        queries=len(before),
        recall=float(hits[:, 0].mean()),
        recall_int8=float(hits[:, 1].mean()),
        changed=int((hits[:, 0] != hits[:, 1]).sum()),
        overlap=float(np.mean(same)) / max(before.shape[1], 1),
    )


def _in_8_bits(passages: Ragged | EmbeddingStore | Array) -> Iterator[Ragged | Array]:
    from m2kr.search.store import EmbeddingStore, Ragged, as_tensor

    parts: Iterable[Ragged | Array]
    parts = passages.shards() if isinstance(passages, EmbeddingStore) else [passages]
    for part in parts:
        ragged = part if isinstance(part, Ragged) else Ragged(part, np.arange(len(part) + 1))
        for some in ragged.blocks(_AT_ONCE):
            vectors = widen(*quantise(as_tensor(some.vectors).float().cpu().numpy()))
            yield Ragged(vectors, some.offsets) if isinstance(part, Ragged) else vectors
