"""Torture every command: kill it, fill its disk, damage what it reads; compare what it leaves with undisturbed runs.

    make torture TORTURE_SECONDS=3600     or     python -m tests.torture --seconds 60 --commands build --seed 7

Commands run in forks of this process, which has imported all they need, so that thousands of runs fit into an hour. A
trial is its seed and its number: ``--first N --trials 1`` does one again.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from tests.torture.commands import COMMANDS

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
    parser.add_argument("--trials", type=int, default=10**9, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--commands", default=",".join(command.name for command in COMMANDS))
    parser.add_argument("--report", action="store_true", help=f"put the table into {REPORT.name}")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="m2kr-torture-"))
    names = options.commands.split(",")
    _prepare(work, names)
    from tests.torture.campaign import Campaign

    began = time.monotonic()
    try:
        campaign = Campaign(work / "work", options.seed, names)
        print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in campaign.seconds.items()), flush=True)
        number, told = options.first, 0
        while number < options.first + options.trials and time.monotonic() - began < options.seconds:
            campaign.trial(number)
            number += 1
            for command, kind, at, fault in campaign.faults[told:]:
                print(f"trial {at}, {command}, {kind}: {fault}", flush=True)
            told = len(campaign.faults)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    minutes = (time.monotonic() - began) / 60
    text = f"{number - options.first:,} trials of seed {options.seed} in {minutes:.0f} minutes on {_machine()}:\n\n"
    text += _table(campaign.tried, campaign.faults)
    print(f"\n{text}")
    if options.report:
        REPORT.write_text(_PLACE.sub(lambda _: f"\n{text}\n", REPORT.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if campaign.faults else 0


def _prepare(work: Path, names: list[str]) -> None:
    """Set what libraries read when they are imported, and import what commands need; no thread may be started here."""
    os.environ |= {
        **dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "M2KR_CACHE": str(work / "cache"),
        "HF_HOME": str(work / "hub"),
        "MPLCONFIGDIR": str(work / "mpl"),
    }
    for command in COMMANDS:
        if command.name in names:
            for module in (command.module, *command.imports.split()):
                import_module(module)
    from m2kr import metrics

    # Numba compiles what ranx computes with at its first use, for seconds.
    metrics._by_ranx([(["p"], ["p"])], [f"{measure.ranx}@5" for measure in metrics.MEASURES if not measure.of_answers])


def _machine() -> str:
    return f"{os.cpu_count()} cores of {platform.machine()}, one at a time"


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
