"""Scoring a run: every measure for every query, and their means."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real

import numpy as np
import polars as pl

from m2kr.common.progress import progress
from m2kr.errors import M2KRError
from m2kr.metrics.kernels import measured
from m2kr.metrics.measures import KS, MEASURES
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
        relevant.append(_first_matches(retrieved, said, passages, cutoffs[-1], quiet=quiet))
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
        for answer in self.whole:  # there is one, as a rule, and `any` would take longer
            if answer in text:
                return True
        return bool(self.parts) and any(all(map(text.__contains__, parts)) for parts in self.parts)


class _Lowered(dict[str, str]):
    """The contents of passages in lower case, each made when it is first asked for."""

    def __init__(self, passages: Mapping[str, str]) -> None:
        super().__init__()
        self._passages = passages

    def __missing__(self, passage_id: str) -> str:
        content = self._passages[passage_id]
        if not isinstance(content, str):
            raise M2KRError(f"the content of the passage {passage_id!r} is {content!r:.100}, no text (str).")
        lowered = self[passage_id] = content.lower()
        return lowered


def _first_matches(
    retrieved: Mapping[str, Sequence[str]],
    answers: Mapping[str, Sequence[str]],
    passages: Mapping[str, str],
    depth: int,
    *,
    quiet: bool,
) -> dict[str, list[str]]:
    """Return, for each query, the first retrieved passage that contains an answer: it alone decides PRecall@K."""
    texts = _Lowered(passages)
    first: dict[str, list[str]] = {}
    with progress(len(retrieved), "look for answers", unit="queries", quiet=quiet) as bar:
        for query, ids in retrieved.items():
            needles = _Needles(answers.get(query, ()))
            try:
                for passage_id in ids[:depth] if needles else ():
                    if needles.are_in(texts[passage_id]):
                        first[query] = [passage_id]
                        break
            except KeyError as error:
                raise M2KRError(
                    f"the run of query {query!r} holds the passage {error.args[0]!r}, not known here."
                ) from error
            bar.update()
    return first
