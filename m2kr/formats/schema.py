"""The format: Arrow schemas of the twenty configs, and the checks a built table must pass.

Columns, their types and their order are those of the published M2KR dataset card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from m2kr.errors import M2KRError
from m2kr.tasks import TASKS, Task

if TYPE_CHECKING:
    from m2kr.images.roots import ImageRoots

_S = pa.string()
_I = pa.int64()
_F = pa.float64()
_B = pa.bool_()
_NULL = pa.null()
_LS = pa.list_(_S)
_LF = pa.list_(_F)


def _detected(ocr: pa.DataType) -> pa.DataType:
    """Type of the ``objects`` column: what an object detector found, with the text it read on each."""
    fields = {"attribute_scores": _LF, "attributes": _LS, "class": _S, "ocr": pa.list_(ocr), "rect": _LF}
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in fields.items()]))


_IMAGE = {"img_id": _S, "img_path": _S, "image_id": _S}
_POSITIVES = {"pos_item_ids": _LS, "pos_item_contents": _LS}
_SHORT_PASSAGES = {"language": _S, "passage_id": _S, "passage_content": _S}
_IMAGE_PASSAGES = {"language": _S, "img_id": _S, "img_path": _S, "passage_id": _S, "passage_content": _S}
_BLOCK_PASSAGES = {"passage_id": _S, "passage_content": _S, "title": _S}
_WIT_PASSAGES = {
    "language": _S,
    "page_url": _S,
    "image_url": _S,
    "page_title": _S,
    "section_title": _S,
    "hierarchical_section_title": _S,
    "caption_reference_description": _S,
    "caption_attribution_description": _S,
    "caption_alt_text_description": _S,
    "mime_type": _S,
    "original_height": _I,
    "original_width": _I,
    "is_main_image": _B,
    "attribution_passes_lang_id": _B,
    "page_changed_recently": _B,
    "context_page_description": _S,
    "context_section_description": _S,
    "image_id": _S,
    "original_data_id": _S,
    "img_id": _S,
    "img_path": _S,
    "image_downloaded": _B,
    "passage_id": _S,
    "passage_content": _S,
}
_COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "WIT_data": {
        "original_data_id": _LS,
        **_POSITIVES,
        **_IMAGE,
        "question_id": _S,
        "instruction": _S,
        "question": _S,
    },
    "WIT_passages": _WIT_PASSAGES,
    "IGLUE_data": {"question_id": _S, **_POSITIVES, **_IMAGE, "instruction": _S, "question": _S},
    "IGLUE_passages": _WIT_PASSAGES,
    "KVQA_data": {**_POSITIVES, **_IMAGE, "question_id": _S, "instruction": _S, "question": _S},
    "KVQA_passages": _IMAGE_PASSAGES,
    "CC_data": {
        "original_data_id": _LS,
        **_POSITIVES,
        **_IMAGE,
        "question_id": _S,
        "question": _NULL,
        "instruction": _S,
    },
    "CC_passages": {
        "language": _S,
        "original_data_id": _S,
        "img_id": _S,
        "img_path": _S,
        "passage_id": _S,
        "passage_content": _S,
    },
    "MSMARCO_data": {
        "original_data_id": _LS,
        **_POSITIVES,
        "img_id": _NULL,
        "img_path": _NULL,
        "image_id": _NULL,
        "question_id": _S,
        "question": _S,
        "instruction": _S,
    },
    "MSMARCO_passages": {
        "language": _S,
        "original_data_id": _S,
        "img_id": _NULL,
        "img_path": _NULL,
        "passage_id": _S,
        "passage_content": _S,
    },
    "OVEN_data": {
        **_POSITIVES,
        **_IMAGE,
        "question_id": _S,
        "question": _S,
        "wiki_entity": _S,
        "wiki_entity_id": _S,
        "instruction": _S,
    },
    "OVEN_passages": _SHORT_PASSAGES,
    "LLaVA_data": {**_POSITIVES, **_IMAGE, "question_id": _S, "question": _S, "llava_split": _S, "instruction": _S},
    "LLaVA_passages": {**_IMAGE_PASSAGES, "llava_split": _S},
    "OKVQA_data": {
        "answers": _LS,
        "gold_answer": _S,
        "question": _S,
        "question_id": _S,
        "img_path": _S,
        "img_key_full": _S,
        "img_key": _I,
        "img_file_name": _S,
        "img": _NULL,
        "img_caption": pa.struct([pa.field("caption", _S), pa.field("conf", _F)]),
        "objects": _detected(pa.struct([pa.field("score", _F), pa.field("text", _S)])),
        "img_ocr": pa.list_(
            pa.struct([pa.field("description", _S), pa.field("vertices", pa.list_(pa.list_(_I)))]),
        ),
        **_POSITIVES,
        "related_item_ids": _LS,
        "__index_level_0__": _S,
        "instruction": _S,
    },
    "OKVQA_passages": _BLOCK_PASSAGES,
    "Infoseek_data": {
        "question_id": _S,
        "image_id": _S,
        "question": _S,
        "answers": _LS,
        "answer_eval": _LS,
        "data_split": _S,
        "wikidata_value": _F,
        "wikidata_range": _LF,
        "entity_id": _S,
        "entity_text": _S,
        "image_path": _S,
        "gold_answer": _S,
        "objects": _detected(_NULL),
        "related_item_ids": _LS,
        **_POSITIVES,
        "ROIs": pa.list_(_NULL),
        "found": _B,
        "img_caption": _S,
        "instruction": _S,
        "img_path": _S,
        "question_type": _S,
    },
    "Infoseek_passages": _BLOCK_PASSAGES,
    "EVQA_data": {
        **_POSITIVES,
        **_IMAGE,
        "question_id": _S,
        "question": _S,
        "answers": _LS,
        "gold_answer": _S,
        "question_type": _S,
        "instruction": _S,
    },
    "EVQA_passages": _SHORT_PASSAGES,
}

SCHEMAS: dict[str, pa.Schema] = {
    config: pa.schema([pa.field(name, kind) for name, kind in _COLUMNS[config].items()])
    for task in TASKS.values()
    for config in (task.data_config, task.passages_config)
}
"""Arrow schema of every config, columns in published order."""


class DatasetError(M2KRError):
    """A table breaks a rule of the format."""


def polars_schema(config: str) -> pl.Schema:
    """Return the schema of ``config`` in Polars types."""
    frame = pl.from_arrow(SCHEMAS[config].empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.schema


def leaves_root(path: pl.Expr) -> pl.Expr:
    """Return where a path from data could point outside the folder it is relative to.

    That is an absolute path, a drive, a backslash, a null byte or a ``..`` component. `m2kr.images.roots.ImageRoots`
    refuses such paths again when it opens them.
    """
    return path.str.contains(r"^[/~]|^[A-Za-z]:|\\|\x00|(^|/)\.\.(/|$)")


def check_columns(config: str, found: pa.Schema, where: str) -> None:
    """Check that ``found`` has the columns of ``config`` in order, with their types.

    Raises:
        DatasetError: naming the first column that differs.
    """
    expected = SCHEMAS[config]
    if found.names != expected.names:
        missing = [name for name in expected.names if name not in found.names]
        extra = [name for name in found.names if name not in expected.names]
        detail = "; ".join(
            part
            for part in (
                f"missing: {', '.join(missing)}" if missing else "",
                f"not in the format: {', '.join(extra)}" if extra else "",
            )
            if part
        )
        raise DatasetError(f"{where}: the columns are not those of {config} ({detail or 'another order'}).")
    for field in expected:
        if found.field(field.name).type != field.type:
            raise DatasetError(
                f"{where}: column {field.name} has type {found.field(field.name).type}, {config} wants {field.type}."
            )


@dataclass(frozen=True)
class _Problem:
    """Rows that break one rule: ``rows`` has the column ``row_id``, and should have no row."""

    where: str
    rows: pl.LazyFrame
    row_id: str
    says: str


def _refuse(problems: list[_Problem]) -> None:
    """Raise for the first problem that has any row, naming its first row and the count."""
    for problem in problems:  # one after the other: each may need a table of all ids, and memory is bounded
        summary = problem.rows.select(count=pl.len(), first=pl.col(problem.row_id).first())
        count, first = summary.collect(engine="streaming").row(0)
        if count:
            more = f" ({count:,} rows in all)" if count > 1 else ""
            raise DatasetError(f"{problem.where}, row {problem.row_id}={first!r}: {problem.says}{more}.")


def check_split(
    task: Task,
    split: str,
    data: pl.LazyFrame,
    passages: pl.LazyFrame,
    images: ImageRoots | None = None,
    *,
    positives: pl.DataFrame | None = None,
    pool: pl.DataFrame | None = None,
) -> dict[str, int]:
    """Check one split of a built task against the rules of the format.

    Ids are present and unique; no passage is empty; every query has an image or a question; ``pos_item_ids`` and
    ``pos_item_contents`` are parallel, every positive is a passage of this split, and its content is that passage's;
    no image path leaves its root; with ``images``, every image is there.

    Args:
        task: the task.
        split: its query split.
        data: rows of ``<TASK>_data`` of that split.
        passages: rows of ``<TASK>_passages`` of that split.
        images: where pictures are, if they are to be looked for.
        positives: `hash_positives` of ``data``, where that is known already.
        pool: `hash_passages` of ``passages``, where that is known already.

    Returns:
        Counts: ``queries``, ``passages``, ``positives`` (pairs), ``without_positive`` (queries), ``images`` (distinct).

    Raises:
        DatasetError: naming the first row that breaks a rule, and how many do.
    """
    queries_at = f"{task.data_config}/{split}"
    passages_at = f"{task.passages_config}/{split}_passages"
    has_question = ~_blank("question") if task.key != "CC" else pl.lit(False)
    has_image = ~_blank("img_path") if task.reads_images else pl.lit(False)
    if pool is None:
        pool = hash_passages(passages)
    _refuse([*_id_problems(pool.lazy(), "passage_id", passages_at), *_id_problems(data, "question_id", queries_at)])
    try:
        if positives is None:
            positives = hash_positives(data)
    except pl.exceptions.PolarsError:
        uneven = data.filter(pl.col("pos_item_ids").list.len() != pl.col("pos_item_contents").list.len())
        _refuse([_Problem(queries_at, uneven, "question_id", "its positives' ids and contents differ in number")])
        raise
    known = pool.lazy().select("known", id="passage_id")
    unlike = positives.lazy().join(known, left_on=["id", "content"], right_on=["id", "known"], how="anti")
    broken = unlike.join(known, on="id", how="left").collect(engine="streaming").lazy()
    problems = [
        _Problem(passages_at, pool.lazy().filter("blank"), "passage_id", "the passage has no text"),
        _Problem(
            queries_at,
            data.filter(~has_question & ~has_image),
            "question_id",
            "the query has neither a question nor an image",
        ),
        _Problem(
            queries_at,
            broken.filter(pl.col("known").is_null()),
            "question_id",
            f"a positive is no passage of {passages_at}",
        ),
        _Problem(queries_at, broken, "question_id", "the content of a positive is not the passage's"),
    ]
    if task.reads_images:
        outside = data.filter(leaves_root(pl.col("img_path")))
        problems.append(_Problem(queries_at, outside, "question_id", "the image path leaves its root"))
    _refuse(problems)
    counts = data.select(
        queries=pl.len(),
        positives=pl.col("pos_item_ids").list.len().sum(),
        without_positive=(pl.col("pos_item_ids").list.len() == 0).sum(),
    ).collect(engine="streaming")
    result = {**counts.row(0, named=True), "passages": pool.height}
    result["images"] = _check_images(data, queries_at, images) if task.reads_images else 0
    return {name: int(value or 0) for name, value in result.items()}


def hash_passages(passages: pl.LazyFrame) -> pl.DataFrame:
    """Return what `check_split` has to know of passages: ``passage_id``, ``known`` (a hash) and ``blank`` (no text).

    To look at the texts takes most of the time of a check, so each is read once; and to carry millions of texts into a
    join would not fit. Hashes are equal for equal texts in one process, and mean nothing beyond it.
    """
    known = passages.select("passage_id", known=pl.col("passage_content").hash(), blank=_blank("passage_content"))
    return known.collect(engine="streaming")


def hash_positives(data: pl.LazyFrame) -> pl.DataFrame:
    """Return what `check_split` has to know of queries' positives: ``question_id``, ``id`` and ``content`` (a hash).

    Raises:
        PolarsError: a query has not as many ids as contents.
    """
    pairs = data.select("question_id", id="pos_item_ids", content="pos_item_contents").explode(
        "id", "content", empty_as_null=False, keep_nulls=False
    )
    return pairs.with_columns(pl.col("content").hash()).collect(engine="streaming")


def _blank(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")


def _id_problems(frame: pl.LazyFrame, column: str, where: str) -> list[_Problem]:
    repeated = frame.group_by(column).len().filter(pl.col("len") > 1).select(pl.col(column).sort())
    return [
        _Problem(where, frame.filter(_blank(column)), column, "the id is empty"),
        _Problem(where, repeated, column, "the id stands more than once"),
    ]


def _check_images(data: pl.LazyFrame, where: str, images: ImageRoots | None) -> int:
    if images is None:
        distinct = data.select(pl.col("img_path").drop_nulls().n_unique())
        return int(distinct.collect(engine="streaming").item())
    paths = data.select("question_id", "img_path").drop_nulls("img_path").unique("img_path", keep="first")
    rows = paths.sort("img_path").collect(engine="streaming")
    missing = [(row_id, path) for row_id, path in rows.iter_rows() if not images.has(path)]
    if missing:
        row_id, path = missing[0]
        more = f" ({len(missing):,} images in all)" if len(missing) > 1 else ""
        raise DatasetError(f"{where}, row question_id={row_id!r}: the image {path} is not in {images}{more}.")
    return rows.height
