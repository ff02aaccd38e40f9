"""Checking whether a task is already built from the same raw files with the same choices, and can be skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from m2kr import __version__
from m2kr.build.hashing import FileHasher
from m2kr.build.inputs import TaskInputs
from m2kr.formats.integrity import are_listed
from m2kr.formats.manifest import read_manifest, shards_of
from m2kr.formats.rules import check_images
from m2kr.formats.shards import split_shards
from m2kr.images.roots import ImageRoots
from m2kr.tasks import PASSAGE_IMAGE, Task


def is_up_to_date(inputs: TaskInputs, out: Path) -> bool:
    """Return whether ``out`` holds the task, built by this version from the same raw files with the same choices."""
    entry = read_manifest(out)["tasks"].get(inputs.task.key)
    if entry is None or entry["m2kr"] != __version__ or "absent" not in entry:
        return False
    if entry["options"] != inputs.choices or entry["synthetic"] != inputs.synthetic:
        return False
    if not set(entry["absent"]) <= set(inputs.absent()):
        return False
    if not all(label.partition("/")[0] in inputs.folders for label in entry["sources"]):
        return False
    used = {label: inputs.folders[label.partition("/")[0]] / label.partition("/")[2] for label in entry["sources"]}
    if not all(_has_size(path, entry["sources"][label]["bytes"]) for label, path in used.items()):
        return False
    if not are_listed(out, shards_of(entry)):
        return False
    with FileHasher() as hashing:
        return bool(file_facts(used, hashing) == entry["sources"])


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def file_facts(files: dict[str, Path], hashing: FileHasher) -> dict[str, dict[str, Any]]:
    """Return sha256 and bytes of raw files, as the manifest records them."""
    return {label: {"sha256": hashing.of(path), "bytes": path.stat().st_size} for label, path in files.items()}


def check_built_images(task: Task, out: Path, images: ImageRoots) -> None:
    """Look for every image of a finished task, as a build does.

    Raises:
        DatasetError: one is missing; the message names the first and counts them.
    """
    for split in read_manifest(out)["tasks"][task.key]["configs"][task.data_config]:
        data = pl.scan_parquet(split_shards(out, task.data_config, split))
        check_images(data, f"{task.data_config}/{split}", images)
        passages = pl.scan_parquet(split_shards(out, task.passages_config, f"{split}_passages"))
        if task.takes_passage_images and PASSAGE_IMAGE in passages.collect_schema():
            where = f"{task.passages_config}/{split}_passages"
            check_images(passages, where, images, row_id="passage_id")
