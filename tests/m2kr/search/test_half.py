"""`m2kr.search.half` behind `search`, with torch on the CPU in the place of a GPU and of its tensor cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from m2kr.errors import M2KRError
from m2kr.search import bounded, fused, half, maxsim, tiles
from m2kr.search.bounded import Searched
from m2kr.search.exact import search
from m2kr.search.half import HalfBounded, Scaled
from m2kr.search.ragged import Ragged
from m2kr.search.tiles import Plan, stacks_of
from tests.m2kr.search.items import assert_exactly, random_items, whole_numbers
from tests.m2kr.search.test_bounded import VALUES, adversarial, assert_same, outcome
from tests.m2kr.search.test_fused import FakeKernel

CHECKS = (half.adds_up, half.again_plan)


def cut_off(values: torch.Tensor, bits: int = 24) -> torch.Tensor:
    """Numbers in float64 without what is behind their first bits."""
    mantissas, exponents = torch.frexp(values)
    return torch.ldexp(torch.trunc(mantissas * 2.0**bits), exponents - bits)


def on_tensor_cores(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, block: int, kept: int) -> None:
    """Multiply float16 as tensor cores do: products and what was added up before are shifted, cut off and added up.

    Args:
        left: a matrix.
        right: another.
        out: gets the product.
        block: products that are added up at once.
        kept: bits of the largest that the others are shifted to.
    """
    total = torch.zeros(out.shape, dtype=torch.float64)
    one, other = (side.double() for side in (left, right))
    # Products are not normalised, nor are subnormal numbers.
    exponents = [torch.frexp(side).exponent.clamp(min=-13).masked_fill(side == 0, -500) for side in (one, other)]
    for start in range(0, left.shape[1], block):
        some = slice(start, start + block)
        terms = torch.cat([one[:, some, None] * other[None, some], total[:, None]], dim=1)
        places = exponents[0][:, some, None] + exponents[1][None, some] - 1
        sums = torch.frexp(total).exponent.masked_fill(total == 0, -500)[:, None]
        lowest = torch.cat([places, sums], dim=1).amax(1, keepdim=True).clamp(min=-100) - kept
        total = cut_off(torch.ldexp(torch.trunc(torch.ldexp(terms, -lowest)), lowest).sum(1), min(kept, 24))
    out.copy_(total)


def by_torch(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    torch.mm(left.float(), right.float(), out=out)


def forget() -> None:
    for check in CHECKS:
        check.cache_clear()


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU as a GPU: with its sizes and shapes, made smaller."""
    forget()
    for module in (bounded, half, tiles):
        monkeypatch.setattr(module, "kind_of", lambda name: "cuda")
    monkeypatch.setattr(tiles, "_PRODUCT_NUMBERS", {"cpu": 0, "other": 1 << 14})
    monkeypatch.setattr(tiles, "_PRODUCT_VECTORS", {"cpu": 0, "other": 48})
    monkeypatch.setattr(tiles, "_STACK_VECTORS", {"cpu": 0, "other": 100})
    yield
    forget()


@pytest.fixture(params=["product", "kernel"])
def gpu(sizes: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With torch in the place of the tensor cores: of a product of matrices, or of the fused kernel."""
    if request.param == "product":
        monkeypatch.setattr(maxsim, "half_product", by_torch)
        monkeypatch.setattr(half, "half_product", by_torch)
    else:
        monkeypatch.setitem(sys.modules, "late_interaction_kernels", FakeKernel())  # type: ignore[arg-type]
        monkeypatch.setattr(fused, "_DEVICES", ("cpu",))
        monkeypatch.setattr(fused, "_FEWEST_PAIRS", 0)
    return str(request.param)


@pytest.mark.usefixtures("gpu")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    values=st.sampled_from(VALUES),
    query_lengths=st.lists(st.integers(0, 60), min_size=1, max_size=7),
    passage_lengths=st.lists(st.integers(0, 30), min_size=1, max_size=100),
    dim=st.sampled_from([8, 9, 16, 64, 128, 384, 1024]),
    k=st.integers(1, 130),
    memory=st.sampled_from([200_000, 1_000_000, 1 << 30]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    single=st.booleans(),
)
def test_the_result_is_that_of_the_plain_way_to_the_bit(
    seed: int,
    values: str,
    query_lengths: list[int],
    passage_lengths: list[int],
    dim: int,
    k: int,
    memory: int,
    dtype: torch.dtype,
    single: bool,
) -> None:
    rng = np.random.default_rng(seed)
    if single:
        query_lengths, passage_lengths = [1] * len(query_lengths), [1] * len(passage_lengths)
    queries, passages = adversarial(rng, query_lengths, dim, values), adversarial(rng, passage_lengths, dim, values)
    if values == "negative":
        passages = [-item for item in passages]
    passages += [passages[copy] for copy in rng.integers(0, len(passages), len(passages) // 4)]  # equal scores
    if dtype == torch.float16:
        passages = [np.clip(item, -60000, 60000) for item in passages]
    given = [torch.from_numpy(item).to(dtype) for item in passages]
    asked, stored = (queries, given) if not single else (np.concatenate(queries), torch.cat(given))
    wanted = outcome(asked, stored, k, memory=memory, way="plain")
    assert_same(outcome(asked, stored, k, memory=memory, way="bounded"), wanted)


@pytest.mark.usefixtures("gpu")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    query_lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    passage_lengths=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    dim=st.sampled_from([8, 64, 300]),
    k=st.integers(1, 40),
    way=st.sampled_from(["plain", "bounded"]),
)
def test_the_result_is_that_of_the_double_loop(
    seed: int, query_lengths: list[int], passage_lengths: list[int], dim: int, k: int, way: Any
) -> None:
    rng = np.random.default_rng(seed)
    # The last is longer than a tile.
    queries, passages = whole_numbers(rng, query_lengths, dim), whole_numbers(rng, [*passage_lengths, 100], dim)
    assert_exactly(search(queries, passages, k, memory=100_000, way=way), queries, passages, k)


def bounds_of(queries: list[np.ndarray], passages: list[np.ndarray]) -> Any:
    """Lower and upper bounds, each of shape (queries, passages), None, and those that were bounded."""
    asked, chunk = Ragged.from_list(queries), Ragged.from_list(passages)
    stacks = stacks_of(asked, 1 << 30, "cuda")
    plan = Plan.within(1 << 30, stacks, asked, "cpu")
    rounded = HalfBounded.of(Ragged(torch.from_numpy(chunk.vectors), chunk.offsets), 0, plan)
    (stack,) = stacks
    bounds = rounded.bounds(stack, stack.vectors(asked, "cpu"), torch.empty(plan.product_numbers))
    return bounds, stack.queries, rounded.rows


def exactly(queries: list[np.ndarray], passages: list[np.ndarray]) -> torch.Tensor:
    doubles = [[torch.from_numpy(item).double() for item in side] for side in (queries, passages)]
    return torch.stack([torch.stack([(q @ p.T).amax(1).sum() for p in doubles[1]]) for q in doubles[0]])


@pytest.mark.usefixtures("gpu")
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    values=st.sampled_from([values for values in VALUES if values != "too large"]),
    dim=st.sampled_from([16, 64, 128, 1024]),
)
def test_exact_scores_are_within_the_bounds(seed: int, values: str, dim: int) -> None:
    rng = np.random.default_rng(seed)
    queries = adversarial(rng, [5, 20, 1], dim, values)
    passages = adversarial(rng, list(rng.integers(1, 30, 60)), dim, values)
    bounds, rows, columns = bounds_of(queries, passages)
    if bounds is None:
        assert values in ("small", "mixed")  # scales and scores that are beyond float32
        return
    exact = exactly(queries, passages)[rows][:, columns]
    assert (bounds[0] <= exact).all()
    assert (exact <= bounds[1]).all()


@pytest.mark.usefixtures("gpu")
def test_bounds_are_narrower_than_those_of_bfloat16() -> None:
    """A vector rounded to float16 is off by some 0.02 percent, one rounded to bfloat16 by eight times that."""
    rng = np.random.default_rng(0)
    queries, passages = (adversarial(rng, [20] * 4, 128, "unit") for _ in range(2))
    (lower, upper), _, _ = bounds_of(queries, passages)
    assert (upper - lower).max() / 2 < 20 * (2 * 0.00024 + 0.0001)


@pytest.mark.usefixtures("gpu")
def test_few_passages_are_scored_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    queries, passages = random_items(rng, [20] * 5, 64), random_items(rng, list(rng.integers(5, 30, 400)), 64)
    scored: list[int] = []
    before = Searched._marked

    def marked(self: Any, stack: Any, vectors: Any, rounded: Any, wanted: torch.Tensor) -> Any:
        scored.append(int(wanted.sum()))
        return before(self, stack, vectors, rounded, wanted)

    monkeypatch.setattr(Searched, "_marked", marked)
    monkeypatch.setattr(bounded, "scores_of", None)  # nothing else is to score
    search(queries, passages, 10, way="bounded")
    assert 5 * 10 <= sum(scored) < 5 * 400 / 20


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("check", "found"), [("adds_up", False), ("again_plan", None)])
def test_where_the_device_is_not_as_supposed_the_plain_way_is_taken(
    monkeypatch: pytest.MonkeyPatch, check: str, found: bool | None
) -> None:
    rng = np.random.default_rng(3)
    queries, passages = (random_items(rng, [6] * 20, 48) for _ in range(2))
    wanted = search(queries, passages, 5, way="plain")
    monkeypatch.setattr(half, check, lambda *arguments: found)
    monkeypatch.setattr(Searched, "_marked", None)  # nothing is left to it
    assert_same(search(queries, passages, 5, way="bounded"), wanted)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("values", ["near", "unit", "too large"])
def test_measuring_changes_no_result(monkeypatch: pytest.MonkeyPatch, values: str) -> None:
    for name, eager in (("_FEWEST_PASSAGES", 1), ("_LEAST_WORK", {"cpu": 0, "other": 0}), ("_FOR_EACH", 0)):
        monkeypatch.setattr(bounded, name, eager)
    rng = np.random.default_rng(2)
    queries, passages = (adversarial(rng, list(rng.integers(0, 20, count)), 32, values) for count in (8, 150))
    for k in (1, 20):
        wanted = outcome(queries, passages, k, memory=600_000, way="plain")
        assert_same(outcome(queries, passages, k, memory=600_000), wanted)


@pytest.mark.usefixtures("gpu")
def test_nothing_that_is_not_finite_gets_through() -> None:
    passages = [np.ones((3, 8), np.float32) for _ in range(9)]
    passages[4][1, 1] = np.inf
    with pytest.raises(M2KRError, match="passage 4 hold NaN or infinity"):
        search([np.ones((2, 8), np.float32)], passages, 2, way="bounded")


def test_a_vector_and_what_rounding_takes_from_it() -> None:
    vectors = torch.randn((60, 5, 48), generator=torch.Generator().manual_seed(0))
    vectors[7] = 0
    vectors *= 10.0 ** torch.arange(-30, 30)[:, None, None]
    norms = vectors.double().norm(dim=2)
    nothing = torch.where(norms == 0, 1e-21, 1e-37)
    scaled = Scaled.of(vectors)
    rounded = torch.ldexp(scaled.vectors.double(), -scaled.exponents[:, None, None])
    lost = (vectors.double() - rounded).norm(dim=2)
    assert (lost <= norms * 2.0**-11).all()
    assert (scaled.lost >= lost).all()
    assert (scaled.lost <= lost * 1.0001 + norms * 1e-15 + nothing).all()
    assert (scaled.lengths >= torch.maximum(norms, rounded.norm(dim=2))).all()
    assert (scaled.lengths <= norms * 1.0005 + nothing).all()


def small_plan(dim: int, longest: int) -> Plan:
    asked = Ragged.from_list([np.ones((longest, dim), np.float32)])
    return Plan.within(200_000, stacks_of(asked, 200_000, "cuda"), asked, "cpu")


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("dim", [16, 128, 512])
def test_tensor_cores_that_cut_off_are_allowed_for_and_worse_ones_found_out(
    monkeypatch: pytest.MonkeyPatch, dim: int
) -> None:
    plan = small_plan(dim, 20)
    # A V100, an A100, an H100, and an H100 in fp8.
    for block, kept, fine in ((4, 24, True), (8, 25, True), (16, 26, True), (32, 14, False)):
        forget()
        multiply = partial(on_tensor_cores, block=block, kept=kept)
        monkeypatch.setattr(maxsim, "half_product", multiply)
        assert half.adds_up("cpu", plan, 2, 20) is fine
    forget()
    monkeypatch.setattr(maxsim, "half_product", lambda left, right, out: out.copy_(torch.mm(left, right)))
    assert not half.adds_up("cpu", plan, 2, 20)  # rounds to float16
    forget()
    flush = lambda side: side.float().masked_fill(side.abs() < 2.0**-14, 0)  # noqa: E731
    monkeypatch.setattr(maxsim, "half_product", lambda left, right, out: out.copy_(flush(left) @ flush(right)))
    assert not half.adds_up("cpu", plan, 2, 20)  # takes the smallest numbers for zero


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize(("lowest", "rows"), [(1, 16), (90, 97), (1000, None)])
def test_passages_are_scored_again_in_the_lowest_product_of_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, lowest: int, rows: int | None
) -> None:
    """With products that, where they are lower, are added up in two parts at their end, as stream-K kernels do."""
    plan = small_plan(48, 20)
    assert plan.tile_rows == 97
    before = torch.mm

    def product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        before(left, right, out=out)
        if len(left) < lowest:
            out[-3:] = before(left[-3:, :24], right[:24]) + before(left[-3:, 24:], right[24:])
        return out

    monkeypatch.setattr(torch, "mm", product)
    found = half.again_plan("cpu", plan, 32)
    assert rows == (found and found.tile_rows) == (found and found.least_rows)


def test_where_there_are_no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not half.can_bound("cpu", 64)
    monkeypatch.setattr(half, "_DEVICES", ("cpu",))
    assert not half.can_bound("cpu", 64)  # torch has no such product on a CPU
    monkeypatch.setattr(half, "half_product", by_torch)
    assert half.can_bound("cpu", 64)
    assert not half.can_bound("cpu", 63)


def test_of_a_gpu_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "half_product", lambda *arguments: None)
    monkeypatch.setattr(torch, "ones", lambda *shape, **named: None)
    monkeypatch.setattr(torch, "empty", lambda *shape, **named: None)
    for capability, fine in (((7, 0), False), ((7, 5), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, own=capability: own)
        assert half.can_bound("cuda", 128) is fine


@pytest.mark.usefixtures("sizes")
def test_the_kernel_itself_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for every run: it takes the extra ``gpu`` and TRITON_INTERPRET=1."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("TRITON_INTERPRET is not 1")
    forward = pytest.importorskip("late_interaction_kernels.forward")
    monkeypatch.setattr(fused, "_DEVICES", ("cpu",))
    # The interpreter cannot tune, and takes a while for each program.
    monkeypatch.setattr(forward, "_should_bypass_autotune", lambda *sizes: True)
    monkeypatch.setattr(fused, "_FEWEST_PAIRS", 0)
    rng = np.random.default_rng(6)
    queries, passages = random_items(rng, [20, 7, 33], 16), random_items(rng, list(rng.integers(1, 80, 25)), 16)
    wanted = search(queries, passages, 3, way="plain")
    calls: list[torch.dtype] = []

    def scores(pieces: torch.Tensor, block: Any) -> torch.Tensor:
        calls.append(pieces.dtype)
        return maxsim.kernel_scores(pieces, block)

    monkeypatch.setattr(half, "kernel_scores", scores)
    assert half.adds_up("cpu", small_plan(16, 20), 2, 20)
    monkeypatch.setattr(bounded, "scores_of", None)  # nothing else is to score
    assert_same(search(queries, passages, 3, way="bounded"), wanted)
    assert set(calls) == {torch.float16}
    assert len(calls) > 1
