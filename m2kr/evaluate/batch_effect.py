"""What batches do to the vectors of an evaluation: some inputs are encoded alone, and together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from m2kr.common.progress import say
from m2kr.results.record import over_batch_limit
from m2kr.search.ragged import Array, as_tensor

if TYPE_CHECKING:
    from m2kr.dataset import TaskData
    from m2kr.evaluate.encode import Encoder, What
    from m2kr.evaluate.passages import PassagePictures
    from m2kr.retriever import Input

SAMPLED = 16
"""Passages, and queries, that are encoded twice."""

_LARGEST = 2.0
# Of vectors of one length, that of opposite ones.


def effect_of_batches(
    encoder: Encoder,
    data: TaskData,
    passages: Sequence[str],
    *,
    pictures: bool,
    passage_pictures: PassagePictures | None = None,
) -> dict[str, float] | None:
    """Return by how much vectors differ where an input is encoded alone and together with others.

    The inputs are at most 16 passages and 16 queries, spread evenly over their tables. Together they are encoded in
    one call, in batches of the size of the evaluation. Embeddings that an earlier evaluation kept are not looked at:
    they are of the same model and settings, so what is measured now holds for them too.

    Args:
        encoder: encodes them.
        data: the task, with its queries.
        passages: contents of all its passages.
        pictures: whether queries are encoded with their pictures.
        passage_pictures: those of the passages, where the retriever reads them.

    Returns:
        The largest `vector_difference` of "passages" and of "queries", in two digits, since more are noise; None of
        nothing.

    Raises:
        ImageError, M2KRError: as `Encoder.queries`.
    """
    queries = list(encoder.query_inputs(data, _spread(data.queries.height), pictures=pictures))
    samples: dict[What, Sequence[Input]] = {
        "passages": list(encoder.passage_inputs(passages, _spread(len(passages)), passage_pictures)),
        "queries": queries,
    }
    found: dict[str, float] = {}
    for what, inputs in samples.items():
        label = f"{data.task.key} sample of {what}"
        together = encoder.encode(what, inputs, label) if inputs else ()
        for given, vectors in zip(inputs, together, strict=True):
            (alone,) = encoder.encode(what, [given], label)
            found[what] = max(found.get(what, 0.0), vector_difference(alone, vectors))
    return {what: float(f"{value:.2g}") for what, value in found.items()} or None


def say_effect(encoder: Encoder, effect: Mapping[str, float] | None, task: str) -> None:
    """Say by how much vectors differ, where that is more than float noise in the encoder's type."""
    if effect and over_batch_limit(effect, encoder.options.dtype):
        say(
            f"{task}: {encoder.retriever.name} encodes inputs differently alone and in batches of {encoder.batch.size} "
            f"(vectors differ by up to {max(effect.values()):g} of their length): its figures depend on the batch "
            "size, and the result says so",
            quiet=encoder.options.quiet,
        )


def vector_difference(one: Array, other: Array) -> float:
    """Return by how much the vectors of an item differ from others of it, whatever the unit.

    It is the length of the difference of two vectors divided by that of the longer one, the largest of all pairs: no
    cosine, and no term of MaxSim, that vectors of length 1 are compared by changes by more, however many dimensions
    there are. Unlike a cosine it also sees vectors that only grow, and a difference of 0.001 is no 0.0000005 there.

    Args:
        one: (dim,), or (vectors, dim) of late interaction.
        other: the same, made another way.

    Returns:
        0 for equal vectors, 2 for opposite ones, and 2 where their shapes differ.
    """
    first, second = _matrix(one), _matrix(other)
    if first.shape != second.shape:
        return _LARGEST
    lengths = np.maximum(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    apart = np.linalg.norm(first - second, axis=1)
    return float((apart / np.where(lengths > 0, lengths, 1.0)).max(initial=0.0))


def _matrix(vectors: Array) -> npt.NDArray[np.float64]:
    matrix: npt.NDArray[np.float64] = np.atleast_2d(as_tensor(vectors).cpu().double().numpy())
    return matrix


def _spread(count: int) -> list[int]:
    """Return rows of a table of so many, `SAMPLED` at most, evenly spread."""
    return sorted({int(row) for row in np.linspace(0, count - 1, SAMPLED).round()}) if count else []
