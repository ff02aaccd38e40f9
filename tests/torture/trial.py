"""One run of a command in a forked process, with something done to it on the way."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr.errors import run_command

MOST_SECONDS = 60
MOST_BYTES = 2 << 30

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Fault:
    """What happens before the ``at``-th change of a file under a folder, counted from 1.

    Attributes:
        kind: "kill", "full" (no file can be made from then on), "read-only" (nothing can be changed from the start),
            "size" (no file can have more than ``at`` bytes) or "count" (nothing).
        at: the number.
    """

    kind: str
    at: int = 0

    def install(self, out: Path, notes: Path) -> Callable[[], None]:
        """Begin to watch this process; return what notes the count of changes at its end."""
        if self.kind == "size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.at, self.at))
        count = 0
        within = str(out)

        def watch(event: str, arguments: Any) -> None:
            nonlocal count
            made = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
            if not (made or event in _CHANGES) or not str(arguments[0]).startswith(within):
                return
            count += 1
            if self.kind == "kill" and count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "full" and count >= self.at and (made or event == "os.mkdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
            if self.kind == "read-only":
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))

        if self.kind != "size":
            sys.addaudithook(watch)
        return lambda: None if self.kind != "count" else notes.write_text(str(count), encoding="utf-8") and None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit code (or minus the signal), what it said, and what it took."""

    code: int
    said: str
    seconds: float
    memory: int
    orphans: bool

    @property
    def defects(self) -> list[str]:
        """What no run may do, whatever was done to it."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        found = {
            "traceback": "Traceback" in self.said,
            f"exit code {self.code}": self.code
            not in (0, 1, 2, 130, 143, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM),
            "an orphan": self.orphans,
            f"{self.seconds:.0f} seconds": self.seconds > MOST_SECONDS,
            f"{self.memory / 1e9:.1f} GB": self.memory > MOST_BYTES,
            "no single line": self.code == 2 and sum(line.startswith("error: ") for line in lines) != 1,
        }
        return [name for name, is_so in found.items() if is_so]


class Running:
    """A command that was started in a forked process, in a process group of its own."""

    def __init__(self, main: Any, argv: list[str], out: Path, notes: Path, fault: Fault | None = None) -> None:
        self._notes = notes
        self._began = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(main, argv, out, fault)

    def _run(self, main: Any, argv: list[str], out: Path, fault: Fault | None) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a signal before the command has its handlers just ends it
            said = os.open(self._notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            note = fault.install(out, self._notes.with_suffix(".count")) if fault else lambda: None
            code = run_command(main, argv)
            note()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def end(self, *, after: float | None = None, number: int = signal.SIGKILL) -> Outcome:
        """Wait for it, and send it a signal after some seconds if it runs for so long."""
        sent = False
        while True:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            took = time.monotonic() - self._began
            if after is not None and took > after and not sent:
                sent = True
                os.kill(self.pid, number)
            if took > 3 * MOST_SECONDS:
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.003)
        seconds = time.monotonic() - self._began
        return Outcome(
            os.waitstatus_to_exitcode(status),
            self._notes.read_text(encoding="utf-8", errors="replace"),
            seconds,
            used.ru_maxrss * 1024,
            self._orphans(),
        )

    def _orphans(self) -> bool:
        """Whether processes that it started are still there some seconds later."""
        for _ in range(100):
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return False
            time.sleep(0.1)
        os.killpg(self.pid, signal.SIGKILL)
        return True
