"""Result files and what sets them apart: which of them may be ranked together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboard.validate import read_valid_result
from m2kr.common.files import digest, safe_name
from m2kr.errors import M2KRError
from m2kr.results.record import Result
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd

    from leaderboard.answers import AnswerRecord
    from m2kr.results.answer_record import AnswerResult

DataKind = tuple[str, str, bool]
"""Task, split, and whether the data are made up."""

MARKS = {
    "made-up": "made-up data",
    "other-data": "other data",
    "other-split": "other split",
    "nano": "small subset",
    "limited": "first queries only",
    "no-images": "without images",
    "approximate": "approximate search",
}
"""What sets a result apart from the benchmark as it is meant, in the order it is said."""

MARK_NOTES = {
    "made-up": "The data are invented, and these figures compare with no published one.",
    "other-data": "The tables are not those that most results here, or the named benchmark, have.",
    "other-split": "Not the test split.",
    "nano": "A few queries and passages were drawn, which is much easier than the task (--nano).",
    "limited": "Only the first queries were evaluated (--limit).",
    "no-images": "The pictures of the queries were not given to the model (--ignore-images).",
    "approximate": "Not every query was compared with every passage.",
}
"""What each mark means, one sentence."""


@dataclass(frozen=True)
class Record:
    """One result file.

    Attributes:
        path: where it is.
        result: what it holds, validated.
        slug: names the pages of its model; the same for all files of a folder and model.
        marks: keys of `MARKS`, in their order.
    """

    path: Path
    result: Result
    slug: str
    marks: tuple[str, ...] = ()

    @property
    def run_path(self) -> Path:
        """The run file, which stands beside the result file."""
        return self.path.with_name(f"{self.path.stem}.run.trec.gz")

    @property
    def page(self) -> str:
        """File name of the page of its queries."""
        return f"queries-{safe_name(self.path.stem)}.html"

    @property
    def selection(self) -> tuple[Any, ...]:
        """What queries and passages were asked for: task, split, number of first queries, seed of the subset."""
        result = self.result
        limit = result["queries"] if result["limited"] else None
        return result["task"], result["split"], limit, result["seed"] if result["nano"] else None

    @property
    def pool(self) -> str:
        """Digest of the queries and passages: figures of different pools are never ranked together."""
        return digest(self.selection, self.result["dataset"], self.result["queries"], self.result["passages"])

    @property
    def group(self) -> str:
        """Key of the table it stands in."""
        return "-".join(["run", *self.marks])

    @property
    def parameters(self) -> int | None:
        """Number of the model's parameters, where its settings tell."""
        value = self.result["model_settings"].get("parameters")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


@dataclass(frozen=True)
class Model:
    """All results of one model that stand in one folder.

    Attributes:
        slug: names its pages.
        name: as the result files have it.
        records: its results, in the order of the tasks.
    """

    slug: str
    name: str
    records: list[Record] = field(default_factory=list)

    @property
    def mixed(self) -> bool:
        """Whether its results were made with different settings."""
        settings = {
            digest(*(record.result[name] for name in ("model_settings", "dtype", "store_dtype", "top_k")))
            for record in self.records
        }
        return len(settings) > 1


def read_records(folder: Path) -> list[Record]:
    """Return the validated results under ``folder/<model>/``, by task, split and model; without marks.

    Raises:
        M2KRError: ``folder`` is none, a file in it is no result file, or its figures are impossible.
    """
    if not folder.is_dir():
        raise M2KRError(f"{folder} is no folder of results. Make some with python -m m2kr.evaluate.")
    records: list[Record] = []
    names: dict[str, tuple[str, str]] = {}
    there: dict[tuple[str, tuple[Any, ...]], Path] = {}
    for path in sorted(folder.glob("*/*.json")):
        result = read_valid_result(path)
        identity = (path.parent.name, result["model"])
        slug = safe_name(path.parent.name)
        if names.setdefault(slug, identity) != identity:
            slug = f"{slug}-{digest(identity)}"
            names[slug] = identity
        record = Record(path, result, slug)
        if (other := there.setdefault((slug, record.selection), path)) != path:
            raise M2KRError(f"{other} and {path} are results of one model and task. Take one of them out.")
        records.append(record)
    order = list(TASKS)

    def place(record: Record) -> tuple[Any, ...]:
        result = record.result
        return order.index(result["task"]), result["split"] != "test", result["split"], result["model"], record.slug

    return sorted(records, key=place)


def models_of(records: Iterable[Record]) -> list[Model]:
    """Return the models of these results, by name."""
    models: dict[str, Model] = {}
    for record in records:
        models.setdefault(record.slug, Model(record.slug, record.result["model"])).records.append(record)
    return sorted(models.values(), key=lambda model: (model.name.casefold(), model.slug))


def usual_data(records: Iterable[Record | AnswerRecord]) -> dict[DataKind, str]:
    """Return the data most results have: (task, split, made up) -> fingerprint; of equally many the first in order."""
    counted: dict[DataKind, Counter[str]] = {}
    for record in records:
        counted.setdefault(_kind_of_data(record.result), Counter())[record.result["dataset"]] += 1
    return {
        kind: min(counts, key=lambda name: (-counts[name], name))  # not the order of the files
        for kind, counts in counted.items()
    }


def with_marks(record: Record, reference: Mapping[DataKind, str]) -> Record:
    """Return a record with its marks.

    Args:
        record: a result.
        reference: (task, split, made up) -> fingerprint of the data that count; see `usual_data`.
    """
    return replace(record, marks=marks_of(record.result, reference))


def marks_of(result: Result | AnswerResult, reference: Mapping[DataKind, str]) -> tuple[str, ...]:
    """Return what sets a result apart, of retrieval or of answering: keys of `MARKS`, in their order."""
    expected = reference.get(_kind_of_data(result))
    said = {
        "made-up": result["synthetic"],
        "other-data": expected is not None and result["dataset"] != expected,
        "other-split": result["split"] != "test",
        "nano": result["nano"],
        "limited": result["limited"],
        "no-images": bool(result["ignored_inputs"]),
        "approximate": result.get("search", "exact") != "exact",  # answering searches nothing
    }
    return tuple(mark for mark in MARKS if said[mark])


def _kind_of_data(result: Result | AnswerResult) -> DataKind:
    return result["task"], result["split"], result["synthetic"]


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


def figures(records: Iterable[Record]) -> pd.DataFrame:
    """Return the figures of results as a table, one row for each measure: see `leaderboard.boards.FIELDS`.

    Hit rates have an interval, percent as all values are. What is compared comes first, then MRR@10 and nDCG@10;
    the page of a model has all measures.
    """
    import pandas as pd

    rows = []
    for record in records:
        result = record.result
        for metric in [*result["headline"], "MRR@10", "nDCG@10"]:
            if metric not in result["metrics"]:
                continue
            value = result["metrics"][metric]
            low, high = interval(value, result["queries"]) if "Recall@" in metric else (None, None)
            rows.append(
                {
                    "origin": "run",
                    "group": record.group,
                    "model": result["model"],
                    "slug": record.slug,
                    "task": result["task"],
                    "metric": metric,
                    "value": 100 * value,
                    "low": None if low is None else 100 * low,
                    "high": None if high is None else 100 * high,
                    "ranked": "Recall@" in metric,
                    "pool": record.pool,
                    "marks": "; ".join(MARKS[mark] for mark in record.marks),
                    "status": "computed",
                    "source": record.path.parent.name + "/" + record.path.name,
                    "caveat": "",
                    "parameters": record.parameters,
                    "split": result["split"],
                    "queries": result["queries"],
                    "passages": result["passages"],
                    "dataset": result["dataset"],
                }
            )
    return pd.DataFrame(rows)
