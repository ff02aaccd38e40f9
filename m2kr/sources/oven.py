"""OVEN: which entity a picture shows, over the Wikipedia summaries of the entities.

Native files: ``oven_entity_train.jsonl`` (4.9 million records) and ``oven_entity_val.jsonl``, whose records are
``{data_id, image_id, question, entity_id, entity_text, data_split}``, all strings; ``ovenid2impath.csv`` (image_id and
the path of its picture in the dataset it comes from, no header); and Wiki6M, whose records hold an entity's summary.
Only the entity set is used: its 7,943 and 3,192 entities are the published passages.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import polars as pl

from m2kr.common.files import digest
from m2kr.common.json_input import as_record, parse_json
from m2kr.images.roots import release_roots
from m2kr.parsing.json_records import named_by
from m2kr.parsing.lines import read_lines
from m2kr.parsing.rejected import Rule, bad_rows, in_file_order, split_bad_rows
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.parsing.rows import BadRow, Batch
from m2kr.sources.columns import ONE_POSITIVE, passages_of, queries_of
from m2kr.sources.options import choice
from m2kr.sources.sampling import draw, sample
from m2kr.sources.wikipedia import wanted_entities
from m2kr.tasks import TASKS

TASK = TASKS["OVEN"]
IMAGE_ID = r"^oven_[0-9]{8}$"
"""How OVEN and InfoSeek name a picture."""

_ENDINGS = (".jpg", ".JPEG", ".jpeg", ".JPG", ".png", ".PNG")
# That are looked for in archives, where a picture cannot be found by its name without one.


class Record(msgspec.Struct):
    """A record as the release writes it."""

    data_id: str
    image_id: str
    question: str
    entity_id: str
    entity_text: str
    data_split: str


# A record in the release's own order whose strings hold no escape is what this matches and nothing else, so its groups
# are the values json.loads would give. Anything else is left to json.loads.
_REGULAR = (
    r"^[ \t]*\{[ \t]*"
    + r",[ \t]*".join(
        rf'"{name}"[ \t]*:[ \t]*"(?P<{name}>[^"\\\x00-\x1f]*)"[ \t]*' for name in Record.__struct_fields__
    )
    + r"\}[ \t\r]*$"
)


@dataclass(frozen=True)
class Options:
    """Rules the published benchmark leaves open."""

    per_entity: int = choice(
        43,
        "Train records of an entity at most, chosen by a seeded hash; 0 keeps all 4.9 million.",
        "The published train split has 339,137 rows for 7,943 entities, 42.7 for each; its rule is not known.",
    )
    test_queries: int = choice(
        5_120,
        "Records of oven_entity_val.jsonl in the test split, chosen by a seeded hash; the others are valid.",
        "The published number; valid and test together are the val file but for 1,943 records.",
    )
    without_summary: str = choice(
        "content",
        "Text of an entity without a summary: the first 100 words of its article (else its title), its title, or none, "
        "which drops its records.",
        "Not known. Wiki6M has null summaries.",
        ("content", "title", "drop"),
    )
    title: bool = choice(
        False,
        "Whether a passage begins with the title (title: ... content: ...).",
        "Not known. The published passages are named after the summary alone.",
    )
    without_image: str = choice(
        "keep",
        "Records whose picture stands neither in ovenid2impath.csv nor in oven/images: keep them with the extension "
        ".jpg, or drop them.",
        "Upstream drops unreadable pictures. Most pictures are .jpg, and a rebuild need not have them.",
        ("keep", "drop"),
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of OVEN: train from the entity train file; valid and test from the entity val file.

    A split's passages are one for each entity of its file, in order of first mention; valid and test share theirs.
    ``passage_id`` is the entity's Wikidata id, which is ours: the published form is not known. ``question_id`` is the
    record's ``data_id``, ``img_path`` is ``<first two digits>/<image_id><extension>``.
    """
    tables = Tables()
    paths = {split: raw.find("oven", f"oven_entity_{split}.jsonl") for split in ("train", "val")}
    wiki = raw.find("wikipedia", "Wiki6M_ver_1_0.jsonl.gz")
    for split, path in paths.items():
        if path is None:
            tables.lacking.append(f"OVEN {split}: not built, oven_entity_{split}.jsonl is missing.")
    if wiki is None:
        tables.lacking.append("OVEN: without Wiki6M_ver_1_0.jsonl there are no passages, so nothing can be built.")
        return tables
    parse = partial(_parse, seed=seed)
    records = {
        split: raw.stage(path, f"oven-{split}", read_lines, parse, settings=seed, unique="data_id")
        for split, path in paths.items()
        if path is not None
    }
    named = {split: _entities(rows) for split, rows in records.items()}
    wanted = sorted({name for frame in named.values() for name in frame["entity_id"]})
    if not wanted:
        return tables
    texts = _texts(raw, wiki, wanted, options)
    chosen: dict[str, pl.DataFrame] = {}
    for split, rows in records.items():
        _report_missing(raw, paths[split], named[split], texts, tables, split)
        known = rows.join(texts.lazy().select(entity_id="id"), on="entity_id", how="semi", maintain_order="left")
        chosen[split] = _few_of_each(known, options.per_entity if split == "train" else 0)
    pictures = picture_files(
        raw, pl.concat([rows["image_id"] for rows in chosen.values()]), keep=options.without_image == "keep"
    )
    for split, few in chosen.items():
        pictured = few.join(pictures, on="image_id", how="inner", maintain_order="left")
        tables.counts[f"{split}_records_without_image"] = few.height - pictured.height
        entities = named[split].join(texts, left_on="entity_id", right_on="id", how="inner", maintain_order="left")
        passages = passages_of(TASK, entities, language=pl.lit("en"), passage_id="entity_id", passage_content="text")
        # One passage for each entity, and one positive for each record.
        tables.count_all(f"{split}_entities_with_one_passage", passages["passage_id"].n_unique(), passages.height)
        parts = {"train": pictured}
        if split == "val":
            test = sample(pictured, options.test_queries, seed, "OVEN test", "data_id")
            rest = pictured.join(test, on="data_id", how="anti", maintain_order="left")
            parts = {"valid": rest, "test": test}
        pool = passages.lazy()
        for name, part in parts.items():
            if not part.height:
                tables.lacking.append(f"OVEN {name}: not built, no record is left for it.")
                continue
            tables.data[name], tables.passages[name] = _data(part, pool, seed), pool
    return tables


def _parse(batch: Batch, seed: int) -> Batch:
    """Return the records of some lines, each with the number ``draw`` gives it."""
    frame = batch.frame.filter(pl.col("text").str.contains(r"\S")).with_row_index("_at")
    split = frame.with_columns(pl.col("text").str.extract_groups(_REGULAR).alias("_groups")).unnest("_groups")
    irregular = split.filter(pl.col("data_id").is_null())
    bad: list[BadRow] = []
    if irregular.height:
        rows: list[dict[str, object]] = []
        for at, row, text in irregular.select("_at", "row", "text").iter_rows():
            value = None
            try:
                value = parse_json(text)
                record = msgspec.structs.asdict(as_record(value, Record))
                rows.append({"_at": at, "row": row, "text": text, **record})
            except ValueError as error:
                bad.append(BadRow(row, str(error), text[:200], named_by("data_id")(value)[0]))
        regular = split.filter(pl.col("data_id").is_not_null())
        split = pl.concat([regular, pl.DataFrame(rows, schema=split.schema, orient="row")]).sort("_at")
    odd_image = pl.format("the image_id {} is not named as this release names them (oven_ and 8 digits)", "image_id")
    odd_entity = pl.format("the entity_id {} is not a Wikidata id", "entity_id")
    rules: list[Rule] = [
        *((pl.col(name).str.strip_chars() == "", f"{name} is empty") for name in ("data_id", "question")),
        (~pl.col("image_id").str.contains(IMAGE_ID), odd_image),
        (~pl.col("entity_id").str.contains(r"^Q[0-9]+$"), odd_entity),
        (pl.col("entity_text").str.strip_chars() == "", "entity_text is empty"),
    ]
    judged = split_bad_rows(Batch(split.drop("_at"), bad), rules, row_id="data_id", raw_text="text")
    numbers = pl.Series(draw(judged.frame["data_id"], seed, "OVEN train"), dtype=pl.UInt64)
    faults = in_file_order(judged.bad, batch)
    return Batch(judged.frame.drop("data_split").with_columns(number=numbers), batch.bad + faults)


def _entities(records: pl.LazyFrame) -> pl.DataFrame:
    """Return entity_id, the first record that names it and how many do, in order of first mention."""
    indexed = records.select("row", "data_id", "entity_id").with_row_index("_at")
    grouped = indexed.group_by("entity_id").agg(
        pl.col("row").sort_by("_at").first(),
        pl.col("data_id").sort_by("_at").first(),
        pl.col("_at").min(),
        records=pl.len(),
    )
    return grouped.sort("_at").drop("_at").collect(engine="streaming")


def _texts(raw: RawFiles, wiki: Path, wanted: list[str], options: Options) -> pl.DataFrame:
    """Return id and text of the wanted entities; of the records of one id, the first stays."""
    staged = raw.stage(
        wiki,
        "wiki6m",
        read_lines,
        partial(wanted_entities, wanted=frozenset(wanted)),
        settings=digest(wanted),
    )
    found = staged.collect().unique("id", keep="first", maintain_order=True)
    fallbacks = {"content": ("opening", "title"), "title": ("title",), "drop": ()}[options.without_summary]
    text = pl.coalesce(pl.when(pl.col(name) != "").then(pl.col(name)) for name in ("summary", *fallbacks))
    if options.title:
        text = pl.format("title: {} content: {}", "title", text)
    return found.select("id", text=text).drop_nulls()


def _report_missing(
    raw: RawFiles, path: Path | None, named: pl.DataFrame, texts: pl.DataFrame, tables: Tables, split: str
) -> None:
    lost = named.join(texts, left_on="entity_id", right_on="id", how="anti", maintain_order="left")
    tables.counts[f"{split}_records_without_entity"] = int(lost["records"].sum())
    # One line for each entity: a Wiki6M cut short would otherwise list millions of records.
    records = pl.col("records").map_elements("{:,}".format, return_dtype=pl.String)
    reason = pl.format("its entity {} has no text in Wiki6M ({} records name it)", "entity_id", records)
    missing = bad_rows(lost, reason, id=pl.format("data_id {}", "data_id"))
    raw.rejected.add(path or "", missing, kind="missing")


def _few_of_each(records: pl.LazyFrame, most: int) -> pl.DataFrame:
    """Return ``most`` records of each entity, those with the smallest number, in file order; all where it is 0."""
    if most:
        places = records.select("entity_id", "number").with_row_index("_at").collect(engine="streaming")
        kept = places.filter(pl.col("number").rank("ordinal").over("entity_id") <= most).select("_at")
        records = records.with_row_index("_at").join(kept.lazy(), on="_at", how="semi", maintain_order="left")
    names = ("data_id", "image_id", "question", "entity_id", "entity_text")
    return records.select(names).collect(engine="streaming")


def picture_files(raw: RawFiles, ids: pl.Series, *, keep: bool) -> pl.DataFrame:
    """Return image_id and extension (".jpg", ".JPEG") of OVEN's pictures, each id once.

    The extension is that of the path in ovenid2impath.csv, else that of the file in the folder oven/images or in an
    archive there, else ".jpg" with ``keep``; without it, ids that stand in none are left out.
    """
    wanted = pl.DataFrame({"image_id": ids}).unique().sort("image_id")
    known = pl.DataFrame(schema={"image_id": pl.String, "extension": pl.String})
    listed = raw.find("oven", "ovenid2impath.csv", optional=True)
    if listed is not None:
        key = digest(wanted["image_id"].to_list())
        staged = raw.stage(listed, "oven-pictures", read_lines, partial(_extensions, wanted=wanted), settings=key)
        known = staged.collect().unique("image_id", keep="first", maintain_order=True).drop("row")
    folder = raw.folders["oven"] / "images"
    if known.height < wanted.height:
        missing = set(wanted.join(known, on="image_id", how="anti")["image_id"])
        found: dict[str, str] = {}
        for _, folders, files in os.walk(folder):
            folders.sort()
            for name, extension in sorted(map(os.path.splitext, files)):
                if name in missing and extension:
                    found.setdefault(name, extension)
        if archives := release_roots(folder, TASK):
            for name in sorted(missing - found.keys()):
                if ending := next((end for end in _ENDINGS if archives.has(f"{name[5:7]}/{name}{end}")), ""):
                    found[name] = ending
        more = pl.DataFrame(list(found.items()), schema=known.schema, orient="row")
        known = pl.concat([known, more])
    if not keep:
        return known
    joined = wanted.join(known, on="image_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("extension").fill_null(".jpg"))


def _extensions(batch: Batch, wanted: pl.DataFrame) -> Batch:
    parts = pl.col("text").str.splitn(",", 2).struct
    named = batch.frame.with_columns(
        image_id=parts.field("field_0").str.strip_chars('" \r'), path=parts.field("field_1")
    )
    frame = named.join(wanted, on="image_id", how="semi", maintain_order="left").with_columns(
        extension=pl.col("path").str.extract(r'(\.[A-Za-z0-9]{1,5})"?[ \t\r]*$')
    )
    rules: list[Rule] = [
        (pl.col("path").is_null(), "1 field where 2 are expected (oven_id, path)"),
        (pl.col("extension").is_null(), "the path ends in no file extension"),
    ]
    judged = split_bad_rows(Batch(frame, batch.bad), rules, row_id="image_id", raw_text="text")
    return Batch(judged.frame.drop("path"), judged.bad)


def _data(rows: pl.DataFrame, passages: pl.LazyFrame, seed: int) -> pl.LazyFrame:
    joined = rows.lazy().join(
        passages, left_on="entity_id", right_on="passage_id", how="left", maintain_order="left", coalesce=False
    )
    return queries_of(
        TASK,
        joined,
        seed,
        **ONE_POSITIVE,
        img_id="image_id",
        img_path=pl.format("{}/{}{}", pl.col("image_id").str.slice(5, 2), "image_id", "extension"),
        question_id="data_id",
        wiki_entity="entity_text",
        wiki_entity_id="entity_id",
    )
