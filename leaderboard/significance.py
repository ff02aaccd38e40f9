"""Which differences between runs of the same queries are more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVEL = 0.05
"""A difference with a smaller p-value is called significant."""

_NO_SPREAD = 1e-15


@dataclass(frozen=True)
class Pairs:
    """p-values of all pairs of models, for one measure on one pool of queries and passages.

    Attributes:
        slugs: the models.
        p_values: float64, shape (models, models), symmetric; 1 on the diagonal, NaN for fewer than two queries.
    """

    slugs: list[str]
    p_values: npt.NDArray[np.float64]

    def p(self, first: str, second: str) -> float | None:
        """Return the p-value of two models, or None where one of them is not among them or there is none."""
        if first not in self.slugs or second not in self.slugs:
            return None
        value = float(self.p_values[self.slugs.index(first), self.slugs.index(second)])
        return None if np.isnan(value) else value


def pairwise(hits: Mapping[str, npt.NDArray[np.float64]]) -> Pairs:
    """Return the p-values of the two-sided paired t-test over the queries, for all pairs.

    The same test as in `m2kr.significance.compare`, for all pairs at once: the variance of a difference is known from
    the covariances. Not corrected for the number of comparisons.

    Args:
        hits: model -> its measure for each query, of equal lengths.
    """
    from scipy.stats import t as student

    slugs = list(hits)
    values = np.stack([hits[slug] for slug in slugs])
    count = values.shape[1]
    if count < 2:
        return Pairs(slugs, np.full((len(slugs), len(slugs)), np.nan))
    means = values.mean(axis=1)
    covariance = np.atleast_2d(np.cov(values))
    spread = np.diag(covariance)[:, None] + np.diag(covariance) - 2 * covariance
    apart = means[:, None] - means
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.abs(apart) / np.sqrt(spread / count)
    p_values = 2 * student.sf(statistic, count - 1)
    # All differences equal: chance has no part in them.
    same = spread < _NO_SPREAD
    p_values[same] = np.where(np.abs(apart[same]) < _NO_SPREAD, 1.0, 0.0)
    return Pairs(slugs, p_values)


def as_json(pairs: Mapping[tuple[str, str], Pairs]) -> dict[str, dict[str, object]]:
    """Return p-values for the page: "pool measure" -> models, and a row of p-values for each, to the diagonal."""

    def shown(value: float) -> float | None:
        return None if np.isnan(value) else float(f"{value:.3g}")

    return {
        f"{pool} {metric}": {
            "models": found.slugs,
            "p": [[shown(value) for value in row[:number]] for number, row in enumerate(found.p_values)],
        }
        for (pool, metric), found in pairs.items()
        if len(found.slugs) > 1
    }
