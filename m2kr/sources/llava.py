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
from typing import Any

import msgspec
import polars as pl

from m2kr.common.json_input import as_record
from m2kr.parsing.json_files import read_json_array
from m2kr.parsing.json_records import Text, named_by
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.sources.columns import ONE_POSITIVE, numbered, passages_of, queries_of
from m2kr.sources.options import choice
from m2kr.sources.sampling import sample
from m2kr.tasks import RELEASES, TASKS

TASK = TASKS["LLaVA"]
_IMAGE_FILE = re.compile(r"([0-9]{12})\.jpg")
_PAIR = dict.fromkeys(("turn", "question", "passage_content", "img_id"), pl.String)


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
    ids: str = choice(
        "numbers",
        "What question_id and image_id hold: the row's number in its split, from 0, and null; or what names the pair "
        "(file, record and turn), and the record's id. Which pairs are drawn, and their instructions, are the same.",
        "The published test split has 78 bytes a row for image_id, question_id and instruction together, its questions "
        "having 59.6 by UMRB's count. The instructions have 75 and 77, which leaves 1 to 4, as a running number over "
        "5,120 rows (3.78) and a null take; names and ids take 44. In train, they would leave 28 bytes to a question. "
        "Where the numbers begin is not known.",
        ("numbers", "records"),
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of LLaVA.

    ``llava_split`` is the name of the file a pair comes from. A pair is named ``<that>_<record id>_<turn>``, and its
    ``passage_id`` is that with the prefix ``LLaVA_``; both forms are ours. ``img_path`` names the COCO 2014 file of the
    picture.
    """
    tables = Tables()
    subsets: list[pl.DataFrame] = []
    for name in RELEASES["llava_instruct"].files:
        path = raw.find("llava_instruct", name)
        if path is None:
            tables.lacking.append(f"LLaVA: built without {name}, which is missing.")
            continue
        subset = name.removesuffix(".json")
        staged = raw.stage_records(path, subset, read_json_array, _pairs, _PAIR, about=named_by("id"))
        pairs = staged.with_columns(llava_split=pl.lit(subset), pair=pl.format(f"{subset}_{{}}", "turn"))
        subsets.append(raw.without_repeats(path, pairs, "pair").drop("row", "turn").collect())
    if not subsets:
        tables.lacking.append("LLaVA: nothing can be built without any of its files.")
        return tables
    tables.counts = {f"{pairs['llava_split'][0]}_pairs": pairs.height for pairs in subsets if pairs.height}
    heldout = pl.concat([sample(p, options.heldout_per_subset, seed, "LLaVA held out", "pair") for p in subsets])
    train = pl.concat(subsets).join(heldout, on="pair", how="anti", maintain_order="left")
    test = sample(heldout, options.test_queries, seed, "LLaVA test", "pair")
    for split, queries, passages in (("train", train, train), ("test", test, heldout)):
        if not queries.height:
            tables.lacking.append(
                f"LLaVA {split}: not built, no pair is left for it (heldout_per_subset says how many)."
            )
            continue
        asked, pool = (_with_passage(pairs.lazy(), options) for pairs in (queries, passages))
        named = queries_of(TASK, asked, seed, **ONE_POSITIVE, question_id="pair", image_id="img_id")
        # Numbered last: instructions are drawn by the pair's name in both forms, which differ in nothing else.
        tables.data[split] = numbered(named) if options.ids == "numbers" else named
        tables.passages[split] = passages_of(TASK, pool, language=pl.lit("en"))
    return tables


def _with_passage(pairs: pl.LazyFrame, options: Options) -> pl.LazyFrame:
    text = pl.col("passage_content")
    return pairs.with_columns(
        passage_id=pl.format("LLaVA_{}", "pair"),
        passage_content=pl.col("question") + "\n" + text if options.passage == "question_answer" else text,
        img_path=pl.format("train2014/COCO_train2014_{}.jpg", "img_id"),
    )


class Turn(msgspec.Struct):
    """What one side says in a conversation."""

    speaker: str = msgspec.field(name="from")
    value: str


class Conversation(msgspec.Struct):
    """A record of the releases of LLaVA: turns about a picture."""

    id: Text
    image: Text
    conversations: list[Turn]


def _pairs(value: Any) -> Iterator[dict[str, str]]:
    record = as_record(value, Conversation)
    image = record.image
    if ".." in image.split("/") or image.startswith("/") or "\\" in image:
        raise ValueError(f"the image path {image!r} leaves its root")
    match = _IMAGE_FILE.fullmatch(image)
    if match is None:
        raise ValueError(f"the image {image!r} is not named as this release names them (12 digits, .jpg)")
    turns = record.conversations
    if not turns or len(turns) % 2:
        raise ValueError(f"{len(turns)} turns where pairs of human and gpt are expected")
    for index, (human, gpt) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
        if (human.speaker, gpt.speaker) != ("human", "gpt"):
            expected = "human" if human.speaker != "human" else "gpt"
            raise ValueError(f"the turns do not alternate between human and gpt (a turn of {expected} is expected)")
        question, answer = human.value.replace("<image>", "").strip(), gpt.value.strip()
        if not question or not answer:
            raise ValueError(f"the {'question' if not question else 'answer'} of turn {index} is empty")
        turn = f"{record.id}_{index}"
        yield {"turn": turn, "question": question, "passage_content": answer, "img_id": match[1]}
