"""Encyclopedic-VQA: questions about a plant, an animal or a landmark, over sections of Wikipedia pages.

Native files: ``train.csv``, ``val.csv``, ``test.csv`` (quoted, read by column name), and
``encyclopedic_kb_wiki.zip`` with one JSON object of tens of gigabytes, address -> page, which is read member by member
(unpacked to ``encyclopedic_kb_wiki.json`` it is read too). A question names the page and the number of the section that
answers it: its one positive.

Pictures are those of Google Landmarks v2, whose path follows from their id, and iNaturalist 2021's, whose path stands
in that dataset's own annotations, ``train.json.tar.gz`` and ``val.json.tar.gz`` (COCO's form: ``images`` is a list of
objects with ``id`` and ``file_name``; unpacked they are read too). In their place may be ``train_id2name.json`` and
``val_id2name.json``, {id: file name}, which other projects have made of them. The questions of train are about
pictures of iNaturalist's train half, those of valid and test about its val half, and each half has its own ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from m2kr.common.files import digest
from m2kr.common.json_input import as_record
from m2kr.parsing.delimited import read_quoted
from m2kr.parsing.json_files import Element, read_json_members, stream_json_array
from m2kr.parsing.json_records import Text
from m2kr.parsing.rejected import Rule, bad_rows, in_file_order, split_bad_rows
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.parsing.rows import Advance, BadRow, Batch, Schema
from m2kr.sources.columns import ONE_POSITIVE, most_frequent, passages_of, queries_of, reject_leaving_paths
from m2kr.sources.options import choice
from m2kr.sources.sampling import draw, sample
from m2kr.tasks import TASKS

TASK = TASKS["EVQA"]
_FILES = {"train": "train.csv", "valid": "val.csv", "test": "test.csv"}
# The last is the file as downloaded; what was unpacked or made of it goes before it, where it is there.
_KNOWLEDGE = ("encyclopedic_kb_wiki.json", "encyclopedic_kb_wiki.zip")
_PICTURES = {
    split: (f"{half}_id2name.json", f"{half}.json", f"{half}.json.tar.gz")
    for split, half in {"train": "train", "valid": "val", "test": "val"}.items()
}
_TYPES = ("templated", "automatic", "multi_answer", "2_hop")
_IMAGE_IDS = {"inaturalist": r"^[0-9]+$", "landmarks": r"^[0-9a-f]{16}$"}
_COLUMNS = (
    *("question", "answer", "dataset_image_ids", "dataset_name", "question_type"),
    *("wikipedia_url", "evidence_section_id"),
)
_SECTION: Schema = {
    **dict.fromkeys(("url", "title", "text"), pl.String),
    "section": pl.Int64,
    "evidence": pl.Boolean,
}


@dataclass(frozen=True)
class Options:
    """Rules the published benchmark leaves open."""

    question_types: str = choice(
        "templated+automatic",
        "Kinds of questions that are taken. Those of two hops have two pages, and are never.",
        "The published test has 1,000 templated and 2,750 automatic questions, all there are.",
        ("templated+automatic", "templated", "automatic", "templated+automatic+multi_answer"),
    )
    image: str = choice(
        "first",
        "Which of a question's up to five pictures is taken: the first, or one drawn by a seeded hash.",
        "Published rows have one picture, at most one row for each question; which picture is not known.",
        ("first", "drawn"),
    )
    title: bool = choice(
        False,
        "Whether a passage begins with the page's title (title: ... content: ...).",
        "Published contents are a section each; consumers of the benchmark add the title themselves.",
    )
    pools: str = choice(
        "train+own",
        "What valid and test are searched in: the train pool and their own sections, or their own alone.",
        "The published pools grow from 50,205 (train) by 548 (valid) and by 1,267 (test).",
        ("train+own", "own"),
    )
    extra_sections: int = choice(
        0,
        "Sections a page adds to the pool beside those that answer a question, chosen by a seeded hash.",
        "The published test pool has 2.7 sections for each of its 19,267 pages, fewer than pages have; that they are "
        "those which answer a question fits the growth of the pools, and is not proven.",
    )
    train_questions: int = choice(
        0,
        "Questions of the train split at most, chosen by a seeded hash; 0 keeps all.",
        "The published train split was down-sampled to 167,369 by a rule that is not known.",
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of EVQA.

    ``question_id`` is ``EVQA_<split>_<line>``, the line of the CSV file a question begins at, which is ours.
    ``passage_id`` is ``WikiWeb_<title>_<section>``, the section's place in its page. ``answers`` are the annotators'
    (an answer of several parts keeps its "&&"), ``gold_answer`` the most frequent of them, else the first.
    """
    tables = Tables()
    knowledge = _find(raw, _KNOWLEDGE)
    asked: dict[str, pl.DataFrame] = {}
    for split, file in _FILES.items():
        path = raw.find("evqa", file)
        if path is None:
            tables.lacking.append(f"EVQA {split}: not built, {file} is missing.")
        else:
            asked[split] = _questions(raw, path, split, options, seed)
    if knowledge is None:
        tables.lacking.append(f"EVQA: without {_KNOWLEDGE[-1]} there are no passages, so nothing can be built.")
    if knowledge is None or not asked:
        return tables
    sections = _sections(raw, knowledge, list(asked.values()), options, seed)
    train_pool: pl.DataFrame | None = None
    for split, rows in asked.items():
        answered = _answered(raw, split, rows, sections)
        named = _pictured(raw, split, answered)
        if split == "train" and options.train_questions:
            named = sample(named, options.train_questions, seed, "EVQA train", "question_id")
        if not named.height:
            tables.lacking.append(f"EVQA {split}: not built, no question is left for it.")
            continue
        own = _pool(named, sections)
        pool = own
        if split == "train":
            train_pool = own
        elif options.pools == "train+own" and train_pool is not None:
            pool = pl.concat([train_pool, own]).unique("passage_id", keep="first", maintain_order=True)
        one = named.join(pool.select("passage_id"), on="passage_id", how="inner").height
        tables.count_all(f"{split}_questions_with_one_positive", one, named.height)
        tables.counts[f"{split}_own_sections"] = own.height
        tables.data[split] = _data(named, pool, seed)
        tables.passages[split] = pool.lazy()
    if train_pool is None and options.pools == "train+own" and tables.data:
        tables.lacking.append("EVQA: without train, valid and test are searched in their own sections alone.")
    return tables


def _find(raw: RawFiles, names: tuple[str, ...]) -> Path | None:
    """Return the first of some files that is there; where none is, it is the last that is missing."""
    *others, last = names
    there = (raw.find("evqa", name, optional=True) for name in others)
    return next((path for path in there if path is not None), None) or raw.find("evqa", last)


def _questions(raw: RawFiles, path: Path, split: str, options: Options, seed: int) -> pl.DataFrame:
    """Return the questions of one file: row, question_id, image, address and section of the positive, ..."""
    types = options.question_types.split("+")
    staged = raw.stage(
        path,
        f"evqa-{split}",
        lambda path, advance: read_quoted(path, _COLUMNS, advance, delimiter=",", any_order=True),
        partial(_judge, types=types),
        settings=types,
    )
    rows = staged.collect().with_columns(
        question_id=pl.format(f"EVQA_{split}_{{}}", pl.col("row").str.strip_prefix("line "))
    )
    images = rows["images"].to_list()
    if options.image == "drawn":
        numbers = draw(rows["question_id"], seed, "EVQA image").tolist()
        chosen = [ids[number % len(ids)] for ids, number in zip(images, numbers, strict=True)]
    else:
        chosen = [ids[0] for ids in images]
    return rows.drop("images").with_columns(image=pl.Series(chosen, dtype=pl.String))


def _judge(batch: Batch, types: list[str]) -> Batch:
    """Return the questions of the wanted types; only those have to be whole."""
    known = pl.format("the question_type {} is none of " + ", ".join(_TYPES), pl.col("question_type"))
    kinds = split_bad_rows(Batch(batch.frame), [(~pl.col("question_type").is_in(_TYPES), known)])
    listed = kinds.frame.filter(pl.col("question_type").is_in(types)).with_columns(
        answers=_parts("answer"), images=_parts("dataset_image_ids")
    )
    odd = pl.lit(False)
    for dataset, pattern in _IMAGE_IDS.items():
        wrong = ~pl.col("images").list.eval(pl.element().str.contains(pattern)).list.all()
        odd = pl.when(pl.col("dataset_name") == dataset).then(wrong).otherwise(odd)
    rules: list[Rule] = [
        (pl.col("question").str.strip_chars() == "", "the question is empty"),
        (pl.col("answers").list.len() == 0, "the answer is empty"),
        (pl.col("images").list.len() == 0, "dataset_image_ids names no picture"),
        (
            ~pl.col("dataset_name").is_in(list(_IMAGE_IDS)),
            pl.format("the dataset_name {} is neither inaturalist nor landmarks", "dataset_name"),
        ),
        (odd, pl.format("dataset_image_ids ({}) holds an id that is none of {}", "dataset_image_ids", "dataset_name")),
        (pl.col("wikipedia_url").str.strip_chars() == "", "wikipedia_url is empty"),
        (
            ~pl.col("evidence_section_id").str.contains(r"^[0-9]{1,9}$"),
            pl.format("the evidence_section_id {} is not the number of a section", "evidence_section_id"),
        ),
    ]
    judged = split_bad_rows(Batch(listed, kinds.bad), rules)
    kept = judged.frame.select(
        *("row", "question", "question_type", "dataset_name", "answers", "images"),
        url="wikipedia_url",
        section=pl.col("evidence_section_id").cast(pl.Int64),
    )
    return Batch(kept, batch.bad + in_file_order(judged.bad, batch))


def _parts(column: str) -> pl.Expr:
    """Return the parts of a field that "|" separates, without empty ones."""
    parts = pl.col(column).str.split("|").list
    return parts.eval(pl.element().filter(pl.element().str.strip_chars() != ""))


def _sections(raw: RawFiles, path: Path, asked: list[pl.DataFrame], options: Options, seed: int) -> pl.DataFrame:
    """Return passage_id, url, section, content and evidence of the sections the questions' pages add to the pools."""
    wanted: dict[str, set[int]] = {}
    for rows in asked:
        for url, section in rows.select("url", "section").unique().iter_rows():
            wanted.setdefault(url, set()).add(section)
    listed = sorted((url, sorted(numbers)) for url, numbers in wanted.items())
    staged = raw.stage_records(
        path,
        "evqa-sections",
        partial(_wanted_pages, wanted=frozenset(wanted)),
        partial(_sections_of, wanted=wanted, seen=set(), extra=options.extra_sections, seed=seed),
        _SECTION,
        about=lambda page: (f"page {page[0]}", page[1]),
        settings=[digest(listed), options.extra_sections, seed if options.extra_sections else 0],
        size=2_000,
    )
    text = pl.format("title: {} content: {}", "title", "text") if options.title else pl.col("text")
    named = staged.collect().with_columns(passage_id=pl.format("WikiWeb_{}_{}", "title", "section"), content=text)
    # Two pages may have one title; a passage id can stand for one text only.
    first = named.unique("passage_id", keep="first", maintain_order=True).select("passage_id", url_of="url")
    both = named.join(first, on="passage_id", how="left", maintain_order="left")
    again = both.filter(pl.col("url") != pl.col("url_of"))
    reason = pl.format("section {} has the title and the number of one of {}", "section", "url_of")
    raw.rejected.add(path, bad_rows(again, reason, id=pl.format("page {}", "url")))
    return both.filter(pl.col("url") == pl.col("url_of")).select("passage_id", "url", "section", "content", "evidence")


class _Page(msgspec.Struct):
    title: Text
    section_texts: list[str]
    section_titles: list[Any] | None = None


def _wanted_pages(path: Path, advance: Advance, wanted: frozenset[str]) -> Iterator[Element]:
    for element in read_json_members(path, advance):
        if isinstance(element, BadRow) or element[1][0] in wanted:
            yield element


def _sections_of(
    page: tuple[str, Any], wanted: dict[str, set[int]], seen: set[str], extra: int, seed: int
) -> Iterator[dict[str, object]]:
    """Yield the wanted sections of a page and, of its others, the ``extra`` with the smallest keyed hash."""
    url, value = page
    if url in seen:
        raise ValueError("the address stands more than once")
    record = as_record(value, _Page)
    texts = record.section_texts
    if record.section_titles is not None and len(record.section_titles) != len(texts):
        raise ValueError("section_titles and section_texts differ in number")
    seen.add(url)
    evidence = {index for index in wanted[url] if index < len(texts)}
    others = [index for index in range(len(texts)) if index not in evidence and texts[index].strip()]
    numbers = draw([f"{url} {index}" for index in others], seed, "EVQA sections").tolist() if extra else []
    drawn = [index for _, index in sorted(zip(numbers, others, strict=False))[:extra]]
    for index in sorted([*evidence, *drawn]):
        if texts[index].strip():
            yield {
                "url": url,
                "title": record.title.strip(),
                "section": index,
                "text": texts[index],
                "evidence": index in evidence,
            }


def _answered(raw: RawFiles, split: str, rows: pl.DataFrame, sections: pl.DataFrame) -> pl.DataFrame:
    """Return the questions whose section is there, with its passage_id; the others lack their other half."""
    keys = sections.select("url", "section", "passage_id")
    joined = rows.join(keys, on=["url", "section"], how="left", maintain_order="left")
    reason = pl.format("section {} of {} is not in " + _KNOWLEDGE[0] + ", or has no text", "section", "url")
    return _with(raw, split, joined, "passage_id", reason)


def _with(raw: RawFiles, split: str, rows: pl.DataFrame, column: str, reason: pl.Expr) -> pl.DataFrame:
    """Return the questions that have a value in ``column``, their other half; those without it are rejected."""
    lost = rows.filter(pl.col(column).is_null())
    id = pl.format("question_id {}", "question_id")
    path = raw.folders["evqa"] / _FILES[split]
    raw.rejected.add(path, bad_rows(lost, reason, id=id, content=pl.col("question")), kind="missing")
    return rows.filter(pl.col(column).is_not_null())


def _pictured(raw: RawFiles, split: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the questions with the path of their picture; those of a picture without a name lack their other half."""
    image = pl.col("image")
    landmark = pl.format(
        "google-landmark/train/{}/{}/{}/{}.jpg", *(image.str.slice(place, 1) for place in range(3)), "image"
    )
    wanted = rows.filter(pl.col("dataset_name") == "inaturalist")["image"].unique()
    path = _find(raw, _PICTURES[split]) if wanted.len() else None
    names = pl.DataFrame(schema={"image": pl.String, "name": pl.String})
    if path is not None:
        names = _picture_names(raw, path, frozenset(wanted))
    joined = rows.join(names, on="image", how="left", maintain_order="left").with_columns(
        img_path=pl.when(pl.col("dataset_name") == "landmarks").then(landmark).otherwise("inat/" + pl.col("name"))
    )
    file = (path or Path(_PICTURES[split][-1])).name
    return _with(raw, split, joined, "img_path", pl.format("its picture {} is not in " + file, "image"))


def _picture_names(raw: RawFiles, path: Path, wanted: frozenset[str]) -> pl.DataFrame:
    """Return image and name of the wanted pictures, out of iNaturalist's annotations or an id2name map."""
    return (
        raw.stage_records(
            path,
            f"evqa-pictures-{path.name.partition('.json')[0]}",
            partial(_wanted_pictures, wanted=wanted),
            _picture,
            {"image": pl.String, "name": pl.String},
            partial(reject_leaving_paths, column="name", row_id="image"),
            about=lambda picture: (f"id {picture[0]}", picture[1]),
            settings=digest(sorted(wanted)),
            unique="image",
        )
        .drop("row")
        .collect()
    )


def _wanted_pictures(path: Path, advance: Advance, wanted: frozenset[str]) -> Iterator[Element]:
    """Yield id and file name of the wanted pictures."""
    listed = "_id2name." not in path.name
    for element in stream_json_array(path, advance, member="images") if listed else read_json_members(path, advance):
        if isinstance(element, BadRow):
            yield element
            continue
        row, value = element
        if listed and not isinstance(value, dict):
            yield BadRow(row, "it is not an object with id and file_name", str(value)[:200])
            continue
        picture = (str(value.get("id")), value.get("file_name")) if listed else value
        if picture[0] in wanted:
            yield row, picture


def _picture(picture: tuple[str, object]) -> list[dict[str, str]]:
    image, name = picture
    if not isinstance(name, str) or not name.strip():
        raise ValueError("the file name is not a string, or empty")
    return [{"image": image, "name": name}]


def _pool(rows: pl.DataFrame, sections: pl.DataFrame) -> pl.DataFrame:
    """Return the passages that questions add to a pool: the sections that answer them, and further ones."""
    answering = sections.join(rows, on="passage_id", how="semi", maintain_order="left")
    further = sections.filter(~pl.col("evidence")).join(rows, on="url", how="semi", maintain_order="left")
    both = pl.concat([answering, further]).sort("passage_id")
    return passages_of(TASK, both, language=pl.lit("en"), passage_content="content")


def _data(rows: pl.DataFrame, pool: pl.DataFrame, seed: int) -> pl.LazyFrame:
    gold = pl.Series([most_frequent(answers) for answers in rows["answers"]], dtype=pl.String)
    asked = rows.with_columns(gold_answer=gold, img_id="image", image_id="image").lazy()
    joined = asked.join(pool.lazy(), on="passage_id", how="left", maintain_order="left")
    return queries_of(TASK, joined, seed, **ONE_POSITIVE)
