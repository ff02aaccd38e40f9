"""`m2kr.search.int8`: how far 8-bit vectors are from what they were, and what that does to results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from m2kr.errors import M2KRError
from m2kr.search.int8 import quantisation_effect, quantise, widen
from m2kr.search.store import EmbeddingStore, Ragged


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


def made(count: int, spread: float) -> tuple[list[np.ndarray], list[np.ndarray], list[set[int]]]:
    """Unit vectors: passages in pairs that are ``spread`` apart, and for each a query that is part of the first."""
    rng = np.random.default_rng(1)
    passages, queries = [], []
    for _ in range(count):
        one = unit(rng.standard_normal((4, 32)))
        passages += [one, unit(one + spread * rng.standard_normal(one.shape))]
        queries.append(one[:3])
    return queries, passages, [{2 * number} for number in range(count)]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_the_effect_is_small_where_passages_are_far_apart_and_large_where_they_are_close() -> None:
    queries, passages, positives = made(60, 0.5)
    effect = quantisation_effect(queries, Ragged.from_list(passages), positives, k=1)
    assert effect.queries == 60
    assert effect.recall == effect.recall_int8 == effect.overlap == 1
    assert effect.changed == 0
    assert str(effect) == (
        "8-bit passages, 60 queries: Recall@1 100.00 (100.00 before, 0 queries changed), "
        "100.0 % of the first 1 the same"
    )
    queries, passages, positives = made(60, 1e-3)  # below the resolution of 8 bits
    effect = quantisation_effect(queries, Ragged.from_list(passages), positives, k=1)
    assert effect.recall == 1
    assert effect.changed > 0
    assert effect.recall_int8 == effect.overlap == pytest.approx(1 - effect.changed / 60)
    assert quantisation_effect(queries, Ragged.from_list(passages), positives, k=2).recall_int8 == 1


@pytest.mark.parametrize("kind", ["multi", "single"])
def test_the_effect_is_that_of_an_8_bit_store(tmp_path: Path, kind: str) -> None:
    from m2kr.search.exact import search

    queries, passages, positives = made(30, 0.02)
    stores = [EmbeddingStore(tmp_path / dtype, "key", kind=kind, dtype=dtype) for dtype in ("float32", "int8")]  # type: ignore[arg-type]
    given = np.stack([query[0] for query in queries]) if kind == "single" else queries
    for store in stores:
        for start in (0, 25):
            part = passages[start : start + 25] if start == 0 else passages[25:]
            store.append(np.stack([item[0] for item in part]) if kind == "single" else part)
    effect = quantisation_effect(given, stores[0], positives, k=3)
    found = [search(given, store, 3)[1] for store in stores]
    hits = [[bool(want & set(row.tolist())) for want, row in zip(positives, rows, strict=True)] for rows in found]
    assert (effect.recall, effect.recall_int8) == (np.mean(hits[0]), np.mean(hits[1]))
    same = [len(set(one.tolist()) & set(two.tolist())) / 3 for one, two in zip(*found, strict=True)]
    assert effect.overlap == pytest.approx(np.mean(same))


def test_positives_of_other_queries_are_refused() -> None:
    queries, passages, positives = made(3, 0.5)
    with pytest.raises(M2KRError, match="there are 3 queries, and positives of 2"):
        quantisation_effect(queries, Ragged.from_list(passages), positives[:2])
    with pytest.raises(M2KRError, match="there are 0 queries"):
        quantisation_effect([], Ragged.from_list(passages), [])
