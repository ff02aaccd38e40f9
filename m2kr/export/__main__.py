"""The command ``python -m m2kr.export``, which writes a benchmark, or result files, in the forms other tools read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from m2kr.common.cli import option, parse
from m2kr.common.options import HERE, ImagesOption, QuietOption, SplitOption, TasksOption, TrustOption
from m2kr.errors import M2KRError, run_command

FORMS = ("trec", "beir", "mteb", "mteb-results", "challenge")

_OF_RESULTS = ("mteb-results", "challenge")
_RESULTS = "results"
# Forms of results; the others are of a benchmark.

_EXAMPLES = """examples:
  python -m m2kr.export m2kr-data --to beir --out beir --tasks MSMARCO
  python -m m2kr.export m2kr-data --to mteb --out mteb-data --tasks OKVQA --images raw
  python -m m2kr.export results --to mteb-results --out mteb-results
  python -m m2kr.export results --to challenge --out csv
"""


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(TasksOption, SplitOption, ImagesOption, TrustOption):
    """Options that say something about a benchmark alone, and nothing about result files."""

    ignore_images: bool = option("export to mteb without the queries' images", False)
    ignore_passage_images: bool = option("export to mteb without the passages' images, where these have any", False)
    no_instructions: bool = option("leave the instruction out of the queries' text", False)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(BenchmarkOptions, QuietOption):
    """Options of ``python -m m2kr.export``."""

    source: Path = option(
        f"folder of the benchmark, default {HERE}; for mteb-results and challenge, of results, default {_RESULTS}",
        positional=True,
        found=lambda given: Path(_RESULTS if given.to in _OF_RESULTS else HERE),
    )
    to: str = option("the form", choices=FORMS)
    out: Path = option(
        "new folder, or an export to the same form; default: export- and the form",
        found=lambda given: Path(f"export-{given.to}"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        ExportOptions,
        argv,
        prog="python -m m2kr.export",
        description="Write a benchmark, or result files, in the forms other tools read.",
        epilog=_EXAMPLES,
    )
    if options.to in _OF_RESULTS:
        from m2kr.export.challenge import export_runs
        from m2kr.export.mteb_results import export_results

        export = export_runs if options.to == "challenge" else export_results
        for field in fields(BenchmarkOptions):
            if getattr(options, field.name) != field.default:
                raise M2KRError(f"--{field.name.replace('_', '-')} says nothing about result files. Leave it out.")
        paths = export(options.source, options.out, quiet=options.quiet)
    else:
        paths = _export_benchmark(options)
    for path in paths:
        print(path)
    return 0


def _export_benchmark(options: ExportOptions) -> list[Path]:
    from m2kr.export.task import export_task
    from m2kr.formats.shards import choose_tasks
    from m2kr.images.roots import parse_roots

    if not options.source.is_dir():
        raise M2KRError(f"{options.source} is not a folder. Name the folder of a benchmark.")
    images = parse_roots(options.images) if options.images else None
    return [
        export_task(
            options.source,
            task,
            options.to,
            options.out,
            split=options.split,
            images=images,
            instructions=not options.no_instructions,
            ignore_images=options.ignore_images,
            ignore_passage_images=options.ignore_passage_images,
            trust=options.trust,
            quiet=options.quiet,
        )
        for task in choose_tasks(options.tasks, options.source, options.split)
    ]


if __name__ == "__main__":
    raise SystemExit(run_command(main))
