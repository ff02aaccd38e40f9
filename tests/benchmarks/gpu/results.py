"""The file of figures: what has been measured of which section, written whole after every part."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from m2kr.common.files import write_json
from m2kr.common.json_input import read_json
from m2kr.errors import M2KRError, first_line

FORMAT = 1

Status = Literal["done", "wrong", "failed", "cut", "skipped"]
"""Of a part, and of a section, which has the gravest of its parts: "done", in the time it had; "wrong", a check that
did not hold; "failed", with an error; "cut", for lack of time; "skipped", for lack of something else."""

GRAVITY: tuple[Status, ...] = ("skipped", "done", "cut", "wrong", "failed")


class Skipped(Exception):  # noqa: N818 - no error
    """A part that cannot be measured here; its text says what is lacking."""


class OutOfTime(Exception):  # noqa: N818 - no error
    """A part for which too little time is left."""


class Results:
    """The file, and what it holds.

    Attributes:
        path: of the file.
        value: its content: ``settings``, ``environment``, and ``sections``, each with ``status``, ``seconds`` and
            ``parts``.

    Args:
        path: the file, made when first saved.
        settings: what all figures in a file have in common.
        again: begin anew.

    Raises:
        M2KRError: the file is none of figures, or of other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, again: bool = False) -> None:
        self.path = path
        self.value: dict[str, Any] = {"format": FORMAT, "settings": settings, "environment": {}, "sections": {}}
        if path.is_file() and not again:
            self.value = read(path)
            if self.value["settings"] != settings:
                raise M2KRError(
                    f"{path} holds figures of {self.value['settings']}, and these would be of {settings}. "
                    "Name another --out, or pass --again to replace them."
                )

    def section(self, name: str) -> dict[str, Any]:
        """Return what is known of a section."""
        found: dict[str, Any] = self.value["sections"].setdefault(name, {"status": "cut", "seconds": 0.0, "parts": {}})
        return found

    def save(self) -> None:
        """Write the file."""
        write_json(self.path, self.value)

    @contextmanager
    def part(self, section: str, name: str) -> Iterator[dict[str, Any]]:
        """Measure one part: what is put into the dictionary is kept, an exception is recorded and goes no further."""
        own = self.section(section)
        found: dict[str, Any] = {}
        own["running"] = name
        self.save()
        status: Status = "done"
        start = time.perf_counter()
        try:
            yield found
            if found.get("passed") is False:
                status = "wrong"
        except (Skipped, OutOfTime) as reason:
            status = "skipped" if isinstance(reason, Skipped) else "cut"
            found["why"] = str(reason)
        except Exception as error:  # whatever it is, the other parts go on
            status = "failed"
            found["why"] = f"{type(error).__name__}: {first_line(error)} ({_place(error)})"
        del own["running"]
        took = time.perf_counter() - start
        own["parts"][name] = {"status": status, "took": round(took, 2), **found}
        own["seconds"] = round(own["seconds"] + took, 2)
        own["status"] = gravest(part["status"] for part in own["parts"].values())
        self.save()

    def begin(self, section: str, parts: Iterable[str]) -> list[str]:
        """Note which parts a section has, and return those that are to be measured; what is known of these goes.

        Those in which the section's process ended before come last, so that they keep no other from its turn.
        """
        own = self.section(section)
        own.pop("why", None)
        own["expected"] = list(parts)
        left = [name for name in own["expected"] if not self._measured(own, name)]
        left.sort(key=own.get("ended_in", []).count)
        own["parts"] = {name: own["parts"][name] for name in own["expected"] if name not in left}
        return left

    def is_whole(self, section: str) -> bool:
        """Whether all parts of a section are measured."""
        own = self.section(section)
        return bool(own.get("expected")) and all(self._measured(own, name) for name in own["expected"])

    @staticmethod
    def _measured(section: dict[str, Any], part: str) -> bool:
        return section["parts"].get(part, {}).get("status") in ("done", "wrong")

    def finish(self, section: str, why: str = "", *, crashed: bool = False) -> None:
        """Judge a section at its end: a part that was not come to is cut.

        Args:
            section: its name.
            why: what ended its process; empty where it ended by itself.
            crashed: whether that was a fault, and not the end of its time.
        """
        own = self.section(section)
        if (running := own.pop("running", None)) is not None:
            status: Status = "failed" if crashed else "cut"
            own["parts"][running] = {"status": status, "took": 0.0, "why": why}
            own.setdefault("ended_in", []).append(running)
        for name in own.get("expected", []):
            own["parts"].setdefault(name, {"status": "cut", "took": 0.0, "why": why or "the section's time was over"})
        own["parts"] = {name: own["parts"][name] for name in own.get("expected", [])}
        own["status"] = gravest((part["status"] for part in own["parts"].values()), none="failed")
        if not own["parts"]:
            own["why"] = why
        self.save()


def read(path: Path) -> dict[str, Any]:
    """Return the content of a file of figures.

    Raises:
        M2KRError: it is none.
    """
    remedy = "Delete it, or name another."
    value = read_json(path, dict[str, Any], "file of figures", remedy)
    if value.get("format") != FORMAT or not all(key in value for key in ("settings", "environment", "sections")):
        raise M2KRError(f"{path} is no file of figures of this version (format {FORMAT}). {remedy}")
    return value


def gravest(statuses: Iterable[Status], none: Status = "done") -> Status:
    """Return the gravest of several statuses; of parts that are done and parts that cannot be, "done"."""
    return max(statuses, key=GRAVITY.index, default=none)


def _place(error: BaseException) -> str:
    """Return where an exception was raised, without folders: the last frame of this repository, or the last one."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    root = str(Path(__file__).resolve().parents[3])
    own = [frame for frame in frames if frame.filename.startswith(root) and "site-packages" not in frame.filename]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
