"""Answer questions with retrieved passages: ``python -m m2kr.answer --reader NAME --data DIR --run-dir results/bm25``.

A reader answers the questions of OK-VQA, InfoSeek and Encyclopedic-VQA from the first passages of a run, without any
(``--no-retrieval``) or from the positive ones (``--oracle``), and is scored by the official metrics (`m2kr.answer.score`).
Two ways to use k passages: ``joint`` answers once for each, and takes the answer for which the probability of the
passage (softmax of the k retrieval scores) times that of the answer is largest; ``concat`` puts all in one prompt.

Finished chunks are kept, so that the same command after a kill goes on where it was and ends with the same bytes.
Source of ``joint``: Lin and Byrne, "Retrieval Augmented Visual Question Answering with Outside Knowledge", EMNLP 2022.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from m2kr import __version__
from m2kr.answer.score import ANSWER_TASKS
from m2kr.common.progress import say
from m2kr.errors import M2KRError
from m2kr.tasks import TASKS, Task, parse_tasks

if TYPE_CHECKING:
    from m2kr.answer.score import AnswerScores, Equivalence
    from m2kr.dataset import TaskData
    from m2kr.reader import Combine, Evidence, Reader, Source

_EXAMPLES = """examples:
  python -m m2kr.answer --reader blip2-flan-t5-xl --data m2kr-data --run-dir results/bm25 --images raw
  python -m m2kr.answer --reader ./my-vlm --data m2kr-data --tasks OKVQA --run results/bm25/OKVQA.run.trec.gz --k 3
  python -m m2kr.answer --reader ./my-vlm --data m2kr-data --tasks EVQA --oracle --combine concat --bem ./bem
"""


class AnswerResult(TypedDict):
    """A result file of answering. Every key is always there.

    It stands in ``results/<retriever>/answers/<reader>/``, as ``<TASK>.<combine>-<k>.json``, or ``<TASK>.json``
    without passages; ``<TASK>...predictions.jsonl`` beside it has a line for each question. All but ``seconds`` and
    ``peak_memory`` are equal for equal runs.
    """

    # 1; changes when a reader of these files has to change.
    format: int
    # Name of the reader, and what its answers depend on besides: checkpoint, its sha256, prompts, lengths.
    reader: str
    reader_settings: dict[str, Any]
    # Where the passages are from: "run", "oracle" (the positive ones) or "none".
    source: Source
    # Of a run: name of its retriever, and hash of the run file; else null.
    retriever: str | None
    run_sha256: str | None
    # Passages for each question, at most, and how they are used; 0 and null without.
    k: int
    combine: Combine | None
    # Key of the task, and the split of its questions.
    task: str
    split: str
    # Measure -> value between 0 and 1, and its 95 % interval (percentiles of a bootstrap over the questions).
    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    # The measures this task is compared by, first the main one.
    headline: list[str]
    # Settings of the answer-equivalence model that BEM was judged with; null without.
    bem: dict[str, Any] | None
    # Numbers of questions, and of those that had no passage (--allow-missing; all without retrieval).
    queries: int
    queries_without_passages: int
    # Identifies the tables: results of different fingerprints are not comparable.
    dataset: str
    # The data are made up; scores compare with no published figure.
    synthetic: bool
    # Only the first questions were answered, or those of a small subset, drawn with ``seed``.
    limited: bool
    nano: bool
    seed: int | None
    # Kinds of input the task has and the reader was not given: ["image"] after --ignore-images.
    ignored_inputs: list[str]
    device: str
    dtype: str
    batch_size: int
    hardware: str
    # Seconds of wall time that answering took, over all interruptions, and largest resident memory of it, bytes.
    seconds: float
    peak_memory: int
    # As in a result of retrieval.
    versions: dict[str, str]
    commit: str | None
    predictions_sha256: str
    # Digest of all that the answers depend on, and of all that the scores depend on.
    answers_key: str
    key: str


ANSWER_FORMAT = 1


# --- a task ---------------------------------------------------------------------------------------------------------


def answer_task(
    reader: Reader,
    data: TaskData,
    evidence: Evidence,
    out: Path,
    *,
    k: int = 5,
    combine: Combine = "joint",
    bem: Equivalence | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    dtype: str = "float32",
    ignore_images: bool = False,
    workers: int = 0,
    rerun: bool = False,
    quiet: bool = False,
) -> AnswerResult:
    """Answer the questions of a split and score the answers; write a result and the predictions.

    Args:
        reader: what answers.
        data: the questions.
        evidence: their passages, at most ``k`` each.
        out: folder of the retriever's results; the files go to ``<out>/answers/<reader>/``.
        k: passages for each question; recorded.
        combine: how several passages are used; see the module.
        bem: answer-equivalence model, for EVQA. Scoring again with another answers nothing again.
        batch_size: prompts answered at once.
        device: where the reader runs; recorded.
        dtype: of the reader; recorded.
        ignore_images: ask without pictures; the result says so.
        workers: processes that decode pictures; 0 or 1: none.
        rerun: do it again even if it is finished.
        quiet: no progress.

    Raises:
        M2KRError: the task has no answer metric, the reader reads no images, images are missing or broken, or a
            finished result with other settings is in the way.
    """
    from m2kr.common.files import digest, safe_name, sha256_of, write_json
    from m2kr.common.measure import code_commit, hardware, versions
    from m2kr.evaluate.encode import discard, picture_sizes
    from m2kr.reader import Asking, read_lines

    task = data.task
    ignored = check_reader(reader, task, ignore_images=ignore_images)
    if not data.queries.height:
        raise M2KRError(f"there are no questions in {task.data_config}/{data.split}.")
    bare = evidence.source == "none"
    settings = {
        "m2kr": __version__,
        "reader": reader.name,
        "reader_settings": reader.settings,
        "task": task.key,
        "split": data.split,
        "dataset": data.fingerprint,
        "queries": data.queries.height if data.limited else None,
        "nano": [data.seed, data.queries.height, data.passages.height] if data.nano else None,
        "source": evidence.source,
        "run": evidence.run_sha256,
        "k": 0 if bare else k,
        "combine": None if bare else combine,
        "dtype": dtype,
        "ignored": ignored,
        "without": sum(not found for found in evidence.ids),
    }
    answers_key = digest(settings)
    bem = bem if task.key == "EVQA" else None
    key = digest(answers_key, bem.settings if bem else None)
    parts = [task.key, *([data.split] if data.split != "test" else []), *(["nano"] if data.nano else [])]
    name = ".".join([*parts, *([] if bare else [f"{combine}-{k}"])])
    folder = out / "answers" / safe_name(reader.name)
    result_path, predictions_path = folder / f"{name}.json", folder / f"{name}.predictions.jsonl"
    work = folder / f".{name}.work"
    finished = read_answer_result(result_path) if result_path.exists() and not rerun else None
    done: tuple[list[dict[str, Any]], float, int] | None = None
    if finished is not None:
        if finished["answers_key"] != answers_key:
            raise M2KRError(
                f"{result_path} holds a result with other settings (data, run, reader or options). "
                "Pass --rerun to replace it, or another --out."
            )
        if predictions_path.is_file() and sha256_of(predictions_path) == finished["predictions_sha256"]:
            discard(work)  # a kill may have come before
            if finished["key"] == key:
                say(f"{task.key}: finished before, see {result_path}", quiet=quiet)
                return finished
            done = read_lines(predictions_path), finished["seconds"], finished["peak_memory"]
    if done is None:
        if task.reads_images and not ignored:
            picture_sizes(data)  # missing pictures are found out before anything is answered
        asking = Asking(reader, data, evidence, combine, batch_size, workers, bool(ignored), quiet)
        done = asking.all(work, answers_key)
    lines, seconds, memory = done
    scores, intervals = _scored(data, lines, bem)
    _write_predictions(predictions_path, lines, scores)
    result = AnswerResult(
        format=ANSWER_FORMAT,
        reader=reader.name,
        reader_settings=reader.settings,
        source=evidence.source,
        retriever=evidence.retriever,
        run_sha256=evidence.run_sha256,
        k=0 if bare else k,
        combine=None if bare else combine,
        task=task.key,
        split=data.split,
        metrics=scores.metrics,
        intervals=intervals,
        headline=scores.headline,
        bem=bem.settings if bem else None,
        queries=data.queries.height,
        queries_without_passages=sum(not found for found in evidence.ids),
        dataset=data.fingerprint,
        synthetic=data.synthetic,
        limited=data.limited,
        nano=data.nano,
        seed=data.seed,
        ignored_inputs=ignored,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        hardware=hardware(device),
        seconds=round(seconds, 3),
        peak_memory=memory,
        versions=versions(),
        commit=code_commit(),
        predictions_sha256=sha256_of(predictions_path),
        answers_key=answers_key,
        key=key,
    )
    write_json(result_path, result)
    discard(work)
    return result


def check_reader(reader: Reader, task: Task, *, ignore_images: bool) -> list[str]:
    """Return the kinds of input of a task that a reader will not be given.

    Raises:
        M2KRError: the task has no answer metric, or asks with images that the reader does not read.
    """
    if task.key not in ANSWER_TASKS:
        raise M2KRError(f"{task.key} has no answer metric. Those that have one are {', '.join(ANSWER_TASKS)}.")
    if not task.reads_images or ("image" in reader.reads and not ignore_images):
        return []
    if not ignore_images:
        raise M2KRError(
            f"{task.key} asks with images ({task.kind}) and the reader {reader.name} reads only "
            f"{', '.join(sorted(reader.reads))}. Pass --ignore-images to ask it without them; the result will say so."
        )
    return ["image"]


def _scored(
    data: TaskData, lines: list[dict[str, Any]], bem: Equivalence | None
) -> tuple[AnswerScores, dict[str, list[float]]]:
    from m2kr.answer.score import intervals, score_answers

    predictions = {line["question_id"]: line["answer"] for line in lines}
    scores = score_answers(data.task.key, data.queries, predictions, bem=bem)
    return scores, intervals(scores)


def _write_predictions(path: Path, lines: list[dict[str, Any]], scores: AnswerScores) -> None:
    """Write the lines, each with the scores of its question."""
    from m2kr.common.files import atomic
    from m2kr.reader import dumped

    with atomic(path, "w") as file:
        for line, row in zip(lines, scores.table.iter_rows(named=True), strict=True):
            assert line["question_id"] == row.pop("question_id")
            file.write(dumped({**line, "scores": row}))


# --- results --------------------------------------------------------------------------------------------------------


def read_answer_result(path: Path) -> AnswerResult:
    """Read a result file of answering.

    Raises:
        M2KRError: it cannot be read, or is no result file of this format.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise M2KRError(f"{path} is no result file of answering ({error}).") from error
    lacking = [name for name in AnswerResult.__annotations__ if not isinstance(result, dict) or name not in result]
    if lacking or result["format"] != ANSWER_FORMAT or str(result["task"]) not in TASKS:
        reason = f"it lacks {', '.join(lacking[:5])}" if lacking else "its format or task is not known here"
        raise M2KRError(f"{path} is no result file of answering: {reason}.")
    return cast(AnswerResult, result)


def read_answer_results(folder: Path) -> list[AnswerResult]:
    """Return the results of answering under a folder of results, ordered by task, split, reader and passages.

    Those without passages come first, those from the positive ones last.
    """
    order, sources = list(TASKS), ("none", "run", "oracle")
    results = [read_answer_result(path) for path in sorted(folder.glob("*/answers/*/*.json"))]
    return sorted(
        results,
        key=lambda found: (
            order.index(found["task"]),
            found["split"],
            found["reader"],
            sources.index(found["source"]),
        ),
    )


def answer_table(results: Sequence[AnswerResult]) -> str:
    """Return results of answering as a table, in percent, with 95 % intervals."""
    from m2kr.common.text_table import aligned

    rows: list[tuple[str, ...]] = [("task", "split", "reader", "passages", "k", "questions", "measure", "score")]
    for result in results:
        marked = result["reader"] + ("*" if result["limited"] or result["nano"] or result["ignored_inputs"] else "")
        source = {"none": "none", "oracle": "oracle", "run": result["retriever"] or ""}[result["source"]]
        used = f"{result['k']} {result['combine']}" if result["combine"] else "-"
        for name in result["headline"]:
            low, high = result["intervals"][name]
            score = f"{100 * result['metrics'][name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            rows.append((result["task"], result["split"], marked, source, used, f"{result['queries']:,}", name, score))
    notes = []
    if any(result["ignored_inputs"] for result in results):
        notes.append("* the questions' images were not given to this reader (--ignore-images)")
    if any(result["limited"] or result["nano"] for result in results):
        notes.append("* only some of the questions were answered (--limit, or a nano subset)")
    for name in sorted({str(result["bem"]["checkpoint"]) for result in results if result["bem"]}):
        notes.append(f"BEM was judged by {name}, a classifier of transformers, not by the official TensorFlow weights")
    if any(result["synthetic"] for result in results):
        notes.append("made-up data: these scores compare with no published figure")
    return "\n".join(aligned(rows, left=4) + notes)


# --- the command ----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    from m2kr.reader import registered

    parser = argparse.ArgumentParser(
        prog="python -m m2kr.answer",
        description="Answer the questions of M2KR with retrieved passages, and score the answers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(sorted(registered()))
    parser.add_argument("--reader", required=True, help=f"a registered reader ({known}), or a model folder, or hub id")
    parser.add_argument("--checkpoint", help="folder or hub id to load instead of the reader's own")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="a setting of the reader; repeatable"
    )
    parser.add_argument("--data", required=True, help="folder of the benchmark, or a dataset id of the hub")
    parser.add_argument(
        "--tasks", default="all", help=f"comma-separated, of {', '.join(ANSWER_TASKS)}; or all, those there are"
    )
    parser.add_argument("--split", default="test", help="default: test")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", action="append", type=Path, help="a <TASK>.run.trec.gz of m2kr.evaluate; repeatable")
    source.add_argument("--run-dir", type=Path, help="folder of a retriever's results, such as results/bm25")
    source.add_argument("--no-retrieval", action="store_true", help="answer without passages")
    source.add_argument("--oracle", action="store_true", help="answer from the positive passages")
    parser.add_argument("--k", type=int, default=5, help="passages for each question; default 5")
    parser.add_argument("--combine", choices=("joint", "concat"), default="joint", help="default: joint")
    parser.add_argument("--bem", help="folder or hub id of the answer-equivalence model, for EVQA")
    parser.add_argument(
        "--images", action="append", default=[], metavar="[TASK=]ROOT", help="pictures: folder or archive"
    )
    parser.add_argument("--ignore-images", action="store_true", help="ask without the pictures")
    parser.add_argument("--allow-missing", action="store_true", help="let questions be without passages")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions; the result says so")
    parser.add_argument("--device", default="cpu", help="as torch names it; default cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=8, help="prompts answered at once; default 8")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode pictures; default 0")
    parser.add_argument("--out", type=Path, help="results; default: beside the run, else results")
    parser.add_argument("--rerun", action="store_true", help="do finished tasks again")
    parser.add_argument("--quiet", action="store_true", help="no progress, no notices; only the table")
    return parser


def _sources(arguments: argparse.Namespace) -> dict[str, Path | None]:
    """Return the tasks to answer and the run of each, None without one."""
    everything = arguments.tasks.strip().casefold() == "all"
    asked = None if everything else [task.key for task in parse_tasks(arguments.tasks)]
    for name in asked or []:
        if name not in ANSWER_TASKS:
            raise M2KRError(f"{name} has no answer metric. Those that have one are {', '.join(ANSWER_TASKS)}.")
    split = [] if arguments.split == "test" else [arguments.split]
    if arguments.run:
        from m2kr.reader import run_result

        runs: dict[str, Path] = {}
        for path in arguments.run:
            name = run_result(path)["task"]
            if name in runs or (asked is not None and name not in asked):
                reason = f"so is {runs[name]}" if name in runs else f"--tasks does not name it, but {arguments.tasks}"
                raise M2KRError(f"--run {path} is of {name}, and {reason}.")
            runs[name] = path
        if lacking := [name for name in asked or [] if name not in runs]:
            raise M2KRError(f"there is no --run of {', '.join(lacking)}. Pass it, or leave the task out of --tasks.")
        return dict(runs)
    if arguments.run_dir:
        places = {name: arguments.run_dir / f"{'.'.join([name, *split])}.run.trec.gz" for name in asked or ANSWER_TASKS}
        there = {name: path for name, path in places.items() if asked is not None or path.is_file()}
        if not there:
            raise M2KRError(
                f"{arguments.run_dir} holds no run of {', '.join(ANSWER_TASKS)} ({arguments.split}). Make one with "
                "python -m m2kr.evaluate."
            )
        return dict(there)
    there_too = [name for name in ANSWER_TASKS if arguments.split in TASKS[name].splits]
    folder = Path(arguments.data)
    if asked is None and folder.is_dir():
        there_too = [name for name in there_too if (folder / TASKS[name].data_config).is_dir()]
        if not there_too:
            raise M2KRError(f"{folder} holds none of {', '.join(ANSWER_TASKS)} with a {arguments.split} split.")
    return dict.fromkeys(asked or there_too)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    arguments = _parser().parse_args(argv)
    for name in ("k", "batch_size", "limit"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise M2KRError(f"--{name.replace('_', '-')} is {value}; it has to be 1 or more.")
    if arguments.workers < 0:
        raise M2KRError(f"--workers is {arguments.workers}; it has to be 0 or more.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from m2kr.common.files import safe_name
    from m2kr.common.options import parse_pairs
    from m2kr.dataset import load_task, nano_subset
    from m2kr.images.roots import parse_roots
    from m2kr.reader import get_reader, no_passages, oracle_passages, run_passages, run_result

    sources = _sources(arguments)
    images = parse_roots(arguments.images) if arguments.images else None
    prepared = []
    for name, path in sources.items():  # of all tasks before the first begins
        found = run_result(path) if path else None
        limit = arguments.limit or (found["queries"] if found and found["limited"] else None)
        data = load_task(name, arguments.data, arguments.split, images=images, limit=limit)
        if found and found["nano"]:
            data = nano_subset(data, seed=found["seed"] or 0)
        missing = arguments.allow_missing
        if path:
            evidence = run_passages(data, path, arguments.k, allow_missing=missing)
            out = arguments.out / safe_name(evidence.retriever or "") if arguments.out else path.parent
        else:
            evidence = (
                oracle_passages(data, arguments.k, allow_missing=missing) if arguments.oracle else no_passages(data)
            )
            out = (arguments.out or Path("results")) / ("oracle" if arguments.oracle else "no-retrieval")
        prepared.append((data, evidence, out))
    reader = get_reader(
        arguments.reader,
        checkpoint=arguments.checkpoint,
        device=arguments.device,
        dtype=arguments.dtype,
        options=parse_pairs("--option", arguments.option),
    )
    for data, _, _ in prepared:
        check_reader(reader, data.task, ignore_images=arguments.ignore_images)
    bem = None
    if arguments.bem and any(data.task.key == "EVQA" for data, _, _ in prepared):
        from m2kr.answer.score import EquivalenceModel

        bem = EquivalenceModel(arguments.bem, device=arguments.device)
    results = [
        answer_task(
            reader,
            data,
            evidence,
            out,
            k=arguments.k,
            combine=arguments.combine,
            bem=bem,
            batch_size=arguments.batch_size,
            device=arguments.device,
            dtype=arguments.dtype,
            ignore_images=arguments.ignore_images,
            workers=arguments.workers,
            rerun=arguments.rerun,
            quiet=arguments.quiet,
        )
        for data, evidence, out in prepared
    ]
    print(answer_table(results))
    return 0
