"""Processes beside this one: interrupts do not reach them, and they end when the one that started them does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

_T = TypeVar("_T")


class Processes(ProcessPoolExecutor):
    """A pool of spawned processes; they are not forked, since a fork of a process whose torch has threads can hang.

    Ctrl-C at a terminal reaches all its processes, and those that are just starting would each print a traceback. So it
    is blocked in them, and they end with this one, killed or not: left alone, they would wait for work for ever, or go
    on writing where the same command, started again, writes too.
    """

    def __init__(self, workers: int, begin: Callable[..., object] | None = None, *given: Any) -> None:
        super().__init__(workers, get_context("spawn"), _begin, (begin, given))

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Have a function called in one of the processes, which is started if need be."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process has the mask of its parent
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(begin: Callable[..., object] | None, given: tuple[Any, ...]) -> None:
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    if begin is not None:
        begin(*given)
