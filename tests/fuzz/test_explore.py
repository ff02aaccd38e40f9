"""`tests/fuzz/explore.py`: what it prints is what makes the failure come back."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fuzz import explore
from tests.fuzz.explore import Explorer

TESTS = """
import pytest
from hypothesis import example, given, reproduce_failure, strategies as st

@pytest.mark.parametrize("limit", [900])
@given(number=st.integers(), words=st.lists(st.text(), max_size=3))
def test_of_drawn_arguments(tmp_path_factory, limit, number, words):
    assert number < limit or len(words) < 2

@given(st.data())
def test_of_data(data):
    assert data.draw(st.integers(0, 100)) < 57

@given(st.integers())
def test_that_passes(number):
    assert number == number
"""

PROFILE = """
import os
import hypothesis

hypothesis.settings.register_profile("explore", print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
"""


def run(*command: str | Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=command[-1].parent)  # type: ignore[union-attr]
    return done.returncode, done.stdout + done.stderr


def test_the_printed_decorator_shows_the_failure_again(tmp_path: Path) -> None:
    path = tmp_path / "test_drawn.py"
    path.write_text(TESTS)
    (tmp_path / "conftest.py").write_text(PROFILE)  # as in tests/conftest.py; hypothesis' own differ where CI is set
    code, printed = run(explore.__file__, "--seconds", "0", path)
    assert code == 1
    assert "rounds with fresh seeds, 2 tests failed" in printed
    assert re.findall(r"^@reproduce_failure\('.*'\)$", printed, flags=re.MULTILINE)  # of test_of_data
    (decorator,) = re.findall(r"^@example\(\n.*?^\)", printed, flags=re.DOTALL | re.MULTILINE)
    assert decorator == "@example(\n    number=900,\n    words=['', ''],\n)"
    path.write_text(TESTS.replace("@given(number", f"{decorator}\n@given(number"))
    code, printed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", path)
    assert code == 1
    assert "explicit" in printed
    assert "number=900" in printed


def test_what_passes_is_run_again_till_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    explorer, ran, clock = Explorer(seconds=25), [], itertools.count(0, 1)
    monkeypatch.setattr(explore.time, "monotonic", lambda: float(next(clock)))

    def protocol(item: Any, nextitem: Any) -> None:
        ran.append(item.nodeid)
        if item.nodeid == "fails":
            explorer.failures["fails"] = "why"

    config = SimpleNamespace(hook=SimpleNamespace(pytest_runtest_protocol=protocol))
    items = [SimpleNamespace(nodeid=name, config=config) for name in ("passes", "fails", "holds")]
    assert explorer.pytest_runtestloop(SimpleNamespace(items=items))  # type: ignore[arg-type]
    assert ran[:5] == ["passes", "fails", "holds", "passes", "holds"]
    assert ran.count("fails") == 1
    assert 10 < len(ran) < 30
