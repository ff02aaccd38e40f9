"""`m2kr.search.best`: the best passages, ties by row, in whatever order they come."""

from __future__ import annotations

import numpy as np
import torch

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
