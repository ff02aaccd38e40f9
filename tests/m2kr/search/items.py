"""Items for the tests of search, and what searching or storing them is to give."""

from __future__ import annotations

from typing import Any

import numpy as np

from m2kr.search.maxsim import maxsim_reference
from m2kr.search.ragged import Ragged, as_tensor
from tests.tolerance import assert_ranking, maxsim_table

Ranking = tuple[np.ndarray, np.ndarray]


def random_items(rng: np.random.Generator, lengths: list[int], dim: int) -> list[np.ndarray]:
    return [rng.standard_normal((length, dim)).astype(np.float32) for length in lengths]


def items_of(lengths: list[int], dim: int = 4, seed: int = 0) -> list[np.ndarray]:
    return random_items(np.random.default_rng(seed), lengths, dim)


def whole_numbers(rng: np.random.Generator, lengths: list[int], dim: int) -> list[np.ndarray]:
    """Vectors of small whole numbers: float32 adds them up exactly, so equal scores are equal in every order."""
    return [rng.integers(-2, 3, (length, dim)).astype(np.float32) for length in lengths]


def assert_exactly(found: Ranking, queries: list[np.ndarray], passages: list[np.ndarray], k: int) -> None:
    """Check that a result is the whole table of scores, sorted by (score, row), to the last bit."""
    table = np.array([[maxsim_reference(q, p) for p in passages] for q in queries]).reshape(len(queries), len(passages))
    rows = np.argsort(-table, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found[1], rows)
    np.testing.assert_array_equal(found[0], np.take_along_axis(table, rows, axis=1))


def assert_nearly(found: Ranking, queries: Any, passages: Any, k: int) -> None:
    """Check that a result is what exact arithmetic gives, but for the rounding of float32."""
    assert_ranking(found, k, *maxsim_table(queries, passages))


def assert_items(found: Any, wanted: list[np.ndarray]) -> None:
    """Check that a `Ragged` holds these arrays."""
    assert isinstance(found, Ragged)
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(as_tensor(mine).float().numpy(), theirs)
