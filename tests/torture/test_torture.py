"""A few seconds of `make torture`, with commands that take little time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 8
COMMANDS = "build,evaluate bm25,export beir,check"


def test_commands_bear_kills_full_disks_rivals_and_damage():
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--trials", str(TRIALS), "--commands", COMMANDS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = re.search(r"^\| all \|(.*)\| 0 \|$", done.stdout, flags=re.MULTILINE)
    assert trials is not None
    counts = [(int(held), int(tried)) for held, tried in re.findall(r"(\d+) / (\d+)", trials[1])]
    assert sum(tried for _, tried in counts) == TRIALS
    assert all(held == tried for held, tried in counts)
