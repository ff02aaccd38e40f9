"""What storing passages in 8 bits does to the results of an evaluation, measured on some of its queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from m2kr.common.progress import say
from m2kr.dataset import nano_subset
from m2kr.search.int8 import quantisation_effect
from m2kr.search.store import Ragged

if TYPE_CHECKING:
    import polars as pl

    from m2kr.common.measure import Phases
    from m2kr.dataset import TaskData
    from m2kr.evaluate.encode import Encoder

_SAMPLED = 200
# Queries, at most, on which it is measured.


def effect_of_8_bits(
    encoder: Encoder,
    data: TaskData,
    passages: pl.DataFrame,
    sizes: Sequence[int] | None,
    work: Path,
    phases: Phases,
    *,
    memory: int,
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

    Returns:
        The fields of `m2kr.search.int8.Effect`, and "passages", how many took part.
    """
    # Data that are a subset already are refused, lest scores be compared. Here the limit only bounds the work.
    sample = nano_subset(replace(data, limited=False, nano=False), queries=_SAMPLED)
    whole = replace(encoder, options=replace(encoder.options, store_dtype=None))
    taken = passages
    if not whole.has_passages(passages["passage_content"]):
        taken = passages.filter(passages["passage_id"].is_in(sample.passages["passage_id"].to_list()))
    found = whole.passages(taken["passage_content"].to_list(), work / "sample", f"{data.task.key} sample")
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
