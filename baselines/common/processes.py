"""Processes that train side by side, and end when the one that started them does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import TypeVar

_T = TypeVar("_T")


def in_parallel(work: Callable[[_T], None], items: Sequence[_T], jobs: int) -> None:
    """Do work for each item, ``jobs`` at once, each in a process of its own; in this one where one is enough.

    The processes are not forked: torch's threads would be missing in copies. They end when this process is killed: left
    alone, they would go on writing to the folder of a run, and the same command started again would write there too. An
    error of one ends the others that wait.
    """
    jobs = min(jobs, len(items))
    if jobs < 2:
        for item in items:
            work(item)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent) as processes:
        for _ in processes.map(work, items):
            pass


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
