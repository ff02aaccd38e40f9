"""`m2kr.search.bounds_int8`: how far rounding to 8 bits goes, and that a product which is not exact is found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from m2kr.search.bounds_int8 import Int8Bounded, Spread, multiplies_exactly, quantise
from m2kr.search.layout import Layout, Sizes
from m2kr.search.ragged import Ragged


def test_items_and_what_rounding_takes_from_them() -> None:
    items = torch.randn((30, 7, 48), generator=torch.Generator().manual_seed(0))
    items[3] = 0
    items[4] *= 1e-30
    items[5] *= 1e15
    numbers, found = torch.empty(items.shape, dtype=torch.int8), torch.empty((3, 30))
    quantise(items.clone(), torch.empty_like(items), numbers, found)
    scales, longest, lost = found.double()
    exactly, back = items.double(), numbers.double() * scales[:, None, None]
    assert (numbers.abs().amax((1, 2)) == torch.where(torch.arange(30) == 3, 0, 127)).all()
    off = (exactly - back).norm(dim=2).amax(1)
    assert (lost >= off).all()
    assert (lost <= off * 1.0002 + 1e-16).all()
    length = torch.maximum(exactly.norm(dim=2), back.norm(dim=2)).amax(1)
    assert (longest >= length).all()
    assert (longest <= length * 1.03 + 1e-16).all()


def far(dim: int = 128) -> torch.Tensor:
    """Vectors of which one dimension is often much larger than all others, and another half as much."""
    vectors = torch.randn((500, dim), generator=torch.Generator().manual_seed(1))
    vectors[::3, 5] *= 8
    vectors[::3, 9] *= 3
    return vectors


def test_dimensions_that_reach_far_are_spread_and_nothing_else_changes() -> None:
    vectors = far()
    spread = Spread.of(vectors)
    assert spread is not None
    copies = torch.bincount(spread.source)
    assert copies[5] == 16
    assert copies[9] == 4
    assert copies.sum() == 128 + 15 + 3
    over, queries = spread.over(vectors), torch.randn((9, 128), generator=torch.Generator().manual_seed(2))
    assert over.abs().amax() < vectors.abs().amax() / 2
    exactly = queries.double() @ vectors.double().T
    assert torch.allclose(spread.over(queries).double() @ over.double().T, exactly, rtol=1e-14, atol=1e-13)
    assert (over[:, spread.source == 5] == vectors[:, 5:6] / 4).all()


@pytest.mark.parametrize(
    "vectors",
    [
        torch.randn((500, 64), generator=torch.Generator().manual_seed(3)),
        torch.eye(64),  # so many that it would gain little
        torch.zeros((5, 8)),
        torch.full((5, 8), torch.inf),
        torch.full((5, 8), torch.nan),
        torch.empty((0, 8)),
        torch.full((5, 8), 3e38),
    ],
)
def test_other_dimensions_are_left_alone(vectors: torch.Tensor) -> None:
    assert Spread.of(vectors) is None


def test_spreading_makes_bounds_narrower(monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = Ragged.one_each(far())

    def lost() -> torch.Tensor:
        return Int8Bounded.of(chunk, 0, Layout.of(chunk, Sizes(64, 64, 500))).lost

    spread = lost()
    monkeypatch.setattr(Spread, "of", lambda vectors: None)
    assert spread.amax() < lost().amax() / 2.5


def test_a_product_that_is_not_exact_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where one side is made positive, and pairs of products are added up in 16 bits, which holds most of them."""
    assert multiplies_exactly(64, 48, 32)
    multiplies_exactly.cache_clear()

    def saturating(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> Any:
        products = (left[:, :, None].int() + 128) * right[None].int()
        pairs = (products[:, ::2] + products[:, 1::2]).clamp(-(1 << 15), (1 << 15) - 1)
        out.copy_(pairs.sum(1) - 128 * right.int().sum(0))
        return out

    with monkeypatch.context() as patch:
        patch.setattr(torch, "_int_mm", saturating)
        assert not multiplies_exactly(64, 48, 32)
        multiplies_exactly.cache_clear()
