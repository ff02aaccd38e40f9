"""Exporting one split of a task of a built benchmark to the files other tools read.

``python -m m2kr.export m2kr-data --to beir --out beir`` makes a folder for each task: ``OKVQA`` for the test split,
``OKVQA.valid`` for another.

| ``--to`` | files | read by |
| --- | --- | --- |
| ``trec`` | ``queries.tsv``, ``collection.jsonl`` (``id``, ``contents``), ``qrels.txt`` | ir_measures, trec_eval |
| ``beir`` | ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv`` | beir's ``GenericDataLoader`` |
| ``mteb`` | Parquet and a card, configs ``<TASK>-corpus``, ``-queries``, ``-qrels`` | `m2kr.export.mteb_task` |

These readers leave out queries that no judgement names. So a query without a positive gets one: relevance 0 for the
first passage. It scores 0, as in `m2kr.metrics`. Pictures, of queries and of passages, are exported to mteb alone. A
query's text is what `m2kr.dataset.query_text` makes of instruction and question. There are no titles: retrievers are
given none here.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from m2kr import __version__
from m2kr.common.files import digest, not_written, write_json
from m2kr.common.locks import clear_lock, one_writer
from m2kr.common.progress import progress, say
from m2kr.common.work import discard, move_into_place
from m2kr.dataset import check_read, query_text
from m2kr.errors import M2KRError
from m2kr.export.files import MANIFEST, WRITERS, ExportedSplit, open_folder, read_folder, read_passages, write_card
from m2kr.formats.integrity import identify
from m2kr.formats.shards import readable, split_shards
from m2kr.images.packed import packed_images
from m2kr.images.roots import ImageRoots
from m2kr.tasks import PASSAGE_IMAGE, TASKS, Task, get_task


def export_task(
    data: Path,
    task: Task | str,
    to: str,
    out: Path,
    *,
    split: str = "test",
    images: ImageRoots | None = None,
    instructions: bool = True,
    ignore_images: bool = False,
    ignore_passage_images: bool = False,
    trust: bool = False,
    quiet: bool = False,
) -> Path:
    """Write one split of a task in another form; see the module.

    It appears when all of it is written, replaces an earlier export of the same split, and is not written again where
    it is there already. Equal tables and options give equal bytes.

    Args:
        data: folder of a built or downloaded benchmark.
        task: the task, or its key.
        to: "trec", "beir" or "mteb".
        out: folder of the export; may hold other tasks in the same form.
        split: query split.
        images: where pictures are, for "mteb". Without it, those packed in ``data``.
        instructions: whether the row's instruction stands in front of the question.
        ignore_images: write "mteb" without the queries' pictures. The other forms hold none anyway.
        ignore_passage_images: write "mteb" without pictures of passages, where these have any.
        trust: compare the sizes of the benchmark's files with its manifest, not their hashes.
        quiet: no progress, no notices.

    Returns:
        The folder of the split, ``<out>/<TASK>``.

    Raises:
        M2KRError: the task or split is not there; its files are not those of the manifest, break a rule of the format,
            or change meanwhile; images are missing; queries would be empty; ``out`` holds something
            else, or cannot be written.
    """
    task = get_task(task)
    if to not in WRITERS:
        raise M2KRError(f"{to!r} is no form to export to. The forms are {', '.join(WRITERS)}.")
    with_images = to == "mteb" and task.reads_images and not ignore_images
    with_passage_images = to == "mteb" and not ignore_passage_images
    part = _read_split(
        data,
        task,
        split,
        images,
        with_images=with_images,
        with_passage_images=with_passage_images,
        instructions=instructions,
        trust=trust,
    )
    sizes = [_sizes(part, part.queries["img_path"], "images")] if with_images else [[]]
    if part.passage_images:
        frames = [frame["img_path"] for frame in read_passages(part.passages, images=True)]
        sizes.append(_sizes(part, pl.concat(frames), "images of passages"))
    key = digest(__version__, to, part.fingerprint, split, instructions, *sizes)
    folder = out / part.name
    finished = _is_exported(out, to, part, key)
    if finished:
        clear_lock(out)
    with nullcontext() if finished else one_writer(out, quiet=quiet):
        if _is_exported(out, to, part, key):  # perhaps by another process, just now
            say(f"{part.name}: exported already, see {folder}", quiet=quiet)
            return folder
        if task.reads_images and not with_images:
            say(f"{part.name}: its queries' images are left out; these files hold texts only", quiet=quiet)
        if passages_with_images(task, part.passages) and not part.passage_images:
            say(f"{part.name}: the images of its passages are left out; these files hold texts only", quiet=quiet)
        choices: dict[str, bool | int] = {"images": with_images, "instructions": instructions}
        if part.passage_images:
            choices["passage_images"] = passages_with_images(task, part.passages)
        _write(part, to, out, key, choices, quiet=quiet)
    return folder


def _is_exported(out: Path, to: str, part: ExportedSplit, key: str) -> bool:
    known = read_folder(out, to)["parts"].get(part.name, {}).get("key") == key
    return known and (out / part.name).is_dir()


def _write(part: ExportedSplit, to: str, out: Path, key: str, choices: dict[str, bool | int], *, quiet: bool) -> None:
    """Write the files of a split, move them into place and note them."""
    manifest = open_folder(out, to)
    if manifest["parts"].pop(part.name, None):
        write_json(out / MANIFEST, manifest)  # a kill in between leaves no entry of what is not there
    work = out / ".build"
    try:
        discard(work)
        work.mkdir(parents=True)
        with progress(part.rows + part.queries.height, f"export {part.name}", quiet=quiet) as bar:
            WRITERS[to](work, part, bar)
        part.check_unchanged()
        move_into_place(work, out / part.name)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise not_written(out / part.name, error) from error
    finally:
        discard(work)
    manifest["parts"][part.name] = {
        "key": key,
        "task": part.task.key,
        "split": part.split,
        "dataset": part.fingerprint,
        "synthetic": part.synthetic,
        "queries": part.queries.height,
        "passages": part.rows,
        **choices,
    }
    order = [*TASKS]
    manifest["parts"] = dict(sorted(manifest["parts"].items(), key=lambda item: (order.index(item[1]["task"]), item)))
    if to == "mteb":
        write_card(out, manifest["parts"])
    write_json(out / MANIFEST, manifest)


def _read_split(
    data: Path,
    task: Task,
    split: str,
    images: ImageRoots | None,
    *,
    with_images: bool,
    with_passage_images: bool,
    instructions: bool,
    trust: bool,
) -> ExportedSplit:
    """Read the queries; of the passages, which may be millions, only what there is."""
    if split not in task.splits:
        raise M2KRError(f"{task.key} has no split {split!r}; it has {', '.join(task.splits)}.")
    files = split_shards(data, task.data_config, split)
    passages = split_shards(data, task.passages_config, f"{split}_passages")
    identity = identify(data, task, [*files, *passages], trust=trust)
    columns = ["question_id", "question", "instruction", "pos_item_ids", *(["img_path"] if task.reads_images else [])]
    with readable(f"{task.key}/{split} in {data}", "Get these files again."):
        check_read(task, split, pl.scan_parquet(files), pl.scan_parquet(passages), data)
        queries = pl.read_parquet(files, columns=columns)
        rows = sum(pq.read_metadata(file).num_rows for file in passages)
        with_passage_images = with_passage_images and passages_with_images(task, passages) > 0
    first = next(read_passages(passages), None)
    if not queries.height or first is None:
        raise M2KRError(f"there are no {'passages' if queries.height else 'queries'} in {task.key}/{split} in {data}.")
    question = queries["question"].cast(pl.String).fill_null("")
    texts = [query_text(lead, text) for lead, text in zip(queries["instruction"], question, strict=True)]
    text = pl.Series(texts, dtype=pl.String) if instructions else question
    if not with_images and not text.str.strip_chars().ne("").any():
        raise M2KRError(
            f"the queries of {task.key} are images ({task.kind}): without images and instructions nothing is left of "
            "them. Leave the task out, or the option that leaves them out."
        )
    roots = None
    if with_images or with_passage_images:
        roots = images.for_task(task) if images else packed_images(data, task, trust=trust)
        if roots is None:
            raise M2KRError(
                f"the {'queries' if with_images else 'passages'} of {task.key} have images, and none are packed in "
                f"{data}. Name their folder with --images, or pass --ignore-{'' if with_images else 'passage-'}images "
                "to export the texts alone."
            )
    shown = {"id": queries["question_id"], "text": text, "question": question}
    if task.reads_images:
        shown["img_path"] = queries["img_path"]
    return ExportedSplit(
        task=task,
        split=split,
        queries=pl.DataFrame(shown),
        qrels=_qrels(queries, first["id"][0]),
        passages=passages,
        rows=rows,
        images=roots,
        query_images=with_images,
        passage_images=with_passage_images,
        fingerprint=identity.fingerprint,
        synthetic=identity.synthetic,
        files=identity.files,
    )


def _qrels(queries: pl.DataFrame, stand_in: str) -> pl.DataFrame:
    pairs = queries.select(pl.col("question_id").alias("query-id"), pl.col("pos_item_ids").alias("corpus-id"))
    judged = pairs.explode("corpus-id", empty_as_null=True, keep_nulls=True).unique(maintain_order=True)
    return judged.with_columns(
        pl.col("corpus-id").fill_null(stand_in), score=pl.col("corpus-id").is_not_null().cast(pl.Int32)
    )


def passages_with_images(task: Task, passages: list[Path]) -> int:
    """Return how many passages, in these shards, have a picture of their own."""
    if not task.takes_passage_images or PASSAGE_IMAGE not in pq.read_schema(passages[0]).names:
        return 0
    counted = pl.scan_parquet(passages).select(pl.col(PASSAGE_IMAGE).count()).collect(engine="streaming")
    return int(counted.item())


def _sizes(part: ExportedSplit, paths: pl.Series, what: str) -> list[tuple[str, int]]:
    """Return path and size of every picture that is to be exported; all are looked for before anything is written."""
    assert part.images is not None
    named = paths.drop_nulls().unique(maintain_order=True)
    part.images.fetch(named)
    found = [(path, part.images.find(path)) for path in named]
    missing = [path for path, file in found if file is None]
    if missing:
        option = "--ignore-images" if what == "images" else "--ignore-passage-images"
        raise M2KRError(
            f"{len(missing):,} of {len(found):,} {what} of {part.task.key} are not in {part.images}, the first is "
            f"{missing[0]}. Name their folder with --images, or pass {option}."
        )
    return [(path, file.size) for path, file in found if file is not None]
