"""How torch computes in tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums are added up in one order, and workers of pytest-xdist leave each other the cores.

    Products this small gain nothing from threads, which wait for each other where other work shares the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
