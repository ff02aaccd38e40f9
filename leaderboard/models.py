"""What is known of the models on the board: their records, found by any name that a figure has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from m2kr.common.model_records import ModelRecord, Trained, read_records
from m2kr.retriever import REGISTRY
from m2kr.tasks import TASKS

PUBLISHED_ONLY = Path(__file__).with_name("models.toml")
"""Records of models that are not registered: only published figures are of them."""

_HALF = 2
# Bytes of a number in half precision: whatever a run stored, models are compared alike.


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model; None, or "unknown", where nothing is.

    Attributes:
        parameters: their number.
        year: of its article, or of the checkpoint where there is none.
        licence: of its weights.
        open_weights: whether anybody can get them.
        vectors: how many a passage has, at most.
        several: whether a passage can have more than one.
        dimension: numbers in a vector.
        trained: task -> whether it was trained on that task's dataset.
        source: where parameters, licence, year and vectors can be looked up; empty where nothing is known.
        trained_source: where training can.
    """

    parameters: int | None = None
    year: int | None = None
    licence: str = "unknown"
    open_weights: bool | None = None
    vectors: int | None = None
    several: bool = False
    dimension: int | None = None
    trained: tuple[tuple[str, Trained], ...] = ()
    source: str = ""
    trained_source: str = ""

    @property
    def passage_bytes(self) -> int | None:
        """Bytes that a passage takes at most, with numbers of half precision."""
        return None if self.vectors is None or self.dimension is None else _HALF * self.vectors * self.dimension

    def trained_on(self, task: str) -> Trained:
        """Return whether it was trained on the dataset of a task."""
        return dict(self.trained).get(task, "unknown")


def facts_of(names: Iterable[str], *, parameters: int | None = None, vectors: object = None) -> ModelFacts:
    """Return what is known of a model.

    Args:
        names: what it is called; the first that has a record counts.
        parameters: their number, where its source or its settings tell; comes before the record's.
        vectors: likewise how many a passage has, at most, of a model whose passages have several.
    """
    known = records_by_name()
    record = next((found for name in names if (found := known.get(_plain(name)))), None)
    if record is None:
        return ModelFacts(parameters=parameters)
    several = record.vectors == "multi"
    told = vectors if isinstance(vectors, int) and not isinstance(vectors, bool) and vectors > 0 else None
    most = (told or record.passage_vectors) if several else {"single": 1}.get(record.vectors)
    return ModelFacts(
        parameters=record.parameters if parameters is None else parameters,
        year=record.year,
        licence=record.licence,
        open_weights=record.open_weights,
        vectors=most,
        several=several,
        dimension=record.dimension,
        trained=tuple((task, record.trained_on(task)) for task in TASKS),
        source=record.source,
        trained_source=record.trained_source,
    )


def names_of_run(result: Any) -> list[str]:
    """Return what the model of a result file is called: its name, and that of its checkpoint."""
    checkpoint = result["model_settings"].get("checkpoint")
    return [result["model"], *([checkpoint] if isinstance(checkpoint, str) else [])]


@cache
def records_by_name() -> dict[str, ModelRecord]:
    """Return the records of published and installed retrievers, under each of their names; read once in a process."""
    records = {**read_records(PUBLISHED_ONLY)["retriever"], **REGISTRY.records()}
    found: dict[str, ModelRecord] = {}
    for name, record in records.items():
        for called in (name, record.hub_id, record.hub_id.rpartition("/")[2], *record.names):
            if called:
                found.setdefault(_plain(called), record)
    return found


def _plain(name: str) -> str:
    return name.strip().rstrip("/").casefold()
