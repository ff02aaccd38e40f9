"""`m2kr.search.int8`: how far 8-bit vectors are from what they were."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from m2kr.search.int8 import quantise, widen


@settings(deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(0, 6), st.integers(1, 40)),
        elements=st.floats(-(2.0**127), 2.0**127, width=32),
    )
)
def test_a_number_comes_back_within_half_a_scale(vectors: np.ndarray) -> None:
    values, scales = quantise(vectors)
    assert values.dtype == np.int8
    assert values.shape == vectors.shape
    assert scales.dtype == np.float32
    assert scales.shape == vectors.shape[:1]
    assert np.abs(values.astype(int)).max(initial=0) <= 127
    back = widen(values, scales)
    assert back.dtype == np.float32
    error = np.abs(back.astype(np.float64) - vectors).max(axis=1, initial=0)
    largest = np.abs(vectors.astype(np.float64)).max(axis=1, initial=0)
    # 1/254 of the largest, and the rounding of float32 at the end; near the smallest scale an absolute bound holds.
    assert (error <= np.maximum(largest / 254 * (1 + 1e-4), 6e-39)).all()
    np.testing.assert_array_equal(back[largest == 0], 0)


def test_the_dot_product_keeps_to_its_bound() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 128)).astype(np.float32)
    query = rng.standard_normal(128)
    values, scales = quantise(vectors)
    error = np.abs((widen(values, scales).astype(np.float64) - vectors) @ query)
    assert (error <= scales / 2 * np.abs(query).sum() * 1.001).all()
    assert error.max() > 0
