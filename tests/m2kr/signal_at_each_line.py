"""Run a command once for each line of ours around it, with a signal at that line; print how each ended as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType
from typing import Any

from m2kr.errors import M2KRError, run_command

AROUND = {"m2kr.errors", "m2kr.signals"}


def good(_: object) -> int:
    """Do nothing."""
    return 0


def bad(_: object) -> int:
    """Fail."""
    raise M2KRError("bad")


def run(main: Any, number: int, at: int) -> tuple[int, str, bool]:
    """Return the exit code (or minus the signal), what was said, and whether there was an ``at``-th line."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.dup2(writing, 2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # before a command has its handlers, a signal just ends it
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if frame.f_globals.get("__name__") not in AROUND:
                return None
            lines += event == "line"
            if event == "line" and lines == at:
                os.kill(os.getpid(), number)
            return trace

        code = 99
        try:
            sys.settrace(trace)
            code = run_command(main, [])
            sys.settrace(None)
            if lines < at:
                code = 98
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, said, code != 98


if __name__ == "__main__":
    found = []
    for main in (good, bad):
        for number in (signal.SIGINT, signal.SIGTERM):
            for at in range(1, 1000):
                code, said, there = run(main, number, at)
                if not there:
                    break
                found.append((main.__name__, int(number), at, code, said))
    print(json.dumps(found))
