"""WIT: quoted tables become rows, rows become passages, and images become queries."""

import csv
import gzip
import hashlib
import shutil
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2kr.common import partitions
from m2kr.errors import BadRowsError, M2KRError, MissingFilesError
from m2kr.parsing.releases import RawFiles
from m2kr.sources import wit, wit_rows
from m2kr.sources.wit_rows import COLUMNS
from m2kr.tasks import RELEASES
from tests.m2kr.raw_files import ANY_TEXT, SAMPLES, delimited, needs_samples

FILES = RELEASES["wit"].files
TRAIN, VAL = FILES[0], FILES[10]
WIT_SAMPLES = SAMPLES / "wit"


def row(number, image=None, **fields):
    """A row as the release has it, all of it text."""
    return {
        "language": "en",
        "page_url": f"https://en.wikipedia.org/wiki/P{number}",
        "image_url": f"https://upload.example/{number if image is None else image}.jpg",
        "page_title": f"Page {number}",
        "section_title": "",
        "hierarchical_section_title": f"Page {number}",
        "caption_reference_description": f"caption {number}",
        "caption_attribution_description": "",
        "caption_alt_text_description": "",
        "mime_type": "image/jpeg",
        "original_height": "800",
        "original_width": "",
        "is_main_image": "false",
        "attribution_passes_lang_id": "true",
        "page_changed_recently": "",
        "context_page_description": f"Text {number}.",
        "context_section_description": "",
        **fields,
    }


def tsv(*rows, quoting=csv.QUOTE_MINIMAL):
    """A table in the release's container."""
    return gzip.compress(delimited(rows, COLUMNS, quoting=quoting).encode("utf-8"))


def md5(url):
    return hashlib.md5(url.encode()).hexdigest()


def name_of(image):
    return md5(f"https://upload.example/{image}.jpg")


@pytest.fixture
def release(put):
    """Train: images 1 (rows 1, 3), 2 (rows 2); val: images 1 (row 10) and 4 (rows 11, 12); other languages between."""
    french = row(90, language="fr", original_height="not looked at")
    for name in FILES:
        put(f"wit/{name}", tsv(french))
    put(f"wit/{FILES[0]}", tsv(row(1), french, row(2)))
    put(f"wit/{FILES[1]}", tsv(row(3, image=1, page_title="", context_page_description='a\n"b"\tc\u0085d')))
    put(f"wit/{FILES[10]}", tsv(french, row(10, image=1)))
    put(f"wit/{FILES[14]}", tsv(row(11, image=4), row(12, image=4)))


@pytest.fixture
def picture(root):
    """Put the picture of an image into the release's folder."""

    def draw(image, size=(40, 40), content=None):
        path = root / "wit" / "images" / f"{name_of(image)}.jpg"
        path.parent.mkdir(exist_ok=True)
        if content is None:
            Image.new("RGB", size).save(path)
        else:
            path.write_bytes(content)

    return draw


def test_passages_are_the_english_rows_of_train_then_val(release, tables):
    _, passages, _, _ = tables("WIT", test_queries=1)
    corpus = passages["train"]
    assert corpus["passage_id"].to_list() == [f"WIT_{n}" for n in range(6)]
    assert corpus["original_data_id"].to_list() == ["train_0", "train_1", "train_2", "valid_0", "valid_1", "valid_2"]
    assert corpus["page_url"].to_list() == [f"https://en.wikipedia.org/wiki/P{n}" for n in (1, 2, 3, 10, 11, 12)]
    assert passages["valid"].equals(corpus.tail(3))
    assert passages["test"].equals(passages["valid"])
    first = corpus.row(0, named=True)
    assert first["original_height"] == 800
    assert first["original_width"] is first["page_changed_recently"] is first["section_title"] is None
    assert (first["is_main_image"], first["attribution_passes_lang_id"]) == (False, True)
    assert first["image_downloaded"] is None
    assert first["img_path"] == f"{first['img_id']}.jpg" == f"{first['image_id']}.jpg" == f"{name_of(1)}.jpg"


def test_passage_content_labels_what_is_there(release, put, tables):
    full = {name: f"[{name}]" for name in COLUMNS[3:9]}
    put(f"wit/{TRAIN}", tsv(row(1, **full, context_page_description="")))
    corpus = tables("WIT")[1]["train"]["passage_content"]
    assert corpus[0] == (
        "title: [page_title] section title: [section_title] hierarchical section title: [hierarchical_section_title] "
        "caption reference description: [caption_reference_description] "
        "caption attribution description: [caption_attribution_description] "
        "caption alt text description: [caption_alt_text_description] content: None"
    )
    assert corpus[1] == (
        "title: None hierarchical section title: Page 3 caption reference description: caption 3 "
        'content: a\n"b"\tc\u0085d'
    )


def test_an_image_is_one_query_with_all_its_rows_of_the_split(release, tables):
    data, passages, _, _ = tables("WIT", test_queries=1)
    texts = dict(passages["train"].select("passage_id", "passage_content").iter_rows())
    train = {query["question_id"]: query for query in data["train"].iter_rows(named=True)}
    assert list(train) == sorted([name_of(1), name_of(2)])
    assert train[name_of(1)]["pos_item_ids"] == ["WIT_0", "WIT_2"]
    assert train[name_of(1)]["original_data_id"] == ["train_0", "train_2"]
    assert train[name_of(1)]["pos_item_contents"] == [texts["WIT_0"], texts["WIT_2"]]
    assert train[name_of(2)]["pos_item_ids"] == ["WIT_1"]
    assert set(data["train"]["question"]) == {""}
    heldout = pl.concat([data["valid"], data["test"]])
    assert sorted(heldout["question_id"]) == sorted([name_of(1), name_of(4)])
    assert data["test"].height == data["valid"].height == 1


def test_queries_do_not_depend_on_how_rows_are_dealt(put, tables, monkeypatch, tmp_path):
    for name in FILES:
        put(f"wit/{name}", tsv(row(name), *(row(f"{name}/{n}", image=n * n % 37) for n in range(40))))
    whole = tables("WIT", test_queries=3)[0]
    monkeypatch.setattr(wit, "_PART_ROWS", 7)
    (tmp_path / "work").rename(tmp_path / "work before")
    dealt = tables("WIT", test_queries=3, workers=3)[0]
    for split in ("train", "valid", "test"):
        assert dealt[split].equals(whole[split])
    assert dealt["train"].height == 10 + 37 // 2 + 1
    assert not [path for path in (tmp_path / "work").iterdir() if path.suffix == ".tmp"]


def test_the_same_address_by_http_and_https_is_two_images(release, put, tables):
    put(f"wit/{TRAIN}", tsv(row(1, image_url="http://x/1.jpg"), row(2, image_url="https://x/1.jpg")))
    assert {md5("http://x/1.jpg"), md5("https://x/1.jpg")} < set(tables("WIT")[0]["train"]["img_id"])


@pytest.mark.parametrize("part_rows", [2, 100])
def test_rows_without_a_usable_picture_are_left_out(release, put, tables, picture, monkeypatch, part_rows):
    monkeypatch.setattr(partitions, "PART_ROWS", part_rows)
    rows = [row(n) for n in range(1, 7)]
    put(f"wit/{TRAIN}", tsv(*rows))
    picture(1)
    picture(2, (33, 32))
    picture(3, (33, 33))
    picture(5, content=b"no picture")
    picture(6, content=b"")
    data, passages, rejected, _ = tables("WIT")
    assert passages["train"]["passage_id"].to_list() == ["WIT_0", "WIT_1", "WIT_2", "WIT_3"]
    assert passages["train"]["original_data_id"].to_list() == ["train_0", "train_2", "train_6", "valid_0"]
    assert passages["train"]["image_downloaded"].all()
    assert sorted(data["train"]["img_id"]) == sorted([name_of(1), name_of(3)])
    assert not rejected.rows
    assert tables("WIT", image_filter="all")[1]["train"].height == 6 + 1 + 3


def test_pictures_that_cannot_be_used_are_counted(release, counts, picture):
    picture(1)
    picture(2, (10, 50))
    made = counts("WIT")
    assert made["image_filter_present"] == 1
    assert (made["train_english_rows"], made["train_rows"], made["train_images_too_small"]) == (3, 2, 1)
    assert (made["valid_english_rows"], made["valid_rows"], made["valid_images_missing"]) == (3, 1, 1)
    assert made["images_in_train_and_val"] == 1
    picture(4)  # the folder has changed since: it is looked at again
    assert counts("WIT")["valid_rows"] == 3


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("inside", [False, True])
def test_pictures_are_looked_for_in_archives(release, tables, counts, picture, root, suffix, inside):
    picture(1)
    picture(2, (10, 50))
    picture(4, content=b"no picture")
    folder = root / "wit" / "images"
    shutil.make_archive(str(root / "packed"), {".zip": "zip", ".tar": "tar", ".tar.gz": "gztar"}[suffix], folder)
    shutil.rmtree(folder)
    if inside:
        folder.mkdir()
    (root / f"packed{suffix}").rename(folder / f"part-1{suffix}" if inside else folder.with_name(f"images{suffix}"))
    made = counts("WIT")
    assert (made["train_rows"], made["train_images_too_small"]) == (2, 1)
    assert (made["valid_rows"], made["valid_images_missing"], made["valid_images_unreadable"]) == (1, 0, 1)
    assert tables("WIT")[1]["train"]["image_downloaded"].all()


def test_a_damaged_archive_is_named(release, tables, root):
    (root / "wit" / "images.tar.gz").write_bytes(b"not one")
    with pytest.raises(M2KRError, match=r"images\.tar\.gz"):
        tables("WIT")


def test_the_filter_wants_its_folder(release, tables, picture):
    with pytest.raises(M2KRError, match=r"image_filter is 'present', and .*images is no folder"):
        tables("WIT", image_filter="present")
    picture(9)
    data, _, _, lacking = tables("WIT")
    assert not data
    assert lacking[0].startswith("WIT train: not built, no file with an English row")


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan"])
def test_words_that_look_like_nothing_are_text(release, put, tables, word):
    put(f"wit/{TRAIN}", tsv(row(1, page_title=word)))
    assert tables("WIT")[1]["train"]["page_title"][0] == word
    found = tables("WIT", nulls="pandas")[1]["train"]
    assert found["page_title"][0] is None
    assert found["passage_content"][0].startswith("title: None ")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"language": ""}, "language is empty"),
        ({"page_url": ""}, "page_url is empty"),
        ({"image_url": ""}, "image_url is empty"),
        ({"original_height": "tall"}, "original_height is tall, not a whole number"),
        ({"original_width": "1.5"}, "original_width is 1.5, not a whole number"),
        ({"original_width": "9" * 30}, "not a whole number"),
        ({"is_main_image": "maybe"}, "is_main_image is maybe, not true or false"),
        ({"page_changed_recently": "1"}, "page_changed_recently is 1, not true or false"),
    ],
)
def test_a_bad_row_stops_the_build_or_is_left_out(release, put, rejects, fields, reason):
    put(f"wit/{TRAIN}", tsv(row(1), row(5, **fields), row(2)))
    _, passages = rejects("WIT", TRAIN, "line 3", reason)
    assert passages["train"]["page_title"].to_list()[:2] == ["Page 1", "Page 2"]


def test_a_truncated_row_is_reported_alone(release, put, tables):
    broken = b'en\thttps://e/P\thttps://u/x.jpg\tP\t"opened\n'
    whole = gzip.decompress(tsv(row(1), row(2)))
    put(f"wit/{TRAIN}", gzip.compress(whole + broken + whole.partition(b"\n")[2]))
    _, passages, rejected, _ = tables("WIT", on_bad_rows="skip")
    assert passages["train"]["page_title"].to_list()[:4] == ["Page 1", "Page 2"] * 2
    assert [(found.file, found.row) for found in rejected.rows] == [(f"wit/{TRAIN}", "line 4")]


def test_files_may_be_missing(release, root, tables):
    (root / "wit" / TRAIN).unlink()
    with pytest.raises(MissingFilesError, match=TRAIN):
        tables("WIT")
    _, passages, _, lacking = tables("WIT", allow_missing=True)
    assert passages["train"]["original_data_id"][0] == "train_0"
    assert lacking[0] == f"WIT train: built without {TRAIN}, which is missing."
    for name in FILES[:10]:
        (root / "wit" / name).unlink(missing_ok=True)
    data, passages, _, _ = tables("WIT", allow_missing=True, test_queries=1)
    assert set(data) == {"valid", "test"}
    assert passages["valid"]["passage_id"].to_list() == ["WIT_0", "WIT_1", "WIT_2"]
    for name in FILES[10:]:
        (root / "wit" / name).unlink()
    assert not tables("WIT", allow_missing=True)[0]


def test_without_the_val_files_there_is_train(release, root, tables):
    for name in FILES[10:]:
        (root / "wit" / name).unlink()
    data, passages, _, _ = tables("WIT", allow_missing=True)
    assert set(data) == {"train"}
    assert passages["train"].height == 3


def test_test_takes_all_where_there_are_few(release, tables):
    data, _, _, lacking = tables("WIT")
    assert set(data) == {"train", "test"}
    assert "WIT valid: not built" in lacking[0]


TEXTS = (*COLUMNS[1:9], "mime_type", *COLUMNS[15:])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.fixed_dictionaries(dict.fromkeys(TEXTS, ANY_TEXT)), min_size=1, max_size=8),
    st.sampled_from([1, 3, 1000]),
)
def test_what_is_written_is_read_back(texts, batch_rows):
    written = [row(n, **{**fields, "page_url": f"p{fields['page_url']}"}) for n, fields in enumerate(texts)]
    written = [{**fields, "image_url": f"i{fields['image_url']}"} for fields in written]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(wit_rows, "_BATCH_ROWS", batch_rows)
        path = Path(folder) / TRAIN
        # Python 3.11 writes a carriage return without quotes otherwise.
        path.write_bytes(tsv(*written, quoting=csv.QUOTE_ALL))
        found = wit_rows.english_rows(RawFiles({}, Path(folder) / "work", quiet=True), path, "empty").collect()
    assert found["image_id"].to_list() == [md5(fields["image_url"]) for fields in written]
    for name in TEXTS:
        assert found[name].to_list() == [fields[name] or None for fields in written]


@needs_samples
def test_real_rows_of_other_languages_make_nothing(put, tables):
    put(f"wit/{TRAIN}", (WIT_SAMPLES / "hf_dummy" / TRAIN).read_bytes())
    data, _, rejected, lacking = tables("WIT", allow_missing=True)
    assert not data
    assert not rejected.rows
    assert any(line.startswith("WIT train: not built, no file with an English row") for line in lacking)


@needs_samples
def test_a_real_row_cut_short_is_reported_with_its_file_and_line(put, tables):
    put(f"wit/{VAL.removesuffix('.gz')}", (WIT_SAMPLES / "tfds_dummy" / "test-00000-of-00005.tsv").read_bytes())
    with pytest.raises(BadRowsError, match=r"wit_v1\.val\.all-00000-of-00005\.tsv, line 2: .*never closed"):
        tables("WIT", allow_missing=True)
    _, _, rejected, _ = tables("WIT", allow_missing=True, on_bad_rows="skip")
    assert rejected.rows[0].row == "line 2"
    assert rejected.rows[0].content.startswith("it\t")


@needs_samples
def test_a_plain_file_named_gz_is_read_as_the_gzip_it_is_named_after(put, tables):
    packed, found = (WIT_SAMPLES / "reshaped" / TRAIN).read_bytes(), []
    for content in (packed, gzip.decompress(packed)):
        put(f"wit/{TRAIN}", content)
        data, passages, _, _ = tables("WIT", allow_missing=True)
        found.append((data["train"].rows(), passages["train"].rows()))
    assert found[0] == found[1]
    assert found[0][1]


@needs_samples
def test_real_rows_and_their_real_picture(put, root, tables):
    put(f"wit/{TRAIN}", (WIT_SAMPLES / "reshaped" / TRAIN).read_bytes())
    data, passages, _, _ = tables("WIT", allow_missing=True)
    assert passages["train"]["page_title"].to_list() == ["Oxydactylus", "Teucrium corymbosum"]
    picture = WIT_SAMPLES / "images" / "c35ef524555051b08e43b44d83c56dac.jpg"
    (root / "wit" / "images").mkdir()
    (root / "wit" / "images" / picture.name).write_bytes(picture.read_bytes())
    data, passages, _, _ = tables("WIT", allow_missing=True)
    assert data["train"]["img_path"].to_list() == [picture.name]
    assert passages["train"]["image_downloaded"].to_list() == [True]
