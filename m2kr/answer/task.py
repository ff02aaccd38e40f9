"""Answering the questions of one task with a reader, and scoring the answers by the official metric.

Finished chunks are kept, so that the same call after a kill goes on where it was and ends with the same bytes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.answer.generate import AnswerGenerator
from m2kr.answer.options import AnswerTaskOptions
from m2kr.answer.remote import RemoteReader
from m2kr.answer.score import AnswerScores, check_answerable, intervals, score_answers
from m2kr.common.cli import chosen
from m2kr.common.files import atomic, digest, safe_name, sha256_of
from m2kr.common.measure import environment
from m2kr.common.progress import say
from m2kr.common.registry import ignored_inputs
from m2kr.common.work import Workplace
from m2kr.errors import M2KRError
from m2kr.images.query_pictures import BadPictures, bad_picture_facts, black_for_bad, check_still_bad, picture_sizes
from m2kr.results.answer_record import (
    ANSWER_FORMAT,
    AnswerResult,
    prediction_line,
    read_answer_result,
    read_predictions,
)
from m2kr.results.record import data_facts, data_settings, finished_record, result_name, write_record

if TYPE_CHECKING:
    from m2kr.answer.bem import Equivalence
    from m2kr.answer.evidence import RetrievedPassages
    from m2kr.dataset import TaskData
    from m2kr.reader import Reader
    from m2kr.tasks import Task


def answer_task(
    reader: Reader,
    data: TaskData,
    passages: RetrievedPassages,
    out: Path,
    options: AnswerTaskOptions | None = None,
    *,
    bem: Equivalence | None = None,
) -> AnswerResult:
    """Answer the questions of a split and score the answers; write a result and the predictions.

    Args:
        reader: what answers.
        data: the questions.
        passages: what they are answered from, at most ``options.k`` each.
        out: folder of the retriever's results; the files go to ``<out>/answers/<reader>/``.
        options: how.
        bem: answer-equivalence model, for EVQA. Scoring again with another answers nothing again.

    Raises:
        M2KRError: the task has no answer metric, the reader reads no images, images are missing or broken, a finished
            result with other settings is in the way, another process is making the result, or the benchmark changes
            meanwhile.
    """
    options, task = options or AnswerTaskOptions(), data.task
    remote = reader if isinstance(reader, RemoteReader) else None
    options = replace(options, k=max(1, min(options.k, data.passages.height)))
    ignored = check_reader(reader, task, ignore_images=options.ignore_images)
    if not data.queries.height:
        raise M2KRError(f"there are no questions in {task.data_config}/{data.split}.")
    used: dict[str, Any] = {"k": 0, "combine": None} if passages.source == "none" else {}
    without = sum(not found for found in passages.ids)
    answers_key = digest(
        {
            **data_settings(data),
            "reader": reader.name,
            "reader_settings": reader.settings,
            "source": passages.source,
            "run": passages.run_sha256,
            **chosen(options, "in_key"),
            **used,
            "ignored": ignored,
            "without": without,
            **({} if options.bad_images == "error" else {"bad_images": options.bad_images}),
        }
    )
    bem = bem if task.key == "EVQA" else None
    key = digest(answers_key, bem.settings if bem else None)
    name = result_name(data) if used else f"{result_name(data)}.{options.combine}-{options.k}"
    folder = out / "answers" / safe_name(reader.name)
    result_path, predictions_path = folder / f"{name}.json", folder / f"{name}.predictions.jsonl"
    work = Workplace(folder, name, answers_key)

    def answered() -> AnswerResult | None:
        """Return the result of these answers, if it is there; raise where one with other settings is."""
        found = finished_record(result_path, read_answer_result, answers_key, rerun=options.rerun, name="answers_key")
        whole = found and predictions_path.is_file() and sha256_of(predictions_path) == found["predictions_sha256"]
        return found if whole else None

    finished = answered()
    if finished:
        check_still_bad(data.images, finished.get("bad_images"), result_path)
    if finished and finished["key"] == key:
        work.tidy()
        say(f"{task.key}: finished before, see {result_path}", quiet=options.quiet)
        return finished
    with_images = task.reads_images and not ignored
    bad, work_key = BadPictures(), answers_key
    if with_images and not finished:  # before anything is answered
        if data.images is not None:
            data.images.fetch(data.image_paths, quiet=options.quiet)
        if options.bad_images != "error":
            images, bad = black_for_bad(
                data.images, task.key, data.queries, workers=options.workers, quiet=options.quiet
            )
            data = replace(data, images=images)
        work_key = digest(answers_key, picture_sizes(data.images, task.key, data.queries), bad.files)
    with work.locked():
        if finished := answered():
            done = read_predictions(predictions_path), finished["seconds"], finished["peak_memory"]
            batch_size = finished["batch_size"]
        else:
            elsewhere = remote.answered if remote else None
            generator = AnswerGenerator(reader, data, passages, options, with_images, elsewhere)
            done = generator.answer_all(work.folder, work_key)
            batch_size = generator.batch.size
        predictions, seconds, memory = done
        if options.bad_images == "skip":
            missed = set(bad.ids)
            predictions = [{**line, "answer": ""} if line["question_id"] in missed else line for line in predictions]
        said = {line["question_id"]: line["answer"] for line in predictions}
        scores = score_answers(task.key, data.queries, said, bem=bem)
        answered()  # raises where a result with other settings came meanwhile
        data.check_unchanged()
        _write_predictions(predictions_path, predictions, scores)
        result: AnswerResult = write_record(
            result_path,
            AnswerResult,
            {
                **data_facts(data),
                **chosen(options, "in_result"),
                **used,
                "batch_size": batch_size,
                **(remote.environment if remote else environment(options.device)),
                "format": ANSWER_FORMAT,
                "reader": reader.name,
                "reader_settings": reader.settings,
                "source": passages.source,
                "retriever": passages.retriever,
                "run_sha256": passages.run_sha256,
                "metrics": scores.metrics,
                "intervals": intervals(scores),
                "headline": scores.headline,
                "bem": bem.settings if bem else None,
                "queries_without_passages": without,
                "ignored_inputs": ignored,
                "image_source": data.images.source if with_images and data.images else None,
                "bad_images": finished.get("bad_images") if finished else bad_picture_facts(options.bad_images, bad),
                "seconds": round(seconds, 3),
                "peak_memory": memory,
                "predictions_sha256": sha256_of(predictions_path),
                "answers_key": answers_key,
                "key": key,
                **({"ray": remote.cluster.told()} if remote else {}),
            },
        )
        work.clear()
    return result


def check_reader(reader: Reader, task: Task, *, ignore_images: bool) -> list[str]:
    """Return the kinds of input of a task that a reader will not be given.

    Raises:
        M2KRError: the task has no answer metric, or asks with images that the reader does not read.
    """
    check_answerable(task.key)
    return ignored_inputs(f"the reader {reader.name}", reader.reads, task, ignore_images=ignore_images)


def _write_predictions(path: Path, predictions: list[dict[str, Any]], scores: AnswerScores) -> None:
    """Write the predictions, each with the scores of its question."""
    with atomic(path, "w") as file:
        for line, row in zip(predictions, scores.table.iter_rows(named=True), strict=True):
            assert line["question_id"] == row.pop("question_id")
            file.write(prediction_line({**line, "scores": row}))
