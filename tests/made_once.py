"""Folders that several processes of a test session read, and one makes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(folder: str, factory: pytest.TempPathFactory, make: Callable[[Path], None]) -> Path:
    """Return a folder of a session that one worker of pytest-xdist has made, for all of them."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    out, mark = base / folder, base / f"{folder}.made"
    with FileLock(base / f"{folder}.lock"):
        if not mark.exists():
            make(out)
            mark.touch()
    return out
