"""Quoted records are read whole, in order, with the line each begins at; a broken one costs itself only."""

import csv
import io
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from m2kr.errors import BadRowsError
from m2kr.parsing import compressed, delimited
from m2kr.parsing.delimited import MAX_RECORD_BYTES, read_quoted
from tests.m2kr.raw_files import ANY_TEXT, QUICK, gathered

FIELDS = st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT)


@QUICK
@given(records=st.lists(FIELDS, min_size=1, max_size=8), quote_all=st.booleans())
def test_quoted_fields_come_back_as_the_csv_module_wrote_them(tmp_path, records, quote_all):
    if not quote_all:  # the csv module leaves a carriage return unquoted, and then does not read it back itself
        records = [tuple(field.replace("\r", "") for field in record) for record in records]
    text = io.StringIO(newline="")
    writer = csv.writer(
        text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    )
    writer.writerow(["id", "text", "title"])
    writer.writerows(records)
    path = tmp_path / "file.tsv"
    path.write_bytes(text.getvalue().encode())
    for size, piece in ((11, 1 << 18), (1 << 20, 7), (1 << 20, 1 << 18)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compressed, "BLOCK_BYTES", size)
            patch.setattr(delimited, "_PIECE_BYTES", piece)
            rows, bad = gathered(read_quoted(path, ["id", "text", "title"]), ["id", "text", "title"])
        assert not bad
        assert rows == list(records)


def test_a_quoted_record_is_placed_by_the_physical_line_it_begins_at(tmp_path, block_bytes):
    (tmp_path / "f").write_text('id\ttext\n1\t"two\nlines"\n2\tone\n3\t"a ""quoted"" word"\n', encoding="utf-8")
    rows, bad = gathered(read_quoted(tmp_path / "f", ["id", "text"]), ["row", "id", "text"])
    assert rows == [("line 2", "1", "two\nlines"), ("line 4", "2", "one"), ("line 5", "3", 'a "quoted" word')]
    assert not bad


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("7\tonly two", "2 fields where 3 are expected"),
        ("7\ta\tb\tc", "4 fields where 3 are expected"),
        ("", "fields where 3 are expected"),
        ('7\t"never closed\tt', "fields|quot"),
        ('7\t"closed" too early"\tt', "quot"),
        ("7\ta\rb\tc", "carriage return outside quotes"),
    ],
)
def test_a_broken_record_does_not_swallow_its_neighbours(tmp_path, block_bytes, line, reason):
    good = [f'{i}\t"text\n{i}"\ttitle' for i in range(6)]
    text = "\n".join(["id\ttext\ttitle", *good[:3], line, *good[3:]]) + "\n"
    (tmp_path / "f").write_text(text, encoding="utf-8")
    rows, bad = gathered(read_quoted(tmp_path / "f", ["id", "text", "title"]), ["id", "text"])
    assert rows == [(str(i), f"text\n{i}") for i in range(6)]
    assert bad[0].row == "line 8"
    assert len(bad) == 1
    assert re.search(reason, bad[0].reason)


@QUICK
@given(
    pieces=st.lists(
        st.sampled_from([b"a", b"\t", b"\n", b'"', b"1\ttext\n", b'2\t"two\nlines"\n', b"\xff"]), max_size=40
    ),
    size=st.integers(3, 40),
)
@example(pieces=[b"\n", b"a", b'"', b'2\t"two\nlines"\n'], size=3)
@example(pieces=[b'a"\t"x\ny"\tb"\n', b'c"d\te\nf"g\th\n'], size=20)
def test_the_number_of_threads_changes_nothing_even_where_records_are_broken(tmp_path, pieces, size):
    path = tmp_path / "file.tsv"
    path.write_bytes(b"id\ttext\n" + b"".join(pieces))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "BLOCK_BYTES", size)
        for workers in (1, 2, 4):
            found.append(gathered(read_quoted(path, ["id", "text"], workers=workers), ["row", "id", "text"]))
    # One block holds the file.
    assert found == [gathered(read_quoted(path, ["id", "text"]), ["row", "id", "text"])] * 3


def test_a_record_cut_off_at_the_end_of_the_file_is_reported(tmp_path, block_bytes):
    (tmp_path / "f").write_text('id\ttext\n1\tfine\n2\t"cut o', encoding="utf-8")
    rows, bad = gathered(read_quoted(tmp_path / "f", ["id", "text"]), ["id", "text"])
    assert rows == [("1", "fine")]
    assert [(row.row, row.reason) for row in bad] == [("line 3", "a quoted field is opened and never closed")]


@pytest.mark.parametrize("neighbour", ["8\tfine", "only one field"])
@pytest.mark.parametrize(("size", "kept"), [(200_000, True), (MAX_RECORD_BYTES + 1, False)])
@pytest.mark.parametrize("quote", ["", '"'])
def test_one_limit_of_length_holds_whatever_stands_beside(tmp_path, neighbour, size, kept, quote):
    long = "x" * size
    (tmp_path / "f").write_text(f"id\ttext\n7\t{quote}{long}{quote}\n{neighbour}\n", encoding="utf-8")
    rows, bad = gathered(read_quoted(tmp_path / "f", ["id", "text"]), ["id", "text"])
    assert (("7", long) in rows) == kept
    assert len(rows) + len(bad) == 2


def test_invalid_utf8_costs_its_own_record_only(tmp_path, block_bytes):
    (tmp_path / "f").write_bytes(b'id\ttext\n1\tfine\n2\t"b\xffd"\n3\tfine too\n')
    rows, bad = gathered(read_quoted(tmp_path / "f", ["id", "text"]), ["id"])
    assert rows == [("1",), ("3",)]
    assert [row.row for row in bad] == ["line 3"]


def test_another_header_is_always_an_error(tmp_path):
    (tmp_path / "f").write_text("id\ttitle\ttext\n", encoding="utf-8")
    with pytest.raises(BadRowsError, match=r"line 1: the header has the columns id, title, text where id, text"):
        list(read_quoted(tmp_path / "f", ["id", "text", "title"]))


def test_what_cannot_be_seen_in_a_header_is_shown(tmp_path):
    (tmp_path / "f").write_text("id\ttext\u200b\n", encoding="utf-8")
    with pytest.raises(BadRowsError, match=r"has the columns id, 'text\\u200b' where id, text"):
        list(read_quoted(tmp_path / "f", ["id", "text"]))


@QUICK
@given(
    st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT), max_size=6),
    st.permutations(["a", "b", "c"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_columns_in_any_order_are_found_by_their_names(tmp_path, records, header, end):
    path = tmp_path / "table.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator=end)
        writer.writerows([header, *records])
    batches = list(read_quoted(path, ("c", "a"), delimiter=",", any_order=True))
    assert [row for batch in batches for row in batch.frame.select("c", "a").iter_rows()] == [
        (record[header.index("c")], record[header.index("a")]) for record in records
    ]
    assert not any(batch.bad for batch in batches)


@pytest.mark.parametrize("header", ["a,b", "a,b,c,c", "a;b;c", ""])
def test_a_header_that_lacks_a_column_or_repeats_one_is_an_error(tmp_path, header):
    path = tmp_path / "table.csv"
    path.write_text(f"{header}\n1,2,3\n", encoding="utf-8")
    with pytest.raises(BadRowsError, match="line 1: the header has the columns"):
        list(read_quoted(path, ("c", "a"), delimiter=",", any_order=True))
