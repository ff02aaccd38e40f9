"""How a command is measured: as a process of its own, wall time and the kernel's high-water mark of its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

# getrusage would report the memory of the forked parent where that is larger, so the process prints its own mark.
_REPORT = (
    "import atexit, sys\n"
    "atexit.register(lambda: print(open('/proc/self/status').read(), file=sys.stderr))\n"
    "import runpy\n"
)


@pytest.fixture(scope="session")
def measure() -> Callable[[list[str]], tuple[float, int]]:
    """Return a function that runs a module or script with arguments and gives its seconds and peak bytes."""

    def run(command: list[str]) -> tuple[float, int]:
        how = "run_path" if command[0].endswith(".py") else "run_module"
        script = f"{_REPORT}sys.argv = {command!r}\nrunpy.{how}({command[0]!r}, run_name='__main__')"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        environment.pop("_RJEM_MALLOC_CONF", None)  # set here by the import of Polars, not by the user
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        seconds = time.perf_counter() - start
        assert done.returncode == 0, done.stderr
        peak = next(line for line in done.stderr.splitlines() if line.startswith("VmHWM:"))
        return seconds, int(peak.split()[1]) * 1024

    return run
