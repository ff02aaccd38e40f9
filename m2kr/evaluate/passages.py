"""What a retriever is given of passages: their texts and, where both have them, their pictures."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import polars as pl

from m2kr.images.query_pictures import BadPictures, black_for_bad, picture_sizes, query_pictures, with_black
from m2kr.retriever import Retriever, reads_passage_images

if TYPE_CHECKING:
    from m2kr.dataset import TaskData
    from m2kr.images.query_pictures import Prepare
    from m2kr.images.roots import ImageRoots
    from m2kr.retriever import Input, SparseRetriever

PassageImages = Literal["read", "not read", "ignored"]
"""What becomes of the pictures of passages: the retriever reads them, or reads none, or is to do without."""


def passage_images(
    retriever: Retriever | SparseRetriever, data: TaskData, *, ignore: bool = False
) -> PassageImages | None:
    """Return what becomes of the pictures of a task's passages; None where no passage has one.

    Args:
        retriever: who encodes the passages.
        data: the task.
        ignore: whether a retriever that reads them is to do without.
    """
    if not data.has_passage_images:
        return None
    if not (isinstance(retriever, Retriever) and reads_passage_images(retriever)):
        return "not read"
    return "ignored" if ignore else "read"


@dataclass(frozen=True)
class PassagePictures:
    """Pictures of passages, found and not yet decoded.

    Attributes:
        task: key of the task, for messages.
        images: where they are.
        rows: of each passage ``passage_id``, ``img_path`` (null where it has none) and ``size``, the bytes of the file
            (-1 where only reading tells, null without one), in the order of the passages' texts.
        bad: those that cannot be used.
    """

    task: str
    images: ImageRoots
    rows: pl.DataFrame
    bad: BadPictures = field(default_factory=BadPictures)

    @classmethod
    def found(
        cls,
        data: TaskData,
        passages: pl.DataFrame,
        *,
        bad_images: str = "error",
        bad: Collection[str] | None = None,
        workers: int = 0,
        quiet: bool = False,
    ) -> PassagePictures:
        """Look for the pictures of passages, all of which have to be there.

        Args:
            data: the task, and where its images are.
            passages: those that are encoded, in their order: ``passage_id`` and ``img_path``.
            bad_images: what becomes of pictures that cannot be used: "error"; "black", a black one in their place; or
                "skip", none.
            bad: paths of those, where they are known; else all are decoded, to find them.
            workers: processes that decode them, to find those that cannot be used.
            quiet: no progress, no notices.

        Raises:
            M2KRError: images are missing; or as `black_for_bad`.
        """
        key, images = data.task.key, data.images
        rows = passages.select("passage_id", "img_path")
        pictured = rows.drop_nulls("img_path")
        unread = BadPictures()
        if images is not None and bad is not None:
            images = with_black(images, bad)
            unread = BadPictures(pictured.filter(pl.col("img_path").is_in(list(bad)))["passage_id"].to_list())
        elif bad_images != "error":
            images, unread = black_for_bad(images, key, pictured, workers=workers, quiet=quiet)
        if bad_images == "skip":
            rows = rows.with_columns(pl.when(~pl.col("passage_id").is_in(unread.ids)).then("img_path"))
            pictured = rows.drop_nulls("img_path")
        sizes = pictured.select("passage_id", size=pl.Series(picture_sizes(images, key, pictured), dtype=pl.Int64))
        rows = rows.join(sizes, on="passage_id", how="left", maintain_order="left")
        assert images is not None  # picture_sizes has refused that
        return cls(key, images, rows, unread)

    def of(self, ids: Iterable[str]) -> PassagePictures:
        """Return those of some passages, in the order that these have here."""
        return replace(self, rows=self.rows.filter(pl.col("passage_id").is_in(list(ids))))

    def told(self) -> Iterator[Iterator[str]]:
        """Yield what the vectors of the passages depend on beside their texts: the paths, and the sizes."""
        yield (path or "" for path in self.rows["img_path"])
        yield (str(size) for size in self.rows["size"])

    def inputs(
        self, texts: Sequence[str], rows: Sequence[int], prepare: Prepare | None, *, workers: int = 0
    ) -> Generator[Input]:
        """Yield what the retriever is given of some passages: their texts, with their pictures where they have one.

        Args:
            texts: of all passages.
            rows: which passages.
            prepare: the retriever's ``prepare_image``, if it has one.
            workers: processes that decode pictures.

        Raises:
            ImageError: a picture cannot be used.
            M2KRError: ``prepare`` cannot be sent to workers.
        """
        some = self.rows[rows]
        pictured = some["img_path"].is_not_null()
        pictures = query_pictures(self.images, self.task, some.filter(pictured), prepare, workers=workers)
        with closing(pictures):
            for row, has_picture in zip(rows, pictured, strict=True):
                text = texts[row]
                yield {"text": text, "image": next(pictures)} if has_picture else text
