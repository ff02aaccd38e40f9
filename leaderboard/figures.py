"""All figures as one long table with ranks: of result files and published, of retrieval or of answering."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from leaderboard.marks import labels
from leaderboard.records import AnswerRecord, RunRecord

if TYPE_CHECKING:
    import pandas as pd

_TYPES = {
    "origin": "string",  # run or published
    "group": "string",  # figures of different groups are not comparable
    "model": "string",
    "slug": "string",  # names the model's page; empty for published figures
    "reader": "string",
    "k": "Int64",  # passages for each question, at most; 0 without
    "combine": "string",  # joint, concat, or empty
    "task": "string",
    "metric": "string",
    "value": "float64",  # percent
    "low": "float64",  # 95 % bootstrap interval, percent; own hit rates and answer measures only
    "high": "float64",
    "rank": "Int64",  # 1 is best; within group, task, measure and pool; null where not ranked
    "ranked": "bool",  # of answering: results that were not given the positive passages
    "pool": "string",  # digest of queries and passages, or of questions and BEM's judge; empty for published figures
    "marks": "string",
    "status": "string",
    "source": "string",
    "place": "string",  # where in the source; empty for results
    "caveat": "string",
    "parameters": "Int64",
    "split": "string",
    "queries": "Int64",
    "passages": "Int64",
    "questions": "Int64",
    "questions_without_passages": "Int64",
    "dataset": "string",
    "judge": "string",  # the model of BEM, or empty
}


def _columns(names: str, **others: str) -> dict[str, str]:
    return {name: others.get(name, _TYPES[name]) for name in names.split()}


FIELDS = _columns(
    "origin group model slug task metric value low high rank ranked pool marks status source place caveat "
    "parameters split queries passages dataset"
)
"""Columns of the table of retrieval, which is also ``leaderboard.csv``, and their types."""

ANSWER_FIELDS = _columns(
    "origin group reader passages k combine task metric value low high rank ranked pool marks status source place "
    "caveat split questions questions_without_passages dataset judge",
    passages="string",  # none, oracle, or the retriever
)
"""Columns of the table of answering, which is also ``answers.csv``, and their types."""


def interval(value: float, queries: int) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a hit rate.

    A resample of n queries, of which a share p hits, has Binomial(n, p) hits; so the limits to which the percentile
    bootstrap converges are known without drawing, and without the run.

    Args:
        value: hit rate, from 0 to 1.
        queries: how many it is the mean of.

    Returns:
        Lower and upper limit, from 0 to 1.
    """
    from scipy.stats import binom

    low, high = binom.ppf((0.025, 0.975), queries, value)
    return float(low) / queries, float(high) / queries


def run_figures(records: Iterable[RunRecord], published: pd.DataFrame) -> pd.DataFrame:
    """Return all figures of retrieval with their ranks, columns `FIELDS`: results first, then published ones.

    Hit rates have an interval and are ranked. What is compared comes first, then MRR@10 and nDCG@10; the page of a
    model has all measures.

    Args:
        records: results, marked.
        published: as `leaderboard.published.read_published` gives it.
    """
    rows = (row for record in records for row in _run_rows(record))
    return _table(rows, published.assign(slug="", pool="", marks=""), FIELDS)


def answer_figures(records: Iterable[AnswerRecord], published: pd.DataFrame) -> pd.DataFrame:
    """Return all figures of answering with their ranks, columns `ANSWER_FIELDS`: results first, then published ones.

    What a reader does with the positive passages is no result of a retriever, so it is not ranked.

    Args:
        records: results, marked.
        published: as `leaderboard.published.read_published` gives it.
    """
    rows = (row for record in records for row in _answer_rows(record))
    blank = dict.fromkeys(("combine", "pool", "marks", "split", "dataset", "judge"), "")
    return _table(rows, published.assign(**blank), ANSWER_FIELDS)


def _table(rows: Iterable[dict[str, Any]], published: pd.DataFrame, fields: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    theirs = published.rename(columns={"block": "group"}).assign(origin="published")
    parts = [part.reindex(columns=list(fields)) for part in (pd.DataFrame(list(rows)), theirs) if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(fields))
    table = table.astype(fields)
    ranked = table[table["ranked"]]
    places = ranked.groupby(["group", "task", "metric", "pool"])["value"].rank(method="min", ascending=False)
    table["rank"] = places.reindex(table.index).astype("Int64")
    return table


def _run_rows(record: RunRecord) -> Iterator[dict[str, Any]]:
    result = record.result
    for metric in [*result["headline"], "MRR@10", "nDCG@10"]:
        if metric not in result["metrics"]:
            continue
        value, hit_rate = result["metrics"][metric], "Recall@" in metric
        yield {
            **_common(record, metric, value, interval(value, result["queries"]) if hit_rate else (None, None)),
            "model": result["model"],
            "slug": record.slug,
            "ranked": hit_rate,
            "pool": record.pool,
            "parameters": record.parameters,
            "queries": result["queries"],
            "passages": result["passages"],
        }


def _answer_rows(record: AnswerRecord) -> Iterator[dict[str, Any]]:
    result = record.result
    for metric in result["headline"]:
        low, high = result["intervals"][metric]
        yield {
            **_common(record, metric, result["metrics"][metric], (low, high)),
            "reader": result["reader"],
            "passages": record.passages,
            "k": result["k"],
            "combine": result["combine"] or "",
            "ranked": result["source"] != "oracle",
            "pool": record.pool(metric),
            "questions": result["queries"],
            "questions_without_passages": result["queries_without_passages"],
            "judge": str(result["bem"]["checkpoint"]) if metric == "BEM" and result["bem"] else "",
        }


def _common(
    record: RunRecord | AnswerRecord, metric: str, value: float, ends: tuple[float | None, float | None]
) -> dict[str, Any]:
    low, high = (None if end is None else 100 * end for end in ends)
    return {
        "origin": "run",
        "group": record.group,
        "task": record.result["task"],
        "metric": metric,
        "value": 100 * value,
        "low": low,
        "high": high,
        "marks": labels(record.marks, "; "),
        "status": "computed",
        "source": record.source,
        "place": "",
        "caveat": "",
        "split": record.result["split"],
        "dataset": record.result["dataset"],
    }
