"""What a run is measured by and where it ran: time, peak memory, versions of packages, hardware, commit of the code."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from m2kr import __version__

_PACKAGES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "numpy",
    "polars",
    "pillow",
    "bm25s",
    "ranx",
)


@dataclass
class Phases:
    """Wall time in seconds and peak resident memory in bytes of what was done, by name."""

    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Measure a block; of several of one name, times are added."""
        reset_peak_memory()
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start, peak_memory())

    def add(self, name: str, seconds: float, memory: int) -> None:
        """Add what was measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.memory[name] = max(self.memory.get(name, 0), memory)


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on, where the system can (Linux can)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Return the largest resident memory of this process, bytes, since `reset_peak_memory` or else since it started.

    On Linux this is VmHWM. The ru_maxrss of getrusage cannot be reset, and a process begins with that of its parent.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that scores may depend on, where they are installed."""
    found = {"m2kr": __version__, "python": platform.python_version()}
    return found | {name: version for name in _PACKAGES if (version := _version(name)) is not None}


@cache  # what is imported stays so
def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def hardware(device: str) -> str:
    """Return the name of what a torch device is on this machine."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def environment(device: str) -> dict[str, Any]:
    """Return where something ran, as result files say it: hardware, versions and commit."""
    return {"hardware": hardware(device), "versions": versions(), "commit": code_commit()}


def code_commit() -> str | None:
    """Return the Git commit of this code, with "+changes" where files differ from it.

    None where the code is installed and no checkout, or Git is not there.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "m2kr", "baselines")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
