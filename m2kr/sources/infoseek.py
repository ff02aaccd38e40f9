"""InfoSeek: questions about a fact of the pictured entity, over 100-word blocks of Wikipedia.

Native files: ``infoseek_train.jsonl`` and ``infoseek_val.jsonl`` (``{data_id, image_id, question, answer, answer_eval,
data_split}``), and their ``*_withkb.jsonl`` (``{data_id, entity_id, entity_text}``), which stand in another order, so
that only ``data_id`` joins them. A question's related blocks are those of the article of its entity; its positives are
the related blocks that hold an answer. Upstream asks Elasticsearch for the phrase ``entity_text`` in titles and takes
the blocks whose title is that of the first hit; here the title has to be ``entity_text``, so entities whose article
goes by another name have no blocks and their questions are dropped.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import polars as pl

from m2kr.common.files import digest
from m2kr.formats.schema import polars_schema
from m2kr.parsing.releases import RawFiles, Tables, from_rows
from m2kr.parsing.rows import Advance, BadRow, Batch, read_jsonl
from m2kr.sources.options import choice
from m2kr.sources.oven import IMAGE_ID, field_fault, picture_files
from m2kr.sources.sampling import instruction, sample
from m2kr.sources.wikipedia import content, find_titles
from m2kr.tasks import TASKS

TASK = TASKS["Infoseek"]
_SPLITS = {"train": "train", "test": "val"}
_TYPES = ("String", "Numerical", "Time")
_ASKED: dict[str, pl.DataType | type[pl.DataType]] = {
    "row": pl.String,
    "data_id": pl.String,
    "image_id": pl.String,
    "question": pl.String,
    "answer": pl.List(pl.String),
    "answer_eval": pl.List(pl.String),
    "wikidata_value": pl.Float64,
    "wikidata_range": pl.List(pl.Float64),
    "data_split": pl.String,
}
_POSITIVES: dict[str, pl.DataType | type[pl.DataType]] = {
    "gold_answer": pl.String,
    "related_item_ids": pl.List(pl.String),
    "pos_item_ids": pl.List(pl.String),
    "pos_item_contents": pl.List(pl.String),
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

    Raises:
        MissingFilesError: a file, or a question's entity, is missing and that is not allowed.
        BadRowsError: a record cannot be used and such records are not to be skipped.
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
    articles = Articles(blocks.filter("related"), options)
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
        _count(tables, split, matched[split], seen, options)
    if options.pool == "kept":
        kept = pl.concat([rows.select(id=pl.col("related_item_ids").explode()) for rows in matched.values()])
        ids = kept.unique().collect(engine="streaming").select(pl.col("id").cast(pl.Int64))
        further = blocks.filter(~pl.col("related"))
        blocks = pl.concat([blocks.filter("related").join(ids, on="id", how="semi"), further])
    ordered = blocks.sort("id").select(pl.col("id").cast(pl.String), "content", "title")
    pool = ordered.select(passage_id="id", passage_content="content", title="title").lazy()
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
    fields = ("data_id", "entity_id", "entity_text")
    asked = raw.stage(asked_path, f"infoseek-{name}", lambda path, advance: from_rows(_asked(path, advance), _ASKED))
    named = raw.stage(named_path, f"infoseek-{name}-entities", partial(_strings, fields=fields), settings=[*fields])
    asked = raw.without_repeats(asked_path, asked, "data_id")
    named = raw.without_repeats(named_path, named, "data_id").drop("row")
    lost = asked.select("row", "data_id").join(named.select("data_id"), on="data_id", how="anti", maintain_order="left")
    raw.quarantine.add(
        asked_path,
        [
            BadRow(row, f"it has no entity in {named_path.name}", id=f"data_id {data_id}")
            for row, data_id in lost.collect(engine="streaming").iter_rows()
        ],
        kind="missing",
    )
    return asked.drop("row").join(named, on="data_id", how="inner", maintain_order="left")


def _asked(path: Path, advance: Advance) -> Iterator[dict[str, object] | BadRow]:
    for element in read_jsonl(path, advance):
        if isinstance(element, BadRow):
            yield element
            continue
        row, record = element
        try:
            yield {"row": row, **_question(record)}
        except ValueError as error:
            name = f"data_id {record['data_id']}" if isinstance(record, dict) and "data_id" in record else ""
            yield BadRow(row, str(error), str(record)[:200], name)


def _question(record: Any) -> dict[str, object]:
    """Return the columns of one record; raise ValueError with the reason where it is not as the release writes them."""
    strings = ("data_id", "image_id", "question", "data_split")
    fault = field_fault(record, {**dict.fromkeys(strings, str), "answer": list})
    if fault:
        raise ValueError(fault)
    blank = [name for name in strings if not record[name].strip()]
    if blank:
        raise ValueError(f"{blank[0]} is empty")
    if not re.fullmatch(IMAGE_ID.strip("^$"), record["image_id"]):
        raise ValueError(f"the image_id {record['image_id']!r} is not named as this release names them")
    answers = record["answer"]
    if not all(isinstance(answer, str) for answer in answers):
        raise ValueError("an entry of answer is not a string")
    if not any(answer.strip() for answer in answers):
        raise ValueError("the list of answers is empty")
    accepted = record.get("answer_eval")
    accepted = [accepted] if isinstance(accepted, dict) else accepted  # the release's own scorer takes a bare one, too
    if not isinstance(accepted, list):
        raise ValueError(f"answer_eval is {'not a list' if 'answer_eval' in record else 'missing'}")
    numeric = bool(accepted) and all(isinstance(entry, dict) for entry in accepted)
    if not numeric and not all(isinstance(entry, str) for entry in accepted):
        raise ValueError("answer_eval mixes what should be all strings, or all objects with wikidata and range")
    value, bounds = _number(accepted[0]) if numeric else (None, [])
    return {
        **{name: record[name] for name in strings},
        "answer": [answer for answer in answers if answer.strip()],
        "answer_eval": [] if numeric else [entry for entry in accepted if entry.strip()],
        "wikidata_value": value,
        "wikidata_range": bounds,
    }


def _number(entry: dict[str, Any]) -> tuple[float, list[float]]:
    bounds = entry.get("range")
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise ValueError("the range of a numeric answer_eval is not a pair of numbers")
    try:
        if any(isinstance(number, (bool, str)) for number in (entry.get("wikidata"), *bounds)):
            raise TypeError
        value, low, high = (float(number) for number in (entry.get("wikidata"), *bounds))
    except (TypeError, OverflowError):
        raise ValueError("a numeric answer_eval holds something that is not a number") from None
    if not all(map(math.isfinite, (value, low, high))):
        raise ValueError("a numeric answer_eval holds a number that is not finite")
    return value, [low, high]


def _strings(path: Path, advance: Advance, fields: tuple[str, ...]) -> Iterator[Batch]:
    """Yield the records of a file whose ``fields`` are all strings and not empty."""

    def rows() -> Iterator[dict[str, object] | BadRow]:
        for element in read_jsonl(path, advance):
            if isinstance(element, BadRow):
                yield element
                continue
            row, record = element
            fault = field_fault(record, dict.fromkeys(fields, str))
            if not fault:
                fault = next((f"{name} is empty" for name in fields if not record[name].strip()), "")
            if fault:
                yield BadRow(row, fault, str(record)[:200])
            else:
                yield {"row": row, **{name: record[name] for name in fields}}

    return from_rows(rows(), dict.fromkeys(("row", *fields), pl.String))


def _blocks(raw: RawFiles, path: Path, joined: dict[str, pl.LazyFrame], options: Options, seed: int) -> pl.DataFrame:
    """Return id, title, content and related of the blocks of every entity, and of the further ones of the pool."""
    names = pl.concat([rows.select("entity_text") for rows in joined.values()]).unique().collect(engine="streaming")
    titles = {_FOLDS[options.title_match](name) for name in names["entity_text"]}
    staged = raw.stage(
        path,
        "entity-blocks",
        lambda path, advance: find_titles(
            path,
            advance,
            titles,
            options.extra_passages,
            seed,
            _FOLDS[options.title_match],
            raw.workers,
        ),
        settings=[digest(sorted(titles)), options.title_match, options.extra_passages, seed],
    )
    once = raw.without_repeats(path, staged, "id")
    return once.select("id", "title", "related", content=content()).collect(engine="streaming")


_FOLDS: dict[str, Callable[[str], str]] = {"exact": str, "casefold": str.casefold}


class Articles:
    """The blocks of every wanted article, and which of them hold an answer.

    Args:
        blocks: id, title and content.
        options: how titles and numbers are compared.
    """

    def __init__(self, blocks: pl.DataFrame, options: Options) -> None:
        self.options = options
        self.fold = _FOLDS[options.title_match]
        self.key = str(blocks.hash_rows().sum())
        self.by_title: dict[str, list[str]] = {}
        self.content: dict[str, str] = {}
        self.lowered: dict[str, str] = {}
        for block, title, text in blocks.sort("id").select("id", "title", "content").iter_rows():
            related = self.by_title.setdefault(self.fold(title), [])
            if len(related) < options.related:
                related.append(str(block))
                self.content[str(block)], self.lowered[str(block)] = text, text.lower()
        # The same question is asked of many pictures of one entity.
        self._known = lru_cache(maxsize=20_000)(self._search)

    def related(self, entity: str) -> list[str]:
        """Return the ids of an entity's blocks, in the order of its article."""
        return self.by_title.get(self.fold(entity), [])

    def positives(self, entity: str, strings: tuple[str, ...], value: float | None) -> tuple[list[str], bool]:
        """Return the related blocks that hold a string of ``strings``, else the number; and whether by number."""
        return self._known(entity, strings, value)

    def _search(self, entity: str, strings: tuple[str, ...], value: float | None) -> tuple[list[str], bool]:
        related = self.related(entity)
        lowered = [text.lower() for text in strings]
        found = [block for block in related if any(text in self.lowered[block] for text in lowered)]
        if found or value is None:
            return found, False
        return [block for block in related if holds_number(self.content[block], value, self.options)], True


def holds_number(text: str, value: float, options: Options) -> bool:
    """Return whether a text holds a number as close to ``value`` as the options want."""
    numbers = numbers_in(text, separators=options.numbers == "separators")
    return any(abs(number - value) <= options.tolerance for number in numbers)


_PLAIN = r"\d+"
_SEPARATED = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"


def numbers_in(text: str, *, separators: bool) -> list[float]:
    """Return the numbers of a text: whole or decimal, with a sign where none stands between two words or numbers.

    Args:
        text: the text.
        separators: whether 1,234 is one number.
    """
    whole = _SEPARATED if separators else _PLAIN
    matches = re.findall(rf"(?<![\w.])([-−]?)((?:{whole})(?:\.\d+)?)", text)
    return [float(digits.replace(",", "")) * (-1 if sign else 1) for sign, digits in matches]


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
                    "gold_answer": Counter(answer).most_common(1)[0][0],  # of equally frequent ones, the first given
                    "related_item_ids": articles.related(entity),
                    "pos_item_ids": found,
                    "pos_item_contents": [articles.content[block] for block in found],
                    "by_number": by_number,
                }
            )
    found_columns = pl.DataFrame(columns, schema=_POSITIVES, orient="row")
    return questions[kept].hstack(found_columns)


def _count(tables: Tables, split: str, rows: pl.LazyFrame, asked: int, options: Options) -> None:
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
                holding += (
                    holds_number(text, value, options) if numeric else any(string in lowered for string in strings)
                )
    tables.counts[f"{split}_questions_with_positive"] = questions
    tables.counts[f"{split}_questions_without_positive"] = asked - questions
    tables.counts[f"{split}_questions_answered_by_number"] = by_number
    tables.count_all(f"{split}_positives_that_hold_an_answer", holding, positives)


def _types(raw: RawFiles) -> pl.DataFrame:
    """Return data_id and question_type of the questions whose type the release tells."""
    path = raw.find("infoseek", "infoseek_val_qtype.jsonl", optional=True)
    if path is None:
        return pl.DataFrame(schema={"data_id": pl.String, "question_type": pl.String})
    staged = raw.stage(path, "infoseek-types", partial(_strings, fields=("data_id", "question_type")))
    told = raw.without_repeats(path, staged, "data_id").collect()
    odd = told.filter(~pl.col("question_type").is_in(_TYPES))
    raw.quarantine.add(
        path,
        [
            BadRow(row, f"the question_type {kind} is none of {', '.join(_TYPES)}", id=f"data_id {name}")
            for row, name, kind in odd.select("row", "data_id", "question_type").iter_rows()
        ],
    )
    return told.filter(pl.col("question_type").is_in(_TYPES)).drop("row")


def _data(rows: pl.LazyFrame, options: Options, seed: int) -> pl.LazyFrame:
    schema = polars_schema(TASK.data_config)
    numeric = pl.col("wikidata_value").is_not_null()
    file = pl.format("{}{}", "image_id", "extension")
    columns = {
        "question_id": pl.col("data_id"),
        "answers": pl.concat_list(options.answers.split("+")),
        "image_path": file,
        "img_path": file,
        "objects": pl.lit([], schema["objects"]),
        "ROIs": pl.lit([], schema["ROIs"]),
        "found": pl.lit(True),
        "img_caption": pl.lit(None, pl.String),
        "instruction": instruction(TASK.instructions, "data_id", seed, TASK.key),
        "question_type": pl.coalesce(
            "question_type", pl.when(numeric).then(pl.lit("Numerical")).otherwise(pl.lit("String"))
        ),
    }
    return rows.with_columns(**columns).select(pl.col(name).cast(kind) for name, kind in schema.items())
