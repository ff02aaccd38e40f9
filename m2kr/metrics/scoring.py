"""Scoring a run: every measure for every query, and their means."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from numbers import Real

import numpy as np
import polars as pl

from m2kr.errors import M2KRError
from m2kr.metrics.kernels import measured
from m2kr.metrics.measures import KS, MEASURES
from m2kr.metrics.pseudo_relevance import first_matches
from m2kr.results.run import Run, check_ids


def score(
    run: Run | Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Collection[str]],
    *,
    answers: Mapping[str, Collection[str] | None] | None = None,
    passages: Mapping[str, str] | None = None,
    ks: Iterable[int] = KS,
    quiet: bool = True,
) -> dict[str, float]:
    """Return the mean of every measure over the queries of ``qrels``; see `score_queries`."""
    table = score_queries(run, qrels, answers=answers, passages=passages, ks=ks, quiet=quiet).drop("question_id")
    return {name: float(table[name].mean() or 0.0) for name in table.columns}  # type: ignore[arg-type]


def score_queries(
    run: Run | Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Collection[str]],
    *,
    answers: Mapping[str, Collection[str] | None] | None = None,
    passages: Mapping[str, str] | None = None,
    ks: Iterable[int] = KS,
    quiet: bool = True,
) -> pl.DataFrame:
    """Return every measure for every query of ``qrels``.

    Queries that the run lacks score 0. Equal scores are ordered by passage id, the larger first, as trec_eval does.

    Args:
        run: what was retrieved.
        qrels: question_id -> ids of its positive passages; or passage_id -> relevance, where any above 0 is positive.
        answers: question_id -> answers, None for none; with ``passages``, PRecall@K is computed too.
        passages: passage_id -> content, at least of the retrieved ones.
        ks: cut-offs.
        quiet: show no progress bar.

    Returns:
        Columns ``question_id`` and one of Float64 for each measure, rows in the order of ``qrels``.

    Raises:
        M2KRError: there are no queries, a cut-off is no whole number from 1, an argument is of another form or holds
            ids that are no text, or a retrieved passage is not among ``passages``.
    """
    cutoffs = _cutoffs(ks)
    positives = _by_query("qrels", qrels)
    if not positives:
        raise M2KRError("there are no queries to score.")
    ranking = run if isinstance(run, Run) else Run.from_dict(run)
    retrieved = dict(zip(ranking.query_ids, ranking.passage_ids, strict=True))
    relevant = [positives]
    if answers is not None and passages is not None:
        said = _by_query("answers", answers)
        if not isinstance(passages, Mapping):
            raise M2KRError(f"passages is {passages!r:.100}; it has to be a dict: passage id -> content.")
        relevant.append(first_matches(retrieved, said, passages, cutoffs[-1], quiet=quiet))
    asked = [
        (measure, cutoff)
        for measure in MEASURES
        if not measure.of_answers or len(relevant) > 1
        for cutoff in ([measure.at] if measure.at else cutoffs)
    ]
    found = measured(
        [retrieved.get(query, ()) for query in positives],
        [[wanted.get(query, ()) for query in positives] for wanted in relevant],
        list(dict.fromkeys(f"{measure.ranx}@{cutoff}" for measure, cutoff in asked)),
    )
    columns = {
        f"{measure.name}@{cutoff}": found[f"{measure.ranx}@{cutoff}"][int(measure.of_answers)]
        for measure, cutoff in asked
    }
    return pl.DataFrame({"question_id": list(positives), **columns})


def _cutoffs(ks: Iterable[int]) -> list[int]:
    given = list(ks) if isinstance(ks, Iterable) else ks
    if not isinstance(given, list) or not given or not all(isinstance(k, int | np.integer) and k >= 1 for k in given):
        raise M2KRError(f"the cut-offs are {given!r:.100}; they have to be whole numbers from 1.")
    return sorted({int(k) for k in given})


def _by_query(what: str, given: Mapping[str, Collection[str] | None]) -> dict[str, list[str]]:
    """Return qrels or answers as lists by query id, those of relevance 0 left out."""
    if not isinstance(given, Mapping):
        raise M2KRError(f"{what} is {given!r:.100}; it has to be a dict: query id -> list.")
    check_ids(given, "query", what)
    lists: dict[str, list[str]] = {}
    for query, values in given.items():
        if isinstance(values, Mapping) and what == "qrels":
            for passage, relevance in values.items():
                if not isinstance(relevance, Real):
                    raise M2KRError(
                        f"the relevance of {passage!r} for query {query!r} is {relevance!r:.100}, no number."
                    )
            found = [passage for passage, relevance in values.items() if relevance > 0]
        elif values is None or (isinstance(values, Collection) and not isinstance(values, str | bytes | Mapping)):
            found = [] if values is None else list(values)
        else:
            raise M2KRError(f"{what} of query {query!r} is {values!r:.100}; it has to be a list of texts.")
        for value in found:
            if not isinstance(value, str):
                kind = type(value).__name__
                raise M2KRError(f"{what} of query {query!r} holds {value!r:.100}, of type {kind}; pass text (str).")
        lists[query] = found
    return lists
