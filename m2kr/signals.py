"""How Ctrl-C and SIGTERM end a command: soon, whatever it is doing, with one line and the exit code shells expect."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, ClassVar, Self


class Signals:
    """Ends a command on Ctrl-C and SIGTERM: by a KeyboardInterrupt, or else within two seconds.

    The exception may be lost, as in a callback of a library, or come late, as while the main thread is in native code
    or waits for others. A thread beside it then ends the process; what a kill leaves is what any command goes on from.

    The exception is raised between `arm` and `disarm` only, so that it meets a clause that handles it; before and
    after, a signal is noted. What libraries print of the exception on its way is not shown.

    Attributes:
        caught: the first signal that came.
    """

    _GRACE = 1.5  # seconds
    _active: ClassVar[Signals | None] = None

    def __init__(self) -> None:
        self.caught: int | None = None
        self._armed = self._raised = self._told = False
        self._before: dict[int, Any] = {}
        self._errors: int | None = None  # where standard error went before it was muted

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        return 128 + (self.caught or signal.SIGINT)

    def __enter__(self) -> Self:
        wanted = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
        if threading.current_thread() is threading.main_thread() and Signals._active is None:
            Signals._active = self
            self._reading, self._writing = os.pipe()
            os.set_blocking(self._writing, False)
            signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._handle) for number in wanted}
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if Signals._active is not self or self.caught is not None:
            return  # after a signal, the watch goes on until the process has ended
        Signals._active = None
        signal.set_wakeup_fd(-1)
        for number, before in self._before.items():
            signal.signal(number, before)
        sys.unraisablehook = self._hook
        os.close(self._writing)  # ends the thread, which closes the other end

    def arm(self) -> None:
        """Let signals raise KeyboardInterrupt from now on; raise it where one has come already."""
        self._armed = True
        if self.caught is not None:
            self._raise()

    def disarm(self) -> None:
        """Let signals raise nothing from now on."""
        self._armed = False

    def line(self) -> str:
        """Return what is said of it, the first time, and then nothing; standard error takes it."""
        errors, self._errors = self._errors, None
        if errors is not None:
            os.dup2(errors, 2)
            os.close(errors)
        told, self._told = self._told, True
        what = "ended by SIGTERM" if self.caught == signal.SIGTERM else "interrupted"
        return "" if told else f"{what}; what was finished is kept, and the same command goes on from there"

    def _handle(self, number: int, _: object) -> None:
        self.caught = self.caught or number
        self._raise()

    def _raise(self) -> None:
        if self._armed and not self._raised:  # further ones change nothing
            self._raised = True
            with suppress(OSError):
                self._errors = os.dup(2)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)
            raise KeyboardInterrupt

    def _unraisable(self, what: Any) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            self._hook(what)

    def _watch(self) -> None:
        # The number of each signal comes through the pipe at once, whatever the main thread is doing.
        while number := os.read(self._reading, 1):
            if number[0] in self._before:
                self.caught = self.caught or number[0]
                time.sleep(self._GRACE)
                with suppress(OSError):
                    if line := self.line():
                        os.write(2, f"{line}\n".encode())
                os._exit(self.exit_code)
        os.close(self._reading)


# A forked process leaves Ctrl-C to the one that forked it, which ends it, and dies of SIGTERM. Until it has its own
# handlers, signals wait: through those of its parent, they would tell the parent's watch.
_forking = threading.local()


def _before_fork() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _in_child() -> None:
    if Signals._active is not None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        Signals._active = None
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
