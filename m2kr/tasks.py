"""The ten tasks of M2KR and the raw releases they are built from, one record each, read from ``tasks.toml``.

Everything that lists tasks is generated from `TASKS`. Facts are those of the published dataset card and of the
releases' own pages. An instruction is data: the retriever reads it in front of the question, so a converter has to use
the published strings.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from m2kr.errors import M2KRError, did_you_mean

Kind = Literal["I2T", "Q2T", "IQ2T"]
"""What a query holds: an image, a question, or an image and a question. The target is always a text passage."""


@dataclass(frozen=True)
class Release:
    """A raw release as its makers publish it: what to put in which folder, and under which terms.

    Attributes:
        folder: name of its folder under the raw root, and of ``--source FOLDER=PATH``.
        title: name people know it by.
        files: names that stand in that folder, as downloaded. A text file may also be there as ``<name>.gz``.
        url: where to get it.
        licence: SPDX identifier, or "other" with the terms in ``terms``.
        terms: one sentence on what the licence field cannot say.
        optional: further names that some option or task reads, where they are.
    """

    folder: str
    title: str
    files: tuple[str, ...]
    url: str
    licence: str
    terms: str = ""
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One task of the benchmark.

    Attributes:
        key: spelling used in config names (``<key>_data``, ``<key>_passages``, ``<key>_images``).
        title: name of the dataset it comes from.
        kind: what a query holds.
        description: one sentence.
        citation: BibTeX.
        published: rows of the published benchmark, split -> (queries, passages). Its keys are the splits.
        metrics: headline metrics, as `m2kr.metrics.score` names them, first the one that ranks; none for training only.
        instructions: templates; one is chosen for each query by a seeded hash of its id. Empty: each record brings
            its own.
        source: module that builds it from the releases; `m2kr.sources.options` says what such a module holds.
        releases: folders of the raw releases it is built from.
        query_columns: columns of its queries in published order, name -> type as Arrow spells it ("list<string>").
        passage_columns: those of its passages.
        image_root: folder under the image root that ``img_path`` is relative to, where the releases keep it.
        hub_images: folder of its images in the hub's image dataset, `HUB_IMAGES`.
        image_aliases: patterns of an ``img_path``, each with the path to try as well of one that matches.
        answer_metric: name of the metric of its answers in `m2kr.answer`; empty where it has none.
    """

    key: str
    title: str
    kind: Kind
    description: str
    citation: str
    published: dict[str, tuple[int, int]]
    metrics: tuple[str, ...]
    instructions: tuple[str, ...]
    source: str
    releases: tuple[str, ...]
    query_columns: dict[str, str]
    passage_columns: dict[str, str]
    image_root: str = ""
    hub_images: str = ""
    image_aliases: tuple[tuple[str, str], ...] = ()
    answer_metric: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """Query splits; the passages of split ``s`` are the split ``s_passages`` of the passage config."""
        return tuple(self.published)

    @property
    def data_config(self) -> str:
        """Name of the config that holds the queries."""
        return f"{self.key}_data"

    @property
    def passages_config(self) -> str:
        """Name of the config that holds the passages."""
        return f"{self.key}_passages"

    @property
    def images_config(self) -> str:
        """Name of the config that holds the packed images, where they are."""
        return f"{self.key}_images"

    @property
    def reads_images(self) -> bool:
        """Whether a query has an image."""
        return self.kind != "Q2T"

    @property
    def takes_passage_images(self) -> bool:
        """Whether passages may have pictures of their own, in a column ``img_path`` beyond the published ones.

        Where the published passages have a column of that name, as WIT's do, it is the picture that their own query
        asks with. It is never given to a retriever, which would find the passage by it without looking any further.
        """
        return "img_path" not in self.passage_columns

    @property
    def licences(self) -> tuple[str, ...]:
        """Licences of its releases, each once, in order."""
        return tuple(dict.fromkeys(RELEASES[folder].licence for folder in self.releases))


_RECORDS: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def _columns(names: list[str]) -> dict[str, str]:
    """Return name -> type; a column without a type is a string, and ``*name`` stands for shared ones."""
    found: dict[str, str] = {}
    for name in names:
        if name.startswith("*"):
            found |= _columns(_RECORDS["columns"][name[1:]])
        else:
            column, _, kind = name.partition(": ")
            found[column] = kind or "string"
    return found


def _frozen(facts: dict[str, Any]) -> dict[str, Any]:
    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return {name: tuples(value) for name, value in facts.items()}


def _task(key: str, facts: dict[str, Any]) -> Task:
    instructions: list[str] = _RECORDS["instructions"][facts["instructions"]] if facts["instructions"] else []
    columns = {name: _columns(facts[name]) for name in ("query_columns", "passage_columns")}
    published = _frozen(facts["published"])
    return Task(key=key, **_frozen({**facts, **columns, "instructions": instructions, "published": published}))


RELEASES: dict[str, Release] = {
    folder: Release(folder=folder, **_frozen(facts)) for folder, facts in _RECORDS["release"].items()
}
"""Every raw release, by folder name."""

TASKS: dict[str, Task] = {key: _task(key, facts) for key, facts in _RECORDS["task"].items()}
"""Every task, by key, in the order of the published benchmark's table."""

PASSAGE_IMAGE = "img_path"
"""Column of passages that were given pictures of their own: a path like that of a query, or null."""

HUB_ID = "BByrneLab/multi_task_multi_modal_knowledge_retrieval_benchmark_M2KR"
"""The hub's dataset of the benchmark's tables."""

HUB_IMAGES = "BByrneLab/M2KR_Images"
"""The hub's dataset of the benchmark's images: archives, in a folder for each task."""

COLUMN_MEANINGS: dict[str, str] = _RECORDS["column_meanings"]
"""What a column holds. Columns that are a release's own under their own name are not in it."""

BENCHMARK_CITATION: str = _RECORDS["benchmark"]["citation"]
"""BibTeX of the article that introduced the benchmark."""


def get_task(name: str | Task) -> Task:
    """Return the task called ``name``, whatever its capitals; a task itself is returned as it is.

    Raises:
        M2KRError: there is no such task.
    """
    if isinstance(name, Task):
        return name
    for key, task in TASKS.items():
        if key.casefold() == name.casefold():
            return task
    known = list(TASKS)
    raise M2KRError(f"there is no task {name!r}.{did_you_mean(name, known)} The tasks are {', '.join(known)}.")


def parse_tasks(names: str, among: list[str] | None = None) -> list[Task]:
    """Return the tasks of a comma-separated list, or all ``among`` for "all"; in the order given, each once.

    Raises:
        M2KRError: a name is no task, or the list is empty.
    """
    if names.strip().casefold() == "all":
        return [TASKS[key] for key in (among if among is not None else list(TASKS))]
    tasks = {get_task(name.strip()).key: get_task(name.strip()) for name in names.split(",") if name.strip()}
    if not tasks:
        raise M2KRError("the list of tasks is empty. Name some, separated by commas, or write all.")
    return list(tasks.values())
