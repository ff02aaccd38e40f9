"""How the time of exact search grows with passages, queries and vectors a query: a table, and a picture of each.

    python tests/benchmarks/growth.py [--rounds 3] [--out tests/benchmarks]

Two threads, float32, dimension 128, top 100. Around one setting (1,000 passages of 30 to 180 vectors, 4 queries of 64)
one number is doubled at a time. Times are the fastest of several rounds, which go round all sizes, so that other work
on the machine falls on none of them alone.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

from m2kr.common.files import atomic
from m2kr.search.exact import search
from m2kr.search.ragged import Ragged

DIM, K = 128, 100
BASE = {"passages": 1_000, "queries": 4, "vectors a query": 64}
SIZES = {
    "passages": (250, 500, 1_000, 2_000, 4_000),
    "queries": (1, 2, 4, 8, 16),
    "vectors a query": (16, 32, 64, 128, 256),
}


def made(lengths: list[int], seed: int) -> Ragged:
    """Return items of random unit vectors."""
    numbers = torch.randn((sum(lengths), DIM), generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(numbers, dim=1), lengths)


def measure(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each size, by what is varied."""
    lengths = np.random.default_rng(0).integers(30, 181, max(SIZES["passages"]))
    every = made(lengths.tolist(), 1)
    best = {what: [float("inf")] * len(sizes) for what, sizes in SIZES.items()}
    for _ in range(rounds):
        for what, sizes in SIZES.items():
            for place, size in enumerate(sizes):
                setting = {**BASE, what: size}
                queries = made([setting["vectors a query"]] * setting["queries"], 2)
                passages = every.rows(0, setting["passages"])
                start = time.perf_counter()
                search(queries, passages, K)
                best[what][place] = min(best[what][place], time.perf_counter() - start)
    return best


def table(best: dict[str, list[float]]) -> str:
    lines = [
        "| varied | size | milliseconds | times the size before | times its time |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for what, sizes in SIZES.items():
        for place, (size, took) in enumerate(zip(sizes, best[what], strict=True)):
            growth = f"{size / sizes[place - 1]:.0f} | {took / best[what][place - 1]:.2f}" if place else " | "
            lines.append(f"| {what} | {size:,} | {1000 * took:.1f} | {growth} |")
    return "\n".join(lines)


def draw(what: str, took: list[float], path: Path) -> None:
    """Draw one curve on logarithmic axes, beside the line of time in proportion to size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    sizes = SIZES[what]
    milliseconds = [1000 * value for value in took]
    figure, axes = plt.subplots(figsize=(4.2, 3.0), dpi=110, layout="constrained")
    axes.loglog(
        sizes, [milliseconds[-1] * size / sizes[-1] for size in sizes], ":", color="0.55", label="in proportion"
    )
    axes.loglog(sizes, milliseconds, "o-", color="#1f5a9a", label="measured")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    fixed = ", ".join(f"{value:,} {name}" for name, value in BASE.items() if name != what)
    axes.set(xlabel=what, ylabel="milliseconds", title=f"Exact search: {fixed}")
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    with atomic(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the pictures")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    load = os.getloadavg()[0]
    best = measure(arguments.rounds)
    print(table(best))
    print(f"\nFastest of {arguments.rounds}; load of the machine {load:.1f} before and {os.getloadavg()[0]:.1f} after.")
    for what, took in best.items():
        draw(what, took, arguments.out / f"growth_{what.replace(' ', '_')}.png")


if __name__ == "__main__":
    main()
