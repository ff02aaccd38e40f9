"""``python -m leaderboard reproduce --model NAME``: evaluate a model anew, beside its published figures, and report it.

What the tasks need is fetched from the hub: the model's checkpoint, the tables, and of the pictures those asked with.
After a kill or a cut connection the same command goes on where it was. What cannot be compared is refused before
anything of size is fetched.
"""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leaderboard.published import BLOCKS, read_published
from leaderboard.reproduction import FORMAT, Reproduction
from leaderboard.verify import compare, incomparable, other_pool, published_name, told, useless
from m2kr import __version__
from m2kr.common.cli import option, parse
from m2kr.common.files import atomic, digest, safe_name, sha256_of
from m2kr.common.options import LoadOptions, QueryImagesOption, QuietOption, RerunOption
from m2kr.common.progress import say
from m2kr.common.work import Note
from m2kr.errors import M2KRError
from m2kr.retriever import REGISTRY
from m2kr.tasks import HUB_ID, get_task, parse_tasks

if TYPE_CHECKING:
    import pandas as pd

    from leaderboard.records import RunRecord

_EXAMPLES = """examples:
  python -m leaderboard reproduce --model preflmr-vit-b
  python -m leaderboard reproduce --model preflmr-vit-l --tasks IGLUE,WIT --images hub
  python -m leaderboard reproduce --model preflmr-vit-l-encn --block encn --tasks WIT --option padding_mask=official

exit code: 0 where all figures are OK or near, 1 where one is off, 2 where one could not be compared
"""


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(LoadOptions, QueryImagesOption, RerunOption, QuietOption):
    """Options of ``python -m leaderboard reproduce``."""

    model: str = option("a model with published figures, as m2kr.evaluate takes it")
    tasks: str = option("comma-separated, or all: those with a published figure; default IGLUE, the smallest", "IGLUE")
    data: str = option("the published benchmark: a dataset id of the hub, or the folder of a copy", HUB_ID)
    published: str | None = option("published model, where its name is another", None, metavar="NAME")
    block: str = option("block of published figures", "official", choices=tuple(BLOCKS))
    out: Path = option("folder of the report; the results go into its folder results", Path("reproduced"))

    @property
    def results(self) -> Path:
        """The folder of the results."""
        return self.out / "results"


def reproduce(options: ReproduceOptions, command: str) -> Reproduction:
    """Evaluate a model on tasks, compare with its published figures, and write a report as Markdown and as JSON.

    Args:
        options: those of the command.
        command: how it was called, for the report.

    Returns:
        The report, made now or before.

    Raises:
        M2KRError: no figure is published of a task, or what is published is of another pool, measure or benchmark; or
            as `m2kr.evaluate.evaluate.evaluate`.
    """
    name = published_name(options.published or options.model, options.block)
    figures = read_published()
    figures = figures[(figures["block"] == options.block) & (figures["model"] == name)]
    tasks = _asked(options, name, figures)
    figures = figures[figures["task"].isin(tasks)]
    path = options.out / f"{safe_name(options.model)}.{'-'.join(tasks)}.json"
    page = path.with_suffix(".md")
    key = digest(
        *(__version__, FORMAT, name, options.block, tasks, options.model, options.data, options.images),
        *(options.loading, figures.astype(str).to_dict("records")),
    )
    note = Note(path, key, whole=lambda facts: page.is_file() and _is_whole(facts, options.out))
    if note.facts and not options.rerun:
        say(f"reported before, see {page}", quiet=options.quiet)
        return Reproduction(note.facts)
    started = time.perf_counter()
    records = _evaluated(options, tasks)
    found = compare(records, name, options.block)
    files = [each for record in records for each in (record.path, record.run_path)]
    report = Reproduction(
        {
            "format": FORMAT,
            "m2kr": __version__,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": options.model,
            "published_model": name,
            "block": options.block,
            "data": options.data,
            "command": command,
            "seconds": round(time.perf_counter() - started, 1),
            "system": platform.platform(),
            "figures": [{**asdict(one), "shown": one.shown, "apart": one.apart} for one in found],
            "results": {record.result["task"]: dict(record.result) for record in records},
            "files": {each.relative_to(options.out).as_posix(): sha256_of(each) for each in files},
        }
    )
    with atomic(page, "w") as file:
        file.write(report.markdown())
    note.key = key
    note.save(**report.facts)
    say(f"{page}: the report, to be submitted as it is, with the files that it names", quiet=options.quiet)
    return report


def _asked(options: ReproduceOptions, name: str, figures: pd.DataFrame) -> list[str]:
    """Return the keys of the tasks, of all of which there is a published figure that a result here compares with.

    Raises:
        M2KRError: of one there is none; the reason is said.
    """
    if why := incomparable(options.block):
        raise M2KRError(f"{name} in the block {options.block} cannot be reproduced: {why}. Name another --block.")
    rows = figures.to_dict("records")
    there = list(dict.fromkeys(str(row["task"]) for row in rows if not useless(row)))
    if options.tasks == "all" and there:
        return there
    for task in parse_tasks(options.tasks, None):
        if task.key not in there:
            reasons = [useless(row) for row in rows if row["task"] == task.key]
            why = reasons[0] if reasons else f"no figure of {name} is published of it"
            raise M2KRError(
                f"{task.key} cannot be reproduced: {why} in the block {options.block}. There are figures of "
                f"{', '.join(there) or 'no task'}; name those with --tasks, or another --block."
            )
    return [task.key for task in parse_tasks(options.tasks, there)]


def _evaluated(options: ReproduceOptions, tasks: Sequence[str]) -> list[RunRecord]:
    """Return the results on tasks, made now or before.

    Raises:
        M2KRError: the tables are not those that the figures are of, or the model cannot be evaluated.
    """
    from leaderboard.records import RunRecord, read_record
    from m2kr.evaluate.evaluate import evaluate
    from m2kr.evaluate.options import EvaluateOptions
    from m2kr.formats.hub import local_folder

    _say_checkpoint(options)
    names = ",".join(tasks)
    folder = local_folder(options.data, names, "test", tasks, quiet=options.quiet)
    for task in tasks:
        if why := _other_data(folder, task):
            raise M2KRError(f"{task} of {options.data} compares with no published figure: {why}. Name another --data.")
    results = evaluate(
        EvaluateOptions(
            model=options.model,
            data=str(folder),
            tasks=names,
            images=options.images,
            out=options.results,
            checkpoint=options.checkpoint,
            option=options.option,
            device=options.device,
            dtype=options.dtype,
            workers=None,
            rerun=options.rerun,
            quiet=options.quiet,
        )
    )
    paths = (options.results / safe_name(result["model"]) / f"{result['task']}.json" for result in results)
    return [record for path in paths if isinstance(record := read_record(path), RunRecord)]


def _other_data(folder: Path, key: str) -> str:
    """Return why a task's tables are not the published ones, as far as their sizes tell; else nothing."""
    import polars as pl

    from m2kr.formats.manifest import read_manifest
    from m2kr.formats.shards import readable, split_shards

    if read_manifest(folder)["tasks"].get(key, {}).get("synthetic"):
        return "it is made up"
    task = get_task(key)
    sizes = []
    for config, split in ((task.data_config, "test"), (task.passages_config, "test_passages")):
        with readable(f"{config}/{split} in {folder}"):
            sizes.append(pl.scan_parquet(split_shards(folder, config, split)).select(pl.len()).collect().item())
    return other_pool(key, *sizes)


def _say_checkpoint(options: ReproduceOptions) -> None:
    """Say how much of a checkpoint on the hub is to be fetched; nothing where the hub does not tell."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    from m2kr.common.hub import answered, is_hub_id, patience, told_bytes

    record = REGISTRY.records().get(options.model)
    name = options.checkpoint or (record.hub_id if record else options.model)
    if options.quiet or not is_hub_id(name) or Path(name).is_dir():
        return
    try:
        info = answered(lambda: HfApi().model_info(name, files_metadata=True, timeout=patience()))
    except Exception:  # whoever loads it says what is wrong
        return
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    weights = [path for path in sizes if path.endswith(".safetensors")]
    weights = weights or [path for path in sizes if path.endswith(".bin")]
    absent = [path for path in weights if not isinstance(try_to_load_from_cache(name, path, revision=info.sha), str)]
    if absent:
        size = told_bytes(sum(sizes[path] for path in absent))
        say(f"{name}@{(info.sha or '')[:7]}: {size} of weights are to be fetched")


def _is_whole(facts: dict[str, Any], folder: Path) -> bool:
    """Whether a report's JSON can be read, and the files that it names are those that were reported."""
    files = facts["files"].items()
    unchanged = all((folder / name).is_file() and sha256_of(folder / name) == sha256 for name, sha256 in files)
    return unchanged and bool(Reproduction(facts).comparisons)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: exit code 0 where all is OK or near, 1 where a figure is off, 2 where one has no verdict."""
    given = sys.argv[1:] if argv is None else list(argv)
    options = parse(
        ReproduceOptions,
        given,
        prog="python -m leaderboard reproduce",
        description="Evaluate a model anew, set each figure beside the published one with its sampling error, and "
        "write a report that can be submitted.",
        epilog=f"{_EXAMPLES}\n{REGISTRY.listed()}",
    )
    report = reproduce(options, f"python -m leaderboard reproduce {shlex.join(given)}")
    print("\n".join(told(report.comparisons)))
    for task, reason in dict.fromkeys((one.task, one.reason) for one in report.comparisons if one.reason):
        print(f"{task} is not comparable: {reason}")
    return report.exit_code
