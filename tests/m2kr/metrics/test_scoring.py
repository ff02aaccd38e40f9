"""`m2kr.metrics` against a plain reference and against ir_measures, above all where scores tie."""

from __future__ import annotations

import math
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, R, Success, nDCG

from m2kr.errors import M2KRError
from m2kr.metrics import KS, MEASURES, Measure, measures, measures_table, score, score_queries, scoring
from m2kr.results.run import Run

Scores = dict[str, dict[str, float]]
CUTOFFS = (1, 3, 10, 20)


def reference(ranking: list[str], positives: list[str], cutoffs: tuple[int, ...]) -> dict[str, float]:
    """Every measure of one query, by its definition; ``ranking`` is best first."""
    wanted = set(positives)
    measures = {}
    for k in cutoffs:
        found = wanted.intersection(ranking[:k])
        measures[f"Recall@{k}"] = float(bool(found))
        measures[f"recall_fraction@{k}"] = len(found) / len(wanted) if wanted else 0.0
    ranks = [rank for rank, passage in enumerate(ranking[:10], start=1) if passage in wanted]
    measures["MRR@10"] = 1 / ranks[0] if ranks else 0.0
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(wanted), 10) + 1))
    measures["nDCG@10"] = sum(1 / math.log2(rank + 1) for rank in ranks) / ideal if wanted else 0.0
    return measures


def ordered(found: dict[str, float]) -> list[str]:
    """The passages as trec_eval orders them: by score in single precision, then by id, both descending."""
    return sorted(found, key=lambda passage: (np.float32(found[passage]), passage), reverse=True)


passage_ids = st.integers(0, 39).map(lambda number: f"p{number}")
# Few different scores, so that most of them tie.
tied_scores = st.dictionaries(passage_ids, st.sampled_from([-2.5, 0.0, 0.25, 1.0, 1e-30]), max_size=40)
a_query = st.tuples(st.none() | tied_scores, st.lists(passage_ids, max_size=12))


@settings(max_examples=40, deadline=None)
@given(st.lists(a_query, min_size=1, max_size=15))
def test_measures_equal_their_definitions(drawn: list[tuple[dict[str, float] | None, list[str]]]) -> None:
    run = {f"q{number}": found for number, (found, _) in enumerate(drawn) if found is not None}
    qrels = {f"q{number}": positives for number, (_, positives) in enumerate(drawn)}
    table = score_queries(run, qrels, ks=CUTOFFS)
    assert table["question_id"].to_list() == list(qrels)
    for row in table.iter_rows(named=True):
        query = row.pop("question_id")
        wanted = reference(ordered(run.get(query, {})), qrels[query], CUTOFFS)
        assert row == pytest.approx(wanted, abs=1e-12)
    means = score(run, qrels, ks=CUTOFFS)
    assert means == pytest.approx({name: table[name].mean() for name in table.columns[1:]})


words = st.sampled_from(["Red", "bridge", " owl", "47 metres", "ÉCLAIR", "é", "", "  "])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(tied_scores, st.lists(words, max_size=3)), min_size=1, max_size=10),
    st.lists(st.lists(words, max_size=6).map(" ".join), min_size=40, max_size=40),
)
def test_pseudo_recall_equals_its_definition(drawn: list[tuple[dict[str, float], list[str]]], texts: list[str]) -> None:
    run = {f"q{number}": found for number, (found, _) in enumerate(drawn)}
    answers = {f"q{number}": said for number, (_, said) in enumerate(drawn)}
    passages = {f"p{number}": text for number, text in enumerate(texts)}
    table = score_queries(run, {query: [] for query in run}, answers=answers, passages=passages, ks=CUTOFFS)
    for query, *values in table.select("question_id", *(f"PRecall@{k}" for k in CUTOFFS)).iter_rows():
        needles = [said.strip().lower() for said in answers[query] if said.strip()]
        for k, value in zip(CUTOFFS, values, strict=True):
            seen = [passages[passage].lower() for passage in ordered(run[query])[:k]]
            assert value == float(any(needle in text for needle in needles for text in seen))


def by_ir_measures(run: Scores, qrels: dict[str, list[str]]) -> dict[str, float]:
    judged = {query: dict.fromkeys(positives, 1) for query, positives in qrels.items()}
    names: dict[Any, str] = {nDCG @ 10: "nDCG@10"}
    for k in CUTOFFS:
        names |= {Success @ k: f"Recall@{k}", R @ k: f"recall_fraction@{k}"}
    found = {names[measure]: value for measure, value in ir_measures.calc_aggregate(list(names), judged, run).items()}
    # ir_measures has RR@10 from a program that orders ties in its own way, but RR from trec_eval.
    ranks = [metric.value for metric in ir_measures.iter_calc([RR], judged, run)]
    return {**found, "MRR@10": sum(value for value in ranks if value >= 0.1) / len(qrels)}


def made_run(rng: np.random.Generator, levels: int) -> tuple[Scores, dict[str, list[str]]]:
    """50 queries, each with 60 passages whose scores have so many ``levels``."""
    run: Scores = {}
    qrels = {}
    for query in range(50):
        chosen = [f"p{number}" for number in rng.permutation(100)]
        run[f"q{query}"] = {passage: float(rng.integers(levels)) / 4 for passage in chosen[:60]}
        qrels[f"q{query}"] = [f"p{number}" for number in rng.choice(100, size=rng.integers(1, 8), replace=False)]
    return run, qrels


@pytest.mark.parametrize("levels", [1, 3, 1000], ids=["constant scorer", "20 passages a tie", "hardly a tie"])
def test_measures_equal_those_of_ir_measures(levels: int) -> None:
    run, qrels = made_run(np.random.default_rng(levels), levels)
    assert score(run, qrels, ks=CUTOFFS) == pytest.approx(by_ir_measures(run, qrels), abs=1e-9)


def test_a_constant_scorer_gains_nothing_from_the_order_it_was_written_in() -> None:
    passages = [f"p{number:03}" for number in range(100)]
    qrels = {"q": ["p000"]}
    first = {"q": dict.fromkeys(passages, 1.0)}
    last = {"q": dict.fromkeys(reversed(passages), 1.0)}
    assert score(first, qrels) == score(last, qrels)
    assert score(first, qrels)["MRR@10"] == 0.0
    assert score(first, {"q": ["p099"]})["MRR@10"] == 1.0


def test_scores_that_differ_only_beyond_single_precision_tie() -> None:
    run = {"q": {"a": 1.0 + 1e-12, "b": 1.0}}
    assert score(run, {"q": ["b"]}, ks=[1])["Recall@1"] == 1.0
    assert Run.from_dict(run).passage_ids == [["b", "a"]]


def test_a_run_keeps_the_order_it_came_in() -> None:
    run = Run(["q"], [["a", "b"]], [np.array([1.0, 1.0], dtype=np.float32)])
    assert score(run, {"q": ["a"]}, ks=[1])["Recall@1"] == 1.0
    assert score({"q": {"a": 1.0, "b": 1.0}}, {"q": ["a"]}, ks=[1])["Recall@1"] == 0.0


def test_a_dict_and_a_run_score_the_same() -> None:
    run, qrels = made_run(np.random.default_rng(0), 4)
    assert score(run, qrels) == score(Run.from_dict(run), qrels)


def test_recall_is_a_hit_rate_and_the_fraction_stands_beside_it() -> None:
    found = score({"q": {"a": 2.0, "b": 1.0}}, {"q": ["a", "c", "d", "e"]}, ks=[2])
    assert found["Recall@2"] == 1.0
    assert found["recall_fraction@2"] == 0.25


def test_all_measures_are_there_by_default() -> None:
    found = score({"q": {"a": 1.0}}, {"q": ["a"]}, answers={"q": ["x"]}, passages={"a": "x"})
    names = {f"{name}@{k}" for name in ("Recall", "recall_fraction", "PRecall") for k in KS} | {"MRR@10", "nDCG@10"}
    assert set(found) == names
    assert set(found.values()) == {1.0}


def test_queries_that_the_run_lacks_or_that_have_no_positive_count_as_zero() -> None:
    run = {"found": {"a": 1.0}, "without positive": {"a": 1.0}, "empty": {}, "not asked": {"a": 1.0}}
    qrels = {"found": ["a"], "without positive": [], "empty": ["a"], "missing": ["a"]}
    table = score_queries(run, qrels, ks=[1])
    assert table["question_id"].to_list() == list(qrels)
    assert table["Recall@1"].to_list() == [1.0, 0.0, 0.0, 0.0]
    assert score(run, qrels, ks=[1]) == pytest.approx(dict.fromkeys(table.columns[1:], 0.25))


def test_where_nothing_can_be_found_everything_is_zero() -> None:
    assert set(score({}, {"q": ["a"]}).values()) == {0.0}
    assert set(score({"q": {"a": 1.0}}, {"q": []}).values()) == {0.0}


def test_a_positive_that_stands_twice_counts_once() -> None:
    assert score({"q": {"a": 1.0}}, {"q": ["a", "a", "b"]}, ks=[1])["recall_fraction@1"] == 0.5


@pytest.mark.parametrize("ks", [[], [0], [-1, 5], ("5",), "5", 5, (2.5,), None])
def test_cut_offs_that_are_no_whole_numbers_from_one_are_refused(ks: Any) -> None:
    with pytest.raises(M2KRError, match="cut-offs"):
        score({"q": {"a": 1.0}}, {"q": ["a"]}, ks=ks)


def test_cut_offs_may_be_numbers_of_numpy() -> None:
    assert "Recall@2" in score({"q": {"a": 1.0}}, {"q": ["a"]}, ks=np.array([2]))


def test_relevance_of_zero_is_no_positive() -> None:
    run = {"q": {"a": 2.0, "b": 1.0}}
    assert score(run, {"q": {"a": 0}}, ks=[1])["Recall@1"] == 0.0
    graded = score(run, {"q": {"a": 0, "b": 3, "c": 1}}, ks=[1, 2])
    assert graded == score(run, {"q": ["b", "c"]}, ks=[1, 2])
    assert graded["recall_fraction@2"] == 0.5


@pytest.mark.parametrize("empty", [None, [], (), set(), np.array([], dtype=object)])
def test_no_answers_and_no_positives_may_be_said_in_any_form(empty: Any) -> None:
    found = score({"q": {"a": 1.0}}, {"q": empty}, answers={"q": empty}, passages={"a": "x"}, ks=[1])
    assert (found["Recall@1"], found["PRecall@1"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qrels": {"q": "a"}}, "qrels of query 'q' is 'a'"),
        ({"qrels": {"q": 3}}, "qrels of query 'q' is 3"),
        ({"qrels": ["a"]}, r"qrels is \['a'\]"),
        ({"qrels": {1: ["a"]}}, "qrels holds the query id 1, of type int"),
        ({"qrels": {"q": [7]}}, "qrels of query 'q' holds 7, of type int"),
        ({"qrels": {"q": {"a": "1"}}}, "relevance of 'a' for query 'q' is '1'"),
        ({"run": {"q": {7: 1.0}}}, "passage id 7, of type int"),
        ({"run": {1: {"a": 1.0}}}, "query id 1, of type int"),
        ({"run": [["a"]]}, r"a run is \[\['a'\]\]"),
        ({"answers": {"q": "x"}}, "answers of query 'q' is 'x'"),
        ({"answers": {"q": [47]}}, "answers of query 'q' holds 47, of type int"),
        ({"answers": {"q": [None]}}, "answers of query 'q' holds None"),
        ({"answers": {"q": {"x": 1}}}, "answers of query 'q' is {'x': 1}"),
        ({"answers": [["x"]]}, "answers is"),
        ({"passages": ["x"]}, r"passages is \['x'\]"),
        ({"passages": {"a": None}}, "content of the passage 'a' is None"),
    ],
)
def test_arguments_of_another_form_are_refused(changed: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"run": {"q": {"a": 1.0}}, "qrels": {"q": ["a"]}, "answers": {"q": ["x"]}}
    with pytest.raises(M2KRError, match=message):
        score(**{**given, "passages": {"a": "x"}, **changed})


def test_no_queries_are_refused() -> None:
    with pytest.raises(M2KRError, match="no queries"):
        score({"q": {"a": 1.0}}, {})


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(M2KRError, match=r"'q'.*'b'"):
        score({"q": {"a": 1.0, "b": float("nan")}}, {"q": ["a"]})


def test_a_new_measure_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    precision = Measure("precision", "precision", "fraction of the first K that are positive", short="P")
    first_answer = Measure("answer_MRR", "mrr", "1 / rank of the first passage with an answer", at=3, of_answers=True)
    for module in (measures, scoring):
        monkeypatch.setattr(module, "MEASURES", (*MEASURES, precision, first_answer))
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    passages = {"a": "Blue.", "b": "Red.", "c": "Red."}
    found = score(run, {"q": ["a", "b", "x"]}, answers={"q": ["red"]}, passages=passages, ks=[1, 2, 4])
    assert (found["precision@1"], found["precision@2"], found["precision@4"]) == (1, 1, 0.5)
    assert found["answer_MRR@3"] == 0.5
    assert "| `precision@K` | fraction of the first K that are positive | P@K |" in measures_table().splitlines()
