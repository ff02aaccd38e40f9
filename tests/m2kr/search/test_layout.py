"""Sizes of tiles are tried in turns on small layouts; then the faster one stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2kr.search.layout import Layout, Sizes, TriedSizes
from m2kr.search.ragged import Ragged
from m2kr.search.tiles import Plan, stacks_of


@pytest.mark.parametrize("fast", [256, 1024])
def test_the_faster_tiles_stay(fast: int) -> None:
    sizes = TriedSizes(1024, 1024, 100_000, choices=(256, 1024))
    tried = []
    for number in range(4):
        assert sizes.layout == 1024
        tried.append(sizes.tile)
        # A call that something else held up does not decide.
        held_up = 100 * (number < 2)
        sizes.took((1 if sizes.tile == fast else 1.1) * 1000 + held_up * 1000, 1000)
    assert tried == [256, 1024] * 2
    for _ in range(3):
        assert (sizes.tile, sizes.layout) == (fast, 100_000)
        sizes.took(1e9, 1)


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 50), st.integers(1, 9), st.integers(1, 90))
def test_every_passage_is_laid_out_once(lengths: list[int], tile: int, items: int, most: int) -> None:
    """Whatever the sizes and when they change; padded vectors are of their own passage."""
    chunk = Ragged(np.zeros((sum(lengths), 1), np.float32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    sizes = Sizes(tile, items, most)
    seen = []
    for layout in Layout.of(chunk, sizes):
        seen += layout.passages.tolist()
        owner = np.searchsorted(chunk.offsets, layout.source, side="right") - 1
        for row, members, length in layout.tiles:
            assert members == 1 or (members <= sizes.items and members * length <= sizes.tile)
            own = owner[row : row + members * length].reshape(members, length)
            assert (own == own[:, :1]).all()
            assert length == chunk.lengths[own[:, 0]].max()
        if layout.tiles:
            np.testing.assert_array_equal(owner[layout.starts], layout.passages)
        sizes.tile, sizes.layout = sizes.tile % 50 + 1, sizes.layout % 90 + 1
    assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize("memory", [1 << 20, 1 << 25, 1 << 30])
@pytest.mark.parametrize(("vectors", "dim"), [(1, 8), (1, 1024), (16, 384), (320, 128)])
def test_a_block_with_its_last_tile_keeps_to_its_part_of_the_memory(memory: int, vectors: int, dim: int) -> None:
    """Few query vectors allow for high products, and a block ends after the tile that fills it."""
    asked = Ragged.from_list([np.ones((vectors, dim), np.float32)])
    plan = Plan.within(memory, stacks_of(asked, memory, "cpu"), asked, "cpu")
    sizes = plan.tried_sizes()
    assert (sizes.layout + sizes.tile) * dim * 4 <= memory // 4
    assert (plan.block_rows + 2 * plan.tile_rows) * dim * 4 <= memory // 4
