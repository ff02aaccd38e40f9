"""Writing a built benchmark: sharded Parquet, a dataset card, a manifest with checksums. Nothing else writes one.

A task appears under its final name only when all of it is there and has passed the checks. Bytes depend on the tables
and on the versions of m2kr and pyarrow alone: rows are cut into row groups and shards by their number, and nothing of
the time, the machine or the number of threads goes into a file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from m2kr import __version__
from m2kr.croissant import croissant
from m2kr.errors import M2KRError
from m2kr.files import atomic, digest, sha256_of, write_json
from m2kr.progress import progress
from m2kr.schema import SCHEMAS, check_columns, check_split
from m2kr.tasks import RELEASES, TASKS, Task

if TYPE_CHECKING:
    from m2kr.images import ImageRoots
    from m2kr.sources.raw import Tables

SHARD_ROWS = 500_000
"""Rows of a shard. At 0.2 to 3.4 kB a row, a shard compresses to a few hundred megabytes at most."""

ROW_GROUP_ROWS = 20_000
"""Rows of a row group: what a reader holds at least."""

MANIFEST = "manifest.json"
CARD = "README.md"
CROISSANT = "croissant.json"


def write_tables(
    task: Task,
    tables: Tables,
    work: Path,
    *,
    images: ImageRoots | None = None,
    workers: int = 1,
    quiet: bool = False,
) -> tuple[dict[str, dict[str, Any]], dict[str, Path]]:
    """Write and check every split of a task, reusing those that a killed run finished from the same staged files.

    With several workers passages are written in a thread of their own, beside the queries: both are mostly compression,
    which keeps one core busy each. Whichever is done first takes what the other has not begun.

    Args:
        task: the task.
        tables: what its source made.
        work: folder for what is written; the staged files are beside it.
        images: if given, every query's image has to be there.
        workers: 1 writes one table after the other.
        quiet: show no progress.

    Returns:
        config -> split -> ``shards`` (see `write_split`) and, with the queries, the counts of the check; and the
        folder of each config.

    Raises:
        DatasetError: a table breaks a rule of the format.
        M2KRError: the disk is full, or the folder cannot be written.
    """
    key = digest(__version__, sorted(p.name for p in (work.parent / "staged").glob("*.parquet")), repr(tables.counts))
    folders = {config: work / config for config in (task.data_config, task.passages_config)}
    configs: dict[str, dict[str, Any]] = {config: {} for config in folders}
    splits = [split for split in task.splits if split in tables.data]
    stop = Event()

    def write(config: str, name: str, rows: pl.LazyFrame, shards: list[dict[str, Any]] | None = None) -> None:
        """Write one split, or give it the shards of another one which is the same table."""
        note = work / f"{config}-{name}.json"
        facts: dict[str, Any] = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
        # A kill while the task was being moved into place leaves a note without its shards.
        whole = all((folders[config] / shard["path"]).exists() for shard in facts.get("shards", []))
        if facts.get("key") != key or not whole:
            if shards is None:
                shards = write_split(folders[config], config, name, rows, stop=stop, quiet=quiet)
            else:
                shards = copy_split(folders[config], shards, name)
            facts = {"key": key, "shards": shards}
            write_json(note, facts)
        configs[config][name] = facts

    def write_passages(split: str, shards: list[dict[str, Any]] | None = None) -> None:
        write(task.passages_config, f"{split}_passages", tables.passages[split], shards)

    # Splits often share one table (valid and test are searched in the same passages): it is written once.
    first = {id(tables.passages[split]): split for split in reversed(splits)}
    with ThreadPoolExecutor(1) as beside:
        try:
            passages: dict[str, Future[None]] = {}
            for split in sorted(first.values(), key=splits.index):
                passages[split] = beside.submit(write_passages, split)
                if workers == 1:
                    passages[split].result()
            for split in splits:
                write(task.data_config, split, tables.data[split])
            begun: list[Future[None]] = []
            for split, future in reversed(passages.items()):
                if future.cancel():
                    write_passages(split)
                else:
                    begun.append(future)
            for future in begun:
                future.result()
        except BaseException:
            stop.set()  # what is being written beside would else hold up the message
            raise
    for split in splits:
        origin = first[id(tables.passages[split])]
        if origin != split:
            write_passages(split, configs[task.passages_config][f"{origin}_passages"]["shards"])
        checked = configs[task.data_config][split]
        if "checked" not in checked:
            data, pool = (
                pl.scan_parquet([folders[config] / shard["path"] for shard in configs[config][name]["shards"]])
                for config, name in ((task.data_config, split), (task.passages_config, f"{split}_passages"))
            )
            checked["checked"] = check_split(task, split, data, pool, images)
            write_json(work / f"{task.data_config}-{split}.json", checked)
    in_order = {
        task.data_config: {split: configs[task.data_config][split] for split in splits},
        task.passages_config: {
            f"{split}_passages": configs[task.passages_config][f"{split}_passages"] for split in splits
        },
    }
    return in_order, folders


def write_split(
    folder: Path,
    config: str,
    split: str,
    rows: pl.LazyFrame,
    *,
    expected: int | None = None,
    stop: Event | None = None,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Write one split of a config as ``folder/<split>-NNNNN-of-NNNNN.parquet``.

    Args:
        folder: created if need be. Shards of the split that are there already are replaced.
        config: names the schema.
        split: name of the split ("test", "test_passages").
        rows: the rows, streamed.
        expected: number of rows, for the progress bar.
        stop: when set by another thread, writing ends with an error.
        quiet: show no progress.

    Returns:
        For each shard, in order: ``path`` (relative to ``folder``), ``sha256``, ``rows``, ``bytes``.

    Raises:
        DatasetError: the columns are not those of the config.
        M2KRError: the disk is full, or the folder cannot be written.
    """
    schema = SCHEMAS[config]
    # Passages differ from each other, and a dictionary of all of them costs time and helps nothing; queries share
    # their answers and positives.
    repeats = config.endswith("_data")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{split}-*.parquet*"):
        stale.unlink()
    parts: list[Path] = []
    counts: list[int] = []
    writer: pq.ParquetWriter | None = None
    try:
        with progress(expected, f"write {config}/{split}", quiet=quiet) as bar:
            for table in _row_groups(rows, config, schema):
                if stop is not None and stop.is_set():
                    raise M2KRError(f"writing {config}/{split} was stopped. Run it again to finish it.")
                if writer is None or counts[-1] + table.num_rows > SHARD_ROWS:
                    if writer is not None:
                        writer.close()
                    parts.append(folder / f"{split}-{len(parts):05d}.parquet.part")
                    counts.append(0)
                    writer = pq.ParquetWriter(parts[-1], schema, compression="zstd", use_dictionary=repeats)
                writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
                counts[-1] += table.num_rows
                bar.update(table.num_rows)
    except OSError as error:
        raise M2KRError(f"{folder} could not be written: {error}. Free some space, then run it again.") from error
    finally:
        if writer is not None:
            writer.close()
    shards = []
    for index, (part, count) in enumerate(zip(parts, counts, strict=True)):
        path = folder / f"{split}-{index:05d}-of-{len(parts):05d}.parquet"
        part.replace(path)
        shards.append({"path": path.name, "sha256": sha256_of(path), "rows": count, "bytes": path.stat().st_size})
    return shards


def copy_split(folder: Path, shards: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """Give ``split`` the rows of another split of the same config, ``shards`` of `write_split`, without encoding again.

    Raises:
        M2KRError: the disk is full, or the folder cannot be written.
    """
    copies = []
    for shard in shards:
        tail = shard["path"].rsplit("-of-", 1)
        target = folder / f"{split}-{tail[0].rsplit('-', 1)[1]}-of-{tail[1]}"
        part = target.with_name(f"{target.name}.part")
        try:
            shutil.copyfile(folder / shard["path"], part)
        except OSError as error:
            raise M2KRError(f"{target} could not be written: {error}. Free some space, then run it again.") from error
        part.replace(target)
        copies.append({**shard, "path": target.name})
    return copies


def _row_groups(rows: pl.LazyFrame, config: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield tables of `ROW_GROUP_ROWS` rows, the last one shorter; one empty table where there are none."""
    waiting: list[pl.DataFrame] = []
    height = 0

    def cut() -> Iterator[pa.Table]:
        nonlocal waiting, height
        whole = pl.concat(waiting)
        for start in range(0, height - height % ROW_GROUP_ROWS, ROW_GROUP_ROWS):
            yield _to_arrow(whole.slice(start, ROW_GROUP_ROWS), config, schema)
        waiting = [whole.slice(height - height % ROW_GROUP_ROWS)]
        height %= ROW_GROUP_ROWS

    for frame in rows.collect_batches(chunk_size=ROW_GROUP_ROWS, maintain_order=True, engine="streaming"):
        waiting.append(frame)
        height += frame.height
        if height >= ROW_GROUP_ROWS:
            yield from cut()
    if height:
        yield _to_arrow(pl.concat(waiting), config, schema)
    elif not waiting:
        yield schema.empty_table()


def _to_arrow(frame: pl.DataFrame, config: str, schema: pa.Schema) -> pa.Table:
    table = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    try:
        return table.cast(schema)
    except (ValueError, pa.ArrowInvalid):
        check_columns(config, table.schema, config)  # says which column
        raise


@dataclass(frozen=True)
class Built:
    """A finished task, as the manifest records it, and the folders that hold its configs until it is published."""

    task: Task
    entry: dict[str, Any]
    folders: dict[str, Path]


def publish(out: Path, built: Built) -> None:
    """Move a finished task into place, then bring the manifest and the card up to date.

    A reader sees the old task, or none, until the new one is whole. A task that is replaced is first struck off the
    manifest, so that a build killed in between does not leave a manifest that claims what is not there.
    """
    out.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(out)
    if manifest["tasks"].pop(built.task.key, None):
        write_json(out / MANIFEST, manifest)
    manifest["tasks"][built.task.key] = built.entry
    manifest["tasks"] = {key: manifest["tasks"][key] for key in TASKS if key in manifest["tasks"]}
    manifest["m2kr"] = __version__
    _replace(out, manifest, built.folders)


def publish_images(out: Path, task: Task, folder: Path, facts: dict[str, Any]) -> None:
    """Move the packed images of a task into place, and note them in manifest, card and metadata.

    They have a place of their own in the manifest: a task that is built again keeps its images.

    Args:
        out: folder of the benchmark.
        task: the task.
        folder: its shards.
        facts: ``key``, ``rows``, ``bytes`` and ``shards``, as `m2kr.pack` counts them.
    """
    manifest = read_manifest(out)
    images = dict(manifest.get("images", {}))
    if images.pop(task.key, None):
        write_json(out / MANIFEST, {**manifest, "images": images})
    images[task.key] = facts
    manifest["images"] = {key: images[key] for key in TASKS if key in images}
    _replace(out, manifest, {f"{task.key}_images": folder})


def _replace(out: Path, manifest: dict[str, Any], folders: dict[str, Path]) -> None:
    """Move finished configs into place, then write what describes them, the manifest last."""
    page, metadata = card(manifest), croissant(manifest)
    for config, folder in folders.items():
        target = out / config
        if target.exists():
            shutil.rmtree(target)
        folder.replace(target)
    with atomic(out / CARD, "w") as file:
        file.write(page)
    write_json(out / CROISSANT, metadata)
    write_json(out / MANIFEST, manifest)


def read_manifest(out: Path) -> dict[str, Any]:
    """Return the manifest of a built benchmark, or an empty one where the folder has none.

    Raises:
        M2KRError: it cannot be read as a manifest.
    """
    path = out / MANIFEST
    if not path.exists():
        return {"format": 1, "m2kr": __version__, "tasks": {}}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != 1:
            raise M2KRError(f"{path} has format {manifest['format']!r}; this version reads 1. Build again elsewhere.")
        return dict(manifest, tasks=dict(manifest["tasks"]))
    except (ValueError, KeyError, TypeError) as error:
        raise M2KRError(f"{path} is not a manifest of this program ({error}). Choose another --out folder.") from error


def entry(
    configs: dict[str, dict[str, list[dict[str, Any]]]],
    *,
    sources: dict[str, dict[str, Any]],
    options: dict[str, Any],
    counts: dict[str, Any],
    synthetic: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return a task's entry of the manifest.

    Args:
        configs: config -> split -> shards, as `write_split` returns them.
        sources: raw file -> sha256 and bytes.
        options: every option the tables depend on, the seed among them.
        counts: facts counted on the way.
        synthetic: seed and scale of the made-up world, where the raw files are one.
    """
    listed = {
        config: {
            split: {
                "rows": sum(shard["rows"] for shard in shards),
                "bytes": sum(shard["bytes"] for shard in shards),
                "shards": [{**shard, "path": f"{config}/{shard['path']}"} for shard in shards],
            }
            for split, shards in splits.items()
        }
        for config, splits in configs.items()
    }
    hashes = [shard["sha256"] for splits in listed.values() for split in splits.values() for shard in split["shards"]]
    return {
        "m2kr": __version__,
        "fingerprint": digest(hashes),
        "synthetic": synthetic,
        "configs": listed,
        "counts": counts,
        "options": options,
        "sources": dict(sorted(sources.items())),
    }


def card(manifest: dict[str, Any]) -> str:
    """Return the dataset card: YAML that tells ``load_dataset`` what is where, and a page for people."""
    import yaml

    entries: dict[str, Any] = manifest["tasks"]
    tasks = [TASKS[key] for key in entries]
    made_up = [task.key for task in tasks if entries[task.key]["synthetic"]]
    infos, configs = [], []
    for task in tasks:
        for config, splits in entries[task.key]["configs"].items():
            configs.append(
                {
                    "config_name": config,
                    "data_files": [{"split": s, "path": f"{config}/{s}-*.parquet"} for s in splits],
                }
            )
            infos.append(_dataset_info(config, splits))
        if task.key in manifest.get("images", {}):
            config = f"{task.key}_images"
            files = [{"split": "images", "path": f"{config}/images-*.parquet"}]
            configs.append({"config_name": config, "data_files": files})
            infos.append(_dataset_info(config, {"images": manifest["images"][task.key]}))
    licences = sorted({licence.lower() for task in tasks for licence in task.licences})
    rows = sum(s["rows"] for e in entries.values() for splits in e["configs"].values() for s in splits.values())
    header = {
        "pretty_name": "M2KR" + (" (made-up data)" if made_up and len(made_up) == len(tasks) else ""),
        "language": ["en"],
        "license": licences,
        "task_categories": ["visual-question-answering", "text-retrieval", "image-to-text"],
        "tags": ["retrieval", "multimodal", "late-interaction", *(["synthetic"] if made_up else [])],
        "size_categories": [_size_category(rows)],
        "configs": configs,
        "dataset_info": infos,
    }
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{front}---\n\n{_page(tasks, entries, made_up, list(manifest.get('images', {})))}"


def _dataset_info(config: str, splits: dict[str, Any]) -> dict[str, Any]:
    from datasets import DatasetInfo, Features, Image, SplitDict, SplitInfo, Value

    sizes = SplitDict()
    for name, split in splits.items():
        sizes.add(SplitInfo(name, num_bytes=split["bytes"], num_examples=split["rows"]))
    info = DatasetInfo(
        features=Features.from_arrow_schema(SCHEMAS[config])
        if config in SCHEMAS
        else Features({"img_path": Value("string"), "image": Image()}),
        splits=sizes,
        download_size=sum(split["bytes"] for split in splits.values()),
        dataset_size=sum(split["bytes"] for split in splits.values()),
    )
    return {"config_name": config, **info._to_yaml_dict()}


def _size_category(rows: int) -> str:
    bounds = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
    return next((name for bound, name in bounds if rows < bound), "10M<n<100M")


def _page(tasks: Iterable[Task], entries: dict[str, Any], made_up: list[str], packed: list[str]) -> str:
    lines = ["# M2KR", ""]
    if made_up:
        lines += [
            f"**The data of {', '.join(made_up)} is made up.** Names, facts, questions and pictures were generated by "
            "`m2kr.synthetic`; they describe nothing real, and scores on them compare with no published figure.",
            "",
        ]
    lines += [
        "Questions, images and the passages that answer them, built from the raw releases below by `python -m "
        "m2kr.build`. Each task has two configs:",
        "",
        "```python",
        "from datasets import load_dataset",
    ]
    tasks = list(tasks)
    lines += [
        f'load_dataset("<this folder>", "{config}")' for config in (tasks[0].data_config, tasks[0].passages_config)
    ]
    lines += ["```", "", "| task | query | split | queries | passages |", "| --- | --- | --- | ---: | ---: |"]
    for task in tasks:
        configs = entries[task.key]["configs"]
        for split, facts in configs[task.data_config].items():
            passages = configs[task.passages_config][f"{split}_passages"]["rows"]
            lines.append(f"| {task.key} | {task.kind} | {split} | {facts['rows']:,} | {passages:,} |")
    if packed:
        configs = ", ".join(f"`{key}_images`" for key in packed)
        lines += ["", f"The queries' images, by their `img_path`, are in {configs}."]
    lines += ["", "Rows that were left out, options and file hashes are in `manifest.json`.", "", "## Sources", ""]
    for task in tasks:
        for folder in task.releases:
            release = RELEASES[folder]
            lines.append(
                f"- {task.key}: {release.title}, {release.url}. Licence: {release.licence}. {release.terms}".rstrip()
            )
    lines += ["", "## Citation", "", "```bibtex"]
    lines += list(dict.fromkeys(task.citation for task in tasks))
    lines += ["```", ""]
    return "\n".join(lines)
