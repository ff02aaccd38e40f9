"""Ctrl-C at a terminal reaches a command and the processes it started; one line comes of it, whenever it comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MODEL = """
import time

import numpy as np


class Slow:
    name, vectors, reads, reads_instructions = "slow", "single", frozenset({"text", "image"}), False

    def __init__(self, *, checkpoint=None, device="cpu", dtype="float32"):
        self.settings = {}

    def encode_query(self, inputs, batch_size=32):
        time.sleep(0.02 * len(inputs))
        return np.ones((len(inputs), 2), dtype=np.float32)

    def encode_document(self, inputs, batch_size=32):
        return np.ones((len(inputs), 2), dtype=np.float32)
"""
# Loads no torch, whose import would be most of the time.

COMMANDS = {
    "build": ["m2kr.build", "--raw", "{world}", "--out", "{out}", "--workers", "1"],
    "evaluate": [
        *("m2kr.evaluate", "--model", "{model}", "--data", "{built}", "--images", "{world}", "--out", "{out}"),
        *("--split", "train", "--tasks", "WIT,OVEN,OKVQA", "--workers", "2", "--batch-size", "1"),
    ],
}


@pytest.mark.parametrize(("name", "wait"), [("build", 0.0), ("evaluate", 1.0)])  # while workers start, for the latter
def test_ctrl_c_at_a_terminal_ends_a_command_and_its_processes_with_one_line(
    name: str, wait: float, world: Path, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "slow.py").write_text(MODEL)
    named = {"world": world, "built": built, "out": out, "model": f"{tmp_path / 'slow.py'}:Slow"}
    argv = [word.format(**named) for word in COMMANDS[name]]
    process = subprocess.Popen(
        [sys.executable, "-m", *argv, "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group, as a terminal makes one
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not out.exists() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)
    said, told = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert told.splitlines() == ["interrupted; what was finished is kept, and the same command goes on from there"]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # the workers look for it that it has ended
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a process of it is still there")


def test_a_signal_at_any_line_around_a_command_ends_it_with_a_line_and_no_traceback() -> None:
    script = Path(__file__).with_name("signal_at_each_line.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) > 100
    codes = set()
    for main, number, at, code, said in found:
        ended = (code, len(said.splitlines()))
        undisturbed = (0, 0) if main == "good" else (2, 1)  # it came too late to end the command
        assert ended in {(128 + number, 1), (-number, 0), (-number, 1), undisturbed}, (main, number, at, code, said)
        codes.add(code)
    assert codes >= {0, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM}


def test_what_a_library_prints_of_the_exception_is_not_shown() -> None:
    script = (
        "import os, signal, sys; from m2kr.errors import run_command\n"
        "def main(_):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt as error:\n"
        "        os.write(2, b'thread panicked\\n')\n"
        "        raise RuntimeError('lost') from error\n"
        "sys.exit(run_command(main))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.splitlines() == [
        "interrupted; what was finished is kept, and the same command goes on from there"
    ]
