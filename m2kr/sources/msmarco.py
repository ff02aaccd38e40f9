"""MS MARCO passage ranking: questions typed into a search engine, and the web passages that answer them.

Native files (UTF-8, tab-separated, no header, no quoting): ``collection.tsv`` (pid, passage), ``queries.*.tsv``
(qid, query), ``qrels.*.tsv`` (qid, 0, pid, 1). Texts are kept as they are: many passages hold Latin-1 bytes encoded
twice, and no repair step of the published benchmark is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from m2kr.parsing.lines import read_lines
from m2kr.parsing.rejected import bad_rows, split_bad_rows
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.parsing.rows import Batch, own_text
from m2kr.sources.columns import passages_of, queries_of
from m2kr.sources.options import choice
from m2kr.sources.sampling import sample, sample_lazily
from m2kr.tasks import TASKS

TASK = TASKS["MSMARCO"]
_NO_IMAGE = {name: pl.lit(None) for name in ("img_id", "img_path", "image_id")}


@dataclass(frozen=True)
class Options:
    """Rules the published benchmark leaves open."""

    pool: int = choice(
        400_000,
        "How many passages the valid and test splits are searched in: all their positives and a random sample.",
        "The published pools hold 400,000 of the collection; which, is not known.",
    )
    train_queries: str = choice(
        "judged",
        "Train queries: every judged one, or those that occur in qidpidtriples.train.full.2.tsv.",
        "Judged gives 502,939. The published 400,782 is the number of queries in the official triples.",
        ("judged", "triples"),
    )
    test_from: str = choice(
        "dev.small",
        "Queries the test split is drawn from: those of valid, or the rest of the judged dev queries.",
        "The published test has 5,120, a cap its makers' configurations put on their lists; which list is not known. "
        "dev.small needs no further download, but then test queries are valid queries too.",
        ("dev.small", "dev"),
    )
    test_queries: int = choice(
        5_120, "How many queries the test split has at most, chosen by a seeded hash.", "The published number."
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of MSMARCO.

    ``passage_id`` and ``question_id`` are the release's pid and qid; ``original_data_id`` is the pid (in passages) or
    the list of positive pids (in data). That reading of the column is ours.
    """
    tables = Tables()
    collection_path = raw.find(TASK.releases[0], "collection.tsv")
    train_paths = _pair(raw, "train")
    valid_paths = _pair(raw, "dev.small")
    test_paths = _pair(raw, "dev") if options.test_from == "dev" else valid_paths
    if collection_path is None:
        tables.lacking.append("MSMARCO: without collection.tsv there are no passages, so nothing can be built.")
        return tables
    passage = partial(_id_and_text, id_name="passage_id", text_name="passage_content")
    collection = raw.stage(collection_path, "collection", read_lines, passage, unique="passage_id").drop("row")
    queries = {"train": _judged(raw, collection, train_paths), "valid": _judged(raw, collection, valid_paths)}
    if options.test_from == "dev":
        dev = _judged(raw, collection, test_paths)
        if dev is not None and queries["valid"] is not None:
            dev = dev.join(queries["valid"], on="question_id", how="anti", maintain_order="left")
        queries["test"] = dev
    else:
        queries["test"] = queries["valid"]
    if queries["test"] is not None:
        queries["test"] = sample(queries["test"], options.test_queries, seed, "MSMARCO test", "question_id")
    if options.train_queries == "triples" and queries["train"] is not None:
        queries["train"] = _in_triples(raw, queries["train"])

    for split, rows in queries.items():
        if rows is None or not rows.height:
            missing = "no judged query has both its question and a passage" if rows is not None else "a file is missing"
            tables.lacking.append(f"MSMARCO {split}: not built, {missing}.")
            continue
        tables.data[split] = queries_of(TASK, rows.lazy(), seed, original_data_id="pos_item_ids", **_NO_IMAGE)
    passages = passages_of(TASK, collection, language=pl.lit("en"), original_data_id="passage_id", **_NO_IMAGE)
    if "train" in tables.data:
        tables.passages["train"] = passages
    searched = [
        rows for split, rows in queries.items() if split in tables.data and split != "train" and rows is not None
    ]
    if searched:
        pool = _pool(collection, searched, options.pool, seed)
        pooled = passages.join(pool.lazy(), on="passage_id", how="semi", maintain_order="left")
        pooled = pooled.with_columns(own_text("passage_content"))
        tables.passages |= {split: pooled for split in ("valid", "test") if split in tables.data}
    return tables


def _pair(raw: RawFiles, name: str) -> tuple[Path, Path] | None:
    queries, qrels = raw.find("msmarco", f"queries.{name}.tsv"), raw.find("msmarco", f"qrels.{name}.tsv")
    return (queries, qrels) if queries is not None and qrels is not None else None


def _id_and_text(batch: Batch, id_name: str, text_name: str) -> Batch:
    # Only the first tab separates: what follows it is the text, whatever it holds.
    parts = pl.col("text").str.splitn("\t", 2).struct
    frame = batch.frame.with_columns(parts.field("field_0").alias(id_name), parts.field("field_1").alias(text_name))
    rules = [
        (pl.col(text_name).is_null(), "1 field where 2 are expected (id, tab, text)"),
        (~pl.col(id_name).str.contains(r"^[0-9]+$"), "the id before the first tab is not a number"),
        (pl.col(text_name).str.strip_chars() == "", "the text after the id is empty"),
    ]
    return split_bad_rows(Batch(frame, batch.bad), rules, row_id=id_name, raw_text="text")


def _judgements(batch: Batch) -> Batch:
    fields = pl.col("text").str.extract_groups(r"^([0-9]+)[\t ]+\S+[\t ]+([0-9]+)[\t ]+([0-9]+)[\t ]*$").struct
    frame = batch.frame.with_columns(
        question_id=fields.field("1"), passage_id=fields.field("2"), relevance=fields.field("3")
    )
    reason = pl.format(
        "{} fields where 4 are expected (qid, 0, pid, relevance), numbers separated by tabs",
        pl.col("text").str.count_matches(r"[^\t ]+"),
    )
    return split_bad_rows(Batch(frame, batch.bad), [(pl.col("relevance").is_null(), reason)], raw_text="text")


def _judged(raw: RawFiles, collection: pl.LazyFrame, paths: tuple[Path, Path] | None) -> pl.DataFrame | None:
    """Return the queries with at least one positive, in file order: question_id, question, pos_item_ids, …contents."""
    if paths is None:
        return None
    queries_path, qrels_path = paths
    name = queries_path.name.split(".tsv")[0]
    question = partial(_id_and_text, id_name="question_id", text_name="question")
    queries = raw.stage(queries_path, name, read_lines, question, unique="question_id").collect()
    qrels = raw.stage(qrels_path, qrels_path.name.split(".tsv")[0], read_lines, _judgements)
    positives = (
        qrels.filter(pl.col("relevance") != "0").collect().unique(["question_id", "passage_id"], maintain_order=True)
    )
    wanted = positives.lazy().select("passage_id").unique()
    # In order, because Polars would else hold the collection, to see which side of the join is the smaller one.
    few = collection.join(wanted, on="passage_id", how="semi", maintain_order="left")
    texts = few.with_columns(own_text("passage_content")).collect(engine="streaming")
    lost = []
    id = pl.format("query {}, passage {}", "question_id", "passage_id")
    halves = (("passage_id", texts, "passage", "collection.tsv"), ("question_id", queries, "query", queries_path.name))
    for column, others, what, file in halves:
        alone = positives.join(others, on=column, how="anti", maintain_order="left")
        lost += bad_rows(alone, f"its {what} is not in {file}", id=id)
    raw.rejected.add(qrels_path, lost, kind="missing")
    lists = (
        positives.join(texts, on="passage_id", how="inner", maintain_order="left")
        .group_by("question_id", maintain_order=True)
        .agg(pos_item_ids="passage_id", pos_item_contents="passage_content")
    )
    return queries.drop("row").join(lists, on="question_id", how="inner", maintain_order="left")


def _in_triples(raw: RawFiles, queries: pl.DataFrame) -> pl.DataFrame:
    path = raw.find("msmarco", "qidpidtriples.train.full.2.tsv")
    if path is None:
        return queries.clear()

    def first_field(batch: Batch) -> Batch:
        ids = batch.frame.select("row", question_id=pl.col("text").str.splitn("\t", 2).struct.field("field_0"))
        return Batch(ids.unique("question_id", maintain_order=True), batch.bad)

    listed = raw.stage(path, "triples", read_lines, first_field).select("question_id").unique().collect()
    return queries.join(listed, on="question_id", how="semi", maintain_order="left")


def _pool(collection: pl.LazyFrame, searched: list[pl.DataFrame], size: int, seed: int) -> pl.DataFrame:
    """Return the ids that valid and test are searched in: one pool, as the equal sizes of the published ones say."""
    positives = pl.concat([rows.select(passage_id=pl.col("pos_item_ids").explode()) for rows in searched]).unique()
    others = collection.select("passage_id").join(positives.lazy(), on="passage_id", how="anti", maintain_order="left")
    drawn = sample_lazily(others, max(0, size - positives.height), seed, "MSMARCO pool", "passage_id")
    return pl.concat([positives, drawn])
