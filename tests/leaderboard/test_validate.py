"""`leaderboard.validate`: which result files are refused, of retrieval and of answering."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaderboard.records import read_record
from m2kr.answer.metrics import harmonic_accuracy
from m2kr.common.files import sha256_of
from m2kr.errors import M2KRError
from tests.made_results import change

PARTS = {"accuracy": 0.25, "accuracy_unseen_question": 0.2, "accuracy_unseen_entity": 0.4}
INFOSEEK = {**PARTS, "accuracy_harmonic": harmonic_accuracy(0.2, 0.4)}
BEM = {"checkpoint": "my-bem"}


def test_possible_results_are_read_and_their_kind_is_told_by_what_is_in_them(make, make_answer):
    assert read_record(make()).result["model"] == "my-model"
    answer = make_answer()
    assert read_record(answer).result["reader"] == "my-reader"
    assert read_record(answer.rename(answer.parents[2] / "OKVQA.json")).passages == "bm25"
    assert read_record(make_answer(task="Infoseek", metrics=INFOSEEK)).result["headline"][0] == "accuracy_harmonic"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": ""}, "model is ''"),
        ({"model": 3}, "model"),
        ({"model": "x" * 300}, "model is 'xxx"),
        ({"model": "new\nline"}, "model is"),
        ({"queries": 0}, "queries is 0"),
        ({"queries": True}, "queries"),
        ({"passages": "many"}, "passages"),
        ({"synthetic": "no"}, "synthetic"),
        ({"seconds": {"search": -1}}, "seconds is"),
        ({"memory": [1]}, "memory"),
        ({"model_settings": []}, "model_settings"),
        ({"ignored_inputs": "image"}, "ignored_inputs"),
        ({"split": "train_passages"}, "no split"),
        ({"headline": ["Recall@1"]}, "compared by"),
        ({"queries_without_positive": 2000}, r"2,000 .* of 1,000"),
        ({"metrics": {"Recall@5": 0.5}, "queries_without_positive": 600}, "have a positive"),
        ({"metrics": {"Recall@1": 0.5}}, "lacks Recall@5"),
        ({"metrics": {"Recall@5": 0.5, "accuracy": 0.5}}, "no measure 'accuracy'"),
        ({"metrics": {"Recall@5": 1.5}}, "above 1"),
        ({"metrics": {"Recall@5": 0.12345}}, "no count of 1,000"),
        ({"metrics": {"Recall@5": 0.5, "PRecall@5": 0.1234567}}, "no count of 1,000"),
        ({"metrics": {"Recall@5": 0.5, "Recall@10": 0.4}}, "Recall@10 is 0.4, below Recall@5"),
        ({"metrics": {"Recall@5": 0.5, "recall_fraction@5": 0.6}}, "above the hit rate"),
        ({"metrics": {"Recall@5": "0.5"}}, "metrics"),
        ({"model_settings": {"name": "\ud800"}}, "surrogate"),
        ({"metrics": {"Recall@5": math.nan}}, "no result file|cannot be written"),
        ({"metrics": {"Recall@5": math.inf}}, "no result file|cannot be written"),
    ],
)
def test_an_impossible_result_of_retrieval_is_refused(make, change, says):
    path = make(**change)
    with pytest.raises(M2KRError, match=says) as raised:
        read_record(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reader": ""}, "reader is ''"),
        ({"reader": "new\nline"}, "reader is"),
        ({"queries": 0}, "queries is 0"),
        ({"source": "web"}, "source"),
        ({"combine": "vote"}, "combine"),
        ({"seconds": -1}, "seconds is -1"),
        ({"reader_settings": []}, "reader_settings"),
        ({"intervals": {"VQA": [0.5, 0.4]}}, "interval of VQA"),
        ({"intervals": {"VQA": [0.5]}}, "interval of VQA"),
        ({"intervals": {}}, "lacks VQA or its interval"),
        ({"split": "train_passages"}, "no split"),
        ({"headline": ["EM"]}, "compared by VQA"),
        ({"metrics": {"EM": 0.5}, "headline": ["VQA"]}, "lacks VQA"),
        ({"metrics": {"VQA": 1.5}}, "above 1"),
        ({"metrics": {"VQA": math.nan}}, "no result file|cannot be written"),
        ({"task": "EVQA", "metrics": {"EM": 0.1234}}, "no count of 1,000"),
        ({"task": "EVQA", "metrics": {"EM": 0.125, "BEM": 0.5}, "bem": None}, "model that judged it"),
        ({"task": "EVQA", "metrics": {"EM": 0.5, "BEM": 0.4}}, "below the exact match"),
        ({"bem": BEM}, "model that judged it"),
        ({"retriever": None}, "retriever and run contradict"),
        ({"source": "oracle", "retriever": "bm25"}, "retriever and run contradict"),
        ({"source": "none", "k": 5}, "k and the way of combining contradict"),
        ({"combine": None}, "k and the way of combining contradict"),
        ({"queries_without_passages": 2000}, r"2,000 .* of 1,000"),
        ({"task": "WIT"}, "WIT has no answer metric"),
        ({"task": "Infoseek", "metrics": {**INFOSEEK, "accuracy_harmonic": 0.3}}, "not the harmonic mean"),
        ({"task": "Infoseek", "metrics": {**INFOSEEK, "accuracy_unseen_entity": 0.39}}, "not the harmonic mean"),
    ],
)
def test_an_impossible_result_of_answering_is_refused(make_answer, change, says):
    path = make_answer(**change)
    with pytest.raises(M2KRError, match=says) as raised:
        read_record(path)
    assert str(path) in str(raised.value)


@given(queries=st.integers(1, 200_000), hits=st.lists(st.floats(0, 1), min_size=3, max_size=3))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_count_of_queries_is_possible(make, queries, hits):
    shares = sorted(math.floor(share * queries) / queries for share in hits)
    metrics = {f"Recall@{k}": share for k, share in zip((1, 5, 10), shares, strict=True)}
    path = make(queries=queries, metrics=metrics)
    assert read_record(path).result["metrics"] == json.loads(json.dumps(metrics))


@given(data=st.data(), kind=st.sampled_from(["make", "make_answer"]))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_is_read_or_refused_and_nothing_else(make, make_answer, data, kind):
    path = {"make": make, "make_answer": make_answer}[kind]()
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    value = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=5), scalars)
    name = data.draw(st.sampled_from(sorted(json.loads(path.read_text(encoding="utf-8")))))
    change(path, **{name: data.draw(value)})
    with contextlib.suppress(M2KRError):
        read_record(path)


def test_a_figure_that_its_predictions_do_not_give_is_refused(submitted):
    path = submitted / "bm25/answers/seeker/OKVQA.joint-3.json"
    read_record(path)
    change(path, metrics={"VQA": 0.99}, intervals={"VQA": [0.9, 1.0]})
    with pytest.raises(M2KRError, match=r"VQA is 0\.99 in the file, and 0\.\d+ in its predictions"):
        read_record(path)
    path.with_name("OKVQA.joint-3.predictions.jsonl").unlink()
    read_record(path)  # there is nothing to compare with


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("changed", "sha256 differs"),
        ("shortened", "29 lines, for 30"),
        ("twice", "30 lines, for 30"),
        ("no scores", "lacks the scores"),
        ("too high", "between 0 and 1"),
        ("no JSON", "cannot be read"),
        ("no object", "prediction 1 of .* is not an object"),
    ],
)
def test_predictions_that_are_others_are_refused(submitted, how, says):
    path = submitted / "bm25/answers/seeker/OKVQA.joint-3.json"
    predictions = path.with_name("OKVQA.joint-3.predictions.jsonl")
    lines = predictions.read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    lines = {
        "changed": [json.dumps({**first, "answer": "other"}), *lines[1:]],
        "shortened": lines[1:],
        "twice": [lines[1], *lines[1:]],
        "no scores": [json.dumps({**first, "scores": None}), *lines[1:]],
        "too high": [json.dumps({**first, "scores": {"VQA": 2}}), *lines[1:]],
        "no JSON": ["{", *lines[1:]],
        "no object": ["[]", *lines[1:]],
    }[how]
    predictions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if how != "changed":
        change(path, predictions_sha256=sha256_of(predictions))
    with pytest.raises(M2KRError, match=says):
        read_record(path)
