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

import polars as pl

from m2kr.errors import M2KRError
from m2kr.results import Run

KS = (1, 5, 10, 20, 50, 100, 500)
"""Cut-offs reported."""


def score(
    run: Run | Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Sequence[str]],
    *,
    answers: Mapping[str, Sequence[str]] | None = None,
    passages: Mapping[str, str] | None = None,
    ks: Iterable[int] = KS,
) -> dict[str, float]:
    """Return the mean of every measure over the queries of ``qrels``; see `score_queries`."""
    table = score_queries(run, qrels, answers=answers, passages=passages, ks=ks).drop("question_id")
    return {name: float(table[name].mean() or 0.0) for name in table.columns}  # type: ignore[arg-type]


def score_queries(
    run: Run | Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Sequence[str]],
    *,
    answers: Mapping[str, Sequence[str]] | None = None,
    passages: Mapping[str, str] | None = None,
    ks: Iterable[int] = KS,
) -> pl.DataFrame:
    """Return every measure for every query of ``qrels``.

    Queries that the run lacks score 0. Equal scores are ordered by passage id, the larger first, as trec_eval does.

    Args:
        run: what was retrieved.
        qrels: question_id -> ids of its positive passages.
        answers: question_id -> answers; with ``passages``, PRecall@K is computed too.
        passages: passage_id -> content, at least of the retrieved ones.
        ks: cut-offs.

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
        matches = _first_matches(retrieved, answers, passages, cutoffs[-1])
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
) -> dict[str, list[str]]:
    """Return, for each query, the first retrieved passage that contains an answer: it alone decides PRecall@K."""
    lowered: dict[str, str] = {}
    first: dict[str, list[str]] = {}
    for query, ids in retrieved.items():
        needles = _needles(answers.get(query, ()))
        for passage_id in ids[:depth] if needles else ():
            text = lowered.get(passage_id)
            if text is None:
                if passage_id not in passages:
                    raise M2KRError(f"the run of query {query!r} holds the passage {passage_id!r}, which is not known.")
                text = lowered[passage_id] = passages[passage_id].lower()
            if any(needle in text for needle in needles):
                first[query] = [passage_id]
                break
    return first


def _by_ranx(
    retrieved: Mapping[str, Sequence[str]], qrels: Mapping[str, Sequence[str]], names: Mapping[str, str]
) -> dict[str, list[float]]:
    """Return the measures ``names`` (ours -> ranx's) for each query of ``qrels``."""
    import ranx  # 3 s, and only this needs it

    judged = [query for query, ids in qrels.items() if len(ids) and len(retrieved.get(query, ()))]
    columns = {name: dict.fromkeys(qrels, 0.0) for name in names}
    if judged:
        # ranx orders ties arbitrarily, so it is given ranks, which hold none, in place of scores. And it compiles
        # itself anew, 10 s, for every length of ids it has not met, so it is given numbers of one width in their place.
        run: dict[str, dict[str, float]] = {}
        wanted: dict[str, dict[str, int]] = {}
        for number, query in enumerate(judged):
            ranks = {passage: rank for rank, passage in enumerate(dict.fromkeys(retrieved[query]))}
            run[_label(number)] = {_label(rank): float(len(ranks) - rank) for rank in range(len(ranks))}
            found = [ranks.setdefault(passage, len(ranks)) for passage in qrels[query]]
            wanted[_label(number)] = {_label(rank): 1 for rank in found}
        ranking = ranx.Run.from_dict(run)
        with warnings.catch_warnings():
            # numba remarks on a cast inside ranx while it compiles; there is nothing a user could do about it.
            warnings.simplefilter("ignore")
            ranx.evaluate(ranx.Qrels.from_dict(wanted), ranking, list(names.values()), return_mean=False)
        for name, key in names.items():
            columns[name].update({judged[int(label)]: float(value) for label, value in ranking.scores[key].items()})
    return {name: list(values.values()) for name, values in columns.items()}


def _label(number: int) -> str:
    return f"{number:010d}"
