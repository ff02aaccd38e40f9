"""The dataset card of a built benchmark: YAML that tells ``load_dataset`` what is where, and a page for people."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from m2kr.common.files import digest
from m2kr.common.templates import render
from m2kr.formats.schema import arrow_schema
from m2kr.tasks import RELEASES, TASKS


def dataset_card(manifest: dict[str, Any]) -> str:
    """Return the card of the benchmark that a manifest describes, ``README.md`` of its folder."""
    entries: dict[str, Any] = manifest["tasks"]
    images: dict[str, Any] = manifest.get("images", {})
    tasks = [TASKS[key] for key in entries]
    made_up = [task.key for task in tasks if entries[task.key]["synthetic"]]
    tables: dict[str, Any] = {}
    for task in tasks:
        tables |= entries[task.key]["configs"]
        if task.key in images:
            tables[task.images_config] = {"images": images[task.key]}
    configs = [
        {
            "config_name": config,
            "data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in splits],
        }
        for config, splits in tables.items()
    ]
    pictured = {task.passages_config: task for task in tasks if "passage_images" in entries[task.key]}
    rows = sum(
        facts["rows"] for entry in entries.values() for splits in entry["configs"].values() for facts in splits.values()
    )
    header = {
        "pretty_name": "M2KR" + (" (made-up data)" if made_up and len(made_up) == len(tasks) else ""),
        "language": ["en"],
        "license": sorted({licence.lower() for task in tasks for licence in task.licences}),
        "task_categories": ["visual-question-answering", "text-retrieval", "image-to-text"],
        "tags": ["retrieval", "multimodal", "late-interaction", *(["synthetic"] if made_up else [])],
        "size_categories": [_size_category(rows)],
        "configs": configs,
        "dataset_info": [
            _dataset_info(config, splits, passage_images=config in pictured) for config, splits in tables.items()
        ],
    }
    packed = [TASKS[key].images_config for key in images]
    return render(
        "dataset_card.md",
        header,
        tasks=tasks,
        entries=entries,
        made_up=made_up,
        packed=packed,
        pictured=list(pictured),
        releases=RELEASES,
    )


def _dataset_info(config: str, splits: dict[str, Any], *, passage_images: bool) -> dict[str, Any]:
    """Return what ``DatasetInfo`` of datasets writes into a card; to import it takes a second, and 70 MB."""
    if config.endswith("_images"):
        features = [{"name": "img_path", "dtype": "string"}, {"name": "image", "dtype": "image"}]
    else:
        features = [_feature(field) for field in arrow_schema(config, passage_images=passage_images)]
    size = sum(split["bytes"] for split in splits.values())
    # datasets 5.2 finds what it made of a folder before by what its card declares here, not by the files. So that
    # changes when a shard does, whether or not its size does.
    hashes = digest([shard["sha256"] for split in splits.values() for shard in split["shards"]])
    return {
        "config_name": config,
        "description": f"fingerprint {hashes}",
        "features": features,
        "splits": [
            {"name": name, "num_bytes": split["bytes"], "num_examples": split["rows"]} for name, split in splits.items()
        ],
        "download_size": size,
        "dataset_size": size,
    }


def _feature(field: pa.Field) -> dict[str, Any]:
    """Return a column, or a field of a struct, in the words of a card."""
    return {"name": field.name, **_kind(field.type)}


def _kind(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        inner = _kind(kind.value_type)
        # What a list holds has no name: a type stands there by itself, and so do the fields of a struct.
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    if pa.types.is_struct(kind):
        return {"struct": [_feature(field) for field in kind]}
    return {"dtype": "float64" if kind == pa.float64() else str(kind)}


def _size_category(rows: int) -> str:
    bounds = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
    return next((name for bound, name in bounds if rows < bound), "10M<n<100M")
