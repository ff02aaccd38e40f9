"""InfoSeek: questions about a fact of the pictured entity, over 100-word blocks of Wikipedia.

Native files: ``infoseek_train.jsonl`` and ``infoseek_val.jsonl`` (``{data_id, image_id, question, answer, answer_eval,
data_split}``), and their ``*_withkb.jsonl`` (``{data_id, entity_id, entity_text}``), which stand in another order, so
that only ``data_id`` joins them. A question's related blocks are those of the article of its entity; its positives are
the related blocks that hold an answer. Upstream asks Elasticsearch for the phrase ``entity_text`` in titles and takes
the blocks whose title is that of the first hit; here the title has to be ``entity_text``, so entities whose article
goes by another name have no blocks and their questions are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from m2kr.common.files import digest
from m2kr.common.json_input import as_record
from m2kr.formats.schema import polars_schema
from m2kr.parsing.json_files import read_jsonl
from m2kr.parsing.json_records import Text, named_by
from m2kr.parsing.rejected import bad_rows
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.parsing.rows import Advance, Batch, Schema
from m2kr.sources.articles import Articles
from m2kr.sources.columns import most_frequent, passages_of, queries_of
from m2kr.sources.options import choice
from m2kr.sources.oven import IMAGE_ID, picture_files
from m2kr.sources.sampling import sample
from m2kr.sources.wikipedia import content, find_titles
from m2kr.tasks import TASKS

TASK = TASKS["Infoseek"]
_SPLITS = {"train": "train", "test": "val"}
_TYPES = ("String", "Numerical", "Time")
_QUESTION: Schema = {
    **dict.fromkeys(("data_id", "image_id", "question", "data_split"), pl.String),
    **dict.fromkeys(("answer", "answer_eval"), pl.List(pl.String)),
    "wikidata_value": pl.Float64,
    "wikidata_range": pl.List(pl.Float64),
}
_POSITIVES: Schema = {
    "gold_answer": pl.String,
    **dict.fromkeys(("related_item_ids", "pos_item_ids", "pos_item_contents"), pl.List(pl.String)),
    "by_number": pl.Boolean,
}


@dataclass(frozen=True)
class Options:
    """Rules the published benchmark leaves open, or that a rebuild has to settle itself."""

    title_match: str = choice(
        "exact",
        "When a block's title is the entity's: when they are equal, or equal but for capitals.",
        "Ours. Upstream compares with the title of the first hit of a phrase search, which needs Elasticsearch.",
        ("exact", "casefold"),
    )
    related: int = choice(
        1_000, "Blocks related to an entity at most, the first of its article.", "Upstream's published code."
    )
    answers: str = choice(
        "answer+answer_eval",
        "The column answers: the record's answers and then its other accepted forms, or one of the two.",
        "Upstream's code adds the second list to the first, which the column shares; the release is said to show both.",
        ("answer+answer_eval", "answer", "answer_eval"),
    )
    tolerance: float = choice(
        0.01, "How far a number in a block may be from the answer's.", "Upstream's published code."
    )
    numbers: str = choice(
        "separators",
        "How numbers in a block are read: 1,234 as one number, or as 1 and 234.",
        "Not known. Wikipedia writes thousands with separators.",
        ("separators", "plain"),
    )
    extra_passages: int = choice(
        30_000,
        "Blocks of other articles in the pool, chosen by a seeded hash.",
        "Upstream's published code; which blocks is not known.",
    )
    pool: str = choice(
        "all",
        "Whose related blocks form the pool: those of all questions, or of the questions that have a positive.",
        "Not known; the published 98,276 less 30,000 are 10 blocks for each of the 6,741 entities.",
        ("all", "kept"),
    )
    test_queries: int = choice(
        0,
        "Questions of the test split at most, chosen by a seeded hash; 0 keeps all that have a positive.",
        "The published 4,708 are those of about 1,700 pictures upstream had features for; the list is not published.",
    )
    without_image: str = choice(
        "keep",
        "Questions whose picture stands neither in ovenid2impath.csv nor in oven/images: keep them with the extension "
        ".jpg, or drop them.",
        "Upstream keeps the questions it had image features for.",
        ("keep", "drop"),
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of Infoseek: train from train, test from val, both searched in one pool.

    ``question_id`` is the record's ``data_id``, ``passage_id`` the block's id in psgs_w100. ``img_path`` has no shard
    folder, as published: ``<image_id><extension>``. Columns that come from models (``objects``, ``ROIs``,
    ``img_caption``) are empty or null. ``question_type`` is that of infoseek_val_qtype.jsonl where it is there;
    else Numerical for an answer that is a number, and String for all others, because the records do not tell a time.
    """
    tables = Tables()
    blocks_path = raw.find("wikipedia", "psgs_w100.tsv")
    joined: dict[str, pl.LazyFrame] = {}
    for split, name in _SPLITS.items():
        rows = _questions(raw, name)
        if rows is None:
            tables.lacking.append(f"Infoseek {split}: not built, infoseek_{name}.jsonl or its withkb is missing.")
        else:
            joined[split] = rows
    if blocks_path is None:
        tables.lacking.append("Infoseek: without wikipedia/psgs_w100.tsv there are no passages to build it with.")
    if blocks_path is None or not joined:
        return tables
    blocks = _blocks(raw, blocks_path, joined, options, seed)
    articles = Articles(
        blocks.filter("related"),
        _FOLDS[options.title_match],
        most=options.related,
        tolerance=options.tolerance,
        separators=options.numbers == "separators",
    )
    blocks = blocks.filter(~pl.col("related") | pl.col("id").cast(pl.String).is_in(list(articles.content)))
    types = _types(raw)
    pictures = picture_files(
        raw,
        pl.concat([rows.select("image_id") for rows in joined.values()]).collect(engine="streaming")["image_id"],
        keep=options.without_image == "keep",
    )
    matched: dict[str, pl.LazyFrame] = {}
    for split, rows in joined.items():
        pictured = rows.join(pictures.lazy(), on="image_id", how="semi", maintain_order="left")
        asked, seen = (int(frame.select(pl.len()).collect(engine="streaming").item()) for frame in (rows, pictured))
        tables.counts |= {f"{split}_questions": asked, f"{split}_questions_without_image": asked - seen}
        matched[split] = _match(raw, split, pictured, pictures, types, articles, options)
        _count(tables, split, matched[split], seen, articles)
    if options.pool == "kept":
        kept = pl.concat([rows.select(id=pl.col("related_item_ids").explode()) for rows in matched.values()])
        ids = kept.unique().collect(engine="streaming").select(pl.col("id").cast(pl.Int64))
        further = blocks.filter(~pl.col("related"))
        blocks = pl.concat([blocks.filter("related").join(ids, on="id", how="semi"), further])
    pool = passages_of(TASK, blocks.sort("id"), passage_id="id", passage_content="content").lazy()
    for split, rows in matched.items():
        ids = rows.select("data_id").collect(engine="streaming")
        if not ids.height:
            tables.lacking.append(f"Infoseek {split}: not built, no block answers any of its questions.")
            continue
        chosen = rows
        if split == "test" and 0 < options.test_queries < ids.height:
            ids = sample(ids, options.test_queries, seed, "Infoseek test", "data_id")
            chosen = rows.join(ids.lazy(), on="data_id", how="semi", maintain_order="left")
        tables.data[split] = _data(chosen, options, seed)
        tables.passages[split] = pool
    return tables


def _questions(raw: RawFiles, name: str) -> pl.LazyFrame | None:
    """Return the questions of one half of the release with their entities, in the main file's order."""
    asked_path = raw.find("infoseek", f"infoseek_{name}.jsonl")
    named_path = raw.find("infoseek", f"infoseek_{name}_withkb.jsonl")
    if asked_path is None or named_path is None:
        return None
    asked = raw.stage_records(
        asked_path, f"infoseek-{name}", read_jsonl, _question, _QUESTION, about=named_by("data_id"), unique="data_id"
    )
    named = _stage_strings(raw, named_path, f"infoseek-{name}-entities", _Entity).drop("row")
    lost = asked.select("row", "data_id").join(named.select("data_id"), on="data_id", how="anti", maintain_order="left")
    reason, id = f"it has no entity in {named_path.name}", pl.format("data_id {}", "data_id")
    raw.rejected.add(asked_path, bad_rows(lost.collect(engine="streaming"), reason, id=id), kind="missing")
    return asked.drop("row").join(named, on="data_id", how="inner", maintain_order="left")


class _Number(msgspec.Struct):
    wikidata: float
    range: tuple[float, float]


class _Question(msgspec.Struct):
    data_id: Text
    image_id: str
    question: Text
    answer: list[str]
    answer_eval: list[str | _Number] | _Number  # the release's own scorer takes a bare one, too
    data_split: Text


class _Entity(msgspec.Struct):
    data_id: Text
    entity_id: Text
    entity_text: Text


class _Type(msgspec.Struct):
    data_id: Text
    question_type: Text


def _question(value: Any) -> list[dict[str, object]]:
    record = as_record(value, _Question)
    if not re.fullmatch(IMAGE_ID.strip("^$"), record.image_id):
        raise ValueError(f"the image_id {record.image_id!r} is not named as this release names them")
    answers = [answer for answer in record.answer if answer.strip()]
    if not answers:
        raise ValueError("the list of answers is empty")
    accepted = [record.answer_eval] if isinstance(record.answer_eval, _Number) else record.answer_eval
    texts = [entry for entry in accepted if isinstance(entry, str)]
    numbers = [entry for entry in accepted if isinstance(entry, _Number)]
    if texts and numbers:
        raise ValueError("answer_eval mixes what should be all strings, or all objects with wikidata and range")
    number = numbers[0] if numbers else None
    return [
        {
            **{name: getattr(record, name) for name in ("data_id", "image_id", "question", "data_split")},
            "answer": answers,
            "answer_eval": [text for text in texts if text.strip()],
            "wikidata_value": number.wikidata if number else None,
            "wikidata_range": number.range if number else [],
        }
    ]


def _stage_strings(raw: RawFiles, path: Path, what: str, kind: type[msgspec.Struct]) -> pl.LazyFrame:
    """Stage a file whose records are strings that say something, each ``data_id`` once."""
    names = kind.__struct_fields__

    def parse(value: Any) -> list[dict[str, object]]:
        return [msgspec.structs.asdict(as_record(value, kind))]

    schema = dict.fromkeys(names, pl.String)
    return raw.stage_records(
        path, what, read_jsonl, parse, schema, about=lambda record: ("", record), settings=names, unique="data_id"
    )


def _blocks(raw: RawFiles, path: Path, joined: dict[str, pl.LazyFrame], options: Options, seed: int) -> pl.DataFrame:
    """Return id, title, content and related of the blocks of every entity, and of the further ones of the pool."""
    names = pl.concat([rows.select("entity_text") for rows in joined.values()]).unique().collect(engine="streaming")
    fold = _FOLDS[options.title_match]
    titles = {fold(name) for name in names["entity_text"]}
    staged = raw.stage(
        path,
        "entity-blocks",
        lambda path, advance: find_titles(path, advance, titles, options.extra_passages, seed, fold, raw.workers),
        settings=[digest(sorted(titles)), options.title_match, options.extra_passages, seed],
        unique="id",
    )
    return staged.select("id", "title", "related", content=content()).collect(engine="streaming")


_FOLDS: dict[str, Callable[[str], str]] = {"exact": str, "casefold": str.casefold}


def _match(
    raw: RawFiles,
    split: str,
    rows: pl.LazyFrame,
    pictures: pl.DataFrame,
    types: pl.DataFrame,
    articles: Articles,
    options: Options,
) -> pl.LazyFrame:
    """Return the questions that have a positive, with all that is known of them, as a table on disk.

    Everything is joined here, batch by batch: a join of the finished table would hold the contents of all positives.
    """
    name = _SPLITS[split]
    path = raw.find("infoseek", f"infoseek_{name}.jsonl")
    assert path is not None  # its rows were read

    def batches(_: Path, advance: Advance) -> Iterator[Batch]:
        for frame in rows.collect_batches(chunk_size=2_000, maintain_order=True, engine="streaming"):
            for part in frame.iter_slices(2_000):
                named = part.join(pictures, on="image_id", how="left", maintain_order="left")
                typed = named.join(types, on="data_id", how="left", maintain_order="left")
                yield Batch(_with_positives(typed, articles))
        advance(path.stat().st_size)

    settings = [
        articles.key,
        *(str(frame.hash_rows().sum()) for frame in (pictures, types)),
        rows.select(pl.struct("data_id", "entity_text").hash().sum()).collect(engine="streaming").item(),
        options.title_match,
        options.related,
        options.tolerance,
        options.numbers,
    ]
    return raw.stage(path, f"infoseek-{name}-positives", batches, settings=settings)


def _with_positives(questions: pl.DataFrame, articles: Articles) -> pl.DataFrame:
    kept: list[int] = []
    columns: list[dict[str, object]] = []
    fields = ("entity_text", "answer", "answer_eval", "wikidata_value")
    for index, (entity, answer, accepted, value) in enumerate(questions.select(fields).iter_rows()):
        found, by_number = articles.positives(entity, (*answer, *accepted), value)
        if found:
            kept.append(index)
            columns.append(
                {
                    "gold_answer": most_frequent(answer),
                    "related_item_ids": articles.related(entity),
                    "pos_item_ids": found,
                    "pos_item_contents": [articles.content[block] for block in found],
                    "by_number": by_number,
                }
            )
    found_columns = pl.DataFrame(columns, schema=_POSITIVES, orient="row")
    return questions[kept].hstack(found_columns)


def _count(tables: Tables, split: str, rows: pl.LazyFrame, asked: int, articles: Articles) -> None:
    """Count the questions that have a positive, and look at every positive again for what it should hold."""
    columns = ("answer", "answer_eval", "wikidata_value", "pos_item_contents", "by_number")
    questions = positives = holding = by_number = 0
    for frame in rows.select(columns).collect_batches(chunk_size=2_000, maintain_order=True, engine="streaming"):
        for answer, accepted, value, contents, numeric in frame.iter_rows():
            strings = [text.lower() for text in (*answer, *accepted)]
            questions += bool(contents)
            positives += len(contents)
            by_number += numeric
            for text in contents:
                lowered = text.lower()
                holding += articles.holds_number(text, value) if numeric else any(s in lowered for s in strings)
    tables.counts[f"{split}_questions_with_positive"] = questions
    tables.counts[f"{split}_questions_without_positive"] = asked - questions
    tables.counts[f"{split}_questions_answered_by_number"] = by_number
    tables.count_all(f"{split}_positives_that_hold_an_answer", holding, positives)


def _types(raw: RawFiles) -> pl.DataFrame:
    """Return data_id and question_type of the questions whose type the release tells."""
    path = raw.find("infoseek", "infoseek_val_qtype.jsonl", optional=True)
    if path is None:
        return pl.DataFrame(schema={"data_id": pl.String, "question_type": pl.String})
    told = _stage_strings(raw, path, "infoseek-types", _Type).collect()
    known = pl.col("question_type").is_in(_TYPES)
    reason = pl.format("the question_type {} is none of " + ", ".join(_TYPES), "question_type")
    raw.rejected.add(path, bad_rows(told.filter(~known), reason, id=pl.format("data_id {}", "data_id")))
    return told.filter(known).drop("row")


def _data(rows: pl.LazyFrame, options: Options, seed: int) -> pl.LazyFrame:
    schema = polars_schema(TASK.data_config)
    by_value = pl.when(pl.col("wikidata_value").is_not_null()).then(pl.lit("Numerical")).otherwise(pl.lit("String"))
    file = pl.format("{}{}", "image_id", "extension")
    return queries_of(
        TASK,
        rows,
        seed,
        question_id="data_id",
        answers=pl.concat_list(options.answers.split("+")),
        image_path=file,
        img_path=file,
        objects=pl.lit([], schema["objects"]),
        ROIs=pl.lit([], schema["ROIs"]),
        found=pl.lit(True),
        img_caption=pl.lit(None),
        question_type=pl.coalesce("question_type", by_value),
    )
