"""Exports are written whole, once, the same bytes each time, and only where nothing else is."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from m2kr.dataset import load_task
from m2kr.errors import M2KRError, run_command
from m2kr.export import files
from m2kr.export.__main__ import main
from m2kr.export.files import WRITERS
from m2kr.export.task import export_task
from m2kr.images.pack import pack_task
from m2kr.images.roots import parse_roots
from m2kr.tasks import get_task

FILES = {
    "trec": ["collection.jsonl", "qrels.txt", "queries.tsv"],
    "beir": ["corpus.jsonl", "qrels/test.tsv", "queries.jsonl"],
    "mteb": ["README.md", "corpus-00000.parquet", "qrels-00000.parquet", "queries-00000.parquet"],
}


@pytest.mark.parametrize("form", WRITERS)
def test_an_export_is_the_same_bytes_each_time(awkward, pictures, exported, tmp_path, form, tree):
    export_task(awkward, "LLaVA", form, tmp_path, images=parse_roots([str(pictures)]), quiet=True)
    named = [name if name == "README.md" else f"LLaVA/{name}" for name in FILES[form]]
    assert sorted(tree(tmp_path)) == sorted(["export.json", *named])
    assert tree(tmp_path) == tree(exported / form)


def test_what_is_exported_already_is_left_alone(built, tmp_path, capsys):
    folder = export_task(built, "MSMARCO", "beir", tmp_path / "out", quiet=True)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    export_task(built, "MSMARCO", "beir", tmp_path / "out")
    assert "MSMARCO: exported already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    export_task(built, "MSMARCO", "beir", tmp_path / "out", instructions=False, quiet=True)
    text = json.loads((folder / "queries.jsonl").read_text("utf-8").split("\n")[0])["text"]
    assert text == load_task("MSMARCO", built).queries["question"][0]


def test_a_second_split_lies_beside_the_first(built, tmp_path):
    for split in ("valid", "test"):
        export_task(built, "MSMARCO", "trec", tmp_path, split=split, quiet=True)
    parts = json.loads((tmp_path / "export.json").read_text())["parts"]
    assert list(parts) == ["MSMARCO", "MSMARCO.valid"]
    for name, split in (("MSMARCO", "test"), ("MSMARCO.valid", "valid")):
        data = load_task("MSMARCO", built, split)
        assert len((tmp_path / name / "queries.tsv").read_text("utf-8").splitlines()) == data.queries.height
        assert parts[name]["dataset"] == data.fingerprint


def test_a_folder_of_something_else_is_not_written_to(built, exported, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(M2KRError, match="holds something that no export wrote"):
        export_task(built, "MSMARCO", "beir", tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(M2KRError, match="holds an export to 'trec', not to 'beir'"):
        export_task(built, "MSMARCO", "beir", exported / "trec", quiet=True)
    (tmp_path / "export.json").write_text("[]")
    with pytest.raises(M2KRError, match=r"export\.json is no manifest of an export"):
        export_task(built, "MSMARCO", "beir", tmp_path, quiet=True)


def test_a_killed_export_is_made_again(built, tmp_path, monkeypatch, tree):
    export_task(built, "MSMARCO", "beir", tmp_path / "whole", quiet=True)
    passages = files.read_passages
    calls = []

    def killed(files):
        calls.append(files)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return passages(files)

    monkeypatch.setattr(files, "read_passages", killed)
    with pytest.raises(KeyboardInterrupt):
        export_task(built, "MSMARCO", "beir", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "MSMARCO").exists()
    export_task(built, "MSMARCO", "beir", tmp_path / "out", quiet=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_packed_images_are_exported(built, world, tmp_path, tree):
    for config in ("LLaVA_data", "LLaVA_passages"):
        shutil.copytree(built / config, tmp_path / "data" / config)
    pack_task(tmp_path / "data", get_task("LLaVA"), parse_roots([str(world)]), out=tmp_path / "data", quiet=True)
    packed = export_task(tmp_path / "data", "LLaVA", "mteb", tmp_path / "packed", quiet=True)
    loose = export_task(
        tmp_path / "data", "LLaVA", "mteb", tmp_path / "loose", images=parse_roots([str(world)]), quiet=True
    )
    assert tree(packed) == tree(loose)


def test_large_tables_are_cut_into_shards(built, world, exported, tmp_path, monkeypatch):
    roots = parse_roots([str(world)])
    whole = export_task(built, "LLaVA", "mteb", tmp_path / "whole", images=roots, quiet=True)
    monkeypatch.setattr(files, "GROUP_BYTES", 5_000)
    monkeypatch.setattr(files, "SHARD_BYTES", 20_000)
    cut = export_task(built, "LLaVA", "mteb", tmp_path / "cut", images=roots, quiet=True)
    assert len(list(cut.glob("queries-*.parquet"))) > 2
    assert pl.read_parquet(cut / "queries-*.parquet").equals(pl.read_parquet(whole / "queries-*.parquet"))


def test_queries_of_which_nothing_is_left_are_refused(built, tmp_path):
    with pytest.raises(M2KRError, match=r"the queries of KVQA are images \(I2T\)"):
        export_task(built, "KVQA", "beir", tmp_path, instructions=False, quiet=True)


@pytest.mark.parametrize("given", [False, True])
def test_missing_images_are_said_before_anything_is_written(built, tmp_path, given):
    (tmp_path / "empty").mkdir()
    images = parse_roots([str(tmp_path / "empty")]) if given else None
    message = "19 of 19 images of LLaVA are not in .*empty" if given else "have images, and none are packed"
    with pytest.raises(M2KRError, match=message):
        export_task(built, "LLaVA", "mteb", tmp_path / "out", images=images, quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_command_exports_what_is_there(awkward, tmp_path, capsys):
    assert main([str(awkward), "--to", "beir", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out' / 'LLaVA'}\n"
    assert "images are left out" in printed.err
    for arguments, message in (
        ([str(awkward), "--tasks", "OKVQA"], "has no test split of OKVQA; it has one of LLaVA"),
        ([str(awkward), "--split", "valid"], "holds no task with a valid split"),
        ([str(tmp_path / "none")], "is not a folder"),
    ):
        assert run_command(main, [*arguments, "--to", "beir", "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


def test_without_folders_the_benchmark_here_is_exported_beside_it(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m2kr-data").symlink_to(built)
    assert main(["--to", "trec", "--tasks", "MSMARCO", "--quiet"]) == 0
    assert Path("export-trec", "MSMARCO").is_dir()
    with pytest.raises(M2KRError, match=r"\bresults\b"):  # which nobody has made here
        main(["--to", "mteb-results", "--quiet"])
