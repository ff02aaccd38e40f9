"""`m2kr.search.ragged`: arrays that behave like the lists they were made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2kr.errors import M2KRError
from m2kr.search.ragged import Ragged, as_tensor
from tests.m2kr.search.items import assert_items, items_of


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    start=st.integers(-15, 15),
    stop=st.integers(-15, 15),
    tensors=st.booleans(),
)
def test_ragged_behaves_like_the_list_it_was_made_from(
    lengths: list[int], start: int, stop: int, tensors: bool
) -> None:
    items = items_of(lengths)
    ragged = Ragged.from_list([torch.from_numpy(item) for item in items] if tensors else items)
    assert_items(ragged, items)
    assert ragged.dim == 4
    assert ragged.offsets.dtype == np.int64
    np.testing.assert_array_equal(ragged.lengths, lengths)
    part = ragged.rows(start, stop)
    assert_items(part, items[start:stop])
    assert_items(part.rows(1, 3), items[start:stop][1:3])
    assert_items(Ragged.concatenate([ragged, part]), items + items[start:stop])
    np.testing.assert_array_equal(ragged[-1], items[-1])


def test_slices_share_memory() -> None:
    ragged = Ragged.from_list(items_of([2, 0, 3]))
    assert np.shares_memory(np.asarray(ragged.rows(1, 3).vectors), np.asarray(ragged.vectors))
    assert np.shares_memory(as_tensor(ragged[2]).numpy(), np.asarray(ragged.vectors))


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_become_tensors_without_copy_or_warning() -> None:
    array = np.ones((2, 3), np.float32)
    array.flags.writeable = False
    assert np.shares_memory(as_tensor(array).numpy(), array)


def test_from_list_mixes_arrays_and_tensors_and_ignores_the_width_of_empty_items() -> None:
    ragged = Ragged.from_list([np.zeros((0, 0)), torch.ones((1, 3)), np.ones((2, 3), np.float32), torch.ones(0, 9)])
    assert isinstance(ragged.vectors, torch.Tensor)
    assert ragged.dim == 3
    np.testing.assert_array_equal(ragged.lengths, [0, 1, 2, 0])
    assert len(Ragged.from_list([])) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ragged(np.zeros(3), np.array([0, 3])), r"two dimensions \(total, dim\), not the shape \(3,\)"),
        (lambda: Ragged(np.zeros((3, 1)), np.array([0, 2])), "from 0 to the number of vectors, which is 3"),
        (lambda: Ragged(np.zeros((3, 1)), np.array([1, 3])), "from 0 to"),
        (lambda: Ragged(np.zeros((3, 1)), np.array([0, 2, 1, 3])), "decrease, but do after item 1"),
        (lambda: Ragged.from_list([np.zeros((1, 2)), np.zeros(2)]), r"item 1 must be .* but is \(2,\)"),
        (lambda: Ragged.from_list(["text"]), "item 0 must be .* but is str"),  # type: ignore[list-item]
        (lambda: Ragged.from_list([np.zeros((1, 2)), np.zeros((1, 3))]), "item 1 has dimension 3"),
    ],
)
def test_a_ragged_that_does_not_fit_together(make: Any, message: str) -> None:
    with pytest.raises(M2KRError, match=message):
        make()


def test_an_item_that_is_not_there() -> None:
    ragged = Ragged.from_list(items_of([1, 2]))
    for item in (2, -3):
        with pytest.raises(IndexError):
            ragged[item]


@given(lengths=st.lists(st.integers(0, 5), max_size=12), most=st.integers(1, 12))
def test_blocks_hold_all_items_in_order(lengths: list[int], most: int) -> None:
    ragged = Ragged.from_list(items_of(lengths))
    blocks = list(ragged.blocks(most))
    assert [item.tolist() for block in blocks for item in block] == [item.tolist() for item in ragged]
    assert all(len(block) == 1 or len(block.vectors) <= most for block in blocks)
