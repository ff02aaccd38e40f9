"""Options of ``python -m m2kr.answer``: one field each, from which parser, settings, result file and docs take it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m2kr.answer.score import ANSWER_TASKS
from m2kr.common.cli import MOST_WORKERS, option
from m2kr.common.options import (
    BadImagesOption,
    ComputeOptions,
    DataOption,
    LimitOption,
    LoadOptions,
    QueryImagesOption,
    QuietOption,
    RayOptions,
    RerunOption,
    SplitOption,
)
from m2kr.results.answer_record import Combine

BATCH_SIZE = 8
"""Prompts answered at once, where nothing is said and they fit."""


@dataclass(frozen=True, kw_only=True)
class AnswerTaskOptions(ComputeOptions, QuietOption, RerunOption, BadImagesOption):
    """How the questions of a task are answered."""

    k: int = option("passages for each question", 5, least=1, in_key=True, in_result=True)
    combine: Combine = option("an answer for each passage, or all in one prompt", "joint", in_key=True, in_result=True)
    batch_size: int | None = option(
        f"prompts answered at once; default: {BATCH_SIZE}, halved until it fits into a GPU's memory", None, least=1
    )
    ignore_images: bool = option("ask without the pictures", False)
    workers: int = option("processes that decode pictures", 0, least=0, most=MOST_WORKERS)


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(
    RayOptions, AnswerTaskOptions, LoadOptions, DataOption, SplitOption, QueryImagesOption, LimitOption
):
    """All options of the command."""

    reader: str = option("a registered reader (named at the end of --help), or a model folder, or a hub id")
    tasks: str = option(f"comma-separated, of {', '.join(ANSWER_TASKS)}; or all, those there are; default all", "all")
    run: tuple[Path, ...] = option("a <TASK>.run.trec.gz of m2kr.evaluate; repeatable", (), one_of="passages")
    run_dir: Path | None = option("folder of a retriever's results, such as results/bm25", None, one_of="passages")
    no_retrieval: bool = option("answer without passages", False, one_of="passages")
    oracle: bool = option("answer from the positive passages", False, one_of="passages")
    bem: str | None = option("folder or hub id of the answer-equivalence model, for EVQA", None)
    allow_missing: bool = option("let questions be without passages", False)
    out: Path | None = option("results; default: beside the run, else results", None)
