"""Recall@K as M2KR defines it, Pseudo Recall@K and the usual measures, computed by ranx.

| name here | what it is | in the articles |
| --- | --- | --- |
| ``Recall@K`` | 1 if any positive passage is among the first K, else 0 (elsewhere "hit rate", "Success@K") | R@K |
| ``recall_fraction@K`` | the fraction of the positive passages that are among the first K | not reported |
| ``PRecall@K`` | 1 if any of the first K passages contains an answer, lower-cased, else 0 | PR@K |
| ``MRR@10``, ``nDCG@10`` | as everywhere; gains are 0 or 1 | not reported |

All are means over the queries, those without a positive or without an answer counted as 0.
Source: LinWeizheDragon/FLMR, examples/example_use_preflmr.py (commit be4b748) for the first and third.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from m2kr.common.progress import progress
from m2kr.errors import M2KRError
from m2kr.results.record import Run

KS = (1, 5, 10, 20, 50, 100, 500)
"""Cut-offs reported."""

_DRAWN = 1 << 22
# Rows that the bootstrap draws at once: 64 MB of numbers.


def score(
    run: Run | Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Sequence[str]],
    *,
    answers: Mapping[str, Sequence[str]] | None = None,
    passages: Mapping[str, str] | None = None,
    ks: Iterable[int] = KS,
    quiet: bool = True,
) -> dict[str, float]:
    """Return the mean of every measure over the queries of ``qrels``; see `score_queries`."""
    table = score_queries(run, qrels, answers=answers, passages=passages, ks=ks, quiet=quiet).drop("question_id")
    return {name: float(table[name].mean() or 0.0) for name in table.columns}  # type: ignore[arg-type]


def score_queries(
    run: Run | Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Sequence[str]],
    *,
    answers: Mapping[str, Sequence[str]] | None = None,
    passages: Mapping[str, str] | None = None,
    ks: Iterable[int] = KS,
    quiet: bool = True,
) -> pl.DataFrame:
    """Return every measure for every query of ``qrels``.

    Queries that the run lacks score 0. Equal scores are ordered by passage id, the larger first, as trec_eval does.

    Args:
        run: what was retrieved.
        qrels: question_id -> ids of its positive passages.
        answers: question_id -> answers; with ``passages``, PRecall@K is computed too.
        passages: passage_id -> content, at least of the retrieved ones.
        ks: cut-offs.
        quiet: show no progress bar.

    Returns:
        Columns ``question_id`` and one of Float64 for each measure, rows in the order of ``qrels``.

    Raises:
        M2KRError: there are no queries, a cut-off is below 1, or a retrieved passage is not among ``passages``.
    """
    cutoffs = sorted(set(ks))
    if not cutoffs or cutoffs[0] < 1:
        raise M2KRError(f"the cut-offs are {cutoffs}; they have to be whole numbers from 1.")
    if not qrels:
        raise M2KRError("there are no queries to score.")
    ranking = run if isinstance(run, Run) else Run.from_dict(run)
    names = {
        **{f"Recall@{k}": f"hit_rate@{k}" for k in cutoffs},
        **{f"recall_fraction@{k}": f"recall@{k}" for k in cutoffs},
        "MRR@10": "mrr@10",
        "nDCG@10": "ndcg@10",
    }
    retrieved = dict(zip(ranking.query_ids, ranking.passage_ids, strict=True))
    columns = _by_ranx(retrieved, qrels, names)
    if answers is not None and passages is not None:
        matches = _first_matches(retrieved, answers, passages, cutoffs[-1], quiet=quiet)
        pseudo = {query: matches.get(query, []) for query in qrels}
        columns |= _by_ranx(retrieved, pseudo, {f"PRecall@{k}": f"hit_rate@{k}" for k in cutoffs})
    return pl.DataFrame({"question_id": list(qrels), **columns})


def contains_answer(passage: str, answers: Iterable[str]) -> bool:
    """Whether a passage contains an answer: lower-cased and stripped, as a substring. Empty answers never match."""
    text = passage.lower()
    return any(answer in text for answer in _needles(answers))


def _needles(answers: Iterable[str]) -> list[str]:
    return [needle for needle in dict.fromkeys(answer.strip().lower() for answer in answers) if needle]


def _first_matches(
    retrieved: Mapping[str, Sequence[str]],
    answers: Mapping[str, Sequence[str]],
    passages: Mapping[str, str],
    depth: int,
    *,
    quiet: bool,
) -> dict[str, list[str]]:
    """Return, for each query, the first retrieved passage that contains an answer: it alone decides PRecall@K."""
    lowered: dict[str, str] = {}
    first: dict[str, list[str]] = {}
    with progress(len(retrieved), "look for answers", unit="queries", quiet=quiet) as bar:
        for query, ids in retrieved.items():
            needles = _needles(answers.get(query, ()))
            for passage_id in ids[:depth] if needles else ():
                text = lowered.get(passage_id)
                if text is None:
                    if passage_id not in passages:
                        raise M2KRError(f"the run of query {query!r} holds the passage {passage_id!r}, not known here.")
                    text = lowered[passage_id] = passages[passage_id].lower()
                if any(map(text.__contains__, needles)):  # half the time of a generator
                    first[query] = [passage_id]
                    break
            bar.update()
    return first


def _by_ranx(
    retrieved: Mapping[str, Sequence[str]], qrels: Mapping[str, Sequence[str]], names: Mapping[str, str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the measures ``names`` (ours -> ranx's) for each query of ``qrels``."""
    import ranx  # 1.5 s, and only this needs it
    from numba.typed import List

    judged = [row for row, (query, ids) in enumerate(qrels.items()) if len(ids) and len(retrieved.get(query, ()))]
    columns = {name: np.zeros(len(qrels)) for name in names}
    if not judged:
        return columns
    queries = list(qrels)
    # ranx orders ties arbitrarily, so it is given ranks, which hold none, in place of scores. And it is given arrays:
    # from dicts it makes typed dicts of strings, which takes 4 s for 5,046 queries, and 20 s more to compile.
    depth = max(len(retrieved[queries[row]]) for row in judged)
    ranks = np.column_stack([np.arange(depth), np.arange(depth, 0, -1)]).astype(np.float64)
    run, wanted = [], []
    for row in judged:
        places = {passage: rank for rank, passage in enumerate(dict.fromkeys(retrieved[queries[row]]))}
        run.append(ranks[: len(places)])
        found = sorted({places.setdefault(passage, len(places)) for passage in qrels[queries[row]]})
        wanted.append(np.column_stack([found, np.ones(len(found))]))
    with warnings.catch_warnings():
        # numba remarks on a cast inside ranx while it compiles; there is nothing a user could do about it.
        warnings.simplefilter("ignore")
        # Asked for one measure of each query, ranx fails to find it by its name; asked for it twice, it does not.
        asked = [*names.values()] * (2 if len(names) == 1 else 1)
        measured = ranx.evaluate(List(wanted), List(run), asked, return_mean=False)
    for name, key in names.items():
        columns[name][judged] = measured[key]
    return columns


def compare(
    runs: Mapping[str, Run | Mapping[str, Mapping[str, float]]],
    qrels: Mapping[str, Sequence[str]],
    *,
    answers: Mapping[str, Sequence[str]] | None = None,
    passages: Mapping[str, str] | None = None,
    measures: Sequence[str] = ("Recall@5", "MRR@10", "nDCG@10"),
    resamples: int = 10_000,
    seed: int = 0,
) -> pl.DataFrame:
    """Compare runs of the same queries with the first of them.

    The p-value is that of the two-sided paired Student's t-test over the queries, computed by ranx; it is not
    corrected for the number of comparisons. Not the randomisation test of ranx, whose threads draw from generators
    that its seed does not reach, so that no value comes twice; the two agree closely on hundreds of queries.
    The 95 % intervals are percentiles of a paired bootstrap: the same queries are drawn for all runs.

    Args:
        runs: name -> run, at least two.
        qrels: question_id -> ids of its positive passages.
        answers: question_id -> answers, for PRecall@K.
        passages: passage_id -> content, at least of the retrieved ones, for PRecall@K.
        measures: names as `score` gives them, with any cut-off.
        resamples: draws of the bootstrap.
        seed: of the draws. Equal seeds give equal intervals.

    Returns:
        One row for each measure and run, in that order: ``measure``, ``run``, ``mean``, ``low`` and ``high`` (the
        interval of the mean), ``difference`` to the first run, ``difference_low``, ``difference_high``, ``p_value``
        (null for the first run, and where there are fewer than two queries), and ``unanswered``, the queries for which
        the run has no passage, which score 0.

    Raises:
        M2KRError: fewer than two runs, an unknown measure, or as `score_queries`.

    Source: Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval
    Evaluation", CIKM 2007, for the tests and how they agree.
    """
    if len(runs) < 2:
        raise M2KRError(f"a comparison needs two runs or more, not {len(runs)}.")
    if not measures or resamples < 1:
        raise M2KRError("a comparison needs a measure and a resample, one of each at least.")
    columns: list[npt.NDArray[np.float64]] = []
    unanswered = []
    for run in runs.values():
        ranking = run if isinstance(run, Run) else Run.from_dict(run)
        table = score_queries(ranking, qrels, answers=answers, passages=passages, ks=_cutoffs(measures))
        lacking = [name for name in measures if name not in table.columns]
        if lacking:
            there = ", ".join(table.columns[1:])
            raise M2KRError(f"there is no measure {lacking[0]!r} of these runs; there are {there}.")
        columns.append(table.select(measures).to_numpy())
        answered = {query for query, ids in zip(ranking.query_ids, ranking.passage_ids, strict=True) if ids}
        unanswered.append(sum(query not in answered for query in qrels))
    values = np.stack(columns, axis=1)  # (queries, runs, measures)
    drawn = bootstrap_means(values.reshape(len(values), -1), resamples, seed).reshape(resamples, *values.shape[1:])
    limits = np.percentile(drawn, (2.5, 97.5), axis=0)
    apart = np.percentile(drawn - drawn[:, :1], (2.5, 97.5), axis=0)
    means = values.mean(axis=0)
    rows: list[dict[str, object]] = []
    for column, measure in enumerate(measures):
        for row, name in enumerate(runs):
            first = row == 0
            rows.append(
                {
                    "measure": measure,
                    "run": name,
                    "mean": means[row, column],
                    "low": limits[0, row, column],
                    "high": limits[1, row, column],
                    "difference": None if first else means[row, column] - means[0, column],
                    "difference_low": None if first else apart[0, row, column],
                    "difference_high": None if first else apart[1, row, column],
                    "p_value": None if first else _p_value(values[:, 0, column], values[:, row, column]),
                    "unanswered": unanswered[row],
                }
            )
    numbers = ("mean", "low", "high", "difference", "difference_low", "difference_high", "p_value")
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(numbers, pl.Float64))


def bootstrap_means(values: npt.NDArray[np.float64], resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Return the column means of ``resamples`` draws of rows, with replacement.

    Args:
        values: shape (n, columns). A draw takes the same rows of all columns, so that columns stay paired.
        resamples: number of draws.
        seed: of NumPy's default generator.

    Returns:
        float64 array of shape (resamples, columns).
    """
    rng = np.random.default_rng(seed)
    count = len(values)
    means = np.empty((resamples, values.shape[1]))
    block = max(1, _DRAWN // count)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        rows = rng.integers(count, size=(size, count))
        rows += np.arange(size)[:, None] * count
        # How often each row was drawn: a product with that takes a tenth of the time of gathering the rows.
        times = np.bincount(rows.ravel(), minlength=size * count).reshape(size, count)
        means[start : start + size] = times.astype(np.float64) @ values / count
    return means


def _p_value(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float | None:
    if len(first) < 2:
        return None
    if np.array_equal(first, second):
        return 1.0  # the statistic is 0 / 0
    from ranx.statistical_tests import paired_student_t_test

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where all differences are equal, scipy warns of what is then exact: p = 0
        p_value, _ = paired_student_t_test(first, second)
    return float(p_value)


def _cutoffs(measures: Iterable[str]) -> list[int]:
    """Return the cut-offs in names of measures; an unknown name is found out later."""
    found = {int(cutoff) for _, _, cutoff in (name.partition("@") for name in measures) if cutoff.isdecimal()}
    return sorted(found) or [1]
