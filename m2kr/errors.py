"""Errors a user can act on, and the way every command line of this project ends."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import TextIO

from m2kr.signals import Signals


class M2KRError(Exception):
    """Input or settings that cannot work. The message is written for the person at the terminal.

    It says what was passed, where (file, line or row id), why that cannot work and what to do. Commands print it
    on standard error without a traceback and exit with code 2; a caller of the library gets the exception.
    """


class BadRowsError(M2KRError):
    """A raw release holds a row that cannot be used, and the build was asked to stop at such rows."""


class MissingFilesError(M2KRError):
    """A file of a raw release, or the other half of one of its rows, is not there."""


class MissingReleaseError(MissingFilesError):
    """A file of a raw release is not there."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean X?" with the closest of ``known``, or an empty string where none is close."""
    folded = {candidate.casefold(): candidate for candidate in known}
    close = get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
    return f" Did you mean {folded[close[0]]}?" if close else ""


REMEDIES = {
    errno.ENOSPC: "Free some space, or choose another folder.",
    errno.EDQUOT: "Free some space, or choose another folder.",
    errno.EFBIG: "Choose a folder of a file system that holds large files.",
    errno.EROFS: "Choose another folder: nothing can be written to that file system.",
    errno.EACCES: "Change who may write it, or choose another folder.",
    errno.EPERM: "Change who may write it, or choose another folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOTDIR: "Choose another folder: a part of that path is a file.",
    errno.EEXIST: "Choose another folder: a part of that path is a file.",
    errno.EISDIR: "Choose another name: there is a folder of that name.",
}
"""Errors of the system that a person can help -> what helps."""


def system_error(error: BaseException | None) -> int | None:
    """Return the number of the system's error behind an exception, as in `errno`; None where there is none.

    Libraries that are not of Python raise errors of their own, and tell the number in their message.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if told := re.search(r"\(os error (\d{1,4})\)|\[[Ee]rrno (\d{1,4})\]", str(error)):
            return int(told[1] or told[2])
        error = error.__cause__
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def run_command(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run ``main(argv)``; turn an `M2KRError` into one line on standard error and exit code 2.

    So does an error of the system that no code of ours can help: a full disk, a folder that may not be written, a name
    that is too long. Ctrl-C ends with 130 and SIGTERM with 143, as shells expect, see `Signals`. Any other exception is
    a defect of ours and keeps its traceback. What a console cannot show is printed as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.errors == "strict" or stream.encoding.lower() != "utf-8"):
            stream.reconfigure(errors="backslashreplace")
    with Signals() as signals:
        try:
            try:
                signals.arm()
                code = main(argv)
                sys.stdout.flush()
            finally:
                signals.disarm()  # in a clause of its own: an exception in a handler of exceptions would get away
        except BaseException as error:  # after a signal, libraries turn its exception into ones of their own
            if signals.caught is None and not isinstance(error, KeyboardInterrupt):
                return _explained(error)
        else:
            if signals.caught is None:
                return code
        # Also where the exception was lost in a library's callback, and the command went on.
        if line := signals.line():
            _tell(line)
        return signals.exit_code


def _explained(error: BaseException) -> int:
    """Say in a line what an exception means for a person, and return the exit code; raise it where it is a defect."""
    if isinstance(error, BrokenPipeError):  # whoever read our output has enough
        _drop(sys.stdout)
        return 0
    if isinstance(error, M2KRError):
        _tell(f"error: {error}")
        return 2
    number = system_error(error)
    if isinstance(error, OSError) and number in REMEDIES:
        if not error.filename:
            _drop(sys.stdout)
        name = f"{error.filename!s:.200}: " if error.filename else ""
        _tell(f"error: {name}{error.strerror}. {REMEDIES[number]}")
        return 2
    if isinstance(error, Exception) and number in REMEDIES:  # as libraries in Rust tell it
        _tell(f"error: {first_line(error):.400}. {REMEDIES[number]}")
        return 2
    raise error


def _tell(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # nobody can be told where the error output is full
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, so that Python does not fail over it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
