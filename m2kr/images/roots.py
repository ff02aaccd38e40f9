"""Where pictures come from: folders, .zip, .tar and .tar.gz archives as downloaded, packed shards, or the hub.

``python -m m2kr.images pack`` puts the pictures of a task into Parquet shards; see `m2kr.images.pack`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from m2kr.common.hub import is_hub_id
from m2kr.errors import M2KRError
from m2kr.formats.shards import find_shards, read_batches, readable
from m2kr.images.archives import archive_kind, open_archive
from m2kr.images.decode import ImageError, ImageFile, decode
from m2kr.images.hub import HubImages, Plan
from m2kr.images.hub_archives import member_names
from m2kr.images.parts import FIRST_PART
from m2kr.tasks import HUB_IMAGES, PASSAGE_IMAGE, Task, get_task

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Archives that are looked for beside and in the places where the releases keep images, in this order."""


HUB = "hub"
"""What stands for the hub's image dataset, `HUB_IMAGES`, in ``--images``."""


class Finder(Protocol):
    """A place of pictures that is no folder and no archive."""

    def __call__(self, path: str) -> ImageFile | None:
        """Return the file of a path that was found harmless, or None."""

    def check_unchanged(self) -> None:
        """Raise M2KRError where its files are no longer those that were read."""


class ImageRoots:
    """Places that ``img_path`` is relative to, tried in order.

    Args:
        folders: image roots: folders, or archives.
        per_task: task key -> roots of that task, which go for it instead of ``folders``.
        finders: other places, tried before the folders.
        hubs: datasets of the hub, tried after the folders: task key -> id, and "" -> id for the other tasks.
        asked: whether the user named these; see `m2kr.images.hub.HubImages`.
        aliases: patterns of a path, each with the path to try as well of one that matches.
        prefix: folder that names inside an archive may begin with.
        hub_images: where the images are on the hub, for messages.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        per_task: Mapping[str, Path | Sequence[Path]] | None = None,
        *,
        finders: Sequence[Finder] = (),
        hubs: Mapping[str, str] | None = None,
        asked: bool = True,
        aliases: Sequence[tuple[str, str]] = (),
        prefix: str = "",
        hub_images: str = "",
    ) -> None:
        self.folders = tuple(folders)
        self.per_task = {
            key: (roots,) if isinstance(roots, Path) else tuple(roots) for key, roots in (per_task or {}).items()
        }
        self._finders = tuple(finders)
        self._hubs = dict(hubs or {})
        self._asked = asked
        self._hub: HubImages | None = None
        self._aliases = tuple(aliases)
        self._prefix = prefix
        self._hub_images = hub_images
        self._linked = tuple(dict.fromkeys(place for folder in self.folders for place in _linked_places(folder)))

    def __str__(self) -> str:
        hub = (self._hub,) if self._hub else ()
        places = " or ".join(str(place) for place in (*self._finders, *self.folders, *hub)) or "any image root"
        return places + (f" (the hub has them in {self._hub_images})" if self._hub_images else "")

    def for_task(self, task: Task) -> ImageRoots:
        """Return the roots for one task: its own, else the places where its images are kept, then the roots.

        Those places are where the releases have them, and the task's folder of the hub's image dataset. One may be an
        archive of that name (``kvqa/KVQAimgs.tar.gz``), or a folder with archives in it (``coco/train2014.zip``).
        """
        if self._hub is not None:  # these are of a task already
            return self
        places: list[Path] = []
        own = task.key in self.per_task or task.key in self._hubs
        if own:
            for root in self.per_task.get(task.key, ()):
                places += [root, *_archives_in(root)]
        else:
            for place in (
                folder / name for folder in self.folders for name in (task.image_root, task.hub_images) if name
            ):
                if place.is_dir():
                    places.append(place)
                places += [file for suffix in SUFFIXES if (file := Path(f"{place}{suffix}")).is_file()]
                places += _archives_in(place)
            # A folder called "images" may be any task's.
            names = {task.hub_images, *PurePosixPath(task.image_root).parts} - {"", "images"}
            for folder in self.folders:
                places += [folder, *(_archives_in(folder) if folder.name in names else ())]
        hub = self._hubs.get(task.key if own else "") if task.hub_images else None
        hub_images = f"{HUB_IMAGES}, folder {task.hub_images}" if task.hub_images and not hub else ""
        found = ImageRoots(
            places,
            finders=self._finders,
            aliases=task.image_aliases,
            prefix=task.image_root,
            hub_images=hub_images,
        )
        if hub:
            found._hub = HubImages(hub, task, asked=self._asked)
        return found

    @property
    def source(self) -> str | None:
        """Where pictures are, as results name it: the hub's dataset and commit, "packed" or "folder"."""
        if self._hub is not None:
            return self._hub.source
        return "folder" if self.folders else "packed" if self._finders else None

    @property
    def on_hub(self) -> bool:
        """Whether pictures may have to be fetched."""
        return self._hub is not None

    def plan(self, paths: Iterable[str], *, quiet: bool = False) -> tuple[HubImages, Plan] | None:
        """Return what `fetch` would read of the hub; None where these are no places on the hub."""
        if self._hub is None:
            return None
        ways = {path: self._ways(path) for path in paths}
        return self._hub, self._hub.plan({path: ways[path] for path in ways if not self._here(ways[path])}, quiet=quiet)

    def fetch(self, paths: Iterable[str | None], *, quiet: bool = False) -> None:
        """Fetch the pictures of some paths from the hub, where these are places on it: they are found after that.

        Raises:
            M2KRError: as `m2kr.images.hub.HubImages.fetch`.
            ImageError: a path leaves its root.
        """
        if self._hub is not None:
            ways = {path: self._ways(path) for path in paths if path is not None}
            self._hub.fetch({path: ways[path] for path in ways if not self._here(ways[path])}, quiet=quiet)

    def after(self, finder: Finder) -> ImageRoots:
        """Return the same roots, to be asked after another place."""
        found = copy(self)
        found._finders = (finder, *self._finders)
        return found

    def find(self, path: str) -> ImageFile | None:
        """Return the file of an ``img_path``, or None where no root has it.

        Raises:
            ImageError: the path is absolute, or leaves its root.
            ArchiveError: an archive cannot be read.
        """
        ways = self._ways(path)
        if (found := self._here(ways)) is not None or self._hub is None:
            return found
        return next((found for way in ways if (found := self._hub(way))), None)

    def _ways(self, path: str) -> list[str]:
        """Return the ways in which a path may be spelled."""
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
            raise ImageError(
                f"the image path {path!r} leaves its root. Images are only read below the roots given.", "outside"
            )
        others = (match.expand(other) for pattern, other in self._aliases if (match := re.fullmatch(pattern, path)))
        return [path, *others]

    def _here(self, ways: Sequence[str]) -> ImageFile | None:
        """Return the file of a path from the places on this machine."""
        for candidate in ways:
            for finder in self._finders:
                if found := finder(candidate):
                    return found
            for folder in self.folders:
                if folder.is_file():
                    found = _in_archive(folder, self._prefix, candidate)
                else:
                    found = _in_folder(folder, candidate, self._linked)
                if found:
                    return found
        return None

    def has(self, path: str) -> bool:
        """Whether some root has the file of an ``img_path``."""
        return self.find(path) is not None

    def check_unchanged(self) -> None:
        """Check that packed images that were read are as they were then.

        Raises:
            M2KRError: their shards have changed.
        """
        for finder in self._finders:
            finder.check_unchanged()

    def open(self, path: str) -> Image:
        """Return an image, decoded to RGB.

        Raises:
            ImageError: it is not there, cannot be decoded, or has too many pixels.
        """
        file = self.find(path)
        if file is None:
            raise ImageError(f"the image {path} is not in {self}. Name its folder with --images.")
        return decode(file)


def _in_folder(folder: Path, path: str, linked: Sequence[Path]) -> ImageFile | None:
    candidate = folder / PurePosixPath(path)
    try:
        if not candidate.is_file():
            return None
        size = candidate.stat().st_size
    except OSError:  # the name is too long, or a folder on the way may not be entered
        return None
    # A linked folder is the user's own layout; a linked file may have come out of an archive.
    target = candidate.resolve()
    if not any(target.is_relative_to(place) for place in (candidate.parent.resolve(), *linked)):
        raise ImageError(
            f"the image {path!r} in {folder} is a link to {target}, which is below no image root. If it may be read, "
            f"name {target.parent} with --images too.",
            "outside",
        )
    return ImageFile(str(candidate), size, candidate.read_bytes, candidate)


def _linked_places(folder: Path) -> Iterator[Path]:
    """Yield where links in an image root may lead: below it, and of a snapshot of the hub's cache to its files."""
    yield folder.resolve()
    for above in folder.absolute().parents:
        if above.name == "snapshots" and (above.parent / "refs").is_dir():
            yield (above.parent / "blobs").resolve()


def _in_archive(file: Path, prefix: str, path: str) -> ImageFile | None:
    archive = open_archive(file)
    for candidate in member_names(file.name, archive.top, prefix, str(PurePosixPath(path))):
        size = archive.size(candidate)
        if size is not None:
            return ImageFile(f"{file}/{candidate}", size, partial(archive.read, candidate))
    return None


def _archives_in(folder: Path) -> list[Path]:
    """Return the archives that lie in a folder, those that need no unpacking first."""
    if not folder.is_dir():
        return []
    suffixes = (*SUFFIXES, *(f"{suffix}{FIRST_PART}" for suffix in SUFFIXES))
    files = sorted(file for file in folder.iterdir() if file.name.endswith(suffixes) and file.is_file())
    # What was unpacked of a .tar.gz is reached through it.
    own = [file for file in files if not file.name.endswith(".m2kr.tar")]
    return sorted(own, key=lambda file: ".tgz" in file.name or ".tar.gz" in file.name)


def release_roots(folder: Path, task: Task) -> ImageRoots | None:
    """Return where a release keeps a task's pictures: a folder, archives in it or of its name; None without any."""
    archives = [file for suffix in SUFFIXES if (file := Path(f"{folder}{suffix}")).is_file()]
    places = [*([folder] if folder.is_dir() else []), *archives]
    return ImageRoots([], {task.key: places}).for_task(task) if places else None


def parse_roots(values: Iterable[str], *, asked: bool = True) -> ImageRoots:
    """Return the roots of ``--images ROOT`` and ``--images TASK=ROOT``; a task may have several.

    A root that is not here may be "hub", which stands for `m2kr.tasks.HUB_IMAGES`, or the id of a dataset of the hub.

    Args:
        values: what was given.
        asked: whether the user has named them; see `m2kr.images.hub.HubImages`.

    Raises:
        M2KRError: a root is neither a folder nor an archive, nor on the hub, or a task is unknown.
    """
    folders: list[Path] = []
    per_task: dict[str, list[Path]] = {}
    hubs: dict[str, str] = {}
    for value in values:
        # A folder may have "=" in its name.
        name, separator, rest = ("", "", value) if Path(value).exists() else value.partition("=")
        path = Path(rest if separator else value)
        key = get_task(name).key if separator else ""
        if not path.exists() and (f"{path}" == HUB or is_hub_id(f"{path}")):
            hubs[key] = HUB_IMAGES if f"{path}" == HUB else f"{path}"
            continue
        if not path.is_dir() and not archive_kind(path):
            raise M2KRError(
                f"--images {value}: {path} is not a folder, nor a .zip, .tar or .tar.gz archive. Write hub for the "
                f"pictures on the hub ({HUB_IMAGES})."
            )
        if separator:
            per_task.setdefault(key, []).append(path)
        else:
            folders.append(path)
    return ImageRoots(folders, per_task, hubs=hubs, asked=asked)


def image_paths(data: Path, task: Task) -> Iterator[tuple[str, str, str]]:
    """Yield split, id and ``img_path`` of every query with an image, then of every passage with one of its own.

    The splits of passages are ``<split>_passages``. Test comes first, train last: that order puts what an evaluation
    reads first into the first shards of a pack.

    Raises:
        M2KRError: a table cannot be read.
    """
    tables = [(task.data_config, split, "question_id") for split in reversed(task.splits)]
    tables += [(task.passages_config, f"{split}_passages", "passage_id") for split in reversed(task.splits)]
    for config, split, row_id in tables:
        shards = find_shards(data / config, split)
        if row_id == "passage_id" and not (task.takes_passage_images and _have_passage_images(shards)):
            continue
        for batch in read_batches(shards, [row_id, "img_path"]):
            for name, path in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if path is not None:
                    yield split, str(name), path


def _have_passage_images(shards: Sequence[Path]) -> bool:
    import pyarrow.parquet as pq

    if not shards:
        return False
    with readable(shards[0]):
        return PASSAGE_IMAGE in pq.read_schema(shards[0]).names
