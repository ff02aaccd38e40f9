"""The measures that are reported, one record each.

All are means over the queries, those without a positive or without an answer counted as 0. Source:
LinWeizheDragon/FLMR, examples/example_use_preflmr.py (commit be4b748) for Recall@K and PRecall@K.
"""

from __future__ import annotations

from dataclasses import dataclass

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
