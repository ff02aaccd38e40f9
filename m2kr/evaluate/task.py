"""Evaluate a retriever: ``python -m m2kr.evaluate --model bm25 --data m2kr-data --tasks all``.

For each task: encode the passages and the queries, search exactly, write the run, score it, write the result. Each of
these is kept when finished, encoded chunks one by one, so that the same command after a kill goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from m2kr import __version__
from m2kr.common.progress import progress, say
from m2kr.errors import M2KRError
from m2kr.tasks import TASKS, Task, parse_tasks

if TYPE_CHECKING:
    from m2kr.common.measure import Phases
    from m2kr.dataset import TaskData
    from m2kr.evaluate.encode import Encoder, ModelType
    from m2kr.results.record import Result, Run
    from m2kr.retriever import Ranker, Retriever
    from m2kr.search.store import StoredType

_RANKED = 256
# Queries that a ranker is given at once: the progress bar moves after each such portion.
_SEARCHED = "searched.json"

_EXAMPLES = """examples:
  python -m m2kr.evaluate --model bm25 --data m2kr-data --tasks MSMARCO
  python -m m2kr.evaluate --model all-minilm-l6-v2 --data m2kr-data --tasks all --ignore-images
  python -m m2kr.evaluate --model ./my-model --data m2kr-data --tasks OKVQA --images raw
  python -m m2kr.evaluate --compare results/bm25 results/my-model --data m2kr-data
"""


def evaluate_task(
    retriever: Retriever | Ranker,
    data: TaskData,
    out: Path,
    *,
    top_k: int = 500,
    batch_size: int = 32,
    device: str = "cpu",
    dtype: ModelType = "float32",
    store_dtype: StoredType | None = None,
    ignore_images: bool = False,
    search_memory: int = 1 << 30,
    workers: int = 0,
    keep_embeddings: bool = False,
    rerun: bool = False,
    quiet: bool = False,
) -> Result:
    """Evaluate a retriever on one task, and write ``<out>/<TASK>.json`` and ``<out>/<TASK>.run.trec.gz``.

    For another split than test the names begin with ``<TASK>.<split>``, and a nano subset adds ``.nano``.

    Args:
        retriever: what to evaluate.
        data: the task's split.
        out: folder of the model's results.
        top_k: passages to keep for each query.
        batch_size: inputs encoded at once. No score depends on it beyond float noise.
        device: where torch searches, several with commas as in `m2kr.search.search`; recorded.
        dtype: of the model and of the stored queries; recorded.
        store_dtype: of the stored passages; None: as ``dtype``. With "int8", what that does to the results is measured
            on at most 200 queries, said and recorded: with all passages where an earlier evaluation kept them in
            ``dtype``, else with some 2,000 of them, which are encoded again. A small sample of passages understates
            the effect, as it leaves out most of the rivals that stand close to a positive.
        ignore_images: let a retriever that reads no images do an image task without them; the result says so.
        search_memory: bytes of scratch the search may use.
        workers: processes that decode pictures; 0 or 1: none. A script that asks for some has to keep its work under
            ``if __name__ == "__main__"``, as they import it.
        keep_embeddings: keep the embeddings in ``<out>/.embeddings`` for later evaluations. Those that are there are
            used in any case.
        rerun: do it again even if it is finished.
        quiet: no progress.

    Returns:
        The result, as written.

    Raises:
        M2KRError: the retriever does not read what the task's queries hold, or has no embeddings to store; a device is
            not there; images are missing or broken; a finished result with other settings is in the way; the disk is
            full.
    """
    from m2kr.common.files import digest, sha256_of
    from m2kr.common.measure import Phases, code_commit, hardware, versions
    from m2kr.evaluate.encode import Encoder, discard, picture_sizes
    from m2kr.metrics import score
    from m2kr.results.record import RESULT_FORMAT, Result, read_result, write_result
    from m2kr.search.exact import parse_devices

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
        "nano": [data.seed, data.queries.height, data.passages.height] if data.nano else None,
        "top_k": top_k,
        "dtype": dtype,
        "store_dtype": store_dtype or dtype,
        "ignored": ignored,
        "instructions": retriever.reads_instructions,
    }
    # Said now, and not when hours of work are to be written down.
    try:
        json.dumps(retriever.settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise M2KRError(f"the settings of {retriever.name} cannot be written to a result file: {error}.") from error
    key = digest(settings)
    name = ".".join([task.key, *([data.split] if data.split != "test" else []), *(["nano"] if data.nano else [])])
    result_path, run_path, work = out / f"{name}.json", out / f"{name}.run.trec.gz", out / f".{name}.work"
    first = device.partition(",")[0].strip()
    encoder = None
    if _is_encoder(retriever):
        encoder = Encoder(retriever, out / ".embeddings", batch_size, first, dtype, workers, quiet, store_dtype)
    elif store_dtype is not None:
        raise M2KRError(f"{retriever.name} makes no embeddings, so none are stored as {store_dtype}. Leave that out.")

    def tidy() -> None:
        if encoder and keep_embeddings:
            encoder.keep(work)
        discard(work)

    if result_path.exists() and not rerun:
        finished = read_result(result_path)
        if finished["key"] != key:
            raise M2KRError(
                f"{result_path} holds a result with other settings (data, split, model or options). "
                "Pass --rerun to replace it, or another --out."
            )
        if run_path.exists() and sha256_of(run_path) == finished["run_sha256"]:
            tidy()  # a kill may have come before
            say(f"{task.key}: finished before, see {result_path}", quiet=quiet)
            return finished
    if encoder:
        parse_devices(device)  # before hours of encoding
    sizes = picture_sizes(data) if with_images else None
    phases = Phases()
    # Ties are broken by passage id, the larger first, as trec_eval does: the search prefers lower rows.
    passages = data.passages.select("passage_id", "passage_content").sort("passage_id", descending=True)
    ids, texts = passages["passage_id"].to_list(), passages["passage_content"].to_list()
    run = _found_run(work, key, run_path, phases)
    if run is None:
        if encoder:
            scores, rows = _encode_and_search(encoder, data, texts, sizes, work, phases, top_k, device, search_memory)
        else:
            scores, rows = _rank(retriever, data, texts, top_k, phases, quiet=quiet)
        run = _write_run(data, ids, scores, rows, run_path, work, key, retriever.name, phases, quiet=quiet)
    effect = None
    if encoder and store_dtype == "int8":
        effect = encoder.effect_of_8_bits(data, passages, sizes, work, phases, device=device, memory=search_memory)
    with phases.measured("score"):
        answers = data.answers
        known = dict(zip(ids, texts, strict=True)) if answers is not None else None
        metrics = score(run, data.qrels, answers=answers, passages=known, quiet=quiet)
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
        nano=data.nano,
        seed=data.seed,
        ignored_inputs=ignored,
        instructions=retriever.reads_instructions,
        search="exact",
        top_k=top_k,
        device=device,
        dtype=dtype,
        store_dtype=store_dtype or dtype,
        quantisation=effect,
        batch_size=batch_size,
        hardware=hardware(first),
        seconds={phase: round(value, 3) for phase, value in phases.seconds.items()},
        reused=phases.reused,
        memory=phases.memory,
        peak_memory=max(phases.memory.values()),
        versions=versions(),
        commit=code_commit(),
        run_sha256=sha256_of(run_path),
        key=key,
    )
    write_result(result_path, result)
    tidy()
    return result


def _is_encoder(retriever: Retriever | Ranker) -> TypeGuard[Retriever]:
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


def _rank(
    retriever: Any, data: TaskData, texts: list[str], top_k: int, phases: Phases, *, quiet: bool
) -> tuple[Any, Any]:
    import numpy as np

    questions = data.query_texts(instructions=retriever.reads_instructions)
    with phases.measured("index"), progress(len(texts), f"{data.task.key} index", unit="passages", quiet=quiet):
        retriever.index(texts)
    parts = []
    with (
        phases.measured("search"),
        progress(len(questions), f"{data.task.key} search", unit="queries", quiet=quiet) as bar,
    ):
        for first in range(0, len(questions), _RANKED):
            parts.append(retriever.rank(questions[first : first + _RANKED], top_k))
            bar.update(len(parts[-1][0]))
    scores, rows = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(rows)


def _encode_and_search(
    encoder: Encoder,
    data: TaskData,
    texts: list[str],
    sizes: list[int] | None,
    work: Path,
    phases: Phases,
    top_k: int,
    device: str,
    memory: int,
) -> tuple[Any, Any]:
    from m2kr.search.exact import search

    passages = encoder.passages(texts, work, data.task.key)
    queries = encoder.queries(data, sizes, work)
    for phase, encoded in (("encode_passages", passages), ("encode_queries", queries)):
        phases.add(phase, encoded.seconds, encoded.memory)
        if encoded.reused:
            phases.reused.append(phase)
    with phases.measured("search"):
        return search(queries.store, passages.store, top_k, device=device, memory=memory, quiet=encoder.quiet)


def _write_run(
    data: TaskData,
    ids: list[str],
    scores: Any,
    rows: Any,
    path: Path,
    work: Path,
    key: str,
    tag: str,
    phases: Phases,
    *,
    quiet: bool,
) -> Run:
    """Write the run, and beside the work that it is finished."""
    from m2kr.common.files import sha256_of, write_json
    from m2kr.results.record import Run

    queries = data.queries["question_id"].to_list()
    run = Run(queries, [[ids[row] for row in found] for found in rows.tolist()], list(scores))
    with phases.measured("write"):
        run.write_trec(path, tag, quiet=quiet)
    facts = {"key": key, "run_sha256": sha256_of(path), "seconds": phases.seconds, "memory": phases.memory}
    write_json(work / _SEARCHED, {**facts, "reused": phases.reused})
    return run


def _found_run(work: Path, key: str, path: Path, phases: Phases) -> Run | None:
    """Return the run that this evaluation wrote before it was killed."""
    from m2kr.common.files import sha256_of
    from m2kr.results.record import Run

    try:
        facts = json.loads((work / _SEARCHED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise M2KRError(f"{work / _SEARCHED} cannot be read ({error}). Delete {work}.") from error
    if facts["key"] != key or not path.is_file() or sha256_of(path) != facts["run_sha256"]:
        return None
    phases.seconds, phases.memory, phases.reused = facts["seconds"], facts["memory"], facts["reused"]
    return Run.read_trec(path)


def add_model_arguments(parser: argparse.ArgumentParser, what: argparse._ActionsContainer | None = None) -> None:
    """Add the arguments that say which retriever is loaded, and how; ``--model`` to ``what``, if it is given."""
    from m2kr.retriever import registered

    (what or parser).add_argument(
        "--model",
        required=what is None,
        help=f"a registered retriever ({', '.join(sorted(registered()))}), or a model folder, or a hub id",
    )
    parser.add_argument("--checkpoint", help="folder or hub id to load instead of the retriever's own")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="a setting of the retriever; repeatable"
    )
    parser.add_argument("--device", default="cpu", help="as torch names it; default cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument(
        "--store-dtype",
        choices=("float32", "float16", "bfloat16", "int8"),
        help="of stored passages; default: --dtype. What int8, the smallest, costs is measured when evaluating",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="inputs encoded at once; default 32")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m m2kr.evaluate",
        description="Evaluate a retriever on M2KR, exactly, and write runs and result files.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    add_model_arguments(parser, what)
    what.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        metavar="RESULT",
        help="instead of evaluating, compare results with the first: files, or folders of a model such as results/bm25",
    )
    parser.add_argument("--data", required=True, help="folder of the benchmark, or a dataset id of the hub")
    parser.add_argument("--tasks", default="all", help="comma-separated, or all (those the folder has this split of)")
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument(
        "--images", action="append", default=[], metavar="[TASK=]ROOT", help="pictures: folder or archive"
    )
    parser.add_argument("--ignore-images", action="store_true", help="evaluate without the queries' images")
    parser.add_argument("--top-k", type=int, default=500, help="passages kept for each query; default 500")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N queries; the result says so")
    parser.add_argument(
        "--nano", action="store_true", help="only a small subset (50 queries), in result files of its own"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the subset that --nano draws; default 0")
    parser.add_argument("--out", type=Path, default=Path("results"), help="default: results")
    parser.add_argument("--workers", type=int, help="processes that decode pictures; default: one per core, at most 4")
    parser.add_argument("--keep-embeddings", action="store_true", help="keep them for later evaluations, in OUT")
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
    if arguments.workers is not None and arguments.workers < 0:
        raise M2KRError(f"--workers is {arguments.workers}; it has to be 0 or more.")
    if arguments.nano and arguments.limit is not None:
        raise M2KRError("--nano and --limit are two ways to take fewer queries. Pass one of them.")
    if arguments.compare is not None:
        from m2kr.evaluate.compare import compare_results

        print(compare_results(arguments.compare, arguments.data))
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from m2kr.common.files import safe_name
    from m2kr.common.options import parse_pairs
    from m2kr.dataset import load_task, nano_subset
    from m2kr.images.roots import parse_roots
    from m2kr.results.record import table
    from m2kr.retriever import get_retriever
    from m2kr.search.exact import parse_devices

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
    first, *others = arguments.device.split(",")
    if others:
        parse_devices(arguments.device)  # before a large model is loaded
    retriever = get_retriever(
        arguments.model,
        checkpoint=arguments.checkpoint,
        device=first.strip(),
        dtype=arguments.dtype,
        options=parse_pairs("--option", arguments.option),
    )
    for task in tasks:  # of all tasks before the first begins
        _ignored_inputs(retriever, task, ignore_images=arguments.ignore_images)
    out = arguments.out / safe_name(retriever.name)
    results = []
    for task in tasks:
        data = load_task(task, arguments.data, arguments.split, images=images, limit=arguments.limit)
        if arguments.nano:
            data = nano_subset(data, seed=arguments.seed)
        results.append(
            evaluate_task(
                retriever,
                data,
                out,
                top_k=arguments.top_k,
                batch_size=arguments.batch_size,
                device=arguments.device,
                dtype=arguments.dtype,
                store_dtype=arguments.store_dtype,
                ignore_images=arguments.ignore_images,
                search_memory=int(arguments.search_memory * (1 << 30)),
                workers=min(4, os.cpu_count() or 1) if arguments.workers is None else arguments.workers,
                keep_embeddings=arguments.keep_embeddings,
                rerun=arguments.rerun,
                quiet=arguments.quiet,
            )
        )
    print(table(results))
    return 0
