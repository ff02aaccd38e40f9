"""Batches against their definition, and what the encoders of texts and devices share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from baselines.common.batching import as_array, batches, device_of, dtype_of, encode, padded, texts_of
from m2kr.errors import M2KRError

CPU = torch.device("cpu")


@given(
    lengths=st.lists(st.integers(0, 50), max_size=40),
    batch_size=st.integers(1, 12),
    max_tokens=st.none() | st.integers(1, 200),
)
def test_batches_hold_every_row_once_and_keep_their_limits(
    lengths: list[int], batch_size: int, max_tokens: int | None
) -> None:
    found = batches(lengths, batch_size, max_tokens)
    rows = [row for batch in found for row in batch]
    assert rows == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    for batch in found:
        assert 1 <= len(batch) <= batch_size
        longest = max(lengths[row] for row in batch)
        assert max_tokens is None or len(batch) == 1 or len(batch) * longest <= max_tokens
    for batch in found[:-1]:  # none could have taken one more
        longest = max(lengths[row] for row in batch)
        assert len(batch) == batch_size or (max_tokens is not None and longest * (len(batch) + 1) > max_tokens)


def test_a_batch_has_room_for_one_at_least() -> None:
    with pytest.raises(M2KRError, match="batch_size is 0"):
        batches([1, 2], 0)


@given(lengths=st.lists(st.integers(0, 9), max_size=20), batch_size=st.integers(1, 7))
@settings(max_examples=30)
def test_results_stand_in_the_order_of_the_inputs(lengths: list[int], batch_size: int) -> None:
    seen: list[list[int]] = []

    def run(rows: list[int]) -> list[str]:
        assert torch.is_inference_mode_enabled()
        seen.append(rows)
        return [f"{row}: {lengths[row]}" for row in rows]

    assert encode(run, lengths, batch_size) == [f"{row}: {length}" for row, length in enumerate(lengths)]
    assert seen == batches(lengths, batch_size)


def test_a_batch_that_loses_a_result_is_noticed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        encode(lambda rows: rows[1:], [1, 2, 3], 3)


def test_padding_is_on_the_right_and_masked() -> None:
    ids, mask = padded([[5, 6, 7], [], [8]], 9, CPU)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 9], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert ids.dtype == mask.dtype == torch.int64


def test_texts_are_taken_from_either_form_and_pictures_are_never_dropped() -> None:
    assert texts_of(["a", {"text": "b"}, {}], "dpr") == ["a", "b", ""]
    with pytest.raises(M2KRError, match="input 1 has a picture, and dpr reads only text"):
        texts_of(["a", {"text": "b", "image": Image.new("RGB", (4, 4))}], "dpr")


def test_names_of_types_and_devices() -> None:
    assert (dtype_of("float16"), dtype_of("bfloat16")) == (torch.float16, torch.bfloat16)
    assert device_of("cpu") == CPU
    with pytest.raises(M2KRError, match="Choose one of float32, float16, bfloat16"):
        dtype_of("int8")
    for name in ("cuda:99", "gpu"):
        with pytest.raises(M2KRError, match=f"device '{name}' cannot be used"):
            device_of(name)


def test_arrays_are_float32_whatever_the_tensor_is() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        array = as_array(torch.tensor([1.5, -2.0], dtype=dtype, requires_grad=True))
        assert array.dtype == np.float32
        assert array.tolist() == [1.5, -2.0]
