"""What the tests of all models share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny random checkpoint, by its name, made at the first call. Not to be changed."""
    from tests.baselines.families.checkpoints import checkpoint  # imports sentence-transformers, which takes seconds

    root = tmp_path_factory.mktemp("checkpoints")
    return lambda name: checkpoint(name, root)


@pytest.fixture(scope="session")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BLIP-2. Not to be changed."""
    from tests.baselines.readers import write_blip2

    folder = tmp_path_factory.mktemp("models") / "tiny-blip2"
    write_blip2(folder)
    return folder
