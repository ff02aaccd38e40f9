"""Images in parquet shards: writing them (``python -m m2kr.images pack``), and reading them one by one.

``<TASK>_images`` has one split, ``images``, with the columns ``img_path`` and ``image`` (the Image feature of
`datasets`): every image that a query of the task names, once, with the bytes of its file. The images of the test split
come first. Shards are cut by bytes, before anything is read, so that a run after a kill keeps the finished ones.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from m2kr import __version__
from m2kr.common.files import digest, sha256_of
from m2kr.common.progress import progress, say
from m2kr.errors import M2KRError
from m2kr.images.roots import ImageError, ImageFile, ImageRoots, image_paths
from m2kr.tasks import TASKS, Task, parse_tasks

SPLIT = "images"

SHARD_BYTES = 400_000_000
"""Bytes of images in a shard; one image more than that is a shard of its own."""

GROUP_BYTES = 8_000_000
"""Bytes of images in a row group, which is what has to be read for one of them."""

_KEPT_GROUPS = 4


def image_schema() -> pa.Schema:
    """Return the schema of the shards, with the note by which `datasets` knows the Image feature."""
    from datasets import Features, Image, Value

    schema = Features({"img_path": Value("string"), "image": Image()}).arrow_schema
    assert isinstance(schema, pa.Schema)
    return schema


def images_config(task: Task) -> str:
    """Return the name of the config that holds a task's packed images."""
    return f"{task.key}_images"


def pack_tasks(
    data: Path, names: str, roots: ImageRoots, *, out: Path, allow_missing: bool, rerun: bool, quiet: bool
) -> int:
    """Pack the images of the tasks called ``names``; the command's exit code.

    Raises:
        M2KRError: the folder has none of them, or images are missing.
    """
    there = [
        task.key for task in TASKS.values() if task.reads_images and any((data / task.data_config).glob("*.parquet"))
    ]
    if not there:
        raise M2KRError(f"{data} holds no task that asks with images. Build one with python -m m2kr.build.")
    tasks = parse_tasks(names, there)
    for task in tasks:
        if task.key not in there:
            why = "asks without images" if not task.reads_images else f"is not in {data}"
            raise M2KRError(f"there is nothing to pack: {task.key} {why}. Tasks to pack: {', '.join(there)}.")
    for task in tasks:
        facts = pack_task(data, task, roots, out=out, allow_missing=allow_missing, rerun=rerun, quiet=quiet)
        print(f"{out / images_config(task)}: {facts['rows']:,} images, {facts['bytes']:,} bytes")
    return 0


def pack_task(
    data: Path,
    task: Task,
    roots: ImageRoots,
    *,
    out: Path,
    allow_missing: bool = False,
    rerun: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write ``<out>/<TASK>_images``, and note it in the manifest, the card and the metadata of ``out``.

    Args:
        data: the benchmark.
        task: whose images.
        roots: where they are.
        out: folder to write to, ``data`` as a rule. Without a manifest there, only the shards are written.
        allow_missing: pack those that are there.
        rerun: pack them even if they are packed.
        quiet: no progress, no notices.

    Returns:
        ``rows``, ``bytes`` and ``shards`` of the split, as the manifest has them.

    Raises:
        M2KRError: images are missing, or the disk is full. What was packed earlier stays as it was.
    """
    from m2kr.formats.manifest import MANIFEST, publish_images, read_manifest

    plan = _plan(data, task, roots.for_task(task), allow_missing=allow_missing, quiet=quiet)
    key = digest(__version__, SHARD_BYTES, GROUP_BYTES, plan)
    config = images_config(task)
    known = read_manifest(out).get("images", {}).get(task.key, {})
    if not rerun and known.get("key") == key and all((out / s["path"]).is_file() for s in known["shards"]):
        say(f"{config}: packed already", quiet=quiet)
        return dict(known)
    work = out / ".build" / config
    folder = work / key
    if work.is_dir():
        for stale in work.iterdir():
            if stale != folder or rerun:
                shutil.rmtree(stale, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(size for shard in plan for _, size in shard)
    found = roots.for_task(task)
    shards: list[dict[str, Any]] = []
    with progress(total, f"pack {config}", unit="B", quiet=quiet) as bar:
        for number, shard in enumerate(plan):
            path = folder / f"{SPLIT}-{number:05d}-of-{len(plan):05d}.parquet"
            if not path.exists():
                _write_shard(path, shard, found)
            bar.update(sum(size for _, size in shard))
            facts = {"sha256": sha256_of(path), "rows": len(shard), "bytes": path.stat().st_size}
            shards.append({"path": f"{config}/{path.name}", **facts})
    result = {
        "key": key,
        "rows": sum(shard["rows"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": shards,
    }
    if (out / MANIFEST).exists():
        publish_images(out, task, folder, result)
    else:
        target = out / config
        if target.exists():
            shutil.rmtree(target)
        folder.replace(target)
        say(f"{out} has no {MANIFEST}: its card was left as it is, and does not list {config}", quiet=quiet)
    shutil.rmtree(work)
    if not any(work.parent.iterdir()):
        work.parent.rmdir()
    return result


def _plan(
    data: Path, task: Task, roots: ImageRoots, *, allow_missing: bool, quiet: bool
) -> list[list[tuple[str, int]]]:
    """Return path and size of every image, shard by shard."""
    shards: list[list[tuple[str, int]]] = [[]]
    seen: set[str] = set()
    missing: list[str] = []
    filled = 0
    with progress(None, f"find images of {task.key}", unit="images", quiet=quiet) as bar:
        for _, _, path in image_paths(data, task):
            if path in seen:
                continue
            seen.add(path)
            bar.update()
            file = roots.find(path)
            if file is None:
                missing.append(path)
                continue
            if shards[-1] and filled + file.size > SHARD_BYTES:
                shards.append([])
                filled = 0
            shards[-1].append((path, file.size))
            filled += file.size
    if missing and (not allow_missing or not shards[-1]):
        raise M2KRError(
            f"{len(missing):,} of {len(seen):,} images of {task.key} are not in {roots}, the first is {missing[0]!r}. "
            "Name their folder or archive with --images, or pass --allow-missing to pack the others."
        )
    if missing:
        say(f"{task.key}: {len(missing):,} of {len(seen):,} images are missing and left out", quiet=quiet)
    return shards


def _write_shard(path: Path, rows: list[tuple[str, int]], roots: ImageRoots) -> None:
    schema = image_schema()
    part = path.with_name(f"{path.name}.part")
    # Images hardly compress, and a dictionary or statistics of them would be as large as they are.
    try:
        with pq.ParquetWriter(
            part, schema, compression="none", use_dictionary=False, write_statistics=["img_path"]
        ) as writer:
            for group in _groups(rows):
                images = [
                    {"bytes": _content(roots, name, size), "path": PurePosixPath(name).name} for name, size in group
                ]
                names = pa.array([name for name, _ in group], pa.string())
                table = pa.table([names, pa.array(images, schema.field("image").type)], schema=schema)
                writer.write_table(table, row_group_size=len(group))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise M2KRError(f"{path} could not be written ({error}). Free some space, then run it again.") from error
    finally:
        part.unlink(missing_ok=True)


def _groups(rows: list[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    group: list[tuple[str, int]] = []
    filled = 0
    for name, size in rows:
        if group and filled + size > GROUP_BYTES:
            yield group
            group, filled = [], 0
        group.append((name, size))
        filled += size
    if group:
        yield group


def _content(roots: ImageRoots, name: str, size: int) -> bytes:
    file = roots.find(name)
    content = file.read() if file else None
    if content is None or len(content) != size:
        raise M2KRError(f"the image {name!r} changed while it was packed. Leave the images alone and run it again.")
    return content


class PackedImages:
    """Reads images from the shards of a task. Calling it with an ``img_path`` finds one, as `ImageRoots` wants it.

    The paths are listed at the first call; of the shards themselves only the row groups asked for are read, and the
    last few are kept, as questions come in the order of the images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._places: dict[str, tuple[Path, int, int]] | None = None
        self._groups: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def __str__(self) -> str:
        return str(self.folder)

    def __reduce__(self) -> tuple[type[PackedImages], tuple[Path]]:
        return PackedImages, (self.folder,)  # another process lists and locks for itself

    def __call__(self, path: str) -> ImageFile | None:
        """Return the image of a path, or None.

        Raises:
            ImageError: the shards cannot be read.
        """
        with self._lock:
            if self._places is None:
                self._places = self._list()
        place = self._places.get(path)
        if place is None:
            return None
        return ImageFile(f"{place[0]}, image {path}", -1, partial(self._read, *place))

    def paths(self) -> list[str]:
        """Return the paths of all images, in their order."""
        with self._lock:
            if self._places is None:
                self._places = self._list()
            return list(self._places)

    def _list(self) -> dict[str, tuple[Path, int, int]]:
        places: dict[str, tuple[Path, int, int]] = {}
        shards = sorted(self.folder.glob("*.parquet"))
        if not shards:
            raise ImageError(
                f"{self.folder} holds no shards. Pack the images again, or name their folder.", "unreadable"
            )
        counted = shards[0].stem.rsplit("-of-", 1)[-1]
        if counted.isdigit() and int(counted) != len(shards):
            raise ImageError(
                f"{self.folder} has {len(shards)} of its {int(counted)} shards. Get the rest.", "unreadable"
            )
        for shard in shards:
            try:
                with pq.ParquetFile(shard) as file:
                    for group in range(file.num_row_groups):
                        names = file.read_row_group(group, columns=["img_path"]).column("img_path").to_pylist()
                        for row, name in enumerate(names):
                            places.setdefault(name, (shard, group, row))
            except (pa.ArrowException, OSError, KeyError) as error:
                raise _unreadable(shard, error) from error
        return places

    def _read(self, shard: Path, group: int, row: int) -> bytes:
        with self._lock:
            column = self._groups.get((shard, group))
            if column is None:
                try:
                    with pq.ParquetFile(shard) as file:
                        column = file.read_row_group(group, columns=["image"]).column("image")
                except (pa.ArrowException, OSError, KeyError) as error:
                    raise _unreadable(shard, error) from error
                self._groups[shard, group] = column
                if len(self._groups) > _KEPT_GROUPS:
                    self._groups.popitem(last=False)
            else:
                self._groups.move_to_end((shard, group))
        content = column[row].as_py()
        if not isinstance(content, dict) or not isinstance(content.get("bytes"), bytes):
            raise ImageError(f"{shard}, row group {group}, row {row} has no image bytes.", "missing")
        return bytes(content["bytes"])


def _unreadable(shard: Path, error: Exception) -> ImageError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ImageError(f"{shard} could not be read ({reason}). Get this file again.", "unreadable", reason)


def packed_images(data: Path, task: Task) -> ImageRoots | None:
    """Return the packed images of a task; None where there are none in the folder."""
    folder = data / images_config(task)
    return ImageRoots([], finders=[PackedImages(folder)]) if folder.is_dir() else None
