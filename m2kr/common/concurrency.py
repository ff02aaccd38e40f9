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


def prefetch(items: Iterable[_T]) -> Iterator[_T]:
    """Yield ``items`` in order while a thread makes the next one: reading overlaps with what is done with them.

    An item is begun when the caller gets the one before it, so no third one takes memory. An exception of ``items`` is
    raised where it would have been. The thread ends when the caller stops.
    """
    made: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
    wanted = threading.Semaphore(1)
    stopped = threading.Event()

    def make() -> None:
        try:
            wanted.acquire()
            for item in items:
                made.put((False, item))
                del item
                wanted.acquire()
                if stopped.is_set():
                    return
            made.put((True, None))
        except BaseException as error:
            made.put((True, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            last, value = made.get()
            if not last:
                wanted.release()
                yield value
                del value
            elif value is None:
                return
            else:
                raise value
    finally:
        stopped.set()
        wanted.release()
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
