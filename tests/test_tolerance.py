"""`tests.tolerance`: bounds that hold, are no looser than they need be, and say what they found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.search.maxsim import maxsim_reference
from tests.tolerance import assert_ranking, assert_vectors_near, assert_within, gamma, maxsim_table, same_network_errors


def test_gamma_is_that_of_the_book() -> None:
    assert gamma(3, 0.01) == pytest.approx(0.03 / 0.97)
    assert gamma(1024) == pytest.approx(6.1e-5, rel=2e-3)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([1, 16, 1024]),
    tokens=st.integers(0, 5),
    scale=st.sampled_from([1e-6, 1, 1e6]),
)
def test_a_sum_in_float32_is_within_its_error_however_it_is_ordered(
    seed: int, dim: int, tokens: int, scale: float
) -> None:
    draw = np.random.default_rng(seed)
    query, passage = (scale * draw.standard_normal((count, dim)).astype(np.float32) for count in (tokens, 3))
    table, errors = maxsim_table([query], [passage])
    assert table[0, 0] == pytest.approx(maxsim_reference(query, passage), rel=1e-12, abs=1e-12 * errors[0, 0])
    order = draw.permutation(dim)
    total = np.float32(0)
    for vector in query[:, order]:
        sums = np.zeros(3, np.float32)
        for number, column in zip(vector, passage.T[order], strict=True):
            sums += number * column
        total += sums.max()
    assert_within(total, table[0, 0], errors[0, 0])


def test_errors_grow_with_what_was_added_up_and_not_with_the_result() -> None:
    query = np.array([[1000.0, 1000.0]])
    scores, errors = maxsim_table([query, query / 1000], [[[1.0, -1.0]], [[1.0, 1.0]]])
    assert scores.tolist() == [[0, 2000], [0, 2]]
    assert errors[0] == pytest.approx(gamma(5) * 2000)
    assert errors[1] == pytest.approx(errors[0] / 1000)
    _, loose = maxsim_table([query], [[[1.0, -1.0]]], relative=0.01)
    assert loose[0, 0] == pytest.approx(0.0201 * 2000, rel=1e-4)


def test_a_network_may_be_off_by_a_fraction_of_all_lengths_that_went_in() -> None:
    errors = same_network_errors([[[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0]]], [[[0.0, 10.0], [1.0, 0.0]], [[0.0, 0.0]]])
    assert errors == pytest.approx(np.array([[7e-4, 0], [1e-4, 0]]))


def test_masked_queries_score_nothing_and_empty_passages_minus_infinity() -> None:
    empty = np.zeros((0, 2))
    scores, errors = maxsim_table([[[0.0, 0.0], [1.0, 0.0]], empty], [empty, torch.tensor([2.0, 0.0])])
    assert scores.tolist() == [[-np.inf, 2], [0, 0]]
    assert errors[1].tolist() == [0, 0]
    assert_within(scores, scores, errors)
    with pytest.raises(AssertionError, match=r"at \(0, 0\).* 1 of 4 differ"):
        assert_within(np.where(np.isinf(scores), 0, scores), scores, errors)


def ranking(*rows: int, scores: tuple[float, ...] = (3, 2)) -> tuple[np.ndarray, np.ndarray]:
    return np.array([scores], np.float32), np.array([rows], np.int64)


def test_a_ranking_may_swap_what_rounding_cannot_tell_apart_and_nothing_else() -> None:
    exact, errors = np.array([[3.0, 2.0, 2.0005, 1.0]]), np.full((1, 4), 1e-3)
    for good in (ranking(0, 1), ranking(0, 2)):
        assert_ranking(good, 2, exact, errors)
    for bad in (
        ranking(0, 3, scores=(3, 1)),  # a better one is left out
        ranking(0, 0, scores=(3, 3)),  # one stands twice
        ranking(1, 0, scores=(2, 3)),  # the worse stands first
        ranking(0, 1, scores=(3, 2.1)),  # not its score
        ranking(0, scores=(3,)),  # too few
    ):
        with pytest.raises(AssertionError):
            assert_ranking(bad, 2, exact, errors)
    with pytest.raises(AssertionError):  # equal scores, the higher row first
        assert_ranking(ranking(2, 1, scores=(2, 2)), 2, exact[:, [3, 1, 2]], errors[:, :3])


def test_vectors_are_held_to_a_fraction_of_their_length() -> None:
    vectors = np.array([[30.0, 40.0], [0.0, 0.5]])
    assert_vectors_near(vectors + np.array([[4e-4, 0], [0, 4e-6]]), vectors)
    assert_vectors_near([torch.from_numpy(vectors)], [vectors])
    with pytest.raises(AssertionError, match=r"at \(0,\): 4e-05 differs"):
        assert_vectors_near(vectors + np.array([[0, 0], [4e-5, 0]]), vectors)
