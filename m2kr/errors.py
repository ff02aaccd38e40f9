"""Errors a user can act on, and the way every command line of this project ends."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches


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
    """Return the number of the system's error behind an exception, as in `errno`; None where there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if told := re.search(r"\(os error (\d{1,4})\)|\[[Ee]rrno (\d{1,4})\]", str(error)):
            return int(told[1] or told[2])
        error = error.__cause__ or error.__context__
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def run_command(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run ``main(argv)``; turn an `M2KRError` into one line on standard error and exit code 2.

    An interrupt ends with 130, as shells expect; any other exception is a defect of ours and keeps its traceback.
    """
    try:
        return main(argv)
    except M2KRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
