"""Raw files are found by name and staged once, and what is staged stays whole."""

import gzip
import os

import pyarrow.parquet as pq
import pytest

from m2kr.common import partitions
from m2kr.errors import BadRowsError, M2KRError, MissingFilesError
from m2kr.parsing import releases
from m2kr.parsing.delimited import read_quoted
from m2kr.parsing.lines import read_lines
from m2kr.parsing.rejected import RejectedRows
from m2kr.parsing.releases import RawFiles, Tables
from m2kr.tasks import RELEASES


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw" / "msmarco").mkdir(parents=True)
    return RawFiles({name: tmp_path / "raw" / name for name in RELEASES}, tmp_path / "work", quiet=True)


def write(raw, name, text):
    path = raw.folders["msmarco"] / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_missing_file_is_named_with_where_to_get_it(raw):
    with pytest.raises(MissingFilesError, match=r"collection\.tsv is missing.*MS MARCO.*--source msmarco=PATH"):
        raw.find("msmarco", "collection.tsv")


def test_a_missing_file_may_be_allowed(raw):
    raw.rejected.allow_missing = True
    assert raw.find("msmarco", "collection.tsv") is None
    assert raw.missing == ["msmarco/collection.tsv"]


def test_an_optional_file_may_be_absent_and_is_used_where_it_is_there(raw):
    assert raw.find("oven", "ovenid2impath.csv", optional=True) is None
    assert raw.missing == []
    path = raw.folders["oven"] / "ovenid2impath.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x,y.jpg\n")
    assert raw.find("oven", "ovenid2impath.csv", optional=True) == path
    assert raw.used == {"oven/ovenid2impath.csv": path}


def test_a_rule_that_rows_break_is_a_defect():
    tables = Tables()
    tables.count_all("rows", 2, 2)
    assert tables.counts == {"rows": 2}
    with pytest.raises(M2KRError, match="rows is 1 where it must be 2"):
        tables.count_all("rows", 1, 2)


def test_a_compressed_copy_is_found(raw):
    path = write(raw, "collection.tsv.gz", "")
    assert raw.find("msmarco", "collection.tsv") == path
    assert raw.used == {"msmarco/collection.tsv.gz": path}


def test_a_staged_table_is_read_once_and_again_only_when_its_file_changes(raw):
    path = write(raw, "f.tsv", "one\ntwo\n")
    calls = []

    def reader(path, advance):
        calls.append(path)
        return read_lines(path, advance)

    assert raw.stage(path, "f", reader).collect()["text"].to_list() == ["one", "two"]
    assert raw.stage(path, "f", reader).collect().height == 2
    assert len(calls) == 1
    path.write_text("three\n", encoding="utf-8")
    os.utime(path, ns=(1, 1))
    assert raw.stage(path, "f", reader).collect()["text"].to_list() == ["three"]
    assert len(calls) == 2


def test_only_tables_of_so_many_bytes_are_not_compressed(raw, tmp_path, monkeypatch):
    packed = raw.folders["msmarco"] / "packed.gz"
    packed.write_bytes(gzip.compress(b"1\n"))
    monkeypatch.setattr(releases, "PLAIN_BYTES", packed.stat().st_size + 10)
    raw = RawFiles(raw.folders, tmp_path / "work", quiet=True)
    half = "x" * (packed.stat().st_size // 2) + "\n"

    def compression(path):
        raw.stage(path, path.stem, read_lines)
        (table,) = (tmp_path / "work").glob(f"{path.stem}-*.parquet")
        return pq.ParquetFile(table).metadata.row_group(0).column(1).compression

    assert compression(packed) == "ZSTD"
    assert [compression(write(raw, f"{name}.tsv", half)) for name in range(3)] == ["UNCOMPRESSED"] * 2 + ["ZSTD"]
    assert compression(write(raw, "last.tsv", "1\n")) == "UNCOMPRESSED"


def test_an_interrupted_reading_leaves_no_staged_table(raw):
    path = write(raw, "f.tsv", "one\ntwo\n")

    def broken(path, advance):
        yield from read_lines(path, advance)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        raw.stage(path, "f", broken)
    assert list(raw.work.iterdir()) == []


def test_an_empty_file_is_an_error(raw):
    with pytest.raises(BadRowsError, match="is empty"):
        raw.stage(write(raw, "f.tsv", ""), "f", read_lines)
    with pytest.raises(BadRowsError, match="has its header and no rows"):
        raw.stage(write(raw, "g.tsv", "a\tb\n"), "g", lambda path, advance: read_quoted(path, ["a", "b"], advance))


def test_a_file_that_cannot_be_read_is_no_bad_row_to_be_left_out(raw):
    raw.rejected.on_bad_rows = "skip"
    path = raw.folders["msmarco"] / "f.tsv"
    path.write_bytes("text".encode("utf-16"))
    with pytest.raises(BadRowsError, match=r"f\.tsv, the beginning: .*UTF-16.*No row"):
        raw.stage(path, "f", read_lines)
    assert list(raw.work.iterdir()) == []


def test_bad_rows_of_a_reused_table_are_reported_again(raw):
    path = raw.folders["msmarco"] / "f.tsv"
    path.write_bytes(b"fine\n\xff\n")
    raw.rejected.on_bad_rows = "skip"
    raw.stage(path, "f", read_lines)
    again = RawFiles(raw.folders, raw.work, rejected=RejectedRows("skip"), quiet=True)
    again.stage(path, "f", read_lines)
    assert [(row.kind, row.file, row.row) for row in again.rejected.rows] == [("bad", "msmarco/f.tsv", "line 2")]
    strict = RawFiles(raw.folders, raw.work, quiet=True)
    with pytest.raises(BadRowsError, match="line 2: the line is not valid UTF-8"):
        strict.stage(path, "f", read_lines)


@pytest.mark.parametrize("part_rows", [1, 2, 100])
def test_the_first_of_equal_ids_stays_and_the_others_say_where_it_stands(raw, monkeypatch, part_rows):
    monkeypatch.setattr(partitions, "PART_ROWS", part_rows)
    raw.rejected.on_bad_rows = "skip"
    path = write(raw, "f.tsv", "a\nb\na\nc\nb\na\n")
    kept = raw.stage(path, "f", read_lines, unique="text").collect()
    assert kept.rows() == [("line 1", "a"), ("line 2", "b"), ("line 4", "c")]
    assert [(row.row, row.id, row.reason) for row in raw.rejected.rows] == [
        ("line 3", "text a", "the id stands already at line 1"),
        ("line 5", "text b", "the id stands already at line 2"),
        ("line 6", "text a", "the id stands already at line 1"),
    ]


def test_what_is_made_once_is_there_whole_or_not_at_all(raw):
    def broken(target):
        target.mkdir()
        (target / "half").touch()
        raise LookupError

    with pytest.raises(LookupError):
        raw.make_once("parts", broken)
    assert list(raw.work.iterdir()) == []
    made = [raw.make_once("parts", lambda target: target.write_text("whole")) for _ in range(2)]
    assert [path.read_text() for path in made] == ["whole"] * 2
    assert set(raw.staged) == {"parts"}
