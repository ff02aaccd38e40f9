"""Where pictures come from: folders, .zip, .tar and .tar.gz archives as the releases are downloaded, or packed shards.

``python -m m2kr.images pack`` puts the pictures of a task into parquet shards beside its tables; see `m2kr.images.pack`.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from m2kr.errors import M2KRError
from m2kr.tasks import Task, get_task

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000
"""A picture of more pixels is refused: a few kilobytes of file can stand for gigabytes of them."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Pillow knows dozens more, some of which start other programs (PostScript), and no release has pictures of theirs.

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Archives that are looked for beside and in the places where the releases keep images, in this order."""

Fault = Literal["missing", "outside", "undecodable", "truncated", "too many pixels", "unreadable"]
"""What can be wrong with an image."""

# InfoSeek's pictures are OVEN's. Its published paths have no folder, while OVEN's snapshot sorts its files into folders
# by the first two of the eight digits: oven_04999999.jpg is 04/oven_04999999.jpg there.
_OTHER_PLACES: dict[str, tuple[re.Pattern[str], str]] = {
    "Infoseek": (re.compile(r"(oven_(\d\d)\d{6}\.\w+)"), r"\2/\1"),
}


class ImageError(M2KRError):
    """An image is not there, or cannot be decoded.

    Attributes:
        fault: what is wrong, in a word.
        reason: the same in a few, without the name of the file.
    """

    def __init__(self, message: str, fault: Fault = "missing", reason: str = "") -> None:
        super().__init__(message)
        self.fault: Fault = fault
        self.reason = reason


@dataclass(frozen=True)
class ImageFile:
    """An image that was found.

    Attributes:
        name: where, for messages.
        size: bytes; -1 where only reading tells.
        read: returns its content.
        path: the file itself, unless it is within an archive.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    path: Path | None = None

    def __str__(self) -> str:
        return self.name


Finder = Callable[[str], ImageFile | None]
"""Returns the file of a path that was found harmless, or None."""


class ImageRoots:
    """Places that ``img_path`` is relative to, tried in order.

    Args:
        folders: image roots: folders, or archives.
        per_task: task key -> roots of that task, which go for it instead of ``folders``.
        finders: other places, tried before the folders.
        other_place: pattern and replacement that make another path to try of one that no root has.
        prefix: folder that names inside an archive may begin with.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        per_task: Mapping[str, Path | Sequence[Path]] | None = None,
        *,
        finders: Sequence[Finder] = (),
        other_place: tuple[re.Pattern[str], str] | None = None,
        prefix: str = "",
    ) -> None:
        self.folders = tuple(folders)
        self.per_task = {
            key: (roots,) if isinstance(roots, Path) else tuple(roots) for key, roots in (per_task or {}).items()
        }
        self._finders = tuple(finders)
        self._other_place = other_place
        self._prefix = prefix

    def __str__(self) -> str:
        return " or ".join(str(place) for place in (*self._finders, *self.folders)) or "any image root"

    def for_task(self, task: Task) -> ImageRoots:
        """Return the roots for one task: its own, else the place where the releases keep its images, then the roots.

        That place may be an archive of that name (``kvqa/KVQAimgs.tar.gz``), or a folder with archives in it
        (``coco/train2014.zip``).
        """
        other_place = _OTHER_PLACES.get(task.key)
        if task.key in self.per_task:
            own = [place for root in self.per_task[task.key] for place in (root, *_archives_in(root))]
            return ImageRoots(own, finders=self._finders, other_place=other_place, prefix=task.image_root)
        nested: list[Path] = []
        for folder in self.folders if task.image_root else ():
            place = folder / task.image_root
            if place.is_dir():
                nested.append(place)
            nested += [file for suffix in SUFFIXES if (file := Path(f"{place}{suffix}")).is_file()]
            nested += _archives_in(place)
        return ImageRoots(
            [*nested, *self.folders], finders=self._finders, other_place=other_place, prefix=task.image_root
        )

    def find(self, path: str) -> ImageFile | None:
        """Return the file of an ``img_path``, or None where no root has it.

        Raises:
            ImageError: the path is absolute, or leaves its root.
            ArchiveError: an archive cannot be read.
        """
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
            raise ImageError(
                f"the image path {path!r} leaves its root. Images are only read below the roots given.", "outside"
            )
        paths = [path]
        if self._other_place and (match := self._other_place[0].fullmatch(path)):
            paths.append(match.expand(self._other_place[1]))
        for candidate in paths:
            for finder in self._finders:
                if found := finder(candidate):
                    return found
            for folder in self.folders:
                found = (
                    _in_archive(folder, self._prefix, candidate) if folder.is_file() else _in_folder(folder, candidate)
                )
                if found:
                    return found
        return None

    def has(self, path: str) -> bool:
        """Whether some root has the file of an ``img_path``."""
        return self.find(path) is not None

    def open(self, path: str) -> Image:
        """Return an image, decoded to RGB.

        Raises:
            ImageError: it is not there, cannot be decoded, or has too many pixels.
        """
        from PIL import Image, UnidentifiedImageError

        from m2kr.images.archives import MAX_MEMBER_BYTES

        file = self.find(path)
        if file is None:
            raise ImageError(f"the image {path} is not in {self}. Name its folder with --images.")
        if file.size > MAX_MEMBER_BYTES:
            reason = f"{file.size:,} bytes, more than {MAX_MEMBER_BYTES:,}"
            raise ImageError(f"{file} has {reason}: no picture.", "undecodable", reason)
        try:
            with Image.open(io.BytesIO(file.read()), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    reason = f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}"
                    raise ImageError(f"{file} has {reason}.", "too many pixels", reason)
                return image.convert("RGB")
        except ImageError:
            raise
        except M2KRError as error:
            raise ImageError(str(error), "unreadable", "it cannot be read from its archive") from error
        except Image.DecompressionBombError as error:
            raise ImageError(f"{file} has too many pixels ({error}).", "too many pixels", str(error)) from error
        except Exception as error:  # of broken files, decoders raise ValueError, RuntimeError and more
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if isinstance(error, UnidentifiedImageError):
                reason = "cannot identify image file"  # its own words name a buffer of ours
            cut = re.search(r"truncated|unexpected end|not enough", reason, re.IGNORECASE)
            raise ImageError(
                f"{file} cannot be decoded as an image ({reason}). Get the file again.",
                "truncated" if cut else "undecodable",
                reason,
            ) from error


def _in_folder(folder: Path, path: str) -> ImageFile | None:
    candidate = folder / PurePosixPath(path)
    try:
        if not candidate.is_file():
            return None
        size = candidate.stat().st_size
    except OSError:  # the name is too long, or a folder on the way may not be entered
        return None
    # A linked folder is the user's own layout; a linked file may have come out of an archive.
    if not candidate.resolve().is_relative_to(candidate.parent.resolve()):
        raise ImageError(f"the image {path!r} is a link that leaves its folder in {folder}.", "outside")
    return ImageFile(str(candidate), size, candidate.read_bytes, candidate)


def _in_archive(file: Path, prefix: str, path: str) -> ImageFile | None:
    from m2kr.images.archives import open_archive

    archive = open_archive(file)
    name = str(PurePosixPath(path))
    for candidate in dict.fromkeys([*([f"{prefix}/{name}"] if prefix else []), name, f"{archive.top}{name}"]):
        size = archive.size(candidate)
        if size is not None:
            return ImageFile(f"{file}/{candidate}", size, partial(archive.read, candidate))
    return None


def _archives_in(folder: Path) -> list[Path]:
    """Return the archives that lie in a folder, those that need no unpacking first."""
    if not folder.is_dir():
        return []
    files = sorted(file for file in folder.iterdir() if file.name.endswith(SUFFIXES) and file.is_file())
    # What was unpacked of a .tar.gz is reached through it.
    own = [file for file in files if not file.name.endswith(".m2kr.tar")]
    return sorted(own, key=lambda file: file.name.endswith((".gz", ".tgz")))


def parse_roots(values: Iterable[str]) -> ImageRoots:
    """Return the roots of ``--images ROOT`` and ``--images TASK=ROOT``; a task may have several.

    Raises:
        M2KRError: a root is neither a folder nor an archive, or a task is unknown.
    """
    from m2kr.images.archives import archive_kind

    folders: list[Path] = []
    per_task: dict[str, list[Path]] = {}
    for value in values:
        # A folder may have "=" in its name.
        name, separator, rest = ("", "", value) if Path(value).exists() else value.partition("=")
        path = Path(rest if separator else value)
        if not path.is_dir() and not archive_kind(path):
            raise M2KRError(f"--images {value}: {path} is not a folder, nor a .zip, .tar or .tar.gz archive.")
        if separator:
            per_task.setdefault(get_task(name).key, []).append(path)
        else:
            folders.append(path)
    return ImageRoots(folders, per_task)


def image_paths(data: Path, task: Task) -> Iterator[tuple[str, str, str]]:
    """Yield split, question id and ``img_path`` of every query with an image: test first, train last.

    That order puts what an evaluation reads first into the first shards of a pack.

    Raises:
        M2KRError: a table cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in reversed(task.splits):
        for shard in sorted((data / task.data_config).glob(f"{split}-*.parquet")):
            try:
                with pq.ParquetFile(shard) as file:
                    for batch in file.iter_batches(columns=["question_id", "img_path"]):
                        columns = (batch.column(name).to_pylist() for name in ("question_id", "img_path"))
                        for question, path in zip(*columns, strict=True):
                            if path is not None:
                                yield split, str(question), path
            except (pa.ArrowException, OSError, KeyError) as error:
                reason = str(error).splitlines()[0]
                raise M2KRError(f"{shard} could not be read ({reason}). Get or build this file again.") from error


_EXAMPLES = """examples:
  python -m m2kr.images pack --data m2kr-data --tasks OKVQA,LLaVA --images raw
  python -m m2kr.images pack --data m2kr-data --tasks KVQA --images KVQA=downloads/KVQAimgs.tar.gz
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m m2kr.images", description="Work on the images of a benchmark.")
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser(
        "pack",
        help="put the images of tasks into parquet shards",
        description="Put the images that a task's queries name into parquet shards, DATA/<TASK>_images, which "
        "evaluation and load_dataset read. Each image is there once, with the bytes it has.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pack.add_argument("--data", type=Path, required=True, help="folder of the benchmark")
    pack.add_argument("--tasks", default="all", help="comma-separated, or all (those there that ask with images)")
    pack.add_argument(
        "--images", action="append", required=True, metavar="[TASK=]ROOT", help="folder, .zip, .tar or .tar.gz"
    )
    pack.add_argument("--out", type=Path, help="another folder to write to; default DATA")
    pack.add_argument("--allow-missing", action="store_true", help="pack the images that are there")
    pack.add_argument("--rerun", action="store_true", help="pack again what is packed already")
    pack.add_argument("--quiet", action="store_true", help="no progress, no notices")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    arguments = _parser().parse_args(argv)
    from m2kr.images.pack import pack_tasks

    return pack_tasks(
        arguments.data,
        arguments.tasks,
        parse_roots(arguments.images),
        out=arguments.out or arguments.data,
        allow_missing=arguments.allow_missing,
        rerun=arguments.rerun,
        quiet=arguments.quiet,
    )
