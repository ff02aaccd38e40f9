"""The passages that a reader is given: of a run, the positive ones, or none."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.answer.evidence import log_softmax, oracle_passages, run_passages
from m2kr.common.files import sha256_of
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.results.run import Run


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8))
def test_the_softmax_of_scores_sums_to_one(scores: list[float]) -> None:
    found = log_softmax(scores)
    assert sum(math.exp(value) for value in found) == pytest.approx(1.0)
    assert [a - found[0] for a in found] == pytest.approx([score - scores[0] for score in scores], abs=1e-6)


def test_a_run_gives_its_first_passages_and_their_probabilities(okvqa: TaskData, run: Path) -> None:
    evidence = run_passages(okvqa, run, 3)
    trec = Run.read_trec(run)
    assert (evidence.source, evidence.retriever) == ("run", "bm25")
    assert evidence.ids == [found[:3] for found in trec.passage_ids]
    for weights, scores in zip(evidence.log_probabilities, trec.scores, strict=True):
        powers = [math.exp(value) for value in scores[:3].tolist()]
        assert [math.exp(weight) for weight in weights] == pytest.approx([power / sum(powers) for power in powers])


def test_oracle_passages_are_positive_and_equally_probable(okvqa: TaskData) -> None:
    evidence = oracle_passages(okvqa, 2)
    assert evidence.ids == [positives[:2] for positives in okvqa.qrels.values()]
    assert all(
        weights == pytest.approx([-math.log(len(ids))] * len(ids))
        for ids, weights in zip(evidence.ids, evidence.log_probabilities, strict=True)
    )
    assert evidence.retriever is None


def test_a_question_without_positives_is_an_error_or_asked_without_passages(okvqa: TaskData) -> None:
    first = next(iter(okvqa.qrels))
    data = replace(okvqa, qrels={**okvqa.qrels, first: ["no such passage"]})
    with pytest.raises(M2KRError, match=rf"OKVQA has no positive passage for 1 of 30 questions, the first is {first}"):
        oracle_passages(data, 5)
    evidence = oracle_passages(data, 5, allow_missing=True)
    assert (evidence.ids[0], evidence.log_probabilities[0]) == ([], [])
    assert all(evidence.ids[1:])


def test_a_run_that_is_not_there_is_said(okvqa: TaskData, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match=r"the run .*OKVQA.run.trec.gz is not there. Make it with python -m m2kr.eval"):
        run_passages(okvqa, tmp_path / "OKVQA.run.trec.gz", 5)


def test_a_run_without_its_result_is_said(okvqa: TaskData, run: Path) -> None:
    run.with_name("OKVQA.json").unlink()
    with pytest.raises(M2KRError, match=r"has no result file beside it \(OKVQA.json\)"):
        run_passages(okvqa, run, 5)


def test_a_run_of_other_data_is_said(okvqa: TaskData, run: Path) -> None:
    with pytest.raises(M2KRError, match=rf"is of the data {okvqa.fingerprint}, and --data has 0123 of OKVQA"):
        run_passages(replace(okvqa, fingerprint="0123"), run, 5)


def test_a_run_of_another_split_or_task_is_said(built: Path, run: Path) -> None:
    with pytest.raises(M2KRError, match="is of OKVQA/test, and the questions are of OKVQA/valid"):
        run_passages(load_task("OKVQA", built, "valid"), run, 5)
    with pytest.raises(M2KRError, match="is of OKVQA/test, and the questions are of EVQA/test"):
        run_passages(load_task("EVQA", built), run, 5)


def test_a_run_that_was_changed_is_said(okvqa: TaskData, run: Path) -> None:
    trec = Run.read_trec(run)
    trec.write_trec(run, "other")
    with pytest.raises(M2KRError, match="is not the run that its result file was computed from"):
        run_passages(okvqa, run, 5)


def test_a_run_that_keeps_too_few_passages_is_said(okvqa: TaskData, run: Path) -> None:
    assert len(run_passages(okvqa, run, 20).ids[0]) == 20
    with pytest.raises(M2KRError, match=r"--k is 21, and .* keeps 20 passages"):
        run_passages(okvqa, run, 21)


def without_a_query(run: Path) -> str:
    """Take a query out of a run; return its id."""
    trec = Run.read_trec(run)
    Run(trec.query_ids[1:], trec.passage_ids[1:], trec.scores[1:]).write_trec(run, "bm25")
    beside = run.with_name("OKVQA.json")
    result = json.loads(beside.read_text(encoding="utf-8"))
    beside.write_text(json.dumps({**result, "run_sha256": sha256_of(run)}), encoding="utf-8")
    return trec.query_ids[0]


def test_a_question_that_the_run_lacks_is_said(okvqa: TaskData, run: Path) -> None:
    name = without_a_query(run)
    with pytest.raises(M2KRError, match=rf"has no passage for 1 of 30 questions, the first is {name}\. Pass --allow-m"):
        run_passages(okvqa, run, 5)
    evidence = run_passages(okvqa, run, 5, allow_missing=True)
    assert [len(ids) for ids in evidence.ids] == [0] + [5] * 29
