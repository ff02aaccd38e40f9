"""A process that is killed before its n-th change of the file system, without a process."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHANGES = [(os, name) for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "open")] + [(io, "open")]
"""What files are opened, made, moved and deleted by; `pathlib` and `shutil` call these."""


class Killed(BaseException):
    """What no `except Exception` and no `except OSError` catches."""


class Kill:
    """Counts the changes from `arm` on, and fails the n-th and all after it: also those of what cleans up."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int) -> None:
        self.number, self.count, self.armed = number, 0, False
        for module, name in CHANGES:
            patch.setattr(module, name, self._failing(getattr(module, name)))

    def arm(self) -> None:
        self.armed = True

    @property
    def struck(self) -> bool:
        return self.count >= self.number

    def _failing(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*given: Any, **named: Any) -> Any:
            self.count += self.armed
            if self.armed and self.struck:
                raise Killed
            return change(*given, **named)

        return failing


def killed_everywhere(run: Callable[[Kill], object], *, armed: bool = True) -> Iterator[int]:
    """Call ``run`` again and again, killed before its first change, its second, and so on until it ends unharmed.

    Yields the number of each kill, after it, for the caller to look at what it left. Where not ``armed``, ``run`` says
    from when on changes count, by `Kill.arm`.
    """
    number = 0
    while True:
        number += 1
        with pytest.MonkeyPatch.context() as patch:
            kill = Kill(patch, number)
            if armed:
                kill.arm()
            try:
                run(kill)
            except Killed:
                pass
            else:
                assert not kill.struck, "a kill was swallowed"
                return
        yield number


class Fault:
    """Fails the n-th write under a folder, and all after it, as a system does whose disk is full or read-only."""

    def __init__(self, patch: pytest.MonkeyPatch, under: Path, number: int, code: int) -> None:
        self.under, self.number, self.code, self.count = under, number, code, 0
        for module, name in CHANGES:
            if name not in ("unlink", "rmdir"):
                patch.setattr(module, name, self._failing(getattr(module, name), name))

    def _failing(self, change: Callable[..., Any], name: str) -> Callable[..., Any]:
        def failing(path: Any, *given: Any, **named: Any) -> Any:
            if self._is_ours(path) and self._writes(name, [*given, *named.values()]):
                self.count += 1
                if self.count >= self.number:
                    raise OSError(self.code, os.strerror(self.code), str(path))
            return change(path, *given, **named)

        return failing

    def _is_ours(self, path: Any) -> bool:
        return isinstance(path, str | Path) and (Path(path) == self.under or self.under in Path(path).parents)

    def _writes(self, name: str, given: list[Any]) -> bool:
        if name != "open":
            return True
        return any(
            bool(value & os.O_CREAT) if type(value) is int else isinstance(value, str) and set(value) & set("wxa+")
            for value in given[:1]
        )
