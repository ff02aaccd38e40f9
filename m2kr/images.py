"""Where pixels come from: folders of image files, as the releases are unpacked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from m2kr.errors import M2KRError
from m2kr.tasks import Task, get_task

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
"""A picture of more pixels is refused: a few kilobytes of file can stand for gigabytes of them."""


class ImageError(M2KRError):
    """An image is not there, or cannot be decoded."""


class ImageRoots:
    """Folders that ``img_path`` is relative to, tried in order.

    Args:
        folders: image roots.
        per_task: task key -> folder that goes before them, for that task.
    """

    def __init__(self, folders: Iterable[Path], per_task: dict[str, Path] | None = None) -> None:
        self.folders = tuple(folders)
        self.per_task = per_task or {}

    def __str__(self) -> str:
        return " or ".join(str(folder) for folder in self.folders) or "any image root"

    def for_task(self, task: Task) -> ImageRoots:
        """Return the roots for one task: its own, else the place where the releases keep its images, then the roots."""
        if task.key in self.per_task:
            return ImageRoots([self.per_task[task.key]])
        nested = [folder / task.image_root for folder in self.folders if task.image_root]
        return ImageRoots([*(folder for folder in nested if folder.is_dir()), *self.folders])

    def find(self, path: str) -> Path | None:
        """Return the file of an ``img_path``, or None where no root has it.

        Raises:
            ImageError: the path is absolute, or leaves its root.
        """
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
            raise ImageError(f"the image path {path!r} leaves its root. Images are only read below the roots given.")
        for folder in self.folders:
            candidate = folder / pure
            try:
                there = candidate.is_file()
            except OSError:  # the name is too long, or a folder on the way may not be entered
                there = False
            if there:
                # A linked folder is the user's own layout; a linked file may have come out of an archive.
                if not candidate.resolve().is_relative_to(candidate.parent.resolve()):
                    raise ImageError(f"the image {path!r} is a link that leaves its folder in {folder}.")
                return candidate
        return None

    def has(self, path: str) -> bool:
        """Whether some root has the file of an ``img_path``."""
        return self.find(path) is not None

    def open(self, path: str) -> Image:
        """Return an image, decoded to RGB.

        Raises:
            ImageError: it is not there, cannot be decoded, or has too many pixels.
        """
        from PIL import Image

        file = self.find(path)
        if file is None:
            raise ImageError(f"the image {path} is not in {self}. Name its folder with --images.")
        try:
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"{file} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}.")
                return image.convert("RGB")
        except ImageError:
            raise
        except Exception as error:  # of broken files, decoders raise ValueError, RuntimeError and more
            raise ImageError(f"{file} cannot be decoded as an image ({error}). Get the file again.") from error


def parse_roots(values: Iterable[str]) -> ImageRoots:
    """Return the roots of ``--images ROOT`` and ``--images TASK=ROOT``.

    Raises:
        M2KRError: a root is no folder, or a task is unknown.
    """
    folders: list[Path] = []
    per_task: dict[str, Path] = {}
    for value in values:
        # A folder may have "=" in its name.
        name, separator, rest = ("", "", value) if Path(value).is_dir() else value.partition("=")
        path = Path(rest if separator else value)
        if not path.is_dir():
            raise M2KRError(f"--images {value}: {path} is not a folder.")
        if separator:
            per_task[get_task(name).key] = path
        else:
            folders.append(path)
    return ImageRoots(folders, per_task)
