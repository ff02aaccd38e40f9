"""The figures of docs/comparing-tools.md, computed anew: where tools differ, and by how much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
import ranx
from ir_measures import RR, Success
from scipy.stats import permutation_test

from baselines.bm25 import BM25
from m2kr.dataset import load_task
from m2kr.metrics import score
from m2kr.results.run import Run
from m2kr.significance import paired_p_value
from tests.m2kr.evaluating import evaluated

PAGE = (Path(__file__).parents[2] / "docs" / "comparing-tools.md").read_text(encoding="utf-8")


def check_row(*cells: object) -> None:
    """The page has a row of a table with these cells."""
    row = f"| {' | '.join(map(str, cells))} |"
    assert row in PAGE, f"docs/comparing-tools.md has no row {row}"


def by_ir_measures(measure: Any, judged: dict[str, Any], run: dict[str, Any]) -> float:
    return float(ir_measures.calc_aggregate([measure], judged, run)[measure])


def test_reciprocal_rank_of_passages_that_tie() -> None:
    run = {"q": {"a": 1.0, "b": 1.0}}
    for positive in ("a", "b"):
        judged = {"q": {positive: 1}}
        found = [by_ir_measures(RR @ 10, judged, run), by_ir_measures(RR, judged, run)]
        ours = score(run, {"q": [positive]})["MRR@10"]
        check_row(f"`{positive}`", *found, ours)


def test_reciprocal_rank_where_everything_ties(built: Path, tmp_path: Path) -> None:
    data = load_task("WIT", built)
    result = evaluated(BM25(), data, tmp_path)
    run = Run.read_trec(tmp_path / "WIT.run.trec.gz")
    scores = {
        query: dict(zip(ids, values.tolist(), strict=True))
        for query, ids, values in zip(run.query_ids, run.passage_ids, run.scores, strict=True)
    }
    judged = {query: dict.fromkeys(positives, 1) for query, positives in data.qrels.items()}
    theirs = by_ir_measures(RR @ 10, judged, scores)
    each = [metric.value for metric in ir_measures.iter_calc([RR], judged, scores)]
    cut = sum(value for value in each if value >= 0.1) / len(judged)
    assert cut == pytest.approx(result["metrics"]["MRR@10"], abs=1e-9)
    check_row("WIT, BM25", *(f"{value:.4f}" for value in (theirs, cut, result["metrics"]["MRR@10"])))


def test_empty_answers() -> None:
    passages = {"p": "Anything at all."}
    for answers in ([""], ["", "all"], []):
        ours = score({"q": {"p": 1.0}}, {"q": ["x"]}, answers={"q": answers}, passages=passages)["PRecall@1"]
        official = float(any(answer.strip().lower() in passages["p"].lower() for answer in answers))
        check_row(f"`{json.dumps(answers)}`", official, ours)


def test_queries_that_a_run_lacks() -> None:
    judged = {"q1": {"a": 1}, "q2": {"a": 1}}
    run = {"q1": {"a": 1.0}}
    ours = score(run, {query: list(found) for query, found in judged.items()})["Recall@1"]
    theirs = by_ir_measures(Success @ 1, judged, run)
    with pytest.raises(AssertionError, match="do not match"):
        ranx.evaluate(judged, run, "hit_rate@1")
    only = float(np.mean([metric.value for metric in ir_measures.iter_calc([Success @ 1], judged, run)][:1]))
    check_row("`m2kr`", ours)
    check_row("`ir_measures`, `calc_aggregate`", theirs)
    check_row("mean over the queries of the run", only)


@pytest.mark.parametrize("hits", [3, 4, 5, 6, 8, 10])
def test_tests_of_significance_on_rare_events(hits: int) -> None:
    first, second = np.zeros(5120), np.zeros(5120)
    second[:hits] = 1
    t_test = paired_p_value(first, second)
    # Flipping the signs of zeros changes nothing, so the queries that differ are all that has to be looked at.
    flipped = permutation_test(
        (second[:hits], first[:hits]),
        lambda one, other, axis: np.sum(one - other, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
    ).pvalue
    check_row(hits, f"{t_test:.4f}", f"{flipped:.4f}")


def test_zeros_that_fill_up_vectors() -> None:
    functions = pytest.importorskip("mteb.similarity_functions", reason="mteb scores; pip install mteb")
    torch = pytest.importorskip("torch")
    from m2kr.search.exact import search

    query, short, long = ([[1.0, 0.0]], [[-0.9, 0.1]], [[-0.5, 0.5], [-0.6, 0.1]])
    vectors = [np.array(part, dtype=np.float32) for part in (query, short, long)]
    theirs = functions.max_sim([torch.tensor(query)], [torch.tensor(short), torch.tensor(long)])[0].tolist()
    scores, rows = search(vectors[:1], vectors[1:], 2)
    ours = dict(zip(rows[0].tolist(), scores[0].tolist(), strict=True))
    for row, name in enumerate(("one vector", "two vectors")):
        check_row(name, f"{theirs[row]:.1f}", f"{ours[row]:.1f}")
