"""Build the benchmark from raw releases: ``python -m m2kr.build --raw ROOT --out OUT``.

For each task: find the raw files, read them into staged tables, join them, write the configs, check them, publish.
What is finished is kept: the same command after a kill goes on from the last finished file, and ends with the same
bytes as if nothing had happened.

A finished task is not built again as long as everything that it came from is as it was: this program's version, the
options, every raw file that was read (by its sha256), and the absence of those that were not there. Images are no part
of what is built, so with ``--images`` they are looked for each time, finished or not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr import __version__
from m2kr.build.hashing import FileHasher
from m2kr.common.progress import say
from m2kr.errors import M2KRError, did_you_mean
from m2kr.tasks import RELEASES, TASKS, Task, parse_tasks

if TYPE_CHECKING:
    from m2kr.images.roots import ImageRoots
    from m2kr.parsing.releases import Quarantine, Tables

STATE = ".build"
"""Folder in the output folder that holds unfinished work; it is gone when that work is finished."""

HASHES = "hashes.json"
"""File in a task's part of it: raw files whose hash is known."""

_EXAMPLES = """examples:
  python -m m2kr.build --list
  python -m m2kr.build --raw raw --out m2kr-data --tasks MSMARCO,OKVQA
  python -m m2kr.build --raw raw --out m2kr-data --tasks LLaVA --source llava_instruct=/data/llava --allow-missing
  python -m m2kr.build --raw raw --out m2kr-data --set MSMARCO.pool=100000 --on-bad-rows skip
"""


def build_task(
    task: Task,
    raw_root: Path,
    out: Path,
    *,
    sources: dict[str, Path] | None = None,
    options: dict[str, Any] | None = None,
    seed: int = 0,
    on_bad_rows: str = "error",
    allow_missing: bool = False,
    images: ImageRoots | None = None,
    workers: int = 1,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Build one task into ``out`` and return its manifest entry; None where nothing of it could be built.

    Args:
        task: what to build.
        raw_root: folder with one folder per raw release.
        out: folder of the benchmark; other tasks in it are kept.
        sources: release folder name -> path, where it is not under ``raw_root``.
        options: options of the task's source, by name. They go before those that a made-up release brings along.
        seed: of everything drawn by chance.
        on_bad_rows: "error" stops at a row that cannot be used; "skip" leaves such rows out and lists them.
        allow_missing: build what is there; missing files and halves are listed.
        images: if given, every query's image has to be there.
        workers: threads that parse raw files.
        quiet: no progress and no notices.

    Raises:
        M2KRError: and then ``out`` is as it was, but for finished intermediate files under ``.build``.
    """
    from m2kr.build.tables import write_tables
    from m2kr.formats.manifest import entry, publish
    from m2kr.parsing.releases import Quarantine, RawFiles
    from m2kr.sources.options import make_options, source_of

    module = source_of(task.key)
    state = out / STATE / task.key
    quarantine = Quarantine("skip" if on_bad_rows == "skip" else "error", allow_missing=allow_missing)
    folders = {folder: (sources or {}).get(folder, raw_root / folder) for folder in task.releases}
    synthetic, defaults = _made_up(folders.values())
    settings = make_options(task.key, {**defaults.get(task.key, {}), **(options or {})})
    absent = _absent(folders)  # before: a file may come meanwhile
    existed = out.exists()
    try:
        with FileHasher(state / HASHES) as hashing:
            raw = RawFiles(
                raw_root,
                state / "staged",
                sources=sources,
                quarantine=quarantine,
                on_read=hashing.begin,
                workers=workers,
                quiet=quiet,
            )
            tables: Tables = module.build(raw, settings, seed)
            if raw.missing:
                say(f"  missing: {', '.join(raw.missing)}", quiet=quiet)
            for line in tables.lacking:
                say(f"  {line}", quiet=quiet and bool(tables.data))
            if tables.data:
                for path in raw.used.values():  # those that were not read just now
                    hashing.begin(path)
                configs, written = write_tables(
                    task, tables, state / "tables", images=images, workers=workers, quiet=quiet
                )
                hashes = _hashed(raw.used, hashing)
    except M2KRError:
        _tidy(out, state, existed=existed)
        raise
    if not tables.data:
        _report(task, quarantine, out, quiet=quiet)
        shutil.rmtree(state, ignore_errors=True)
        _tidy(out, state, existed=existed)
        return None
    choices = {**asdict(settings), "seed": seed, "on_bad_rows": on_bad_rows, "allow_missing": allow_missing}
    counts: dict[str, Any] = {
        **tables.counts,
        "rows_left_out": quarantine.count("bad"),
        "rows_without_their_other_half": quarantine.count("missing"),
    }
    if tables.lacking:
        counts["lacking"] = tables.lacking
    listed = {config: {split: facts["shards"] for split, facts in splits.items()} for config, splits in configs.items()}
    for config, splits in configs.items():
        for split, facts in splits.items():
            if "checked" in facts:
                counts[f"{config}/{split}"] = facts["checked"]
    record = entry(listed, sources=hashes, options=choices, counts=counts, synthetic=synthetic)
    record["absent"] = absent
    _report(task, quarantine, out, quiet=quiet)
    publish(out, task, record, written)
    shutil.rmtree(state)
    _tidy(out, state, existed=True)
    return record


def _made_up(folders: Any) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """Return seed and scale of the made-up world that releases come from, and the build options they bring along."""
    world: dict[str, Any] | None = None
    options: dict[str, dict[str, Any]] = {}
    for folder in folders:
        path = folder / "SYNTHETIC.json"
        if not path.is_file():
            continue
        try:
            mark = json.loads(path.read_text(encoding="utf-8"))
            world = {"generator": mark["generator"], "seed": mark["seed"], "scale": mark["scale"]}
            for task, values in mark["options"].items():
                options.setdefault(task, {}).update(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise M2KRError(f"{path} is not a mark of m2kr.synthetic ({error!r}). Make that world again.") from error
    return world, options


def _absent(folders: dict[str, Path]) -> list[str]:
    """Return "<release>/<name>" of the raw files that would be read, or might with some option, if they were there.

    Of the names a file may have, plain or ``.gz``, those count that are tried before the one which is there.
    """
    absent = []
    for folder, place in folders.items():
        release = RELEASES[folder]
        for name in (*release.files, *release.optional):
            plain = name.removesuffix(".gz")
            for candidate in dict.fromkeys((name, plain, f"{plain}.gz")):  # the order of RawFiles.find
                if (place / candidate).is_file():
                    break
                absent.append(f"{folder}/{candidate}")
    return absent


def _hashed(used: dict[str, Path], hashing: FileHasher) -> dict[str, dict[str, Any]]:
    """Return sha256 and bytes of each raw file."""
    return {label: {"sha256": hashing.of(path), "bytes": path.stat().st_size} for label, path in used.items()}


def _report(task: Task, quarantine: Quarantine, out: Path, *, quiet: bool) -> None:
    """Write the rows that were left out to ``quarantine/<TASK>.jsonl``, and print how many there are and why."""
    from collections import Counter

    from m2kr.common.files import atomic

    path = out / "quarantine" / f"{task.key}.jsonl"
    if not quarantine.rows:
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
        return
    with atomic(path, "w") as file:
        for row in quarantine.rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
    bad, missing = quarantine.count("bad"), quarantine.count("missing")
    say(f"  {task.key}: {bad:,} bad rows and {missing:,} rows without their other half left out; see {path}")
    if not quiet:
        files = Counter((row.kind, row.file) for row in quarantine.rows)
        for (kind, file_name), count in files.items():
            first = next(row for row in quarantine.rows if (row.kind, row.file) == (kind, file_name))
            say(f"    {file_name}: {count:,} ({kind}), the first at {first.row}: {first.reason}")


def _tidy(out: Path, state: Path, *, existed: bool) -> None:
    """Keep finished intermediate files only, and no empty folders."""
    shutil.rmtree(state / "tables", ignore_errors=True)
    if not (state / "staged").is_dir() or not any((state / "staged").iterdir()):
        (state / HASHES).unlink(missing_ok=True)
    for folder in (state / "staged", state, out / STATE):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if not existed and out.is_dir() and not any(out.iterdir()):
        out.rmdir()


def _up_to_date(task: Task, out: Path, raw_root: Path, arguments: argparse.Namespace) -> bool:
    """Whether ``out`` holds the task, built by this version from the same raw files with the same options."""
    from m2kr.formats.manifest import read_manifest
    from m2kr.sources.options import make_options

    entry = read_manifest(out)["tasks"].get(task.key)
    if entry is None or entry["m2kr"] != __version__ or "absent" not in entry:
        return False
    folders = {folder: arguments.sources.get(folder, raw_root / folder) for folder in task.releases}
    synthetic, defaults = _made_up(folders.values())
    settings = make_options(task.key, {**defaults.get(task.key, {}), **arguments.options.get(task.key, {})})
    choices = {
        **asdict(settings),
        "seed": arguments.seed,
        "on_bad_rows": arguments.on_bad_rows,
        "allow_missing": arguments.allow_missing,
    }
    if entry["options"] != choices or entry["synthetic"] != synthetic:
        return False
    if not set(entry["absent"]) <= set(_absent(folders)):
        return False
    shards = [shard for splits in entry["configs"].values() for facts in splits.values() for shard in facts["shards"]]
    if any(not (out / s["path"]).is_file() or (out / s["path"]).stat().st_size != s["bytes"] for s in shards):
        return False
    paths = {}
    for label in entry["sources"]:
        folder, name = label.split("/", 1)
        paths[label] = folders[folder] / name
    if not all(path.is_file() for path in paths.values()):
        return False
    if any(path.stat().st_size != entry["sources"][label]["bytes"] for label, path in paths.items()):
        return False
    with FileHasher() as hashing:
        return bool(_hashed(paths, hashing) == entry["sources"])


def _check_images(task: Task, out: Path, images: ImageRoots) -> None:
    """Look for every image of a finished task, as a build does.

    Raises:
        DatasetError: one is missing; the message names the first and counts them.
    """
    from m2kr.formats.rules import DatasetError
    from m2kr.images.roots import image_paths

    missing: dict[str, str] = {}
    seen: set[str] = set()
    for split, question, path in image_paths(out, task):
        if path not in seen:
            seen.add(path)
            if not images.has(path):
                missing[path] = f"{task.data_config}/{split}, row question_id={question!r}"
    if missing:
        path, where = next(iter(missing.items()))
        more = f" ({len(missing):,} images in all)" if len(missing) > 1 else ""
        raise DatasetError(f"{where}: the image {path} is not in {images}{more}. Name where they are with --images.")


def _list() -> None:
    for task in TASKS.values():
        print(f"{task.key:9} {task.kind:4} {', '.join(task.splits)}")
        for folder in task.releases:
            release = RELEASES[folder]
            print(f"          {folder}/: {', '.join(release.files)}")
            if release.optional:
                print(f"          not needed, but read where they are: {', '.join(release.optional)}")
            print(f"          {release.title}, {release.url}, licence {release.licence}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m m2kr.build",
        description="Build M2KR from the raw releases of its datasets.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--raw", type=Path, help="folder with one folder per raw release (see --list)")
    parser.add_argument("--out", type=Path, help="folder of the benchmark")
    parser.add_argument("--tasks", default="all", help="comma-separated, or all")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=PATH", help="a release kept elsewhere")
    parser.add_argument("--set", action="append", default=[], metavar="TASK.OPTION=VALUE", help="an option of a source")
    parser.add_argument("--on-bad-rows", choices=("error", "skip"), default="error", help="default: error")
    parser.add_argument("--allow-missing", action="store_true", help="build what is there, list what is not")
    parser.add_argument(
        "--images", action="append", default=[], metavar="[TASK=]ROOT", help="check that every image is there"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn by chance; default 0")
    parser.add_argument("--workers", type=int, default=0, help="threads; default one per core; changes no byte")
    parser.add_argument("--list", action="store_true", help="show tasks and the raw files they need")
    parser.add_argument("--quiet", action="store_true", help="no progress, no notices")
    return parser


def _parse_sources(pairs: list[str]) -> dict[str, Path]:
    sources = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator or not path:
            raise M2KRError(f"--source {pair!r} is not of the form NAME=PATH.")
        if name not in RELEASES:
            known = list(RELEASES)
            raise M2KRError(f"--source names the release {name!r}, which there is not.{did_you_mean(name, known)}")
        if not Path(path).is_dir():
            raise M2KRError(f"--source {name}: {path} is not a folder.")
        sources[name] = Path(path)
    return sources


def _parse_options(pairs: list[str]) -> dict[str, dict[str, str]]:
    from m2kr.tasks import get_task

    options: dict[str, dict[str, str]] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        task, dot, option = name.partition(".")
        if not separator or not dot:
            raise M2KRError(f"--set {pair!r} is not of the form TASK.OPTION=VALUE.")
        options.setdefault(get_task(task).key, {})[option] = value
    return options


def _keep_freed_memory() -> None:
    """Let glibc, where it is the C library, and the allocator in Polars keep what is freed for a while.

    Raw files are read, and tables written, in blocks of megabytes. Asking the system for each anew takes a quarter of
    the reading time. Polars reads its setting when it is first imported.
    """
    import ctypes

    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:10000,muzzy_decay_ms:0")
    trim_threshold, mmap_threshold = -1, -3  # as malloc.h numbers them
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 32 << 20)  # the most it takes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.list:
        _list()
        return 0
    if arguments.raw is None or arguments.out is None:
        parser.error("--raw and --out are required (or --list)")
    workers = arguments.workers or os.cpu_count() or 1
    # Polars reads these when it is first imported, which is why nothing above imports it. Its own 100,000 rows a step
    # are hundreds of megabytes where a row is an article; steps of 2,000 are as fast.
    os.environ.setdefault("POLARS_MAX_THREADS", str(workers))
    os.environ.setdefault("POLARS_IDEAL_MORSEL_SIZE", "2000")
    _keep_freed_memory()
    from m2kr.sources.options import make_options

    if not arguments.raw.is_dir():
        raise M2KRError(f"--raw {arguments.raw} is not a folder. It should hold one folder per release; see --list.")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise M2KRError(f"--out {arguments.out} is a file. Name a folder.")
    tasks = parse_tasks(arguments.tasks)
    arguments.sources = _parse_sources(arguments.source)
    arguments.options = _parse_options(arguments.set)
    for name, given in arguments.options.items():
        make_options(name, given)  # a wrong one is said before anything is built
    images = None
    if arguments.images:
        from m2kr.images.roots import parse_roots

        images = parse_roots(arguments.images)
    built = 0
    for task in tasks:
        if _up_to_date(task, arguments.out, arguments.raw, arguments):
            if images and task.reads_images:
                _check_images(task, arguments.out, images.for_task(task))
            say(f"{task.key}: up to date", quiet=arguments.quiet)
            # A kill between the last rename and the clearing up leaves its unfinished work behind.
            shutil.rmtree(arguments.out / STATE / task.key, ignore_errors=True)
            _tidy(arguments.out, arguments.out / STATE / task.key, existed=True)
            built += 1
            continue
        say(f"{task.key}: building", quiet=arguments.quiet)
        record = build_task(
            task,
            arguments.raw,
            arguments.out,
            sources=arguments.sources,
            options=arguments.options.get(task.key),
            seed=arguments.seed,
            on_bad_rows=arguments.on_bad_rows,
            allow_missing=arguments.allow_missing,
            images=images.for_task(task) if images else None,
            workers=workers,
            quiet=arguments.quiet,
        )
        if record is None:
            say(f"{task.key}: nothing could be built")
            continue
        built += 1
        if not arguments.quiet:
            for config, splits in record["configs"].items():
                sizes = ", ".join(f"{split} {facts['rows']:,}" for split, facts in splits.items())
                say(f"  {config}: {sizes}")
    if not built:
        raise M2KRError("nothing was built, for the reasons above. See --list for what is needed and where to get it.")
    example = f"load_dataset({str(arguments.out)!r}, '{tasks[0].data_config}')"
    print(f"{arguments.out}: {built} of {len(tasks)} tasks; read them with {example}")
    return 0
