"""`leaderboard.significance`: p-values of all pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import ttest_rel

from leaderboard.significance import as_json, pairwise


def test_the_p_values_are_those_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    base = rng.random(400)
    hits = {
        name: (base + rng.normal(0, 0.4, 400) < share).astype(float)
        for name, share in zip("abcd", (0.4, 0.42, 0.5, 0.7), strict=True)
    }
    found = pairwise(hits)
    for first in hits:
        for second in hits:
            if first != second:
                expected = ttest_rel(hits[first], hits[second]).pvalue
                assert found.p(first, second) == pytest.approx(expected, rel=1e-6)
    assert found.p("a", "d") < 0.001 < found.p("a", "b")


def test_equal_runs_do_not_differ():
    hits = np.array([0.0, 1.0, 1.0])
    assert pairwise({"a": hits, "b": hits.copy()}).p("a", "b") == 1


def test_a_run_that_always_wins_by_the_same_differs():
    assert pairwise({"a": np.zeros(5), "b": np.ones(5)}).p("a", "b") == 0


def test_one_query_says_nothing():
    assert pairwise({"a": np.zeros(1), "b": np.ones(1)}).p("a", "b") is None


def test_an_unknown_model_has_no_p_value():
    assert pairwise({"a": np.zeros(3)}).p("a", "b") is None


def test_the_page_gets_a_triangle():
    found = pairwise({"a": np.array([0.0, 1, 0]), "b": np.array([1.0, 1, 0]), "c": np.array([1.0, 0, 0])})
    written = as_json({("pool", "Recall@5"): found, ("pool", "alone"): pairwise({"a": np.zeros(3)})})
    assert list(written) == ["pool Recall@5"]
    assert [len(row) for row in written["pool Recall@5"]["p"]] == [0, 1, 2]
    json.dumps(written, allow_nan=False)
