"""Time, memory, versions and the commit of a run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from m2kr import __version__
from m2kr.common import measure
from m2kr.common.measure import Phases, code_commit, hardware, peak_memory, reset_peak_memory, versions


def test_phases_have_their_own_time_and_peak() -> None:
    phases = Phases()
    with phases.measured("large"):
        large = np.ones(1 << 27, dtype=np.uint8)
        time.sleep(0.01)
    del large
    with phases.measured("small"):
        pass
    with phases.measured("large"):
        time.sleep(0.01)
    assert phases.seconds["large"] >= 0.02 > phases.seconds["small"]
    if Path("/proc/self/clear_refs").exists():
        assert phases.memory["large"] - phases.memory["small"] > 1 << 26
    assert phases.memory["small"] > 1 << 20


def test_a_peak_counts_from_its_reset() -> None:
    reset_peak_memory()
    before = peak_memory()
    np.ones(1 << 27, dtype=np.uint8)
    assert peak_memory() - before > 1 << 26


def test_versions_are_those_of_installed_packages() -> None:
    found = versions()
    assert (found["m2kr"], found["numpy"]) == (__version__, np.__version__)
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert "cores" in hardware("cpu")


def test_the_commit_is_that_of_the_checkout_and_says_when_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *author, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    code = tmp_path / "m2kr" / "common" / "measure.py"
    code.parent.mkdir(parents=True)
    code.write_text("1")
    monkeypatch.setattr(measure, "__file__", str(code))
    assert code_commit() is None
    git("init", "-q")
    git("add", "m2kr")
    git("commit", "-q", "-m", "one")
    assert code_commit() == git("rev-parse", "HEAD")
    (tmp_path / "notes").write_text("not code")
    assert code_commit() == git("rev-parse", "HEAD")
    code.write_text("2")
    assert code_commit() == git("rev-parse", "HEAD") + "+changes"
    monkeypatch.setenv("PATH", "")
    assert code_commit() is None
