"""`m2kr.significance`: intervals and p-values against their definitions, scipy and the normal approximation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from m2kr.errors import M2KRError
from m2kr.metrics import score_queries
from m2kr.significance import bootstrap_means, compare

Scores = dict[str, dict[str, float]]


def two_runs(queries: int, right: tuple[float, float], seed: int = 0) -> tuple[dict[str, Scores], dict[str, list[str]]]:
    """Two runs of which each has the positive first with a chance of its own, else second."""
    rng = np.random.default_rng(seed)
    runs: dict[str, Scores] = {}
    for name, chance in zip("ab", right, strict=True):
        first = rng.random(queries) < chance
        runs[name] = {f"q{q}": {"yes": 1.0, "no": 0.5 if first[q] else 2.0} for q in range(queries)}
    return runs, {f"q{q}": ["yes"] for q in range(queries)}


def test_a_comparison_has_means_differences_and_the_p_of_a_t_test() -> None:
    runs, qrels = two_runs(200, (0.5, 0.7))
    table = compare(runs, qrels, measures=["Recall@1", "MRR@10"])
    assert table.select("measure", "run").rows() == [
        ("Recall@1", "a"),
        ("Recall@1", "b"),
        ("MRR@10", "a"),
        ("MRR@10", "b"),
    ]
    values = {name: score_queries(run, qrels, ks=[1])["Recall@1"].to_numpy() for name, run in runs.items()}
    first, second = table.row(0, named=True), table.row(1, named=True)
    assert (first["mean"], second["mean"]) == (values["a"].mean(), values["b"].mean())
    assert first["difference"] is first["p_value"] is first["difference_low"] is None
    assert second["difference"] == pytest.approx(values["b"].mean() - values["a"].mean())
    assert second["p_value"] == pytest.approx(ttest_rel(values["b"], values["a"]).pvalue)
    assert table["unanswered"].to_list() == [0, 0, 0, 0]


def test_bootstrap_means_are_those_of_drawn_rows() -> None:
    values = np.random.default_rng(1).random((7, 3))
    found = bootstrap_means(values, 50, seed=5)
    rng = np.random.default_rng(5)
    wanted = [values[rng.integers(7, size=7)].mean(axis=0) for _ in range(50)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_an_interval_is_that_of_the_normal_approximation_where_it_holds() -> None:
    runs, qrels = two_runs(1000, (0.5, 0.6))
    row = compare(runs, qrels, measures=["Recall@1"]).row(1, named=True)
    values = [score_queries(run, qrels, ks=[1])["Recall@1"].to_numpy() for run in runs.values()]
    for low, high, sample in (
        (row["low"], row["high"], values[1]),
        (row["difference_low"], row["difference_high"], values[1] - values[0]),
    ):
        half = 1.96 * sample.std() / math.sqrt(len(sample))
        assert low == pytest.approx(sample.mean() - half, abs=0.004)
        assert high == pytest.approx(sample.mean() + half, abs=0.004)


def test_a_comparison_is_the_same_for_the_same_seed_only() -> None:
    runs, qrels = two_runs(60, (0.5, 0.6))
    assert compare(runs, qrels, resamples=500).equals(compare(runs, qrels, resamples=500))
    assert not compare(runs, qrels, resamples=500).equals(compare(runs, qrels, resamples=500, seed=1))


def test_a_run_does_not_differ_from_itself() -> None:
    runs, qrels = two_runs(50, (0.5, 0.5))
    table = compare({"one": runs["a"], "two": runs["a"]}, qrels, measures=["Recall@1", "nDCG@10"])
    for row in table.filter(table["run"] == "two").iter_rows(named=True):
        assert (row["difference"], row["difference_low"], row["difference_high"], row["p_value"]) == (0, 0, 0, 1)


def test_two_runs_that_differ_by_chance_alone_are_seldom_significant() -> None:
    below = 0
    for seed in range(60):
        runs, qrels = two_runs(80, (0.5, 0.5), seed)
        p_value = compare(runs, qrels, measures=["Recall@1"], resamples=1)["p_value"][1]
        below += p_value <= 0.1
    assert 1 <= below <= 14  # of 60, 6 are expected


def test_a_comparison_of_one_query_has_no_p_and_unanswered_queries_are_counted() -> None:
    table = compare({"a": {"q": {"p": 1.0}}, "b": {"q": {}}}, {"q": ["p"]}, measures=["Recall@1"])
    assert table["p_value"].to_list() == [None, None]
    assert table["unanswered"].to_list() == [0, 1]
    assert table["mean"].to_list() == [1.0, 0.0]


def test_pseudo_recall_is_compared_where_there_are_answers() -> None:
    runs = {"a": {"q": {"p": 1.0}, "r": {"p": 1.0}}, "b": {"q": {"x": 1.0}, "r": {"p": 1.0}}}
    answers = {"q": ["red"], "r": ["red"]}
    options: dict[str, Any] = {"answers": answers, "passages": {"p": "Red.", "x": "Blue."}, "measures": ["PRecall@1"]}
    assert compare(runs, {"q": [], "r": []}, **options)["mean"].to_list() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("a", {}, "two runs or more, not 1"),
        ("ab", {"measures": ["PRecall@5"]}, "no measure 'PRecall@5' of these runs; there are Recall@5"),
        ("ab", {"measures": ["unheard"]}, "no measure 'unheard'"),
        ("ab", {"measures": []}, "one of each"),
        ("ab", {"resamples": 0}, "one of each"),
    ],
)
def test_what_cannot_be_compared_is_said(names: str, options: dict[str, Any], message: str) -> None:
    runs, qrels = two_runs(5, (0.5, 0.5))
    with pytest.raises(M2KRError, match=message):
        compare({name: runs[name] for name in names}, qrels, **options)
