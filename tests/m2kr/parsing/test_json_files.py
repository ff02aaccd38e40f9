"""JSON records are read whole, in order, each with its place, out of any container, and damage is placed."""

import gzip
import io
import json
import re
import tracemalloc
import zipfile

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from m2kr.common.json_input import MAX_DEPTH, is_text
from m2kr.parsing import json_files
from m2kr.parsing.json_files import read_json_array, read_json_members, read_jsonl, stream_json_array
from m2kr.parsing.rows import BadRow
from tests.m2kr.archives import archived
from tests.m2kr.raw_files import ANY_TEXT, QUICK


def placed(members):
    return [(f"member {number}", member) for number, member in enumerate(members.items(), start=1)]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@QUICK
@given(values=st.lists(JSON, max_size=6), indent=st.sampled_from([None, 2]), member=st.sampled_from(["", "questions"]))
def test_array_elements_come_back_as_json_wrote_them(tmp_path, values, indent, member):
    path = tmp_path / "file.json"
    document = {"before": [{"questions": 1}], member: values, "after": 2} if member else values
    path.write_text(json.dumps(document, indent=indent), encoding="utf-8")
    assert list(read_json_array(path, member=member)) == [
        (f"record {i}", value) for i, value in enumerate(values, start=1)
    ]


def records(count):
    return [{"id": i, "turns": [{"from": "human", "value": f"text {i} {{ }} ] ,"}]} for i in range(count)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"id": 3,', '"id": 3', "invalid JSON"),
        ('"id": 3,', '"id": ,', "invalid JSON"),
        ('"id": 3,', '"id": "\udcff",', "not valid UTF-8"),
        ('"id": 3,', '"id": "\\udc00", "x": ,', "invalid JSON"),
        ('"id": 3,', '"id": ' + "9" * 5000 + ",", "invalid JSON"),
    ],
)
def test_a_broken_element_costs_itself_only(tmp_path, indent, old, new, reason):
    text = json.dumps(records(6), indent=indent)
    assert old in text
    (tmp_path / "f").write_bytes(text.replace(old, new).encode("utf-8", "surrogateescape"))
    elements = list(read_json_array(tmp_path / "f"))
    bad = [element for element in elements if isinstance(element, BadRow)]
    assert [element for element in elements if not isinstance(element, BadRow)] == [
        (f"record {i + 1}", record) for i, record in enumerate(records(6)) if i != 3
    ]
    assert [row.reason.startswith(reason) for row in bad] == [True]
    assert bad[0].row.startswith("record 4 (line ")


def test_an_array_that_ends_early_gives_its_whole_elements_and_a_reason(tmp_path):
    text = json.dumps(records(4), indent=2)
    (tmp_path / "f").write_text(text[: text.index('"id": 3')], encoding="utf-8")
    elements = list(read_json_array(tmp_path / "f"))
    assert [element[1]["id"] for element in elements if not isinstance(element, BadRow)] == [0, 1, 2]
    assert any(isinstance(element, BadRow) for element in elements)


@pytest.mark.parametrize("text", ["", "{}", "null", "12", '{"answers": []}', "<html>"])
def test_a_file_without_the_array_says_so(tmp_path, text):
    (tmp_path / "f").write_text(text, encoding="utf-8")
    for member in ("questions", ""):
        elements = list(read_json_array(tmp_path / "f", member=member))
        assert len(elements) == 1, member
        assert isinstance(elements[0], BadRow)
        assert "does not hold" in elements[0].reason


@QUICK
@given(values=st.lists(JSON, max_size=6), compressed=st.booleans())
def test_json_lines_come_back_as_json_wrote_them(tmp_path, values, compressed):
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()
    path = tmp_path / ("file.jsonl.gz" if compressed else "file.jsonl")
    path.write_bytes(gzip.compress(text) if compressed else text)
    assert list(read_jsonl(path)) == [(f"line {i}", value) for i, value in enumerate(values, start=1)]


def test_a_broken_json_line_costs_itself_only(tmp_path):
    (tmp_path / "f").write_bytes(b'{"a": 1}\n{"a": \n\n{"a": "\xff"}\n{"a": 2}\n')
    elements = list(read_jsonl(tmp_path / "f"))
    good = [element for element in elements if not isinstance(element, BadRow)]
    assert sorted(good) == [("line 1", {"a": 1}), ("line 5", {"a": 2})]
    assert sorted(row.row for row in elements if isinstance(row, BadRow)) == ["line 2", "line 4"]


@QUICK
@given(members=st.dictionaries(ANY_TEXT, JSON, max_size=6))
def test_members_come_back_as_json_wrote_them(tmp_path, members):
    (tmp_path / "f").write_text(json.dumps(members), encoding="utf-8")
    assert list(read_json_members(tmp_path / "f")) == placed(members)


def test_members_before_a_break_are_kept_and_the_break_is_placed(tmp_path):
    (tmp_path / "f").write_text('{"one": {"a": 1}, "two": 2, "three": }', encoding="utf-8")
    *good, bad = read_json_members(tmp_path / "f")
    assert good == placed({"one": {"a": 1}, "two": 2})
    assert bad.row == "after member 2 (two)"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (r'{"a": "\ud800"}', "half a surrogate pair"),
        (r'["\uDFFF"]', "half a surrogate pair"),
        ("1" * 5_000, "is out of range"),
        ("[" * (MAX_DEPTH + 1), "nested too deeply"),
    ],
)
def test_json_that_python_cannot_keep_as_text_costs_its_line(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{line}\n{{"a": "\\ud83c\\uddee"}}\n', encoding="utf-8")
    bad, good = read_jsonl(path)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert good == ("line 2", {"a": "\U0001f1ee"})


def test_half_a_character_in_a_damaged_array_costs_its_element(tmp_path):
    (tmp_path / "f").write_text('[{"a": 1}, {"a": "\\ud800"}, {"a": 2}, {"a": }]', encoding="utf-8")
    elements = list(read_json_array(tmp_path / "f"))
    good = [element[1] for element in elements if not isinstance(element, BadRow)]
    assert {"a": 2} in good
    assert all(str(value).encode("utf-8") for value in good)


def packed(folder, ending, content, names=("._file.json", "ABOUT.txt", "x/file.json")):
    """Write bytes as a file of that ending; an archive has them under the last of some names."""
    return archived(folder / f"file{ending}", {**dict.fromkeys(names, b"{}"), names[-1]: content})


ENDINGS = [".json", ".json.gz", ".zip", ".json.tar", ".json.tar.gz", ".tgz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_object_is_read_out_of_its_archive(tmp_path, ending):
    members = {f"key {number}": {"text": f"{number**3} \u00e9", "of": [number]} for number in range(5_000)}
    path = packed(tmp_path, ending, json.dumps(members).encode())
    steps = []
    assert list(read_json_members(path, steps.append)) == placed(members)
    # Bytes are counted as they lie on the disk; behind the file, an archive has more that need not be read.
    size = path.stat().st_size
    assert 0 < sum(steps) <= size
    assert sum(steps) == size or ending not in (".json", ".json.gz")


@pytest.mark.parametrize("ending", ENDINGS)
@QUICK
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["id", "file_name", "x"]), st.floats(allow_infinity=False) | ANY_TEXT | st.integers(0, 9)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_streamed_array_is_what_json_reads_with_nan_as_null(tmp_path, ending, records):
    plain = json.dumps({"info": {"images": [1]}, "images": records, "annotations": [{"id": float("nan")}]})
    assume(not re.search(r'"[^"]*\bNaN\b[^"]*"', plain))  # texts are not kept
    expected = json.loads(plain, parse_constant=lambda _: None)["images"]
    found = list(stream_json_array(packed(tmp_path, ending, plain.encode()), member="images"))
    assert found == [(f"record {number}", record) for number, record in enumerate(expected, start=1)]


@QUICK
@given(st.lists(st.sampled_from([b"NaN", b"N", b"a", b"_", b" ", b":", b"1", b'"'])).map(b"".join), st.integers(1, 9))
def test_nan_is_found_wherever_the_blocks_end(text, size):
    file = json_files._WithoutNaN(io.BytesIO(text))
    assert b"".join(iter(lambda: file.read(size), b"")) == re.sub(rb"\bNaN\b", b"null", text)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("cut", [0.0, 0.3, 0.9])
def test_what_is_cut_off_is_reported_after_what_could_be_read(tmp_path, ending, cut):
    members = {str(number): str(number**7) for number in range(20_000)}
    path = packed(tmp_path, ending, json.dumps({"all": members, "images": list(members)}).encode(), ["file.json"])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    for found in (list(read_json_members(path)), list(stream_json_array(path, member="images"))):
        assert isinstance(found[-1], BadRow)
        assert not any(isinstance(element, BadRow) for element in found[:-1])
        assert "what follows cannot be read" in found[-1].reason


@pytest.mark.parametrize("ending", [".zip", ".json.tar", ".json.tar.gz"])
@settings(QUICK, max_examples=80)
@given(at=st.floats(0, 1, exclude_max=True), cut=st.integers(0, 3), put=st.binary(max_size=3))
@example(at=0.0, cut=1, put=b"")  # a zip whose parts are not where its list says
def test_whatever_happened_to_an_archive_it_is_read_or_reported(tmp_path, ending, at, cut, put):
    members = {f"key {number}": {"text": str(number**3)} for number in range(40)}
    path = packed(tmp_path, ending, json.dumps({**members, "images": list(members.values())}).encode())
    whole = path.read_bytes()
    place = int(at * len(whole))
    path.write_bytes(whole[:place] + put + whole[place + cut :])
    for found in (list(read_json_members(path)), list(stream_json_array(path, member="images"))):
        assert not any(isinstance(element, BadRow) for element in found[:-1])
        assert found


def test_a_changed_byte_in_a_zip_is_seen_by_its_checksum(tmp_path):
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("file.json", '{"a": "abcd", "b": "efgh"}')
    path.write_bytes(path.read_bytes().replace(b"efgh", b"efgx"))
    *_, last = read_json_members(path)
    assert isinstance(last, BadRow)
    assert "CRC" in last.reason


@pytest.mark.parametrize(
    ("ending", "names", "reason"),
    [
        (".zip", ["file.txt"], "0 JSON files where one"),
        (".zip", ["a.json", "b.json"], "2 JSON files where one"),
        (".tar.gz", ["file.txt"], "no JSON file"),
    ],
)
def test_an_archive_of_something_else_is_explained(tmp_path, ending, names, reason):
    path = packed(tmp_path, ending, b"{}", names)
    for found in (list(read_json_members(path)), list(stream_json_array(path, member="images"))):
        assert [reason in bad.reason and "damaged" not in bad.reason for bad in found] == [True]


@pytest.mark.parametrize(("means", "reason"), [("lzma", "packed by other means than deflate"), ("lock", "encrypted")])
def test_an_archive_that_has_to_be_unpacked_is_not_called_damaged(tmp_path, means, reason):
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA if means == "lzma" else zipfile.ZIP_STORED) as archive:
        archive.writestr("x/file.json", "{}")
    if means == "lock":  # the flags stand in both headers of a member
        content = bytearray(path.read_bytes())
        for header, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(header) + at] |= 1
        path.write_bytes(content)
    for found in (list(read_json_members(path)), list(stream_json_array(path, member="images"))):
        (bad,) = found
        assert bad.row == "the beginning"
        assert bad.reason == f"the archive is {reason}; unpack it, and put 'x/file.json' in its place"


def test_an_array_that_is_not_there_or_empty_is_reported(tmp_path):
    for content in (b"{}", b'{"images": []}', b'{"images": 3, "info": [1]}'):
        (bad,) = stream_json_array(packed(tmp_path, ".json", content), member="images")
        assert "no record under" in bad.reason


@pytest.mark.parametrize("ending", [".zip", ".json.tar.gz"])
def test_memory_does_not_grow_with_the_archive(tmp_path, ending):
    record = {"text": "word " * 2_000}
    text = json.dumps({"images": [record] * 1_500, **{str(n): record for n in range(1_500)}}).encode()  # 30 MB
    path = packed(tmp_path, ending, text)
    del text
    tracemalloc.start()
    try:
        assert sum(1 for _ in stream_json_array(path, member="images")) == 1_500
        streamed = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert streamed < 3 << 20


def test_text_is_what_can_be_written():
    assert is_text({"a": ["\u00e9", 1, None, float("nan")]})
    assert not is_text(["fine", {"a": "\ud800"}])
    assert not is_text(b"bytes")
