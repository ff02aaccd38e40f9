"""The files of an export (`m2kr.export`), and how each form of them is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import polars as pl
import pyarrow as pa

from m2kr import __version__
from m2kr.common.files import atomic, digest, write_json
from m2kr.common.json_input import read_json
from m2kr.common.locks import is_unclaimed
from m2kr.common.templates import render
from m2kr.errors import M2KRError
from m2kr.formats.integrity import ReadFile
from m2kr.formats.shards import read_batches, write_shards
from m2kr.images.roots import ImageRoots
from m2kr.results.run import escaped_ids
from m2kr.tasks import BENCHMARK_CITATION, PASSAGE_IMAGE, TASKS, Task

if TYPE_CHECKING:
    from tqdm import tqdm

MANIFEST = "export.json"
"""In every folder of an export: what is in it. A folder with other content and without this file is not written to."""

BATCH_ROWS = 20_000
"""Rows that are read, and written, at once."""

GROUP_BYTES = 8_000_000
"""Of pictures in a row group of mteb's queries; one picture more than that at most."""

SHARD_BYTES = 400_000_000
"""Of the Parquet shards of mteb, before compression; one row group more than that at most."""


@dataclass(frozen=True)
class ExportedSplit:
    """One split of one task, ready to be written.

    Attributes:
        task: the task.
        split: query split.
        queries: columns ``id``, ``text`` (with the instruction, if asked for), ``question`` and, where the task has
            pictures, ``img_path``.
        qrels: columns ``query-id``, ``corpus-id``, ``score`` (1; 0 for the stand-in of a query without a positive).
        passages: shards of the passages.
        rows: number of passages.
        images: where pictures are; None where none are written.
        query_images: whether the queries' pictures are written.
        passage_images: whether those of passages are.
        fingerprint: identifies the tables, as in result files.
        synthetic: whether the data are made up.
        files: the shards that it is read from.
    """

    task: Task
    split: str
    queries: pl.DataFrame
    qrels: pl.DataFrame
    passages: list[Path]
    rows: int
    images: ImageRoots | None
    query_images: bool
    passage_images: bool
    fingerprint: str
    synthetic: bool
    files: tuple[ReadFile, ...]

    def check_unchanged(self) -> None:
        """Check that the shards, and packed images, are as they were when they were read.

        Raises:
            M2KRError: they are not.
        """
        for file in self.files:
            file.check_unchanged()
        if self.images is not None:
            self.images.check_unchanged()

    @property
    def name(self) -> str:
        """Name of its folder; that of its result file, too."""
        return self.task.key if self.split == "test" else f"{self.task.key}.{self.split}"


class _Part(TypedDict):
    key: str
    task: str
    split: str
    dataset: str
    synthetic: bool
    queries: int
    passages: int
    images: bool
    instructions: bool
    passage_images: NotRequired[int]


class _Manifest(TypedDict):
    format: int
    m2kr: str
    to: str
    parts: dict[str, _Part]


def read_folder(out: Path, to: str) -> dict[str, Any]:
    """Return the manifest of the folder of an export; an empty one where the folder is new or empty.

    Raises:
        M2KRError: it holds an export to another form, or something else.
    """
    path = out / MANIFEST
    if path.is_file():
        manifest: dict[str, Any] = {**read_json(path, _Manifest, "manifest of an export", "Name another folder.")}
        if (manifest["format"], manifest["to"]) != (1, to):
            raise M2KRError(f"{out} holds an export to {manifest['to']!r}, not to {to!r}. Name another folder.")
        return {**manifest, "m2kr": __version__}
    if not is_unclaimed(out, MANIFEST):
        raise M2KRError(f"{out} holds something that no export wrote (it has no {MANIFEST}). Name another folder.")
    return {"format": 1, "m2kr": __version__, "to": to, "parts": {}}


def open_folder(out: Path, to: str) -> dict[str, Any]:
    """Return the manifest of the folder of an export, as `read_folder`, and write it where there is none."""
    manifest = read_folder(out, to)
    if not (out / MANIFEST).is_file():
        write_json(out / MANIFEST, manifest)  # at once: after a kill, the folder is known to be ours
    return manifest


def read_passages(shards: Iterable[Path], *, images: bool = False) -> Iterator[pl.DataFrame]:
    """Yield frames of ``id``, ``text`` and, with ``images``, ``img_path``, in order.

    Where they are cut depends on the files alone.
    """
    more = [PASSAGE_IMAGE] if images else []
    for batch in read_batches(shards, ["passage_id", "passage_content", *more], BATCH_ROWS):
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        yield frame.select(*more, id="passage_id", text=pl.col("passage_content").fill_null(""))


# --- TREC and BEIR ---

# Whatever some reader takes for the end of a line or of a field.
_BREAKS = r"[\t\n\r\x0b\x0c\x1c-\x1e\u{85}\u{2028}\u{2029}]+"


def _write_lines(
    path: Path, split: ExportedSplit, bar: tqdm[Any], columns: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    """Write the passages as JSON lines of the columns that are made of ``id`` and ``text``."""
    with path.open("wb") as file:
        for passages in read_passages(split.passages):
            columns(passages).write_ndjson(file)
            bar.update(passages.height)


def _write_trec(folder: Path, split: ExportedSplit, bar: tqdm[Any]) -> None:
    """Write the three files of TREC. White space in ids is written as %XX; line breaks and tabs of queries as blanks.

    The texts of passages are as they are: JSON can hold anything.
    """
    plain: Any = {"quote_style": "never", "include_header": False}
    queries = split.queries.select(escaped_ids(split.queries["id"]), pl.col("text").str.replace_all(_BREAKS, " "))
    queries.write_csv(folder / "queries.tsv", separator="\t", **plain)
    bar.update(queries.height)
    _write_lines(
        folder / "collection.jsonl", split, bar, lambda rows: rows.select(escaped_ids(rows["id"]), contents="text")
    )
    names = (escaped_ids(split.qrels[column]) for column in ("query-id", "corpus-id"))
    qrels = split.qrels.select(next(names), pl.lit("0").alias("iteration"), next(names), "score")
    qrels.write_csv(folder / "qrels.txt", separator=" ", **plain)


def _write_beir(folder: Path, split: ExportedSplit, bar: tqdm[Any]) -> None:
    """Write the three files of BEIR. The qrels are quoted where they have to be, as Python's csv module reads them.

    Raises:
        M2KRError: an id of the qrels holds a line break, which BEIR's reader turns into another.
    """
    for column in ("query-id", "corpus-id"):
        broken = split.qrels.filter(pl.col(column).str.contains(r"[\r\n]"))[column]
        if len(broken):
            raise M2KRError(f"the id {broken[0]!r} of {split.name} holds a line break, which no BEIR file can hold.")
    named = pl.col("id").alias("_id")
    split.queries.select(named, "text").write_ndjson(folder / "queries.jsonl")
    bar.update(split.queries.height)
    title = pl.lit("").alias("title")
    _write_lines(folder / "corpus.jsonl", split, bar, lambda rows: rows.select(named, title, "text"))
    (folder / "qrels").mkdir()
    split.qrels.write_csv(folder / "qrels" / f"{split.split}.tsv", separator="\t", quote_style="necessary")


# --- mteb ---


def _write_mteb(folder: Path, split: ExportedSplit, bar: tqdm[Any]) -> None:
    """Write the shards of the three configs. ``question`` is the text without the instruction; mteb passes it on."""
    from datasets import Features, Image, Value

    text = Value("string")
    image = {"image": Image()}
    asked = {"id": text, "text": text, "question": text, **(image if split.query_images else {})}
    found = {"id": text, "text": text, **(image if split.passage_images else {})}
    passages = read_passages(split.passages, images=split.passage_images)
    for config, columns, tables in (
        ("queries", asked, _watched(_tables(split, [split.queries], pictured=split.query_images), bar)),
        ("corpus", found, _watched(_tables(split, passages, pictured=split.passage_images), bar)),
        ("qrels", {"query-id": text, "corpus-id": text, "score": Value("int32")}, [_to_arrow(split.qrels)]),
    ):
        # Statistics and dictionaries of pictures would be as large as the pictures.
        write_shards(
            folder,
            config,
            Features(columns).arrow_schema,
            tables,
            is_full=lambda _, size, __: size > SHARD_BYTES,
            counted=False,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
        )


def _watched(tables: Iterable[pa.Table], bar: tqdm[Any]) -> Iterator[pa.Table]:
    for table in tables:
        yield table
        bar.update(table.num_rows)


def _tables(split: ExportedSplit, frames: Iterable[pl.DataFrame], *, pictured: bool) -> Iterator[pa.Table]:
    """Yield queries or passages, with their pictures if asked for."""
    for frame in frames:
        if pictured:
            assert split.images is not None
            yield from _with_pictures(frame, split.images)
        else:
            yield _to_arrow(frame.drop("img_path", strict=False))


def _with_pictures(rows: pl.DataFrame, images: ImageRoots) -> Iterator[pa.Table]:
    """Yield rows in tables of about `GROUP_BYTES` of pictures, which are those of their column ``img_path``."""
    pictures: list[dict[str, Any] | None] = []
    first = filled = 0
    for row, path in enumerate(rows["img_path"]):
        content = None
        if path is not None:
            file = images.find(path)
            if file is None:
                raise M2KRError(f"the image {path!r} went away while it was exported. Run it again.")
            content = file.read()
            filled += len(content)
        pictures.append({"bytes": content, "path": PurePosixPath(path).name} if path is not None else None)
        if filled > GROUP_BYTES or len(pictures) == BATCH_ROWS or row + 1 == rows.height:
            texts = _to_arrow(rows[first : row + 1].drop("img_path"))
            kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
            yield texts.append_column("image", pa.array(pictures, kind))
            first, filled, pictures = row + 1, 0, []


def _to_arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def write_card(out: Path, parts: dict[str, Any]) -> None:
    """Write the dataset card, which tells ``load_dataset``, and so mteb, what is where."""
    configs: dict[str, list[dict[str, str]]] = {}
    keys: dict[str, list[str]] = {}
    for name, part in parts.items():
        for config in ("corpus", "queries", "qrels"):
            files = {"split": part["split"], "path": f"{name}/{config}-*.parquet"}
            configs.setdefault(f"{part['task']}-{config}", []).append(files)
            keys.setdefault(f"{part['task']}-{config}", []).append(part["key"])
    tasks = [TASKS[key] for key in dict.fromkeys(part["task"] for part in parts.values())]
    made_up = [name for name, part in parts.items() if part["synthetic"]]
    header = {
        "pretty_name": "M2KR for mteb" + (" (made-up data)" if len(made_up) == len(parts) else ""),
        "language": ["en"],
        "license": sorted({licence.lower() for task in tasks for licence in task.licences}),
        "tags": ["mteb", "retrieval", "multimodal", *(["synthetic"] if made_up else [])],
        "configs": [{"config_name": name, "data_files": files} for name, files in configs.items()],
        # datasets 5.2 finds what it made of a folder before by what its card declares, not by the files.
        "dataset_info": [
            {"config_name": name, "description": f"fingerprint {digest(made_of)}"} for name, made_of in keys.items()
        ],
    }
    page = render(
        "mteb_card.md", header, tasks=tasks, made_up=made_up, parts=parts.values(), benchmark=BENCHMARK_CITATION
    )
    with atomic(out / "README.md", "w") as file:
        file.write(page)


WRITERS: dict[str, Callable[[Path, ExportedSplit, tqdm[Any]], None]] = {
    "trec": _write_trec,
    "beir": _write_beir,
    "mteb": _write_mteb,
}
"""How each form is written: folder, split, progress bar."""
