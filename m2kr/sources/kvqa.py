"""KVQA: photographs of named people, with questions whose answers come from a knowledge graph.

Native file: ``dataset.json``, one JSON object, image id -> record: ``imgPath``, ``wikiCap`` (the caption),
``NamedEntities``, ``Questions``, ``Answers``, and ``split``, the part (1 train, 2 validation, 3 test) the image has in
each of five alternative partitions. How the published passages and queries were made of it is not known; its counts
say that train comes from part 1 and both valid and test from part 2, with about four queries an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl

from m2kr.common.json_input import as_record
from m2kr.errors import M2KRError
from m2kr.parsing.json_files import read_json_members
from m2kr.parsing.json_records import Text
from m2kr.parsing.rejected import split_bad_rows
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.parsing.rows import Batch, Schema
from m2kr.sources.columns import ONE_POSITIVE, passages_of, queries_of, reject_leaving_paths
from m2kr.sources.options import choice
from m2kr.sources.sampling import sample
from m2kr.tasks import TASKS

TASK = TASKS["KVQA"]
_PARTITIONS = 5
_IMAGE: Schema = {
    **dict.fromkeys(("img_id", "img_path", "caption"), pl.String),
    **dict.fromkeys(("names", "questions", "facts"), pl.List(pl.String)),
    "split": pl.List(pl.Int64),
}


@dataclass(frozen=True)
class Options:
    """Rules the published benchmark leaves open."""

    split_index: int = choice(
        0, "Which of the five partitions of the images is used, 0 to 4.", "Not known; the first, which is ours."
    )
    queries_per_image: int = choice(
        4,
        "How many questions of an image, the first ones, become queries at most; 0 takes all.",
        "Published: 64,396 queries for 16,215 images (3.97 each) and 18,485 for 4,648 (3.98), where an image has 7.4 "
        "questions. That they are the first is ours.",
    )
    passage: str = choice(
        "caption_and_facts",
        "What a passage holds: the caption; the caption and the names; or the caption, the names, and every question "
        "with its answer.",
        "Not known. The published passages have 370 to 400 bytes, far more than a caption, and the questions are the "
        "only facts of the release; the form is ours.",
        ("caption", "caption_and_names", "caption_and_facts"),
    )
    question: str = choice(
        "empty",
        "What a query asks: nothing, only its image being searched with, or the question.",
        "The task is image to text, and the published rows leave no room for a question beside the instruction.",
        ("empty", "asked"),
    )
    without_caption: str = choice(
        "drop",
        "Images without a caption: drop them, or keep them with what else the passage holds.",
        "Not known. About 6% of the images are in no published passage, and a caption can be missing.",
        ("drop", "keep"),
    )
    test_queries: int = choice(
        5_120,
        "Queries of part 2 that are the test split, chosen by a seeded hash; the others are valid. Valid and test "
        "share images, and with them positive passages: a retriever chosen on valid was chosen on much of test.",
        "The published number. Valid and test share one pool of passages; which queries were chosen, and so whether "
        "the published splits share images too, is not known.",
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of KVQA.

    ``img_id`` and ``image_id`` are the image's key in the file, ``question_id`` is ``<that>_<i>``, i counting the
    image's questions from 0, and ``passage_id`` is ``KVQA_<key>``; these forms are ours. ``img_path`` is the file's
    name in the folder KVQAimgs, its ending as it is spelled.
    """
    if options.split_index >= _PARTITIONS:
        raise M2KRError(f"option KVQA.split_index is {options.split_index}; it wants one of 0 to {_PARTITIONS - 1}.")
    tables = Tables()
    path = raw.find("kvqa", "dataset.json")
    if path is None:
        tables.lacking.append("KVQA: nothing can be built without dataset.json.")
        return tables
    staged = raw.stage_records(
        path, "images", read_json_members, _image, _IMAGE, _file_names, about=_about, unique="img_id", size=5_000
    )
    # 25,000 images and 183,000 short questions: they are held.
    images = staged.drop("row").collect()
    tables.counts = {
        "images": images.height,
        "images_without_caption": images["caption"].null_count(),
        "questions": int(images["questions"].list.len().sum()),
    }
    images = images.with_columns(
        part=pl.col("split").list.get(options.split_index),
        passage_id=pl.format("KVQA_{}", "img_id"),
        passage_content=_content(options.passage),
    ).filter(pl.col("passage_content") != "")
    if options.without_caption == "drop":
        images = images.filter(pl.col("caption").is_not_null())
    for part, splits in ((1, ("train",)), (2, ("valid", "test"))):
        pool = images.filter(pl.col("part") == part)
        queries = _queries(pool, options)
        chosen = sample(queries, options.test_queries, seed, "KVQA test", "question_id") if part == 2 else queries
        rest = queries.join(chosen, on="question_id", how="anti", maintain_order="left")
        tables.counts[f"{'train' if part == 1 else 'valid_and_test'}_images"] = pool.height
        passages = passages_of(TASK, pool, language=pl.lit("en")).lazy()
        for split in splits:
            rows = rest if split == "valid" else chosen
            if not rows.height:
                tables.lacking.append(f"KVQA {split}: not built, no query of part {part} is left for it.")
                continue
            asked = queries_of(TASK, rows, seed, **ONE_POSITIVE, image_id="img_id")
            tables.data[split], tables.passages[split] = asked.lazy(), passages
    lengths = images["passage_content"].str.len_bytes().mean()
    tables.counts["bytes_of_a_passage_on_average"] = round(lengths) if isinstance(lengths, float) else 0
    return tables


def _content(form: str) -> pl.Expr:
    """Return the text of each image's passage, one line of sentences; "" where the image has nothing to tell."""
    parts = [pl.col("caption")]
    if form != "caption":
        parts.append(pl.col("names").list.join(", "))
    if form == "caption_and_facts":
        parts.append(pl.col("facts").list.join(" "))
    joined = pl.concat_list(parts).list.drop_nulls()
    return joined.list.eval(pl.element().filter(pl.element() != "")).list.join(" ")


def _queries(pool: pl.DataFrame, options: Options) -> pl.DataFrame:
    asked = pl.col("questions").list.head(options.queries_per_image) if options.queries_per_image else "questions"
    return (
        pool.with_columns(questions=asked)
        .with_columns(index=pl.int_ranges(pl.col("questions").list.len()))
        .explode("questions", "index")
        .with_columns(
            question_id=pl.format("{}_{}", "img_id", "index"),
            question=pl.col("questions") if options.question == "asked" else pl.lit(""),
        )
    )


def _file_names(batch: Batch) -> Batch:
    """Return images with the name of their file; they are unpacked into the folder KVQAimgs, which is the root."""
    path = pl.col("img_path")
    nameless = (path.str.ends_with("/"), pl.format("the image path {} names no file", "img_path"))
    inside = split_bad_rows(reject_leaving_paths(batch, "img_path", "img_id"), [nameless], row_id="img_id")
    return Batch(inside.frame.with_columns(path.str.split("/").list.last()), inside.bad)


class _Record(msgspec.Struct):
    imgPath: Text  # noqa: N815  # as the release spells it
    Questions: list[Text]
    Answers: list[str | int | float]  # one list mixes texts and numbers
    split: list[Any]
    wikiCap: str | None = None  # noqa: N815
    NamedEntities: list[str] = msgspec.field(default_factory=list)


def _image(member: tuple[str, Any]) -> list[dict[str, object]]:
    key, value = member
    record = as_record(value, _Record)
    if not key.strip():
        raise ValueError("the image's key is empty")
    if not record.Questions:
        raise ValueError("Questions is empty")
    if len(record.Questions) != len(record.Answers):
        raise ValueError(f"it has {len(record.Questions)} questions and {len(record.Answers)} answers")
    parts = record.split
    if len(parts) != _PARTITIONS or not all(type(part) is int and part in (1, 2, 3) for part in parts):
        raise ValueError(f"split is {str(parts)[:40]} where {_PARTITIONS} numbers of 1, 2, 3 are expected")
    pairs = zip(record.Questions, record.Answers, strict=True)
    return [
        {
            "img_id": key,
            "img_path": record.imgPath,
            "caption": (record.wikiCap or "").strip() or None,
            "names": record.NamedEntities,
            "questions": record.Questions,
            "facts": [f"{question.strip()} {answer}." for question, answer in pairs],
            "split": parts,
        }
    ]


def _about(member: tuple[str, Any]) -> tuple[str, object]:
    return f"img_id {member[0]}", member[1]
