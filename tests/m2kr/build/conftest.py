"""Raw files that a test of the build may damage."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def raw(world, tmp_path):
    """A copy of the world that a test may damage, without the COCO pictures."""
    return Path(shutil.copytree(world, tmp_path / "raw", ignore=shutil.ignore_patterns("COCO_*")))
