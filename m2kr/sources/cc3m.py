"""LLaVA-CC3M-Pretrain-595K: pictures of the web with their captions, each beside a request to describe it.

Native file: ``chat.json``, one JSON array of ``{id, image, conversations}``; a conversation is one turn of ``human``
(one of eleven requests, and the marker ``<image>`` before or after it) and one of ``gpt`` (the caption, tokenised).
Training only: query and passage are one to one, and equal captions stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from m2kr.formats.rules import leaves_root
from m2kr.parsing.releases import RawFiles, Tables, from_rows, where
from m2kr.parsing.rows import Advance, BadRow, Batch, is_text, read_json_array
from m2kr.sources.options import choice
from m2kr.tasks import TASKS

TASK = TASKS["CC"]
_PAIR = {
    "row": pl.String,
    "id": pl.String,
    "img_path": pl.String,
    "instruction": pl.String,
    "passage_content": pl.String,
}


@dataclass(frozen=True)
class Options:
    """Rules the published benchmark leaves open."""

    instruction: str = choice(
        "prompt",
        "What instruction holds: the human's request without the marker <image>, or the request as it is.",
        "Upstream loads CC without a list of instructions, from files named after a prefix, so each record brings its "
        "own. That the marker is taken out is inferred from there.",
        ("prompt", "raw"),
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of CC, which has a train split only.

    ``question_id``, ``img_id`` and ``image_id`` are the record's id, ``passage_id`` is ``CC_<id>``, and
    ``original_data_id`` is the id again, in data as a list of one; these forms are ours. ``question`` is null, and
    ``passage_content`` is the caption as it is. Nothing is drawn by chance, so ``seed`` changes nothing.

    Raises:
        MissingFilesError: the file is missing and that is not allowed.
        BadRowsError: a record cannot be used and such records are not to be skipped.
    """
    tables = Tables()
    path = raw.find("llava_cc3m", "chat.json")
    if path is None:
        tables.lacking.append("CC: nothing can be built without chat.json.")
        return tables
    pairs = raw.without_repeats(path, raw.stage(path, "chat", _read_pairs, _check_paths), "id").drop("row")
    if options.instruction == "prompt":
        shown = pl.col("instruction").str.replace_all("<image>", "", literal=True).str.strip_chars()
        pairs = pairs.with_columns(shown)
    counts = pairs.select(
        records=pl.len(), images=pl.col("img_path").n_unique(), instructions=pl.col("instruction").n_unique()
    )
    tables.counts = counts.collect(engine="streaming").row(0, named=True)
    if not tables.counts["records"]:
        tables.lacking.append("CC: not built, chat.json holds no record.")
        return tables
    passage_id = pl.format("CC_{}", "id")
    tables.data["train"] = pairs.select(
        original_data_id=pl.concat_list("id"),
        pos_item_ids=pl.concat_list(passage_id),
        pos_item_contents=pl.concat_list("passage_content"),
        img_id="id",
        img_path="img_path",
        image_id="id",
        question_id="id",
        question=pl.lit(None, pl.Null),
        instruction="instruction",
    )
    tables.passages["train"] = pairs.select(
        language=pl.lit("en"),
        original_data_id="id",
        img_id="id",
        img_path="img_path",
        passage_id=passage_id,
        passage_content="passage_content",
    )
    return tables


def _check_paths(batch: Batch) -> Batch:
    reason = pl.format("the image path {} leaves its root", "img_path")
    judged = where(batch.frame, [(leaves_root(pl.col("img_path")), reason)], row_id="id")
    return Batch(judged.frame, batch.bad + judged.bad)


def _read_pairs(path: Path, advance: Advance) -> Iterator[Batch]:
    return from_rows(_pairs(path, advance), _PAIR)


def _pairs(path: Path, advance: Advance) -> Iterator[dict[str, object] | BadRow]:
    for element in read_json_array(path, "", advance):
        if isinstance(element, BadRow):
            yield element
            continue
        row, record = element
        try:
            yield {"row": row, **_pair(record)}
        except ValueError as error:
            name = record.get("id") if isinstance(record, dict) else None
            yield BadRow(row, str(error), str(record)[:200], f"id {name}" if isinstance(name, str) else "")


def _pair(record: Any) -> dict[str, object]:
    """Return the fields of one record; raise ValueError with the reason where it is not as the release writes them."""
    if not isinstance(record, dict):
        raise ValueError("it is not an object with id, image and conversations")
    for key, kind in (("id", str), ("image", str), ("conversations", list)):
        if not isinstance(record.get(key), kind):
            raise ValueError(f"{key} is {'missing' if key not in record else 'not a ' + _JSON_NAMES[kind]}")
        if kind is str and not record[key].strip():
            raise ValueError(f"{key} is empty")
    turns = record["conversations"]
    speakers = [turn.get("from") if isinstance(turn, dict) else None for turn in turns]
    if speakers != ["human", "gpt"]:
        raise ValueError("its conversation is not one turn of human and one of gpt")
    prompt, caption = (turn.get("value") for turn in turns)
    if not isinstance(prompt, str) or not prompt.replace("<image>", "").strip():
        raise ValueError("the turn of human says nothing")
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError("the turn of gpt says nothing")
    fields: dict[str, object] = {
        "id": record["id"],
        "img_path": record["image"],
        "instruction": prompt,
        "passage_content": caption,
    }
    if not is_text(fields):
        raise ValueError("a string of it holds half a surrogate pair, which is no text")
    return fields


_JSON_NAMES = {str: "string", list: "list"}
