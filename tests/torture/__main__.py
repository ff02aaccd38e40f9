"""Torture every command: kill it, fill its disk, damage what it reads; compare what it leaves with undisturbed runs.

    make torture TORTURE_SECONDS=3600     or     python -m tests.torture --seconds 60 --commands build --seed 7

Commands run in forks of this process, which has imported all they need, so that thousands of runs fit into an hour. A
trial is its seed and its number: ``--first N --trials 1`` does one again. With ``--jobs J``, J processes do trials at
the same time, each on inputs of its own, and number theirs from ``--first`` plus a multiple of a million.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tests.torture.commands import COMMANDS

if TYPE_CHECKING:
    from tests.torture.campaign import Campaign

KINDS = {
    "kill": "killed at a random time, or before a random change of a file, up to three times",
    "signal": "Ctrl-C or SIGTERM at a random time",
    "pair": "two at once into one folder, equal or with other settings",
    "disk": "full, read-only, or too small for a file",
    "damage": "a file that it reads damaged",
}
REPORT = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
_PLACE = re.compile(r"(?<=<!-- torture:begin -->\n).*(?=<!-- torture:end -->)", re.DOTALL)


def main() -> int:
    """Run trials till the time is over; return 1 where one found a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--trials", type=int, default=10**9, help="of each process, at most")
    parser.add_argument("--jobs", type=int, default=1, help="processes that do trials at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--commands", default=",".join(command.name for command in COMMANDS))
    parser.add_argument("--report", action="store_true", help=f"put the table into {REPORT.name}")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="m2kr-torture-"))
    names = options.commands.split(",")
    began = time.monotonic()
    tried: Counter[tuple[str, str]] = Counter()
    faults: list[tuple[str, str, int, str]] = []
    try:
        _prepare(work, names)
        jobs = [_start(options, work / f"job{job}", job) for job in range(options.jobs)]
        for pid, notes in jobs:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if status or not notes.is_file():
                raise RuntimeError(f"a process of trials ended with {status}")
            found = json.loads(notes.read_text(encoding="utf-8"))
            tried.update({(command, kind): count for command, kind, count in found["tried"]})
            faults += [tuple(fault) for fault in found["faults"]]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    minutes = (time.monotonic() - began) / 60
    machine = f"{os.cpu_count()} cores of {platform.machine()}, {options.jobs} at a time"
    text = f"{sum(tried.values()):,} trials of seed {options.seed} in {minutes:.0f} minutes on {machine}:\n\n"
    text += _table(tried, faults)
    print(f"\n{text}")
    if options.report:
        REPORT.write_text(_PLACE.sub(lambda _: f"\n{text}\n", REPORT.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if faults else 0


def _start(options: argparse.Namespace, work: Path, job: int) -> tuple[int, Path]:
    """Start a process of trials; return its number and the file that will hold what came of them."""
    notes = work.with_suffix(".json")
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid, notes
    code = 1
    try:
        campaign = _trials(options, work, options.first + job * 1_000_000)
        counts = [(command, kind, count) for (command, kind), count in campaign.tried.items()]
        notes.write_text(json.dumps({"tried": counts, "faults": campaign.faults}), encoding="utf-8")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _trials(options: argparse.Namespace, work: Path, first: int) -> Campaign:
    """Run trials from a number on till the time is over, and tell faults as they are found."""
    from tests.torture.campaign import Campaign

    began = time.monotonic()
    os.environ["M2KR_CACHE"] = str(work.with_suffix(".cache"))
    campaign = Campaign(work, options.seed, options.commands.split(","))
    print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in campaign.seconds.items()), flush=True)
    number, told = first, 0
    while number < first + options.trials and time.monotonic() - began < options.seconds:
        campaign.trial(number)
        number += 1
        for command, kind, at, fault in campaign.faults[told:]:
            print(f"trial {at}, {command}, {kind}: {fault}", flush=True)
        told = len(campaign.faults)
    return campaign


def _prepare(work: Path, names: list[str]) -> None:
    """Set what libraries read when they are imported, and import what commands need; no thread may be started here."""
    os.environ |= {
        **dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(work / "hub"),
        "MPLCONFIGDIR": str(work / "mpl"),
    }
    for command in COMMANDS:
        if command.name in names:
            for module in (command.module, *command.imports.split()):
                import_module(module)
    from m2kr.metrics.kernels import compile_kernels

    compile_kernels()  # it takes seconds, once


def _table(tried: dict[tuple[str, str], int], faults: list[tuple[str, str, int, str]]) -> str:
    """Return trials by command and kind, "held / tried", as a Markdown table."""
    failed = {(command, kind, number) for command, kind, number, _ in faults}
    names = list(dict.fromkeys(command for command, _ in tried))
    lines = [f"| command | {' | '.join(KINDS)} | faults |", "| --- |" + " ---: |" * (len(KINDS) + 1)]
    for name in [*sorted(names), "all"]:
        cells = []
        for kind in KINDS:
            count = sum(value for key, value in tried.items() if key[1] == kind and name in (key[0], "all"))
            bad = sum(key[1] == kind and name in (key[0], "all") for key in failed)
            cells.append(f"{count - bad:,} / {count:,}" if count else "")
        lines.append(f"| {name} | {' | '.join(cells)} | {sum(name in (key[0], 'all') for key in failed)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
