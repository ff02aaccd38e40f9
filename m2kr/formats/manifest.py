"""Writing a built benchmark: finished tables are moved into place, with a card, metadata and a manifest of checksums.

A task appears under its final name only when all of it is there and has passed the checks. Nothing of the time, the
machine or the number of threads goes into a file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2kr import __version__
from m2kr.common.files import atomic, digest, write_json
from m2kr.errors import M2KRError
from m2kr.formats.croissant import croissant
from m2kr.formats.schema import SCHEMAS
from m2kr.tasks import RELEASES, TASKS, Task

MANIFEST = "manifest.json"
CARD = "README.md"
CROISSANT = "croissant.json"


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
        facts: ``key``, ``rows``, ``bytes`` and ``shards``, as `m2kr.images.pack` counts them.
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
