"""LLaVA-Instruct-150K: questions about COCO pictures and the answers a language model wrote for them.

Native files: three JSON arrays of ``{id, image, conversations: [{from, value}, ...]}``, turns alternating between
``human`` and ``gpt``, with the marker ``<image>`` in the first human turn. Every pair of turns becomes one query and
one passage, without the turns before it: only so do the published counts come out (23,240 + 76,643 + 256,870 pairs
are 350,747 for training and 6,006 held out).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from m2kr.parsing.releases import RawFiles, Tables, from_rows
from m2kr.parsing.rows import Advance, BadRow, Batch, read_json_array
from m2kr.sources.options import choice
from m2kr.sources.sampling import instruction, sample
from m2kr.tasks import RELEASES, TASKS

TASK = TASKS["LLaVA"]
_IMAGE_FILE = re.compile(r"([0-9]{12})\.jpg")
_PAIRS = {
    "row": pl.String,
    "question_id": pl.String,
    "question": pl.String,
    "passage_id": pl.String,
    "passage_content": pl.String,
    "img_id": pl.String,
    "llava_split": pl.String,
}


@dataclass(frozen=True)
class Options:
    """Rules the published benchmark leaves open."""

    heldout_per_subset: int = choice(
        2_002,
        "Question-answer pairs of each file that are held out as the test pool, chosen by a seeded hash; a file with "
        "fewer is held out whole.",
        "The published test pool has 6,006 = 3 x 2,002 passages, and the length of an equal three-way mix.",
    )
    test_queries: int = choice(5_120, "Held-out questions that are test queries at most.", "The published number.")
    passage: str = choice(
        "answer",
        "What a passage holds: the answer, or the question and the answer.",
        "Not known; the published sizes fit either.",
        ("answer", "question_answer"),
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of LLaVA.

    ``llava_split`` is the name of the file a pair comes from. A pair's ids are ``<that>_<record id>_<turn>``, with the
    prefix ``LLaVA_`` for the passage; both forms are ours. ``img_path`` names the COCO 2014 file of the picture.

    Raises:
        MissingFilesError: a file is missing and that is not allowed.
        BadRowsError: a record cannot be used and such records are not to be skipped.
    """
    tables = Tables()
    subsets: list[pl.DataFrame] = []
    for name in RELEASES["llava_instruct"].files:
        path = raw.find("llava_instruct", name)
        if path is None:
            tables.lacking.append(f"LLaVA: built without {name}, which is missing.")
            continue
        subset = name.removesuffix(".json")
        pairs = raw.stage(path, subset, _read_pairs)
        subsets.append(raw.without_repeats(path, pairs, "question_id").drop("row").collect())
    if not subsets:
        tables.lacking.append("LLaVA: nothing can be built without any of its files.")
        return tables
    if options.passage == "question_answer":
        subsets = [
            pairs.with_columns(passage_content=pl.col("question") + "\n" + pl.col("passage_content"))
            for pairs in subsets
        ]
    heldout = pl.concat([sample(p, options.heldout_per_subset, seed, "LLaVA held out", "question_id") for p in subsets])
    train = pl.concat(subsets).join(heldout, on="question_id", how="anti", maintain_order="left")
    test = sample(heldout, options.test_queries, seed, "LLaVA test", "question_id")
    for split, queries, passages in (("train", train, train), ("test", test, heldout)):
        if not queries.height:
            tables.lacking.append(
                f"LLaVA {split}: not built, no pair is left for it (heldout_per_subset says how many)."
            )
            continue
        tables.data[split] = queries.lazy().select(
            pos_item_ids=pl.concat_list("passage_id"),
            pos_item_contents=pl.concat_list("passage_content"),
            img_id="img_id",
            img_path=_img_path(),
            image_id="img_id",
            question_id="question_id",
            question="question",
            llava_split="llava_split",
            instruction=instruction(TASK.instructions, "question_id", seed, TASK.key),
        )
        tables.passages[split] = passages.lazy().select(
            language=pl.lit("en"),
            img_id="img_id",
            img_path=_img_path(),
            passage_id="passage_id",
            passage_content="passage_content",
            llava_split="llava_split",
        )
    tables.counts = {f"{pairs['llava_split'][0]}_pairs": pairs.height for pairs in subsets if pairs.height}
    return tables


def _img_path() -> pl.Expr:
    return pl.format("train2014/COCO_train2014_{}.jpg", "img_id")


def _read_pairs(path: Path, advance: Advance) -> Iterator[Batch]:
    return from_rows(_pairs(path, advance), _PAIRS)


def _pairs(path: Path, advance: Advance) -> Iterator[dict[str, object] | BadRow]:
    subset = path.name.split(".json")[0]
    for element in read_json_array(path, "", advance):
        if isinstance(element, BadRow):
            yield element
            continue
        row, record = element
        name = f"id {record['id']}" if isinstance(record, dict) and "id" in record else ""
        try:
            yield from _record_pairs(row, subset, record)
        except ValueError as error:
            yield BadRow(row, str(error), str(record)[:200], name)


def _record_pairs(row: str, subset: str, record: Any) -> list[dict[str, object]]:
    """Return the pairs of one record; raise ValueError with the reason where it is not as the release writes them."""
    if not isinstance(record, dict):
        raise ValueError("it is not an object with id, image and conversations")
    for key, kind in (("id", str), ("image", str), ("conversations", list)):
        if not isinstance(record.get(key), kind):
            raise ValueError(f"{key} is {'missing' if key not in record else 'not ' + _JSON_NAMES[kind]}")
    image = record["image"]
    match = _IMAGE_FILE.fullmatch(image)
    if ".." in image.split("/") or image.startswith("/") or "\\" in image:
        raise ValueError(f"the image path {image!r} leaves its root")
    if match is None:
        raise ValueError(f"the image {image!r} is not named as this release names them (12 digits, .jpg)")
    turns = record["conversations"]
    if not turns or len(turns) % 2:
        raise ValueError(f"{len(turns)} turns where pairs of human and gpt are expected")
    pairs: list[dict[str, object]] = []
    for index in range(0, len(turns), 2):
        human, gpt = (
            _turn(turn, speaker) for turn, speaker in zip(turns[index : index + 2], ("human", "gpt"), strict=True)
        )
        question, answer = human.replace("<image>", "").strip(), gpt.strip()
        if not question or not answer:
            raise ValueError(f"the {'question' if not question else 'answer'} of turn {index // 2} is empty")
        name = f"{subset}_{record['id']}_{index // 2}"
        pairs.append(
            {
                "row": row,
                "question_id": name,
                "question": question,
                "passage_id": f"LLaVA_{name}",
                "passage_content": answer,
                "img_id": match.group(1),
                "llava_split": subset,
            }
        )
    return pairs


_JSON_NAMES = {str: "a string", list: "a list"}


def _turn(turn: Any, speaker: str) -> str:
    if not isinstance(turn, dict) or turn.get("from") != speaker or not isinstance(turn.get("value"), str):
        raise ValueError(f"the turns do not alternate between human and gpt (a turn of {speaker} is expected)")
    return str(turn["value"])
