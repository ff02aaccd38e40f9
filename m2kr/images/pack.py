"""Packing the images of a task into Parquet shards, the config ``<TASK>_images``; see `m2kr.images.packed`.

The images of the test split come first. Shards are cut by bytes, before anything is read, so that a run after a kill
keeps the finished ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from m2kr import __version__
from m2kr.common.files import digest, sha256_of
from m2kr.common.locks import is_left_locked, one_writer
from m2kr.common.progress import progress, say
from m2kr.common.work import discard, move_into_place
from m2kr.errors import M2KRError
from m2kr.formats.integrity import are_listed
from m2kr.formats.manifest import MANIFEST, publish_images, read_manifest, split_facts
from m2kr.formats.shards import Shard, shard_path, write_shard
from m2kr.images.packed import SPLIT
from m2kr.images.roots import ImageRoots, image_paths
from m2kr.tasks import Task

SHARD_BYTES = 400_000_000
"""Bytes of images in a shard; one image more than that is a shard of its own."""

GROUP_BYTES = 8_000_000
"""Bytes of images in a row group, which is what has to be read for one of them."""

Sized = tuple[str, int]
"""The ``img_path`` of an image, and the bytes of its file."""


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

    While another process writes ``out``, this waits.

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
    roots = roots.for_task(task)
    plan = cut(_found(data, task, roots, allow_missing=allow_missing, quiet=quiet), SHARD_BYTES)
    key = digest(__version__, SHARD_BYTES, GROUP_BYTES, plan)
    work = out / ".build" / task.images_config
    known = _packed(out, task, key, rerun=rerun)
    if known is None:
        with one_writer(out, quiet=quiet):
            # Another process may have packed them just now; what this one is to do again, that has not done.
            known = _packed(out, task, key, rerun=rerun)
            if known is None:
                return _made(plan, roots, out, task, key, rerun=rerun, quiet=quiet)
    if is_left_locked(out) or work.exists():
        with suppress(M2KRError), one_writer(out, wait=False):  # not while another process is at it
            _clear_up(work)
    say(f"{task.images_config}: packed already", quiet=quiet)
    return known


def _packed(out: Path, task: Task, key: str, *, rerun: bool) -> dict[str, Any] | None:
    """Return the manifest entry of images that are packed and need not be packed again."""
    known = read_manifest(out).get("images", {}).get(task.key, {})
    whole = not rerun and known.get("key") == key and are_listed(out, known["shards"], trust=True)
    return dict(known) if whole else None


def _made(
    plan: list[list[Sized]], roots: ImageRoots, out: Path, task: Task, key: str, *, rerun: bool, quiet: bool
) -> dict[str, Any]:
    """Write the shards, move them into place and note them."""
    config = task.images_config
    work = out / ".build" / config
    folder = work / key
    if work.is_dir():
        for stale in work.iterdir():
            if stale != folder or rerun:
                discard(stale)
    shards: list[Shard] = []
    with progress(sum(size for shard in plan for _, size in shard), f"pack {config}", unit="B", quiet=quiet) as bar:
        for number, images in enumerate(plan):
            path = shard_path(folder, SPLIT, number, len(plan))
            if not path.exists():
                _write(path, images, roots)
            bar.update(sum(size for _, size in images))
            shards.append(Shard(path=path.name, sha256=sha256_of(path), rows=len(images), bytes=path.stat().st_size))
    result = {"key": key, **split_facts(config, shards)}
    if (out / MANIFEST).exists():
        publish_images(out, task, result, folder)
    else:
        move_into_place(folder, out / config)
        say(f"{out} has no {MANIFEST}: its card was left as it is, and does not list {config}", quiet=quiet)
    _clear_up(work)
    return result


def _clear_up(work: Path) -> None:
    """Delete a working folder, and the folder of all of them when it is the last one."""
    discard(work)
    with suppress(OSError):  # others work there
        work.parent.rmdir()


def _found(data: Path, task: Task, roots: ImageRoots, *, allow_missing: bool, quiet: bool) -> list[Sized]:
    """Return every image that queries, or passages, name, each once."""
    files = {}
    roots.fetch((path for _, _, path in image_paths(data, task)), quiet=quiet)
    with progress(None, f"find images of {task.key}", unit="images", quiet=quiet) as bar:
        for _, _, path in image_paths(data, task):
            if path not in files:
                files[path] = roots.find(path)
                bar.update()
    found = [(path, file.size) for path, file in files.items() if file is not None]
    missing = [path for path, file in files.items() if file is None]
    if missing and (not allow_missing or not found):
        raise M2KRError(
            f"{len(missing):,} of {len(files):,} images of {task.key} are not in {roots}, the first is {missing[0]!r}. "
            "Name their folder or archive with --images, or pass --allow-missing to pack the others."
        )
    if missing:
        say(f"{task.key}: {len(missing):,} of {len(files):,} images are missing and left out", quiet=quiet)
    return found


def cut(images: list[Sized], limit: int) -> list[list[Sized]]:
    """Cut images, in order, into parts of ``limit`` bytes at most; a larger image is a part of its own."""
    parts: list[list[Sized]] = [[]]
    filled = 0
    for image in images:
        if parts[-1] and filled + image[1] > limit:
            parts.append([])
            filled = 0
        parts[-1].append(image)
        filled += image[1]
    return parts


def _write(path: Path, images: list[Sized], roots: ImageRoots) -> None:
    from datasets import Features, Image, Value

    # With the note by which `datasets` knows the Image feature.
    schema = Features({"img_path": Value("string"), "image": Image()}).arrow_schema

    def tables() -> Iterator[pa.Table]:
        for group in cut(images, GROUP_BYTES):
            files = [{"bytes": _content(roots, *image), "path": PurePosixPath(image[0]).name} for image in group]
            names = pa.array([name for name, _ in group], pa.string())
            yield pa.table([names, pa.array(files, schema.field("image").type)], schema=schema)

    # Images hardly compress, and a dictionary or statistics of them would be as large as they are.
    write_shard(path, schema, tables(), compression="none", use_dictionary=False, write_statistics=["img_path"])


def _content(roots: ImageRoots, name: str, size: int) -> bytes:
    file = roots.find(name)
    content = file.read() if file else None
    if content is None or len(content) != size:
        raise M2KRError(f"the image {name!r} changed while it was packed. Leave the images alone and run it again.")
    return content
