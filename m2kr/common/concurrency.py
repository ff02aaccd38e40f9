"""Work in threads and processes that keeps its order: a generator read ahead, and a map of bounded memory."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def prefetch(items: Iterable[_T], depth: int = 1) -> Iterator[_T]:
    """Yield ``items`` in order while a thread makes the next ones: reading overlaps with what is done with them.

    An exception of ``items`` is raised where it would have been. The thread ends when the caller stops.
    """
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(last: bool, value: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((last, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(False, item):
                    return
            put(True, None)
        except BaseException as error:
            put(True, error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            last, value = waiting.get()
            if not last:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        stopped.set()
        thread.join()


def ordered_map(function: Callable[[_T], _R], items: Iterable[_T], workers: int) -> Iterator[_R]:
    """Map over ``items`` in threads, in order, with only a few items in flight, so that memory stays bounded."""
    if workers <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pooled_map(pool, function, items, depth=workers)


def pooled_map(pool: Executor, function: Callable[[_T], _R], items: Iterable[_T], *, depth: int) -> Iterator[_R]:
    """Map over ``items`` in a pool, in order, while the results of at most ``depth`` others are made or wait."""
    pending: deque[Future[_R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
