"""The report on figures that were computed anew, beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from leaderboard.measures import short
from leaderboard.published import BLOCKS
from leaderboard.verify import NEAR_Z, OK_Z, Comparison, Verdict
from m2kr.common.templates import render

FORMAT = 1
"""Changes when whoever reads the JSON has to change."""

_WORST: tuple[Verdict, ...] = ("off", "not comparable", "near", "OK")
_EXIT_CODES = {"off": 1, "not comparable": 2}


@dataclass(frozen=True)
class Reproduction:
    """A report.

    Attributes:
        facts: what its JSON holds: ``format``, ``m2kr`` (version), ``made`` (time), ``model`` and ``data`` as they were
            named, ``published_model``, ``block``, ``command``, ``seconds`` (wall time of the call that finished it),
            ``system``, ``figures`` (fields of `leaderboard.verify.Comparison`), ``results`` (task -> result file) and
            ``files`` (name -> SHA-256).
    """

    facts: Mapping[str, Any]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The figures."""
        names = [field.name for field in fields(Comparison)]
        return [Comparison(**{name: figure[name] for name in names}) for figure in self.facts["figures"]]

    def verdict(self, task: str | None = None) -> Verdict:
        """Return the worst verdict, of a task or of all."""
        there = {one.verdict for one in self.comparisons if task in (None, one.task)}
        return next((verdict for verdict in _WORST if verdict in there), "not comparable")

    @property
    def exit_code(self) -> int:
        """Of the command: 1 where a figure is off, 2 where one could not be compared, else 0."""
        return _EXIT_CODES.get(self.verdict(), 0)

    def markdown(self) -> str:
        """Return the report for people: the text of an issue."""
        results = self.facts["results"]
        block = BLOCKS[self.facts["block"]]
        folder = Path(__file__).with_name("templates")
        return render(
            "reproduction.md",
            folder=folder,
            **self.facts,
            one=next(iter(results.values())),
            verdicts={task: self.verdict(task) for task in results},
            comparisons=self.comparisons,
            block_title=block.title,
            block_note=block.note,
            short=short,
            ok=OK_Z,
            near=NEAR_Z,
        )
