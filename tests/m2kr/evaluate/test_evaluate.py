"""`m2kr.evaluate`: from a retriever and a built task to a run and a result."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, Success, nDCG

import m2kr
from baselines.bm25 import BM25
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.evaluate import encode
from m2kr.evaluate import task as evaluate
from m2kr.metrics import score
from m2kr.results.record import Result, Run, read_result
from tests.m2kr.evaluating import (
    KINDS,
    Constant,
    Multi,
    Single,
    evaluated,
    run_of,
    sorted_by_id,
    text_of,
    with_settings,
)
from tests.tolerance import assert_ranking, maxsim_table

# --- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
def test_a_result_has_every_key_and_is_the_one_written(okvqa: TaskData, tmp_path: Path, make: Any) -> None:
    made = make()
    result = evaluated(made, okvqa, tmp_path, top_k=50, batch_size=7)
    assert list(result) == list(Result.__annotations__)
    assert read_result(tmp_path / "OKVQA.json") == result
    wanted = {
        "model": made.name,
        "model_settings": made.settings,
        "task": "OKVQA",
        "split": "test",
        "headline": ["Recall@5", "PRecall@5"],
        "queries": 30,
        "passages": okvqa.passages.height,
        "queries_without_positive": 0,
        "dataset": okvqa.fingerprint,
        "synthetic": True,
        "limited": False,
        "ignored_inputs": ["image"],
        "instructions": False,
        "search": "exact",
        "top_k": 50,
        "device": "cpu",
        "dtype": "float32",
        "store_dtype": "float32",
        "quantisation": None,
        "batch_size": 7,
    }
    assert {key: value for key, value in result.items() if key in wanted} == wanted
    encoding = {"index"} if make is BM25 else {"encode_passages", "encode_queries"}
    assert set(result["seconds"]) == encoding | {"search", "score", "write"}
    assert result["versions"]["m2kr"] == m2kr.__version__
    assert {"python", "torch", "ranx", "sentence-transformers"} <= set(result["versions"])
    assert list(result["memory"]) == list(result["seconds"])
    assert all(1 << 20 < peak < 1 << 40 for peak in result["memory"].values())
    assert result["peak_memory"] == max(result["memory"].values())
    assert (result["reused"], result["nano"], result["seed"]) == ([], False, None)
    assert result["run_sha256"] == hashlib.sha256(run_of(tmp_path, "OKVQA")).hexdigest()


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("task", ["OKVQA", "MSMARCO"])
def test_metrics_are_those_of_the_written_run(built: Path, tmp_path: Path, make: Any, task: str) -> None:
    data = load_task(task, built)
    result = evaluated(make(), data, tmp_path)
    run = Run.read_trec(tmp_path / f"{task}.run.trec.gz")
    texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
    assert result["metrics"] == score(run, data.qrels, answers=data.answers, passages=texts)
    assert ("PRecall@5" in result["metrics"]) is (task == "OKVQA")
    assert all(0 <= value <= 1 for value in result["metrics"].values())
    assert run.query_ids == data.queries["question_id"].to_list()
    assert all(sorted(ids) == sorted(texts) for ids in run.passage_ids)


@pytest.mark.parametrize("make", [Single, Multi])
def test_a_run_holds_the_best_of_all_passages(okvqa: TaskData, tmp_path: Path, make: Any) -> None:
    evaluated(make(), okvqa, tmp_path, top_k=20)
    run = Run.read_trec(tmp_path / "OKVQA.run.trec.gz")
    # In the order in which passages that tie are ranked.
    names = sorted(okvqa.passages["passage_id"], reverse=True)
    rows = np.array([[names.index(name) for name in ids] for ids in run.passage_ids])
    table = maxsim_table(make().encode(okvqa.query_texts(instructions=False)), make().encode(sorted_by_id(okvqa)))
    assert_ranking((np.array(run.scores), rows), 20, *table)


def test_bm25_finds_more_than_chance(msmarco: TaskData, tmp_path: Path) -> None:
    # At 200 passages chance finds 1 of 40 among the first five.
    assert evaluated(BM25(), msmarco, tmp_path)["metrics"]["Recall@5"] > 0.3


def test_passages_that_tie_are_ordered_by_their_ids(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(Constant(), okvqa, tmp_path, top_k=10)
    run = Run.read_trec(tmp_path / "OKVQA.run.trec.gz")
    wanted = sorted(okvqa.passages["passage_id"], reverse=True)[:10]
    assert run.passage_ids == [wanted] * okvqa.queries.height


class Coarse(Single):
    """Scores of a few values only, so that most passages tie."""

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.array([[len(text_of(item)) % 4] for item in inputs], dtype=np.float32)


@pytest.mark.parametrize("make", [Constant, Coarse])
def test_ties_score_as_ir_measures_scores_the_written_run(built: Path, tmp_path: Path, make: Any) -> None:
    data = load_task("MSMARCO", built)
    result = evaluated(make(), data, tmp_path)
    lines = gzip.decompress(run_of(tmp_path, "MSMARCO")).decode()
    run = list(ir_measures.read_trec_run(lines))  # type: ignore[no-untyped-call]
    # All that ir_measures is told is the scores, so that it has to order the ties itself.
    shuffled = [run[row] for row in np.random.default_rng(0).permutation(len(run))]
    judged = {query: dict.fromkeys(positives, 1) for query, positives in data.qrels.items()}
    measures = {Success @ k: f"Recall@{k}" for k in (1, 5, 10, 100)} | {nDCG @ 10: "nDCG@10"}
    found = ir_measures.calc_aggregate(list(measures), judged, shuffled)
    for measure, name in measures.items():
        assert result["metrics"][name] == pytest.approx(found[measure], abs=1e-9)
    # RR@10 comes from a program that orders ties in its own way, but RR from trec_eval.
    ranks = [metric.value for metric in ir_measures.iter_calc([RR], judged, shuffled)]
    wanted = sum(value for value in ranks if value >= 0.1) / len(judged)
    assert result["metrics"]["MRR@10"] == pytest.approx(wanted, abs=1e-9)


def test_the_batch_size_reaches_the_retriever(okvqa: TaskData, tmp_path: Path) -> None:
    made = Single()
    evaluated(made, okvqa, tmp_path, batch_size=5)
    assert made.batch_sizes == {5}


def test_every_text_is_encoded_once(okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "CHUNK", 40)
    made = Single()
    evaluated(made, okvqa, tmp_path)
    assert made.asked == okvqa.queries["question"].to_list()
    assert sorted(made.read) == sorted(okvqa.passages["passage_content"])


def test_portions_of_queries_do_not_change_what_a_ranker_finds(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(BM25(), okvqa, tmp_path / "one")
    monkeypatch.setattr(evaluate, "_RANKED", 7)
    evaluated(BM25(), okvqa, tmp_path / "two")
    assert run_of(tmp_path / "one", "OKVQA") == run_of(tmp_path / "two", "OKVQA")


@pytest.mark.parametrize("make", [Single, Multi])
def test_neither_chunks_nor_memory_change_a_run(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    evaluated(make(), okvqa, tmp_path / "one")
    monkeypatch.setattr(encode, "CHUNK", 17)
    evaluated(make(), okvqa, tmp_path / "two", search_memory=1 << 20)
    assert run_of(tmp_path / "one", "OKVQA") == run_of(tmp_path / "two", "OKVQA")


def test_a_limited_evaluation_says_so(built: Path, tmp_path: Path) -> None:
    result = evaluated(BM25(), load_task("OKVQA", built, limit=4), tmp_path)
    assert (result["queries"], result["limited"]) == (4, True)
    assert len(Run.read_trec(tmp_path / "OKVQA.run.trec.gz").query_ids) == 4


def test_nothing_but_run_and_result_is_left(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(Single(), okvqa, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["OKVQA.json", "OKVQA.run.trec.gz"]


# --- retrievers that do not keep to the protocol --------------------------------------------------------------------


@pytest.mark.parametrize("change", [-1, 1], ids=["too few", "too many"])
def test_a_wrong_number_of_vectors_is_an_error(okvqa: TaskData, tmp_path: Path, change: int) -> None:
    class Wrong(Single):
        def encode(self, inputs: Sequence[Any]) -> Any:
            return np.ones((len(inputs) + change, 2), dtype=np.float32)

    with pytest.raises(M2KRError, match=rf"returned {266 + change} items for 266 inputs"):
        evaluated(Wrong(), okvqa, tmp_path)


def test_vectors_that_are_not_finite_are_an_error(okvqa: TaskData, tmp_path: Path) -> None:
    class Wrong(Single):
        def encode(self, inputs: Sequence[Any]) -> Any:
            return np.full((len(inputs), 2), np.nan, dtype=np.float32)

    with pytest.raises(M2KRError, match="row 0 hold NaN or infinity"):
        evaluated(Wrong(), okvqa, tmp_path)


@pytest.mark.parametrize("value", [Path("somewhere"), float("nan"), {1, 2}])
def test_settings_that_no_result_can_hold_are_refused_at_once(okvqa: TaskData, tmp_path: Path, value: Any) -> None:
    made = with_settings(Single(), odd=value)
    with pytest.raises(M2KRError, match="the settings of fake-single cannot be written"):
        evaluated(made, okvqa, tmp_path)
    assert not made.read


def test_a_split_without_queries_is_refused(built: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="there are no queries in OKVQA_data/test"):
        evaluated(Single(), load_task("OKVQA", built, limit=0), tmp_path)
