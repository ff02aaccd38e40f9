"""What several of the tests of `m2kr` read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from baselines.bm25 import BM25
from m2kr.common import registry
from m2kr.dataset import TaskData, load_task
from m2kr.formats.manifest import read_manifest
from tests.m2kr.evaluating import Multi, Preparing, Seeing, Single, entry_points_of


@pytest.fixture
def data(built: Path, tmp_path: Path) -> Path:
    """A benchmark that a test may change, of two tasks: MS MARCO's and OK-VQA's."""
    out = tmp_path / "data"
    for key in ("MSMARCO", "OKVQA"):
        for suffix in ("data", "passages"):
            shutil.copytree(built / f"{key}_{suffix}", out / f"{key}_{suffix}")
    manifest = read_manifest(built)
    manifest["tasks"] = {key: manifest["tasks"][key] for key in ("MSMARCO", "OKVQA")}
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return out


@pytest.fixture
def okvqa(built: Path) -> TaskData:
    return load_task("OKVQA", built)


@pytest.fixture
def msmarco(built: Path) -> TaskData:
    return load_task("MSMARCO", built)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Register the fakes as "single", "multi", "seeing" and "preparing", and bm25; return those that are made."""
    made: list[Any] = []

    points = entry_points_of(
        {"single": Single, "multi": Multi, "seeing": Seeing, "preparing": Preparing, "bm25": BM25}, made
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    return made
