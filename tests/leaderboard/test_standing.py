"""`leaderboard.standing`: means, mean ranks, their intervals, and what no model dominates."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.figures import interval
from leaderboard.standing import standings


def test_ranks_are_means_over_tasks_and_equal_figures_share_theirs():
    found = standings(np.array([[60.0, 10.0], [50.0, 10.0], [40.0, 30.0]]), None, None)
    assert [one.mean for one in found] == [35.0, 30.0, 35.0]
    assert [one.rank for one in found] == [(1 + 2.5) / 2, (2 + 2.5) / 2, (3 + 1) / 2]
    assert [one.undominated for one in found] == [True, False, True]
    assert {one.mean_ends for one in found} == {one.rank_ends for one in found} == {None}


def test_a_model_alone_has_no_rank():
    (alone,) = standings(np.array([[60.0, 10.0]]), np.array([[100, 100]]), None)
    assert (alone.rank, alone.undominated) == (None, False)
    assert alone.mean_ends is not None


def test_of_one_task_the_mean_has_the_interval_of_its_figure():
    (alone,) = standings(np.array([[60.0]]), np.array([[5120]]), None)
    expected = [100 * end for end in interval(0.6, 5120)]
    assert list(alone.mean_ends) == pytest.approx(expected, abs=0.2)  # 1,000 draws, of a deviation of 0.7


def test_more_tasks_make_the_interval_of_a_mean_smaller():
    one, nine = (standings(np.full((1, n), 60.0), np.full((1, n), 1000), None)[0].mean_ends for n in (1, 9))
    assert nine[1] - nine[0] == pytest.approx((one[1] - one[0]) / 3, rel=0.15)


def test_intervals_of_ranks_draw_the_same_queries_for_all():
    rng = np.random.default_rng(0)
    base = (rng.random(500) < 0.5).astype(float)
    worse = base.copy()
    worse[np.flatnonzero(base)[:20]] = 0  # never better: apart, by chance, it would be
    hits = [np.stack([base, base, worse], axis=1)] * 2
    figures = np.array([[100 * values.mean() for values in task.T] for task in hits]).T
    found = standings(figures, np.full((3, 2), 500), hits)
    assert [one.rank_ends for one in found] == [(1.5, 1.5), (1.5, 1.5), (3.0, 3.0)]
    assert found == standings(figures, np.full((3, 2), 500), hits)
