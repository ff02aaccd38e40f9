"""Shards are cut where they should be, are whole or not there, and are found again."""

import hashlib

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2kr.errors import M2KRError
from m2kr.formats.shards import (
    find_shards,
    missing_shards,
    read_batches,
    readable,
    split_shards,
    tasks_in,
    write_shards,
)

SCHEMA = pa.schema([("n", pa.int64())])


def groups(count, size=10):
    """Tables of ten rows, the last one shorter; an empty one where there are none."""
    table = pa.table({"n": range(count)}, SCHEMA)
    return [table.slice(start, size) for start in range(0, max(count, 1), size)]


def write(folder, tables, split="train", **options):
    options = {"is_full": lambda rows, _, more: rows + more > 30, "compression": "zstd", **options}
    return write_shards(folder, split, SCHEMA, tables, **options)


@pytest.mark.parametrize(
    ("count", "rows"), [(0, [0]), (1, [1]), (10, [10]), (29, [29]), (30, [30]), (31, [30, 1]), (65, [30, 30, 5])]
)
def test_tables_become_row_groups_and_fill_shards(tmp_path, count, rows):
    write(tmp_path / "x", groups(95))  # is replaced
    shards = write(tmp_path / "x", iter(groups(count)))
    assert [shard["rows"] for shard in shards] == rows
    names = [f"train-{number:05d}-of-{len(rows):05d}.parquet" for number in range(len(rows))]
    assert [shard["path"] for shard in shards] == names
    paths = find_shards(tmp_path / "x", "train")
    assert sorted((tmp_path / "x").iterdir()) == paths == split_shards(tmp_path, "x", "train")
    for shard, path in zip(shards, paths, strict=True):
        content = path.read_bytes()
        assert (shard["sha256"], shard["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert pq.ParquetFile(paths[0]).num_row_groups == max(-(-rows[0] // 10), 1)
    assert [row for batch in read_batches(paths, ["n"]) for row in batch["n"].to_pylist()] == list(range(count))


def test_shards_may_be_cut_by_bytes_and_go_without_their_number(tmp_path):
    shards = write(tmp_path, groups(50), is_full=lambda _, size, __: size > 100, counted=False)
    assert [shard["path"] for shard in shards] == [f"train-{number:05d}.parquet" for number in range(3)]
    assert missing_shards(find_shards(tmp_path, "train")) == ""


@pytest.mark.parametrize("count", ["²", "x", "", "9" * 50])
def test_a_name_that_counts_nothing_tells_of_no_missing_shard(tmp_path, count):
    assert missing_shards([tmp_path / f"train-00000-of-{count}.parquet"]) == ""
    assert missing_shards([tmp_path / "train-00000-of-00002.parquet"]) == "1 of the 2 shards"


def test_what_fails_on_the_way_leaves_no_shard(tmp_path):
    def broken():
        yield from groups(20)
        raise LookupError("gone")

    with pytest.raises(LookupError):
        write(tmp_path, broken())
    assert find_shards(tmp_path) == []
    (tmp_path / "train-00000.parquet.part").mkdir()
    with pytest.raises((M2KRError, OSError)):
        write(tmp_path, groups(20))


@pytest.mark.parametrize(
    "error",
    [pl.exceptions.PanicException("assertion failed"), UnicodeDecodeError("utf-8", b"", 0, 1, "assertion failed")],
)
def test_what_readers_raise_of_damage_is_an_error_that_names_the_file(error):
    with pytest.raises(M2KRError, match=r"x\.parquet could not be read \(.*assertion failed"), readable("x.parquet"):
        raise error
    with pytest.raises(M2KRError, match=r"^kept$"), readable("x.parquet"):
        raise M2KRError("kept")


def test_missing_and_damaged_shards_are_named(tmp_path):
    folder = tmp_path / "OKVQA_data"
    write(folder, groups(65), "test")
    assert tasks_in(tmp_path) == tasks_in(tmp_path, "test") == ["OKVQA"]
    assert tasks_in(tmp_path, "train") == []
    with pytest.raises(M2KRError, match=r"holds no OKVQA_data/valid: OKVQA_data has test\. Build it"):
        split_shards(tmp_path, "OKVQA_data", "valid")
    with pytest.raises(M2KRError, match="it has no WIT_data"):
        split_shards(tmp_path, "WIT_data", "test")
    first, second, _ = find_shards(folder, "test")
    first.unlink()
    with pytest.raises(M2KRError, match="OKVQA_data has 2 of the 3 shards of test"):
        split_shards(tmp_path, "OKVQA_data", "test")
    with pytest.raises(M2KRError, match=rf"{second.name} could not be read .*other"):
        list(read_batches([second], ["other"]))
    second.write_bytes(b"PAR1")
    with pytest.raises(M2KRError, match=rf"{second.name} could not be read"):
        list(read_batches([second], ["n"]))


def test_shards_as_the_hub_converts_them_are_found(tmp_path):
    for number in range(3):
        write(tmp_path / "x" / "train", groups(5), f"{number:04d}")
    made = sorted((tmp_path / "x" / "train").iterdir())
    for number, path in enumerate(made):
        path.rename(path.with_name(f"{number:04d}.parquet"))
    shards = split_shards(tmp_path, "x", "train")
    assert [path.name for path in shards] == ["0000.parquet", "0001.parquet", "0002.parquet"]
    assert find_shards(tmp_path / "x") == shards
    with pytest.raises(M2KRError, match=r"x/valid: x has train\."):
        split_shards(tmp_path, "x", "valid")
    shards[1].unlink()
    with pytest.raises(M2KRError, match="2 of the 3 shards of train"):
        split_shards(tmp_path, "x", "train")
