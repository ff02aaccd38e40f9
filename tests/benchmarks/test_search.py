"""Speed and memory of exact MaxSim on two cores, beside the bare matrix product and sentence-transformers.

    python -m pytest tests/benchmarks/test_search.py --benchmark-columns=min,median,rounds -s

Eight queries of 320 vectors (PreFLMR's, with an image) against 2,000 passages of 30 to 180 vectors, 210,000 in all, of
dimension 128. Times are of all eight queries. The bare product is the best over tile sizes, orientations and numbers of
queries at once: what any exact search has to pay, with no maximum taken. Machines are shared, so compare minima of one
run. Nothing here asserts a time.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m2kr.search.exact import search
from m2kr.search.maxsim import maxsim_reference
from m2kr.search.ragged import Ragged
from m2kr.search.store import EmbeddingStore, StoredType

QUERIES, QUERY_VECTORS, PASSAGES, DIM, K = 8, 320, 2_000, 128, 100
TILES = (256, 512, 1024, 2048, 4096)
STACKS = (1, 4, 8)

fastest: dict[str, float] = {}  # seconds, by what was measured; filled in the order of the tests


def unit_vectors(total: int, seed: int, dim: int = DIM) -> torch.Tensor:
    """Random unit vectors, normalised in place so that the peak memory of a process holds no copy of them."""
    vectors = torch.randn((total, dim), generator=torch.Generator().manual_seed(seed))
    return vectors.div_(vectors.norm(dim=1, keepdim=True))


def make_world() -> tuple[Ragged, Ragged]:
    lengths = np.random.default_rng(0).integers(30, 181, PASSAGES)
    queries = Ragged.from_lengths(unit_vectors(QUERIES * QUERY_VECTORS, 1), [QUERY_VECTORS] * QUERIES)
    return queries, Ragged.from_lengths(unit_vectors(int(lengths.sum()), 2), lengths)


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Ragged, Ragged]]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield make_world()
    torch.set_num_threads(before)


def bare_product(queries: torch.Tensor, passages: torch.Tensor, tile: int, stack: int, by_passage: bool) -> None:
    """Multiply all query and passage vectors, ``stack`` queries and ``tile`` passage vectors at once; keep nothing."""
    rows = stack * QUERY_VECTORS
    product = torch.empty(tile * rows)
    for some_queries, some_passages in itertools.product(torch.split(queries, rows), torch.split(passages, tile)):
        if by_passage:
            out = product[: rows * len(some_passages)].view(len(some_passages), rows)
            torch.mm(some_passages, some_queries.T, out=out)
        else:
            out = product[: rows * len(some_passages)].view(rows, len(some_passages))
            torch.mm(some_queries, some_passages.T, out=out)


def seconds(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def report(benchmark: Any, name: str) -> None:
    """Keep the fastest round, and print it as a multiple of the bare product."""
    if benchmark.stats is None:  # --benchmark-disable
        return
    fastest[name] = min(fastest.get(name, np.inf), benchmark.stats.stats.min)
    line = f"{name}: {fastest[name] / QUERIES:.4f} s a query"
    if "bare product" in fastest:
        benchmark.extra_info["times_bare_product"] = round(fastest[name] / fastest["bare product"], 3)
        line += f", {benchmark.extra_info['times_bare_product']} times the bare product"
    print(f"\n{line}")


@pytest.mark.benchmark(group="maxsim on 2 cores")
def test_bare_product(benchmark: Any, world: tuple[Ragged, Ragged]) -> None:
    queries, passages = (torch.as_tensor(side.vectors) for side in world)
    choices = {
        choice: seconds(lambda choice=choice: bare_product(queries, passages, *choice), 2)  # type: ignore[misc]
        for choice in itertools.product(TILES, STACKS, (True, False))
    }
    best = min(choices, key=choices.__getitem__)
    benchmark.extra_info.update(tile=best[0], queries_at_once=best[1], by_passage=best[2])
    benchmark.pedantic(bare_product, (queries, passages, *best), rounds=7, warmup_rounds=1)
    fastest["bare product"] = choices[best]
    report(benchmark, "bare product")


@pytest.mark.benchmark(group="maxsim on 2 cores")
@pytest.mark.parametrize("form", ["ragged", "list"])
def test_search(benchmark: Any, world: tuple[Ragged, Ragged], form: str) -> None:
    queries, passages = world
    given = passages if form == "ragged" else list(passages)
    scores, rows = benchmark.pedantic(search, (queries, given, K), rounds=7, warmup_rounds=1)
    for query, row, score in ((0, rows[0, 0], scores[0, 0]), (7, rows[7, -1], scores[7, -1])):
        assert score == pytest.approx(maxsim_reference(queries[query], passages[int(row)]), rel=1e-5)
    report(benchmark, f"search, {form}")


@pytest.mark.benchmark(group="maxsim on 2 cores")
def test_sentence_transformers(benchmark: Any, world: tuple[Ragged, Ragged]) -> None:
    from sentence_transformers import util

    queries, passages = world
    table = benchmark.pedantic(util.maxsim, (list(queries), list(passages)), rounds=2, warmup_rounds=0)
    wanted, _ = search(queries, passages, K)
    np.testing.assert_allclose(torch.as_tensor(table).topk(K).values, wanted, rtol=1e-5)
    report(benchmark, "sentence-transformers maxsim")


@pytest.mark.benchmark(group="one vector an item on 2 cores")
@pytest.mark.parametrize("k", [100, 500])
@pytest.mark.parametrize("tool", ["torch", "m2kr", "sentence-transformers"])
def test_one_vector_an_item(benchmark: Any, tool: str, k: int) -> None:
    """2,201 queries and 20,000 passages, as `peers.py` has them; "torch" is the product and its ``topk`` at once."""
    from sentence_transformers import util

    queries, passages = unit_vectors(2_201, 3, 384), unit_vectors(20_000, 4, 384)
    if tool == "m2kr":
        _, rows = benchmark.pedantic(search, (queries, passages, k), rounds=7, warmup_rounds=1)
        np.testing.assert_array_equal(rows[:20], (queries[:20] @ passages.T).topk(k).indices)
        return

    def found() -> object:
        if tool == "torch":
            return (queries @ passages.T).topk(k)
        return util.semantic_search(queries, passages, top_k=k, score_function=util.dot_score)

    benchmark.pedantic(found, rounds=7 if tool == "torch" else 2, warmup_rounds=1)


MEMORY_CODE = r"""
import importlib.util, re, sys
spec = importlib.util.spec_from_file_location("world", sys.argv[1])
world = importlib.util.module_from_spec(spec)
spec.loader.exec_module(world)
world.torch.set_num_threads(2)
queries, passages = world.make_world()
search = world.search

def peak():  # of this process alone: getrusage counts what its parent had before it started this one
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])

search(queries, passages.rows(0, 20), 5, memory=1 << 20)  # what libraries take once
before = peak()
search(queries, passages, 100, memory=int(sys.argv[2]))
print((peak() - before) * 1024)
"""


@pytest.mark.benchmark(group="maxsim within a memory")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mebibytes", [16, 64, 1024])
def test_memory(benchmark: Any, world: tuple[Ragged, Ragged], mebibytes: int) -> None:
    """Time within an allowance, and how far the peak of a fresh process grows beyond its inputs meanwhile."""
    allowed = mebibytes << 20
    command = [sys.executable, "-c", MEMORY_CODE, __file__, str(allowed)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    benchmark.extra_info["peak_mebibytes"] = grown >> 20
    whole = search(*world, K)
    found = benchmark.pedantic(search, (*world, K), {"memory": allowed}, rounds=3)
    np.testing.assert_allclose(found[0], whole[0], rtol=1e-5)
    report(benchmark, f"search within {mebibytes} MiB, which took {grown >> 20} MiB")


STREAM_CODE = r"""
import importlib.util, re, sys, threading, time
spec = importlib.util.spec_from_file_location("world", sys.argv[1])
world = importlib.util.module_from_spec(spec)
spec.loader.exec_module(world)
world.torch.set_num_threads(2)
queries, passages = world.make_world()
store = world.EmbeddingStore(sys.argv[2], "key", dtype=sys.argv[3])
world.search(queries, passages.rows(0, 20), 5, memory=1 << 20)
del passages
highest = 0

def status(name):
    return int(re.search(name + r":\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024

def watch():
    global highest
    while True:
        highest = max(highest, status("RssAnon"))
        time.sleep(0.002)

open("/proc/self/clear_refs", "w").write("5")  # from here on VmHWM counts anew
anonymous, whole = status("RssAnon"), status("VmHWM")
threading.Thread(target=watch, daemon=True).start()
start = time.perf_counter()
world.search(queries, store, 100, memory=int(sys.argv[4]))
print(time.perf_counter() - start, highest - anonymous, status("VmHWM") - whole)
"""


@pytest.mark.benchmark(group="maxsim, streamed from disk")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_stream(benchmark: Any, world: tuple[Ragged, Ragged], tmp_path: Path, dtype: StoredType) -> None:
    """20 times as many passages in a store, within 64 MiB: 4.2 million vectors, 2 GiB if they were held in float32.

    Printed are the growth of memory of the process's own, which the allowance bounds, and of all that is resident:
    that takes in the pages of the shard being read (54 MB in float16), which the system can drop at any time.
    """
    store = EmbeddingStore(tmp_path, "key", dtype=dtype)
    for _ in range(20):
        store.append(world[1])
    command = [sys.executable, "-c", STREAM_CODE, __file__, str(tmp_path), dtype, str(64 << 20)]
    found: list[list[float]] = []

    def once() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append([float(number) for number in done.stdout.split()])

    benchmark.pedantic(once, rounds=1)
    seconds_taken, own, resident = found[0]
    benchmark.extra_info.update(seconds=seconds_taken, own_mib=int(own) >> 20, resident_mib=int(resident) >> 20)
    line = f"streamed, {dtype}: {seconds_taken / QUERIES / 20:.4f} s a query and 2,000 passages"
    if "bare product" in fastest:
        line += f", {seconds_taken / 20 / fastest['bare product']:.2f} times the bare product"
    print(f"\n{line}; grew by {int(own) >> 20} MiB, {int(resident) >> 20} MiB with mapped pages")
