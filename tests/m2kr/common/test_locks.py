"""One process at a time writes a folder; the next is told which it is, and waits or is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from m2kr.common import locks
from m2kr.common.locks import exclusive, is_left_locked, is_unclaimed, one_writer
from m2kr.errors import M2KRError

HOLD = """
import sys
from pathlib import Path
from m2kr.common import locks
from m2kr.common.locks import one_writer
with one_writer(Path(sys.argv[1])):
    print("here", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_or_waits_and_is_told_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    said: list[str] = []
    waiting, entered = threading.Event(), threading.Event()
    monkeypatch.setattr(locks, "say", lambda line, quiet: (said.append(line), waiting.set()))

    def write() -> None:
        with one_writer(out):
            entered.set()

    second = threading.Thread(target=write)
    with one_writer(out):
        (out / "file").touch()
        with pytest.raises(M2KRError, match=rf"out is being made by process {os.getpid()}, since 2"):
            one_writer(out, wait=False).__enter__()
        second.start()
        assert waiting.wait(60)
        assert said[0].startswith(f"{out} is being written by process {os.getpid()}, since 2")
        assert not entered.is_set()
    second.join(60)
    assert entered.is_set()
    assert [path.name for path in out.iterdir()] == ["file"]


def test_many_writers_come_one_after_the_other(tmp_path: Path) -> None:
    inside, most = [], []

    def write() -> None:
        for _ in range(5):
            with one_writer(tmp_path, quiet=True):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 20
    assert not list(tmp_path.iterdir())


def test_after_a_kill_the_lock_is_free_and_what_is_left_goes_with_the_next_writer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        with pytest.raises(M2KRError, match=f"process {child.pid}, since"):
            one_writer(tmp_path / "out", wait=False).__enter__()
        child.send_signal(signal.SIGKILL)
    assert is_left_locked(tmp_path / "out")
    assert is_unclaimed(tmp_path / "out", "run.json")
    with one_writer(tmp_path / "out"):
        (tmp_path / "out" / "file").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    assert not is_left_locked(tmp_path / "out")


def test_a_folder_that_nothing_was_written_into_goes_with_its_lock(tmp_path: Path) -> None:
    with one_writer(tmp_path / "new"):
        pass
    (tmp_path / "old").mkdir()
    with one_writer(tmp_path / "old"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_link_under_the_name_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".x.lock").symlink_to(tmp_path / "outside")
    with exclusive(tmp_path / ".x.lock", "x"):
        assert not (tmp_path / "outside").exists()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_anything_else_is_claimed(tmp_path: Path) -> None:
    for name in (".run.json.tmp", ".lock", ".lock-holder", "..lock-holder.tmp"):
        (tmp_path / name).touch()
        assert is_unclaimed(tmp_path, "run.json")
    assert is_unclaimed(tmp_path / "none", "run.json")
    assert not is_unclaimed(tmp_path / ".lock", "run.json")
    (tmp_path / ".other.json.tmp").touch()
    assert not is_unclaimed(tmp_path, "run.json")
