"""IGLUE's English image retrieval test: 1,000 captions of 685 WIT images, searched by image.

Native files: ``test_en.jsonl``, one record a line with ``page_url``, ``image_url``, ``caption_reference_description``,
``language`` and ``wit_ix``, and the tables of WIT, because the passages are whole WIT rows, of which a record holds
three fields. The two are joined on those three, exactly as they are spelled. Which split of WIT holds the rows is not
known, so all its files that are there are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import polars as pl

from m2kr.common.json_input import as_record
from m2kr.parsing.json_files import Element, read_jsonl
from m2kr.parsing.rejected import bad_rows
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.parsing.rows import Advance, BadRow, Schema
from m2kr.sources.columns import passages_of, queries_of
from m2kr.sources.options import choice
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

TASK = TASKS["IGLUE"]
_KEY = ("page_url", "image_url", "caption_reference_description")
_RECORD: Schema = {"number": pl.Int64, **dict.fromkeys((*_KEY, "wit_ix"), pl.String)}


@dataclass(frozen=True)
class Options:
    """Rules the published benchmark leaves open."""

    repeats: str = choice(
        "first",
        "Where several WIT rows have a record's page, image and caption (one image in two sections of a page): take "
        "the first, or all of them as passages.",
        "The published passages are 1,000, as many as the records, so each stands for one.",
        ("first", "all"),
    )
    nulls: str = nulls_choice()


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of IGLUE, which has a test split only.

    Queries are the distinct images, in the order of the test file; ``question_id``, ``img_id`` and ``image_id`` are
    the MD5 of ``image_url``. ``passage_id`` is ``IGLUE_<i>``, i counting the records of the file from 0 whether matched
    or not (further rows of a record, with the option ``repeats``, get ``_1``, ``_2``, ...), and ``original_data_id`` is
    the record's ``wit_ix``; these two forms are ours. ``image_downloaded`` says whether the picture can be used, and
    is null where WIT's pictures are not there. All queries stay.
    """
    tables = Tables()
    path = raw.find("iglue_wit", "test_en.jsonl")
    wit_paths = _wit_files(raw)
    if path is None or not wit_paths:
        lost = "iglue_wit/test_en.jsonl" if path is None else "the tables of WIT"
        tables.lacking.append(f"IGLUE: not built without {lost}.")
        return tables
    records = raw.stage_records(path, "records", _numbered, _record, _RECORD, about=_about).collect()
    records = _without_repeats(raw, path, records)
    wanted = frozenset(records["image_url"])
    rows = _wit_rows(raw, wit_paths, options, wanted)
    matched = records.join(rows, on=_KEY, how="inner").sort("number", "_order")
    repeated = matched.height - matched["number"].n_unique()
    if options.repeats == "first":
        matched = matched.unique("number", keep="first", maintain_order=True)
    _report_missing(raw, path, records, rows, len(wit_paths))
    tables.counts = {
        "records": records.height,
        "images_of_records": len(wanted),
        "records_matched": matched["number"].n_unique(),
        "images_matched": matched["image_id"].n_unique(),
        "further_rows_of_a_record": repeated,
        "wit_files_read": len(wit_paths),
    }
    if not matched.height:
        tables.lacking.append(f"IGLUE: no record has its row in the {len(wit_paths)} files of WIT that are there.")
        return tables
    again = pl.int_range(pl.len()).over("number")
    passages = matched.with_columns(
        passage_id=pl.when(again == 0)
        .then(pl.format("IGLUE_{}", "number"))
        .otherwise(pl.format("IGLUE_{}_{}", "number", again)),
        passage_content=content(),
        img_id="image_id",
        img_path=img_path(),
    ).join(_downloaded(raw, matched, tables), on="image_id", how="left", maintain_order="left")
    queries = passages.group_by("image_id", "img_id", "img_path", maintain_order=True).agg(
        pos_item_ids="passage_id", pos_item_contents="passage_content"
    )
    tables.passages["test"] = passages_of(TASK, passages, original_data_id="wit_ix").lazy()
    tables.data["test"] = queries_of(TASK, queries, seed, question_id="image_id", question=pl.lit("")).lazy()
    return tables


def _wit_files(raw: RawFiles) -> list[Path]:
    """Return the files of WIT that are there; where none is, the first that is missing ends the build or is noted."""
    folder = raw.folders["wit"]
    # The one-percent sample is left aside: its rows are those of the train files.
    names = {
        f"{path.name.split('.tsv')[0]}.tsv.gz"
        for prefix in SPLIT_FILES.values()
        for ending in ("tsv", "tsv.gz")
        for path in folder.glob(f"{prefix}all-*-of-*.{ending}")
    }
    # Rows that IGLUE tests on were published last, in val and test: the order in which repeats are settled.
    order = sorted(names, key=lambda name: (name.startswith(SPLIT_FILES["train"]), name))
    found = [raw.find("wit", name) for name in order or RELEASES["wit"].files]
    return [path for path in found if path is not None]


def _wit_rows(raw: RawFiles, paths: list[Path], options: Options, wanted: frozenset[str]) -> pl.DataFrame:
    """Return the WIT rows of the wanted images, numbered in ``_order``: some thousands at most."""
    files = [english_rows(raw, path, options.nulls, only_images=wanted).drop("row") for path in paths]
    return pl.concat(files).collect().with_row_index("_order")


def _report_missing(raw: RawFiles, path: Path, records: pl.DataFrame, rows: pl.DataFrame, files: int) -> None:
    """List the records without their row, saying how far the match got."""
    images = set(rows["image_url"])
    pages = set(rows.select("image_url", "page_url").iter_rows())
    lost = []
    for record in records.join(rows, on=_KEY, how="anti", maintain_order="left").iter_rows(named=True):
        url = record["image_url"]
        if url not in images:
            what = "its image_url"
        elif (url, record["page_url"]) not in pages:
            what = "its image_url on its page_url (the image is on other pages)"
        else:
            what = "its caption_reference_description (its image and page are there, with another caption)"
        reason = f"no English row of the {files} WIT {'file' if files == 1 else 'files'} given has {what}"
        name = f"{record['wit_ix']}, {url}, {record['page_url']}"
        lost.append(BadRow(record["row"], reason, record["caption_reference_description"][:200], name))
    raw.rejected.add(path, lost, kind="missing")


def _downloaded(raw: RawFiles, rows: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    """Return image_id and image_downloaded, and count the pictures that cannot be used."""
    images = rows["image_id"].unique().sort()
    pictures = pictures_of(raw)
    if pictures is None:
        return pl.DataFrame({"image_id": images}).with_columns(image_downloaded=pl.lit(None, pl.Boolean))
    states = pl.Series(picture_states(pictures, images.to_list(), raw.workers, quiet=raw.quiet), dtype=pl.String)
    for state in ("missing", "too_small", "unreadable"):
        tables.counts[f"images_{state}"] = int((states == state).sum())
    return pl.DataFrame({"image_id": images, "image_downloaded": states == "present"})


_Filled = Annotated[str, msgspec.Meta(min_length=1)]


class _Record(msgspec.Struct):
    page_url: _Filled
    image_url: _Filled
    caption_reference_description: _Filled
    language: _Filled
    wit_ix: _Filled


def _numbered(path: Path, advance: Advance) -> Iterator[Element]:
    """Yield the records with their numbers from 0, those that cannot be read counted too."""
    for number, element in enumerate(read_jsonl(path, advance)):
        yield element if isinstance(element, BadRow) else (element[0], (number, element[1]))


def _record(numbered: tuple[int, Any]) -> list[dict[str, object]]:
    number, value = numbered
    record = as_record(value, _Record)
    if record.language != "en":
        raise ValueError(f"its language is {record.language[:20]!r} where 'en' is expected")
    return [{"number": number, **{name: getattr(record, name) for name in (*_KEY, "wit_ix")}}]


def _about(numbered: tuple[int, Any]) -> tuple[str, object]:
    name = numbered[1].get("wit_ix") if isinstance(numbered[1], dict) else None
    return name if isinstance(name, str) else "", numbered[1]


def _without_repeats(raw: RawFiles, path: Path, records: pl.DataFrame) -> pl.DataFrame:
    """Return the records without those whose page, image and caption stand already further up."""
    first = records.group_by(_KEY).agg(_number=pl.col("number").min(), _at=pl.col("row").first())
    placed = records.join(first, on=_KEY, how="left", maintain_order="left")
    again = placed.filter(pl.col("number") != pl.col("_number"))
    reason = pl.format("its page, image and caption stand already at {}", "_at")
    raw.rejected.add(path, bad_rows(again, reason, id=pl.col("wit_ix")))
    return records.join(again.select("number"), on="number", how="anti", maintain_order="left")
