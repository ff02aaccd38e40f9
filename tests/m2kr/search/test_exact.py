"""`m2kr.search` against the plain double loop, in every shape the inputs come in."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m2kr.errors import M2KRError
from m2kr.search.bounded import Way
from m2kr.search.exact import search
from m2kr.search.ragged import Ragged
from m2kr.search.store import EmbeddingStore
from m2kr.search.tiles import Block
from tests.m2kr.search.items import assert_exactly, assert_nearly, random_items, whole_numbers
from tests.tolerance import assert_ranking, maxsim_table

lengths_of = st.lists(st.integers(0, 12), min_size=1, max_size=25)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    query_lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    passage_lengths=lengths_of,
    dim=st.sampled_from([16, 17, 64, 128, 300, 1024]),
    k=st.integers(1, 40),
    memory=st.sampled_from([1, 10_000, 1_000_000, 1 << 30]),
    negative=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_search_equals_the_double_loop(
    seed: int,
    query_lengths: list[int],
    passage_lengths: list[int],
    dim: int,
    k: int,
    memory: int,
    negative: bool,
    dtype: torch.dtype,
) -> None:
    """To the last bit: the numbers are whole, and so small that every type holds them and their sums exactly."""
    rng = np.random.default_rng(seed)
    queries, passages = whole_numbers(rng, query_lengths, dim), whole_numbers(rng, passage_lengths, dim)
    if negative:  # all similarities below zero, where padding with zeros would win
        queries, passages = [abs(q) + 1 for q in queries], [-abs(p) - 1 for p in passages]
    # Duplicates tie exactly; so does a passage that repeats some of its own vectors.
    passages += [passages[0], np.concatenate([passages[-1], passages[-1][:1]])]
    given = [[torch.from_numpy(item).to(dtype) for item in items] for items in (queries, passages)]
    found = search(*given, k, memory=memory)
    assert found[0].shape == (len(queries), min(k, len(passages)))
    assert_exactly(found, queries, passages, k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("memory", [1, 100_000, 1 << 30])
def test_real_numbers_of_every_type(dtype: torch.dtype, memory: int) -> None:
    rng = np.random.default_rng(7)
    queries = [torch.from_numpy(q).to(dtype) for q in random_items(rng, [3, 40, 17], 96)]
    passages = [torch.from_numpy(p).to(dtype) for p in random_items(rng, list(rng.integers(1, 90, 60)), 96)]
    table = maxsim_table(queries, passages)
    assert_ranking(search(queries, passages, 10, memory=memory), 10, *table)
    assert_ranking(search(Ragged.from_list(queries), Ragged.from_list(passages), 10, memory=memory), 10, *table)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=lengths_of,
    dim=st.sampled_from([16, 100, 1024]),
    memory=st.sampled_from([1, 30_000, 1 << 30]),
    kind=st.sampled_from(["multi", "single"]),
    cut=st.integers(0, 25),
)
@example(seed=3085, lengths=[0], dim=1024, memory=1, kind="single", cut=0)  # a thousand products, a sum near zero
def test_an_8_bit_store_is_searched_as_it_reads(
    seed: int, lengths: list[int], dim: int, memory: int, kind: Any, cut: int
) -> None:
    """Against the double loop over what the store gives back; how far that is from before, test_quantise says."""
    rng = np.random.default_rng(seed)
    if kind == "single":
        lengths = [1] * len(lengths)
    queries, passages = (
        random_items(rng, [1, 1, 1] if kind == "single" else [5, 0, 20], dim),
        random_items(rng, lengths, dim),
    )
    with TemporaryDirectory() as folder:
        store = EmbeddingStore(folder, "key", kind=kind, dtype="int8", dim=dim)
        for part in (passages[:cut], passages[cut:]):
            if part:
                store.append(np.concatenate(part) if kind == "single" else part)
        whole = store.load()
        found = search(np.concatenate(queries) if kind == "single" else queries, store, 9, memory=memory)
        assert_nearly(found, queries, whole, 9)


@pytest.mark.parametrize(
    ("threads", "memory"), [(1, 1), (1, 50_000), (1, 2_000_000), (1, 1 << 30), (2, 2_000_000), (2, 1 << 30)]
)
def test_duplicates_of_random_passages_keep_row_order_in_every_tiling(memory: int, threads: int) -> None:
    """Real numbers, where a product that adds up in another order would break the tie in the last bit."""
    rng = np.random.default_rng(3)
    originals = random_items(rng, list(rng.integers(1, 70, 40)), 128)
    copies = rng.permutation(np.repeat(np.arange(40), 6))
    passages = [originals[copy] for copy in copies]
    queries = random_items(rng, [320, 5, 1, 33], 128)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        scores, rows = search(queries, passages, 100, memory=memory)
    finally:
        torch.set_num_threads(before)
    for score, row in zip(scores, rows, strict=True):
        assert len(set(score)) == 17  # of 40 originals, six copies each: 16 whole groups and four of the next
        for value in set(score):
            group = row[score == value]
            assert len(set(copies[group])) == 1
            assert (np.diff(group) > 0).all()
            every = np.flatnonzero(copies == copies[group[0]])
            np.testing.assert_array_equal(group, every[: len(group)])


def test_results_do_not_depend_on_memory() -> None:
    rng = np.random.default_rng(4)
    queries, passages = random_items(rng, [50, 20, 50], 128), random_items(rng, list(rng.integers(0, 300, 200)), 128)
    table = maxsim_table(queries, passages)
    for memory in (1, 30_000, 300_000, 3_000_000, 30_000_000):
        assert_ranking(search(queries, passages, 200, memory=memory), 200, *table)


@pytest.mark.parametrize("dim", [64, 776, 1024, 1700])
def test_the_bits_of_a_score_do_not_depend_on_memory_nor_on_other_queries(dim: int) -> None:
    """MKL adds up longer vectors in another order in a narrow product than in a wide one."""
    rng = np.random.default_rng(12)
    queries, passages = random_items(rng, [40] * 14, dim), random_items(rng, list(rng.integers(1, 40, 50)), dim)
    wanted = search(queries, passages, 9, way="plain")
    for found in (
        search(queries, passages, 9, way="plain", memory=1 << 20),
        search(queries, passages, 9, way="bounded"),
        tuple(map(np.concatenate, zip(*(search([query], passages, 9) for query in queries), strict=True))),
    ):
        np.testing.assert_array_equal(found[1], wanted[1])
        np.testing.assert_array_equal(found[0].view(np.int32), wanted[0].view(np.int32))


@pytest.mark.parametrize("way", ["plain", "bounded"])
@pytest.mark.parametrize("longest", [1, 40])
def test_the_bits_of_a_score_do_not_depend_on_longer_queries(longest: int, way: Way) -> None:
    """Queries are padded to the longest beside them, and torch adds up another number of maxima in another order."""
    rng = np.random.default_rng(13)
    lengths = [1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 65, 98, 129, 300]
    queries, passages = random_items(rng, lengths, 32), random_items(rng, list(rng.integers(1, longest + 1, 60)), 32)
    scores, rows = search(queries, passages, 20, way=way)
    for number, query in enumerate(queries):
        alone = search([query], passages, 20, way=way)
        np.testing.assert_array_equal(alone[1][0], rows[number])
        np.testing.assert_array_equal(alone[0][0].view(np.int32), scores[number].view(np.int32))


def test_a_passage_longer_than_a_tile() -> None:
    rng = np.random.default_rng(5)
    queries, passages = random_items(rng, [30, 1], 16), random_items(rng, [1, 5_000, 0, 3, 9_001], 16)
    for memory in (1, 400_000, 1 << 30):
        assert_nearly(search(queries, passages, 5, memory=memory), queries, passages, 5)


def test_dot_product_of_single_vectors() -> None:
    rng = np.random.default_rng(6)
    queries, passages = rng.standard_normal((5, 40)), rng.standard_normal((700, 40))
    for memory in (1, 100_000, 1 << 30):
        found = search(queries.astype(np.float32), torch.from_numpy(passages), 20, memory=memory)
        assert_nearly(found, queries, passages, 20)


def test_a_constant_scorer_returns_rows_in_order() -> None:
    for memory in (1, 1 << 30):
        scores, rows = search(np.ones((3, 32), np.float32), np.ones((500, 32), np.float32), 77, memory=memory)
        np.testing.assert_array_equal(rows, np.tile(np.arange(77), (3, 1)))
        np.testing.assert_array_equal(scores, np.full((3, 77), 32))


def test_negative_zero_ties_with_zero() -> None:
    scores, rows = search(np.array([[1.0, 0.0]]), np.array([[-0.0, 1.0], [0.0, -1.0], [-0.0, 0.0]]), 3)
    np.testing.assert_array_equal(rows, [[0, 1, 2]])
    np.testing.assert_array_equal(scores, np.zeros((1, 3)))


def test_zero_query_vectors_are_dropped_and_empty_passages_come_last() -> None:
    query = np.array([[0, 0], [-1, -1]], np.float32)
    passages = [np.zeros((0, 2), np.float32), np.ones((1, 2), np.float32), np.zeros((0, 2), np.float32)]
    scores, rows = search([query, np.zeros((4, 2), np.float32), np.zeros((0, 2), np.float32)], passages, 3)
    np.testing.assert_array_equal(rows, [[1, 0, 2], [0, 1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(scores, [[-2, -np.inf, -np.inf], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("passages", [[], Ragged.from_list([]), iter([])])
def test_no_passages(passages: Any) -> None:
    scores, rows = search([np.ones((2, 4), np.float32)], passages, 5)
    assert scores.shape == rows.shape == (1, 0)


def test_no_queries() -> None:
    scores, rows = search([], [np.ones((2, 4), np.float32)] * 3, 2)
    assert scores.shape == rows.shape == (0, 2)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("memory", [1, 100_000, 1 << 30])
def test_streaming_from_a_store_equals_memory(tmp_path: Path, dtype: Any, memory: int) -> None:
    rng = np.random.default_rng(8)
    queries, passages = random_items(rng, [20, 7], 32), random_items(rng, list(rng.integers(0, 40, 50)), 32)
    store = EmbeddingStore(tmp_path, "key", dtype=dtype)
    for start, stop in ((0, 1), (1, 30), (30, 50)):
        store.append(passages[start:stop])
    stored = store.load()
    assert isinstance(stored, Ragged)
    table = maxsim_table(queries, stored)
    sources: list[Callable[[], Any]] = [lambda: store, store.shards, lambda: list(store.shards()), lambda: iter(stored)]
    for source in sources:
        assert_ranking(search(queries, source(), 50, memory=memory), 50, *table)


def test_what_chunks_are_made_of_is_let_go_before_they_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    held: list[tuple[int, int]] = []  # shards and blocks that are there whenever a block is about to be made

    def shards() -> Iterator[Ragged]:
        rng = np.random.default_rng(0)
        for _ in range(40):
            vectors = rng.standard_normal((50, 16)).astype(np.float32)
            alive.append(weakref.ref(vectors))
            yield Ragged.from_lengths(vectors, [5] * 10)
            del vectors

    def watched(*arguments: Any) -> Any:
        held.append((sum(one() is not None for one in alive), sum(one() is not None for one in blocks)))
        block = of(*arguments)
        blocks.append(weakref.ref(block))
        return block

    blocks: list[weakref.ref[Any]] = []
    of = Block.cut
    monkeypatch.setattr(Block, "cut", watched)
    search([np.ones((2, 16), np.float32)], shards(), 3, memory=100_000)
    assert 5 < len(held) < 20  # several shards make a chunk
    # The shard that did not fit into the chunk is there, and at the end the one that the chunk is.
    assert max(held) <= (1, 0)


def test_streaming_single_vectors(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    queries, passages = rng.standard_normal((4, 24), np.float32), rng.standard_normal((90, 24), np.float32)
    store = EmbeddingStore(tmp_path, "key", kind="single")
    for start in range(0, 90, 40):
        store.append(passages[start : start + 40])
    for source in (store, store.shards()):
        assert_nearly(search(queries, source, 12), queries, passages, 12)


def test_inputs_are_left_as_they_were() -> None:
    queries, passages = np.full((2, 4), -0.0, np.float32), torch.ones((3, 4), requires_grad=True)
    search(queries, passages, 2)
    assert np.signbit(queries).all()
    assert passages.grad is None


def test_a_lower_matmul_precision_of_the_caller_is_overruled_and_kept() -> None:
    rng = np.random.default_rng(10)
    queries, passages = random_items(rng, [64], 128), random_items(rng, [50] * 40, 128)
    torch.set_float32_matmul_precision("medium")
    try:
        found = search(queries, passages, 40)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_nearly(found, queries, passages, 40)


TABLE = np.ones((3, 4), np.float32)
GOOD = [np.ones((2, 4), np.float32)] * 3
BAD = [np.ones((2, 4), np.float32), np.ones((0, 4), np.float32), np.array([[1, 2, 3, 4], [1, np.nan, 3, 4]])]
WIDE = [np.ones((2, 4), np.float32), np.ones((2, 5), np.float32)]


@pytest.mark.parametrize(
    ("queries", "passages", "settings", "message"),
    [
        *(
            (GOOD, GOOD, {"k": k}, f"k must be a whole number, at least 1, not {k!r}")
            for k in (0, "2", 2.0, True, None)
        ),
        *((GOOD, GOOD, {"memory": size}, f"at least 1, not {size!r}") for size in (0, "1", float("nan"), None)),
        (GOOD, GOOD, {"device": None}, "device None cannot be used"),
        *((TABLE.astype(kind), TABLE, {}, "type .* cannot be used") for kind in (str, object, complex, np.uint16)),
        *((TABLE, TABLE.astype(kind), {}, "type .* cannot be used") for kind in (str, object, complex, np.uint16)),
        (GOOD, [TABLE.astype(str)], {}, "type <U32 cannot be used"),
        (TABLE, iter([TABLE.astype(complex)]), {}, "type complex128 cannot be used"),
        *((TABLE, passages, {}, "the passages an unknown kind") for passages in (None, 5, "ab", {"a": TABLE})),
        (GOOD, iter([*GOOD, None]), {}, r"item 3 must be an array of shape \(tokens, dim\), but is NoneType"),
        (GOOD, ["ab"], {}, r"item 0 must be an array of shape \(tokens, dim\), but is str"),
        (GOOD, GOOD, {"device": "cuda:77"}, "device 'cuda:77' cannot be used"),
        (GOOD, GOOD, {"device": "abacus"}, "device 'abacus' cannot be used"),
        (GOOD, GOOD, {"device": "cpu,cpu"}, "device 'cpu,cpu' cannot be used"),
        (GOOD, np.ones((3, 4)), {}, "queries have several vectors an item and the passages one vector an item"),
        (np.ones((3, 4)), GOOD, {}, "queries have one vector an item and the passages several"),
        (np.ones((2, 3, 4)), GOOD, {}, r"shape \(2, 3, 4\)"),
        (GOOD, np.ones((2, 3, 4)), {}, r"shape \(2, 3, 4\)"),
        (iter(GOOD), GOOD, {}, "queries have an unknown kind"),
        (WIDE, GOOD, {}, "item 1 has dimension 5"),
        (GOOD, GOOD + WIDE, {}, "item 4 has dimension 5, but the items before it have 4"),
        (GOOD, GOOD + WIDE, {"memory": 1}, "passages from row 4 on have dimension 5, but the queries have 4"),
        (GOOD, WIDE[1:], {}, "passages from row 0 on have dimension 5, but the queries have 4"),
        (np.ones((3, 4)), np.ones((3, 5)), {}, "passages from row 0 on have dimension 5, but the queries have 4"),
        (GOOD, [np.ones(4)], {}, r"item 0 must be an array of shape \(tokens, dim\), but is \(4,\)"),
        (BAD, GOOD, {}, "query 2 hold NaN or infinity"),
        (GOOD, GOOD + BAD, {}, "passage 5 hold NaN or infinity"),
        (GOOD, GOOD + BAD, {"memory": 1}, "passage 5 hold NaN or infinity"),
        (np.ones((1, 2)), np.array([[1, 2], [-np.inf, np.inf]]), {}, "passage 1 hold NaN or infinity"),
        (np.ones((1, 2)), iter([Ragged.from_list(GOOD)]), {}, r"shard 0 of the passages is Ragged"),
        (GOOD, [*GOOD, np.full((2, 4), 1e300)], {}, "passage 3 hold NaN or infinity"),
        ([np.full((2, 4), 3e38)], [np.full((2, 4), 3e38)], {}, "too large: a score does not fit into float32"),
    ],
)
def test_what_cannot_work_is_said(queries: Any, passages: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(M2KRError, match=message):
        search(queries, passages, **{"k": 2, **settings})


def test_arrays_with_rows_turned_round_are_searched() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert search(rows[:1], rows[::-1], 1)[1].tolist() == search(rows[:1], rows[::-1].copy(), 1)[1].tolist() == [[0]]


def test_finite_numbers_whose_sum_is_infinite_are_accepted() -> None:
    large = np.full((4, 2), 3e38, np.float32)
    scores, _ = search(np.array([[0.5, 0.0]], np.float32), large, 1)
    assert scores[0, 0] == np.float32(1.5e38)


def test_importing_search_does_not_import_torch() -> None:
    code = "import sys, m2kr.search; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
