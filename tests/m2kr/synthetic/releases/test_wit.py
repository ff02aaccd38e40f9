"""The made-up WIT and IGLUE."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.m2kr.synthetic.reading import blocks_by_title, lines, opens, wit_rows


def wit_image(world: Path, url: str) -> Path:
    return world / "wit" / "images" / f"{hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()}.jpg"


@pytest.mark.parametrize("split", ["train", "val"])
def test_wit_has_the_native_columns_and_quirks(world: Path, split: str) -> None:
    rows = wit_rows(world, split)
    assert list(rows[0])[:3] == ["language", "page_url", "image_url"]
    assert all(len(row) == 17 and None not in row.values() for row in rows)
    pages: dict[str, set[str]] = {}
    for row in rows:
        pages.setdefault(row["image_url"], set()).add(row["page_url"])
    assert any(len(found) > 1 for found in pages.values())
    assert {url.split(":")[0] for url in pages} == {"http", "https"}
    assert {row["mime_type"] for row in rows} >= {"image/jpeg", "image/png"}
    assert {row["is_main_image"] for row in rows} == {"true", "false"}
    assert {"en", "de", "ru"} <= {row["language"] for row in rows}
    assert 0.4 < sum(row["language"] == "en" for row in rows) / len(rows) < 0.9
    assert any(row["section_title"] == "" for row in rows)
    assert any(row["page_title"] in ("NA", "null") for row in rows)
    assert any("\n" in row["context_page_description"] for row in rows)
    assert any('"' in row["caption_reference_description"] for row in rows) or split == "train"
    assert all(row["original_height"].isdigit() for row in rows)
    # An image without an English row is no query.
    assert {row["image_url"] for row in rows if row["language"] == "en"} < set(pages)


def test_wit_is_gzip_without_a_time_and_quotes_only_what_needs_it(world: Path) -> None:
    path = world / "wit" / "wit_v1.train.all-00002-of-00010.tsv.gz"
    assert path.read_bytes()[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"
    content = gzip.decompress(path.read_bytes()).decode()
    with io.StringIO(content, newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    again = io.StringIO(newline="")
    csv.writer(again, delimiter="\t", lineterminator="\n").writerows(rows)
    assert again.getvalue() == content
    assert content.count("\n") > len(rows)


def test_most_wit_images_are_there_and_a_few_are_missing_or_tiny(world: Path) -> None:
    urls = {row["image_url"] for split in ("train", "val") for row in wit_rows(world, split)}
    found = {wit_image(world, url) for url in urls if wit_image(world, url).is_file()}
    assert found == set((world / "wit" / "images").iterdir())
    assert 0.9 < len(found) / len(urls) < 1
    sizes = Counter(Image.open(path).size for path in found)
    assert set(sizes) >= {(160, 160), (24, 24)}
    assert sizes[160, 160] > 0.9 * len(found)


def test_every_iglue_record_is_one_wit_row_with_an_image(world: Path) -> None:
    key = ("page_url", "image_url", "caption_reference_description")
    rows = Counter(tuple(row[name] for name in key) for row in wit_rows(world, "val") if row["language"] == "en")
    records = lines(world / "iglue_wit" / "test_en.jsonl")
    assert [*records[0]] == [
        *("image_idx", "image_url", "meta_url", "caption_reference_description", "language", "page_url", "wit_ix")
    ]
    assert [rows[tuple(record[name] for name in key)] for record in records] == [1] * len(records)
    assert all(opens(wit_image(world, record["image_url"])) for record in records)
    images = {record["image_url"] for record in records}
    assert len(images) < len(records)
    assert len({record["wit_ix"] for record in records}) == len(images)
    assert len({record["image_idx"] for record in records}) == len(images) - 2
    order = [int(record["wit_ix"].removeprefix("wit-test_")) for record in records]
    assert order == sorted(order)
    captions = [record["caption_reference_description"] for record in records]
    assert all(captions)
    assert any("\n" in caption for caption in captions)
    assert any(caption != caption.strip() for caption in captions)


def test_wit_tells_of_the_entities_of_the_world(world: Path) -> None:
    known = blocks_by_title(world)
    rows = [row for row in wit_rows(world, "val") if row["language"] == "en"]
    told = [row for row in rows if row["page_title"] in known]
    assert len(told) > len(rows) / 2
    for row in told:
        if row["context_page_description"]:
            assert row["context_page_description"].split("\n")[0] in " ".join(known[row["page_title"]])
