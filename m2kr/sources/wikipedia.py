"""Wikipedia as two releases cut it: DPR's 100-word blocks (``psgs_w100.tsv``) and the summaries of Wiki6M.

OK-VQA and InfoSeek take their passages from the 21 million blocks. Upstream asks a search engine; here one pass over
the file finds every phrase at once with an Aho-Corasick automaton, and keeps the best blocks of each, or finds the
blocks of the wanted articles. OVEN takes the summaries of its entities from the six million records of Wiki6M.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import polars as pl

from m2kr.common.concurrency import ordered_map
from m2kr.common.json_input import as_record, parse_json
from m2kr.parsing.delimited import read_quoted
from m2kr.parsing.json_records import named_by
from m2kr.parsing.rejected import Rule, split_bad_rows
from m2kr.parsing.rows import Advance, BadRow, Batch, own_texts
from m2kr.sources.sampling import draw

COLUMNS = ("id", "text", "title")
"""Columns of psgs_w100.tsv."""

# BM25's usual constants. The lengths of the two fields are what they are in psgs_w100 by construction (100 words) and
# on average (titles), fixed so that a score depends on nothing but its own block.
_K1, _B = 1.2, 0.75
_AVERAGE_WORDS = {"text": 100, "title": 3}

_HITS = {
    "phrase": pl.String,
    "score": pl.Float64,
    "id": pl.Int64,
    "text": pl.String,
    "title": pl.String,
}


def words(column: pl.Expr) -> pl.Expr:
    """Return the words of a text as a search engine's standard analyzer sees them: lower case, letters and digits.

    One blank separates the words, and none stands at the ends, so that " " + words + " " contains " phrase " exactly
    where the phrase's words follow one another.
    """
    return column.str.to_lowercase().str.replace_all(r"[^\p{L}\p{M}\p{N}]+", " ").str.strip_chars()


def content(text: str = "text", title: str = "title") -> pl.Expr:
    """Return a block's ``passage_content`` in the published form."""
    return pl.format("title: {} content: {}", title, text)


def read_blocks(path: Path, advance: Advance) -> Iterator[Batch]:
    """Yield the blocks of psgs_w100.tsv with columns ``row``, ``id`` (Int64), ``text``, ``title``."""
    rules: list[Rule] = [
        (pl.col("number").is_null(), pl.format("the id {} is not a number", pl.col("id"))),
        (pl.col("text").str.strip_chars() == "", "the text is empty"),
    ]
    for batch in read_quoted(path, COLUMNS, advance):
        frame = batch.frame.with_columns(number=pl.col("id").cast(pl.Int64, strict=False))
        judged = split_bad_rows(Batch(frame, batch.bad), rules, row_id="id")
        yield Batch(judged.frame.select("row", "text", "title", id="number"), judged.bad)


def find_phrases(path: Path, advance: Advance, phrases: list[str], best: int, workers: int = 1) -> Iterator[Batch]:
    """Find the ``best`` blocks of each phrase in one pass, in memory bounded by phrases x ``best``, not by blocks.

    A block holds a phrase where the phrase's words (see `words`) follow one another in its title or in its text. Its
    score is the larger of the two fields' BM25 term-frequency parts (k1 1.2, b 0.75), to nine decimals, so that what is
    equal but for rounding is a tie; ties go to the smaller id. A search engine would also weigh the two fields by how
    rare the words are; the order is therefore close to upstream's and not equal to it.

    Args:
        path: psgs_w100.tsv, or its .gz.
        advance: told of the bytes read.
        phrases: as `words` writes them, not empty.
        best: blocks to keep for each phrase.
        workers: threads that match at the same time. The result does not depend on it.

    Yields:
        One batch, with columns ``phrase``, ``score``, ``id``, ``text``, ``title``, sorted by phrase, score descending
        and id; ``row`` is not meaningful and empty.
    """
    patterns = [f" {phrase} " for phrase in phrases]

    # The lowest score that could still be among the best of a phrase. It only ever rises, so that a worker which reads
    # an older one keeps too much and never too little.
    bars = pl.DataFrame(schema={"phrase": pl.String, "bar": pl.Float64})

    def match(batch: Batch) -> Batch:
        hits = _matches(batch.frame, patterns).join(bars, on="phrase", how="left")
        hits = _best(hits.filter(pl.col("bar").is_null() | (pl.col("score") >= pl.col("bar"))), best)
        # Texts join last: most matches are gone by now.
        return Batch(hits.join(batch.frame, on="id", maintain_order="left").select(*_HITS), batch.bad)

    kept = pl.DataFrame(schema=_HITS)
    waiting: list[pl.DataFrame] = []
    bad: list[BadRow] = []
    for batch in ordered_map(match, read_blocks(path, advance), workers):
        bad += batch.bad
        waiting.append(batch.frame)
        if sum(frame.height for frame in waiting) > kept.height // 2 + 10_000:
            kept, waiting = own_texts(_best(pl.concat([kept, *waiting]), best)), []
            full = kept.group_by("phrase").agg(pl.len(), bar=pl.col("score").min()).filter(pl.col("len") == best)
            bars = full.select("phrase", "bar")
    kept = _best(pl.concat([kept, *waiting]), best)
    yield Batch(kept.select(pl.lit("").alias("row"), *_HITS), bad)


def _matches(blocks: pl.DataFrame, patterns: list[str]) -> pl.DataFrame:
    """Return phrase, score and id for each phrase of each block that holds it."""
    fields = []
    for name, average in _AVERAGE_WORDS.items():
        haystack = words(pl.col(name).fill_null(""))
        found = (
            blocks.select("id", haystack=pl.format(" {} ", haystack))
            .with_columns(
                phrase=pl.col("haystack").str.extract_many(patterns, overlapping=True),
                length=pl.col("haystack").str.count_matches(" ", literal=True) - 1,
            )
            .drop("haystack")
            .filter(pl.col("phrase").list.len() > 0)
            .explode("phrase")
        )
        fields.append(
            found.group_by("id", "phrase", "length")
            .len("count")
            .with_columns(pl.col("count").cast(pl.Float64), relative=pl.col("length") / average)
            .select(
                phrase=pl.col("phrase").str.strip_chars(" "),
                score=pl.col("count") * (_K1 + 1) / (pl.col("count") + _K1 * (1 - _B + _B * pl.col("relative"))),
                id="id",
            )
        )
    return pl.concat(fields).group_by("phrase", "id").agg(pl.col("score").max().round(9))


def _best(hits: pl.DataFrame, best: int) -> pl.DataFrame:
    ordered = hits.sort(["phrase", "score", "id"], descending=[False, True, False])
    return ordered.filter(pl.int_range(pl.len()).over("phrase") < best)


def find_titles(
    path: Path,
    advance: Advance,
    titles: set[str],
    extra: int,
    seed: int,
    fold: Callable[[str], str] = str,
    workers: int = 1,
) -> Iterator[Batch]:
    """Yield the blocks of some articles, and a sample of the other blocks, in one pass over psgs_w100.tsv.

    Memory is bounded by ``extra``, not by the number of blocks.

    Args:
        path: psgs_w100.tsv, or its .gz.
        advance: told of the bytes read.
        titles: titles of the articles, folded.
        extra: how many other blocks; those with the smallest keyed hash of their id.
        seed: of that hash.
        fold: brings a block's title to the form of ``titles``.
        workers: threads that look at the same time. The result does not depend on it.

    Yields:
        Batches with columns ``row``, ``id``, ``text``, ``title``, ``related``: first the blocks of the articles
        (``related`` is true) in file order, then the sample, by id.
    """

    def look(batch: Batch) -> tuple[Batch, pl.DataFrame]:
        # An article's blocks stand together, so a batch has far fewer titles than blocks.
        here = [title for title in batch.frame["title"].unique() if fold(title) in titles]
        frame = batch.frame.with_columns(related=pl.col("title").is_in(here))
        others = frame.filter(~pl.col("related")) if extra else frame.clear()
        numbers = draw(others["id"].cast(pl.String), seed, "further blocks")
        others = others.with_columns(number=pl.Series(numbers, dtype=pl.UInt64)).bottom_k(extra, by=["number", "id"])
        return Batch(frame.filter("related"), batch.bad), others

    drawn: list[pl.DataFrame] = []
    for found, others in ordered_map(look, read_blocks(path, advance), workers):
        yield found
        drawn.append(others)
        if sum(frame.height for frame in drawn) > 2 * extra + 10_000:
            drawn = [own_texts(pl.concat(drawn).bottom_k(extra, by=["number", "id"]))]
    if drawn:
        yield Batch(pl.concat(drawn).bottom_k(extra, by=["number", "id"]).sort("id").drop("number"))


_ENTITY = dict.fromkeys(("row", "id", "title", "summary", "opening"), pl.String)
_ENTITY_ID = r'^[ \t]*\{[ \t]*"wikidata_id"[ \t]*:[ \t]*"([^"\\]*)"'


class _Named(msgspec.Struct):
    wikidata_id: str


class _Entity(_Named):
    wikipedia_title: str | None = None
    wikipedia_summary: str | None = None
    wikipedia_content: str | None = None


def wanted_entities(batch: Batch, wanted: frozenset[str]) -> Batch:
    """Return the Wiki6M records of ``wanted`` ids among some lines of Wiki6M_ver_1_0.jsonl.

    Columns ``row``, ``id``, ``title``, ``summary``, and ``opening``, the first 100 words of the article; each is ""
    where the release has null or nothing. A line that names another id first is not read any further: parsing six
    million articles for the sake of some thousands would take most of the build.
    """
    quick = pl.col("text").str.extract(_ENTITY_ID)
    possible = batch.frame.filter(quick.is_null() | quick.is_in(list(wanted)), pl.col("text").str.contains(r"\S"))
    good: list[tuple[str, ...]] = []
    bad = list(batch.bad)
    for row, text in possible.iter_rows():
        value = None
        try:
            value = parse_json(text)
            if as_record(value, _Named).wikidata_id in wanted:
                entity = as_record(value, _Entity)
                texts = ((text or "").strip() for text in (entity.wikipedia_title, entity.wikipedia_summary))
                opening = " ".join((entity.wikipedia_content or "")[:5_000].split()[:100])
                good.append((row, entity.wikidata_id, *texts, opening))
        except ValueError as error:
            bad.append(BadRow(row, str(error), text[:200], named_by("wikidata_id")(value)[0]))
    return Batch(pl.DataFrame(good, schema=_ENTITY, orient="row"), bad)
