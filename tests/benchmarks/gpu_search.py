"""Exact search on a GPU at the sizes of the benchmark, beside the rate of a bare matrix product on the same device.

    python tests/benchmarks/gpu_search.py                # both shapes, float16 and bfloat16
    python tests/benchmarks/gpu_search.py --device cpu --scale 0.001 --dtypes float32   # whether it runs at all

Shapes: 5,120 queries of 320 vectors (PreFLMR's, with an image) against 50,000 passages of 130 vectors, and 5,120
queries of 32 against 400,000 passages of 70; dimension 128. The passages are made as they are asked for, from one
block of random vectors, so that neither disk nor memory is measured; they pass from the CPU to the GPU as in an
evaluation. The rate counts 2 * dim operations for each pair of a query vector and a passage vector, none for padding.
The yardstick is the best of square float16/bfloat16 products with float32 sums.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from m2kr.search.device import check_device, kind_of
from m2kr.search.exact import search
from m2kr.search.fused import fused_kernel
from m2kr.search.maxsim import maxsim_reference
from m2kr.search.ragged import Ragged

DIM, K = 128, 500
SHAPES = {"image queries": (5_120, 320, 50_000, 130), "text queries": (5_120, 32, 400_000, 70)}
SHARD = 2_000  # passages


def unit_vectors(total: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    vectors = torch.randn((total, DIM), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1).to(dtype)


def finish(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if kind_of(device) == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: str, rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        finish(device)
        start = time.perf_counter()
        work()
        finish(device)
        best = min(best, time.perf_counter() - start)
    return best


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Return the operations a second of the best square product."""
    best = 0.0
    for size in (256, 512) if kind_of(device) == "cpu" else (4096, 8192, 16384):
        left, right = (torch.randn((size, size), device=device).to(dtype) for _ in range(2))
        torch.mm(left, right)
        took = seconds(lambda a=left, b=right: torch.mm(a, b), device, 10)  # type: ignore[misc]
        best = max(best, 2 * size**3 / took)
    return best


def measure(name: str, device: str, dtype: torch.dtype, scale: float, memory: int, rounds: int, rate: float) -> str:
    many, query_vectors, passages, passage_vectors = SHAPES[name]
    many, passages = max(2, int(many * scale)), max(2, int(passages * scale))
    queries = Ragged.from_lengths(unit_vectors(many * query_vectors, 1, dtype), [query_vectors] * many)
    block = unit_vectors((SHARD + passages // SHARD + 1) * passage_vectors, 2, dtype)

    def shards() -> Iterator[Ragged]:
        for number, first in enumerate(range(0, passages, SHARD)):
            count = min(SHARD, passages - first)
            # Each shard begins a passage further on: no two shards are the same, and nothing is copied.
            start = number * passage_vectors
            yield Ragged.from_lengths(block[start : start + count * passage_vectors], [passage_vectors] * count)

    def once() -> tuple[np.ndarray, np.ndarray]:
        return search(queries, shards(), K, device=device, memory=memory)

    begun = time.perf_counter()
    scores, rows = once()  # the kernel is tuned in this one
    first_time = time.perf_counter() - begun
    for query in (0, many - 1):
        row = int(rows[query, 0])
        start = (row // SHARD + row % SHARD) * passage_vectors
        passage = block[start : start + passage_vectors]
        wanted = maxsim_reference(queries[query].double().numpy(), passage.double().numpy())  # type: ignore[union-attr]
        assert abs(scores[query, 0] - wanted) < 1e-4 * max(1.0, abs(wanted)), (scores[query, 0], wanted)
    took = seconds(once, device, rounds)
    achieved = 2 * DIM * many * query_vectors * passages * passage_vectors / took
    used = "kernel" if fused_kernel(device, dtype, DIM) else "torch, float32"
    shape = f"{name}: {many:,} of {query_vectors} against {passages:,} of {passage_vectors}"
    return (
        f"| {shape} | {str(dtype).removeprefix('torch.')} | {used} | "
        f"{first_time:.2f} | {took:.2f} | {achieved / 1e12:.3f} | {rate / 1e12:.3f} | {100 * achieved / rate:.1f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="as search takes it")
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16"])
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of queries and passages")
    parser.add_argument("--memory", type=float, default=4.0, metavar="GIB", help="of search; default 4")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = arguments.device
    check_device(device)
    hardware = torch.cuda.get_device_name(device) if kind_of(device) == "cuda" else platform.processor()
    print(f"{hardware or 'CPU'}; torch {torch.__version__}; best of {arguments.rounds}\n")
    print("| shape | type | by | first, s | s | TFLOP/s | bare product, TFLOP/s | fraction |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for dtype in (getattr(torch, name) for name in arguments.dtypes):
        rate = matrix_rate(device, dtype)
        for name in SHAPES:
            memory = int(arguments.memory * (1 << 30))
            print(measure(name, device, dtype, arguments.scale, memory, arguments.rounds, rate), flush=True)


if __name__ == "__main__":
    main()
