"""Decoding the pictures of queries, or of passages, in order, in processes beside the model where that is asked for.

They are named by rows of a table: ``question_id`` and ``img_path``, or ``passage_id`` and ``img_path``.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from m2kr.common.concurrency import pooled_map
from m2kr.common.progress import progress, say
from m2kr.errors import M2KRError
from m2kr.images.decode import ImageError, ImageFile
from m2kr.images.members import MAX_MEMBER_BYTES
from m2kr.images.roots import ImageRoots

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl
    from PIL.Image import Image

Picture: TypeAlias = "Image | npt.NDArray[np.uint8]"
Prepare: TypeAlias = "Callable[[Image], npt.NDArray[np.uint8]]"

_JOB = 4
# Pictures that a worker gets at once: fewer cost more messages, more make the others wait for the last.
_AHEAD = 256
# Prepared pictures that wait for the model. They are small; whole pictures could take gigabytes.
_WORTH_A_POOL = 64
# Pictures that are decoded in the time in which the workers start.
_PICKLED_BYTES = 16 << 20
# What a worker is sent when it starts, at most. A model is larger.


def picture_sizes(images: ImageRoots | None, task: str, rows: pl.DataFrame) -> list[int]:
    """Return the bytes of the picture of each query or passage, -1 where only reading tells.

    Args:
        images: where they are.
        task: key of the task, for messages.
        rows: with the columns ``question_id``, or ``passage_id``, and ``img_path``.

    Raises:
        M2KRError: some are missing. That is found out here, and not after hours of work.
    """
    kind, row_id = _kind(rows)
    sizes, missing = [], []
    images = _given_roots(images, task, rows)
    for name, path in rows.select(row_id, "img_path").iter_rows():
        if path is None:
            raise M2KRError(f"{kind} {name} of {task} has no image path. Build this task again.")
        file = images.find(path)
        if file is None:
            missing.append(path)
        else:
            sizes.append(file.size)
    if missing:
        without = "--ignore-images" if kind == "query" else "--ignore-passage-images"
        of = task if kind == "query" else f"{task}'s passages"
        raise M2KRError(
            f"{len(missing):,} of {rows.height:,} images of {of} are not in {images}, the first is {missing[0]}. "
            f"Name their folder with --images, or pass {without}, or --bad-images black to go on without them."
        )
    return sizes


def _kind(rows: pl.DataFrame) -> tuple[str, str]:
    """Return of what rows are, and their column of ids."""
    return ("query", "question_id") if "question_id" in rows.columns else ("passage", "passage_id")


def _given_roots(images: ImageRoots | None, task: str, rows: pl.DataFrame) -> ImageRoots:
    if images is None:
        several = "queries" if _kind(rows)[0] == "query" else "passages"
        raise M2KRError(f"the {several} of {task} have images. Name their folder with --images.")
    return images


BLACK_SIZE = (336, 336)
"""Pixels of the picture in place of one that cannot be read: as the official evaluation has for queries without one."""


@dataclass(frozen=True)
class BadPictures:
    """Pictures that cannot be used.

    Attributes:
        ids: of the queries, or passages, that they are of.
        files: path -> SHA-256 of its bytes; None where there are none to be read.
    """

    ids: list[str] = field(default_factory=list)
    files: dict[str, str | None] = field(default_factory=dict)


def bad_picture_facts(
    handling: str, queries: BadPictures, passages: BadPictures | None = None
) -> dict[str, Any] | None:
    """Return `m2kr.results.record.BadImages` of pictures that could not be used, or None where there were none."""
    if not queries.ids and not (passages and passages.ids):
        return None
    facts: dict[str, Any] = {"handling": handling, "queries": len(queries.ids), "files": queries.files}
    if passages and passages.ids:
        facts |= {"passages": len(passages.ids), "files": {**queries.files, **passages.files}}
    return facts


def check_still_bad(images: ImageRoots | None, facts: Mapping[str, Any] | None, result: Path) -> None:
    """Check that pictures which a finished result was made without are no others now. One that is gone still is bad.

    Args:
        images: where they are looked for now.
        facts: what the result says of them.
        result: its file, for the message.

    Raises:
        M2KRError: one is there now, or its bytes are others.
    """
    for path, known in ((facts or {}).get("files") or {}).items():
        if images is not None and (found := _hash_of(images, path)) is not None and found != known:
            raise M2KRError(
                f"{result} was made without the picture {path}, and there is another one in {images} now. Pass --rerun "
                "to make it with these pictures, or choose another --out."
            )


def _hash_of(images: ImageRoots, path: str) -> str | None:
    """Return the SHA-256 of a picture's bytes, None where there are none to be read."""
    try:
        file = images.find(path)
        return None if file is None or file.size > MAX_MEMBER_BYTES else hashlib.sha256(file.read()).hexdigest()
    except (M2KRError, OSError):
        return None


def with_black(images: ImageRoots, paths: Iterable[str]) -> ImageRoots:
    """Return roots that have a black picture for some paths."""
    return images.after(_Black(frozenset(paths)))


def black_for_bad(
    images: ImageRoots | None, task: str, rows: pl.DataFrame, *, workers: int = 0, quiet: bool = False
) -> tuple[ImageRoots, BadPictures]:
    """Decode every picture once, and put black ones in place of those that cannot be used.

    Args:
        images: where they are.
        task: key of the task, for messages.
        rows: of queries or passages, as in `picture_sizes`.
        workers: as in `decoded`.
        quiet: no progress, no notices.

    Returns:
        Roots with the black ones, and what they stand for.

    Raises:
        M2KRError: there are no roots, no picture at all can be used, or a path leaves its root.
    """
    images = _given_roots(images, task, rows)
    paths = rows["img_path"].drop_nulls().unique(maintain_order=True).to_list()
    bad: dict[str, ImageError] = {}
    bar = progress(len(paths), f"{task} look for bad images", unit="images", quiet=quiet)
    with bar, closing(decoded(images, paths, _nothing, workers=workers)) as pictures:
        for path, picture in zip(paths, pictures, strict=True):
            bar.update()
            if isinstance(picture, ImageError):
                if picture.fault == "outside":
                    raise picture
                bad[path] = picture
    if not bad:
        return images, BadPictures()
    first = next(iter(bad.values()))
    if len(bad) == len(paths):
        raise M2KRError(f"none of the {len(bad):,} images of {task} can be used; of the first: {first}")
    say(f"{task}: {len(bad):,} of {len(paths):,} images cannot be used; of the first: {first}", quiet=quiet)
    unread = [name for name, path in rows.select(_kind(rows)[1], "img_path").iter_rows() if path in bad]
    return with_black(images, bad), BadPictures(unread, {path: _hash_of(images, path) for path in bad})


class _Black:
    """Gives a black picture for some paths."""

    def __init__(self, paths: frozenset[str]) -> None:
        self._paths = paths

    def __call__(self, path: str) -> ImageFile | None:
        return ImageFile(f"a black picture for {path}", len(_black()), _black) if path in self._paths else None

    def __str__(self) -> str:
        return "the black pictures"

    def check_unchanged(self) -> None:
        """Do nothing: no file is read."""


def _black() -> bytes:
    from PIL import Image

    Image.new("RGB", BLACK_SIZE).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def _nothing(_: Image) -> npt.NDArray[np.uint8]:
    import numpy as np

    return np.zeros(0, np.uint8)


def query_pictures(
    images: ImageRoots | None, task: str, rows: pl.DataFrame, prepare: Prepare | None = None, *, workers: int = 0
) -> Generator[Picture]:
    """Yield the pictures of queries or passages as `decoded` does, after `picture_sizes` found them.

    Raises:
        ImageError: one cannot be used; it names the query or passage.
        M2KRError: as `decoded`.
    """
    assert images is not None
    kind, row_id = _kind(rows)
    names, paths = rows[row_id], rows["img_path"].to_list()
    with closing(decoded(images, paths, prepare, workers=workers)) as pictures:
        for name, path, picture in zip(names, paths, pictures, strict=True):
            if isinstance(picture, ImageError):
                raise ImageError(
                    f"the picture {path} of {kind} {name} of {task} cannot be used: {picture} "
                    "What was finished before it is kept. --bad-images black or skip goes on without it.",
                    picture.fault,
                    picture.reason,
                ) from picture
            yield picture


def decoded(
    images: ImageRoots, paths: Sequence[str], prepare: Prepare | None = None, *, workers: int = 0
) -> Generator[Picture | ImageError]:
    """Yield pictures in the order of their paths; of one that cannot be used, its error in its place.

    Args:
        images: where they are.
        paths: as in ``img_path``.
        prepare: makes an array of a picture, for the model; None gives the picture itself, in RGB.
        workers: processes that decode them, a bounded number of pictures ahead. With 0 or 1, or for a few pictures,
            there are none. They are spawned and not forked: a fork of a process whose torch has threads can hang.

    Raises:
        M2KRError: ``prepare`` cannot be sent to another process, or a worker was killed.
    """
    if workers < 2 or len(paths) < _WORTH_A_POOL:
        for path in paths:
            yield _decode(images, prepare, path)
        return
    from concurrent.futures.process import BrokenProcessPool

    from m2kr.common.processes import Processes

    _check_small(images, prepare)
    jobs = (paths[first : first + _JOB] for first in range(0, len(paths), _JOB))
    pool = Processes(workers, _begin, images, prepare)
    try:
        for pictures in pooled_map(pool, _decode_job, jobs, depth=_AHEAD // _JOB if prepare else 4 * workers):
            yield from pictures
    except BrokenProcessPool as error:
        raise M2KRError(
            "a process that decodes pictures ended, most likely for lack of memory, or because the calling script runs "
            "its work on import (it needs `if __name__ == '__main__'`). Pass --workers 0 to do without such processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(images: ImageRoots, prepare: Prepare | None, path: str) -> Picture | ImageError:
    try:
        picture = images.open(path)
    except ImageError as error:
        return error
    return picture if prepare is None else prepare(picture)


_given: tuple[ImageRoots, Prepare | None]
# What a worker decodes with.


def _begin(images: ImageRoots, prepare: Prepare | None) -> None:
    """Begin a worker."""
    global _given
    _given = (images, prepare)


def _decode_job(paths: Sequence[str]) -> list[Picture | ImageError]:
    return [_decode(*_given, path) for path in paths]


def _check_small(images: ImageRoots, prepare: Prepare | None) -> None:
    class Count:
        size = 0

        def write(self, part: bytes) -> int:
            self.size += len(part)
            if self.size > _PICKLED_BYTES:
                raise OverflowError(f"it takes more than {_PICKLED_BYTES >> 20} MiB, so it holds a model")
            return len(part)

    try:
        pickle.Pickler(Count()).dump((images, prepare))
    except Exception as error:  # objects raise what they like when they cannot be pickled
        raise M2KRError(
            f"the retriever's prepare_image cannot be sent to the processes that decode pictures ({error}). Make it a "
            "function, or a method of a small object, without the model; or pass --workers 0."
        ) from error
