"""Images in Parquet shards, the config ``<TASK>_images``, read one by one.

It has one split, ``images``, with the columns ``img_path`` and ``image`` (the Image feature of `datasets`): every image
that a query or passage of the task names, once, with the bytes of its file. `m2kr.images.pack` writes it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from m2kr.errors import M2KRError, first_line
from m2kr.formats.integrity import ReadFile, identify_images
from m2kr.formats.shards import find_shards, missing_shards
from m2kr.images.decode import ImageError, ImageFile
from m2kr.images.roots import ImageRoots
from m2kr.tasks import Task

SPLIT = "images"

_KEPT_GROUPS = 4


class PackedImages:
    """Reads images from the shards of a task. Calling it with an ``img_path`` finds one, as `ImageRoots` wants it.

    The paths are listed at the first call; of the shards themselves only the row groups asked for are read, and the
    last few are kept, as questions come in the order of the images. Where a manifest lists the shards, their sizes are
    compared with it when they are listed, and the hash of each, unless ``trust``, when it is first read from.
    """

    def __init__(self, folder: Path, *, trust: bool = False) -> None:
        self.folder = folder
        self.trust = trust
        self._lock = threading.Lock()
        self._places: dict[str, tuple[Path, int, int]] | None = None
        self._files: dict[Path, ReadFile] = {}
        self._hashed: set[Path] = set()
        self._groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def __str__(self) -> str:
        return str(self.folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(PackedImages, trust=self.trust), (self.folder,)  # another process lists and locks for itself

    def __call__(self, path: str) -> ImageFile | None:
        """Return the image of a path, or None.

        Raises:
            ImageError: the shards cannot be read.
        """
        place = self._listed().get(path)
        if place is None:
            return None
        return ImageFile(f"{place[0]}, image {path}", -1, partial(self._read, *place))

    def check_unchanged(self) -> None:
        """Check that the shards are as they were when the images were listed, if they were.

        Raises:
            M2KRError: they have changed.
        """
        for file in self._files.values():
            file.check_unchanged()

    def paths(self) -> list[str]:
        """Return the paths of all images, in their order."""
        return list(self._listed())

    def _listed(self) -> dict[str, tuple[Path, int, int]]:
        """Return shard, row group and row of every image."""
        with self._lock:
            if self._places is not None:
                return self._places
            shards = find_shards(self.folder, SPLIT)
            if not shards:
                raise ImageError(
                    f"{self.folder} holds no shards. Pack the images again, or name their folder.", "unreadable"
                )
            if some := missing_shards(shards):
                raise ImageError(f"{self.folder} has {some.replace('the', 'its')}. Get the rest.", "unreadable")
            self._identify(shards, trust=True)
            places: dict[str, tuple[Path, int, int]] = {}
            for shard in shards:
                with _opened(shard) as file:
                    for group in range(file.num_row_groups):
                        names = file.read_row_group(group, columns=["img_path"]).column("img_path").to_pylist()
                        for row, name in enumerate(names):
                            places.setdefault(name, (shard, group, row))
            self._places = places
            return places

    def _identify(self, shards: Sequence[Path], *, trust: bool) -> None:
        try:
            self.check_unchanged()
            self._files |= {file.path: file for file in identify_images(self.folder, shards, trust=trust)}
        except M2KRError as error:
            raise ImageError(str(error), "unreadable") from error

    def _read(self, shard: Path, group: int, row: int) -> bytes:
        with self._lock:
            column = self._groups.pop((shard, group), None)
            if column is None:
                if not self.trust and shard not in self._hashed:
                    self._identify([shard], trust=False)
                    self._hashed.add(shard)
                with _opened(shard) as file:
                    column = file.read_row_group(group, columns=["image"]).column("image")
            self._groups[shard, group] = column
            if len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        content = column[row].as_py()
        if not isinstance(content, dict) or not isinstance(content.get("bytes"), bytes):
            raise ImageError(f"{shard}, row group {group}, row {row} has no image bytes.", "missing")
        return bytes(content["bytes"])


@contextmanager
def _opened(shard: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(shard) as file:
            yield file
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = first_line(error)
        raise ImageError(f"{shard} could not be read ({reason}). Get this file again.", "unreadable", reason) from error


def packed_images(data: Path, task: Task, *, trust: bool = False) -> ImageRoots | None:
    """Return the packed images of a task; None where there are none in the folder. ``trust`` as in `PackedImages`."""
    folder = data / task.images_config
    return ImageRoots([], finders=[PackedImages(folder, trust=trust)]) if folder.is_dir() else None
