"""The scores of a training batch, forwards and backwards, beside sentence-transformers' own; two threads of one CPU.

    python -m pytest tests/benchmarks/test_train.py --benchmark-columns=min,median,rounds -s

32 queries of 106 vectors with 64 passages of 60 to 120, dimension 64: a batch of the small models' fourth stage. Both
give the same scores and gradients (tests/baselines/preflmr/test_network.py). Memory is the peak of a fresh process.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

from baselines.preflmr.scoring import batch_maxsim

FORMS = {"ours": batch_maxsim, "sentence-transformers": colbert_scores}
QUERIES, VECTORS, GROUP, TOKENS, DIM = 32, 106, 2, 120, 64

fastest: dict[str, float] = {}  # seconds, by what was measured; filled in the order of the tests


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the arguments of a form, and weights of the scores that stand for the loss."""
    drawn = torch.Generator().manual_seed(0)
    lengths = torch.randint(60, TOKENS + 1, (QUERIES, GROUP, 1), generator=drawn)
    given = {
        "queries_embeddings": torch.randn(QUERIES, VECTORS, DIM, generator=drawn).requires_grad_(),
        "documents_embeddings": torch.randn(QUERIES, GROUP, TOKENS, DIM, generator=drawn).requires_grad_(),
        "queries_mask": torch.ones(QUERIES, VECTORS, dtype=torch.int64),
        "documents_mask": (torch.arange(TOKENS) < lengths).long(),
    }
    return given, torch.randn(QUERIES, QUERIES * GROUP, generator=drawn)


def step(form: str, given: dict[str, torch.Tensor], weights: torch.Tensor) -> None:
    for name in ("queries_embeddings", "documents_embeddings"):
        given[name].grad = None
    (FORMS[form](**given) * weights).sum().backward()


MEMORY_CODE = r"""
import importlib.util, re, sys
spec = importlib.util.spec_from_file_location("world", sys.argv[1])
world = importlib.util.module_from_spec(spec)
spec.loader.exec_module(world)
world.torch.set_num_threads(2)

def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])

given, weights = world.batch()
small = {name: value[:1, :1] if value.ndim == 4 or "documents" in name else value[:1] for name, value in given.items()}
small = {name: value.detach().requires_grad_(value.requires_grad) for name, value in small.items()}
world.step(sys.argv[2], small, weights[:1, :1])  # what libraries take once
before = peak()
world.step(sys.argv[2], given, weights)
print((peak() - before) // 1024)
"""


@pytest.mark.benchmark(group="scores of a training batch")
@pytest.mark.parametrize("form", FORMS)
def test_batch(benchmark: Any, form: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    benchmark.pedantic(step, (form, *batch()), rounds=7, warmup_rounds=1)
    torch.set_num_threads(before)
    if benchmark.stats is None:  # --benchmark-disable
        return
    fastest[form] = benchmark.stats.stats.min
    line = f"{form}: {fastest[form]:.3f} s"
    if sys.platform == "linux":
        command = [sys.executable, "-c", MEMORY_CODE, __file__, form]
        grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        benchmark.extra_info["peak_mib"] = grown
        line += f", {grown} MiB"
    if len(fastest) == 2:
        ratio = fastest["sentence-transformers"] / fastest["ours"]
        benchmark.extra_info["ratio"] = round(ratio, 2)
        line += f", {ratio:.1f} times as long as ours"
    print(f"\n{line}")
