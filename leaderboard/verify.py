"""``python -m leaderboard verify --model NAME``: our results beside the published figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leaderboard.marks import labels
from leaderboard.measures import short
from leaderboard.published import BENCHMARK, BLOCKS, read_published
from leaderboard.records import RunRecord, read_records
from m2kr.common.cli import option, parse
from m2kr.common.text_table import aligned
from m2kr.errors import M2KRError, did_you_mean
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["OK", "near", "off", "not comparable"]

OK_Z, NEAR_Z = 1.96, 3.29
"""Standard errors that chance exceeds once in 20 and once in 1,000 times."""

_NOT_EXACT = {
    "superseded": "its authors replaced the published figure",
    "digitised": "the published figure was read off a plot",
}
# Statuses of figures that judge nothing.


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Options of ``python -m leaderboard verify``."""

    model: str = option("name of the model, or of its folder of results")
    results: Path = option("folder of results", Path("results"))
    published: str | None = option("published model, where its name is another", None, metavar="NAME")
    block: str = option("block of published figures", "official", choices=tuple(BLOCKS))


@dataclass(frozen=True)
class Comparison:
    """One figure of ours beside a published one, both in percent.

    Attributes:
        task, metric: what is measured.
        queries: how many our figure is a mean of.
        ours: our figure; None where the result has not this measure.
        published: the other.
        rounding: half of its last digit, in points.
        ok, near: points within which the verdict is OK, and near; see `agreement`.
        verdict: what they say.
        reason: why they are not comparable, or empty.
        source, place: of the published figure.
        caveat: what a reader of it has to know.
    """

    task: str
    metric: str
    queries: int
    ours: float | None
    published: float
    rounding: float
    ok: float
    near: float
    verdict: Verdict
    reason: str
    source: str
    place: str
    caveat: str

    @property
    def shown(self) -> tuple[str, str]:
        """The published figure with the digits of its source, and ours with one more, or "-"."""
        digits = round(-math.log10(2 * self.rounding))
        return f"{self.published:.{digits}f}", "-" if self.ours is None else f"{self.ours:.{digits + 1}f}"

    @property
    def apart(self) -> str:
        """The difference in words, in points and, to the nearest, in queries: "+0.3 (2 queries)"."""
        if self.ours is None:
            return "-"
        apart = self.ours - self.published
        count = round(abs(apart) * self.queries / 100)
        return f"{apart:+.1f} ({count:,} {'query' if count == 1 else 'queries'})"


def agreement(ours: float, published: float, queries: int, rounding: float = 0.05) -> tuple[Verdict, float, float]:
    """Say whether a figure agrees with a published one, as far as sampling error allows.

    Were the queries drawn at random from many, a hit rate p over n of them would have the standard error
    sqrt(p (1 - p) / n). OK is within 1.96 of these (chance goes beyond once in 20 times), near within 3.29 (once in
    1,000), and half of the last published digit is allowed besides. The same model on the same queries should be far
    nearer, so "near" is worth a look.

    Args:
        ours: percent.
        published: percent.
        queries: how many the figure is a mean of.
        rounding: half of the last published digit, in points.

    Returns:
        The verdict, and the points within which it is OK, and near.
    """
    share = published / 100
    error = 100 * math.sqrt(share * (1 - share) / queries)
    ok, near = (z * error + rounding for z in (OK_Z, NEAR_Z))
    apart = abs(ours - published) - 1e-9  # of floats: at the edge is within it
    return "OK" if apart <= ok else "near" if apart <= near else "off", ok, near


def compare(records: Iterable[RunRecord], name: str, block: str = "official") -> list[Comparison]:
    """Return the figures of results beside those published for a model.

    Args:
        records: results of one model.
        name: of the published model; see `published_name`.
        block: key of the block of published figures.
    """
    published = read_published()
    published = published[(published["block"] == block) & (published["model"] == name)]
    found = []
    for record in records:
        result = record.result
        sizes = (result["queries"], result["passages"])
        reason = labels(record.marked({}).marks)
        reason = incomparable(block) or reason or other_pool(result["task"], *sizes)
        for row in published[published["task"] == result["task"]].to_dict("records"):
            metric, value = str(row["metric"]), float(row["value"])
            share = result["metrics"].get(metric)
            ours = None if share is None else 100 * share
            why = reason or useless(row)
            if ours is None:
                why = why or f"the result has no {metric}"
            verdict, ok, near = agreement(ours or 0.0, value, result["queries"], row["rounding"])
            found.append(
                Comparison(
                    task=result["task"],
                    metric=metric,
                    queries=result["queries"],
                    ours=ours,
                    published=value,
                    rounding=row["rounding"],
                    ok=ok,
                    near=near,
                    verdict="not comparable" if why else verdict,
                    reason=why,
                    source=row["source"],
                    place=row["place"],
                    caveat=row["caveat"],
                )
            )
    return found


def incomparable(block: str) -> str:
    """Return why no result compares with the figures of a block; nothing where some do."""
    of = BLOCKS[block].benchmark
    return "" if of == BENCHMARK else f"the published figures are of {of}"


def useless(figure: Mapping[Any, Any]) -> str:
    """Return why a published figure, a row of `read_published`, judges no result; nothing where it does."""
    from m2kr.metrics import KS  # 0.6 s

    kind, _, cutoff = figure["metric"].partition("@")
    scored = kind == "Recall" or "answers" in TASKS[figure["task"]].query_columns
    if int(cutoff) not in KS or not scored:
        return f"no result has {figure['metric']}"
    return _NOT_EXACT.get(figure["status"], "")


def other_pool(task: str, queries: int, passages: int) -> str:
    """Return how queries and passages of the test split differ in number from those of the published benchmark."""
    expected = TASKS[task].published.get("test")
    if (queries, passages) == expected:
        return ""
    published, searched = expected or (0, 0)
    return f"{queries:,} queries and {passages:,} passages, where {published:,} and {searched:,} are published"


def published_name(model: str, block: str = "official") -> str:
    """Return the published model that a name means: "LinWeizheDragon/PreFLMR_ViT-L" is "PreFLMR_ViT-L".

    Raises:
        M2KRError: there is none.
    """
    published = read_published()
    names = [str(name) for name in published.loc[published["block"] == block, "model"].unique()]
    plain = _plain(model.rstrip("/").split("/")[-1])
    for name in names:
        if _plain(name) == plain:
            return name
    others = [other for other in BLOCKS if other != block and plain in _plain_names(published, other)]
    elsewhere = f" There are some of it in {', '.join(others)}: pass --block {others[0]}." if others else ""
    raise M2KRError(
        f"no figures are published for {model!r} in the block {block}.{elsewhere or did_you_mean(model, names)} "
        f"There are some for {', '.join(names)}; name one with --published."
    )


def _plain_names(published: pd.DataFrame, block: str) -> set[str]:
    return {_plain(str(name)) for name in published.loc[published["block"] == block, "model"]}


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def _ours(records: Sequence[RunRecord], model: str) -> list[RunRecord]:
    found = [record for record in records if model in (record.result["model"], record.slug, record.path.parent.name)]
    if not found:
        plain = _plain(model.rstrip("/").split("/")[-1])
        found = [record for record in records if plain == _plain(record.result["model"].split("/")[-1])]
    if not found:
        names = sorted({record.result["model"] for record in records})
        has = f"there are some of {', '.join(names)}" if names else "there are none of any model"
        raise M2KRError(
            f"there are no results of {model!r}; {has}.{did_you_mean(model, names)} Make some with python -m "
            "m2kr.evaluate."
        )
    return found


def told(found: Iterable[Comparison]) -> list[str]:
    """Return the lines of a table of comparisons, for the terminal."""
    rows = [("task", "measure", "published", "ours", "difference", "OK within", "verdict")]
    for one in found:
        published, ours = one.shown
        rows.append((one.task, short(one.metric), published, ours, one.apart, f"{one.ok:.1f}", one.verdict))
    return aligned(rows, left=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: exit code 0 where all that can be compared is OK or near, 1 where not, 2 where nothing can."""
    options = parse(
        VerifyOptions,
        argv,
        prog="python -m leaderboard verify",
        description="Show a model's results beside the published figures, and whether they agree within sampling "
        "error: OK, near, or off.",
        epilog="example: python -m leaderboard verify --model LinWeizheDragon/PreFLMR_ViT-L",
    )
    records = _ours(read_records(options.results)[0], options.model)
    name = published_name(options.published or records[0].result["model"], options.block)
    found = compare(records, name, options.block)
    if not found:
        raise M2KRError(f"no figure is published for {name} on the tasks of these results.")
    print("\n".join(told(found)))
    print(f"published figures of {name}: {'; '.join(dict.fromkeys(one.source for one in found))}")
    for task, reason in dict.fromkeys((one.task, one.reason) for one in found if one.reason):
        print(f"{task} is not comparable: {reason}")
    verdicts = {one.verdict for one in found} - {"not comparable"}
    return (1 if "off" in verdicts else 0) if verdicts else 2
