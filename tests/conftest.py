"""The made-up world that the tests read, generated once a session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from m2kr.build.task import build_task
from m2kr.synthetic.write import generate
from m2kr.tasks import TASKS

SCALE = 0.2

# The same examples each time: a run that passes passes again, however slow the machine. `make fuzz` explores others.
ANY_SPEED: dict[str, Any] = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("same", derandomize=True, **ANY_SPEED)
hypothesis.settings.register_profile("explore", print_blob=True, **ANY_SPEED)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw releases of a small world, one folder each; also the root of its images. Not to be changed."""
    root = tmp_path_factory.mktemp("world") / "raw"
    generate(root, scale=SCALE, quiet=True)
    return root


@pytest.fixture(scope="session")
def built(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark built from `world`: every task. Not to be changed."""
    out = tmp_path_factory.mktemp("built") / "m2kr"
    for task in TASKS.values():
        build_task(task, world, out, quiet=True)
    return out
