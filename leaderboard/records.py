"""Result files as the leaderboard ranks them: of retrieval and of answering, and which of them stand together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from leaderboard.marks import DataKind, marks_of
from leaderboard.validate import is_answer, read_valid_answer, read_valid_result
from m2kr.common.files import digest, safe_name
from m2kr.errors import M2KRError
from m2kr.results.answer_record import AnswerResult
from m2kr.results.record import Result
from m2kr.tasks import TASKS

Selection = tuple[str, str, int | None, int | None]
"""What queries and passages were asked for: task, split, number of first queries, seed of the subset."""


@dataclass(frozen=True)
class Record:
    """One result file.

    Attributes:
        path: where it is.
        source: its path from the folder of results; unique.
        result: what it holds, validated.
        slug: names the pages of its folder and model; the same for all files of both.
        marks: keys of `leaderboard.marks.MARKS`, in their order.
    """

    path: Path
    source: str
    result: Any
    slug: str
    marks: tuple[str, ...] = ()

    def marked(self, reference: Mapping[DataKind, str]) -> Self:
        """Return the record with its marks; see `leaderboard.marks.marks_of`."""
        return replace(self, marks=marks_of(self.result, reference))

    @property
    def group(self) -> str:
        """Key of the table it stands in."""
        return "-".join(["run", *self.marks])

    @property
    def selection(self) -> Selection:
        """What queries and passages it is of."""
        result = self.result
        limit = result["queries"] if result["limited"] else None
        return result["task"], result["split"], limit, result["seed"] if result["nano"] else None


@dataclass(frozen=True)
class RunRecord(Record):
    """A result file of retrieval."""

    result: Result

    @property
    def run_path(self) -> Path:
        """The run file, which stands beside the result file."""
        return self.path.with_name(f"{self.path.stem}.run.trec.gz")

    @property
    def page(self) -> str:
        """File name of the page of its queries."""
        return f"queries-{safe_name(self.path.stem)}.html"

    @property
    def pool(self) -> str:
        """Digest of the queries and passages: figures of different pools are never ranked together."""
        return digest(self.selection, self.result["dataset"], self.result["queries"], self.result["passages"])

    @property
    def parameters(self) -> int | None:
        """Number of the model's parameters, where its settings tell."""
        value = self.result["model_settings"].get("parameters")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


@dataclass(frozen=True)
class AnswerRecord(Record):
    """A result file of answering."""

    result: AnswerResult

    @property
    def passages(self) -> str:
        """Where its passages are from, in a word: none, oracle, or the retriever's name."""
        return self.result["retriever"] or self.result["source"]

    def pool(self, metric: str) -> str:
        """Digest of the questions and, of BEM, of the judge: figures of different pools are never ranked together."""
        result = self.result
        task, split, _, seed = self.selection
        judge = result["bem"] if metric == "BEM" else None
        return digest(task, split, result["dataset"], result["queries"], seed, judge)


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
    records: list[RunRecord] = field(default_factory=list)

    @property
    def mixed(self) -> bool:
        """Whether its results were made with different settings."""
        settings = {
            digest(*(record.result[name] for name in ("model_settings", "dtype", "store_dtype", "top_k")))
            for record in self.records
        }
        return len(settings) > 1


def read_record(path: Path, source: str = "") -> RunRecord | AnswerRecord:
    """Return a result file, of retrieval or of answering, as what is in it says; without marks.

    Raises:
        M2KRError: it is no result file, or its figures are impossible or not those of its predictions.
    """
    if is_answer(path):
        return AnswerRecord(path, source, read_valid_answer(path), "")
    return RunRecord(path, source, read_valid_result(path), safe_name(path.parent.name))


def read_records(folder: Path) -> tuple[list[RunRecord], list[AnswerRecord]]:
    """Return the validated results of retrieval and of answering in a folder; without marks.

    They stand as ``<model>/<file>`` and ``<retriever>/answers/<reader>/<file>``. All are ordered by task and split;
    then those of retrieval by model, those of answering by reader, and for each reader: without passages, with those
    of retrievers, with the positive ones.

    Raises:
        M2KRError: ``folder`` is none, a file in it is no result file, its figures are impossible or not those of its
            predictions, or a result stands twice.
    """
    if not folder.is_dir():
        raise M2KRError(f"{folder} is no folder of results. Make some with python -m m2kr.evaluate.")
    runs: list[RunRecord] = []
    answers: list[AnswerRecord] = []
    models: dict[str, tuple[str, str]] = {}
    there: dict[Any, Path] = {}
    for path in sorted([*folder.glob("*/*.json"), *folder.glob("*/answers/*/*.json")]):
        record = read_record(path, path.relative_to(folder).as_posix())
        if isinstance(record, AnswerRecord):
            answers.append(record)
            identity: Any = record.result["answers_key"]
        else:
            model = (path.parent.name, record.result["model"])
            if models.setdefault(record.slug, model) != model:
                record = replace(record, slug=f"{record.slug}-{digest(model)}")
                models[record.slug] = model
            runs.append(record)
            identity = record.slug, record.selection
        if (other := there.setdefault(identity, path)) != path:
            raise M2KRError(f"{other} and {path} are results of one model and task. Take one of them out.")
    runs.sort(key=lambda record: (*_place(record), record.result["model"], record.slug))
    answers.sort(key=_place_of_answer)
    return runs, answers


def _place_of_answer(record: AnswerRecord) -> tuple[Any, ...]:
    result = record.result
    source = ("none", "run", "oracle").index(result["source"])
    passages = record.passages.casefold()
    return *_place(record), result["reader"].casefold(), source, passages, result["k"], record.source


def _place(record: Record) -> tuple[Any, ...]:
    task, split, _, _ = record.selection
    return list(TASKS).index(task), split != "test", split


def models_of(records: Iterable[RunRecord]) -> list[Model]:
    """Return the models of these results, by name."""
    models: dict[str, Model] = {}
    for record in records:
        models.setdefault(record.slug, Model(record.slug, record.result["model"])).records.append(record)
    return sorted(models.values(), key=lambda model: (model.name.casefold(), model.slug))
