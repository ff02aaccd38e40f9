"""Options of ``python -m m2kr.evaluate``: one field each, from which parser, settings, result file and docs take it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m2kr.common.cli import MOST_WORKERS, option
from m2kr.common.options import (
    BadImagesOption,
    ComputeOptions,
    DataOption,
    LimitOption,
    LoadOptions,
    PassageImagesOption,
    QueryImagesOption,
    QuietOption,
    RayOptions,
    RerunOption,
    SplitOption,
    StoredType,
    TasksOption,
)
from m2kr.errors import M2KRError
from m2kr.retriever import REGISTRY

BATCH_SIZE = 32
"""Inputs encoded at once, where nothing is said and they fit."""

MODELS = "a registered retriever (m2kr.evaluate --list-models), a model folder, a hub id, mteb:NAME or FILE.py:CLASS"


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(ComputeOptions, QuietOption):
    """How embeddings are made and stored."""

    store_dtype: StoredType | None = option(
        "of stored passages; default: --dtype. What int8, the smallest, costs is measured when evaluating",
        None,
        in_key=True,
        in_result=True,
    )
    batch_size: int | None = option(
        f"inputs encoded at once; default: {BATCH_SIZE}, halved until it fits into a GPU's memory", None, least=1
    )

    @property
    def stored(self) -> StoredType:
        """The form in which passages are stored. Queries are few, so less disk for them gains nothing."""
        return self.store_dtype or self.dtype


@dataclass(frozen=True, kw_only=True)
class TaskOptions(EncodeOptions, RerunOption, BadImagesOption, PassageImagesOption):
    """How a retriever is evaluated on a task."""

    top_k: int = option("passages kept for each query", 500, least=1, in_key=True, in_result=True)
    ignore_images: bool = option("evaluate without the queries' images", False)
    keep_embeddings: bool = option("keep them for later evaluations, in OUT", False)
    search_memory: float = option("scratch for search", 1.0, above=0, metavar="GIB")
    workers: int | None = option("processes that decode pictures", 0, least=0, most=MOST_WORKERS)

    @property
    def search_bytes(self) -> int:
        """Bytes of scratch that the search may use."""
        return int(self.search_memory * (1 << 30))


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(
    RayOptions, TaskOptions, LoadOptions, DataOption, TasksOption, SplitOption, QueryImagesOption, LimitOption
):
    """All options of the command."""

    model: str | None = option(MODELS, None, one_of="what")
    list_models: bool = option(
        "print the registered models, with what they read, their size, licence and source, and stop",
        False,
        prints=REGISTRY.table,
    )
    compare: tuple[Path, ...] = option(
        "instead of evaluating, compare results with the first: files, or folders of a model such as results/bm25",
        (),
        one_of="what",
        several="list",
        metavar="RESULT",
    )
    nano: bool = option("only a small subset (50 queries), in result files of its own", False)
    seed: int = option("of the subset that --nano draws", 0)
    out: Path = option("folder of results", Path("results"))
    workers: int | None = option(
        "processes that decode pictures; default: one per core, at most 4", None, least=0, most=MOST_WORKERS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nano and self.limit is not None:
            raise M2KRError("--nano and --limit are two ways to take fewer queries. Pass one of them.")
