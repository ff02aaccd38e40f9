"""Damage raw releases at random and build them: whatever they hold, the answer is a benchmark or an error for people.

    make fuzz FUZZ_SECONDS=600     or     python tests/fuzz/fuzz_sources.py --seconds 60 --tasks OKVQA

For each task, hypothesis draws edits of the raw files of a tiny made-up world (bytes cut, repeated, overwritten,
inserted; pieces that parsers stumble over are drawn often) and the task is built with ``--on-bad-rows skip``. Anything
but a result or an `M2KRError` is a failure, and is printed shrunk to the fewest edits that show it: they belong into an
``@example(edits=...)`` above `fuzz`'s ``build`` till the fault is mended, and then into a test of the parser at fault.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.errors import M2KRError
from m2kr.synthetic.write import generate
from m2kr.tasks import TASKS, parse_tasks

PIECES = [
    *(
        b"\n",
        b"\t",
        b'"',
        b'""',
        b"\r",
        b"\x00",
        b"\xff",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b",",
        b":",
        b"[",
        b"]",
        b"{",
        b"}",
    ),
    *(
        b"null",
        b"true",
        b"-1",
        b"1e999",
        b"NaN",
        b"..",
        b"../x.jpg",
        b"\\u0000",
        b"\\ud800",
        b"[]",
        b"{}",
        b'""',
        b"99999999999999999999",
    ),
]
EDIT = st.tuples(
    st.integers(0, 50),  # which file, by number
    st.floats(0, 1),  # where in it
    st.sampled_from(["insert", "cut", "repeat", "overwrite", "truncate"]),
    st.sampled_from(PIECES) | st.binary(min_size=1, max_size=4),
    st.integers(1, 40),  # how many bytes
)


def damaged(data: bytes, where: float, how: str, piece: bytes, size: int) -> bytes:
    """Return ``data`` with one edit."""
    at = int(where * len(data))
    if how == "insert":
        return data[:at] + piece + data[at:]
    if how == "cut":
        return data[:at] + data[at + size :]
    if how == "repeat":
        return data[:at] + data[at : at + 20 * size] + data[at:]
    if how == "overwrite":
        return data[:at] + piece + data[at + len(piece) :]
    return data[:at]


def fuzz(task_key: str, world: Path, seconds: float) -> int:
    """Fuzz one task's source for so long; return how many builds were tried."""
    task = TASKS[task_key]
    end = time.monotonic() + seconds
    tried = 0

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(EDIT, min_size=1, max_size=6))
    def build(edits: list[tuple[int, float, str, bytes, int]]) -> None:
        nonlocal tried
        tried += 1
        with tempfile.TemporaryDirectory() as name:
            raw = Path(name) / "raw"
            for release in task.releases:
                shutil.copytree(
                    world / release, raw / release, ignore=shutil.ignore_patterns("*.jpg", "*.JPG", "*.JPEG")
                )
            files = sorted(path for path in raw.rglob("*") if path.is_file() and path.name != "SYNTHETIC.json")
            for number, where, how, piece, size in edits:
                path = files[number % len(files)]
                path.write_bytes(damaged(path.read_bytes(), where, how, piece, size))
            with contextlib.suppress(M2KRError):
                inputs = task_inputs(task, raw, on_bad_rows="skip", allow_missing=True)
                build_task(inputs, Path(name) / "out", quiet=True)

    while time.monotonic() < end:
        seed(time.time_ns())(build)()
    return tried


def main() -> None:
    """Fuzz the tasks asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="for all tasks together")
    parser.add_argument("--tasks", default="all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        world = Path(name) / "raw"
        generate(world, scale=0.02, quiet=True)
        tasks = parse_tasks(arguments.tasks)
        for task in tasks:
            tried = fuzz(task.key, world, arguments.seconds / len(tasks))
            print(f"{task.key:9} {tried:6,} damaged releases, no unhandled exception", flush=True)


if __name__ == "__main__":
    main()
