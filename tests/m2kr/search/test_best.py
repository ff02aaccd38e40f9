"""`m2kr.search.best`: the best passages, ties by row, in whatever order they come."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from m2kr.search.best import Best


def test_the_best_are_kept_in_any_order_and_ties_by_row() -> None:
    scores = torch.tensor([[1.0, -0.0, 0.0, 3.0, -2.0, 3.0], [-1.0, -1.0, -torch.inf, -5.0, -1.0, 2.0]])
    for order in (range(6), [5, 3, 1, 0, 4, 2]):
        best = Best(2, 4, "cpu")
        for row in order:
            best.add(scores[:, row : row + 1], torch.tensor([row]))
        found = best.found()
        np.testing.assert_array_equal(found[1], [[3, 5, 0, 1], [5, 0, 1, 4]])
        np.testing.assert_array_equal(found[0], [[3, 3, 1, 0], [2, -1, -1, -1]])


FEW = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 3.0])
"""Scores of which many are equal."""


@given(
    scores=array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
        lambda shape: arrays(np.float32, shape, elements=FEW)
    ),
    k=st.integers(1, 13),
    cut=st.integers(0, 12),
    data=st.data(),
)
def test_of_equal_scores_the_lowest_rows_are_kept(scores, k, cut, data) -> None:  # type: ignore[no-untyped-def]
    rows = np.array(data.draw(st.permutations(range(scores.shape[1]))))
    best = Best(len(scores), k, "cpu")
    for part in (slice(0, cut), slice(cut, None)):
        # Transposed in memory, as the product gives them.
        best.add(torch.from_numpy(np.asfortranarray(scores[:, part])), torch.from_numpy(rows[part]))
    order = np.lexsort((np.broadcast_to(rows, scores.shape), -scores), axis=1)[:, :k]
    found = best.found()
    np.testing.assert_array_equal(found[1], rows[order])
    np.testing.assert_array_equal(found[0], np.take_along_axis(scores, order, axis=1))


def test_each_query_may_have_passages_of_its_own() -> None:
    best = Best(2, 2, "cpu")
    best.add_some([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0, 4.0])], [torch.tensor([0, 5]), torch.arange(3)], 6)
    assert best.seen == 6
    np.testing.assert_array_equal(best.found()[1], [[5, 0], [2, 0]])


def test_the_bar_is_the_kth_score_with_what_others_have_at_least() -> None:
    best = Best(1, 3, "cpu")
    best.add(torch.tensor([[5.0, 1.0]]), torch.arange(2))
    assert best.bar().tolist() == [[-torch.inf]]
    assert best.bar(torch.tensor([[4.0, -1.0]])).tolist() == [[1.0]]
    assert best.bar(torch.tensor([[4.0, 6.0]])).tolist() == [[4.0]]
