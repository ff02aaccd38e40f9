"""KVQA: photographs of named people, with questions whose answers come from a knowledge graph.

Native file: ``dataset.json``, one JSON object, image id -> record: ``imgPath``, ``wikiCap`` (the caption),
``NamedEntities``, ``Questions``, ``Answers``, and ``split``, the part (1 train, 2 validation, 3 test) the image has in
each of five alternative partitions. How the published passages and queries were made of it is not known; its counts
say that train comes from part 1 and both valid and test from part 2, with about four queries an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from m2kr.errors import M2KRError
from m2kr.formats.rules import leaves_root
from m2kr.parsing.releases import RawFiles, Tables, from_rows, where
from m2kr.parsing.rows import Advance, BadRow, Batch, is_text, read_json_members
from m2kr.sources.options import choice
from m2kr.sources.sampling import instruction, sample
from m2kr.tasks import TASKS

TASK = TASKS["KVQA"]
_PARTITIONS = 5
_RECORD: dict[str, pl.DataType | type[pl.DataType]] = {
    "row": pl.String,
    "img_id": pl.String,
    "img_path": pl.String,
    "caption": pl.String,
    "names": pl.List(pl.String),
    "questions": pl.List(pl.String),
    "answers": pl.List(pl.String),
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

    Raises:
        MissingFilesError: the file is missing and that is not allowed.
        BadRowsError: a record cannot be used and such records are not to be skipped.
    """
    if options.split_index >= _PARTITIONS:
        raise M2KRError(f"option KVQA.split_index is {options.split_index}; it wants one of 0 to {_PARTITIONS - 1}.")
    tables = Tables()
    path = raw.find("kvqa", "dataset.json")
    if path is None:
        tables.lacking.append("KVQA: nothing can be built without dataset.json.")
        return tables
    staged = raw.stage(path, "images", _read_records, _check_paths)
    # 25,000 images and 183,000 short questions: they are held.
    images = raw.without_repeats(path, staged, "img_id").drop("row").collect()
    images = images.with_columns(
        part=pl.col("split").list.get(options.split_index), passage_content=_content(options.passage)
    )
    tables.counts = {
        "images": images.height,
        "images_without_caption": images["caption"].null_count(),
        "questions": int(images["questions"].list.len().sum()),
    }
    unusable = pl.col("passage_content") == ""
    if options.without_caption == "drop":
        unusable |= pl.col("caption").is_null()
    images = images.filter(~unusable)
    for part, splits in ((1, ("train",)), (2, ("valid", "test"))):
        pool = images.filter(pl.col("part") == part)
        queries = _queries(pool, options)
        chosen = sample(queries, options.test_queries, seed, "KVQA test", "question_id") if part == 2 else queries
        rest = queries.join(chosen, on="question_id", how="anti", maintain_order="left")
        tables.counts[f"{'train' if part == 1 else 'valid_and_test'}_images"] = pool.height
        for split in splits:
            rows = rest if split == "valid" else chosen
            if not rows.height:
                tables.lacking.append(f"KVQA {split}: not built, no query of part {part} is left for it.")
                continue
            tables.data[split], tables.passages[split] = _data(rows, options, seed).lazy(), _passages(pool).lazy()
    if "valid" in tables.passages and "test" in tables.passages:
        tables.passages["test"] = tables.passages["valid"]  # the same object, so that it is written once
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
        .with_columns(question_id=pl.format("{}_{}", "img_id", "index"), passage_id=pl.format("KVQA_{}", "img_id"))
    )


def _data(queries: pl.DataFrame, options: Options, seed: int) -> pl.DataFrame:
    return queries.select(
        pos_item_ids=pl.concat_list("passage_id"),
        pos_item_contents=pl.concat_list("passage_content"),
        img_id="img_id",
        img_path="img_path",
        image_id="img_id",
        question_id="question_id",
        instruction=instruction(TASK.instructions, "question_id", seed, TASK.key),
        question=pl.col("questions") if options.question == "asked" else pl.lit(""),
    )


def _passages(pool: pl.DataFrame) -> pl.DataFrame:
    return pool.select(
        language=pl.lit("en"),
        img_id="img_id",
        img_path="img_path",
        passage_id=pl.format("KVQA_{}", "img_id"),
        passage_content="passage_content",
    )


def _check_paths(batch: Batch) -> Batch:
    judged = where(
        batch.frame,
        [
            (leaves_root(pl.col("img_path")), pl.format("the image path {} leaves its root", "img_path")),
            (pl.col("img_path").str.ends_with("/"), pl.format("the image path {} names no file", "img_path")),
        ],
        row_id="img_id",
    )
    # The images are unpacked into the folder KVQAimgs, which is the root.
    name = pl.col("img_path").str.split("/").list.last()
    return Batch(judged.frame.with_columns(img_path=name), batch.bad + judged.bad)


def _read_records(path: Path, advance: Advance) -> Iterator[Batch]:
    return from_rows(_records(path, advance), {**_RECORD, "facts": pl.List(pl.String)}, size=5_000)


def _records(path: Path, advance: Advance) -> Iterator[dict[str, object] | BadRow]:
    for number, element in enumerate(read_json_members(path, advance), 1):
        if isinstance(element, BadRow):
            yield element
            continue
        key, record = element
        row = f"member {number}"
        try:
            yield {"row": row, **_record(key, record)}
        except ValueError as error:
            yield BadRow(row, str(error), str(record)[:200], f"img_id {key}")


def _record(key: str, record: Any) -> dict[str, object]:
    """Return the fields of one record; raise ValueError with the reason where it is not as the release writes them."""
    if not isinstance(record, dict):
        raise ValueError("it is not an object with imgPath, Questions, Answers and split")
    if not key.strip():
        raise ValueError("the image's key is empty")
    path, caption = record.get("imgPath"), record.get("wikiCap")
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"imgPath is {'missing' if 'imgPath' not in record else 'not a path'}")
    if caption is not None and not isinstance(caption, str):
        raise ValueError("wikiCap is not a string")
    questions, answers = _list(record, "Questions"), _list(record, "Answers")
    if not questions or not all(isinstance(question, str) and question.strip() for question in questions):
        raise ValueError("Questions is empty, or one of them is no text")
    # One list mixes texts and numbers.
    if not all(isinstance(answer, str | int | float) and not isinstance(answer, bool) for answer in answers):
        raise ValueError("one of Answers is neither text nor number")
    if len(questions) != len(answers):
        raise ValueError(f"it has {len(questions)} questions and {len(answers)} answers")
    names = _list(record, "NamedEntities") if "NamedEntities" in record else []
    if not all(isinstance(name, str) for name in names):
        raise ValueError("one of NamedEntities is no text")
    parts = _list(record, "split")
    if len(parts) != _PARTITIONS or not all(type(part) is int and part in (1, 2, 3) for part in parts):
        raise ValueError(f"split is {str(parts)[:40]} where {_PARTITIONS} numbers of 1, 2, 3 are expected")
    texts = [str(answer) for answer in answers]
    fields: dict[str, object] = {
        "img_id": key,
        "img_path": path,
        "caption": (caption or "").strip() or None,
        "names": names,
        "questions": questions,
        "answers": texts,
        "split": parts,
        "facts": [f"{question.strip()} {text.strip()}." for question, text in zip(questions, texts, strict=True)],
    }
    if not is_text(fields):
        raise ValueError("a string of it holds half a surrogate pair, which is no text")
    return fields


def _list(record: dict[str, Any], name: str) -> list[Any]:
    if not isinstance(record.get(name), list):
        raise ValueError(f"{name} is {'missing' if name not in record else 'not a list'}")
    return list(record[name])
