"""What a check of a built benchmark found, as records, as JSON and as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from m2kr import __version__
from m2kr.common.text_table import aligned

LISTED = 10_000
"""Problems of one kind that are listed for a task; all are counted. A wrong root makes one of every image."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong.

    Attributes:
        task: key of the task; empty for a file that belongs to none.
        kind: "file", "hash", "columns", "rules", or what is wrong with an image ("missing image" and so on).
        where: file, or config and split, below the folder that was checked.
        says: what is wrong.
        ids: ids of the queries, or of the passages, that name the image.
        img_path: the image.
    """

    task: str
    kind: str
    where: str
    says: str
    ids: tuple[str, ...] = ()
    img_path: str | None = None

    def line(self) -> str:
        """Return the problem as one line. Text from data is shown as Python spells it: it may hold anything."""
        image = f", image {self.img_path!r}" if self.img_path is not None else ""
        ids = ""
        if self.ids:
            named = "passage" if self.where.partition("/")[0].endswith("_passages") else "question"
            ids = f", {named} {self.ids[0]!r}" + (f" and {len(self.ids) - 1:,} more" if self.ids[1:] else "")
        says = "".join(c if c.isprintable() else repr(c)[1:-1] for c in self.says)
        return f"{self.kind}: {self.where}{image}{ids}: {says}"


@dataclass
class Report:
    """What a check found.

    Attributes:
        hashes_checked: whether there was a manifest to check against.
        images_checked: whether images were looked at.
        tasks: task -> counts: ``files``, ``rows``, ``images``, and ``scaled_images`` (of more than 8 bits a channel).
        problems: up to `LISTED` of each kind for each task.
        counts: task -> kind -> number of problems, all of them.
    """

    hashes_checked: bool = False
    images_checked: bool = False
    tasks: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def add(self, task: str, kind: str, where: str, says: str, **image: Any) -> None:
        """Count a problem, and list it unless there are too many like it."""
        counter = self.counts.setdefault(task, Counter())
        counter[kind] += 1
        if counter[kind] <= LISTED:
            self.problems.append(Problem(task, kind, where, says, **image))

    def to_json(self) -> dict[str, Any]:
        """Return the report as it is written."""
        return {
            "format": 1,
            "m2kr": __version__,
            "clean": self.clean,
            "hashes_checked": self.hashes_checked,
            "images_checked": self.images_checked,
            "tasks": self.tasks,
            "counts": {task: dict(sorted(counter.items())) for task, counter in self.counts.items()},
            "listed_at_most": LISTED,
            "problems": [{**asdict(problem), "ids": list(problem.ids)} for problem in self.problems],
        }


def table(report: Report) -> str:
    """Return the counts as a table in plain text."""
    rows = [["task", "files", "rows", "images", "problems"]]
    for task in dict.fromkeys([*report.tasks, *report.counts]):
        counts = report.counts.get(task, Counter())
        cells = [f"{report.tasks.get(task, {}).get(name, 0):,}" for name in ("files", "rows", "images")]
        detail = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
        rows.append([task or "(folder)", *cells, f"{counts.total():,}" + (f" ({detail})" if detail else "")])
    return "\n".join(aligned(rows, 1))
