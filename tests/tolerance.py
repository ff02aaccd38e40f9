"""How far computed scores and embeddings may be from what they are compared with: bounds that grow with what went in.

A dot product of n numbers, added up in any order and with any fused operations, is off by at most

    |fl(q . d) - q . d| <= gamma(n) * sum of |q_i d_i| <= gamma(n) |q| |d|,    gamma(n) = n u / (1 - n u),

where u is the unit roundoff, 2**-24 for float32. The error does not shrink with the result: a sum of a thousand
products that is near zero is as far off as any other, so a tolerance relative to the result, or one number for all
sizes, fails sooner or later. A maximum is off by no more than the products it is taken of, so a MaxSim of m query
vectors is off by at most gamma(n + m) times the sum over them of |q| * max |d|.

What a network computes in two ways (another batch, another library) has no such bound that is of use. There, each
vector is held to a fraction of its own length, and its scores to what that fraction makes of them.

Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, SIAM 2002, sections 3.1 and 3.5.
Underflow, which adds at most 2**-149 a product, is left out: no test has numbers that small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

UNIT = 2.0**-24
"""Unit roundoff of float32."""

SAME_NETWORK = 1e-5
"""Of its length, what a vector may be off by when a network computes it in float32 in another batch."""


def gamma(terms: int, unit: float = UNIT) -> float:
    """The relative error of a sum of ``terms`` products, at most, with the unit roundoff ``unit``."""
    return terms * unit / (1 - terms * unit)


def maxsim_table(
    queries: Iterable[Any], passages: Iterable[Any], *, relative: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The MaxSim of every query with every passage in float64, and how far one in float32 may be from it.

    Args:
        queries: arrays or tensors of shape (tokens, dim), or (dim,) for one vector. Zero vectors are masked.
        passages: likewise; one without vectors scores minus infinity.
        relative: how far each vector may be from the one it stands for, as a fraction of its length.

    Returns:
        Scores and errors, each of shape (queries, passages).
    """
    query_list, passage_list = [_matrix(one) for one in queries], [_matrix(one) for one in passages]
    scores = np.full((len(query_list), len(passage_list)), -np.inf)
    errors = np.zeros_like(scores)
    longest = [float(_lengths(passage).max(initial=0)) for passage in passage_list]
    for row, query in enumerate(query_list):
        counted = query[query.any(axis=1)]
        # Two more roundings: of both vectors, where they are converted to float32 first.
        off = (1 + gamma(sum(query.shape) + 2)) * (1 + relative) ** 2 - 1
        for column, passage in enumerate(passage_list):
            if len(passage) or not len(counted):
                scores[row, column] = (counted @ passage.T).max(axis=1).sum() if len(counted) else 0.0
            errors[row, column] = off * _lengths(counted).sum() * longest[column]
    return scores, errors


def same_network_errors(queries: Iterable[Any], passages: Iterable[Any]) -> np.ndarray:
    """How far MaxSim scores of a network may differ when it computes in two ways, shape (queries, passages).

    `SAME_NETWORK` of what went into a score: the sum over the query's vectors of their length, times that of the
    longest vector of the passage. Both are as for `maxsim_table`.
    """
    longest = [float(_lengths(_matrix(passage)).max(initial=0)) for passage in passages]
    return SAME_NETWORK * np.outer([float(_lengths(_matrix(query)).sum()) for query in queries], longest)


def assert_within(found: Any, wanted: Any, errors: Any) -> None:
    """Check that numbers are as near to those wanted as ``errors`` allows; infinities are to be equal."""
    mine, theirs = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert mine.shape == theirs.shape
    with np.errstate(invalid="ignore"):
        near = (mine == theirs) | (np.abs(mine - theirs) <= errors)
    if not near.all():
        place = tuple(int(axis[0]) for axis in np.nonzero(~near))
        allowed = np.broadcast_to(errors, mine.shape)[place]
        raise AssertionError(
            f"at {place}: {mine[place]} differs by {abs(mine[place] - theirs[place]):.3g} from {theirs[place]}, "
            f"and {allowed:.3g} is allowed; {np.count_nonzero(~near)} of {near.size} differ by more than that"
        )


def assert_ranking(found: tuple[np.ndarray, np.ndarray], k: int, scores: np.ndarray, errors: np.ndarray) -> None:
    """Check that a result of `m2kr.search.search` holds the ``k`` best passages of each query, but for rounding.

    Passages whose scores are nearer to each other than their errors may stand in either order, and either may be the
    one that ``k`` cuts off. Equal scores are to be ordered by row.

    Args:
        found: scores and rows, each of shape (queries, k).
        k: how many were asked for.
        scores: exact ones, as `maxsim_table` gives them.
        errors: how far those found may be from them.
    """
    assert found[0].dtype == np.float32
    assert found[1].dtype == np.int64
    assert found[0].shape == found[1].shape == (len(scores), min(k, scores.shape[1]))
    for mine, rows, exact, off in zip(*found, scores, errors, strict=True):
        assert len(set(rows.tolist())) == len(rows)
        assert_within(mine, exact[rows], off[rows])
        assert all(
            one > next_one or (one == next_one and row < next_row)
            for one, next_one, row, next_row in zip(mine, mine[1:], rows, rows[1:], strict=False)
        )
        left = np.setdiff1d(np.arange(len(exact)), rows)
        if len(rows):
            assert (exact[left] - off[left] <= mine[-1]).all()


def assert_vectors_near(found: Sequence[Any], wanted: Sequence[Any], relative: float = SAME_NETWORK) -> None:
    """Check that each number is within ``relative`` times the length of its vector of the one wanted.

    Args:
        found: an array or tensor of shape (..., dim), or a list of them.
        wanted: the same.
        relative: of the length of a wanted vector.
    """
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        mine, theirs = _array(one), _array(other)
        assert_within(mine, theirs, relative * _lengths(theirs)[..., None])


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, np.float64)


def _matrix(values: Any) -> np.ndarray:
    array = _array(values)
    return array[None] if array.ndim == 1 else array


def _lengths(vectors: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(vectors, axis=-1)
    return lengths
