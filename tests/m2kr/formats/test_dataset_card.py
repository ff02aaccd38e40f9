"""``load_dataset`` serves a folder that was built again, whatever stayed as it was: names, columns, rows and sizes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import yaml
from datasets import DatasetInfo, Features, Image, SplitDict, SplitInfo, Value, load_dataset

from m2kr.common.files import digest
from m2kr.export.task import export_task
from m2kr.formats.dataset_card import dataset_card
from m2kr.formats.manifest import entry, publish, read_manifest
from m2kr.formats.schema import arrow_schema
from m2kr.formats.shards import write_shards
from m2kr.tasks import TASKS

TASK = TASKS["MSMARCO"]


def build_again(built: Path, out: Path, letter: str) -> None:
    """Write MS MARCO with all its texts' letters the same, in shards whose size does not depend on the letter."""
    configs, folders = {}, {}
    for config, half in ((TASK.data_config, ""), (TASK.passages_config, "_passages")):
        folders[config] = out.with_name(f"{out.name}-{config}")
        configs[config] = {}
        for split in TASK.splits:
            rows = pl.read_parquet(built / config / f"{split}{half}-*.parquet")
            same = pl.col(pl.String).exclude("^.*id.*$").str.replace_all("[a-z]", letter)
            table = rows.with_columns(same).to_arrow().cast(arrow_schema(config))
            plain = {"compression": "none", "use_dictionary": False}
            configs[config][split + half] = write_shards(
                folders[config], split + half, table.schema, [table], is_full=lambda *_: False, **plain
            )
    publish(out, TASK, entry(configs, sources={}, options={}, counts={}, synthetic=None), folders)


def sizes(out: Path) -> list[tuple[str, int]]:
    return [(path.name, path.stat().st_size) for path in sorted(out.rglob("*.parquet"))]


def test_a_folder_that_was_built_again_is_not_served_from_the_cache(built, tmp_path):
    out, seen, found = tmp_path / "data", [], []
    for letter in "ab":
        build_again(built, out, letter)
        table = load_dataset(str(out), TASK.passages_config, split="valid_passages", cache_dir=str(tmp_path / "cache"))
        seen.append(table[0]["passage_content"])
        found.append(sizes(out))
        shards = read_manifest(out)["tasks"]["MSMARCO"]["configs"][TASK.passages_config].values()
        assert digest([shard["sha256"] for split in shards for shard in split["shards"]]) in table.info.description
    assert found[0] == found[1]
    assert seen[0].replace("a", "b") == seen[1] != seen[0]


def test_a_card_is_the_same_without_libyaml(built, monkeypatch):
    card = dataset_card(read_manifest(built))
    monkeypatch.delattr("yaml.CSafeDumper", raising=False)
    assert dataset_card(read_manifest(built)) == card


@pytest.mark.parametrize("pictured", [False, True])
@pytest.mark.parametrize("key", TASKS)
def test_a_card_declares_what_datasets_would(key, pictured):
    task = TASKS[key]
    shard = {"path": "x", "rows": 3, "bytes": 20, "sha256": "0" * 64}
    configs = {
        task.data_config: {"train": [shard], "test": [shard, shard]},
        task.passages_config: {"train_passages": [], "test_passages": [shard]},
    }
    made = entry(configs, sources={}, options={}, counts={}, synthetic=None)
    with_pictures = pictured and task.takes_passage_images
    entries = {key: made | ({"passage_images": {}} if with_pictures else {})}
    images = {key: {"rows": 7, "bytes": 9, "shards": [shard]}} if pictured else {}
    _, header, _ = dataset_card({"tasks": entries, "images": images}).split("---\n", 2)

    tables = made["configs"] | ({task.images_config: {"images": images[key]}} if pictured else {})
    for declared, (config, splits) in zip(yaml.safe_load(header)["dataset_info"], tables.items(), strict=True):
        schema = arrow_schema(config, passage_images=with_pictures) if not config.endswith("_images") else None
        features = Features.from_arrow_schema(schema) if schema else Features(img_path=Value("string"), image=Image())
        sizes = SplitDict()
        for name, facts in splits.items():
            sizes.add(SplitInfo(name, num_bytes=facts["bytes"], num_examples=facts["rows"]))
        size = sum(facts["bytes"] for facts in splits.values())
        info = DatasetInfo(features=features, splits=sizes, download_size=size, dataset_size=size)
        assert declared == {
            "config_name": config,
            "description": declared["description"],
            **info._to_yaml_dict(),
        }


def test_nor_is_an_export_for_mteb(built, tmp_path):
    data, texts = tmp_path / "data", []
    for letter in "ab":
        build_again(built, data, letter)
        export_task(data, "MSMARCO", "mteb", tmp_path / "mteb", split="valid", quiet=True)
        corpus = load_dataset(
            str(tmp_path / "mteb"), "MSMARCO-corpus", split="valid", cache_dir=str(tmp_path / "cache")
        )
        texts.append(corpus[0]["text"])
    assert texts[0].replace("a", "b") == texts[1] != texts[0]
