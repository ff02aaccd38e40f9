"""LLaVA-CC3M-Pretrain-595K: pictures of the web with their captions, each beside a request to describe it.

Native file: ``chat.json``, one JSON array of ``{id, image, conversations}``; a conversation is one turn of ``human``
(one of eleven requests, and the marker ``<image>`` before or after it) and one of ``gpt`` (the caption, tokenised).
Training only: query and passage are one to one, and equal captions stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from m2kr.common.json_input import as_record
from m2kr.parsing.json_files import read_json_array
from m2kr.parsing.json_records import named_by
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.sources.columns import ONE_POSITIVE, numbered, passages_of, queries_of, reject_leaving_paths
from m2kr.sources.llava import Conversation
from m2kr.sources.options import choice
from m2kr.tasks import TASKS

TASK = TASKS["CC"]
_PAIR = dict.fromkeys(("id", "img_path", "instruction", "passage_content"), pl.String)


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
    question: str = choice(
        "empty",
        "What question holds, where the image alone asks: an empty text, as in WIT, IGLUE and KVQA, or null.",
        "The published column has the type null. The official example (examples/example_use_preflmr.py) joins "
        "instruction and question as texts and fails on a null; it reads empty texts unchanged, which mean the same.",
        ("empty", "null"),
    )
    ids: str = choice(
        "numbers",
        "What question_id and image_id hold: the row's number, from 0, and null; or the record's id, both.",
        "The published table has 56.27 bytes a row for image_id, question_id and instruction together. The eleven "
        "requests of the release have 50.27 on average, a running number over 595,375 rows 5.81, and a column of nulls "
        "an eighth of a byte: 56.20. With the record's ids it would be 88. Where the numbers begin is not known.",
        ("numbers", "records"),
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of CC, which has a train split only.

    ``img_id`` is the record's id, ``passage_id`` is ``CC_<id>``, and ``original_data_id`` is the id again, in data as a
    list of one; these forms are ours. ``passage_content`` is the caption as it is. Nothing is drawn by chance, so
    ``seed`` changes nothing.
    """
    tables = Tables()
    path = raw.find("llava_cc3m", "chat.json")
    if path is None:
        tables.lacking.append("CC: nothing can be built without chat.json.")
        return tables
    inside = partial(reject_leaving_paths, column="img_path", row_id="id")
    pairs = raw.stage_records(path, "chat", read_json_array, _pair, _PAIR, inside, about=named_by("id"), unique="id")
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
    pairs = pairs.with_columns(passage_id=pl.format("CC_{}", "id"), img_id="id")
    named = queries_of(
        TASK,
        pairs,
        seed,
        **ONE_POSITIVE,
        original_data_id=pl.concat_list("id"),
        image_id="id",
        question_id="id",
        question=pl.lit("" if options.question == "empty" else None),
    )
    tables.data["train"] = numbered(named) if options.ids == "numbers" else named
    tables.passages["train"] = passages_of(TASK, pairs, language=pl.lit("en"), original_data_id="id")
    return tables


def _pair(value: Any) -> list[dict[str, str]]:
    record = as_record(value, Conversation)
    if [turn.speaker for turn in record.conversations] != ["human", "gpt"]:
        raise ValueError("its conversation is not one turn of human and one of gpt")
    prompt, caption = (turn.value for turn in record.conversations)
    for speaker, text in (("human", prompt.replace("<image>", "")), ("gpt", caption)):
        if not text.strip():
            raise ValueError(f"the turn of {speaker} says nothing")
    return [{"id": record.id, "img_path": record.image, "instruction": prompt, "passage_content": caption}]
