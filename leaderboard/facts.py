"""What the card of a row says: settings, sources and caveats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from leaderboard.measures import short
from leaderboard.models import ModelFacts
from leaderboard.published import STATUS
from leaderboard.records import AnswerRecord, Model, RunRecord

if TYPE_CHECKING:
    import pandas as pd

Facts = list[tuple[str, str]]
"""(what, value)."""

_INSTRUCTIONS = {True: "read", False: "not read", None: "unknown"}


def model_facts(about: ModelFacts) -> Facts:
    """Return what is known of a model, and where that can be looked up; nothing where nothing is known."""
    if not about.source:
        return []
    trained: dict[str, list[str]] = {}
    for task, answer in about.trained:
        trained.setdefault(answer, []).append(task)
    said = [f"{answer}: {', '.join(tasks)}" for answer, tasks in trained.items()]
    return [
        ("Trained on", "; ".join([*said, about.trained_source]).removesuffix("; ")),
        ("Size, licence, year and vectors", about.source),
    ]


def published_facts(own: pd.DataFrame) -> Facts:
    """Return the sources and caveats of the published figures of one model."""
    facts = [
        ("Source", "; ".join((own["source"] + ", " + own["place"]).unique())),
        ("Status", "; ".join(f"{status}: {STATUS[status]}" for status in own["status"].unique())),
    ]
    for caveat, figures in own[own["caveat"] != ""].groupby("caveat", sort=False):
        names = [f"{task} {short(metric)}" for task, metric in zip(figures["task"], figures["metric"], strict=True)]
        facts.append(("Caveat" if len(figures) == len(own) else f"Caveat, {', '.join(names)}", str(caveat)))
    return facts


def run_facts(model: Model, marks: tuple[str, ...]) -> Facts:
    """Return the settings of a model's results that have these marks."""
    results = [record.result for record in model.records if record.marks == marks]

    def all_of(values: Iterable[object]) -> str:
        return "; ".join(dict.fromkeys(str(value) for value in values))

    names = dict.fromkeys(name for result in results for name in result["model_settings"])
    facts = [(name, all_of(result["model_settings"].get(name, "not set") for result in results)) for name in names]
    facts += [
        ("Search", all_of(result["search"] for result in results)),
        ("Passages kept", all_of(result["top_k"] for result in results)),
        ("Number format", all_of(result["dtype"] for result in results)),
        ("Passages stored as", all_of(result["store_dtype"] for result in results)),
        ("Instructions", all_of(_INSTRUCTIONS[result["instructions"]] for result in results)),
        ("Hardware", all_of(result["hardware"] for result in results)),
        ("Commit", all_of(result["commit"] or "unknown" for result in results)),
        ("Data", "; ".join(f"{result['task']} {result['dataset']}" for result in results)),
    ]
    return [*facts, ("Caveat", "not all results were made with the same settings")] if model.mixed else facts


def answer_facts(record: AnswerRecord, run: RunRecord | None) -> Facts:
    """Return the settings of a result of answering, and its run where that is one of the results."""
    result = record.result
    facts = [(str(name), str(value)) for name, value in result["reader_settings"].items()]
    if result["source"] == "run":
        whose = f"{run.path.parent.name}/{run.run_path.name}, " if run else "not among these results, "
        facts.append(("Run", f"{whose}sha256 {result['run_sha256']}"))
    if result["source"] != "none":
        facts.append(("Questions without passages", f"{result['queries_without_passages']:,}"))
    facts += [(f"BEM {name}", str(value)) for name, value in (result["bem"] or {}).items()]
    others = {name: value for name, value in result["metrics"].items() if name not in result["headline"]}
    return [
        *facts,
        ("Other measures", ", ".join(f"{name} {100 * value:.1f}" for name, value in others.items()) or "none"),
        ("Number format", result["dtype"]),
        ("Time", f"{result['seconds']:.1f} s"),
        ("Hardware", result["hardware"]),
        ("Commit", result["commit"] or "unknown"),
        ("Data", result["dataset"]),
        ("File", record.source),
    ]
