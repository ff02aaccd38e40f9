"""Evaluating a retriever on one task: encode passages and queries, search exactly, write the run, score it.

Each of these is kept when finished, encoded chunks one by one, so that the same call after a kill goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from m2kr.common.cli import chosen
from m2kr.common.files import digest, sha256_of
from m2kr.common.measure import Phases, environment
from m2kr.common.progress import progress, say
from m2kr.common.registry import ignored_inputs
from m2kr.common.work import Note, Workplace
from m2kr.errors import M2KRError
from m2kr.evaluate.batch_effect import effect_of_batches, say_effect
from m2kr.evaluate.encode import Encoder
from m2kr.evaluate.options import BATCH_SIZE, TaskOptions
from m2kr.evaluate.passages import PassagePictures, passage_images
from m2kr.evaluate.pictures import check_same_pictures, told_pictures
from m2kr.evaluate.quantisation import effect_of_8_bits
from m2kr.evaluate.remote import RemoteRetriever, searched_in_blocks
from m2kr.images.query_pictures import BadPictures, bad_picture_facts, black_for_bad, picture_sizes
from m2kr.metrics import score
from m2kr.results.record import (
    Result,
    data_settings,
    finished_record,
    read_result,
    result_name,
    retrieval_facts,
    say_absent_positives,
    write_record,
)
from m2kr.results.run import Run
from m2kr.retriever import Retriever, SparseRetriever
from m2kr.search.device import check_device
from m2kr.search.exact import search
from m2kr.tasks import PASSAGE_IMAGE

if TYPE_CHECKING:
    import polars as pl

    from m2kr.dataset import TaskData

_RANKED = 256
# Queries that a ranker is given at once: the progress bar moves after each such portion.


def evaluate_task(
    retriever: Retriever | SparseRetriever, data: TaskData, out: Path, options: TaskOptions | None = None
) -> Result:
    """Evaluate a retriever on one task, and write ``<out>/<TASK>.json`` and ``<out>/<TASK>.run.trec.gz``.

    Where passages and queries have vectors, some of both are encoded alone and together with others, whether or not
    their embeddings were kept, and by how much these differ is recorded and, where it is more than noise, said.

    For another split than test the names begin with ``<TASK>.<split>``, and a nano subset adds ``.nano``. Embeddings
    that an earlier evaluation kept in ``<out>/.embeddings`` are used in any case.

    Args:
        retriever: what to evaluate.
        data: the task's split.
        out: folder of the model's results.
        options: how. With ``store_dtype`` "int8", what that does to the results is measured on at most 200 queries,
            said and recorded: with all passages where an earlier evaluation kept them in ``dtype``, else with some
            2,000 of them, which are encoded again. A small sample of passages understates the effect, as it leaves out
            most of the rivals that stand close to a positive. A script that asks for ``workers`` has to keep its work
            under ``if __name__ == "__main__"``, as they import it.

    Returns:
        The result, as written.

    Raises:
        M2KRError: the retriever does not read what the task's queries hold, or has no embeddings to store; a device is
            not there; images are missing or broken; a finished result with other settings is in the way; another
            process is making the result; the benchmark changes meanwhile; the disk is full.
    """
    return _Evaluation(retriever, data, out, options or TaskOptions()).result()


def retrieve_task(
    retriever: Retriever | SparseRetriever, data: TaskData, out: Path, options: TaskOptions | None = None
) -> tuple[Run, Path]:
    """Do what `evaluate_task` does but score: for questions whose positives are not known.

    Returns:
        The run, and where it was written, ``<out>/<TASK>.run.trec.gz``.

    Raises:
        M2KRError: as `evaluate_task`.
    """
    return _Evaluation(retriever, data, out, options or TaskOptions()).run()


class _Evaluation:
    """One evaluation of a retriever on a task, with the arguments of `evaluate_task`."""

    def __init__(self, retriever: Retriever | SparseRetriever, data: TaskData, out: Path, options: TaskOptions) -> None:
        self.retriever, self.data, self.options = retriever, data, options
        self.ignored = ignored_inputs(retriever.name, retriever.reads, data.task, ignore_images=options.ignore_images)
        self.passage_images = passage_images(retriever, data, ignore=options.ignore_passage_images)
        if not data.queries.height:
            raise M2KRError(f"there are no queries in {data.task.data_config}/{data.split}.")
        try:  # said now, and not when hours of work are to be written down
            json.dumps(retriever.settings, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise M2KRError(f"the settings of {retriever.name} cannot be written to a result file: {error}.") from error
        self.key = digest(
            {
                **data_settings(data),
                "model": retriever.name,
                "model_settings": retriever.settings,
                **chosen(options, "in_key"),
                "store_dtype": options.stored,
                "ignored": self.ignored,
                "instructions": retriever.reads_instructions,
                **({} if options.bad_images == "error" else {"bad_images": options.bad_images}),
                **({} if self.passage_images is None else {"passage_images": self.passage_images}),
            }
        )
        name = result_name(data)
        self.result_path, self.run_path = out / f"{name}.json", out / f"{name}.run.trec.gz"
        self.work = Workplace(out, name, self.key)
        self.encoder: Encoder | None = None
        if isinstance(retriever, Retriever):
            chunks = retriever.query_chunks if isinstance(retriever, RemoteRetriever) else None
            self.encoder = Encoder(retriever, out / ".embeddings", options, options.workers or 0, chunks)
        elif options.store_dtype is not None:
            raise M2KRError(
                f"{retriever.name} makes no embeddings, so none are stored as {options.store_dtype}. Leave that out."
            )
        self.remote = retriever if isinstance(retriever, RemoteRetriever) else None
        self.phases = Phases()
        self.batch_effect: dict[str, float] | None = None
        self.batch_size = options.batch_size or BATCH_SIZE
        self.bad_pictures = BadPictures()
        self.passage_pictures: PassagePictures | None = None
        self.pictures: str | None = None

    @cached_property
    def passages(self) -> pl.DataFrame:
        """The passages in the order of their embeddings: id and content, and the picture's path where that is read."""
        # Ties are broken by passage id, the larger first, as trec_eval does: the search prefers lower rows.
        columns = ["passage_id", "passage_content", *([PASSAGE_IMAGE] if self.passage_images == "read" else [])]
        return self.data.passages.select(columns).sort("passage_id", descending=True)

    def run(self) -> tuple[Run, Path]:
        """Return the run, made now or before, and where it is; nothing is scored."""
        done = Note(self.run_path.with_suffix(".key"), whole=lambda facts: self._has_run(facts["run_sha256"]))
        if done.facts and not self.options.rerun:
            if done.key != self.key:
                raise M2KRError(
                    f"{self.run_path} was made with other settings (data, model or options). Pass --rerun to replace "
                    "it, or another --out."
                )
            self._check_pictures(done.facts, self.run_path)
            self.work.tidy(self._tidy)
            say(f"{self.data.task.key}: finished before, see {self.run_path}", quiet=self.options.quiet)
            return Run.read_trec(self.run_path), self.run_path
        sizes, passages = self._found_pictures(), self.passages
        with self.work.locked():
            run, sha256 = self._run(passages["passage_id"].to_list(), passages["passage_content"].to_list(), sizes)
            self.data.check_unchanged()
            done.key = self.key
            bad_images = bad_picture_facts(self.options.bad_images, *self._bad())
            done.save(run_sha256=sha256, pictures=self.pictures, bad_images=bad_images)
            self._tidy()
        return run, self.run_path

    def _found_pictures(self) -> list[int] | None:
        """Look for the device and all pictures, before hours of encoding; return the sizes of the queries' pictures."""
        options, data = self.options, self.data
        if self.encoder and not self.remote:
            check_device(options.device)
        sizes = self._picture_sizes() if data.task.reads_images and not self.ignored else None
        if self.passage_images == "read":
            if data.images is not None:
                data.images.fetch(self.passages[PASSAGE_IMAGE], quiet=options.quiet)
            self.passage_pictures = PassagePictures.found(
                data,
                self.passages,
                bad_images=options.bad_images,
                workers=options.workers or 0,
                quiet=options.quiet,
            )
        self.pictures = told_pictures(data, sizes, self.passage_pictures)
        return sizes

    def result(self) -> Result:
        """Return the finished result, made now or before."""
        options, task = self.options, self.data.task
        finished = self._finished()
        if finished is not None:
            self._check_pictures(finished, self.result_path)
        else:
            sizes = self._found_pictures()
            with self.work.locked():
                return self._finished() or self._made(sizes)  # another process may have made it just now
        self.work.tidy(self._tidy)
        say(f"{task.key}: finished before, see {self.result_path}", quiet=options.quiet)
        return finished

    def _check_pictures(self, made: Mapping[str, Any], path: Path) -> None:
        """Check that the pictures are those that finished work was made with; see `check_same_pictures`."""
        check_same_pictures(
            self.data,
            self.passages if self.passage_images == "read" else None,
            made,
            path,
            asked_with=self.data.task.reads_images and not self.ignored,
            bad_images=self.options.bad_images,
        )

    def _picture_sizes(self) -> list[int]:
        data, options = self.data, self.options
        if data.images is not None:
            data.images.fetch(data.image_paths, quiet=options.quiet)
        if options.bad_images != "error":
            images, self.bad_pictures = black_for_bad(
                data.images, data.task.key, data.queries, workers=options.workers or 0, quiet=options.quiet
            )
            self.data = replace(data, images=images)
        return picture_sizes(self.data.images, data.task.key, data.queries)

    def _finished(self) -> Result | None:
        """Return the result that was finished with these settings, if its run is there too.

        Raises:
            M2KRError: one with other settings is in its place.
        """
        finished = finished_record(self.result_path, read_result, self.key, rerun=self.options.rerun)
        return finished if finished is not None and self._has_run(finished["run_sha256"]) else None

    def _made(self, sizes: list[int] | None) -> Result:
        options, passages = self.options, self.passages
        say_absent_positives(self.data, quiet=options.quiet)
        if self.passage_images is not None:
            name, key = self.retriever.name, self.data.task.key
            what = {"read": f"{name} reads them", "not read": f"{name} reads only their texts"}
            became = what.get(self.passage_images, "they are ignored")
            say(f"{key}: some passages have pictures of their own; {became}", quiet=options.quiet)
        ids, texts = passages["passage_id"].to_list(), passages["passage_content"].to_list()
        run, sha256 = self._run(ids, texts, sizes)
        effect = None
        if self.encoder and options.store_dtype == "int8":
            effect = effect_of_8_bits(
                self.encoder,
                self.data,
                passages,
                sizes,
                self.work.folder,
                self.phases,
                memory=options.search_bytes,
                pictures=self.passage_pictures,
            )
        with self.phases.measured("score"):
            answers = self.data.answers
            known = dict(zip(ids, texts, strict=True)) if answers is not None else None
            metrics = score(run, self.data.qrels, answers=answers, passages=known, quiet=options.quiet)
        result = self._written(metrics, effect, sha256)
        self._tidy()
        return result

    def _has_run(self, sha256: str) -> bool:
        return self.run_path.is_file() and sha256_of(self.run_path) == sha256

    def _run(self, ids: list[str], texts: list[str], sizes: list[int] | None) -> tuple[Run, str]:
        """Return the run and its hash: read where it was written before a kill, else made and written."""
        phases = self.phases
        seen = digest(self.pictures, *(bad.files for bad in self._bad()))
        note = Note(
            self.work.folder / "searched.json",
            self.key,
            whole=lambda facts: facts["pictures"] == seen and self._has_run(facts["run_sha256"]),
        )
        if note.facts:
            phases.seconds, phases.memory, phases.reused = (
                note.facts[name] for name in ("seconds", "memory", "reused")
            )
            self.batch_effect = note.facts.get("batch_effect")
            self.batch_size = note.facts.get("batch_size", self.batch_size)
            return Run.read_trec(self.run_path), note.facts["run_sha256"]
        found = self._searched(self.encoder, texts, sizes) if self.encoder else self._ranked(texts)
        queries = self.data.queries["question_id"].to_list()
        missed = set(self.bad_pictures.ids) if self.options.bad_images == "skip" else set()
        kept = [0 if query in missed else None for query in queries]
        rankings = zip(found[0], found[1].tolist(), kept, strict=True)
        scores, rows = zip(*((scores[:k], rows[:k]) for scores, rows, k in rankings), strict=True)
        run = Run(queries, [[ids[row] for row in ranking] for ranking in rows], list(scores))
        self._finished()  # raises where a result with other settings came meanwhile, whose run this would replace
        with phases.measured("write"):
            run.write_trec(self.run_path, self.retriever.name, quiet=self.options.quiet)
        sha256 = sha256_of(self.run_path)
        note.save(
            run_sha256=sha256,
            seconds=phases.seconds,
            memory=phases.memory,
            reused=phases.reused,
            batch_effect=self.batch_effect,
            batch_size=self.batch_size,
            pictures=seen,
        )
        return run, sha256

    def _searched(self, encoder: Encoder, texts: list[str], sizes: list[int] | None) -> tuple[Any, Any]:
        """Return scores and rows of the passages found by vectors."""
        options = self.options
        with self.phases.measured("batch_effect"):  # first: before hours of an encoding whose figures mean little
            effect = effect_of_batches(
                encoder, self.data, texts, pictures=sizes is not None, passage_pictures=self.passage_pictures
            )
        self.batch_effect = effect
        say_effect(encoder, effect, self.data.task.key)
        if self.remote:
            found, self.batch_size = searched_in_blocks(
                encoder, self.data, texts, self.passage_pictures, sizes, self.work, options, self.phases
            )
            return found
        passages = encoder.passages(texts, self.work.folder, self.data.task.key, self.passage_pictures)
        queries = encoder.queries(self.data, sizes, self.work.folder)
        self.batch_size = encoder.batch.size
        for phase, encoded in (("encode_passages", passages), ("encode_queries", queries)):
            self.phases.add(phase, encoded.seconds, encoded.memory)
            if encoded.reused:
                self.phases.reused.append(phase)
        limits: dict[str, Any] = {"device": options.device, "memory": options.search_bytes, "quiet": options.quiet}
        with self.phases.measured("search"):
            return search(queries.store, passages.store, min(options.top_k, len(texts) or 1), **limits)

    def _ranked(self, texts: list[str]) -> tuple[Any, Any]:
        """Return scores and rows of the passages that the retriever ranks itself."""
        retriever, key, quiet = cast(SparseRetriever, self.retriever), self.data.task.key, self.options.quiet
        questions = self.data.query_texts(instructions=retriever.reads_instructions)
        with self.phases.measured("index"), progress(len(texts), f"{key} index", unit="passages", quiet=quiet):
            retriever.index(texts)
        parts, top_k = [], min(self.options.top_k, len(texts) or 1)
        bar = progress(len(questions), f"{key} search", unit="queries", quiet=quiet)
        with self.phases.measured("search"), bar:
            for first in range(0, len(questions), _RANKED):
                parts.append(retriever.rank(questions[first : first + _RANKED], top_k))
                bar.update(len(parts[-1][0]))
        scores, rows = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(rows)

    def _written(self, metrics: dict[str, float], effect: dict[str, float] | None, run_sha256: str) -> Result:
        options = self.options
        self._finished()  # as above
        self.data.check_unchanged()
        if not self._has_run(run_sha256):
            raise M2KRError(f"{self.run_path} was replaced while this run was scored. Evaluate into another --out.")
        result: Result = write_record(
            self.result_path,
            Result,
            {
                **retrieval_facts(self.data, metrics, run_sha256, self.phases),
                **chosen(options, "in_result"),
                "batch_size": self.batch_size,
                **(self.remote.environment if self.remote else environment(options.device)),
                "model": self.retriever.name,
                "model_settings": self.retriever.settings,
                "ignored_inputs": self.ignored,
                "instructions": self.retriever.reads_instructions,
                "search": "exact",
                "store_dtype": options.stored,
                "quantisation": effect,
                "batch_effect": self.batch_effect,
                "bad_images": bad_picture_facts(options.bad_images, *self._bad()),
                "passage_images": self.passage_images,
                "pictures": self.pictures,
                "image_source": self._image_source(),
                "key": self.key,
                **({"ray": self.remote.cluster.told()} if self.remote else {}),
            },
        )
        return result

    def _image_source(self) -> str | None:
        return self.data.images.source if self.pictures is not None and self.data.images is not None else None

    def _bad(self) -> tuple[BadPictures, BadPictures]:
        """Return the pictures of queries, and of passages, that cannot be used."""
        return self.bad_pictures, self.passage_pictures.bad if self.passage_pictures else BadPictures()

    def _tidy(self) -> None:
        if self.encoder and self.options.keep_embeddings:
            self.encoder.keep(self.work.folder)
        self.work.clear()
