"""OK-VQA: questions about COCO pictures that need outside knowledge, over 100-word blocks of Wikipedia.

Native files: two question files and two annotation files, each one JSON object. Nobody marked which passage answers
a question: a passage counts as positive when it holds an answer and is close to the question (pseudo-relevance).
Upstream asks Elasticsearch for ten blocks for each answer, ranks them by a fuzzy token ratio to "answer answer
question caption objects" and drops those with the lowest ratio. The same is done here with a multi-pattern matcher and
rapidfuzz, without captions and objects, which come from models; so positives are alike and not identical.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from m2kr.common.files import digest
from m2kr.common.json_input import as_record
from m2kr.formats.schema import polars_schema
from m2kr.parsing.json_files import read_json_array
from m2kr.parsing.json_records import Text, named_by
from m2kr.parsing.rejected import bad_rows
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.parsing.rows import Schema
from m2kr.sources.columns import most_frequent, passages_of, queries_of
from m2kr.sources.options import choice
from m2kr.sources.wikipedia import content, find_phrases, words
from m2kr.tasks import TASKS

TASK = TASKS["OKVQA"]
_SPLITS = {"train": "train2014", "test": "val2014"}


@dataclass(frozen=True)
class Options:
    """Rules the published benchmark leaves open, or that a rebuild has to settle itself."""

    hits_per_answer: int = choice(
        10, "Blocks found for each distinct answer of a question.", "Upstream's published code."
    )
    positives: int = choice(10, "Hits a question keeps at most after the fuzzy ranking.", "Upstream's published code.")
    lowest: str = choice(
        "drop",
        "What becomes of the hits that share the lowest fuzzy score; where all hits share one score they stay.",
        "Upstream's published code drops them; keeping them where none would be left is ours.",
        ("drop", "keep"),
    )
    without_positive: str = choice(
        "keep",
        "Questions no block answers: keep them with empty positives, or drop them from train.",
        "The published splits have all questions of the release.",
        ("keep", "drop"),
    )


def build(raw: RawFiles, options: Options, seed: int) -> Tables:
    """Return the lazy tables of OKVQA: train from train2014; test, and valid as its copy, from val2014.

    ``passage_id`` is the block's id in psgs_w100. Columns that come from models (``img_caption``, ``objects``,
    ``img_ocr``) are null or empty.
    """
    tables = Tables()
    blocks = raw.find("wikipedia", "psgs_w100.tsv")
    questions: dict[str, pl.DataFrame] = {}
    for split, coco in _SPLITS.items():
        found = _questions(raw, coco)
        if found is None or not found.height:
            tables.lacking.append(f"OKVQA {split}: not built, questions or annotations of {coco} are missing.")
        else:
            questions[split] = found
    if blocks is None:
        tables.lacking.append("OKVQA: without wikipedia/psgs_w100.tsv there are no passages, so nothing can be built.")
    if blocks is None or not questions:
        return tables
    hits = _hits(raw, blocks, pl.concat(list(questions.values())), options.hits_per_answer)
    ranked = {split: _positives(rows, hits, options) for split, rows in questions.items()}
    related = pl.concat([rows.select(id=pl.col("related").explode()) for rows in ranked.values()]).drop_nulls().unique()
    passages = hits.unique("id", keep="first").join(related, on="id", how="semi").sort("id")
    passages = passages_of(TASK, passages, passage_id="id", passage_content="content")
    if options.without_positive == "drop" and "train" in ranked:
        ranked["train"] = ranked["train"].filter(pl.col("positive").list.len() > 0)
    pool = passages.lazy()
    for split, rows in ranked.items():
        table = _data(rows, passages, _SPLITS[split], seed).lazy()
        for name in (split, "valid") if split == "test" else (split,):
            tables.data[name], tables.passages[name] = table, pool
        tables.counts[f"{split}_without_positive"] = int((rows["positive"].list.len() == 0).sum())
        tables.counts[f"{split}_answers_in_pairs"] = sum(
            all(count % 2 == 0 for count in Counter(answers).values()) for answers in rows["answers"]
        )
    return tables


def _questions(raw: RawFiles, coco: str) -> pl.DataFrame | None:
    """Return question_id, question, image and answers of one half of the release, in the question file's order."""
    asked_path = raw.find("okvqa", f"OpenEnded_mscoco_{coco}_questions.json")
    answered_path = raw.find("okvqa", f"mscoco_{coco}_annotations.json")
    if asked_path is None or answered_path is None:
        return None
    stage = partial(raw.stage_records, about=named_by("question_id"), unique="question_id")
    read_asked, read_answered = (partial(read_json_array, member=name) for name in ("questions", "annotations"))
    asked = stage(asked_path, f"questions-{coco}", read_asked, _question, _QUESTION).collect()
    answered = stage(answered_path, f"annotations-{coco}", read_answered, _annotation, _ANNOTATION).collect()
    lost = asked.join(answered, on="question_id", how="anti", maintain_order="left")
    reason, id = f"it has no annotation in {answered_path.name}", pl.format("question_id {}", "question_id")
    raw.rejected.add(asked_path, bad_rows(lost, reason, id=id, content=pl.col("question")), kind="missing")
    return asked.drop("row").join(answered.drop("row"), on="question_id", how="inner", maintain_order="left")


class _Question(msgspec.Struct):
    question_id: int
    image_id: int
    question: Text


class _Answer(msgspec.Struct):
    answer_id: int
    answer: str


class _Annotation(msgspec.Struct):
    question_id: int
    answers: list[_Answer]


_QUESTION = {"question_id": pl.String, "question": pl.String, "image": pl.Int64}
_ANNOTATION: Schema = {"question_id": pl.String, "answers": pl.List(pl.String)}


def _question(value: Any) -> list[dict[str, object]]:
    record = as_record(value, _Question)
    if not 0 <= record.image_id < 10**12:  # file names have twelve digits
        raise ValueError(f"image_id is {record.image_id}, which names no picture")
    return [{"question_id": str(record.question_id), "question": record.question, "image": record.image_id}]


def _annotation(value: Any) -> list[dict[str, object]]:
    record = as_record(value, _Annotation)
    numbered = sorted(record.answers, key=lambda answer: answer.answer_id)
    answers = [answer.answer for answer in numbered if answer.answer.strip()]
    if not answers:
        raise ValueError("the list of answers is empty")
    return [{"question_id": str(record.question_id), "answers": answers}]


def _hits(raw: RawFiles, blocks: Path, questions: pl.DataFrame, best: int) -> pl.DataFrame:
    """Return the blocks of every distinct answer: phrase, score, id, title, content."""
    phrases = (
        questions.select(phrase=words(pl.col("answers").explode())).filter(pl.col("phrase") != "").unique().to_series()
    ).sort()
    staged = raw.stage(
        blocks,
        "answer-blocks",
        lambda path, advance: find_phrases(path, advance, phrases.to_list(), best, raw.workers),
        settings=[best, digest(phrases.to_list())],
    )
    return staged.select("phrase", "score", "id", "title", content=content()).collect()


def _positives(questions: pl.DataFrame, hits: pl.DataFrame, options: Options) -> pl.DataFrame:
    """Add to each question its ``gold``, ``related`` and ``positive`` block ids, best first."""
    from rapidfuzz import fuzz, process, utils

    by_phrase: dict[str, list[tuple[int, str]]] = {}
    for phrase, block, text in hits.select("phrase", "id", "content").iter_rows():
        by_phrase.setdefault(phrase, []).append((block, utils.default_process(text)))
    normal = questions.select(
        phrases=pl.col("answers").list.eval(words(pl.element())).list.unique(maintain_order=True)
    ).to_series()
    gold, related, positive = [], [], []
    for question, answers, phrases in zip(questions["question"], questions["answers"], normal, strict=True):
        best_answer = most_frequent(answers)
        found = {block: text for phrase in phrases for block, text in by_phrase.get(phrase, [])}
        target = utils.default_process(f"{best_answer} {best_answer} {question}")
        ranked = process.extract(target, found, scorer=fuzz.token_set_ratio, limit=options.positives)
        scores = [score for _, score, _ in ranked]
        if options.lowest == "drop" and len(set(scores)) > 1:
            ranked = [hit for hit in ranked if hit[1] > min(scores)]
        gold.append(best_answer)
        related.append(list(found))
        positive.append([block for _, _, block in ranked])
    ids = pl.List(pl.Int64)
    return questions.with_columns(
        gold=pl.Series(gold, dtype=pl.String),
        related=pl.Series(related, dtype=ids),
        positive=pl.Series(positive, dtype=ids),
    )


def _data(rows: pl.DataFrame, passages: pl.DataFrame, coco: str, seed: int) -> pl.DataFrame:
    texts = dict(passages.select("passage_id", "passage_content").iter_rows())
    key = pl.col("image").cast(pl.String).str.zfill(12)
    positives = rows["positive"].cast(pl.List(pl.String))
    contents = pl.Series([[texts[name] for name in names] for names in positives], dtype=pl.List(pl.String))
    schema = polars_schema(TASK.data_config)
    return queries_of(
        TASK,
        rows,
        seed,
        gold_answer="gold",
        img_path=pl.format(f"{coco}/COCO_{coco}_{{}}.jpg", key),
        img_key_full=key,
        img_key="image",
        img_file_name=pl.format(f"COCO_{coco}_{{}}.jpg", key),
        pos_item_ids=pl.lit(positives),
        pos_item_contents=pl.lit(contents),
        related_item_ids="related",
        __index_level_0__="question_id",
        # Columns that come from models.
        img=pl.lit(None),
        img_caption=pl.lit(None, schema["img_caption"]),
        objects=pl.lit([], schema["objects"]),
        img_ocr=pl.lit([], schema["img_ocr"]),
    )
