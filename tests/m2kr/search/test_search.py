"""`m2kr.search` against the plain double loop, in every shape the inputs come in."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
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
from m2kr.search import maxsim
from m2kr.search.exact import maxsim_reference, search
from m2kr.search.store import EmbeddingStore, Ragged
from tests.tolerance import assert_ranking, maxsim_table

Ranking = tuple[np.ndarray, np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Products this small gain nothing from threads, which wait for each other where other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def expected(queries: list[np.ndarray], passages: list[np.ndarray], k: int) -> Ranking:
    """The whole table of scores in float64, sorted by (score, row)."""
    table = np.array([[maxsim_reference(q, p) for p in passages] for q in queries]).reshape(len(queries), len(passages))
    rows = np.argsort(-table, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(table, rows, axis=1), rows


def random_items(rng: np.random.Generator, lengths: list[int], dim: int) -> list[np.ndarray]:
    return [rng.standard_normal((length, dim)).astype(np.float32) for length in lengths]


def whole_numbers(rng: np.random.Generator, lengths: list[int], dim: int) -> list[np.ndarray]:
    """Vectors of small whole numbers: float32 adds them up exactly, so equal scores are equal in every order."""
    return [rng.integers(-2, 3, (length, dim)).astype(np.float32) for length in lengths]


def check(found: Ranking, queries: Any, passages: Any, k: int) -> None:
    """Check that a result is what exact arithmetic gives, but for the rounding of float32."""
    assert_ranking(found, k, *maxsim_table(queries, passages))


lengths_of = st.lists(st.integers(0, 12), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    query_lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    passage_lengths=lengths_of,
    dim=st.sampled_from([16, 17, 64, 128, 300, 1024]),
    k=st.integers(1, 40),
    memory=st.sampled_from([1, 10_000, 1_000_000, 1 << 30]),
    negative=st.booleans(),
    device=st.sampled_from(["cpu", "cpu", "cpu,cpu", "cpu, cpu,cpu"]),
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
    device: str,
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
    found = search(*given, k, memory=memory, device=device)
    wanted = expected(queries, passages, k)
    assert found[0].shape == (len(queries), min(k, len(passages)))
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("memory", [1, 100_000, 1 << 30])
def test_real_numbers_of_every_type(dtype: torch.dtype, memory: int) -> None:
    rng = np.random.default_rng(7)
    queries = [torch.from_numpy(q).to(dtype) for q in random_items(rng, [3, 40, 17], 96)]
    passages = [torch.from_numpy(p).to(dtype) for p in random_items(rng, list(rng.integers(1, 90, 60)), 96)]
    table = maxsim_table(queries, passages)
    assert_ranking(search(queries, passages, 10, memory=memory), 10, *table)
    assert_ranking(search(Ragged.from_list(queries), Ragged.from_list(passages), 10, memory=memory), 10, *table)


@settings(max_examples=25, deadline=None)
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
        check(found, queries, whole, 9)


@pytest.mark.parametrize("memory", [1, 50_000, 2_000_000, 1 << 30])
@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
@pytest.mark.parametrize("threads", [1, 2])
def test_duplicates_of_random_passages_keep_row_order_in_every_tiling(memory: int, threads: int, device: str) -> None:
    """Real numbers, where a product that adds up in another order would break the tie in the last bit."""
    rng = np.random.default_rng(3)
    originals = random_items(rng, list(rng.integers(1, 70, 40)), 128)
    copies = rng.permutation(np.repeat(np.arange(40), 6))
    passages = [originals[copy] for copy in copies]
    queries = random_items(rng, [320, 5, 1, 33], 128)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        scores, rows = search(queries, passages, 100, memory=memory, device=device)
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


def test_a_passage_longer_than_a_tile() -> None:
    rng = np.random.default_rng(5)
    queries, passages = random_items(rng, [30, 1], 16), random_items(rng, [1, 5_000, 0, 3, 9_001], 16)
    for memory in (1, 400_000, 1 << 30):
        check(search(queries, passages, 5, memory=memory), queries, passages, 5)


def test_dot_product_of_single_vectors() -> None:
    rng = np.random.default_rng(6)
    queries, passages = rng.standard_normal((5, 40)), rng.standard_normal((700, 40))
    for memory in (1, 100_000, 1 << 30):
        found = search(queries.astype(np.float32), torch.from_numpy(passages), 20, memory=memory)
        check(found, queries, passages, 20)


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
    of = maxsim.Block.cut
    monkeypatch.setattr(maxsim.Block, "cut", watched)
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
        check(search(queries, source, 12), queries, passages, 12)


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
    check(found, queries, passages, 40)


GOOD = [np.ones((2, 4), np.float32)] * 3
BAD = [np.ones((2, 4), np.float32), np.ones((0, 4), np.float32), np.array([[1, 2, 3, 4], [1, np.nan, 3, 4]])]
WIDE = [np.ones((2, 4), np.float32), np.ones((2, 5), np.float32)]


@pytest.mark.parametrize(
    ("queries", "passages", "settings", "message"),
    [
        (GOOD, GOOD, {"k": 0}, "k must be at least 1, not 0"),
        (GOOD, GOOD, {"memory": 0}, "memory must be at least 1"),
        (GOOD, GOOD, {"device": "cuda:77"}, "device 'cuda:77' cannot be used"),
        (GOOD, GOOD, {"device": "abacus"}, "device 'abacus' cannot be used"),
        (GOOD, GOOD, {"device": "cpu,cuda:77"}, "device 'cuda:77' cannot be used"),
        (GOOD, GOOD, {"device": []}, "the devices are none: name one"),
        (GOOD, GOOD, {"device": ["cpu", "meta"]}, "the devices are cpu, meta: name one, or several of one kind"),
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
        (GOOD, GOOD + BAD, {"memory": 1, "device": "cpu,cpu"}, "passage 5 hold NaN or infinity"),
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


# --- Several devices ---


def test_every_device_gets_some_and_the_first_failure_ends_the_work() -> None:
    """A source that lets no thread have a second chunk before all have had one."""
    given: dict[int, int] = {}
    rng = np.random.default_rng(12)
    queries, passages = random_items(rng, [4, 4], 16), random_items(rng, [3] * 40, 16)
    both = threading.Barrier(2, timeout=10)
    real = maxsim.Block.cut

    def waiting(*arguments: Any) -> Any:
        thread = threading.get_ident()
        given[thread] = given.get(thread, 0) + 1
        if given[thread] == 1:
            both.wait()
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2kr.search.exact.Block.cut", waiting)
        check(search(queries, passages, 7, memory=1, device=["cpu", "cpu"]), queries, passages, 7)
    assert len(given) == 2
    assert sum(given.values()) == 40

    read = []

    def source() -> Iterator[np.ndarray]:
        for number in range(10_000):
            read.append(number)
            yield np.full((1, 16), np.nan if number == 5 else 1, np.float32)

    with pytest.raises(M2KRError, match="passage 5 hold NaN"):
        search(queries, source(), 7, memory=1, device="cpu,cpu")
    assert len(read) < 10_000


# --- The fused kernel, as a function of the same signature that runs on the CPU ---


class FakeKernel:
    """Stands in for the package late-interaction-kernels, with the parameters of its ``maxsim`` (0.4.5)."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Size, torch.Size, torch.dtype]] = []

    def maxsim(
        self,
        Q: torch.Tensor,  # noqa: N803
        D: torch.Tensor,  # noqa: N803
        q_mask: torch.Tensor | None = None,
        d_mask: torch.Tensor | None = None,
        *,
        normalize: bool = False,
        backward: str | None = None,
    ) -> torch.Tensor:
        assert Q.dtype == D.dtype
        assert Q.dim() == D.dim() == 3
        assert q_mask is d_mask is backward is None
        assert not normalize
        self.calls.append((Q.shape, D.shape, Q.dtype))
        return torch.einsum("qid,pjd->qpij", Q.float(), D.float()).amax(3).sum(2)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    fake = FakeKernel()
    monkeypatch.setitem(sys.modules, "late_interaction_kernels", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(maxsim, "_FUSED_DEVICES", ("cpu",))
    return fake


def test_the_fake_kernel_has_the_parameters_of_the_real_one() -> None:
    real = pytest.importorskip("late_interaction_kernels").maxsim
    if "Q" not in inspect.signature(real).parameters:
        pytest.skip("this late-interaction-kernels has no Triton")
    mine = inspect.signature(FakeKernel().maxsim).parameters
    theirs = inspect.signature(real).parameters
    assert {name: (p.kind, p.default) for name, p in mine.items()} == {
        name: (p.kind, p.default) for name, p in theirs.items()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("dim", "memory", "device"),
    [
        (16, 1, "cpu"),
        (16, 1 << 30, "cpu,cpu"),
        (48, 200_000, "cpu"),
        (48, 1, "cpu,cpu"),
        (48, 1 << 30, "cpu"),
        (1024, 1 << 30, "cpu"),
    ],
)
def test_the_kernel_gives_what_the_double_loop_gives(
    kernel: FakeKernel, dtype: torch.dtype, dim: int, memory: int, device: str
) -> None:
    rng = np.random.default_rng(13)
    queries = whole_numbers(rng, [70, 5, 0, 33, 64], dim)
    queries[0][3] = 0  # dropped
    passages = [-abs(p) - 1 for p in whole_numbers(rng, [3, 0, 70, 9, 130, 1], dim)]
    queries = [abs(q) for q in queries]  # no similarity above zero: padding would show
    passages += [passages[0], passages[4], passages[1]]
    given = [[torch.from_numpy(item).to(dtype) for item in items] for items in (queries, passages)]
    found = search(*given, 8, memory=memory, device=device)
    wanted = expected(queries, passages, 8)
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])
    assert kernel.calls
    for stack, tile, used in kernel.calls:
        assert used == dtype
        assert stack[1] == 64  # pieces of one length in every call
        assert stack[0] * tile[0] > 500  # never the package's other kernel for little work


def test_short_queries_come_in_short_pieces(kernel: FakeKernel) -> None:
    search([torch.ones(20, 16).half()], [torch.ones(4, 16).half()], 1)
    assert {stack[1] for stack, _, _ in kernel.calls} == {32}


@pytest.mark.parametrize(
    ("queries", "passages"),
    [
        (torch.float32, torch.float32),  # the kernel would round them
        (torch.float16, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float32, torch.float16),
    ],
)
def test_the_kernel_is_left_alone_where_it_is_not_exact(
    kernel: FakeKernel, queries: torch.dtype, passages: torch.dtype
) -> None:
    rng = np.random.default_rng(14)
    mine, theirs = whole_numbers(rng, [20, 3], 32), whole_numbers(rng, [5, 1, 9], 32)
    found = search(
        [torch.from_numpy(q).to(queries) for q in mine], [torch.from_numpy(p).to(passages) for p in theirs], 3
    )
    check(found, mine, theirs, 3)
    assert not kernel.calls


@pytest.mark.parametrize("dim", [15, 1025])
def test_the_kernel_is_left_alone_in_dimensions_it_does_not_take(kernel: FakeKernel, dim: int) -> None:
    search([torch.ones(3, dim).half()], [torch.ones(4, dim).half()], 1)
    assert not kernel.calls


def test_without_the_package_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maxsim, "_FUSED_DEVICES", ("cpu",))
    monkeypatch.setitem(sys.modules, "late_interaction_kernels", None)
    assert maxsim.fused_kernel("cpu", torch.float16, 128) is None


def test_finite_numbers_whose_sum_is_infinite_are_accepted() -> None:
    large = np.full((4, 2), 3e38, np.float32)
    scores, _ = search(np.array([[0.5, 0.0]], np.float32), large, 1)
    assert scores[0, 0] == np.float32(1.5e38)


def test_importing_search_does_not_import_torch() -> None:
    code = "import sys, m2kr.search; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
