"""Whole builds at the size of the real releases, and at a tenth of it: time, memory, scratch and output of each.

    python -m tests.benchmarks.real_size --work FOLDER [--scale 0.1] [--only WIT,MSMARCO]

Raw files are made by made_raw.py, in the real formats and of the real width, with texts without sense. They are made
below FOLDER, built with ``python -m m2kr.build``, and deleted with what was built before the next ones are made. What
has been measured stands in ``FOLDER/real_size.json`` and is not measured again, so the same command goes on after a
stop. At full size it takes an hour on two cores, and some 35 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from m2kr.formats.manifest import read_manifest
from m2kr.sources.wit_rows import COLUMNS as WIT_COLUMNS
from m2kr.tasks import RELEASES
from tests.benchmarks import made_raw

MARK = "made-by-real-size"
"""File in a folder that was made here and may be deleted."""


def make_wit(root: Path, rows: int) -> None:
    names = RELEASES["wit"].files
    shares = {name: 95 for name in names if ".train." in name} | {name: 10 for name in names if ".val." in name}
    made_raw.wit(root / "wit", rows, WIT_COLUMNS, shares)


def make_blocks(root: Path, rows: int) -> None:
    titles = rows // 20
    made_raw.blocks(root / "wikipedia" / "psgs_w100.tsv.gz", rows, titles, answer_every=4)
    share = rows / 21_000_000
    made_raw.okvqa(root / "okvqa", (int(9_009 * share), int(5_046 * share)), titles)
    made_raw.infoseek(root / "infoseek", (int(934_048 * share), int(73_620 * share)), titles)


def make_evqa(root: Path, rows: int) -> None:
    share = rows / 2_000_000
    questions = {"train": int(200_000 * share), "val": int(14_000 * share), "test": int(6_000 * share)}
    made_raw.evqa(root / "evqa", rows, questions, made_raw.EVQA_COLUMNS, sections=8)


def make_msmarco(root: Path, rows: int) -> None:
    share = rows / 8_800_000
    made_raw.msmarco(root / "msmarco", rows, {"train": int(500_000 * share), "dev.small": int(7_000 * share)})


@dataclass(frozen=True)
class Load:
    """Raw files of one kind, and the tasks that are built from them.

    Attributes:
        make: writes them below a folder, of so many rows.
        rows: of the real release.
        what: these are.
        disk: bytes a row that raw files, scratch and output take at most.
        tasks: what is built from them.
    """

    make: Callable[[Path, int], None]
    rows: int
    what: str
    disk: int
    tasks: tuple[str, ...]


LOADS = (
    Load(make_wit, 20_000_000, "rows, three of four in English", 1_900, ("WIT",)),
    Load(make_msmarco, 8_800_000, "passages", 1_000, ("MSMARCO",)),
    Load(make_evqa, 2_000_000, "articles", 4_000, ("EVQA",)),
    Load(make_blocks, 21_000_000, "blocks", 500, ("OKVQA", "Infoseek")),
)


@dataclass(frozen=True)
class Measured:
    """What one build took; sizes are bytes, ``peak`` is resident memory and ``peak_own`` that without mapped files."""

    task: str
    scale: float
    rows: int
    what: str
    seconds: float
    processor_seconds: float
    peak: int
    peak_own: int
    scratch: int
    output: int
    raw: int


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text(encoding="ascii").split()
        except OSError:  # it has ended
            continue
        found += [each for child in children for each in tree(int(child))]
    return found


def memory(pid: int) -> tuple[int, int]:
    """Return resident bytes of a process, and those that are no pages of a file."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0, 0
    values = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)
              if name in ("VmRSS", "RssAnon")}  # fmt: skip
    return values.get("VmRSS", 0), values.get("RssAnon", 0)


def size(folder: Path, *, scratch: bool = False) -> int:
    """Return the bytes of all files below a folder; with ``scratch`` of those only that are no shards of the result."""
    total = 0
    for place, _, names in os.walk(folder):
        below = Path(place).relative_to(folder).parts
        if scratch and (".build" not in below or (len(below) > 3 and below[2] == "tables")):
            continue
        for name in names:
            with suppress(OSError):  # gone meanwhile
                total += Path(place, name).lstat().st_size
    return total


def build(raw: Path, out: Path, task: str) -> dict[str, float]:
    """Build a task in a process of its own; sample its memory twenty times a second and its scratch twice."""
    command = [sys.executable, "-m", "m2kr.build", "--raw", str(raw), "--out", str(out), "--tasks", task, "--quiet"]
    environment = dict(os.environ)
    environment.pop("_RJEM_MALLOC_CONF", None)  # set here by the import of Polars, not by the user
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    peaks = {"peak": 0, "peak_own": 0, "scratch": 0}
    ended = threading.Event()

    def watch() -> None:
        sample = 0
        while not ended.wait(0.05):
            now = [memory(pid) for pid in tree(process.pid)]
            for name, values in zip(("peak", "peak_own"), zip(*now, strict=True), strict=False):
                peaks[name] = max(peaks[name], sum(values))
            if sample % 10 == 0:
                peaks["scratch"] = max(peaks["scratch"], size(out, scratch=True))
            sample += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}.")
    return {"seconds": seconds, "processor_seconds": usage.ru_utime + usage.ru_stime, **peaks, "output": size(out)}


def make_place(place: Path) -> None:
    """Make a folder, or take the one that a stopped run made."""
    if not place.exists():
        place.mkdir(parents=True)
        (place / MARK).touch()
    if place.is_symlink() or not (place / MARK).is_file():
        raise SystemExit(f"{place} was not made by this program: delete it, or choose another --work.")


def measure(load: Load, scale: float, work: Path, done: Callable[[Measured], None], tasks: list[str]) -> None:
    rows = int(load.rows * scale)
    free = shutil.disk_usage(work).free
    if free < rows * load.disk:
        raise SystemExit(f"{work} has {free >> 30} GB free, {rows:,} {load.what} need {rows * load.disk >> 30} GB.")
    place = work / f"real-size-{load.tasks[0]}-{scale:g}"
    make_place(place)
    if not (place / "raw-is-whole").exists():
        if (place / "raw").exists():
            shutil.rmtree(place / "raw")
        start = time.perf_counter()
        load.make(place / "raw", rows)
        (place / "raw-is-whole").touch()
        print(f"made {rows:,} {load.what} in {time.perf_counter() - start:.0f} s", flush=True)
    for task in tasks:
        out = place / f"out-{task}"
        if out.exists():
            shutil.rmtree(out)
        found = build(place / "raw", out, task)
        (entry,) = read_manifest(out)["tasks"].values()
        used = sum(facts["bytes"] for facts in entry["sources"].values())
        done(Measured(task=task, scale=scale, rows=rows, what=load.what, raw=used, **found))
        shutil.rmtree(out)
    shutil.rmtree(place)  # make_place has seen that it is ours


def table(measured: list[Measured]) -> str:
    """Return what was measured as Markdown, a line for each build."""
    lines = [
        "| task | size | seconds | processor seconds | peak memory | of it own | scratch | output | scratch / output |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {each.task} | {each.rows:,} {each.what} | {each.seconds:,.0f} | {each.processor_seconds:,.0f} | "
        f"{each.peak / 2**20:,.0f} MiB | {each.peak_own / 2**20:,.0f} MiB | {each.scratch / 1e9:.2f} GB | "
        f"{each.output / 1e9:.2f} GB | {each.scratch / each.output:.2f} |"
        for each in sorted(measured, key=lambda each: (each.task, each.rows))
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for raw files, builds and real_size.json")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the real rows; default 1")
    parser.add_argument("--only", default="", help="tasks, comma-separated; default all")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    notes = given.work / "real_size.json"
    measured = [Measured(**each) for each in json.loads(notes.read_text(encoding="utf-8"))] if notes.exists() else []
    wanted = given.only.split(",") if given.only else [task for load in LOADS for task in load.tasks]

    def done(one: Measured) -> None:
        measured.append(one)
        notes.write_text(json.dumps([asdict(each) for each in measured], indent=1) + "\n", encoding="utf-8")
        print(table([one]), flush=True)

    there = {(each.task, each.scale) for each in measured}
    for load in LOADS:
        tasks = [task for task in load.tasks if task in wanted and (task, given.scale) not in there]
        if tasks:
            measure(load, given.scale, given.work, done, tasks)
    print(table(measured))


if __name__ == "__main__":
    main()
