"""Exact search at the sizes of the benchmark, beside the rate of a bare matrix product on the same device.

5,120 queries of 320 vectors (PreFLMR's, with an image) against 50,000 passages of 130 vectors, and 5,120 queries of 32
against 400,000 passages of 70; dimension 128. The passages are made as they are asked for, from one block of random
vectors, so that neither disk nor memory is measured; they pass from the CPU to the GPU as in an evaluation. The rate
counts 2 * dim operations for each pair of a query vector and a passage vector, none for padding. Where there is no time
for all passages, fewer are searched, and the figure says how many.

The same in float32 for a sixteenth of the queries and k = 100: all of it, and with those passages left out that
products in float16 keep out of the best (`m2kr.search.half`), which may be faster than the bare float32 product. Both
give the same bits, or the part fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from m2kr.search.bounded import Searched, Way
from m2kr.search.exact import search
from m2kr.search.fused import fused_kernel
from m2kr.search.maxsim import maxsim_reference
from m2kr.search.ragged import Ragged
from tests.benchmarks.gpu.bench import ROUNDS, Bench, Part, name_of
from tests.benchmarks.gpu.results import Skipped
from tests.tolerance import assert_within

DIM, K = 128, 500
FLOAT32_K, FLOAT32_SHARE = 100, 16
SHAPES = {"image queries": (5_120, 320, 50_000, 130), "text queries": (5_120, 32, 400_000, 70)}
SHARD = 2_000  # passages
MEMORY = 4 << 30

_PILOT, _TINY = 50, 2_000
# Parts of all passages that are searched first, to tune the kernel and foretell the time; and of a tiny run.


def parts(bench: Bench) -> dict[str, Part]:
    """Both shapes in both half precisions, and in float32 both ways."""
    halves = (torch.bfloat16, torch.float16)[: 1 if bench.tiny else 2]
    wanted: dict[str, tuple[str, torch.dtype, Way]] = {
        f"{name}, {name_of(dtype)}": (name, dtype, "measured") for dtype in halves for name in SHAPES
    }
    for name in SHAPES:
        wanted[f"{name}, float32"] = (name, torch.float32, "plain")
        wanted[f"{name}, float32, passages left out"] = (name, torch.float32, "bounded")
    return {
        part: partial(_measure, bench, *what, len(wanted) - place) for place, (part, what) in enumerate(wanted.items())
    }


def _measure(bench: Bench, name: str, dtype: torch.dtype, way: Way, parts_left: int) -> dict[str, Any]:
    many, query_vectors, passages, passage_vectors = SHAPES[name]
    k = K
    if dtype == torch.float32:
        many, k = many // FLOAT32_SHARE, FLOAT32_K
    device = str(bench.device)
    kernel = fused_kernel(device, dtype, DIM) is not None
    if not kernel and dtype == torch.float16:
        raise Skipped("without the kernel all types are computed in float32: see bfloat16")
    bench.need(8, name)
    computed = dtype if kernel else torch.float32
    rate = bench.rate(computed)
    allowed = bench.left() / parts_left
    if bench.tiny:
        many, passages = max(2, many // _TINY), passages // _TINY
    queries = Ragged.from_lengths(_unit_vectors(many * query_vectors, 1, dtype), [query_vectors] * many)
    block = _unit_vectors((min(SHARD, passages) + passages // SHARD + 1) * passage_vectors, 2, dtype)

    def shards(count: int) -> Iterator[Ragged]:
        for number, first in enumerate(range(0, count, SHARD)):
            size = min(SHARD, count - first)
            # Each shard begins a passage further on: no two shards are the same, and nothing is copied.
            start = number * passage_vectors
            yield Ragged.from_lengths(block[start : start + size * passage_vectors], [passage_vectors] * size)

    def run(count: int, way: Way = way) -> tuple[np.ndarray, np.ndarray]:
        return search(queries, shards(count), k, device=device, memory=MEMORY, way=way)

    pilot = min(passages, max(k, passages // _PILOT))
    tuning = bench.once(partial(run, pilot))
    foretold = bench.once(partial(run, pilot)) * passages / pilot
    searched = passages
    if not bench.tiny:
        # Beside the rounds the bounded way is compared with the plain one, which takes some times as long.
        runs = 1 + ROUNDS + (6 if way == "bounded" else 0)
        searched = max(pilot, min(passages, int(passages * allowed / (runs * foretold))))
    more: dict[str, Any] = {}
    if way == "bounded":
        more = _left(partial(run, searched), many * searched)
    found: list[tuple[np.ndarray, np.ndarray]] = []

    def again() -> None:
        found[:] = [run(searched)]

    measured = bench.figure(
        again,
        count=many * searched,
        unit="pairs of query and passage",
        dtype=computed,
        operations=2 * DIM * many * query_vectors * searched * passage_vectors,
        batch=many,
        rounds=1 if bench.tiny else ROUNDS,
        stored=name_of(dtype),
        by="fused kernel" if kernel else "torch, float32",
        way=way,
        passages=searched,
        of=passages,
        tuning_seconds=tuning,
        **more,
    )
    assert measured["matrix_rate"] == rate
    scores, rows = found[0]
    for query in (0, many - 1):
        row = int(rows[query, 0])
        start = (row // SHARD + row % SHARD) * passage_vectors
        passage = block[start : start + passage_vectors].double().numpy()
        wanted = maxsim_reference(queries[query].double().numpy(), passage)  # type: ignore[union-attr]
        assert_within(scores[query, 0], wanted, 1e-4 * max(1.0, abs(wanted)))
    return measured


def _left(run: Any, pairs: int) -> dict[str, Any]:
    """Compare both ways, and return what share of the pairs of query and passage was scored in float32."""
    scored = 0
    on_gpu, on_cpu = Searched._marked, Searched._again

    def marked(self: Any, stack: Any, vectors: Any, bounded: Any, wanted: torch.Tensor) -> torch.Tensor:
        nonlocal scored
        scored += int(wanted.sum())
        return on_gpu(self, stack, vectors, bounded, wanted)

    def again(self: Any, stack: Any, vectors: Any, query: int, bounded: Any, passages: np.ndarray) -> torch.Tensor:
        nonlocal scored
        scored += len(passages)
        return on_cpu(self, stack, vectors, query, bounded, passages)

    with patch.object(Searched, "_marked", marked), patch.object(Searched, "_again", again):
        found = run(way="bounded")
    wanted = run(way="plain")
    for mine, theirs in zip(found, wanted, strict=True):
        if not np.array_equal(mine.view(np.uint8), theirs.view(np.uint8)):
            raise ValueError("leaving passages out changed the result")
    note = f"{scored / pairs:.1%} of the pairs were scored in float32" if scored else "no passage could be left out"
    return {"left": scored / pairs, "note": f"{note}; all bits are those of scoring everything"}


def _unit_vectors(total: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    vectors = torch.randn((total, DIM), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1).to(dtype)
