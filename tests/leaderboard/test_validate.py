"""`leaderboard.validate`: which result files are refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaderboard.validate import read_valid_result
from m2kr.errors import M2KRError


def test_a_possible_result_is_read(make):
    assert read_valid_result(make())["model"] == "my-model"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": ""}, "model is ''"),
        ({"model": 3}, "model is 3"),
        ({"model": "x" * 300}, "model is 'xxx"),
        ({"model": "new\nline"}, "model is"),
        ({"queries": 0}, "queries is 0"),
        ({"queries": True}, "queries is True"),
        ({"passages": "many"}, "passages is 'many'"),
        ({"synthetic": "no"}, "synthetic is 'no'"),
        ({"seconds": {"search": -1}}, "seconds is"),
        ({"memory": [1]}, "memory is"),
        ({"model_settings": []}, "model_settings is"),
        ({"ignored_inputs": "image"}, "ignored_inputs is"),
        ({"split": "train_passages"}, "no split"),
        ({"headline": ["Recall@1"]}, "is compared by"),
        ({"queries_without_positive": 2000}, "no positive"),
        ({"metrics": {"Recall@5": 0.5}, "queries_without_positive": 600}, "have a positive"),
        ({"metrics": {"Recall@1": 0.5}}, "lacks Recall@5"),
        ({"metrics": {"Recall@5": 0.5, "accuracy": 0.5}}, "no measure 'accuracy'"),
        ({"metrics": {"Recall@5": 1.5}}, "above 1"),
        ({"metrics": {"Recall@5": 0.12345}}, "no count of 1,000 queries"),
        ({"metrics": {"Recall@5": 0.5, "PRecall@5": 0.1234567}}, "no count of 1,000 queries"),
        ({"metrics": {"Recall@5": 0.5, "Recall@10": 0.4}}, "Recall@10 is 0.4, below Recall@5"),
        ({"metrics": {"Recall@5": 0.5, "recall_fraction@5": 0.6}}, "above the hit rate"),
        ({"metrics": {"Recall@5": "0.5"}}, "metrics is"),
    ],
)
def test_an_impossible_result_is_refused(make, change, says):
    path = make(**change)
    with pytest.raises(M2KRError, match=says) as raised:
        read_valid_result(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_a_measure_is_a_number(make, value):
    path = make()
    path.write_text(path.read_text(encoding="utf-8").replace("0.125", value), encoding="utf-8")
    with pytest.raises(M2KRError, match="refused"):
        read_valid_result(path)


def test_half_a_character_is_refused(make):
    path = make(model_settings={"name": "\ud800"})
    with pytest.raises(M2KRError, match="cannot be written again"):
        read_valid_result(path)


@given(
    queries=st.integers(1, 200_000),
    hits=st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_count_of_queries_is_possible(make, queries, hits):
    shares = sorted(math.floor(share * queries) / queries for share in hits)
    metrics = {f"Recall@{k}": share for k, share in zip((1, 5, 10), shares, strict=True)}
    path = make(queries=queries, metrics=metrics)
    assert read_valid_result(path)["metrics"] == json.loads(json.dumps(metrics))
