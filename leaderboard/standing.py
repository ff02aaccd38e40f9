"""How models stand over all tasks: mean, mean rank, what chance does to both, and which no other model dominates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from m2kr.significance import bootstrap_means

RESAMPLES = 1000
"""Draws of the bootstrap."""

Ends = tuple[float, float]
"""Lower and upper limit of a 95 % interval."""

_LIMITS = (2.5, 97.5)


@dataclass(frozen=True)
class Standing:
    """How a model stands among those of its board that have figures of all tasks.

    Attributes:
        mean: over the tasks, percent.
        mean_ends: its interval; None where the number of queries is not known.
        rank: mean over the tasks of its rank, 1 the best, equal figures sharing theirs; None where it is alone.
        rank_ends: its interval; None where the queries' results are not known.
        undominated: no other model is as good on every task and better on one; False where it is alone.
    """

    mean: float
    mean_ends: Ends | None
    rank: float | None
    rank_ends: Ends | None
    undominated: bool


def standings(
    figures: npt.NDArray[np.float64],
    queries: npt.NDArray[np.int64] | None,
    hits: Sequence[npt.NDArray[np.float64]] | None,
) -> list[Standing]:
    """Return how models stand.

    The interval of a mean draws hits of each task from the binomial distribution, as the percentile bootstrap of a hit
    rate does. That of a mean rank draws the same queries for all models, since ranks depend on the differences between
    them: 1,000 draws, of the queries of each task apart.

    Args:
        figures: hit rates in percent, shape (models, tasks).
        queries: how many each is the mean of, the same shape; None where that is not known.
        hits: for each task 1 or 0, shape (queries, models); None where they are not known.
    """
    from scipy.stats import rankdata

    count, tasks = figures.shape
    ranks = rankdata(-figures, axis=0).mean(axis=1)
    mean_ends: list[Ends | None] = [None] * count
    if queries is not None:
        rng = np.random.default_rng(0)
        drawn = rng.binomial(queries, figures / 100, size=(RESAMPLES, count, tasks)) / queries
        mean_ends = _ends(100 * drawn.mean(axis=2))
    rank_ends: list[Ends | None] = [None] * count
    if hits is not None and count > 1:
        each = [
            rankdata(-bootstrap_means(values, RESAMPLES, seed).round(12), axis=1) for seed, values in enumerate(hits)
        ]
        rank_ends = _ends(np.mean(each, axis=0))
    return [
        Standing(
            mean=float(figures[model].mean()),
            mean_ends=mean_ends[model],
            rank=float(ranks[model]) if count > 1 else None,
            rank_ends=rank_ends[model],
            undominated=count > 1 and not _dominated(figures, model),
        )
        for model in range(count)
    ]


def _ends(drawn: npt.NDArray[np.float64]) -> list[Ends | None]:
    """Return the limits of each column of draws."""
    low, high = np.percentile(drawn, _LIMITS, axis=0)
    return [(float(first), float(last)) for first, last in zip(low, high, strict=True)]


def _dominated(figures: npt.NDArray[np.float64], model: int) -> bool:
    as_good = (figures >= figures[model]).all(axis=1)
    better = (figures > figures[model]).any(axis=1)
    return bool((as_good & better).any())
