"""What `m2kr.evaluate --ray` costs and gives on one machine, and whether two nodes write the bytes of one process.

    python -m tests.benchmarks.ray_figures costs     # one process of two threads, two actors, one actor
    python -m tests.benchmarks.ray_figures memory    # of the command and its actors, with 20 times as many passages
    python -m tests.benchmarks.ray_figures equal     # all tasks of a made-up world, two nodes against one process

Times are of the phases that encode and search, as result files have them; "start" is the rest of the time on the clock:
imports, Ray, loading, reading, scoring. "equal" joins two raylets by a virtual cable between two network namespaces,
which only root can make; ``--together`` does without.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from m2kr.common.text_table import aligned
from tests.benchmarks.ray_nodes import QUIET, Nodes, equal, evaluate, many_passages, peaks, world

TASK = "MSMARCO"
PHASES = ("encode_passages", "encode_queries", "search")


def measured(command: Sequence[str], out: Path, threads: int) -> list[float]:
    """Return seconds on the clock, of the phases, and of the start; and the peak MB of the command and of an actor."""
    environment = {name: value for name, value in {**os.environ, **QUIET}.items() if name != "RAY_AUTH_MODE"}
    environment["OMP_NUM_THREADS"] = str(threads)
    found: dict[str, int] = {}
    since = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    with peaks(process.pid, found):
        if process.wait():
            raise SystemExit(f"it ended with {process.returncode}: {command}")
    whole = time.monotonic() - since
    (result,) = out.glob(f"*/{TASK}.json")
    seconds = json.loads(result.read_text())["seconds"]
    running = sum(seconds[phase] for phase in PHASES)
    return [whole, running, whole - running, found.get("driver", 0) / 1e6, found.get("actor", 0) / 1e6]


def costs(given: argparse.Namespace, folder: Path) -> int:
    """Compare one process of two threads with actors of one thread."""
    _, built = world(folder, 0.2, [TASK])
    data = many_passages(built, folder / "data", given.passages)
    ways = {
        "one process, 2 threads": (2, []),
        "2 actors of 1 thread": (1, ["--ray", "local", "--ray-actors", "2"]),
        "1 actor of 1 thread": (1, ["--ray", "local", "--ray-actors", "1"]),
    }
    best: dict[str, list[float]] = {}
    for number in range(given.rounds):
        for place, (name, (threads, more)) in enumerate(list(ways.items())[: given.ways]):
            out = folder / f"out-{number}-{place}"
            found = measured(evaluate(given.model, data, out, "--quiet", *more), out, threads)
            best[name] = min(best.get(name, found), found, key=lambda each: each[1])
    one = best["one process, 2 threads"][1]
    rows = [
        [
            name,
            f"{whole:.1f}",
            f"{start:.1f}",
            f"{running:.1f}",
            f"{given.passages / running:.0f}",
            f"{running / one:.2f}",
        ]
        for name, (whole, running, start, *_) in best.items()
    ]
    print("\n".join(aligned([["way", "seconds", "start", "running", "passages/s", "times one process"], *rows], 1)))
    return 0


def memory(given: argparse.Namespace, folder: Path) -> int:
    """Show the peak memory with passages, and 20 times as many, and two sizes of scratch."""
    _, built = world(folder, 0.2, [TASK])
    rows = []
    for count in (given.passages // 20, given.passages):
        data = many_passages(built, folder / f"data-{count}", count)
        for scratch in ("0.05", "1"):
            out = folder / f"out-{count}-{scratch}"
            more = ["--ray", "local", "--ray-actors", "2", "--search-memory", scratch, "--quiet"]
            *_, driver, actor = measured(evaluate(given.model, data, out, *more), out, 1)
            rows.append([f"{count:,}", scratch, f"{driver:.0f}", f"{actor:.0f}"])
    print(
        "\n".join(aligned([["passages", "--search-memory", "MB of the command", "MB of the larger actor"], *rows], 1))
    )
    return 0


def same(given: argparse.Namespace, folder: Path) -> int:
    """Compare runs and results of all tasks."""
    raw, built = world(folder, given.scale)
    more = ["--images", str(raw), "--quiet", *(["--limit", str(given.limit)] if given.limit else [])]
    with Nodes(folder, apart=not given.together) as nodes:
        seconds = []
        for name, ray in (("one", []), ("two", ["--ray", nodes.address])):
            since = time.monotonic()
            command = evaluate(given.model, built, folder / name, *more, *ray)
            subprocess.run(nodes.inside(0, command), env=nodes.environment, stdout=subprocess.DEVNULL, check=True)
            seconds.append(time.monotonic() - since)
    print(f"one process of one thread {seconds[0]:.0f} s, two nodes of one core {seconds[1]:.0f} s")
    (expected,), (found,) = ((folder / name).iterdir() for name in ("one", "two"))
    tasks = sorted(path.stem for path in expected.glob("*.json"))
    well = {task: equal(found, expected, task) for task in tasks}
    for task, is_equal in well.items():
        print(f"{task:12s} {'equal' if is_equal else 'DIFFERENT'}")
    return 0 if len(tasks) == 9 and all(well.values()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["costs", "memory", "equal"])
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", type=int, default=3, help="of costs: leave out the last of the three")
    parser.add_argument("--scale", type=float, default=5.0, help="of the world of equal")
    parser.add_argument("--limit", type=int, help="queries of each task of equal; default: all")
    parser.add_argument("--model", default="preflmr-mini")
    parser.add_argument("--together", action="store_true", help="both nodes in the network of this machine")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="m2kr-f-", dir="/tmp") as name:
        return {"costs": costs, "memory": memory, "equal": same}[given.what](given, Path(name))


if __name__ == "__main__":
    raise SystemExit(main())
