"""`m2kr.search.bfloat16`: how far rounding goes, and that a product which rounds more than once is found out."""

from __future__ import annotations

import pytest
import torch

from m2kr.search.bfloat16 import Rounded, further_from_zero, rounds_once


def test_a_vector_and_what_rounding_takes_from_it() -> None:
    vectors = torch.randn((300, 48), generator=torch.Generator().manual_seed(0))
    vectors[7] = 0
    rounded = Rounded.of(vectors)
    assert torch.equal(rounded.vectors.bfloat16().float(), rounded.vectors)
    exactly = vectors.double(), rounded.vectors.double()
    lost = (exactly[0] - exactly[1]).norm(dim=1)
    assert (rounded.lost >= lost).all()
    assert (rounded.lost <= lost * 1.0001 + 1e-17).all()
    assert (rounded.lengths >= torch.maximum(exactly[0].norm(dim=1), exactly[1].norm(dim=1))).all()
    assert (rounded.lengths <= exactly[0].norm(dim=1) * 1.004 + 1e-17).all()


def test_a_product_that_rounds_more_than_once_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rounds_once(64, 48, 32)
    rounds_once.cache_clear()
    before = torch.mm

    def twice(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return before(left[:, :24], right[:24]) + before(left[:, 24:], right[24:])

    with monkeypatch.context() as patch:
        patch.setattr(torch, "mm", twice)
        assert not rounds_once(64, 48, 32)
        rounds_once.cache_clear()


def test_half_a_unit_of_the_last_place() -> None:
    values = torch.tensor([1.0, 1.9921875, -1.0, -6.0, 0.375])
    assert (further_from_zero(values) - values).tolist() == [2**-8, 2**-8, -(2**-8), -(2**-6), 2**-10]
