"""Benchmarks made of a synthetic world, for models that are trained or judged without any download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2kr.images.roots import ImageRoots


def make_data(work: Path, seed: int, scale: float, *, quiet: bool = False) -> tuple[Path, ImageRoots]:
    """Make a world and the benchmark of it, unless they are there; return the folder and where the pictures are."""
    from m2kr.build.__main__ import main as build
    from m2kr.images.roots import parse_roots
    from m2kr.synthetic.write import generate

    raw, data = work / "raw", work / "m2kr"
    generate(raw, scale=scale, seed=seed, quiet=quiet)
    build(["--raw", str(raw), "--out", str(data), "--images", str(raw), *(["--quiet"] if quiet else [])])
    return data, parse_roots([str(raw)])


def train_texts(data: Path) -> Iterator[str]:
    """Yield what vocabularies are learned from: all train passages and questions, and all instructions."""
    from m2kr.dataset import load_task
    from m2kr.tasks import TASKS

    for task in TASKS.values():
        if "train" in task.splits:
            split = load_task(task, data, "train")
            yield from split.passages["passage_content"]
            yield from (text for text in split.query_texts(instructions=True) if text)
