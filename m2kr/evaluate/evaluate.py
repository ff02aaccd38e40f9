"""Evaluating a retriever on several tasks, with the options of the command."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from m2kr.common.files import safe_name
from m2kr.common.progress import say
from m2kr.common.registry import ignored_inputs
from m2kr.dataset import TaskData, default_images, load_task, nano_subset, plan_fetching
from m2kr.errors import M2KRError
from m2kr.evaluate.options import BATCH_SIZE, EvaluateOptions
from m2kr.evaluate.remote import RemoteRetriever
from m2kr.evaluate.task import evaluate_task
from m2kr.formats.hub import hub_source, local_tasks
from m2kr.images.roots import ImageRoots, parse_roots
from m2kr.results.record import Result, result_name
from m2kr.retriever import Retriever, SparseRetriever, get_retriever
from m2kr.tasks import TASKS, Task


def evaluate(options: EvaluateOptions) -> list[Result]:
    """Evaluate a retriever on tasks, and write runs and result files into ``<out>/<model>``; see `evaluate_task`.

    Tables and pictures that are on the hub are fetched first, and the model's checkpoint.

    Args:
        options: those of ``python -m m2kr.evaluate``, with a model.

    Returns:
        The results, in the order of the tasks.

    Raises:
        M2KRError: as `evaluate_task`; or there is no such benchmark, task, model or picture, or the hub cannot be
            reached.
    """
    if (model := options.model) is None:
        raise M2KRError("no model is named. Name one with --model.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if options.workers is None:
        options = replace(options, workers=min(4, options.ray_cpus if options.ray else os.cpu_count() or 1))
    roots = parse_roots(options.images) if options.images else None
    if "," in options.device:
        raise M2KRError(f"--device names one device, not several: {options.device!r}. For several, pass --ray local.")
    folder, tasks = local_tasks(options.data, options.tasks, options.split, quiet=options.quiet)
    with ExitStack() as left:
        retriever: Retriever | SparseRetriever
        if options.ray is None:
            retriever = get_retriever(model, **options.loading)
        else:  # its processes end when it is left
            cluster, workers = left.enter_context(options.cluster()), options.workers or 0
            retriever = RemoteRetriever(cluster, model, options.loading, options, workers=workers)
        return _evaluated(retriever, tasks, folder, roots, options)


def _evaluated(
    retriever: Retriever | SparseRetriever,
    tasks: Sequence[Task],
    folder: Path,
    roots: ImageRoots | None,
    options: EvaluateOptions,
) -> list[Result]:
    out = options.out / safe_name(retriever.name)
    ignored = {  # of all tasks before the first begins
        task.key: ignored_inputs(retriever.name, retriever.reads, task, ignore_images=options.ignore_images)
        for task in tasks
    }
    images = {
        task.key: roots.for_task(task)
        if roots
        else default_images(folder, task, options.split, needed=not ignored[task.key])
        for task in tasks
    }
    asked_with = {
        key: each for key, each in images.items() if each is not None and TASKS[key].reads_images and not ignored[key]
    }

    def loaded(task: Task) -> TaskData:
        places, limit = images[task.key], options.limit
        data = load_task(task, folder, options.split, images=places, limit=limit, trust=options.trust)
        return nano_subset(data, seed=options.seed) if options.nano else data

    ready = {tasks[0].key: loaded(tasks[0])}
    among = ", ".join(task.key for task in tasks)
    how = f"on {options.device} in {options.dtype}, {options.batch_size or BATCH_SIZE} at once"
    sources = dict.fromkeys(each.source for each in asked_with.values() if each.source)
    pictures = f", pictures: {', '.join(sources)}" if sources else ""
    say(f"{retriever.name}: {among} of {hub_source(folder) or folder}, {how}{pictures}", quiet=options.quiet)
    from_hub = (loaded(task) for task in tasks if task.key in asked_with and asked_with[task.key].on_hub)
    finished = () if options.rerun else {path.stem for path in out.glob("*.json")}
    plan_fetching((data for data in from_hub if result_name(data) not in finished), quiet=options.quiet)
    return [
        evaluate_task(retriever, ready.pop(task.key) if task.key in ready else loaded(task), out, options)
        for task in tasks
    ]
