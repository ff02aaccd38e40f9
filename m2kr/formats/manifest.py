"""The manifest of a built benchmark, ``manifest.json``: reading it, its entries, and publishing finished tables.

A task appears under its final name only when all of it is there and has passed the checks. Nothing of the time, the
machine or the number of threads goes into a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from m2kr import __version__
from m2kr.common.files import atomic, digest, write_json
from m2kr.common.json_input import as_record, read_json
from m2kr.common.work import move_into_place
from m2kr.errors import M2KRError
from m2kr.formats.shards import Shard
from m2kr.tasks import TASKS, Task

MANIFEST = "manifest.json"
CARD = "README.md"
CROISSANT = "croissant.json"

_Count = Annotated[int, Meta(ge=0)]


class SplitFacts(TypedDict):
    """What the manifest says of a split of a config. Packed images have a ``key`` besides."""

    rows: _Count
    bytes: _Count
    shards: list[Shard]
    key: NotRequired[str]


class _Source(TypedDict):
    sha256: str
    bytes: _Count


class _Entry(TypedDict):
    """What the manifest says of a task; `entry` makes one."""

    m2kr: str
    fingerprint: str
    synthetic: dict[str, Any] | None
    configs: dict[str, dict[str, SplitFacts]]
    counts: dict[str, Any]
    options: dict[str, Any]
    sources: dict[str, _Source]
    absent: NotRequired[list[str]]
    passage_images: NotRequired[dict[str, Any]]


class _Manifest(TypedDict):
    tasks: dict[str, _Entry]
    images: NotRequired[dict[str, SplitFacts]]
    unfinished: NotRequired[dict[str, list[str]]]


def read_manifest(out: Path) -> dict[str, Any]:
    """Return the manifest of a built benchmark, or an empty one where the folder has none.

    Raises:
        M2KRError: it cannot be read as a manifest.
    """
    path = out / MANIFEST
    if not path.exists():
        return {"format": 1, "m2kr": __version__, "tasks": {}}
    remedy = "Get the benchmark again, or choose another folder."
    manifest = read_json(path, dict[str, Any], "manifest of this program", remedy)
    if manifest.get("format", 1) != 1:
        raise M2KRError(f"{path} has format {manifest['format']!r}; this version reads 1. Build again elsewhere.")
    try:
        as_record(manifest, _Manifest)
        for key, task in TASKS.items():
            for config in manifest["tasks"].get(key, {}).get("configs", {}):
                if config not in (task.data_config, task.passages_config):
                    raise ValueError(f"{key} has no config {config!r:.80}")
    except ValueError as error:
        raise M2KRError(f"{path} is no manifest of this program: {error}. {remedy}") from error
    return manifest


def shards_of(entry: dict[str, Any]) -> Iterator[Shard]:
    """Yield the shards of all configs and splits of a task's entry."""
    for splits in entry.get("configs", {}).values():
        for facts in splits.values():
            yield from facts["shards"]


def check_finished(data: Path, manifest: dict[str, Any], part: Literal["tasks", "images"], key: str) -> None:
    """Check that the tables or images of a task, which a manifest does not list, are not just being moved into place.

    Raises:
        M2KRError: they are, or a process was killed at it.
    """
    if key in manifest.get("unfinished", {}).get(part, []):
        what, command = {"tasks": ("tables", "m2kr.build"), "images": ("images", "m2kr.images pack")}[part]
        raise M2KRError(
            f"the {what} of {key} in {data} are being replaced, or a process was killed at it. Wait until that has "
            f"ended, or make them again with python -m {command}."
        )


def is_of_its_hashes(entry: dict[str, Any]) -> bool:
    """Whether the fingerprint of a task's entry is that of the hashes that it lists."""
    return bool(digest([shard["sha256"] for shard in shards_of(entry)]) == entry["fingerprint"])


def entry(
    configs: dict[str, dict[str, list[Shard]]],
    *,
    sources: dict[str, dict[str, Any]],
    options: dict[str, Any],
    counts: dict[str, Any],
    synthetic: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return a task's entry of the manifest.

    Args:
        configs: config -> split -> shards, as `m2kr.formats.shards.write_shards` returns them.
        sources: raw file -> sha256 and bytes.
        options: every option the tables depend on, the seed among them.
        counts: facts counted on the way.
        synthetic: seed and scale of the made-up world, where the raw files are one.
    """
    listed = {
        config: {split: split_facts(config, shards) for split, shards in splits.items()}
        for config, splits in configs.items()
    }
    hashes = [shard["sha256"] for shard in shards_of({"configs": listed})]
    return {
        "m2kr": __version__,
        "fingerprint": digest(hashes),
        "synthetic": synthetic,
        "configs": listed,
        "counts": counts,
        "options": options,
        "sources": dict(sorted(sources.items())),
    }


def with_passages(entry: dict[str, Any], task: Task, splits: dict[str, list[Shard]], images: Any) -> dict[str, Any]:
    """Return a task's entry with other shards of its passages, which have pictures now, and with their fingerprint.

    Args:
        entry: as it was.
        task: the task.
        splits: split of the passages -> its shards.
        images: what the manifest is to say of the pictures, as ``passage_images``.
    """
    passages = {split: split_facts(task.passages_config, shards) for split, shards in splits.items()}
    configs = {**entry["configs"], task.passages_config: passages}
    hashes = [shard["sha256"] for shard in shards_of({"configs": configs})]
    return {**entry, "fingerprint": digest(hashes), "configs": configs, "passage_images": images}


def split_facts(config: str, shards: list[Shard]) -> dict[str, Any]:
    """Return ``rows``, ``bytes`` and ``shards`` of a split, as the manifest has them."""
    return {
        "rows": sum(shard["rows"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": [{**shard, "path": f"{config}/{shard['path']}"} for shard in shards],
    }


def publish(out: Path, task: Task, entry: dict[str, Any], folders: dict[str, Path]) -> None:
    """Move a finished task into place, then bring the manifest and the card up to date.

    A reader sees the old task, or none, until the new one is whole. The task is first struck off the manifest and noted
    there as unfinished, so that a build killed in between does not leave a manifest that claims what is not there, and
    nobody takes what is there for tables without a manifest.

    Args:
        out: folder of the benchmark; created if need be.
        task: the task.
        entry: what the manifest is to say of it.
        folders: config -> its finished shards.
    """
    out.mkdir(parents=True, exist_ok=True)
    _replace(out, {**read_manifest(out), "m2kr": __version__}, "tasks", task, entry, folders)


def publish_images(out: Path, task: Task, facts: dict[str, Any], folder: Path) -> None:
    """Move the packed images of a task into place, likewise.

    They have a place of their own in the manifest, so that a task which is built again keeps its images. ``facts`` are
    `split_facts` and the ``key`` of what was packed.
    """
    _replace(out, read_manifest(out), "images", task, facts, {task.images_config: folder})


def _replace(
    out: Path, manifest: dict[str, Any], part: str, task: Task, facts: dict[str, Any], folders: dict[str, Path]
) -> None:
    """Move finished configs into place, then write what describes them, the manifest last."""
    # The card needs datasets and the metadata Arrow, and reading a manifest is not to load them.
    from m2kr.formats.croissant import croissant
    from m2kr.formats.dataset_card import dataset_card

    others = {key: entry for key, entry in manifest.get(part, {}).items() if key != task.key}
    unfinished = manifest.pop("unfinished", {})
    here = [key for key in unfinished.get(part, []) if key != task.key]
    interim = {**manifest, "unfinished": {**unfinished, part: [*here, task.key]}}
    if part in manifest:
        interim[part] = others
    entries = {**others, task.key: facts}
    manifest[part] = {key: entries[key] for key in TASKS if key in entries}
    if left := {name: keys for name, keys in {**unfinished, part: here}.items() if keys}:  # by kills
        manifest["unfinished"] = left
    page, metadata = dataset_card(manifest), croissant(manifest)
    write_json(out / MANIFEST, interim)
    for config, folder in folders.items():
        move_into_place(folder, out / config)
    with atomic(out / CARD, "w") as file:
        file.write(page)
    write_json(out / CROISSANT, metadata)
    write_json(out / MANIFEST, manifest)
