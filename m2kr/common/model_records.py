"""Records of the models that packages offer by name: what each reads and learnt from, its size, and where that is said.

A package that registers retrievers or readers may describe them in a file ``models.toml`` beside its
``__init__.py``, a table ``[retriever.<name>]`` or ``[reader.<name>]`` for each. A record with a name that is no entry
point is a model by itself: its ``hub_id`` is loaded by what loads any model, with the record's ``options``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from m2kr.common.text_table import aligned
from m2kr.errors import M2KRError

Trained = Literal["yes", "no", "unknown"]
"""Whether a model was trained on a dataset."""


class ModelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of a model before it is loaded.

    Attributes:
        reads: the kinds of input it uses.
        vectors: how many an input has: "single", "multi", or "none" for a retriever without vectors.
        parameters: their number; 0 for a model that has none, None where it is not known.
        licence: of its weights.
        source: where parameters, licence, year and vectors can be looked up; "unverified" where that was not done.
        year: of its article, or of the checkpoint where there is none.
        open_weights: whether anybody can get its weights.
        passage_vectors: how many vectors a passage has, at most, where that is more than one.
        dimension: numbers in a vector.
        trained: task -> whether it, or what it began as, was trained on that task's dataset; "others" stands for the
            tasks that are not named, and what is not said is unknown.
        trained_source: where that can be looked up.
        names: what else published figures call it.
        hub_id: of the published checkpoint; empty where the weights come with the package, or there are none.
        options: those it is loaded with unless others are given.
        note: what a user has to know.
    """

    reads: tuple[Literal["text", "image"], ...]
    vectors: Literal["single", "multi", "none"]
    parameters: int | None = None
    licence: str
    source: str
    year: int | None = None
    open_weights: bool | None = None
    passage_vectors: int | None = None
    dimension: int | None = None
    trained: dict[str, Trained] = {}
    trained_source: str = ""
    names: tuple[str, ...] = ()
    hub_id: str = ""
    options: dict[str, str] = {}
    note: str = ""

    def trained_on(self, task: str) -> Trained:
        """Return whether it was trained on the dataset of a task."""
        return self.trained.get(task, self.trained.get("others", "unknown"))


def read_records(path: Path) -> dict[str, dict[str, ModelRecord]]:
    """Return the records of a file ``models.toml``: kind -> name -> record.

    Raises:
        M2KRError: it cannot be read, or a record lacks something or holds what it cannot.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=dict[str, dict[str, ModelRecord]])
    except (OSError, ValueError) as error:
        raise M2KRError(f"{path} holds no records of models ({error}). Correct it there.") from error


def records_of(packages: Iterable[str], kind: str) -> dict[str, ModelRecord]:
    """Return the records that packages keep beside their ``__init__.py``, by name; none of them is imported.

    Args:
        packages: names of top-level packages.
        kind: "retriever" or "reader".
    """
    found: dict[str, ModelRecord] = {}
    for package in sorted(set(packages)):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder) / "models.toml").is_file():
                found.update(read_records(path).get(kind, {}))
    return found


def records_table(names: Iterable[str], records: Mapping[str, ModelRecord]) -> str:
    """Return a table of models for the terminal; a name without a record has dashes."""
    rows: list[tuple[str, ...]] = [("name", "reads", "vectors", "parameters", "licence", "hub id", "source")]
    notes = []
    for name in sorted(names):
        if (record := records.get(name)) is None:
            rows.append((name, *["-"] * 6))
            continue
        size = "-" if record.parameters is None else f"{record.parameters:,}"
        reads = " and ".join(record.reads)
        rows.append((name, reads, record.vectors, size, record.licence, record.hub_id or "-", record.source))
        if record.note:
            notes.append(f"{name}: {record.note}")
    return "\n".join([*aligned(rows, len(rows[0])), "", *notes]).rstrip()
