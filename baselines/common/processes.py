"""Processes that train side by side, and end when the one that started them does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from m2kr.common.processes import Processes

_T = TypeVar("_T")


def in_parallel(work: Callable[[_T], None], items: Sequence[_T], jobs: int) -> None:
    """Do work for each item, ``jobs`` at once, each in a process of its own; in this one where one is enough.

    See `Processes`. An error of one ends the others that wait.
    """
    jobs = min(jobs, len(items))
    if jobs < 2:
        for item in items:
            work(item)
        return
    with Processes(jobs) as processes:
        for _ in processes.map(work, items):
            pass
