"""What is kept of an archive of the hub: the list of its members, and the pictures that were fetched, in one file.

It is an SQLite file, so that a kill leaves what was finished, thousands of pictures take one file of the disk's table,
and no name of a member becomes a path. Its name holds the archive's hash: another archive has another file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from m2kr.common.files import writing
from m2kr.errors import M2KRError
from m2kr.images.zip_members import Member

Write: TypeAlias = "Callable[..., sqlite3.Cursor]"
"""Executes a statement, of those that count together."""

_CACHE_KIB = 64 << 10
# Of the list of members, whose names come in no order: with SQLite's own 2 MiB, that of millions takes twice as long.

_WAIT = 60.0
# Seconds that a reader waits while another process writes.


class HubStore:
    """Members and pictures of one archive. Reading is safe in threads, and in processes that it was sent to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return HubStore, (self.path,)

    def __bool__(self) -> bool:
        """Whether the file is there."""
        return self.path.is_file()

    @property
    def scanned(self) -> int:
        """Byte of the archive up to which its members are listed."""
        return int(self._fact("scanned") or 0)

    @property
    def whole(self) -> bool:
        """Whether all members are listed."""
        return self._fact("whole") == "yes"

    @property
    def top(self) -> str:
        """The one folder that all members stand in, with "/" at the end; empty without one."""
        return self._fact("top") or ""

    def member(self, name: str) -> Member | None:
        """Return a member of exactly that name."""
        row = self._row("SELECT name, start, packed, size, method, crc FROM members WHERE name = ?", name)
        return None if row is None else Member(*row)

    def picture_size(self, name: str) -> int | None:
        """Return the bytes of a picture that is kept; None where it is not."""
        row = self._row("SELECT length(content) FROM pictures WHERE name = ?", name)
        return None if row is None else int(row[0])

    def picture(self, name: str) -> bytes:
        """Return a picture that is kept.

        Raises:
            M2KRError: it is not.
        """
        row = self._row("SELECT content FROM pictures WHERE name = ?", name)
        if row is None:
            raise M2KRError(f"{self.path} holds no picture {name!r}. Run the command again: it is fetched again.")
        return bytes(row[0])

    def note(self, write: Write, member: Member) -> None:
        """Note a member; of several of one name the last counts, as in tar."""
        write("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?)", member)

    def keep(self, write: Write, name: str, content: bytes) -> None:
        """Keep a picture."""
        write("INSERT OR REPLACE INTO pictures VALUES (?, ?)", (name, content))

    def reach(self, write: Write, byte: int, *, whole: bool) -> None:
        """Note that the members before a byte of the archive are listed, or all."""
        first, last = write("SELECT min(name), max(name) FROM members").fetchone()
        top = (first or "")[: (first or "").find("/") + 1]
        # Names that begin alike stand together, so all do where the first and the last do.
        facts = {"scanned": byte, "whole": "yes" if whole else "no", "top": top if str(last).startswith(top) else ""}
        for fact in facts.items():
            write("INSERT OR REPLACE INTO facts VALUES (?, ?)", fact)

    @contextmanager
    def writing(self) -> Iterator[Write]:
        """Yield what executes a statement; all of them count when the block ends, or none.

        Raises:
            M2KRError: the file cannot be written.
        """
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = sqlite3.connect(self.path, timeout=_WAIT)
            try:
                connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    for table in _TABLES:
                        connection.execute(table)
                    yield connection.execute
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise M2KRError(
                f"{self.path} could not be written ({error}). Free some space, or set M2KR_CACHE to a folder with more."
            ) from error

    def _fact(self, name: str) -> str | None:
        row = self._row("SELECT value FROM facts WHERE name = ?", name) if self else None
        return None if row is None else str(row[0])

    def _row(self, statement: str, name: str) -> tuple[Any, ...] | None:
        if not self:
            return None
        try:
            row = self._connection().execute(statement, (name,)).fetchone()
        except UnicodeEncodeError:  # a lone surrogate, which no list holds
            return None
        except sqlite3.Error as error:
            if "no such table" in str(error):  # a kill came before the first was finished
                return None
            raise M2KRError(f"{self.path} is damaged ({error}). Delete it; it is made again.") from error
        return None if row is None else tuple(row)

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection; one from before a fork is left alone."""
        known = getattr(self._local, "known", None)
        if known is None or known[0] != os.getpid():
            address = f"{self.path.absolute().as_uri()}?mode=rw"  # "ro" could not undo what a kill left
            known = (os.getpid(), sqlite3.connect(address, uri=True, timeout=_WAIT))
            self._local.known = known
        return known[1]


_TABLES = (
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE IF NOT EXISTS members (name TEXT PRIMARY KEY, start INT, packed INT, size INT, method INT, crc INT) "
    "WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS pictures (name TEXT PRIMARY KEY, content BLOB)",
)
