"""What storing passages in 8 bits does to the results of an evaluation, measured on some of its queries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m2kr.common.progress import say
from m2kr.dataset import nano_subset
from m2kr.errors import M2KRError
from m2kr.search.exact import Embeddings, search
from m2kr.search.int8 import quantise, widen
from m2kr.search.ragged import Array, Ragged, as_tensor
from m2kr.search.store import EmbeddingStore

if TYPE_CHECKING:
    import polars as pl

    from m2kr.common.measure import Phases
    from m2kr.dataset import TaskData
    from m2kr.evaluate.encode import Encoder
    from m2kr.evaluate.passages import PassagePictures

_SAMPLED = 200
# Queries, at most, on which it is measured.
_AT_ONCE = 1 << 16  # vectors widened at once: 32 MiB of float32 in 128 dimensions


def effect_of_8_bits(
    encoder: Encoder,
    data: TaskData,
    passages: pl.DataFrame,
    sizes: Sequence[int] | None,
    work: Path,
    phases: Phases,
    *,
    memory: int,
    pictures: PassagePictures | None = None,
) -> dict[str, float]:
    """Measure what storing the passages in 8 bits does to the results of at most 200 queries, and say it.

    The queries are taken from the stored ones. The passages are those that were kept in the model's type, or else a
    sample, encoded again in that type: all of them would need the disk that 8 bits save. A small sample understates
    the effect, since most of the rivals that stand close to a positive are not in it.

    Args:
        encoder: stored the queries and the passages.
        data: the task, whose cut-off is used.
        passages: all of them with id and content, in the order of their embeddings.
        sizes: bytes of the queries' pictures, as `Encoder.queries` takes them.
        work: folder of the evaluation.
        phases: gets the time and memory of this, as "quantisation".
        memory: bytes of scratch for the search.
        pictures: of the passages, where the retriever reads them.

    Returns:
        The fields of `Effect`, and "passages", how many took part.
    """
    # Data that are a subset already are refused, lest scores be compared. Here the limit only bounds the work.
    sample = nano_subset(replace(data, limited=False, nano=False), queries=_SAMPLED)
    whole = replace(encoder, options=replace(encoder.options, store_dtype=None))
    taken = passages
    if not whole.has_passages(passages["passage_content"], pictures):
        taken = passages.filter(passages["passage_id"].is_in(sample.passages["passage_id"].to_list()))
        pictures = None if pictures is None else pictures.of(taken["passage_id"])
    found = whole.passages(taken["passage_content"].to_list(), work / "sample", f"{data.task.key} sample", pictures)
    if not found.reused:
        phases.add("quantisation", found.seconds, found.memory)
    with phases.measured("quantisation"):
        row_of = {name: row for row, name in enumerate(taken["passage_id"])}
        positives = [[row_of[name] for name in names if name in row_of] for names in sample.qrels.values()]
        rows = [row for row, name in enumerate(data.queries["question_id"]) if name in sample.qrels]
        quiet = replace(encoder, options=replace(encoder.options, quiet=True))
        vectors = quiet.queries(data, sizes, work).store.load()
        queries = [vectors[row] for row in rows] if isinstance(vectors, Ragged) else vectors[rows]
        cutoff = int(data.task.metrics[0].rpartition("@")[2]) if data.task.metrics else 5
        device = encoder.options.device
        effect = quantisation_effect(queries, found.store, positives, k=cutoff, device=device, memory=memory)
    say(f"{data.task.key}: {effect} ({taken.height:,} of {passages.height:,} passages)", quiet=encoder.options.quiet)
    return {**asdict(effect), "passages": taken.height}


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
    device: str = "cpu",
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
    parts: Iterable[Ragged | Array]
    parts = passages.shards() if isinstance(passages, EmbeddingStore) else [passages]
    for part in parts:
        ragged = part if isinstance(part, Ragged) else Ragged.one_each(part)
        for some in ragged.blocks(_AT_ONCE):
            vectors = widen(*quantise(as_tensor(some.vectors).float().cpu().numpy()))
            yield Ragged(vectors, some.offsets) if isinstance(part, Ragged) else vectors
