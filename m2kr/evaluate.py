"""Evaluate a retriever: ``python -m m2kr.evaluate --model bm25 --data m2kr-data --tasks all``.

For each task: encode the passages and the queries, search exactly, score, write the run and the result. Encoded chunks
are kept until the task is finished, so that the same command after a kill goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import __version__
from m2kr.errors import M2KRError, run_command
from m2kr.progress import progress, say
from m2kr.tasks import TASKS, Task, parse_tasks

if TYPE_CHECKING:
    from m2kr.dataset import TaskData
    from m2kr.embeddings import EmbeddingStore, StoredType
    from m2kr.results import Result, Run
    from m2kr.retriever import Input, Ranker, Retriever

_CHUNK = 1024
"""Texts encoded between two writes: what a kill costs at most."""

_IMAGE_CHUNK = 256
"""The same for queries with pictures, which are decoded a chunk at a time: about 150 MB of them."""

_EXAMPLES = """examples:
  python -m m2kr.evaluate --model bm25 --data m2kr-data --tasks MSMARCO
  python -m m2kr.evaluate --model all-minilm-l6-v2 --data m2kr-data --tasks all --ignore-images
  python -m m2kr.evaluate --model ./my-model --data m2kr-data --tasks OKVQA --images raw
"""


def evaluate_task(
    retriever: Retriever | Ranker,
    data: TaskData,
    out: Path,
    *,
    top_k: int = 500,
    batch_size: int = 32,
    device: str = "cpu",
    dtype: StoredType = "float32",
    ignore_images: bool = False,
    search_memory: int = 1 << 30,
    rerun: bool = False,
    quiet: bool = False,
) -> Result:
    """Evaluate a retriever on one task, and write ``<out>/<TASK>.json`` and ``<out>/<TASK>.run.trec.gz``.

    For another split than test the names begin with ``<TASK>.<split>``.

    Args:
        retriever: what to evaluate.
        data: the task's split.
        out: folder of the model's results.
        top_k: passages to keep for each query.
        batch_size: inputs encoded at once. No score depends on it beyond float noise.
        device: where torch searches; recorded.
        dtype: of the model and of the stored embeddings; recorded.
        ignore_images: let a retriever that reads no images do an image task without them; the result says so.
        search_memory: bytes of scratch the search may use.
        rerun: do it again even if it is finished.
        quiet: no progress.

    Returns:
        The result, as written.

    Raises:
        M2KRError: the retriever does not read what the task's queries hold; images are missing; a finished result
            with other settings is in the way.
    """
    from m2kr.files import digest
    from m2kr.metrics import score
    from m2kr.results import RESULT_FORMAT, Result, read_result, write_result

    task = data.task
    ignored = _ignored_inputs(retriever, task, ignore_images=ignore_images)
    with_images = task.reads_images and not ignored
    if not data.queries.height:
        raise M2KRError(f"there are no queries in {task.data_config}/{data.split}.")
    settings = {
        "m2kr": __version__,
        "model": retriever.name,
        "model_settings": retriever.settings,
        "task": task.key,
        "split": data.split,
        "dataset": data.fingerprint,
        "queries": data.queries.height if data.limited else None,
        "top_k": top_k,
        "dtype": dtype,
        "ignored": ignored,
        "instructions": retriever.reads_instructions,
    }
    # Said now, and not when hours of work are to be written down.
    try:
        json.dumps(retriever.settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise M2KRError(f"the settings of {retriever.name} cannot be written to a result file: {error}.") from error
    key = digest(settings)
    name = task.key if data.split == "test" else f"{task.key}.{data.split}"
    result_path, run_path = out / f"{name}.json", out / f"{name}.run.trec.gz"
    if result_path.exists() and not rerun:
        finished = read_result(result_path)
        if finished["key"] != key:
            raise M2KRError(
                f"{result_path} holds a result with other settings (data, split, model or options). "
                "Pass --rerun to replace it, or another --out."
            )
        if run_path.exists():
            say(f"{task.key}: finished before, see {result_path}", quiet=quiet)
            return finished
    if with_images:
        _check_images(data)
    seconds: dict[str, float] = {}
    work = out / f".{name}.work"
    # Ties are broken by passage id, the larger first, as trec_eval does: the search prefers lower rows.
    passages = data.passages.select("passage_id", "passage_content").sort("passage_id", descending=True)
    run = (
        _encode_and_search(
            retriever,
            data,
            passages["passage_content"].to_list(),
            work,
            digest(settings, "embeddings"),
            seconds=seconds,
            ids=passages["passage_id"].to_list(),
            top_k=top_k,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            with_images=with_images,
            memory=search_memory,
            quiet=quiet,
        )
        if _is_encoder(retriever)
        else _rank(
            retriever, data, passages["passage_content"].to_list(), passages["passage_id"].to_list(), top_k, seconds
        )
    )
    with _timed(seconds, "score"):
        metrics = score(
            run,
            data.qrels,
            answers=data.answers,
            passages=dict(passages.iter_rows()) if data.answers is not None else None,
        )
    with _timed(seconds, "write"):
        run.write_trec(run_path, retriever.name)
    result = Result(
        format=RESULT_FORMAT,
        model=retriever.name,
        model_settings=retriever.settings,
        task=task.key,
        split=data.split,
        metrics=metrics,
        headline=list(task.metrics),
        queries=data.queries.height,
        passages=passages.height,
        queries_without_positive=sum(not positives for positives in data.qrels.values()),
        dataset=data.fingerprint,
        synthetic=data.synthetic,
        limited=data.limited,
        ignored_inputs=ignored,
        instructions=retriever.reads_instructions,
        search="exact",
        top_k=top_k,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        peak_memory=_peak_memory(),
        versions=_versions(),
        key=key,
    )
    write_result(result_path, result)
    shutil.rmtree(work, ignore_errors=True)
    return result


def _is_encoder(retriever: Retriever | Ranker) -> bool:
    from m2kr.retriever import Retriever

    return isinstance(retriever, Retriever)


def _ignored_inputs(retriever: Retriever | Ranker, task: Task, *, ignore_images: bool) -> list[str]:
    if not task.reads_images or ("image" in retriever.reads and not ignore_images):
        return []
    if not ignore_images:
        raise M2KRError(
            f"{task.key} asks with images ({task.kind}) and {retriever.name} reads only "
            f"{', '.join(sorted(retriever.reads))}. Pass --ignore-images to evaluate it without them; the result will "
            "say so. Or leave the task out with --tasks."
        )
    return ["image"]


def _check_images(data: TaskData) -> None:
    """Look for every image before the passages are encoded, which may take hours."""
    if data.images is None:
        raise M2KRError(f"the queries of {data.task.key} have images. Name their folder with --images.")
    missing = [path for path in data.queries["img_path"] if path is not None and not data.images.has(path)]
    if missing:
        raise M2KRError(
            f"{len(missing):,} of {data.queries.height:,} images of {data.task.key} are not in {data.images}, the "
            f"first is {missing[0]}. Name their folder with --images, or pass --ignore-images."
        )


def _rank(
    retriever: Any, data: TaskData, texts: list[str], ids: list[str], top_k: int, seconds: dict[str, float]
) -> Run:
    with _timed(seconds, "index"):
        retriever.index(texts)
    with _timed(seconds, "search"):
        scores, rows = retriever.rank(data.query_texts(instructions=retriever.reads_instructions), top_k)
    return _as_run(data, ids, scores, rows)


def _encode_and_search(
    retriever: Any,
    data: TaskData,
    texts: list[str],
    work: Path,
    key: str,
    *,
    seconds: dict[str, float],
    ids: list[str],
    top_k: int,
    batch_size: int,
    device: str,
    dtype: StoredType,
    with_images: bool,
    memory: int,
    quiet: bool,
) -> Run:
    from m2kr.embeddings import EmbeddingStore
    from m2kr.search import search

    questions = data.query_texts(instructions=retriever.reads_instructions)

    def passage_inputs(first: int, stop: int) -> list[Input]:
        return list(texts[first:stop])

    def query_inputs(first: int, stop: int) -> list[Input]:
        if not with_images:
            return list(questions[first:stop])
        return [{"text": questions[row], "image": data.query_image(row)} for row in range(first, stop)]

    stores = {}
    for name, count, inputs, encoder, chunk in (
        ("passages", len(texts), passage_inputs, retriever.encode_document, _CHUNK),
        ("queries", len(questions), query_inputs, retriever.encode_query, _IMAGE_CHUNK if with_images else _CHUNK),
    ):
        store = EmbeddingStore(work / name, key, kind=retriever.vectors, dtype=dtype)
        encode = partial(encoder, batch_size=batch_size)
        with _timed(seconds, f"encode_{name}"):
            _encode(store, count, chunk, inputs, encode, f"{data.task.key} encode {name}", quiet=quiet)
        stores[name] = store
    with _timed(seconds, "search"):
        scores, rows = search(stores["queries"], stores["passages"], top_k, device=device, memory=memory, quiet=quiet)
    return _as_run(data, ids, scores, rows)


def _encode(
    store: EmbeddingStore,
    count: int,
    chunk: int,
    inputs: Callable[[int, int], list[Input]],
    encode: Callable[[list[Input]], Any],
    what: str,
    *,
    quiet: bool,
) -> None:
    """Encode what the store lacks, chunk by chunk."""
    with progress(count, what, unit="inputs", quiet=quiet) as bar:
        bar.update(store.rows)
        while store.rows < count:
            first = store.rows
            # A chunk begins at a multiple of the chunk size, as in a run that nothing interrupted.
            stop = min(first - first % chunk + chunk, count)
            embeddings = encode(inputs(first, stop))
            if len(embeddings) != stop - first:
                raise M2KRError(f"{what}: the retriever returned {len(embeddings)} items for {stop - first} inputs.")
            store.append(embeddings)
            bar.update(stop - first)


def _as_run(data: TaskData, ids: list[str], scores: Any, rows: Any) -> Run:
    from m2kr.results import Run

    return Run(
        data.queries["question_id"].to_list(), [[ids[row] for row in found] for found in rows.tolist()], list(scores)
    )


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start


def _peak_memory() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"m2kr": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "sentence-transformers", "bm25s", "ranx"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m m2kr.evaluate",
        description="Evaluate a retriever on M2KR, exactly, and write runs and result files.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="a registered retriever, or a model folder, or a hub id")
    parser.add_argument("--data", required=True, help="folder of the benchmark, or a dataset id of the hub")
    parser.add_argument("--tasks", default="all", help="comma-separated, or all (those the folder has this split of)")
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument("--checkpoint", help="folder or hub id to load instead of the retriever's own")
    parser.add_argument(
        "--images", action="append", default=[], metavar="[TASK=]ROOT", help="pictures: folder or archive"
    )
    parser.add_argument("--ignore-images", action="store_true", help="evaluate without the queries' images")
    parser.add_argument("--top-k", type=int, default=500, help="passages kept for each query; default 500")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N queries; the result says so")
    parser.add_argument("--out", type=Path, default=Path("results"), help="default: results")
    parser.add_argument("--device", default="cpu", help="as torch names it; default cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=32, help="inputs encoded at once; default 32")
    parser.add_argument("--search-memory", type=float, default=1.0, metavar="GIB", help="scratch for search; default 1")
    parser.add_argument("--rerun", action="store_true", help="do finished tasks again")
    parser.add_argument("--quiet", action="store_true", help="no progress, no notices; only the table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    arguments = _parser().parse_args(argv)
    for name in ("top_k", "batch_size", "limit"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise M2KRError(f"--{name.replace('_', '-')} is {value}; it has to be 1 or more.")
    if not arguments.search_memory > 0:
        raise M2KRError(f"--search-memory is {arguments.search_memory}; it has to be more than 0.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from m2kr.dataset import load_task
    from m2kr.files import safe_name
    from m2kr.images import parse_roots
    from m2kr.results import table
    from m2kr.retriever import get_retriever

    folder = Path(arguments.data)
    there = [task for task in TASKS.values() if arguments.split in task.splits]
    if folder.is_dir():
        there = [task for task in there if any((folder / task.data_config).glob(f"{arguments.split}-*.parquet"))]
        if not there:
            raise M2KRError(
                f"{folder} holds no task with a {arguments.split} split. Build one with python -m m2kr.build."
            )
    elif folder.exists():
        raise M2KRError(f"--data {folder} is a file. Name the folder of a benchmark, or a dataset id of the hub.")
    tasks = parse_tasks(arguments.tasks, [task.key for task in there])
    lacking = [task.key for task in tasks if task not in there]
    if lacking:
        raise M2KRError(
            f"{arguments.data} has no {arguments.split} split of {', '.join(lacking)}; "
            f"it has one of {', '.join(task.key for task in there)}."
        )
    images = parse_roots(arguments.images) if arguments.images else None
    retriever = get_retriever(
        arguments.model, checkpoint=arguments.checkpoint, device=arguments.device, dtype=arguments.dtype
    )
    for task in tasks:  # of all tasks before the first begins
        _ignored_inputs(retriever, task, ignore_images=arguments.ignore_images)
    out = arguments.out / safe_name(retriever.name)
    results = []
    for task in tasks:
        data = load_task(task, arguments.data, arguments.split, images=images, limit=arguments.limit)
        results.append(
            evaluate_task(
                retriever,
                data,
                out,
                top_k=arguments.top_k,
                batch_size=arguments.batch_size,
                device=arguments.device,
                dtype=arguments.dtype,
                ignore_images=arguments.ignore_images,
                search_memory=int(arguments.search_memory * (1 << 30)),
                rerun=arguments.rerun,
                quiet=arguments.quiet,
            )
        )
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
