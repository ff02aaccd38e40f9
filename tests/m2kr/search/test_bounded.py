"""`m2kr.search.bounded`: the same results as without it, to the bit, from fewer products."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import M2KRError
from m2kr.search import bounded as module
from m2kr.search import bounds as bounds_module
from m2kr.search import bounds_int8
from m2kr.search.bounded import Searched, Way
from m2kr.search.bounds import Bfloat16Bounded, Bounded
from m2kr.search.bounds_int8 import Int8Bounded, Spread
from m2kr.search.exact import search
from m2kr.search.layout import Layout, Sizes
from m2kr.search.maxsim import product_scores
from m2kr.search.ragged import Ragged
from m2kr.search.store import EmbeddingStore
from m2kr.search.tiles import Block, Plan, stacks_of
from tests.m2kr.search.items import Ranking, assert_exactly, random_items, whole_numbers

KINDS = (Bfloat16Bounded, Int8Bounded)
BOUNDED: tuple[Way, ...] = ("bounded", "int8")
VALUES = ("unit", "near", "equal", "zeros", "large", "small", "mixed", "dominant", "negative", "far", "too large")


def adversarial(rng: np.random.Generator, lengths: list[int], dim: int, values: str) -> list[np.ndarray]:
    """Items whose scores are hard to tell apart, or hard to bound."""
    items = random_items(rng, lengths, dim)
    if values == "near":  # ties within the bound
        seed = np.random.default_rng(0).standard_normal(dim)
        items = [(seed + 2e-3 * item).astype(np.float32) for item in items]
    elif values == "equal":
        items = [items[0][:1].repeat(len(item), 0) if len(items[0]) else item for item in items]
    elif values == "negative":
        items = [abs(item) for item in items]
    elif values == "far":  # the same dimension in all items, so that it is spread
        for item in items:
            item[:, dim // 2] *= 12
    elif values == "dominant":
        for item in items:
            item[:, rng.integers(dim)] *= 1e4
    for number, item in enumerate(items):
        if values not in ("near", "equal"):
            item /= np.linalg.norm(item, axis=1, keepdims=True)
        if values == "zeros":
            item[rng.random(item.shape) < 0.7] = 0
        elif values == "mixed":
            item *= 10.0 ** rng.uniform(-22, 17, (len(item), 1))
        scale = {"large": 1e17, "small": 1e-20, "too large": 1e19}.get(values, 1.0)
        items[number] = (item * np.float32(scale)).astype(np.float32)
    return items


def outcome(*arguments: Any, **named: Any) -> Ranking | str:
    try:
        return search(*arguments, **named)
    except M2KRError as error:
        return str(error)


def assert_same(found: Ranking | str, wanted: Ranking | str) -> None:
    if isinstance(wanted, str) or isinstance(found, str):
        assert found == wanted
        return
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0].view(np.int32), wanted[0].view(np.int32))  # to the bit


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    values=st.sampled_from(VALUES),
    query_lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    passage_lengths=st.lists(st.integers(0, 30), min_size=1, max_size=120),
    dim=st.sampled_from([8, 9, 16, 31, 64, 100, 128, 384, 768, 1024]),
    k=st.integers(1, 130),
    memory=st.sampled_from([60_000, 1_000_000, 1 << 30]),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
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
    dtype: Any,
    single: bool,
) -> None:
    rng = np.random.default_rng(seed)
    if single:
        query_lengths, passage_lengths = [1] * len(query_lengths), [1] * len(passage_lengths)
    queries = adversarial(rng, query_lengths, dim, values)
    passages = adversarial(rng, passage_lengths, dim, values)
    if values == "negative":
        passages = [-item for item in passages]
    copies = rng.integers(0, len(passages), len(passages) // 4)
    passages += [passages[copy] for copy in copies]  # equal scores
    if dtype == "float16":
        passages = [np.clip(item, -60000, 60000) for item in passages]
    with TemporaryDirectory() as folder:
        store = EmbeddingStore(folder, "key", kind="single" if single else "multi", dtype=dtype)
        store.append(np.concatenate(passages) if single else passages)
        asked = np.concatenate(queries) if single else queries
        wanted = outcome(asked, store, k, memory=memory, way="plain")
        for way in (*BOUNDED, "measured"):
            assert_same(outcome(asked, store, k, memory=memory, way=way), wanted)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    query_lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    passage_lengths=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    dim=st.sampled_from([8, 64, 300]),
    k=st.integers(1, 40),
    way=st.sampled_from(BOUNDED),
)
def test_the_result_is_that_of_the_double_loop(
    seed: int, query_lengths: list[int], passage_lengths: list[int], dim: int, k: int, way: Way
) -> None:
    rng = np.random.default_rng(seed)
    queries, passages = whole_numbers(rng, query_lengths, dim), whole_numbers(rng, passage_lengths, dim)
    assert_exactly(search(queries, passages, k, way=way), queries, passages, k)


def bounds_of(
    kind: type[Bounded], queries: list[np.ndarray], passages: list[np.ndarray]
) -> tuple[torch.Tensor, ...] | None:
    """Scores in float32, lower and upper bounds of them, each of shape (queries, passages)."""
    asked = Ragged.from_list(queries)
    stacks = stacks_of(asked, 1 << 30, "cpu")
    plan = Plan.within(1 << 30, stacks, asked, "cpu")
    chunk = Ragged.from_list(passages)
    (block,) = Block.cut(chunk, 0, plan, asked, "cpu")
    (stack,) = stacks
    vectors, product = stack.vectors(asked, "cpu"), torch.empty(plan.product_numbers)
    rows = max(1, kind.tile_numbers // plan.dim) if kind.tile_numbers else plan.tile_rows
    bounded = kind.of(chunk, 0, Layout.of(chunk, Sizes(rows, rows, plan.part_rows)))
    bounds = bounded.bounds(stack, vectors, product)
    if bounds is None:
        return None
    return product_scores(stack, vectors, block, product, plan).T, *bounds


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    values=st.sampled_from([values for values in VALUES if values != "too large"]),
    dim=st.sampled_from([8, 17, 64, 128, 1024]),
    kind=st.sampled_from(KINDS),
)
def test_scores_are_within_their_bounds(seed: int, values: str, dim: int, kind: type[Bounded]) -> None:
    rng = np.random.default_rng(seed)
    found = bounds_of(
        kind, adversarial(rng, [5, 40, 1], dim, values), adversarial(rng, list(rng.integers(1, 30, 60)), dim, values)
    )
    assert found is not None
    scores, lower, upper = found
    assert (lower <= scores).all()
    assert (scores <= upper).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("power", [-60, -40, 40, 60, 90, 110, 125])
def test_queries_and_passages_of_very_different_lengths_have_bounds_or_none(kind: type[Bounded], power: int) -> None:
    """Nothing on the way to a bound may leave the range of float32."""
    rng = np.random.default_rng(5)
    queries, passages = (adversarial(rng, [4] * 9, 64, "unit") for _ in range(2))
    queries = [item * np.float32(2.0**power) for item in queries]
    passages = [item * np.float32(2.0**-power) for item in passages]
    if (found := bounds_of(kind, queries, passages)) is None:
        assert abs(power) > 60  # where it could matter to someone, there are bounds
        return
    scores, lower, upper = found
    assert torch.isfinite(upper).all()
    assert ((lower <= scores) & (scores <= upper)).all()


@pytest.mark.parametrize(("kind", "vector", "product"), [(Bfloat16Bounded, 0.0018, 1 / 1024), (Int8Bounded, 0.011, 0)])
def test_bounds_are_narrow_enough_to_be_of_use(kind: type[Bounded], vector: float, product: float) -> None:
    """A vector rounded to bfloat16 is off by some 0.17 percent, a product that is below 1/2 by 1/1024.

    Of 128 normally distributed numbers of which the largest is 4.2 standard deviations, rounded to multiples of 1/127
    of that, the vector is off by 4.2 / 127 / 12 ** 0.5, 1 percent.
    """
    rng = np.random.default_rng(0)
    queries, passages = (adversarial(rng, [30] * 4, 128, "unit") for _ in range(2))
    found = bounds_of(kind, queries, passages)
    assert found is not None
    scores, lower, upper = found
    assert (upper - lower).max() / 2 < 30 * (2 * vector + product)
    assert ((upper - scores) / (upper - lower) < 0.9).all()


@pytest.mark.parametrize("values", ["unit", "negative", "zeros"])
def test_no_denormal_numbers_are_added_up(monkeypatch: pytest.MonkeyPatch, values: str) -> None:
    """Processors take a hundred times as long for them. Queries are padded with zeros, and most maxima are above."""
    rng = np.random.default_rng(0)
    before = bounds_module._summed
    summed: list[int] = []

    def checked(numbers: torch.Tensor) -> torch.Tensor:
        assert not ((numbers != 0) & (numbers.abs() < 2.0**-126)).any()
        summed.append(len(numbers))
        return before(numbers)

    monkeypatch.setattr(bounds_module, "_summed", checked)
    passages = [-item if values == "negative" else item for item in adversarial(rng, [1, 3] * 20, 64, values)]
    found = bounds_of(Bfloat16Bounded, adversarial(rng, [5, 40, 1], 64, values), passages)
    assert summed
    assert found is not None
    scores, lower, upper = found
    assert ((lower <= scores) & (scores <= upper)).all()


@pytest.mark.parametrize("way", BOUNDED)
def test_few_passages_are_scored_in_float32(monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    rng = np.random.default_rng(1)
    queries, passages = random_items(rng, [20] * 5, 64), random_items(rng, list(rng.integers(5, 30, 400)), 64)
    scored: list[int] = []

    def again(self: Any, stack: Any, vectors: Any, query: int, block: Any, chosen: Any) -> Any:
        scored.append(len(chosen))
        return before(self, stack, vectors, query, block, chosen)

    before = Searched._again
    monkeypatch.setattr(Searched, "_again", again)
    monkeypatch.setattr(module, "scores_of", None)  # nothing else is to score
    search(queries, passages, 10, way=way)
    assert 5 * 10 <= sum(scored) < 5 * 400 / 5


@pytest.mark.parametrize("way", BOUNDED)
def test_without_a_product_as_supposed_the_plain_way_is_taken(monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    rng = np.random.default_rng(3)
    queries, passages = (random_items(rng, [6] * 20, 48) for _ in range(2))
    wanted = search(queries, passages, 5, way="plain")
    monkeypatch.setattr(bounds_module, "rounds_once", lambda *shape: False)
    monkeypatch.setattr(bounds_int8, "multiplies_exactly", lambda *shape: False)
    monkeypatch.setattr(Searched, "_again", None)  # nothing is left to it
    assert_same(search(queries, passages, 5, way=way), wanted)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both ways be measured however little there is to do."""
    monkeypatch.setattr(module, "_FEWEST_PASSAGES", 1)
    monkeypatch.setattr(module, "_LEAST_WORK", {"cpu": 0, "other": 0})
    monkeypatch.setattr(module, "_FOR_EACH", 0)
    monkeypatch.setattr(module, "is_quick", lambda dim, numbers: True)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("memory", [200_000, 1 << 30])
@pytest.mark.parametrize("values", ["near", "unit", "too large"])
def test_measuring_changes_no_result(values: str, memory: int) -> None:
    rng = np.random.default_rng(2)
    queries, passages = (adversarial(rng, list(rng.integers(0, 20, count)), 32, values) for count in (12, 300))
    for k in (1, 30, 300):
        wanted = outcome(queries, passages, k, memory=memory, way="plain")
        assert_same(outcome(queries, passages, k, memory=memory), wanted)


@pytest.mark.usefixtures("eager")
def test_the_faster_way_is_taken_and_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that moves when a chunk is bounded, and with what was measured told in advance."""
    told = iter([False, False, True, True])
    slow = {9}  # chunks that take longer than the plain way would
    taken: list[str] = []
    now = 0.0

    def measured(self: Searched, chunk: Ragged, first: int) -> bool:
        taken.append("measured")
        self._plain_seconds = 1 / (len(chunk.vectors) * sum(stack.width for stack in self._stacks))
        return next(told)

    def add_bounded(self: Searched, stack: Any, best: Any, bounded: Bounded) -> None:
        nonlocal now
        now += 2.0 if bounded.first in slow else 0.5
        taken.append("bounded")
        best.add(torch.zeros(1, 1), torch.from_numpy(bounded.rows))

    def plain(self: Searched, stack: Any, block: Block) -> torch.Tensor:
        taken.append("plain")
        return torch.zeros(1, 1)

    monkeypatch.setattr(Searched, "_measured", measured)
    monkeypatch.setattr(Searched, "_add_bounded", add_bounded)
    monkeypatch.setattr(Searched, "_scores", plain)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now))
    search([np.ones((2, 16), np.float32)], iter([Ragged.from_list([np.ones((3, 16), np.float32)])] * 16), 3, memory=1)
    assert " ".join(taken) == (
        "measured plain plain measured plain plain plain measured bounded bounded bounded bounded bounded "
        "plain plain plain plain measured bounded bounded"
    )


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_product_is_measured_too(monkeypatch: pytest.MonkeyPatch, kind: type[Bounded]) -> None:
    """With a clock by which all takes a second but what goes with the other kind, which takes ten."""
    now = 0.0

    def taking(seconds: float, before: Any) -> Any:
        def slow(*arguments: Any) -> Any:
            nonlocal now
            now += seconds
            return before(*arguments)

        return slow

    for other in KINDS:
        seconds = 1.0 if other is kind else 10.0
        monkeypatch.setattr(other, "bounds", taking(seconds, other.bounds))
    monkeypatch.setattr(Searched, "_scores", taking(100.0, Searched._scores))
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now))
    chosen: list[type[Bounded]] = []

    def add(self: Searched, stack: Any, best: Any, bounded: Bounded) -> None:
        chosen.append(type(bounded))
        before(self, stack, best, bounded)

    before = Searched._add_bounded
    monkeypatch.setattr(Searched, "_add_bounded", add)
    rng = np.random.default_rng(6)
    queries, passages = (random_items(rng, [6] * count, 48) for count in (3, 300))
    wanted = search(queries, passages, 5, way="plain")
    assert_same(search(queries, passages, 5), wanted)
    assert set(chosen) == {kind}


@pytest.mark.parametrize("way", ["plain", *BOUNDED, "measured"])
def test_vectors_without_numbers(way: Way) -> None:
    scores, rows = search([np.zeros((3, 0), np.float32)], [np.zeros((2, 0), np.float32)] * 3, 2, way=way)
    assert rows.tolist() == [[0, 1]]
    assert scores.tolist() == [[0, 0]]


def test_far_numbers_are_spread_in_these_tests() -> None:
    passages = adversarial(np.random.default_rng(7), [20] * 30, 64, "far")
    assert Spread.of(torch.from_numpy(np.concatenate(passages))) is not None


def test_a_way_that_is_none() -> None:
    with pytest.raises(M2KRError, match="way must be 'measured', 'plain', 'bounded' or 'int8', not 'fast'"):
        search(np.ones((1, 4)), np.ones((2, 4)), 1, way="fast")  # type: ignore[arg-type]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("k", "many", "tried"), [(7, 301, True), (8, 301, False), (30, 300, True), (31, 300, False)])
def test_where_few_passages_are_there_for_each_that_is_to_be_found_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, k: int, many: int, tried: bool
) -> None:
    """Few are a quarter as many in a chunk of which the trial takes little."""
    monkeypatch.setattr(module, "_FOR_EACH", 40)
    monkeypatch.setattr(module, "_MANY_PASSAGES", many)
    measured: list[int] = []
    monkeypatch.setattr(Searched, "_measured", lambda self, chunk, first: bool(measured.append(len(chunk))))
    rng = np.random.default_rng(4)
    queries, passages = (adversarial(rng, [3] * count, 16, "unit") for count in (2, 300))
    search(queries, passages, k)
    assert bool(measured) is tried
