"""The files of an export (`m2kr.export`): what is read of a benchmark, and how each form is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from m2kr import __version__
from m2kr.errors import M2KRError
from m2kr.tasks import BENCHMARK_CITATION, TASKS, Task

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from tqdm import tqdm

    from m2kr.images.roots import ImageRoots

MANIFEST = "export.json"
"""In every folder of an export: what is in it. A folder with other content and without this file is not written to."""

_BATCH_ROWS = 20_000
_GROUP_BYTES = 8_000_000
_SHARD_BYTES = 400_000_000
"""Of the Parquet shards of mteb, before compression; one row group more than that at most."""


@dataclass(frozen=True)
class Part:
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
        fingerprint: identifies the tables, as in result files.
        synthetic: whether the data are made up.
    """

    task: Task
    split: str
    queries: pl.DataFrame
    qrels: pl.DataFrame
    passages: list[Path]
    rows: int
    images: ImageRoots | None
    fingerprint: str
    synthetic: bool

    @property
    def name(self) -> str:
        """Name of its folder; that of its result file, too."""
        return self.task.key if self.split == "test" else f"{self.task.key}.{self.split}"


def open_folder(out: Path, to: str) -> dict[str, Any]:
    """Return the manifest of the folder of an export; begin one where the folder is new or empty."""
    from m2kr.common.files import write_json

    path = out / MANIFEST
    if path.is_file():
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            known = (manifest["format"], manifest["to"]) == (1, to) and isinstance(manifest["parts"], dict)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise M2KRError(f"{path} is not a manifest of an export. Name another folder.") from error
        if not known:
            raise M2KRError(f"{out} holds an export to {manifest['to']!r}, not to {to!r}. Name another folder.")
        return dict(manifest, m2kr=__version__)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise M2KRError(f"{out} holds something that no export wrote (it has no {MANIFEST}). Name another folder.")
    manifest = {"format": 1, "m2kr": __version__, "to": to, "parts": {}}
    write_json(path, manifest)  # at once: after a kill, the folder is known to be ours
    return manifest


def read_passages(files: Iterable[Path]) -> Iterator[pl.DataFrame]:
    """Yield frames of ``id`` and ``text``, in order; where they are cut depends on the files alone."""
    import polars as pl
    import pyarrow.parquet as pq

    for file in files:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=["passage_id", "passage_content"]):
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                yield frame.select(id="passage_id", text=pl.col("passage_content").fill_null(""))


# --- TREC and BEIR ---

# Whatever some reader takes for the end of a line or of a field.
_BREAKS = r"[\t\n\r\x0b\x0c\x1c-\x1e\u{85}\u{2028}\u{2029}]+"


def _trec_ids(ids: pl.Series) -> pl.Series:
    """Return ids as `m2kr.results.Run.write_trec` writes them, so that a run and these files name the same things."""
    import polars as pl

    from m2kr.results.record import _escape

    if not ids.str.contains(r"[\s%\x1c-\x1f]").any():
        return ids
    return pl.Series(ids.name, [_escape(name) for name in ids], dtype=pl.String)


def _write_trec(folder: Path, part: Part, bar: tqdm[Any]) -> None:
    """Write the three files of TREC. White space in ids is written as %XX; line breaks and tabs of queries as blanks.

    The texts of passages are as they are: JSON can hold anything.
    """
    import polars as pl

    plain: Any = {"quote_style": "never", "include_header": False}
    queries = part.queries.select(_trec_ids(part.queries["id"]), pl.col("text").str.replace_all(_BREAKS, " "))
    queries.write_csv(folder / "queries.tsv", separator="\t", **plain)
    bar.update(queries.height)
    with (folder / "collection.jsonl").open("wb") as file:
        for passages in read_passages(part.passages):
            passages.select(_trec_ids(passages["id"]), contents="text").write_ndjson(file)
            bar.update(passages.height)
    qrels = part.qrels.select(
        _trec_ids(part.qrels["query-id"]), pl.lit("0").alias("iteration"), _trec_ids(part.qrels["corpus-id"]), "score"
    )
    qrels.write_csv(folder / "qrels.txt", separator=" ", **plain)


def _write_beir(folder: Path, part: Part, bar: tqdm[Any]) -> None:
    """Write the three files of BEIR. The qrels are quoted where they have to be, as Python's csv module reads them.

    Raises:
        M2KRError: an id of the qrels holds a line break, which BEIR's reader turns into another.
    """
    import polars as pl

    for column in ("query-id", "corpus-id"):
        broken = part.qrels.filter(pl.col(column).str.contains(r"[\r\n]"))[column]
        if len(broken):
            raise M2KRError(f"the id {broken[0]!r} of {part.name} holds a line break, which no BEIR file can hold.")
    part.queries.select(pl.col("id").alias("_id"), "text").write_ndjson(folder / "queries.jsonl")
    bar.update(part.queries.height)
    with (folder / "corpus.jsonl").open("wb") as file:
        for passages in read_passages(part.passages):
            passages.select(pl.col("id").alias("_id"), pl.lit("").alias("title"), "text").write_ndjson(file)
            bar.update(passages.height)
    (folder / "qrels").mkdir()
    part.qrels.write_csv(folder / "qrels" / f"{part.split}.tsv", separator="\t", quote_style="necessary")


# --- mteb ---


def _write_mteb(folder: Path, part: Part, bar: tqdm[Any]) -> None:
    """Write the shards of the three configs. ``question`` is the text without the instruction; mteb passes it on."""
    from datasets import Features, Image, Value

    text = Value("string")
    features = {"id": text, "text": text, "question": text, **({"image": Image()} if part.images else {})}
    _write_shards(folder, "queries", Features(features).arrow_schema, _query_tables(part), bar)
    corpus = Features({"id": text, "text": text}).arrow_schema
    _write_shards(folder, "corpus", corpus, map(_to_arrow, read_passages(part.passages)), bar)
    qrels = Features({"query-id": text, "corpus-id": text, "score": Value("int32")}).arrow_schema
    _write_shards(folder, "qrels", qrels, [_to_arrow(part.qrels)], None)


def _query_tables(part: Part) -> Iterator[pa.Table]:
    """Yield the queries in tables of about `_GROUP_BYTES` of pictures."""
    import pyarrow as pa

    if part.images is None:
        yield _to_arrow(part.queries.select("id", "text", "question"))
        return
    pictures: list[dict[str, Any] | None] = []
    first = filled = 0
    for row, path in enumerate(part.queries["img_path"]):
        content = None
        if path is not None:
            file = part.images.find(path)
            if file is None:
                raise M2KRError(f"the image {path!r} went away while it was exported. Run it again.")
            content = file.read()
            filled += len(content)
        pictures.append({"bytes": content, "path": PurePosixPath(path).name} if path is not None else None)
        if filled > _GROUP_BYTES or len(pictures) == _BATCH_ROWS or row + 1 == part.queries.height:
            texts = _to_arrow(part.queries[first : row + 1].select("id", "text", "question"))
            kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
            yield texts.append_column("image", pa.array(pictures, kind))
            first, filled, pictures = row + 1, 0, []


def _to_arrow(frame: pl.DataFrame) -> pa.Table:
    import polars as pl

    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _write_shards(
    folder: Path, config: str, schema: pa.Schema, tables: Iterable[pa.Table], bar: tqdm[Any] | None
) -> None:
    """Write tables as ``<config>-NNNNN.parquet``, a row group each."""
    import pyarrow.parquet as pq

    writer = None
    number = filled = 0
    try:
        for table in tables:
            if writer is not None and filled > _SHARD_BYTES:
                writer.close()
                writer, filled = None, 0
            if writer is None:
                # Statistics and dictionaries of pictures would be as large as the pictures.
                writer = pq.ParquetWriter(
                    folder / f"{config}-{number:05d}.parquet",
                    schema,
                    compression="zstd",
                    use_dictionary=False,
                    write_statistics=False,
                )
                number += 1
            writer.write_table(table.cast(schema), row_group_size=max(table.num_rows, 1))
            filled += table.nbytes
            if bar is not None:
                bar.update(table.num_rows)
    finally:
        if writer is not None:
            writer.close()


def write_card(out: Path, parts: dict[str, Any]) -> None:
    """Write the dataset card, which tells ``load_dataset``, and so mteb, what is where."""
    import yaml

    from m2kr.common.files import atomic

    configs: dict[str, list[dict[str, str]]] = {}
    for name, part in parts.items():
        for config in ("corpus", "queries", "qrels"):
            files = {"split": part["split"], "path": f"{name}/{config}-*.parquet"}
            configs.setdefault(f"{part['task']}-{config}", []).append(files)
    tasks = [TASKS[key] for key in dict.fromkeys(part["task"] for part in parts.values())]
    made_up = [name for name, part in parts.items() if part["synthetic"]]
    header = {
        "pretty_name": "M2KR for mteb" + (" (made-up data)" if len(made_up) == len(parts) else ""),
        "language": ["en"],
        "license": sorted({licence.lower() for task in tasks for licence in task.licences}),
        "tags": ["mteb", "retrieval", "multimodal", *(["synthetic"] if made_up else [])],
        "configs": [{"config_name": name, "data_files": files} for name, files in configs.items()],
    }
    lines = [
        "# M2KR for mteb",
        "",
        *(
            ["**" + ", ".join(made_up) + ": made-up data.** Scores compare with no published figure.", ""]
            * bool(made_up)
        ),
        "Load a task with `m2kr.export.mteb_task(folder, name)`. `text` of the queries begins with the instruction "
        "where the table says so; `question` has none.",
        "",
        "| task | split | queries | passages | images | instructions |",
        "| --- | --- | ---: | ---: | --- | --- |",
    ]
    for part in parts.values():
        flags = " | ".join("yes" if part[name] else "no" for name in ("images", "instructions"))
        lines.append(f"| {part['task']} | {part['split']} | {part['queries']:,} | {part['passages']:,} | {flags} |")
    lines += ["", "## Cite", "", "```bibtex", BENCHMARK_CITATION, *(task.citation for task in tasks), "```", ""]
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)
    with atomic(out / "README.md", "w") as file:
        file.write(f"---\n{front}---\n\n" + "\n".join(lines))


WRITERS: dict[str, Callable[[Path, Part, tqdm[Any]], None]] = {
    "trec": _write_trec,
    "beir": _write_beir,
    "mteb": _write_mteb,
}
