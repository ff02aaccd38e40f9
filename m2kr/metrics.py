"""Recall@K as M2KR defines it, Pseudo Recall@K and the usual measures, computed by ranx.

`MEASURES` says what each is. All are means over the queries, those without a positive or without an answer counted
as 0. Source: LinWeizheDragon/FLMR, examples/example_use_preflmr.py (commit be4b748) for Recall@K and PRecall@K.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import numpy.typing as npt
import polars as pl

from m2kr.common.progress import progress
from m2kr.errors import M2KRError
from m2kr.results.run import Run, check_ids

KS = (1, 5, 10, 20, 50, 100, 500)
"""Cut-offs reported."""


@dataclass(frozen=True)
class Measure:
    """A measure of a ranking; its value at K has the name ``<name>@K``.

    Attributes:
        name: here and in result files.
        ranx: what ranx calls it.
        meaning: what it is, for the README.
        short: what the articles call it; None where they do not report it.
        at: the one cut-off that is reported; None: those asked for.
        of_answers: what counts is the first passage that contains an answer, in place of the positive passages. A
            measure can tell no more passages than the first from that.
    """

    name: str
    ranx: str
    meaning: str
    short: str | None = None
    at: int | None = None
    of_answers: bool = False


MEASURES = (
    Measure(
        "Recall",
        "hit_rate",
        '1 if *any* positive passage is among the first K ("hit rate", "Success@K" elsewhere)',
        short="R",
    ),
    Measure("recall_fraction", "recall", "fraction of the positives among the first K"),
    Measure("MRR", "mrr", "1 / rank of the first positive passage, 0 beyond rank 10", at=10),
    Measure(
        "nDCG", "ndcg", "discounted cumulative gain as a fraction of the highest possible; gains are 0 or 1", at=10
    ),
    Measure(
        "PRecall",
        "hit_rate",
        "1 if any of the first K passages contains an answer string, lower-cased; of E-VQA's answers of several parts "
        "(`a&&b`), which no passage spells so, all parts",
        short="PR",
        of_answers=True,
    ),
)
"""All that is computed, in the order of result files. A measure more is a record more."""


def measures_table() -> str:
    """Return the measures as a Markdown table."""
    lines = ["| name | what it is | in the articles |", "| --- | --- | --- |"]
    for measure in MEASURES:
        cutoff = measure.at or "K"
        articles = f"{measure.short}@{cutoff}" if measure.short else "not reported"
        lines.append(f"| `{measure.name}@{cutoff}` | {measure.meaning} | {articles} |")
    return "\n".join(lines)


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
        relevant.append(_first_matches(retrieved, said, passages, cutoffs[-1], quiet=quiet))
    asked = [
        (measure, cutoff)
        for measure in MEASURES
        if not measure.of_answers or len(relevant) > 1
        for cutoff in ([measure.at] if measure.at else cutoffs)
    ]
    measured = _by_ranx(
        [(retrieved.get(query, ()), wanted.get(query, ())) for wanted in relevant for query in positives],
        list(dict.fromkeys(f"{measure.ranx}@{cutoff}" for measure, cutoff in asked)),
    )
    columns = {}
    for measure, cutoff in asked:
        first = len(positives) if measure.of_answers else 0
        columns[f"{measure.name}@{cutoff}"] = measured[f"{measure.ranx}@{cutoff}"][first : first + len(positives)]
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


def contains_answer(passage: str, answers: Iterable[str]) -> bool:
    """Whether a passage contains an answer: lower-cased and stripped, as a substring. Empty answers never match.

    An answer of several parts, which Encyclopedic-VQA separates by "&&", is contained where all its parts are.
    """
    if isinstance(answers, str):
        raise M2KRError(f"answers is the text {answers!r:.100}; it has to be a list of texts.")
    return _Needles(answers).are_in(passage.lower())


class _Needles:
    """What is looked for in lower-cased passages: whole answers, and those of several parts."""

    def __init__(self, answers: Iterable[str]) -> None:
        cleaned = dict.fromkeys(answer.strip().lower() for answer in answers)
        self.whole = [answer for answer in cleaned if answer and "&&" not in answer]
        split = [
            [part for piece in answer.split("&&") if (part := piece.strip())] for answer in cleaned if "&&" in answer
        ]
        self.parts = [parts for parts in split if parts]

    def __bool__(self) -> bool:
        return bool(self.whole or self.parts)

    def are_in(self, text: str) -> bool:
        # `any` over a map takes half the time of a generator, and hardly an answer has parts.
        if any(map(text.__contains__, self.whole)):
            return True
        return bool(self.parts) and any(all(map(text.__contains__, parts)) for parts in self.parts)


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
            needles = _Needles(answers.get(query, ()))
            for passage_id in ids[:depth] if needles else ():
                text = lowered.get(passage_id)
                if text is None:
                    if passage_id not in passages:
                        raise M2KRError(f"the run of query {query!r} holds the passage {passage_id!r}, not known here.")
                    content = passages[passage_id]
                    if not isinstance(content, str):
                        raise M2KRError(
                            f"the content of the passage {passage_id!r} is {content!r:.100}, no text (str)."
                        )
                    text = lowered[passage_id] = content.lower()
                if needles.are_in(text):
                    first[query] = [passage_id]
                    break
            bar.update()
    return first


def _by_ranx(
    rankings: Sequence[tuple[Sequence[str], Sequence[str]]], names: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the measures ``names``, two or more, as ranx calls them, for pairs of retrieved and relevant passages."""
    import ranx  # 1.5 s, and only this needs it
    from numba.typed import List

    judged = [row for row, (found, wanted) in enumerate(rankings) if len(found) and len(wanted)]
    columns = {name: np.zeros(len(rankings)) for name in names}
    if not judged:
        return columns
    # ranx orders ties arbitrarily, so it is given ranks, which hold none, in place of scores. And it is given arrays:
    # from dicts it makes typed dicts of strings, which takes 4 s for 5,046 queries, and 20 s more to compile.
    depth = max(len(rankings[row][0]) for row in judged)
    ranks = np.column_stack([np.arange(depth), np.arange(depth, 0, -1)]).astype(np.float64)
    runs, qrels = [], []
    for row in judged:
        retrieved, relevant = rankings[row]
        places = {passage: rank for rank, passage in enumerate(dict.fromkeys(retrieved))}
        runs.append(ranks[: len(places)])
        found = sorted({places.setdefault(passage, len(places)) for passage in relevant})
        qrels.append(np.column_stack([found, np.ones(len(found))]))
    with warnings.catch_warnings():
        # numba remarks on a cast inside ranx while it compiles; there is nothing a user could do about it.
        warnings.simplefilter("ignore")
        measured = ranx.evaluate(List(qrels), List(runs), list(names), return_mean=False)
    for name in names:
        columns[name][judged] = measured[name]
    return columns
