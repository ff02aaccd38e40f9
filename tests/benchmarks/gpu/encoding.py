"""How fast PreFLMR encodes, beside the least time its matrix products can take.

The floor is the number of floating point operations of the very same call, padding included, over the best rate that a
square product of matrices of the same type reached just before. (On a CPU torch does not count attention, about a
hundredth of it here.) The rest of the time is tokenization, launches of kernels, everything that is no matrix product,
and copies to and from the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.gpu.bench import Bench, Part
from tests.benchmarks.gpu.models import VISION, make_model, make_passages, make_queries

_PROFILED = 8


def parts(bench: Bench) -> dict[str, Part]:
    """Passages and images of each size of PreFLMR; tiny models are all of one size."""
    names = list(VISION)[:1] if bench.tiny else list(VISION)
    return {
        f"{name}, {what}": partial(_measure, bench, name, what) for name in names for what in ("passages", "images")
    }


def _measure(bench: Bench, name: str, what: str) -> dict[str, Any]:
    bench.need(8, f"{name}, {what}")
    dtype = torch.bfloat16
    model = make_model(name, bench.device, dtype, tiny=bench.tiny)
    batch = 8 if bench.tiny else 256
    if what == "passages":
        passages = make_passages(16 if bench.tiny else 8192)
        count, run = len(passages), partial(model.encode_document, passages, batch)
    else:
        queries = make_queries(8 if bench.tiny else 1024, model.pictures.pixels.shape)
        count, run = len(queries), partial(model.encode_query, queries, batch)
    warm = bench.once(run)
    operations = operations_of(run)
    found = bench.figure(
        run,
        count=count,
        unit=what,
        dtype=dtype,
        operations=operations,
        batch=batch,
        rounds=1 if bench.tiny else 3,
        warm=warm,
    )
    if bench.tiny or bench.left() > 2 * warm:
        found["profile"] = _profile(bench, run)
    return found


def operations_of(run: Callable[[], Any]) -> int:
    """Return the floating point operations of a call, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _profile(bench: Bench, run: Callable[[], Any]) -> list[dict[str, Any]]:
    """Return what takes the most time: name, share and calls of the first entries of torch's profile."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]
    with profile(activities=activities) as profiled:
        run()
        bench.wait()
    key = "self_device_time_total" if bench.cuda else "self_cpu_time_total"
    entries = sorted(profiled.key_averages(), key=lambda entry: getattr(entry, key), reverse=True)
    total = sum(getattr(entry, key) for entry in entries) or 1.0
    return [
        {"name": entry.key[:90], "share": getattr(entry, key) / total, "calls": entry.count}
        for entry in entries[:_PROFILED]
    ]
