"""Result files of retrieval, ``results/<model>/<TASK>.json``, and what they share with those of answering."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeVar, cast

from m2kr import __version__
from m2kr.common.files import sha256_of, write_json
from m2kr.common.json_input import as_record, read_json
from m2kr.common.progress import say
from m2kr.errors import M2KRError
from m2kr.results.run import Run
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    from m2kr.common.measure import Phases
    from m2kr.dataset import TaskData

_T = TypeVar("_T")


class BadImages(TypedDict):
    """Pictures that could not be used, of queries, or of passages."""

    # How such queries were asked: "black" (with a black picture), or "skip" (not at all: they count as missed).
    handling: str
    # How many of them there are.
    queries: int
    # The number of passages that were encoded with a black picture, or without one.
    passages: NotRequired[int]
    # The pictures, and the SHA-256 of their bytes; null for one that was not there.
    files: NotRequired[dict[str, str | None]]


class Result(TypedDict):
    """A result file, ``results/<model>/<TASK>.json``. Every key is always there, in older files those not "required".

    All but ``seconds``, ``reused``, ``memory``, ``peak_memory`` and the noise in ``batch_effect`` are equal for equal
    evaluations, and all but ``quantisation`` where one of them found embeddings and the other did not.

    A result of ``m2kr.score``, whose run was made elsewhere, has two keys besides: ``queries_without_passages`` (that
    the run lacks, and that score 0) and ``source_run`` (the file as it came: name and sha256). What is not known of
    such a run is "unknown", null or empty.

    One of ``--ray`` has "ray" besides: its version, nodes and actors, and the cpus and gpus of each. ``seconds`` of
    encoding passages and of search are then the time on the clock for both, divided as it was in the actors, and
    ``memory`` that of the largest of them.
    """

    # 1; changes when a reader of these files has to change.
    format: int
    # Name of the retriever.
    model: str
    # What its output depends on besides: checkpoint, its sha256, constants.
    model_settings: dict[str, Any]
    # Key of the task, and the split of its queries.
    task: str
    split: str
    # Measure -> mean over the queries, between 0 and 1. m2kr.metrics says what each is.
    metrics: dict[str, float]
    # The measures this task is compared by, first the main one.
    headline: list[str]
    # Numbers of queries and of passages searched, and of queries without a positive (they score 0).
    queries: int
    passages: int
    queries_without_positive: int
    # Queries with a positive that is not among the passages, and so can never be found.
    queries_with_absent_positive: NotRequired[int]
    # Identifies the tables: results of different fingerprints are not comparable.
    dataset: str
    # Where these were: "folder", or a dataset of the hub and its commit.
    data_source: NotRequired[str]
    # The data are made up; scores compare with no published figure.
    synthetic: bool
    # Only the first queries were evaluated.
    limited: bool
    # Only a small subset of queries and passages was evaluated, drawn with ``seed``; without it null: nothing else in
    # an evaluation is left to chance.
    nano: bool
    seed: int | None
    # Kinds of input the task has and the retriever was not given: ["image"] after --ignore-images.
    ignored_inputs: list[str]
    # Whether the task's instruction stood in front of each question; null where that is not known.
    instructions: bool | None
    # "exact": every query was compared with every passage; "elsewhere": the run was made elsewhere.
    search: str
    # Passages kept for each query.
    top_k: int
    # Where it encoded and searched, as torch names it.
    device: str
    # Of the model, of its queries, and, if it encodes any, of the stored passages.
    dtype: str
    store_dtype: str
    # With passages in 8 bits, what that did to a sample: the fields of m2kr.evaluate.quantisation.Effect, and how many
    # ``passages`` took part. With fewer than the task has there are fewer rivals, so the effect on the task is larger.
    # Else null.
    quantisation: dict[str, float] | None
    # By how much vectors differ between an input alone and in a batch, of some "passages" and "queries": see
    # m2kr.evaluate.batch_effect, and `over_batch_limit`. Null where nothing has vectors, or nobody knows.
    batch_effect: NotRequired[dict[str, float] | None]
    # Null where every picture could be used.
    bad_images: NotRequired[BadImages | None]
    # What became of pictures that passages have of their own: "read", "not read" (the retriever reads none), "ignored"
    # (--ignore-passage-images), or of a run made elsewhere "unknown". Null where no passage has one.
    passage_images: NotRequired[str | None]
    # Digest of the paths and sizes of the pictures of queries, and of passages; null where none were read.
    pictures: NotRequired[str | None]
    # Where these were: "packed", "folder", or a dataset of the hub and its commit; null where none were read.
    image_source: NotRequired[str | None]
    # Inputs encoded at once; null where that is not known.
    batch_size: int | None
    # Processor or graphics card that encoded and searched.
    hardware: str
    # Seconds of wall time of each phase. That of an encoding that was interrupted is the sum of its parts; that of one
    # that was found is what it took when it was made.
    seconds: dict[str, float]
    # Phases whose embeddings were found, kept by an earlier evaluation (--keep-embeddings).
    reused: list[str]
    # Largest resident memory of the process during each phase, bytes, without the processes that decode pictures.
    memory: dict[str, int]
    # The largest of those.
    peak_memory: int
    # Versions of m2kr, python, torch, transformers, sentence-transformers, numpy, polars, ranx.
    versions: dict[str, str]
    # Git commit of the code where it runs from a checkout, with "+changes" if files differ from it; else null.
    commit: str | None
    # Hash of the run file, which stands beside this one.
    run_sha256: str
    # Digest of all settings the scores depend on; a finished task with the same key is not run again.
    key: str


RESULT_FORMAT = 1

_BATCH_LIMITS = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
# Larger effects of batches are not those of rounding. The small models here, and all-MiniLM, stay below 1e-6, 1.3e-3
# and 8e-3 on a CPU; deeper ones round more often.


def over_batch_limit(effect: Mapping[str, float] | None, dtype: str) -> bool:
    """Return whether a model of this type encodes an input differently alone and in a batch, beyond float noise."""
    return max((effect or {}).values(), default=0.0) > _BATCH_LIMITS.get(dtype, 1e-3)


def depends_on_batch(result: Mapping[str, object]) -> bool:
    """Return whether that was found of a result, of retrieval or of answering, which has no vectors."""
    return over_batch_limit(cast("dict[str, float] | None", result.get("batch_effect")), str(result["dtype"]))


def read_result(path: Path) -> Result:
    """Read a result file.

    Raises:
        M2KRError: it cannot be read, is no result file of this format, or is of an unknown task; the key is named.
    """
    result = read_record(path, Result, RESULT_FORMAT, "result file")
    for names, form in ((result["metrics"], r"\w{1,40}"), (result["headline"], "P?Recall")):
        if odd := [name for name in names if not re.fullmatch(rf"{form}@[0-9]{{1,7}}", name)]:
            raise M2KRError(f"{path} is no result file: there is no measure {odd[0]!r:.80}.")
    return result


def read_results(folder: Path) -> list[Result]:
    """Return the results under ``folder``, ordered by task, then split and model."""
    order = list(TASKS)
    results = [read_result(path) for path in sorted(folder.glob("*/*.json"))]
    return sorted(results, key=lambda result: (order.index(result["task"]), result["split"], result["model"]))


def result_of_run(path: Path) -> Result:
    """Return the result file that stands beside a run.

    Raises:
        M2KRError: one of them is not there, or cannot be read.
    """
    if not path.is_file():
        raise M2KRError(f"the run {path} is not there. Make it with python -m m2kr.evaluate, or pass --no-retrieval.")
    name, suffix, _ = path.name.partition(".run.trec")
    beside = path.with_name(f"{name}.json")
    if not suffix or not beside.is_file():
        raise M2KRError(
            f"{path} has no result file beside it ({beside.name}), which says what data it is of. Name a run that "
            "python -m m2kr.evaluate wrote, where it wrote it."
        )
    return read_result(beside)


def read_run(path: Path, result: Result) -> Run:
    """Return the run of a result.

    Raises:
        M2KRError: it is not there, cannot be read, or is not the one that the result was computed from.
    """
    if not path.is_file():
        raise M2KRError(f"the run {path} is not there. Evaluate with --rerun.")
    if sha256_of(path) != result["run_sha256"]:
        raise M2KRError(f"{path} is not the run that its result file was computed from. Evaluate with --rerun.")
    return Run.read_trec(path)


def write_record(path: Path, kind: type, facts: Mapping[str, Any]) -> Any:
    """Write a record of a kind of result file, atomically, and return it as it was written.

    Keys are in the order of the kind, then those that it does not know: options that were added to a command.
    """
    record = {name: facts[name] for name in dict.fromkeys([*kind.__annotations__, *facts])}
    write_json(path, record)
    return record


def read_record(path: Path, kind: type[_T], version: int, what: str) -> _T:
    """Read a result file of some kind, a TypedDict; further keys are kept.

    Raises:
        M2KRError: as `read_result`.
    """
    record = read_json(path, dict[str, Any], what, "Make it again, or take it away.")
    if (found := record.get("format", version)) != version:
        raise M2KRError(f"{path} has format {found!r}; this version reads {version}.")
    try:
        as_record(record, kind)
    except ValueError as error:
        raise M2KRError(f"{path} is no {what}: {error}. Make it again, or take it away.") from error
    if record["task"] not in TASKS:
        raise M2KRError(f"{path} is of the task {record['task']!r}, which this version does not know.")
    return cast(_T, record)


def finished_record(path: Path, read: Callable[[Path], _T], key: str, *, rerun: bool, name: str = "key") -> _T | None:
    """Return a result that was finished with the settings of ``key``; None where it is to be made, or made again.

    ``name`` is what the key is called in the file.

    Raises:
        M2KRError: it has other settings.
    """
    if rerun or not path.exists():
        return None
    finished = read(path)
    if cast(Mapping[str, Any], finished)[name] != key:
        raise M2KRError(
            f"{path} holds a result with other settings (data, split, run, model or options). Pass --rerun to replace "
            "it, or another --out."
        )
    return finished


def result_name(data: TaskData) -> str:
    """Return what the files of a result are called: the task, its split unless that is test, and "nano"."""
    split = [] if data.split == "test" else [data.split]
    return ".".join([data.task.key, *split, *(["nano"] if data.nano else [])])


def data_settings(data: TaskData) -> dict[str, Any]:
    """Return what every result depends on: the version of m2kr, and the data."""
    return {
        "m2kr": __version__,
        "task": data.task.key,
        "split": data.split,
        "dataset": data.fingerprint,
        "queries": data.queries.height if data.limited else None,
        "nano": [data.seed, data.queries.height, data.passages.height] if data.nano else None,
    }


def retrieval_facts(data: TaskData, metrics: dict[str, float], run_sha256: str, phases: Phases) -> dict[str, Any]:
    """Return what every result of retrieval says of its data, its run, its measures and its times."""
    return {
        **data_facts(data),
        "format": RESULT_FORMAT,
        "metrics": metrics,
        "headline": list(data.task.metrics),
        "passages": data.passages.height,
        "queries_without_positive": sum(not positives for positives in data.qrels.values()),
        "queries_with_absent_positive": data.queries_with_absent_positive,
        "seconds": {phase: round(value, 3) for phase, value in phases.seconds.items()},
        "reused": phases.reused,
        "memory": phases.memory,
        "peak_memory": max(phases.memory.values()),
        "run_sha256": run_sha256,
    }


def say_absent_positives(data: TaskData, *, quiet: bool = False) -> None:
    """Say how many queries have a positive that is not among the passages, where any have."""
    if absent := data.queries_with_absent_positive:
        say(
            f"{data.task.key}: {absent:,} of {data.queries.height:,} queries have a positive that is not among the "
            "passages, which no search can find",
            quiet=quiet,
        )


def data_facts(data: TaskData) -> dict[str, Any]:
    """Return what every result says of its data."""
    return {
        "task": data.task.key,
        "split": data.split,
        "queries": data.queries.height,
        "dataset": data.fingerprint,
        "data_source": data.source,
        "synthetic": data.synthetic,
        "limited": data.limited,
        "nano": data.nano,
        "seed": data.seed,
    }
