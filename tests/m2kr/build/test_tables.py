"""Tables as shards: the same bytes for the same rows, whoever writes them, and what is written is checked."""

import json
import threading

import polars as pl
import pyarrow.parquet as pq
import pytest

from m2kr.build import tables as written_by
from m2kr.build.tables import copy_split, write_split, write_tables
from m2kr.formats.rules import DatasetError, check_split
from m2kr.formats.schema import arrow_schema, polars_schema
from m2kr.parsing.releases import Tables
from m2kr.tasks import TASKS

CONFIG = "OVEN_passages"


def rows(count):
    numbers = pl.LazyFrame({"n": range(count)}, schema={"n": pl.Int64})
    return numbers.select(
        language=pl.lit("en"), passage_id=pl.format("p{}", "n"), passage_content=pl.format("text {}", "n")
    )


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(written_by, "ROW_GROUP_ROWS", 10)
    monkeypatch.setattr(written_by, "SHARD_ROWS", 30)


@pytest.mark.parametrize(
    ("count", "shards"), [(0, [0]), (1, [1]), (10, [10]), (29, [29]), (30, [30]), (31, [30, 1]), (65, [30, 30, 5])]
)
def test_rows_are_cut_into_shards_by_number(tmp_path, count, shards):
    written = write_split(tmp_path, CONFIG, "train_passages", rows(count), quiet=True)
    assert [shard["rows"] for shard in written] == shards
    names = [f"train_passages-{i:05d}-of-{len(shards):05d}.parquet" for i in range(len(shards))]
    assert [shard["path"] for shard in written] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(pq.read_schema(tmp_path / name).equals(arrow_schema(CONFIG)) for name in names)
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


def test_every_row_group_is_looked_at_in_order(tmp_path):
    seen = []
    write_split(tmp_path, CONFIG, "s", rows(65), look=seen.append, quiet=True)
    assert [table.num_rows for table in seen] == [10, 10, 10, 10, 10, 10, 5]
    assert pl.from_arrow(seen).equals(rows(65).collect())


def test_a_failing_look_ends_the_writing(tmp_path):
    def look(table):
        raise LookupError(table.num_rows)

    with pytest.raises(LookupError, match="10"):
        write_split(tmp_path, CONFIG, "s", rows(65), look=look, quiet=True)


def test_a_copied_split_has_the_same_rows(tmp_path):
    written = write_split(tmp_path, CONFIG, "valid_passages", rows(65), quiet=True)
    copied = copy_split(tmp_path, written, "test_passages")
    assert [shard["path"] for shard in copied] == [f"test_passages-{i:05d}-of-00003.parquet" for i in range(3)]
    for before, after in zip(written, copied, strict=True):
        assert (tmp_path / before["path"]).read_bytes() == (tmp_path / after["path"]).read_bytes()


def test_a_wrong_column_is_named(tmp_path):
    with pytest.raises(DatasetError, match="missing: language"):
        write_split(tmp_path, CONFIG, "s", rows(3).drop("language"), quiet=True)


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

    monkeypatch.setattr(written_by, "write_split", watched)
    configs = write_tables(TASKS["OVEN"], oven_tables(), tmp_path, key="key", workers=workers, quiet=True)
    assert list(writers["OVEN_passages"]) == [f"{split}_passages" for split in splits[:2]][:: 1 if workers == 1 else -1]
    if workers == 2:
        assert writers["OVEN_passages"][f"{splits[1]}_passages"] is threading.current_thread()
    assert list(configs["OVEN_data"]) == list(splits)
    assert list(configs["OVEN_passages"]) == [f"{split}_passages" for split in splits]
    for split, height in zip(splits, (12, 9, 9), strict=True):
        assert configs["OVEN_data"][split]["checked"]["passages"] == height
        (shard,) = configs["OVEN_passages"][f"{split}_passages"]["shards"]
        assert pl.read_parquet(tmp_path / "OVEN_passages" / shard["path"]).height == height


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos_item_ids": ["p99"]}, "a positive is no passage of"),
        ({"pos_item_contents": ["text 4"]}, "the content of a positive is not the passage's"),
        ({"pos_item_contents": ["text 3", "text 4"]}, "its positives' ids and contents differ in number"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_written_tables_are_checked(tmp_path, workers, changes, message):
    tables = oven_tables()
    split = TASKS["OVEN"].splits[0]
    tables.data[split] = tables.data[split].with_columns(**{name: pl.lit(value) for name, value in changes.items()})
    with pytest.raises(DatasetError, match=f"row question_id='q': {message}"):
        write_tables(TASKS["OVEN"], tables, tmp_path, key="key", workers=workers, quiet=True)


def test_texts_are_read_for_the_check_only_where_an_earlier_run_wrote_them(tmp_path, monkeypatch):
    given = []

    def watched(*arguments, positives, pool, **named):
        given.append((positives is not None, pool is not None))
        return check_split(*arguments, positives=positives, pool=pool, **named)

    monkeypatch.setattr(written_by, "check_split", watched)
    first, second, third = TASKS["OVEN"].splits
    once = write_tables(TASKS["OVEN"], oven_tables(), tmp_path, key="key", workers=2, quiet=True)
    assert given == [(True, True)] * 3
    # As a kill leaves it: the queries are there and unchecked; of the passages, one pool was not finished.
    for split in (first, second):
        note = tmp_path / f"OVEN_data-{split}.json"
        facts = json.loads(note.read_text(encoding="utf-8"))
        del facts["checked"]
        note.write_text(json.dumps(facts), encoding="utf-8")
    (tmp_path / "OVEN_passages" / once["OVEN_passages"][f"{second}_passages"]["shards"][0]["path"]).unlink()
    given.clear()
    again = write_tables(TASKS["OVEN"], oven_tables(), tmp_path, key="key", workers=2, quiet=True)
    assert given == [(False, False), (False, True)]
    assert again == once
    assert third in again["OVEN_data"]
    given.clear()
    assert write_tables(TASKS["OVEN"], oven_tables(), tmp_path, key="another", quiet=True) == once
    assert given == [(True, True)] * 3  # nothing that was written under another key is taken
