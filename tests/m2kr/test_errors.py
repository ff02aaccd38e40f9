"""How commands end: one line for what a person can mend, signals, and output that cannot be written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m2kr.errors import REMEDIES, M2KRError, run_command

PREFIX = "import sys, time, os, threading\nfrom pathlib import Path\nfrom m2kr.errors import run_command\n"


def started(body: str, **options) -> subprocess.Popen[str]:
    """Start a command whose main function has this body, and wait until it writes "ready"."""
    code = f"{PREFIX}def main(argv):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    code += "sys.exit(run_command(main))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


BODIES = {
    "asleep": "print('ready', flush=True)\ntime.sleep(60)",
    # As in a callback of a library that prints what its callbacks raise, and goes on.
    "swallowed": """
def callback():
    try:
        print('ready', flush=True)
        time.sleep(60)
    except BaseException:
        pass
callback()
return 0""".strip(),
    "in a callback of C": """
import ctypes
sleep = ctypes.CFUNCTYPE(None)(lambda: (print('ready', flush=True), time.sleep(60)))
sleep()
time.sleep(60)
return 0""".strip(),
    "turned into another error": """
try:
    print('ready', flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    raise ValueError('the callback failed')""".strip(),
    "waiting for threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(1) as pool:
    pool.submit(time.sleep, 60)
    print('ready', flush=True)""".strip(),
    "in native code": "print('ready', flush=True)\nimport ctypes\nctypes.CDLL(None).usleep(60_000_000)",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_soon_with_one_line(body, number, code):
    process = started(body)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert len(err.splitlines()) == 1, err
    assert "the same command goes on" in err


def test_an_ignored_ctrl_c_stays_ignored():
    process = started("print('ready', flush=True)\ntime.sleep(0.3)\nreturn 0", preexec_fn=ignore_interrupts)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_a_forked_child_keeps_its_signals_to_itself():
    body = """
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
os.kill(child, 15)
assert os.waitpid(child, 0)[1] == 15
print('ready', flush=True)
time.sleep(1.7)
return 0""".strip()
    process = started(body)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_a_signal_after_the_command_is_pythons_own():
    assert run_command(lambda argv: 0) == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run_command(interrupted) == 130


def interrupted(argv: object) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR])
def test_an_error_of_the_system_is_a_line_that_names_the_file(number, capsys):
    def main(argv: object) -> int:
        raise OSError(number, os.strerror(number), "some/file")

    assert run_command(main) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: some/file: {os.strerror(number)}. ")
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ValueError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
    ],
)
def test_a_full_disk_is_told_in_a_line_whatever_a_library_makes_of_it(error, capsys):
    def main(_):
        raise error

    assert run_command(main) == 2
    assert capsys.readouterr().err == f"error: {error}. {REMEDIES[errno.ENOSPC]}\n"


def test_a_name_too_long_for_the_system_is_refused_in_a_line(capsys):
    assert run_command(lambda argv: len(Path("x" * 5000).read_text())) == 2
    assert "File name too long" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback():
    with pytest.raises(FileNotFoundError):
        run_command(lambda argv: len(Path("there is no such file").read_text()))
    with pytest.raises(ZeroDivisionError):
        run_command(lambda argv: 1 // 0)


def test_a_console_shows_what_it_cannot_show_as_escapes():
    code = f"{PREFIX}run_command(lambda argv: print('modèle 車'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True
    )
    assert done.stdout == b"mod\\xe8le \\u8eca\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_a_full_output_is_an_error_and_a_full_error_output_none(unbuffered):
    code = f"{PREFIX}sys.exit(run_command(lambda argv: print('x') or 0))"
    # With buffers, Python tries to write what they hold once more when it ends.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | unbuffered
    with Path("/dev/full").open("w") as full:
        given = {"args": [sys.executable, "-c", code], "stdout": full, "check": False, "env": environment}
        done = subprocess.run(**given, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "No space left" in done.stderr
        assert subprocess.run(**given, stderr=full).returncode == 2


def test_who_closes_the_output_has_enough():
    process = started("print('ready', flush=True)\ntime.sleep(0.3)\nprint('x' * 100_000)\nreturn 0")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 0


def test_a_line_is_printed_for_an_error(capsys):
    def main(argv: object) -> int:
        raise M2KRError("it cannot work.")

    assert run_command(main) == 2
    assert capsys.readouterr().err == "error: it cannot work.\n"
