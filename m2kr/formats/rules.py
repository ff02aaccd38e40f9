"""The rules of the format: what the tables of a task must satisfy, checked by the builder and by ``m2kr.check``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Protocol

import polars as pl
import pyarrow as pa
from polars.datatypes import DataTypeClass

from m2kr.common.partitions import parts_by_hash
from m2kr.errors import M2KRError
from m2kr.formats.schema import arrow_schema, polars_schema, takes_passage_images
from m2kr.tasks import PASSAGE_IMAGE, Task

_Engine = Literal["in-memory", "streaming"]
_NAMED = 1000  # rows that are named at most, where many are wrong in the same way
MAX_ID_BYTES = 2048
"""Of a passage or a question. A run holds both for each passage found, hundreds for each question; the longest ids of
the releases are addresses of pages and pictures."""


class DatasetError(M2KRError):
    """A table breaks a rule of the format."""


class ImagePlaces(Protocol):
    """Where pictures are, such as `m2kr.images.roots.ImageRoots`; as text, it names the places."""

    def fetch(self, paths: Iterable[str]) -> None:
        """Fetch those that are elsewhere."""

    def has(self, path: str) -> bool:
        """Whether the picture of an ``img_path`` is there."""


def leaves_root(path: pl.Expr) -> pl.Expr:
    """Return where a path from data could point outside the folder it is relative to.

    That is an absolute path, a drive, a backslash, a null byte or a ``..`` component. `m2kr.images.roots.ImageRoots`
    refuses such paths again when it opens them.
    """
    return path.str.contains(r"^[/~]|^[A-Za-z]:|\\|\x00|(^|/)\.\.(/|$)")


def check_columns(config: str, found: pa.Schema, where: str) -> None:
    """Check that ``found`` has the columns of ``config`` in order, with their types.

    ``question`` may have the type null, as in the published CC, which has none. Passages may have pictures besides.

    Raises:
        DatasetError: naming the first column that differs.
    """
    pictured = takes_passage_images(config) and PASSAGE_IMAGE in found.names
    expected = arrow_schema(config, passage_images=pictured)
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
        kind = found.field(field.name).type
        if kind != field.type and not (field.name == "question" and pa.types.is_null(kind)):
            raise DatasetError(f"{where}: column {field.name} has type {kind}, {config} wants {field.type}.")


def check_usable(
    task: Task, split: str, queries: pl.DataFrame | pl.LazyFrame, passages: pl.DataFrame | pl.LazyFrame, place: str = ""
) -> None:
    """Check the tables of a split that is to be used: columns, types, ids, and nulls where none may be, but no text.

    It is more lenient than `check_columns`, for tables that others wrote: columns beyond the format are let be, and so
    are columns without any value, numbers of another width, and strings where the format has nulls only.

    Args:
        task: the task.
        split: its query split.
        queries: rows of ``<TASK>_data`` of that split.
        passages: rows of ``<TASK>_passages`` of that split.
        place: where they are from, for messages.

    Raises:
        DatasetError: naming the first column or row that is wrong, and how many rows are.
    """
    needed = ["question_id", "question", "instruction", "pos_item_ids"]
    needed += ["img_path"] if "img_path" in task.query_columns else []  # answers are optional: questions of one's own
    _check_loaded(task.data_config, queries, f"{task.data_config}/{split}{place}", needed)
    where = f"{task.passages_config}/{split}_passages{place}"
    _check_loaded(task.passages_config, passages, where, ("passage_id", "passage_content"))


def _check_loaded(config: str, table: pl.DataFrame | pl.LazyFrame, where: str, needed: Sequence[str]) -> None:
    # To stream what is in memory takes eight times as long where it is a few hundred rows, and saves no memory.
    engine: _Engine = "in-memory" if isinstance(table, pl.DataFrame) else "streaming"
    rows = table.lazy()
    schema = rows.collect_schema()
    if lacking := [name for name in needed if name not in schema]:
        raise DatasetError(f"{where} has no column {', '.join(lacking)}; it is not in the M2KR format.")
    row_id = needed[0]
    for name, wanted in polars_schema(config, passage_images=takes_passage_images(config)).items():
        found = schema.get(name, wanted)
        if not _serves(found, wanted) or (name == row_id and found != wanted):
            raise DatasetError(f"{where}: column {name} has type {found}, {config} wants {wanted}.")
    doubtful = (pl.col(row_id).n_unique() < pl.len()) | _blank(row_id).any() | _long(row_id).any()
    if rows.select(doubtful).collect(engine=engine).item():
        _refuse(_id_problems(rows, row_id, where))
    read_as_lists = [name for name in (*needed, "answers") if isinstance(schema.get(name), pl.List)]
    problems = _null_problems(rows, read_as_lists, row_id, where)
    if "passage_content" in needed:
        problems.append(_Problem(where, rows, row_id, "the passage has no text", pl.col("passage_content").is_null()))
    _refuse(problems, engine)


def _serves(found: pl.DataType | DataTypeClass, wanted: pl.DataType | DataTypeClass) -> bool:
    """Whether values of a type can be used where the format has another."""
    if isinstance(found, pl.List) and isinstance(wanted, pl.List):
        return _serves(found.inner, wanted.inner)
    if isinstance(found, pl.Struct) and isinstance(wanted, pl.Struct):
        pairs = zip(found.fields, wanted.fields, strict=False)
        return len(found.fields) == len(wanted.fields) and all(
            one.name == other.name and _serves(one.dtype, other.dtype) for one, other in pairs
        )
    return (
        found in (wanted, pl.Null)
        or (wanted == pl.Null and found == pl.String)
        or (wanted.is_integer() and found.is_integer())
        or (wanted.is_float() and found.is_numeric())
    )


@dataclass(frozen=True)
class _Problem:
    """Rows that break one rule: those of a table where ``wrong`` is true, or all. They have the column ``row_id``."""

    where: str
    table: pl.LazyFrame
    row_id: str
    says: str
    wrong: pl.Expr | None = None


def _refuse(problems: Sequence[_Problem], engine: _Engine = "streaming") -> None:
    """Raise for the first problem that has any row, naming its first row and the count.

    Each table is read once for all that may be wrong with it. Rows are looked for only where there are any.
    """
    found: set[int] = set()
    for table in {id(problem.table): problem.table for problem in problems}.values():
        own = {number: problem.wrong for number, problem in enumerate(problems) if problem.table is table}
        any_row = {str(number): pl.len() > 0 if wrong is None else wrong.any() for number, wrong in own.items()}
        told = table.select(**any_row).collect(engine=engine).row(0, named=True)
        found.update(number for number in own if told[str(number)])
    for number in sorted(found):
        problem = problems[number]
        rows = problem.table if problem.wrong is None else problem.table.filter(problem.wrong)
        summary = rows.select(count=pl.len(), first=pl.col(problem.row_id).first())
        count, first = summary.collect(engine=engine).row(0)
        more = f" ({count:,} rows in all)" if count > 1 else ""
        raise DatasetError(f"{problem.where}, row {problem.row_id}={first!r:.200}: {problem.says}{more}.")


def check_split(
    task: Task,
    split: str,
    data: pl.LazyFrame,
    passages: pl.LazyFrame,
    images: ImagePlaces | None = None,
    *,
    positives: pl.LazyFrame | None = None,
    pool: pl.LazyFrame | None = None,
) -> dict[str, int]:
    """Check one split of a built task against the rules of the format.

    Ids are present and unique; no positive and no answer is null; no passage is empty; every query has an image or a
    question; ``pos_item_ids`` and ``pos_item_contents`` are parallel, every positive is a passage of this split, and
    its content is that passage's; no image path of a query or passage leaves its root; with ``images``, every query's
    image is there.

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
    with TemporaryDirectory(prefix="m2kr-check-") as folder:
        queries_at = f"{task.data_config}/{split}"
        passages_at = f"{task.passages_config}/{split}_passages"
        # A column without any value has the type null, which holds no strings to look at.
        asked = [name for name in ("question", "img_path") if task.query_columns[name] != "null"]
        if pool is None:
            pool = _kept(hash_passages(passages), Path(folder) / "passages.parquet")
        listed = [name for name in ("pos_item_ids", "answers") if name in task.query_columns]
        _refuse(
            [
                *_id_problems(pool, "passage_id", passages_at),
                *_id_problems(data, "question_id", queries_at),
                *_null_problems(data, listed, "question_id", queries_at),
            ]
        )
        try:
            if positives is None:
                positives = _kept(hash_positives(data), Path(folder) / "positives.parquet")
        except pl.exceptions.PolarsError:
            uneven = pl.col("pos_item_ids").list.len() != pl.col("pos_item_contents").list.len()
            says = "its positives' ids and contents differ in number"
            _refuse([_Problem(queries_at, data, "question_id", says, uneven)])
            raise
        broken = _broken(positives, pool)
        problems = [
            _Problem(passages_at, pool, "passage_id", "the passage has no text", pl.col("blank")),
            _Problem(
                queries_at,
                data,
                "question_id",
                "the query has neither a question nor an image",
                pl.all_horizontal(map(_blank, asked)),
            ),
            _Problem(
                queries_at,
                broken,
                "question_id",
                f"a positive is no passage of {passages_at}",
                pl.col("known").is_null(),
            ),
            _Problem(queries_at, broken, "question_id", "the content of a positive is not the passage's"),
        ]
        for where, rows, row_id in ((queries_at, data, "question_id"), (passages_at, passages, "passage_id")):
            if rows.collect_schema().get("img_path") == pl.String:
                outside = leaves_root(pl.col("img_path"))
                problems.append(_Problem(where, rows, row_id, "the image path leaves its root", outside))
        _refuse(problems)
        counts = data.select(
            queries=pl.len(),
            positives=pl.col("pos_item_ids").list.len().sum(),
            without_positive=(pl.col("pos_item_ids").list.len() == 0).sum(),
        ).collect(engine="streaming")
        height = pool.select(pl.len()).collect(engine="streaming").item()
        result = {**counts.row(0, named=True), "passages": height}
        result["images"] = check_images(data, queries_at, images) if task.reads_images else 0
        return {name: int(value or 0) for name, value in result.items()}


def hash_passages(passages: pl.LazyFrame) -> pl.LazyFrame:
    """Return what `check_split` has to know of passages: ``passage_id``, ``known`` (a hash) and ``blank`` (no text).

    To look at the texts takes most of the time of a check, so each is read once; and to carry millions of texts into a
    join would not fit. Hashes are equal for equal texts in one process, and mean nothing beyond it.
    """
    return passages.select("passage_id", known=pl.col("passage_content").hash(), blank=_blank("passage_content"))


def hash_positives(data: pl.LazyFrame) -> pl.LazyFrame:
    """Return what `check_split` has to know of queries' positives: ``question_id``, ``id`` and ``content`` (a hash).

    To collect it raises PolarsError where a query has not as many ids as contents.
    """
    pairs = data.select("question_id", id="pos_item_ids", content="pos_item_contents").explode(
        "id", "content", empty_as_null=False, keep_nulls=False
    )
    return pairs.with_columns(pl.col("content").hash())


def _kept(rows: pl.LazyFrame, path: Path) -> pl.LazyFrame:
    """Write what is looked at several times, and is too dear to be made or too large to be held each time."""
    rows.sink_parquet(path, compression="snappy")
    return pl.scan_parquet(path)


def _broken(positives: pl.LazyFrame, pool: pl.LazyFrame) -> pl.LazyFrame:
    """Return the positives that the pool does not have as they are, in their order; ``known`` is null if not at all."""
    texts = pool.select("known", id="passage_id")
    found = []
    for own, known in parts_by_hash((positives.with_row_index("_row"), "id"), (texts, "id")):
        unlike = own.join(known, left_on=["id", "content"], right_on=["id", "known"], how="anti")
        found.append(unlike.join(known, on="id", how="left").collect(engine="streaming"))
    return pl.concat(found).sort("_row").lazy()


def _blank(column: str) -> pl.Expr:
    text = pl.col(column).cast(pl.String)  # a column without any value may have the type null
    return text.is_null() | (text.str.strip_chars() == "")


def _long(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).str.len_bytes() > MAX_ID_BYTES


def _id_problems(frame: pl.LazyFrame, column: str, where: str) -> list[_Problem]:
    repeated = [
        part.group_by(column).len().filter(pl.col("len") > 1).select(column).collect(engine="streaming")
        for (part,) in parts_by_hash((frame.select(column), column))
    ]
    return [
        _Problem(where, frame, column, "the id is empty", _blank(column)),
        _Problem(where, frame, column, f"the id has more than {MAX_ID_BYTES:,} bytes", _long(column)),
        _Problem(where, pl.concat(repeated).sort(column).lazy(), column, "the id stands more than once"),
    ]


def _null_problems(frame: pl.LazyFrame, columns: Sequence[str], row_id: str, where: str) -> list[_Problem]:
    lists = {name: pl.col(name).list for name in columns}
    return [
        _Problem(where, frame, row_id, f"a null stands among {name}", each.len() != each.drop_nulls().list.len())
        for name, each in lists.items()
    ]


def doubts(task: Task, data: pl.LazyFrame, passages: pl.LazyFrame) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield what keeps a split that `check_split` passes from being evaluated, or makes its figures doubtful.

    Yields:
        The config, what is wrong, and the first question ids of which it is.
    """
    for config, rows, column in (
        (task.data_config, data, "question"),
        (task.passages_config, passages, "passage_content"),
    ):
        if not rows.select(pl.len()).collect().item():
            yield config, "there are no rows, so the split cannot be evaluated", ()
        elif said := _windows_line_ends(rows, column):
            yield config, said, ()
    if task.reads_images:
        without = data.filter(pl.col("img_path").is_null())
        count, first = without.select(pl.len(), pl.col("question_id").head(_NAMED).implode()).collect().row(0)
        if count:
            yield task.data_config, f"{count:,} queries have no image path", tuple(first)
    if task.takes_passage_images and passages.collect_schema().get(PASSAGE_IMAGE) == pl.String:
        asked = data.select("question_id", "img_path", passage_id="pos_item_ids").explode(
            "passage_id", empty_as_null=False, keep_nulls=False
        )
        shared = asked.drop_nulls().join(passages, on=["passage_id", "img_path"]).unique("question_id")
        found = shared.select(pl.len(), pl.col("question_id").sort().head(_NAMED).implode()).collect(engine="streaming")
        count, first = found.row(0)
        if count:
            says = f"{count:,} queries ask with the picture of a positive passage, by which it is found"
            yield task.data_config, says, tuple(first)


def _windows_line_ends(rows: pl.LazyFrame, column: str) -> str:
    """Return what is wrong where most texts end in a carriage return: their raw file had lines of Windows."""
    if rows.collect_schema()[column] != pl.String:
        return ""
    ending = pl.col(column).str.ends_with("\r").sum()
    count, texts = rows.select(ending, pl.col(column).count().alias("texts")).collect(engine="streaming").row(0)
    if count * 2 <= texts:
        return ""
    return (
        f"{count:,} of {texts:,} texts in {column} end in a carriage return: the raw file had Windows line ends. "
        "Build the task again."
    )


def check_images(data: pl.LazyFrame, where: str, images: ImagePlaces | None, *, row_id: str = "question_id") -> int:
    """Return the number of distinct images of queries, or of passages, each of which has to be there."""
    paths = data.select(row_id, "img_path").drop_nulls("img_path")
    count = 0
    missing: list[tuple[str, str]] = []  # path and row
    for (part,) in parts_by_hash((paths, "img_path")):
        if images is None:
            count += int(part.select(pl.col("img_path").n_unique()).collect(engine="streaming").item())
            continue
        rows = part.unique("img_path", keep="first").sort("img_path").collect(engine="streaming")
        images.fetch(rows["img_path"])
        missing += [(path, name) for name, path in rows.iter_rows() if not images.has(path)]
        count += rows.height
    if missing:
        path, name = min(missing)
        more = f" ({len(missing):,} images in all)" if len(missing) > 1 else ""
        raise DatasetError(f"{where}, row {row_id}={name!r}: the image {path} is not in {images}{more}.")
    return count
