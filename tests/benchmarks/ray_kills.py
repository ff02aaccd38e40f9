"""Kill processes of `m2kr.evaluate --ray` at random moments, and compare what comes out with one process.

    python -m tests.benchmarks.ray_kills                  # five kills of each kind; some minutes
    python -m tests.benchmarks.ray_kills --together       # without network namespaces, which only root can make

Two nodes on this machine hold a process each. ``kill -9`` hits a process of ours, the raylet of the second node with
all that it runs, or the command itself, which is then given again. Run and result have to be equal to the byte, and no
process and no temporary file may be left. Exit code 1 says that something was not so.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]

from tests.benchmarks.ray_nodes import Nodes, equal, evaluate, many_passages, world

TASK = "MSMARCO"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="of each kind")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--model", default="tests/m2kr/evaluate/remote_model.py:Hashing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", action="store_true", help="both nodes in the network of this machine")
    parser.add_argument("--keep-embeddings", action="store_true")
    given = parser.parse_args()
    draw, wrong = random.Random(given.seed), 0
    more = ["--quiet", *(["--keep-embeddings"] if given.keep_embeddings else [])]
    with TemporaryDirectory(prefix="m2kr-k-", dir="/tmp") as name:
        folder = Path(name)
        _, built = world(folder, 0.2, [TASK])
        data = many_passages(built, folder / "data", given.passages)
        with Nodes(folder, apart=not given.together) as nodes:
            environment = nodes.environment

            def started(out: Path) -> subprocess.Popen[bytes]:
                command = evaluate(given.model, data, out, *more, "--ray", nodes.address, "--ray-actors", "2")
                return subprocess.Popen(
                    nodes.inside(0, command), env=environment, stdout=subprocess.DEVNULL, start_new_session=True
                )

            one = evaluate(given.model, data, folder / "one", *more)
            subprocess.run(one, env=environment, stdout=subprocess.DEVNULL, check=True)
            (expected,) = (folder / "one").iterdir()
            since = time.monotonic()
            assert started(folder / "whole").wait() == 0
            length = time.monotonic() - since
            print(f"{given.passages:,} passages, undisturbed {length:.1f} s", flush=True)
            for kind in ("actor", "raylet", "command"):
                number = hits = 0
                while hits < given.kills:
                    out, moment = folder / f"{kind}-{number}", draw.uniform(0, length)
                    number += 1
                    process = started(out)
                    since = time.monotonic()
                    while time.monotonic() - since < moment or (kind == "actor" and not nodes.ours()):
                        if process.poll() is not None:
                            break
                        time.sleep(0.02)
                    hit = process.poll() is None
                    hits += hit  # one that had ended does not count, and another moment is drawn
                    if hit and kind == "command":
                        process.kill()
                    elif hit:
                        victims = nodes.ours() if kind == "actor" else [nodes.raylet(1)]
                        for victim in draw.sample(victims, min(1, len(victims))):
                            if victim is not None:
                                victim.kill()
                    code = process.wait()
                    if kind == "command" and hit:
                        code = started(out).wait()
                    if kind == "raylet" and hit:
                        nodes.stop(1)
                        nodes.start(1)
                    _, alive = psutil.wait_procs(nodes.ours(), timeout=30)
                    left = [path for path in out.rglob("*") if path.name.endswith(".tmp") or "work-" in path.name]
                    well = code == 0 and not alive and not left and equal(out / expected.name, expected, TASK)
                    wrong += not well
                    took = time.monotonic() - since
                    when = f"killed after {moment:4.1f} s" if hit else "had ended before it was killed"
                    print(f"{kind:8s} {when}, {took:5.1f} s in all: {'equal' if well else 'WRONG'}", flush=True)
                    if not well:
                        print(f"  code {code}, alive {alive}, left {left}")
    print("all equal" if not wrong else f"{wrong} WRONG")
    return min(wrong, 1)


if __name__ == "__main__":
    raise SystemExit(main())
