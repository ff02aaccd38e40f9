"""The command ``python -m m2kr.evaluate``: evaluate a retriever on tasks, or compare results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from m2kr.common.cli import parse
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.options import BATCH_SIZE, EvaluateOptions
from m2kr.retriever import REGISTRY

if TYPE_CHECKING:
    from m2kr.dataset import TaskData
    from m2kr.tasks import Task

_EXAMPLES = """examples:
  python -m m2kr.evaluate --model preflmr-vit-l
  python -m m2kr.evaluate --model bm25 --data m2kr-data --tasks MSMARCO
  python -m m2kr.evaluate --model all-minilm-l6-v2 --data m2kr-data --tasks all --ignore-images
  python -m m2kr.evaluate --model ./my-model --data m2kr-data --tasks OKVQA --images raw
  python -m m2kr.evaluate --compare results/bm25 results/my-model --data m2kr-data
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parse(
        EvaluateOptions,
        argv,
        prog="python -m m2kr.evaluate",
        description="Evaluate a retriever on M2KR, exactly, and write runs and result files.",
        epilog=f"{_EXAMPLES}\n{REGISTRY.listed()}",
    )
    model = options.model
    if model is None:
        from m2kr.evaluate.compare import compare_results

        print(compare_results(options.compare, options.data, trust=options.trust))
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from m2kr.common.files import safe_name
    from m2kr.common.registry import ignored_inputs
    from m2kr.dataset import default_images, load_task, nano_subset, plan_fetching
    from m2kr.evaluate.task import evaluate_task
    from m2kr.formats.hub import hub_source, local_tasks
    from m2kr.images.roots import parse_roots
    from m2kr.results.record import result_name
    from m2kr.results.table import table
    from m2kr.retriever import get_retriever
    from m2kr.tasks import TASKS

    if options.workers is None:
        options = replace(options, workers=min(4, os.cpu_count() or 1))
    roots = parse_roots(options.images) if options.images else None
    if "," in options.device:
        raise M2KRError(f"--device names one device, not several: {options.device!r}")
    folder, tasks = local_tasks(options.data, options.tasks, options.split, quiet=options.quiet)
    retriever = get_retriever(model, **options.loading)
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
    results = [
        evaluate_task(retriever, ready.pop(task.key) if task.key in ready else loaded(task), out, options)
        for task in tasks
    ]
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
