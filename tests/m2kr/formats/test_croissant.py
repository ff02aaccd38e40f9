"""Croissant metadata: mlcroissant takes it without an issue, and reads the records it describes."""

import json
import shutil
from unittest import TestCase

import mlcroissant
import polars as pl
import pytest

from m2kr.common.files import sha256_of
from m2kr.formats.croissant import croissant
from m2kr.formats.manifest import read_manifest
from m2kr.formats.schema import arrow_schema
from m2kr.images.pack import pack_task
from m2kr.images.roots import ImageRoots
from m2kr.tasks import TASKS


@pytest.fixture(scope="module")
def data(built, world, tmp_path_factory):
    """A benchmark with packed images."""
    out = tmp_path_factory.mktemp("croissant") / "data"
    shutil.copytree(built, out)
    pack_task(out, TASKS["OKVQA"], ImageRoots([world]), out=out, quiet=True)
    return out


@pytest.fixture(scope="module")
def dataset(data):
    return mlcroissant.Dataset(str(data / "croissant.json"))


def test_it_is_valid_without_a_warning(data):
    with TestCase().assertNoLogs(level="WARNING"):
        loaded = mlcroissant.Dataset(str(data / "croissant.json"))
    issues = loaded.metadata.ctx.issues
    assert (list(issues.errors), list(issues.warnings)) == ([], [])
    assert loaded.metadata.ctx.is_v1_1()


def test_every_config_split_and_shard_is_described(data):
    manifest = read_manifest(data)
    metadata = json.loads((data / "croissant.json").read_text(encoding="utf-8"))
    assert metadata == croissant(manifest)
    wanted = {
        f"{config}/{split}"
        for entry in manifest["tasks"].values()
        for config, splits in entry["configs"].items()
        for split in splits
    }
    assert {record["@id"] for record in metadata["recordSet"]} == wanted | {"OKVQA_images/images"}
    files = {part["contentUrl"]: part for part in metadata["distribution"] if part["@type"] == "cr:FileObject"}
    assert set(files) == {path.relative_to(data).as_posix() for path in data.rglob("*.parquet")}
    for name, part in files.items():
        assert part["sha256"] == sha256_of(data / name)
        assert part["contentSize"] == f"{(data / name).stat().st_size} B"
    assert str(data) not in json.dumps(metadata)


def test_columns_are_fields_or_said_to_be_left_out(data):
    metadata = json.loads((data / "croissant.json").read_text(encoding="utf-8"))
    for record in metadata["recordSet"]:
        config = record["@id"].split("/")[0]
        if not config.endswith("_images"):
            described = [field["source"]["extract"]["column"] for field in record["field"]]
            left_out = [name for name in arrow_schema(config).names if name not in described]
            assert all(name in record["description"] for name in left_out)
    left_out = {"img", "img_caption", "objects", "img_ocr"}
    okvqa = next(record for record in metadata["recordSet"] if record["@id"] == "OKVQA_data/test")
    assert {field["@id"].rsplit("/", 1)[1] for field in okvqa["field"]} == set(
        arrow_schema("OKVQA_data").names
    ) - left_out


@pytest.mark.parametrize("name", ["OKVQA_data/test", "OKVQA_passages/test_passages", "MSMARCO_data/valid"])
def test_the_records_are_those_of_the_tables(data, dataset, name):
    rows = pl.read_parquet(data / f"{name}-*.parquet")
    records = list(dataset.records(name))
    assert len(records) == rows.height
    for record, row in zip(records, rows.iter_rows(named=True), strict=True):
        for key, value in record.items():
            wanted = row[key.removeprefix(f"{name}/")]
            if isinstance(wanted, list):
                assert [item.decode() for item in value] == wanted
            else:
                assert (value.decode() if isinstance(value, bytes) else value) == wanted


def test_packed_images_are_read_as_images(data, dataset):
    record = next(iter(dataset.records("OKVQA_images/images")))
    path = record["OKVQA_images/images/img_path"].decode()
    assert record["OKVQA_images/images/image"].size == pack_size(data, path)


def pack_size(data, path):
    from m2kr.dataset import load_task

    return load_task("OKVQA", data).images.open(path).size
