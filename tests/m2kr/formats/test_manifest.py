"""Card and manifest say what is there, and load_dataset reads it."""

import json

import pytest
from datasets import load_dataset

from m2kr.common.files import sha256_of
from m2kr.formats.manifest import read_manifest
from m2kr.formats.schema import arrow_schema
from m2kr.tasks import TASKS


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_load_dataset_gives_the_published_columns_and_types(built, task, tmp_path):
    for config in (task.data_config, task.passages_config):
        loaded = load_dataset(str(built), config, cache_dir=str(tmp_path))
        suffix = "" if config == task.data_config else "_passages"
        assert list(loaded) == [f"{split}{suffix}" for split in task.splits]
        for table in loaded.values():
            assert table.features.arrow_schema.remove_metadata() == arrow_schema(config)
            assert len(table)


def test_the_card_says_that_the_data_are_made_up(built):
    card = (built / "README.md").read_text(encoding="utf-8")
    assert f"**The data of {', '.join(TASKS)} is made up.**" in card
    assert "- synthetic" in card


def test_the_manifest_holds_what_is_on_disk(built):
    manifest = read_manifest(built)
    assert list(manifest["tasks"]) == list(TASKS)
    listed = set()
    for entry in manifest["tasks"].values():
        assert entry["synthetic"]["generator"] == "m2kr.synthetic"
        assert all(len(source["sha256"]) == 64 for source in entry["sources"].values())
        for splits in entry["configs"].values():
            for facts in splits.values():
                for shard in facts["shards"]:
                    assert sha256_of(built / shard["path"]) == shard["sha256"]
                    listed.add(shard["path"])
    assert listed == {str(path.relative_to(built)) for path in built.rglob("*.parquet")}
    assert str(built) not in json.dumps(manifest)
