"""``python -m leaderboard verify --model NAME``: our results beside the published figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from leaderboard.marks import labels
from leaderboard.measures import short
from leaderboard.published import BENCHMARK, BLOCKS, read_published
from leaderboard.records import RunRecord, read_records
from m2kr.common.cli import option, parse
from m2kr.common.text_table import aligned
from m2kr.errors import M2KRError, did_you_mean
from m2kr.tasks import TASKS

Verdict = Literal["OK", "near", "off", "not comparable"]

OK_Z, NEAR_Z = 1.96, 3.29
"""Standard errors that chance exceeds once in 20 and once in 1,000 times."""

_ROUNDING = 0.05
# Points: published figures have one digit behind the point.


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
        ours, published: the figures.
        tolerance: points within which the verdict is OK.
        verdict: see `agreement`.
        reason: why they are not comparable, or empty.
        source: of the published figure.
    """

    task: str
    metric: str
    ours: float
    published: float
    tolerance: float
    verdict: Verdict
    reason: str
    source: str


def agreement(ours: float, published: float, queries: int) -> tuple[Verdict, float]:
    """Say whether a figure agrees with a published one, as far as sampling error allows.

    Were the queries drawn at random from many, a hit rate p over n of them would have the standard error
    sqrt(p (1 - p) / n). OK is within 1.96 of these (chance goes beyond once in 20 times), near within 3.29 (once in
    1,000), and half of the last published digit is allowed besides. The same model on the same queries should be far
    nearer, so "near" is worth a look.

    Args:
        ours: percent.
        published: percent.
        queries: how many the figure is a mean of.

    Returns:
        The verdict, and the points within which it is OK.
    """
    share = published / 100
    error = 100 * math.sqrt(share * (1 - share) / queries)
    ok, near = (z * error + _ROUNDING for z in (OK_Z, NEAR_Z))
    apart = abs(ours - published)
    return "OK" if apart <= ok else "near" if apart <= near else "off", ok


def compare(records: Iterable[RunRecord], name: str, block: str = "official") -> list[Comparison]:
    """Return the figures of results beside those published for a model.

    Args:
        records: results of one model.
        name: of the published model; see `published_name`.
        block: key of the block of published figures.
    """
    published = read_published()
    published = published[(published["block"] == block) & (published["model"] == name)]
    of_another = BLOCKS[block].benchmark if BLOCKS[block].benchmark != BENCHMARK else ""
    found = []
    for record in records:
        result = record.result
        theirs = published[published["task"] == result["task"]]
        reason = f"the published figures are of {of_another}" if of_another else labels(record.marked({}).marks)
        expected = TASKS[result["task"]].published.get("test")
        if not reason and (result["queries"], result["passages"]) != expected:
            queries, passages = expected or (0, 0)
            reason = (
                f"{result['queries']:,} queries and {result['passages']:,} passages, where {queries:,} and "
                f"{passages:,} are published"
            )
        columns = (theirs[name] for name in ("metric", "value", "source", "status"))
        for metric, value, source, status in zip(*columns, strict=True):
            if metric not in result["metrics"]:
                continue
            ours = 100 * result["metrics"][metric]
            verdict, tolerance = agreement(ours, value, result["queries"])
            why = reason or ("its authors replaced the published figure" if status == "superseded" else "")
            verdict = "not comparable" if why else verdict
            found.append(Comparison(result["task"], metric, ours, value, tolerance, verdict, why, source))
    return found


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
    raise M2KRError(
        f"no figures are published for {model!r} in the block {block}.{did_you_mean(model, names)} "
        f"There are some for {', '.join(names)}; name one with --published."
    )


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
    rows = [("task", "measure", "ours", "published", "difference", "allowed", "verdict")]
    for one in found:
        difference = f"{one.ours - one.published:+.1f}"
        numbers = (f"{one.ours:.1f}", f"{one.published:.1f}", difference, f"{one.tolerance:.1f}")
        rows.append((one.task, short(one.metric), *numbers, one.verdict))
    print("\n".join(aligned(rows, left=2)))
    print(f"published figures of {name}: {'; '.join(dict.fromkeys(one.source for one in found))}")
    for task, reason in dict.fromkeys((one.task, one.reason) for one in found if one.reason):
        print(f"{task} is not comparable: {reason}")
    verdicts = {one.verdict for one in found} - {"not comparable"}
    return (1 if "off" in verdicts else 0) if verdicts else 2
