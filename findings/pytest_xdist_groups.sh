#!/usr/bin/env bash
# pytest 9.2.0 with pytest-xdist 3.8.0: tests of one group are spread over the workers, and nobody says so.
#
# Guess: with --dist loadgroup the tests that a mark xdist_group puts into one group run in one worker, so that what is
# costly to start (a cluster of two nodes) is started once.
# Seen: xdist hangs the group on a test's id by writing the attribute _nodeid; pytest 9.2 keeps its ids elsewhere, so
# the scheduler never hears of groups. Every test is a group of its own; there is no warning, and a fixture of the
# session or module is made once in each worker. With pytest 9.1.1 and the same xdist the group stays together.
. "$(dirname "$0")/lib/environment.sh"
run_with 'pytest==9.2.0' 'pytest-xdist==3.8.0' <<'PY'
import os, subprocess, sys, tempfile
from importlib.metadata import version
from pathlib import Path

TESTS = """
import os, pathlib, time, pytest

@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("number", range(8))
def test_of_the_group(number):
    time.sleep(0.1)
    pathlib.Path(os.environ["PYTEST_XDIST_WORKER"]).touch()
"""
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "test_groups.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    workers = sorted(path.name for path in Path(folder).glob("gw*"))
print(f"pytest {version('pytest')}: eight tests of one group ran in", workers)
assert workers == ["gw0", "gw1"]
PY
