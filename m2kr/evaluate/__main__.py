"""The command ``python -m m2kr.evaluate``: evaluate a retriever on tasks, or compare results."""

from __future__ import annotations

from collections.abc import Sequence

from m2kr.common.cli import parse
from m2kr.errors import run_command
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
    if options.model is None:
        from m2kr.evaluate.compare import compare_results

        print(compare_results(options.compare, options.data, trust=options.trust))
        return 0
    from m2kr.evaluate.evaluate import evaluate
    from m2kr.metrics.kernels import compiled_ahead
    from m2kr.results.table import table

    with compiled_ahead():
        results = evaluate(options)
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
