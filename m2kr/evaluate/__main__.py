"""The command ``python -m m2kr.evaluate``: evaluate a retriever on tasks, or compare results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from m2kr.common.cli import parse
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.options import EvaluateOptions
from m2kr.retriever import REGISTRY

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
    from m2kr.dataset import load_task, nano_subset, with_raw_images
    from m2kr.evaluate.batch_size import BATCH_SIZE
    from m2kr.evaluate.task import evaluate_task
    from m2kr.formats.shards import choose_tasks
    from m2kr.images.roots import parse_roots
    from m2kr.results.table import table
    from m2kr.retriever import get_retriever

    if options.workers is None:
        options = replace(options, workers=min(4, os.cpu_count() or 1))
    tasks = choose_tasks(options.tasks, options.data, options.split)
    images = parse_roots(options.images) if options.images else None
    if "," in options.device:
        raise M2KRError(f"--device names one device, not several: {options.device!r}")
    retriever = get_retriever(model, **options.loading)
    for task in tasks:  # of all tasks before the first begins
        ignored_inputs(retriever.name, retriever.reads, task, ignore_images=options.ignore_images)
    how = f"on {options.device} in {options.dtype}, {options.batch_size or BATCH_SIZE} at once"
    results = []
    for task in tasks:
        data = load_task(task, options.data, options.split, images=images, limit=options.limit, trust=options.trust)
        data = with_raw_images(data)
        if task is tasks[0]:
            among = ", ".join(each.key for each in tasks)
            say(f"{retriever.name}: {among} of {options.data}, {how}", quiet=options.quiet)
        if options.nano:
            data = nano_subset(data, seed=options.seed)
        results.append(evaluate_task(retriever, data, options.out / safe_name(retriever.name), options))
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
