"""Shards, card and manifest: the same bytes for the same rows, and load_dataset reads them."""

import json
import threading

import polars as pl
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from m2kr import write
from m2kr.schema import SCHEMAS, DatasetError, polars_schema
from m2kr.sources.raw import Tables
from m2kr.tasks import TASKS
from m2kr.write import copy_split, read_manifest, write_split, write_tables

CONFIG = "OVEN_passages"


def rows(count):
    numbers = pl.LazyFrame({"n": range(count)}, schema={"n": pl.Int64})
    return numbers.select(
        language=pl.lit("en"), passage_id=pl.format("p{}", "n"), passage_content=pl.format("text {}", "n")
    )


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(write, "ROW_GROUP_ROWS", 10)
    monkeypatch.setattr(write, "SHARD_ROWS", 30)


@pytest.mark.parametrize(
    ("count", "shards"), [(0, [0]), (1, [1]), (10, [10]), (29, [29]), (30, [30]), (31, [30, 1]), (65, [30, 30, 5])]
)
def test_rows_are_cut_into_shards_by_number(tmp_path, count, shards):
    written = write_split(tmp_path, CONFIG, "train_passages", rows(count), quiet=True)
    assert [shard["rows"] for shard in written] == shards
    names = [f"train_passages-{i:05d}-of-{len(shards):05d}.parquet" for i in range(len(shards))]
    assert [shard["path"] for shard in written] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(pq.read_schema(tmp_path / name).equals(SCHEMAS[CONFIG]) for name in names)
    again = pl.read_parquet(tmp_path / "*.parquet", glob=True)
    assert again.equals(rows(count).collect())


def test_bytes_do_not_depend_on_how_the_rows_arrive(tmp_path):
    whole = rows(65)
    pieces = pl.concat([whole.slice(0, 7), whole.slice(7, 31), whole.slice(38)])
    one = write_split(tmp_path / "one", CONFIG, "s", whole, quiet=True)
    two = write_split(tmp_path / "two", CONFIG, "s", pieces, quiet=True)
    assert one == two


def test_shards_of_an_earlier_writing_are_replaced(tmp_path):
    write_split(tmp_path, CONFIG, "s", rows(65), quiet=True)
    write_split(tmp_path, CONFIG, "s", rows(5), quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["s-00000-of-00001.parquet"]


def test_a_copied_split_has_the_same_rows(tmp_path):
    written = write_split(tmp_path, CONFIG, "valid_passages", rows(65), quiet=True)
    copied = copy_split(tmp_path, written, "test_passages")
    assert [shard["path"] for shard in copied] == [f"test_passages-{i:05d}-of-00003.parquet" for i in range(3)]
    for before, after in zip(written, copied, strict=True):
        assert (tmp_path / before["path"]).read_bytes() == (tmp_path / after["path"]).read_bytes()


def test_a_wrong_column_is_named(tmp_path):
    with pytest.raises(DatasetError, match="missing: language"):
        write_split(tmp_path, CONFIG, "s", rows(3).drop("language"), quiet=True)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_load_dataset_gives_the_published_columns_and_types(built, task, tmp_path):
    for config in (task.data_config, task.passages_config):
        loaded = load_dataset(str(built), config, cache_dir=str(tmp_path))
        suffix = "" if config == task.data_config else "_passages"
        assert list(loaded) == [f"{split}{suffix}" for split in task.splits]
        for table in loaded.values():
            assert table.features.arrow_schema.remove_metadata() == SCHEMAS[config]
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
                    assert write.sha256_of(built / shard["path"]) == shard["sha256"]
                    listed.add(shard["path"])
    assert listed == {str(path.relative_to(built)) for path in built.rglob("*.parquet")}
    assert str(built) not in json.dumps(manifest)


def oven_tables():
    """Two splits with a pool each, and a third that shares the second's."""
    pools = [rows(12), rows(9)]
    query = {"question_id": "q", "question": "what?", "img_path": "q.jpg", "pos_item_ids": ["p3"]}
    data = pl.DataFrame([{**query, "pos_item_contents": ["text 3"]}], schema=polars_schema("OVEN_data")).lazy()
    splits = TASKS["OVEN"].splits
    return Tables(data=dict.fromkeys(splits, data), passages=dict(zip(splits, [*pools, pools[1]], strict=True)))


@pytest.mark.parametrize("workers", [1, 2])
def test_tables_are_written_each_once_whoever_comes_first(tmp_path, monkeypatch, workers):
    splits = TASKS["OVEN"].splits
    real, writers = write_split, {}
    second_is_written = threading.Event()

    def watched(folder, config, name, *given, **named):
        assert name not in writers.get(config, {})
        if workers == 2 and name == f"{splits[0]}_passages":
            assert second_is_written.wait(20)  # so long does the first take that the other thread gets the second
        shards = real(folder, config, name, *given, **named)
        writers.setdefault(config, {})[name] = threading.current_thread()
        if name == f"{splits[1]}_passages":
            second_is_written.set()
        return shards

    monkeypatch.setattr(write, "write_split", watched)
    configs, folders = write_tables(TASKS["OVEN"], oven_tables(), tmp_path / "tables", workers=workers, quiet=True)
    assert list(writers["OVEN_passages"]) == [f"{split}_passages" for split in splits[:2]][:: 1 if workers == 1 else -1]
    if workers == 2:
        assert writers["OVEN_passages"][f"{splits[1]}_passages"] is threading.current_thread()
    assert list(configs["OVEN_data"]) == list(splits)
    assert list(configs["OVEN_passages"]) == [f"{split}_passages" for split in splits]
    for split, height in zip(splits, (12, 9, 9), strict=True):
        assert configs["OVEN_data"][split]["checked"]["passages"] == height
        (shard,) = configs["OVEN_passages"][f"{split}_passages"]["shards"]
        assert pl.read_parquet(folders["OVEN_passages"] / shard["path"]).height == height


def test_written_tables_are_checked(tmp_path):
    tables = oven_tables()
    split = TASKS["OVEN"].splits[0]
    tables.data[split] = tables.data[split].with_columns(pos_item_ids=pl.lit(["p99"]))
    with pytest.raises(DatasetError, match="a positive is no passage of"):
        write_tables(TASKS["OVEN"], tables, tmp_path / "tables", workers=2, quiet=True)
