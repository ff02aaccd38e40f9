"""A hub with one archive of pictures, and what a client of it finds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from m2kr.common.hub import hub_cache
from m2kr.images.roots import ImageRoots, parse_roots
from m2kr.tasks import HUB_IMAGES, TASKS
from tests.hub_server import Files, HubServer

DRAW = random.Random(0)
PICTURES: Files = {
    f"val2014/COCO_{number:03d}.jpg": DRAW.randbytes(DRAW.randrange(2_000, 9_000)) for number in range(100)
}
WANTED = list(PICTURES)[3:90:8]


@dataclass
class Client:
    """A hub with one archive of a task, a client of it, and what it says."""

    hub: HubServer
    tmp_path: Path
    said: pytest.CaptureFixture[str]
    task: str = "OKVQA"
    archive: str = "OKVQA/val2014.zip"
    files: Files = field(default_factory=dict)

    def publish(self, archive: str, content: bytes, **others: bytes) -> None:
        self.archive = archive
        self.hub.publish(HUB_IMAGES, {**self.files, archive: content})
        self.hub.forget()

    def roots(self, *values: str) -> ImageRoots:
        """Roots as a new process makes them."""
        return parse_roots(values or ("hub",)).for_task(TASKS[self.task])

    def fetched(self, paths: list[str]) -> dict[str, bytes]:
        """Fetch pictures in a new process, so to say, and return those that are found, with their bytes."""
        roots = self.roots()
        roots.fetch(paths)
        return found(roots, paths)

    @property
    def kept(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in hub_cache(HUB_IMAGES).rglob("*.sqlite*"))


def found(roots: ImageRoots, paths: list[str]) -> dict[str, bytes]:
    return {path: file.read() for path in paths if (file := roots.find(path))}


def wanted(paths: list[str]) -> dict[str, bytes]:
    return {path: PICTURES[path] for path in paths}


def size(paths: list[str]) -> int:
    return sum(len(PICTURES[path]) for path in paths)
