"""What sections measure with: times by the device's own events, its matrix rate, its peak memory, the time left."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from m2kr.common.measure import peak_memory, reset_peak_memory
from tests.benchmarks.gpu.results import OutOfTime

ROUNDS = 3
"""Timed calls, after one that is not counted, where there is time for them."""

_SIZES = {"cuda": (4096, 8192, 16384), "tiny": (128, 256)}
_LARGEST_FLOAT32 = 8192  # a product of 16,384 takes a fifth of a second there

Part = Callable[[], dict[str, Any]]
"""Measures one thing and returns what is kept of it."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The device, the sizes, and the time there is.

    Attributes:
        device: what is measured.
        tiny: small sizes, to try the code.
        deadline: of the section, on the clock of `time.monotonic`.
        golden: folder of the official implementation's values, if it is at hand.
        data: folder of a made-up benchmark, made where it is not there.
        images: its raw releases, where the pictures are.
        work: folder for what may be deleted afterwards.
        rates: matrix rates measured so far.
    """

    device: torch.device
    tiny: bool
    deadline: float
    golden: Path | None
    data: Path
    images: Path
    work: Path
    rates: dict[torch.dtype, float] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        """Whether it is a CUDA GPU."""
        return self.device.type == "cuda"

    def left(self) -> float:
        """Return the seconds left to the section."""
        return self.deadline - time.monotonic()

    def need(self, seconds: float, what: str) -> None:
        """Raise `OutOfTime` where fewer seconds are left."""
        if not self.tiny and self.left() < seconds:
            raise OutOfTime(f"{what} takes about {seconds:.0f} s, and {max(0.0, self.left()):.0f} s were left")

    def wait(self) -> None:
        """Wait for the device to finish."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def once(self, run: Callable[[], Any]) -> float:
        """Return the seconds of one call, until the device has done all of it.

        On a GPU these are between two events in its stream, the first when it had nothing to do: host time counts.
        """
        self.wait()
        if not self.cuda:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1000

    def timed(self, run: Callable[[], Any], *, rounds: int = ROUNDS, warm: float | None = None) -> dict[str, Any]:
        """Return the times of several calls: median, least and most, seconds, and how many.

        Args:
            run: the call.
            rounds: how many; fewer where the section's time is over.
            warm: seconds of a call that was made already; None: one is made and not counted.
        """
        if warm is None:
            warm = self.once(run)
        times: list[float] = []
        while len(times) < rounds and (not times or self.left() > max(times)):
            if not times:
                self.need(warm, "a timed call")
            times.append(self.once(run))
        return {
            "median": statistics.median(times),
            "least": min(times),
            "most": max(times),
            "rounds": len(times),
            "first": warm,
        }

    def rate(self, dtype: torch.dtype) -> float:
        """Return the floating point operations a second of the best square product of matrices of random numbers."""
        if dtype not in self.rates:
            best = 0.0
            for size in _SIZES["cuda" if self.cuda and not self.tiny else "tiny"]:
                if dtype == torch.float32 and size > _LARGEST_FLOAT32:
                    continue
                left, right = (torch.randn((size, size), device=self.device).to(dtype) for _ in range(2))
                out = torch.empty_like(left)
                multiply = lambda a=left, b=right, c=out: torch.mm(a, b, out=c)  # noqa: E731
                best = max(best, 2 * size**3 / self.timed(multiply, rounds=10)["least"])
                del left, right, out, multiply
            self.rates[dtype] = best
        return self.rates[dtype]

    @contextmanager
    def memory(self) -> Iterator[dict[str, int]]:
        """Measure the peak memory of a block, bytes: of the GPU what tensors took, on a CPU that of the process."""
        found: dict[str, int] = {}
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            reset_peak_memory()
        yield found
        found["peak_memory"] = torch.cuda.max_memory_allocated(self.device) if self.cuda else peak_memory()

    def free(self) -> None:
        """Give back the device's memory of what is no longer used."""
        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()

    def figure(
        self,
        run: Callable[[], Any],
        *,
        count: int,
        unit: str,
        dtype: torch.dtype,
        operations: int,
        batch: int,
        rounds: int = ROUNDS,
        warm: float | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Return a figure: how many a second, and what share of the matrix rate that is.

        Args:
            run: does all of it.
            count: how many it does.
            unit: what they are, such as "passages".
            dtype: what the matrix products are computed in.
            operations: floating point operations of a call.
            batch: how many at once.
            rounds: timed calls.
            warm: see `timed`.
            more: kept beside it.
        """
        rate = self.rate(dtype)
        with self.memory() as memory:
            times = self.timed(run, rounds=rounds, warm=warm)
        return {
            "kind": "figure",
            "count": count,
            "unit": unit,
            "per_second": count / times["median"],
            "seconds": times,
            "dtype": name_of(dtype),
            "batch": batch,
            **memory,
            "operations": operations,
            "achieved": operations / times["median"],
            "matrix_rate": rate,
            **more,
        }


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a type as commands spell it."""
    return str(dtype).removeprefix("torch.")


def check(off: float, allowed: float, **more: Any) -> dict[str, Any]:
    """Return a check: how far something is off, and how far it may be. NaN does not pass."""
    passed = bool(off <= allowed)
    return {"kind": "check", "passed": passed, "off": float(off) if off == off else "NaN", "allowed": allowed, **more}
