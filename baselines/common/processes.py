"""Processes that train side by side, and end when the one that started them does."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process


def pool(jobs: int) -> ProcessPoolExecutor:
    """Return an executor of ``jobs`` processes, which are not forked: torch's threads would be missing in copies.

    They end when this process is killed. Left alone, they would go on writing to the folder of a run, and the same
    command started again would write there too.
    """
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
