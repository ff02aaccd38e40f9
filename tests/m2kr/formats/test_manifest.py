"""Card and manifest say what is there, and load_dataset reads it."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import load_dataset

from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.check import check
from m2kr.common.files import sha256_of
from m2kr.common.work import move_into_place
from m2kr.dataset import load_task
from m2kr.errors import M2KRError
from m2kr.formats import manifest
from m2kr.formats.manifest import publish, read_manifest
from m2kr.formats.schema import arrow_schema
from m2kr.images.pack import pack_task
from m2kr.images.roots import parse_roots
from m2kr.tasks import TASKS


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_load_dataset_gives_the_published_columns_and_types(built, task, tmp_path):
    for config in (task.data_config, task.passages_config):
        loaded = load_dataset(str(built), config, cache_dir=str(tmp_path))
        suffix = "" if config == task.data_config else "_passages"
        assert list(loaded) == [f"{split}{suffix}" for split in task.splits]
        for table in loaded.values():
            assert table.features.arrow_schema.remove_metadata() == arrow_schema(config)
            assert len(table)


def test_the_card_says_that_the_data_are_made_up(built):
    card = (built / "README.md").read_text(encoding="utf-8")
    assert f"**The data of {', '.join(TASKS)} is made up.**" in card
    assert "- synthetic" in card


def test_the_manifest_holds_what_is_on_disk(built):
    manifest = read_manifest(built)
    assert list(manifest["tasks"]) == list(TASKS)
    listed = set()
    for entry in manifest["tasks"].values():
        assert entry["synthetic"]["generator"] == "m2kr.synthetic"
        assert all(len(source["sha256"]) == 64 for source in entry["sources"].values())
        for splits in entry["configs"].values():
            for facts in splits.values():
                for shard in facts["shards"]:
                    assert sha256_of(built / shard["path"]) == shard["sha256"]
                    listed.add(shard["path"])
    assert listed == {str(path.relative_to(built)) for path in built.rglob("*.parquet")}
    assert str(built) not in json.dumps(manifest)


@pytest.mark.parametrize("known", [True, False], ids=["replaced", "new"])
def test_a_reader_refuses_tables_that_are_just_moved_into_place(built, tmp_path, monkeypatch, known):
    """Between the two moves, queries of one build stand beside passages of another, or of none that is listed."""
    task, out, seen = TASKS["MSMARCO"], tmp_path / "out", []
    entry = read_manifest(built)["tasks"]["MSMARCO"]
    configs = (task.data_config, task.passages_config)

    def made(name):
        return {config: Path(shutil.copytree(built / config, tmp_path / name / config)) for config in configs}

    def moved(work, target):
        move_into_place(work, target)
        seen.append(refusal(out))

    if known:
        publish(out, task, entry, made("first"))
    else:
        shutil.copytree(built / task.data_config, out / task.data_config)
        shutil.copytree(built / task.passages_config, out / task.passages_config)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "move_into_place", moved)
        publish(out, task, entry, made("second"))
    assert len(seen) == 2
    assert all("MSMARCO" in line and str(out) in line and "being replaced" in line for line in seen)
    assert read_manifest(out)["tasks"] == {"MSMARCO": entry}
    assert "unfinished" not in read_manifest(out)
    assert load_task("MSMARCO", out).fingerprint == entry["fingerprint"]


def refusal(out):
    with pytest.raises(M2KRError) as error:
        load_task("MSMARCO", out)
    assert not check(out, [TASKS["MSMARCO"]], quiet=True).clean
    return str(error.value)


def test_what_a_kill_left_unfinished_is_refused_until_that_is_made_again(built, world, tmp_path, monkeypatch):
    task, out = TASKS["OKVQA"], tmp_path / "out"
    build_task(task_inputs(TASKS["MSMARCO"], world), out, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "move_into_place", interrupted)
        for make in (
            lambda: build_task(task_inputs(TASKS["MSMARCO"], world), out, rerun=True, quiet=True),
            lambda: pack_task(built, task, parse_roots([str(world)]), out=out, quiet=True),
        ):
            with pytest.raises(KeyboardInterrupt):
                make()
    assert read_manifest(out)["unfinished"] == {"tasks": ["MSMARCO"], "images": ["OKVQA"]}
    shutil.copytree(built / task.data_config, out / task.data_config)
    shutil.copytree(built / task.passages_config, out / task.passages_config)
    (out / task.images_config).mkdir()
    shutil.copy(
        out / task.data_config / "test-00000-of-00001.parquet",
        out / task.images_config / "images-00000-of-00001.parquet",
    )
    with pytest.raises(M2KRError, match=r"images of OKVQA .* being replaced"):
        load_task(task, out).query_image(0)
    assert "MSMARCO" in refusal(out)
    pack_task(built, task, parse_roots([str(world)]), out=out, quiet=True)
    assert load_task(task, out).query_image(0).size
    assert "MSMARCO" in refusal(out)
    build_task(task_inputs(TASKS["MSMARCO"], world), out, quiet=True)
    assert load_task("MSMARCO", out).fingerprint == read_manifest(built)["tasks"]["MSMARCO"]["fingerprint"]
    assert list(read_manifest(out)) == [*list(read_manifest(built)), "images"]


def interrupted(*_):
    raise KeyboardInterrupt
