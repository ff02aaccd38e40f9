"""A finished task is built again where something that it came from has changed, and only then."""

import gzip
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from m2kr.formats.manifest import read_manifest
from m2kr.tasks import TASKS
from tests.m2kr.building import build, contents, entry_of


def test_a_finished_build_is_not_done_again(world, built, tmp_path, capsys):
    out = Path(shutil.copytree(built, tmp_path / "out"))
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert build(world, out) == 0
    assert capsys.readouterr().err.count("up to date") == len(TASKS)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == times


def test_a_changed_raw_file_or_option_is_built_again(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert build(raw, out, "--tasks", "MSMARCO") == 0
    before = entry_of(out, "MSMARCO")["fingerprint"]
    path = raw / "msmarco" / "collection.tsv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:-2] + "!\n", encoding="utf-8")  # of the same size
    assert build(raw, out, "--tasks", "MSMARCO") == 0
    changed = entry_of(out, "MSMARCO")["fingerprint"]
    assert changed != before
    assert build(raw, out, "--tasks", "MSMARCO", "--set", "MSMARCO.pool=70") == 0
    assert entry_of(out, "MSMARCO")["fingerprint"] != changed
    assert pl.read_parquet(out / "MSMARCO_passages" / "test_passages-*.parquet").height == 70


@pytest.mark.parametrize("damage", ["a flipped bit", "another's", "none"])
def test_a_task_whose_shards_are_not_those_of_the_manifest_is_built_again(world, built, tmp_path, capsys, damage):
    out = Path(shutil.copytree(built, tmp_path / "out"))
    path = out / "MSMARCO_passages" / "test_passages-00000-of-00001.parquet"
    if damage == "a flipped bit":
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
    elif damage == "another's":
        shutil.copyfile(path.with_name("train_passages-00000-of-00001.parquet"), path)
    assert build(world, out, "--tasks", "MSMARCO") == 0
    assert ("up to date" in capsys.readouterr().err) == (damage == "none")
    assert contents(out) == contents(built)


@pytest.mark.parametrize("packed", [False, True])
def test_images_are_looked_for_in_a_finished_build_too(raw, world, tmp_path, capsys, packed):
    place = tmp_path / "images" / "coco"
    shutil.copytree(world / "coco", place)
    out = tmp_path / "out"
    images = place
    if packed:
        images = Path(shutil.make_archive(str(tmp_path / "coco"), "zip", place))
    arguments = ("--tasks", "OKVQA", "--quiet", "--images", f"OKVQA={images}")
    assert build(raw, out, *arguments[:3]) == 0
    before = contents(out)
    assert build(raw, out, *arguments) == 0
    capsys.readouterr()
    lost = sorted(pl.read_parquet(out / "OKVQA_data" / "test-*.parquet")["img_path"].unique())[:2]
    for name in lost:
        (place / name).unlink()
    if packed:
        shutil.make_archive(str(tmp_path / "coco"), "zip", place)
    assert build(raw, out, *arguments) == 2
    message = capsys.readouterr().err
    assert re.search(r"OKVQA_data/\w+, row question_id=.* \(2 images in all\)", message)
    assert any(name in message for name in lost)
    assert contents(out) == before
    assert build(raw, out, *arguments[:3]) == 0  # not asked for, not looked for


def test_a_raw_file_that_comes_later_is_built_in(raw, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("--tasks", "MSMARCO", "--allow-missing")
    late = raw / "msmarco" / "qrels.train.tsv"
    content = late.read_bytes()
    late.unlink()
    assert build(raw, out, *arguments) == 0
    assert entry_of(out, "MSMARCO")["counts"]["lacking"]
    assert "msmarco/qrels.train.tsv" in entry_of(out, "MSMARCO")["absent"]
    capsys.readouterr()
    # What lacks something is finished as well, as long as nothing new is there.
    (raw / "msmarco" / "notes.txt").write_text("mine")
    assert build(raw, out, *arguments) == 0
    assert "MSMARCO: up to date" in capsys.readouterr().err
    late.with_name("qrels.train.tsv.gz").write_bytes(gzip.compress(content))
    assert build(raw, out, *arguments) == 0
    assert "up to date" not in capsys.readouterr().err
    assert "train" in entry_of(out, "MSMARCO")["configs"]["MSMARCO_data"]
    assert build(raw, out, *arguments) == 0
    assert "up to date" in capsys.readouterr().err


def test_an_optional_raw_file_that_comes_later_is_seen_once(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert build(raw, out, "--tasks", "EVQA") == 0
    archive = raw / "evqa" / "encyclopedic_kb_wiki.zip"
    shutil.unpack_archive(archive, archive.parent)
    capsys.readouterr()
    before = pl.read_parquet(out / "EVQA_data" / "*.parquet")
    assert build(raw, out, "--tasks", "EVQA") == 0
    assert "up to date" not in capsys.readouterr().err
    assert "evqa/encyclopedic_kb_wiki.json" in entry_of(out, "EVQA")["sources"]
    assert pl.read_parquet(out / "EVQA_data" / "*.parquet").equals(before)
    archive.unlink()  # no longer read
    assert build(raw, out, "--tasks", "EVQA") == 0
    assert "up to date" in capsys.readouterr().err


def test_a_manifest_that_does_not_say_what_was_absent_is_not_trusted(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert build(raw, out, "--tasks", "KVQA", "--quiet") == 0
    manifest = read_manifest(out)
    del manifest["tasks"]["KVQA"]["absent"]
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert build(raw, out, "--tasks", "KVQA") == 0
    assert "KVQA: building" in capsys.readouterr().err
