"""Exact search at the sizes of the benchmark, beside the rate of a bare matrix product on the same device.

5,120 queries of 320 vectors (PreFLMR's, with an image) against 50,000 passages of 130 vectors, and 5,120 queries of 32
against 400,000 passages of 70; dimension 128. The passages are made as they are asked for, from one block of random
vectors, so that neither disk nor memory is measured; they pass from the CPU to the GPU as in an evaluation. The rate
counts 2 * dim operations for each pair of a query vector and a passage vector, none for padding. Where there is no time
for all passages, fewer are searched, and the figure says how many.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from m2kr.search.exact import search
from m2kr.search.fused import fused_kernel
from m2kr.search.maxsim import maxsim_reference
from m2kr.search.ragged import Ragged
from tests.benchmarks.gpu.bench import ROUNDS, Bench, Part, name_of
from tests.benchmarks.gpu.results import Skipped
from tests.tolerance import assert_within

DIM, K = 128, 500
SHAPES = {"image queries": (5_120, 320, 50_000, 130), "text queries": (5_120, 32, 400_000, 70)}
SHARD = 2_000  # passages
MEMORY = 4 << 30

_PILOT, _TINY = 50, 2_000
# Parts of all passages that are searched first, to tune the kernel and foretell the time; and of a tiny run.


def parts(bench: Bench) -> dict[str, Part]:
    """Both shapes in both half precisions."""
    wanted = [(name, dtype) for dtype in (torch.bfloat16, torch.float16)[: 1 if bench.tiny else 2] for name in SHAPES]
    return {
        f"{name}, {name_of(dtype)}": partial(_measure, bench, name, dtype, len(wanted) - place)
        for place, (name, dtype) in enumerate(wanted)
    }


def _measure(bench: Bench, name: str, dtype: torch.dtype, parts_left: int) -> dict[str, Any]:
    many, query_vectors, passages, passage_vectors = SHAPES[name]
    device = str(bench.device)
    kernel = fused_kernel(device, dtype, DIM) is not None
    if not kernel and dtype == torch.float16:
        raise Skipped("without the kernel all types are computed in float32: see bfloat16")
    bench.need(8, name)
    computed = dtype if kernel else torch.float32
    rate = bench.rate(computed)
    allowed = bench.left() / parts_left
    if bench.tiny:
        many, passages = many // _TINY, passages // _TINY
    queries = Ragged.from_lengths(_unit_vectors(many * query_vectors, 1, dtype), [query_vectors] * many)
    block = _unit_vectors((SHARD + passages // SHARD + 1) * passage_vectors, 2, dtype)

    def shards(count: int) -> Iterator[Ragged]:
        for number, first in enumerate(range(0, count, SHARD)):
            size = min(SHARD, count - first)
            # Each shard begins a passage further on: no two shards are the same, and nothing is copied.
            start = number * passage_vectors
            yield Ragged.from_lengths(block[start : start + size * passage_vectors], [passage_vectors] * size)

    def run(count: int) -> tuple[np.ndarray, np.ndarray]:
        return search(queries, shards(count), K, device=device, memory=MEMORY)

    pilot = min(passages, max(K, passages // _PILOT))
    tuning = bench.once(partial(run, pilot))
    foretold = bench.once(partial(run, pilot)) * passages / pilot
    searched = passages
    if not bench.tiny:
        searched = max(pilot, min(passages, int(passages * allowed / ((1 + ROUNDS) * foretold))))
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
        passages=searched,
        of=passages,
        tuning_seconds=tuning,
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


def _unit_vectors(total: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    vectors = torch.randn((total, DIM), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1).to(dtype)
