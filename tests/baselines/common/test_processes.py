"""Processes that train side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from baselines.common.processes import in_parallel


def write_process_id(file: Path) -> None:
    file.write_text(str(os.getpid()))


def test_work_is_done_by_processes_of_their_own_where_there_is_enough(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(3)]
    in_parallel(write_process_id, files, 2)
    assert str(os.getpid()) not in {file.read_text() for file in files}
    in_parallel(write_process_id, files[:1], 2)
    assert files[0].read_text() == str(os.getpid())


CODE = """
import sys, time
from pathlib import Path
from tests.baselines.common.test_processes import go_on
from baselines.common.processes import in_parallel

if __name__ == "__main__":
    in_parallel(go_on, [Path(sys.argv[1]), Path(sys.argv[1])], 2)
"""


def go_on(file: Path) -> None:
    """Say once more that this process is there, again and again."""
    while True:
        with file.open("a") as out:
            out.write("x")
        time.sleep(0.02)


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script, file = tmp_path / "start.py", tmp_path / "signs"
    script.write_text(CODE)
    root = Path(__file__).parents[3]
    started = subprocess.Popen(
        [sys.executable, str(script), str(file)], env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.DEVNULL
    )
    for _ in range(600):
        if file.exists():
            break
        time.sleep(0.05)
    started.kill()
    started.wait()
    deadline = time.monotonic() + 30
    signs, before = file.stat().st_size, -1
    assert signs
    while signs != before and time.monotonic() < deadline:
        time.sleep(0.5)
        signs, before = file.stat().st_size, signs
    assert signs == before
