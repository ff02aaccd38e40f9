"""The rows of WIT's tables, their texts and their pictures, as WIT and IGLUE read them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from m2kr.common.concurrency import ordered_map
from m2kr.common.progress import progress
from m2kr.images.decode import MAX_PIXELS, ImageError
from m2kr.images.roots import ImageRoots, release_roots
from m2kr.parsing.delimited import read_quoted
from m2kr.parsing.rejected import Rule, split_bad_rows
from m2kr.parsing.releases import RawFiles
from m2kr.parsing.rows import Advance, Batch
from m2kr.sources.options import choice
from m2kr.tasks import TASKS

COLUMNS = (
    "language",
    "page_url",
    "image_url",
    "page_title",
    "section_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "mime_type",
    "original_height",
    "original_width",
    "is_main_image",
    "attribution_passes_lang_id",
    "page_changed_recently",
    "context_page_description",
    "context_section_description",
)
_NUMBERS = ("original_height", "original_width")
_FLAGS = ("is_main_image", "attribution_passes_lang_id", "page_changed_recently")
SPLIT_FILES = {"train": "wit_v1.train.", "valid": "wit_v1.val.", "test": "wit_v1.test."}
"""How the names of each split's files begin."""

SMALLEST_SIDE = 32
"""A picture with a side of so many pixels or fewer is left out, as upstream does."""

_BATCH_ROWS = 8_000
"""Rows that are staged at once; a few batches are in flight."""

# What pandas, through which upstream read the files, takes for a missing value beside the empty cell.
_PANDAS_NULLS = (
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"),
    *("NULL", "NaN", "None", "n/a", "nan", "null"),
)


def nulls_choice() -> Any:
    """Declare the option that WIT and IGLUE share: which cells are null."""
    return choice(
        "empty",
        "Cells that are null: empty ones only, or also the words pandas takes for missing values (NA, null, None, "
        "...).",
        "Upstream read the files through pandas' defaults, by which a page titled NA has no title; that it was meant "
        "is not likely, so the text is kept.",
        ("empty", "pandas"),
    )


def pictures_of(raw: RawFiles) -> ImageRoots | None:
    """Return where WIT's pictures are, its folder ``images``; None without any."""
    return release_roots(raw.folders["wit"] / "images", TASKS["WIT"])


def english_rows(raw: RawFiles, path: Path, nulls: str, *, only_images: frozenset[str] | None = None) -> pl.LazyFrame:
    """Return the English rows of one file: ``row``, its columns with their types, and ``image_id``.

    Args:
        raw: stages the file.
        path: the file.
        nulls: value of the option of that name.
        only_images: keep the rows of these image addresses only.
    """
    refine = partial(_refine, nulls=_PANDAS_NULLS if nulls == "pandas" else (), only_images=only_images)
    settings = [nulls, sorted(only_images) if only_images is not None else None]
    read = partial(_read_english, workers=raw.workers)
    return raw.stage(path, path.name.split(".tsv")[0], read, refine, settings=settings)


def _read_english(path: Path, advance: Advance, workers: int) -> Iterator[Batch]:
    """Yield the English rows, and those without a language, in batches of thousands.

    The other languages are dropped before anything looks at their fields. They are six rows of seven, so what stays of
    a block is a few hundred rows, and a staged table of so short row groups would be slow to read.
    """

    def english(batch: Batch) -> Batch:
        return Batch(batch.frame.filter(pl.col("language").is_in(["en", ""])), batch.bad)

    waiting: list[pl.DataFrame] = []
    height = 0
    for batch in read_quoted(path, COLUMNS, advance, refine=english, workers=workers):
        waiting.append(batch.frame)
        height += waiting[-1].height
        if height >= _BATCH_ROWS or batch.bad:
            yield Batch(pl.concat(waiting), batch.bad)
            waiting, height = [], 0
    if waiting:
        yield Batch(pl.concat(waiting))


def _refine(batch: Batch, *, nulls: Sequence[str], only_images: frozenset[str] | None) -> Batch:
    frame = batch.frame
    if only_images is not None:
        frame = frame.filter(pl.col("image_url").is_in(pl.Series(sorted(only_images)).implode()))
    for null in ("", *nulls):  # most often the first alone, and texts are long: this hashes none, as is_in would
        frame = frame.with_columns(pl.when(pl.col(name) != null).then(pl.col(name)).alias(name) for name in COLUMNS)
    typed = {
        **{name: pl.col(name).str.to_integer(strict=False, dtype=pl.Int64) for name in _NUMBERS},
        **{name: pl.col(name).replace_strict({"true": True, "false": False}, default=None) for name in _FLAGS},
    }
    rules: list[Rule] = [(pl.col(name).is_null(), f"{name} is empty") for name in ("language", "page_url", "image_url")]
    rules += [
        (
            pl.col(name).is_not_null() & value.is_null(),
            pl.format(f"{name} is {{}}, not {'a whole number' if name in _NUMBERS else 'true or false'}", name),
        )
        for name, value in typed.items()
    ]
    judged = split_bad_rows(Batch(frame, batch.bad), rules, row_id="page_url")
    images = pl.col("image_url").map_batches(_md5, return_dtype=pl.String, is_elementwise=True)
    rows = judged.frame.with_columns(
        image_id=images, **{name: value.cast(_TYPES[name]) for name, value in typed.items()}
    )
    return Batch(rows, judged.bad)


_TYPES = {**dict.fromkeys(_NUMBERS, pl.Int64), **dict.fromkeys(_FLAGS, pl.Boolean)}


def _md5(urls: pl.Series) -> pl.Series:
    names = [hashlib.md5(url.encode("utf-8"), usedforsecurity=False).hexdigest() for url in urls]
    return pl.Series(names, dtype=pl.String)


def content() -> pl.Expr:
    """Return the passage's text: labelled fields, those that are null left out but for the title and the content.

    Labels, order, and the word None where title or content is null are those of upstream's published code.
    """
    optional = COLUMNS[4:9]
    return pl.concat_str(
        pl.lit("title: "),
        pl.col("page_title").fill_null("None"),
        *(pl.lit(f" {name.replace('_', ' ')}: ") + pl.col(name) for name in optional),
        pl.lit(" content: "),
        pl.col("context_page_description").fill_null("None"),
        ignore_nulls=True,
    )


def picture_states(pictures: ImageRoots, images: Sequence[str], workers: int, *, quiet: bool) -> list[str]:
    """Return for each image id whether its picture can be used: "present", "missing", "too_small" or "unreadable".

    Only headers are read, where a picture is a file of its own: to decode millions of pictures would take days.

    Raises:
        M2KRError: an archive cannot be read.
    """
    from PIL import Image

    def state(image_id: str) -> str:
        try:
            file = pictures.find(f"{image_id}.jpg")
        except ImageError:  # a link that leads out of the folder
            return "unreadable"
        if file is None:
            return "missing"
        try:
            with Image.open(file.path or io.BytesIO(file.read())) as image:
                width, height = image.size
        except Exception:  # of broken files, decoders raise ValueError, SyntaxError, RuntimeError and more
            return "unreadable"
        if width * height > MAX_PIXELS:
            return "unreadable"
        return "present" if min(width, height) > SMALLEST_SIDE else "too_small"

    chunks = [images[start : start + 500] for start in range(0, len(images), 500)]
    states: list[str] = []
    with progress(len(images), "look at images", unit="images", quiet=quiet) as bar:
        # Opening a file is waiting for a disk, so there are more threads than cores.
        for found in ordered_map(lambda chunk: [state(image) for image in chunk], chunks, 4 * workers):
            states += found
            bar.update(len(found))
    return states


def img_path() -> pl.Expr:
    """Return the path of a row's picture, relative to the folder of pictures."""
    return pl.format("{}.jpg", "image_id")
