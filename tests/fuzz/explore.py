"""Run the property tests again and again with fresh seeds till the time is over; say what to add where one fails.

    make fuzz FUZZ_SECONDS=600     or     python tests/fuzz/explore.py --seconds 600 tests/m2kr/search

`make test` draws the same examples each time, so that a run that passes passes again. This draws others. A test that
fails is shrunk by hypothesis, printed as the ``@example(...)`` to put above it, and left out of the rounds that follow.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest


class Explorer:
    """Repeats the tests of a session till the time is over.

    Attributes:
        rounds: how often all tests have been run.
        failures: of each test that failed, its place and what to add there.
    """

    def __init__(self, seconds: float) -> None:
        self.rounds = 0
        self.failures: dict[str, str] = {}
        self._seconds = seconds

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all tests once, whatever time that takes, then those that passed till the time is over."""
        end = time.monotonic() + self._seconds
        items = list(session.items)
        while items:
            for item, following in zip(items, [*items[1:], None], strict=True):
                last = self.rounds > 0 and time.monotonic() > end
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None if last else following)
                if last:
                    return True
            self.rounds += 1
            print(f" {self.rounds} rounds", flush=True)
            items = [item for item in items if item.nodeid not in self.failures]
            if time.monotonic() > end:
                break
        return True

    def pytest_runtest_makereport(self, item: pytest.Function, call: pytest.CallInfo[None]) -> None:
        """Keep what hypothesis noted of an error."""
        if call.excinfo is None or call.excinfo.errisinstance(pytest.skip.Exception):
            return
        notes = [*notes_of(call.excinfo.value)]
        lines = [text for note in notes if (text := as_example(note, item.fixturenames))]
        if not lines:
            lines = [text for note in notes for text in re.findall(r"@reproduce_failure\(.*?\)(?= |$)", note)]
        self.failures[item.nodeid] = "\n".join(lines) or f"no example: {call.excinfo.exconly()}"


def notes_of(error: BaseException) -> Iterator[str]:
    """Yield the notes of an error, and of each of several errors that one test has."""
    for one in getattr(error, "exceptions", ()):
        yield from notes_of(one)
    yield from getattr(error, "__notes__", ())


def as_example(note: str, fixtures: list[str]) -> str:
    """Return the decorator that gives a test the arguments of "Failing test case: name(...)"; "" for other notes.

    Arguments that are fixtures or parameters of pytest are left out. What a test draws on the way (``data``) has no
    such form: its decorator is ``@reproduce_failure``.
    """
    found = re.search(
        r"(?:Falsifying example|Failing test case): \w+\(\n(.*?)^\)", note, flags=re.DOTALL | re.MULTILINE
    )
    arguments = re.split(r"^(?=    \w+=)", found[1], flags=re.MULTILINE)[1:] if found else []
    if any(re.match(r"    \w+=data\(\.\.\.\)", argument) for argument in arguments):
        return ""
    kept = [argument for argument in arguments if argument.split("=")[0].strip() not in fixtures]
    return f"@example(\n{''.join(kept)})" if kept else ""


def main() -> None:
    """Explore the property tests of the files and folders named, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="all together; every test is run once at least")
    parser.add_argument("tests", nargs="*", default=["tests"])
    arguments = parser.parse_args()
    os.environ["HYPOTHESIS_PROFILE"] = "explore"  # tests/conftest.py reads it
    explorer = Explorer(arguments.seconds)
    options: list[Any] = ["-m", "hypothesis", "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider"]
    code = pytest.main([*options, *arguments.tests], plugins=[explorer])
    print(f"\n{explorer.rounds} rounds with fresh seeds, {len(explorer.failures)} tests failed")
    for place, text in explorer.failures.items():
        print(f"\n{place}: add this above the test, and mend what it shows\n{text}")
    sys.exit(int(code) or bool(explorer.failures))


if __name__ == "__main__":
    main()
