"""Which pictures a finished evaluation was made with, and whether they are still those."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.common.files import digest
from m2kr.errors import M2KRError
from m2kr.evaluate.passages import PassagePictures
from m2kr.images.query_pictures import check_still_bad, picture_sizes, with_black
from m2kr.tasks import PASSAGE_IMAGE

if TYPE_CHECKING:
    import polars as pl

    from m2kr.dataset import TaskData


def told_pictures(data: TaskData, sizes: list[int] | None, passages: PassagePictures | None) -> str | None:
    """Return what stands for the pictures that were read: a digest of their paths and sizes; None where none were."""
    told: list[Any] = [] if sizes is None else [data.queries["img_path"].to_list(), sizes]
    if passages is not None:
        told += [passages.rows[PASSAGE_IMAGE].to_list(), passages.rows["size"].to_list()]
    return digest(*told) if told else None


def check_same_pictures(
    data: TaskData,
    passages: pl.DataFrame | None,
    made: Mapping[str, Any],
    path: Path,
    *,
    asked_with: bool,
    bad_images: Any,
) -> None:
    """Check that the pictures are those that finished work was made with, as far as their sizes tell.

    Args:
        data: the task.
        passages: the passages whose pictures are read; None where none are.
        made: what the file of the work says.
        path: that file, for messages.
        asked_with: whether the pictures of queries are read.
        bad_images: what is done about pictures that cannot be used.

    Raises:
        M2KRError: they are not. Where they are not there, nothing is said: the result stands.
    """
    made_with, without = made.get("pictures"), made.get("bad_images")
    if made_with is None or data.images is None or (without and "files" not in without):
        return
    bad = without["files"] if without else {}
    sizes = found = None
    try:
        if asked_with:
            sizes = picture_sizes(with_black(data.images, bad), data.task.key, data.queries)
        if passages is not None:
            found = PassagePictures.found(data, passages, bad_images=bad_images, bad=bad)
    except M2KRError:
        return
    check_still_bad(data.images, without, path)
    if told_pictures(data, sizes, found) != made_with:
        raise M2KRError(
            f"{path} was made with other pictures than those in {data.images} (paths or sizes differ). "
            "Pass --rerun to evaluate with these, or choose another --out."
        )
