"""WIT: images of English Wikipedia, and the text of the page and section each stands in.

Native files: gzipped tables of 17 tab-separated columns with a header, all languages mixed; a field with a line break
is quoted. Only English rows are used. An image stands on many pages: every row of the same image (and split) is a
positive of its query. The rules are those of the published benchmark's code, except where an option says otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from m2kr import __version__
from m2kr.common.files import digest
from m2kr.common.memory import give_back
from m2kr.common.partitions import parts_by_hash
from m2kr.common.progress import progress
from m2kr.errors import M2KRError
from m2kr.formats.schema import polars_schema
from m2kr.images.roots import SUFFIXES, ImageRoots
from m2kr.parsing.releases import RawFiles, Tables, scratch
from m2kr.sources.columns import passages_of, queries_of
from m2kr.sources.options import choice
from m2kr.sources.sampling import sample
from m2kr.sources.wit_rows import (
    SPLIT_FILES,
    content,
    english_rows,
    img_path,
    nulls_choice,
    picture_states,
    pictures_of,
)
from m2kr.tasks import RELEASES, TASKS

TASK = TASKS["WIT"]

_PART_ROWS = 20_000
"""Rows of one range of image ids, whose texts are held at once while they are grouped by image."""

_DEALT_ROWS = 50_000
"""Rows dealt into the files of the ranges at once: each deal writes a batch into each file, and short ones are slow."""

_MOST_PARTS = 500
"""Files that are written at the same time at most, as a process may have a thousand open. Beyond 10 million English
rows (the release has 5.4 million) a part has more than `_PART_ROWS`."""

_SLICE_ROWS = 4_000
"""Queries handed on at once."""


@dataclass(frozen=True)
class Options:
    """Rules the published benchmark leaves open, or that depend on what is at hand."""

    image_filter: str = choice(
        "auto",
        "Rows that stay: present, those whose picture is in the folder images of the release, or in an archive of "
        "that name or in it, opens, and has both sides over 32 pixels; all; or auto, which is present where there is "
        "such a folder or archive and all where there is none.",
        "Upstream's published code is present. Which pictures could still be downloaded decides its counts.",
        ("auto", "present", "all"),
    )
    nulls: str = nulls_choice()
    test_queries: int = choice(
        5_120,
        "Queries of the val files that are the test split, chosen by a seeded hash; the others are valid.",
        "Published: 19,994 valid and 5,120 test queries over one pool of 39,478 passages, so both come from the val "
        "files (25,114 images). Which were chosen is not known.",
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of WIT.

    ``image_id``, ``img_id`` and ``question_id`` are the MD5 of ``image_url``; ``img_path`` is ``<that>.jpg``.
    ``original_data_id`` is ``<split>_<i>``, i counting a split's English rows over its files; ``passage_id`` is
    ``WIT_<i>``, i counting the rows that stay, train before valid. Train is searched in the rows of train and val
    files, valid and test in those of the val files. Where no picture was looked at, ``image_downloaded`` is null.
    """
    tables = Tables()
    pictures = pictures_of(raw)
    if options.image_filter == "present" and pictures is None:
        raise M2KRError(
            f"WIT.image_filter is 'present', and {raw.folders['wit'] / 'images'} is no folder, nor is there an archive "
            f"of that name ({', '.join(SUFFIXES)}). Put the images there, or set WIT.image_filter=all."
        )
    looked = pictures if options.image_filter != "all" else None
    halves: list[_Rows] = []
    # All files are looked for before any is read, which takes minutes each.
    paths = {split: _paths(raw, split, tables) for split in ("train", "valid")}
    for split in ("train", "valid"):
        half = _rows(raw, split, paths[split], options, looked, sum(other.kept for other in halves), tables)
        if half is None:
            what = "train" if split == "train" else "valid and test"
            tables.lacking.append(f"WIT {what}: not built, no file with an English row with a usable image is there.")
        else:
            halves.append(half)
    tables.counts["image_filter_present"] = int(looked is not None)
    by_split = {half.split: half for half in halves}
    passages = {half.split: _passages(half.frame, downloaded=looked is not None) for half in halves}
    if "train" in by_split:
        tables.data["train"] = _queries(raw, by_split["train"], seed)
        tables.passages["train"] = pl.concat(list(passages.values()))
    if "valid" in by_split:
        images = by_split["valid"].frame.select("image_id").unique().collect(engine="streaming").sort("image_id")
        test = sample(images, options.test_queries, seed, "WIT test", "image_id")
        queries = _queries(raw, by_split["valid"], seed)
        in_test = pl.col("image_id").is_in(test["image_id"].implode())
        for split, left, condition in (
            ("valid", images.height - test.height, ~in_test),
            ("test", test.height, in_test),
        ):
            if left:
                tables.data[split], tables.passages[split] = queries.filter(condition), passages["valid"]
            else:
                tables.lacking.append(f"WIT {split}: not built, no image is left for it (test_queries says how many).")
        if "train" in by_split:
            train = by_split["train"].frame.select("image_id")
            # In order, because Polars would else hold all ids, to see which side of the join is the smaller one.
            both = train.join(images.lazy(), on="image_id", how="semi", maintain_order="left").unique()
            tables.counts["images_in_train_and_val"] = both.select(pl.len()).collect(engine="streaming").item()
    return tables


@dataclass(frozen=True)
class _Rows:
    """The rows of one split that stay, lazily, with ``original_data_id`` and ``passage_id``.

    ``key`` stands for everything they depend on.
    """

    split: str
    frame: pl.LazyFrame
    kept: int
    key: str


def _paths(raw: RawFiles, split: str, tables: Tables) -> list[Path]:
    """Return the files of a split that are there, in order; those that are not are noted."""
    found = []
    for name in (name for name in RELEASES["wit"].files if name.startswith(SPLIT_FILES[split])):
        path = raw.find("wit", name)
        if path is None:
            tables.lacking.append(f"WIT {split}: built without {name}, which is missing.")
        else:
            found.append(path)
    return found


def _rows(
    raw: RawFiles,
    split: str,
    paths: list[Path],
    options: Options,
    pictures: ImageRoots | None,
    before: int,
    tables: Tables,
) -> _Rows | None:
    """Return the rows of a split that stay, numbered from ``before`` on; None where there are none."""
    files: list[pl.LazyFrame] = []
    known: list[object] = [__version__, options.nulls, before]
    english = 0
    for path in paths:
        rows = english_rows(raw, path, options.nulls).drop("row")
        state = path.stat()
        known += [str(path.resolve()), state.st_size, state.st_mtime_ns]
        files.append(rows.with_row_index("_row", offset=english))
        english += rows.select(pl.len()).collect().item()
    tables.counts[f"{split}_english_rows"] = english
    if not english:
        return None
    frame = pl.concat(files)
    kept = english
    numbers = None
    if pictures is not None:
        stays = _with_picture(raw, split, frame, pictures, known, tables)
        kept = int(stays.sum())
        # A row's number counts the rows that stay before it; the others get none, and go.
        numbers = pl.Series(np.where(stays, np.cumsum(stays) - 1, -1).astype(np.int64))
    tables.counts[f"{split}_rows"] = kept
    if not kept:
        return None
    row = pl.col("_row").cast(pl.Int64)
    number = row
    if numbers is not None:
        table = numbers  # looked up by position, so that no join has to hold or reorder rows
        number = row.map_batches(lambda places: table.gather(places), return_dtype=pl.Int64, is_elementwise=True)
    numbered = (
        frame.with_columns(_number=number)
        .filter(pl.col("_number") >= 0)
        .with_columns(
            original_data_id=pl.format(f"{split}_{{}}", "_row"),
            passage_id=pl.format("WIT_{}", pl.col("_number") + before),
        )
        .drop("_row", "_number")
    )
    return _Rows(split, numbered, kept, digest(*known))


def _with_picture(
    raw: RawFiles, split: str, frame: pl.LazyFrame, pictures: ImageRoots, known: list[object], tables: Tables
) -> np.ndarray[Any, Any]:
    """Return for each row whether its picture can be used, and count those that cannot. ``known`` is added to."""
    # A picture that comes or goes changes the time of its folder or archive, and so the key.
    for place in pictures.folders:
        known += [str(place.resolve()), place.stat().st_mtime_ns]

    def look(target: Path) -> None:
        with scratch(target, pa.schema([(name, pa.large_string()) for name in ("image_id", "state")])) as writer:
            for (part,) in parts_by_hash((frame.select("image_id"), "image_id")):
                images = part.unique().collect(engine="streaming")["image_id"].sort()
                found = picture_states(pictures, images.to_list(), raw.workers, quiet=raw.quiet)
                table = pl.DataFrame({"image_id": images, "state": pl.Series(found, dtype=pl.String)})
                writer.write_table(table.to_arrow(compat_level=pl.CompatLevel.oldest()))

    states = pl.scan_parquet(raw.make_once(f"{split}-images-{digest(*known)}.parquet", look))
    counted = dict(states.group_by("state").len().collect().iter_rows())
    for state in ("missing", "too_small", "unreadable"):
        tables.counts[f"{split}_images_{state}"] = counted.get(state, 0)
    stays: np.ndarray[Any, Any] = np.zeros(1, np.bool_)  # one for all rows, until the first part is looked at
    for (part,) in parts_by_hash((states.filter(pl.col("state") == "present"), "image_id")):
        usable = part.collect()["image_id"].implode()
        stays = (
            stays | frame.select(pl.col("image_id").is_in(usable)).collect(engine="streaming")["image_id"].to_numpy()
        )
    known.append(hashlib.sha256(stays.tobytes()).hexdigest())
    return stays


def _passages(rows: pl.LazyFrame, *, downloaded: bool) -> pl.LazyFrame:
    return passages_of(
        TASK,
        rows,
        img_id="image_id",
        img_path=img_path(),
        image_downloaded=pl.lit(True if downloaded else None),
        passage_content=content(),
    )


def _queries(raw: RawFiles, rows: _Rows, seed: int) -> pl.LazyFrame:
    """Return one query for each image, sorted by its id, with all its rows as positives in their order.

    To group millions of texts at once would hold all of them. So the rows are dealt into files by the range their
    image id is in, when they are first asked for, and one range after the other is grouped.
    """

    def read(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = rows.kept if n_rows is None else n_rows
        for path in _dealt(raw, rows):
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as dealt:
                pairs = pl.from_arrow(dealt.read_all())
            assert isinstance(pairs, pl.DataFrame)
            images = (
                pairs.group_by("image_id", maintain_order=True)
                .agg("original_data_id", pos_item_ids="passage_id", pos_item_contents="passage_content")
                .sort("image_id")
                .head(left)
            )
            grouped = queries_of(
                TASK,
                images,
                seed,
                img_id="image_id",
                question_id="image_id",
                img_path=img_path(),
                question=pl.lit(""),
            )
            left -= grouped.height
            del pairs, images  # or the next part would be read beside this one
            # In slices, because what is made of a batch is held as often as there are threads.
            for batch in grouped.iter_slices(_SLICE_ROWS):
                wanted = batch.filter(predicate) if predicate is not None else batch
                yield wanted.select(with_columns) if with_columns is not None else wanted

    return register_io_source(read, schema=polars_schema(TASK.data_config))


def _dealt(raw: RawFiles, rows: _Rows) -> list[Path]:
    """Write the pairs of image and passage into one file for each range of image ids, in their order."""
    names = [f"{part:04d}.arrows" for part in range(min(-(-rows.kept // _PART_ROWS), _MOST_PARTS))]

    def deal(target: Path) -> None:
        target.mkdir()
        _deal(rows, [target / name for name in names], quiet=raw.quiet)

    folder = raw.make_once(f"{rows.split}-dealt-{rows.key}", deal)
    return [folder / name for name in names]


def _deal(rows: _Rows, paths: list[Path], *, quiet: bool) -> None:
    pairs = rows.frame.select("image_id", "original_data_id", "passage_id", passage_content=content())
    # MD5 is uniform, so ranges of equal width hold about equally many images.
    part = pl.col("image_id").str.slice(0, 4).str.to_integer(base=16) * len(paths) // 65_536
    schema = pa.schema([(name, pa.large_string()) for name in pairs.collect_schema().names()])
    # Streams, because Parquet keeps a note of each row group until the end: as many as the square of the rows.
    layout = pa.ipc.IpcWriteOptions(compression="lz4")
    with ExitStack() as stack, progress(rows.kept, f"deal {rows.split} rows", quiet=quiet) as bar:
        files = [stack.enter_context(path.open("wb", buffering=0)) for path in paths]
        writers = [stack.enter_context(pa.ipc.new_stream(file, schema, options=layout)) for file in files]

        def write(frames: list[pl.DataFrame]) -> None:
            for (index,), frame in pl.concat(frames).partition_by("_part", as_dict=True, include_key=False).items():
                writers[index].write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema))

        waiting: list[pl.DataFrame] = []
        batches = pairs.with_columns(_part=part)
        for frame in batches.collect_batches(chunk_size=_DEALT_ROWS, maintain_order=True, engine="streaming"):
            waiting.append(frame)
            if sum(each.height for each in waiting) >= _DEALT_ROWS:
                write(waiting)
                waiting = []
            bar.update(frame.height)
        if waiting:
            write(waiting)
    give_back()
