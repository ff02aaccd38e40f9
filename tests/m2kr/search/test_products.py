"""`m2kr.search.products`: the highest products, however a part is cut, and what is quick."""

from __future__ import annotations

from itertools import cycle
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.search import products
from m2kr.search.products import Part, highest_products, is_quick, turned


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    queries=st.integers(1, 9),
    longest=st.integers(1, 12),
    each=st.integers(1, 9),
    rows=st.integers(1, 50),
)
def test_each_passage_gets_its_highest_products_once(
    seed: int, lengths: list[int], queries: int, longest: int, each: int, rows: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    padded = np.sort(np.array(lengths))[::-1].copy()
    vectors, asked = (
        torch.randint(-9, 10, (count, 8), generator=generator, dtype=torch.int32)
        for count in (int(padded.sum()), queries * longest)
    )
    starts = np.cumsum(padded) - padded
    rows, each = min(rows, len(vectors)), min(each, queries)
    groups = turned(asked, each, longest)
    product = torch.empty((rows, groups.shape[2]), dtype=torch.int32)
    found: dict[tuple[int, int], torch.Tensor] = {}

    def multiply(some: torch.Tensor, group: torch.Tensor) -> None:
        assert len(some) == rows
        product.copy_(some @ group)

    def add_up(group: int, first: int, highest: torch.Tensor) -> None:
        for passage, maxima in enumerate(highest.clone(), first):
            assert (group, passage) not in found
            found[group, passage] = maxima

    highest_products(Part(vectors, starts, padded), groups, product, multiply, add_up)
    assert set(found) == {(group, passage) for group in range(len(groups)) for passage in range(len(padded))}
    for (group, passage), maxima in found.items():
        own = asked[group * each * longest : (group + 1) * each * longest]
        passages = vectors[starts[passage] : starts[passage] + padded[passage]]
        assert torch.equal(maxima[: len(own)], (passages @ own.T).amax(0))
        assert not maxima[len(own) :].any()


@pytest.mark.parametrize("numbers", ["bfloat16", "int8"])
@pytest.mark.parametrize(("seconds", "quick"), [((3.0, 1.0), True), ((1.0, 3.0), False)])
def test_whether_a_product_is_quick(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], quick: bool, numbers: Literal["bfloat16", "int8"]
) -> None:
    """With a clock that says how long products in float32, and in turns with them the others, take."""
    ticks = cycle([tick for taken in seconds for tick in (0.0, taken)])
    monkeypatch.setattr(products, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    is_quick.cache_clear()
    assert is_quick(8, numbers) is quick
    is_quick.cache_clear()
