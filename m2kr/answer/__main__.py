"""The command ``python -m m2kr.answer``: answer questions with retrieved passages, and score the answers.

A reader answers the questions of OK-VQA, InfoSeek and Encyclopedic-VQA from the first passages of a run, without any
(``--no-retrieval``) or from the positive ones (``--oracle``), and is scored by the official metrics.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from m2kr.answer.options import AnswerOptions
from m2kr.common.cli import parse
from m2kr.errors import run_command
from m2kr.reader import REGISTRY

_EXAMPLES = """examples:
  python -m m2kr.answer --reader blip2-flan-t5-xl --data m2kr-data --run-dir results/bm25 --images raw
  python -m m2kr.answer --reader ./my-vlm --data m2kr-data --tasks OKVQA --run results/bm25/OKVQA.run.trec.gz --k 3
  python -m m2kr.answer --reader ./my-vlm --data m2kr-data --tasks EVQA --oracle --combine concat --bem ./bem
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        AnswerOptions,
        argv,
        prog="python -m m2kr.answer",
        description="Answer the questions of M2KR with retrieved passages, and score the answers.",
        epilog=f"{_EXAMPLES}\n{REGISTRY.listed()}",
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from m2kr.answer.bem import EquivalenceModel
    from m2kr.answer.evidence import choose_runs, no_passages, oracle_passages, run_passages
    from m2kr.answer.remote import RemoteReader
    from m2kr.answer.task import answer_task, check_reader
    from m2kr.common.files import safe_name
    from m2kr.dataset import default_images, load_task, nano_subset, plan_fetching
    from m2kr.formats.hub import local_folder
    from m2kr.images.roots import parse_roots
    from m2kr.reader import Reader, get_reader
    from m2kr.results.record import result_of_run
    from m2kr.results.table import answer_table
    from m2kr.tasks import get_task

    roots = parse_roots(options.images) if options.images else None
    runs = choose_runs(options)
    folder = local_folder(options.data, ",".join(runs), options.split, quiet=options.quiet)
    prepared = []
    for name, path in runs.items():  # of all tasks before the first begins
        found = result_of_run(path) if path else None
        limit = options.limit or (found["queries"] if found and found["limited"] else None)
        needed = not options.ignore_images
        images = roots or default_images(folder, get_task(name), options.split, needed=needed)
        data = load_task(name, folder, options.split, images=images, limit=limit, trust=options.trust)
        if found and found["nano"]:
            data = nano_subset(data, seed=found["seed"] or 0)
        if path:
            passages = run_passages(data, path, options.k, allow_missing=options.allow_missing)
            out = options.out / safe_name(passages.retriever or "") if options.out else path.parent
        elif options.oracle:
            passages = oracle_passages(data, options.k, allow_missing=options.allow_missing)
            out = (options.out or Path("results")) / "oracle"
        else:
            passages, out = no_passages(data), (options.out or Path("results")) / "no-retrieval"
        prepared.append((data, passages, out))
    with ExitStack() as left:
        reader: Reader
        if options.ray is None:
            reader = get_reader(options.reader, **options.loading)
        else:  # its processes end when it is left
            reader = RemoteReader(
                left.enter_context(options.cluster()), options.reader, options.loading, options.device
            )
        for data, _, _ in prepared:
            check_reader(reader, data.task, ignore_images=options.ignore_images)
        if not options.ignore_images:
            plan_fetching((data for data, _, _ in prepared), quiet=options.quiet)
        bem = None
        if options.bem and any(data.task.key == "EVQA" for data, _, _ in prepared):
            bem = EquivalenceModel(options.bem, device=options.device)
        results = [answer_task(reader, data, passages, out, options, bem=bem) for data, passages, out in prepared]
    print(answer_table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
