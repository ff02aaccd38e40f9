"""Pictures of passages: brought to built tables, checked, packed, and read by load_task and load_dataset."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.check import main as check
from m2kr.dataset import load_task
from m2kr.errors import M2KRError, run_command
from m2kr.formats.manifest import is_of_its_hashes, read_manifest
from m2kr.formats.schema import arrow_schema
from m2kr.images.__main__ import main
from m2kr.images.attach import attach
from m2kr.images.pack import pack_task
from m2kr.images.packed import PackedImages
from m2kr.images.roots import image_paths, parse_roots
from m2kr.tasks import TASKS
from tests.kills import Kill, killed_everywhere

TASK = TASKS["OVEN"]
Listed = Callable[..., Path]


@pytest.fixture
def data(built: Path, tmp_path: Path) -> Path:
    """A benchmark of OVEN alone that a test may change."""
    out = tmp_path / "data"
    for config in (TASK.data_config, TASK.passages_config):
        shutil.copytree(built / config, out / config)
    manifest = read_manifest(built)
    manifest["tasks"] = {TASK.key: manifest["tasks"][TASK.key]}
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return out


@pytest.fixture
def passages(data: Path) -> pl.DataFrame:
    return load_task(TASK, data).passages


@pytest.fixture
def listed(tmp_path: Path) -> Listed:
    """Write a list of passages: objects, or lines as they are."""

    def write(*lines: dict[str, Any] | str, name: str = "list.jsonl") -> Path:
        content = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        path = tmp_path / name
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
        return path

    return write


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def lines_of(passages: pl.DataFrame) -> list[dict[str, Any]]:
    """The published form, of all passages but the first, with one whose picture is lacking and one that is unknown."""
    rows = list(passages.select("passage_id", passage_text="passage_content").iter_rows(named=True))[1:]
    pictured = [{**row, "passage_image_path": f"pictures/{number}.jpg"} for number, row in enumerate(rows)]
    pictured[-1]["passage_image_path"] = None
    return [*pictured, {"passage_id": "nobody", "passage_text": "x", "passage_image_path": "pictures/x.jpg"}]


def test_a_list_of_the_published_form_becomes_a_column(
    data: Path, passages: pl.DataFrame, listed: Listed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, lines = read_manifest(data)["tasks"]["OVEN"], lines_of(passages)
    path = listed(*lines, name="oven.jsonl.gz")
    command = ["attach", "--data", str(data), "--task", "oven", "--passages", str(path)]
    assert run_command(main, command) == 0
    out, err = capsys.readouterr()
    assert f"test_passages: {len(lines) - 2:,} passages have a picture" in out
    assert f"1 of {len(lines)} listed passages are no passages of OVEN" in err
    assert f"1 of {len(lines)} listed passages have no picture" in err

    loaded = load_task(TASK, data)
    assert loaded.has_passage_images
    assert loaded.passages.drop("img_path").equals(passages)
    wanted = {line["passage_id"]: line["passage_image_path"] for line in lines}
    for name, found in loaded.passages.select("passage_id", "img_path").iter_rows():
        assert found == wanted.get(name)
    entry = read_manifest(data)["tasks"]["OVEN"]
    assert is_of_its_hashes(entry)
    assert loaded.fingerprint == entry["fingerprint"] != before["fingerprint"]
    assert all(entry[name] == before[name] for name in ("options", "sources", "counts", "synthetic"))
    told = entry["passage_images"]
    assert (told["of"], told["list"]["file"]) == (before["fingerprint"], "oven.jsonl.gz")
    assert (told["counts"]["unknown"], told["counts"]["without_picture"]) == (1, 1)
    table = load_dataset(str(data), "OVEN_passages", cache_dir=str(tmp_path / "cache"))
    assert table["test_passages"]["img_path"][:] == loaded.passages["img_path"].to_list()
    assert '"OVEN_passages/test_passages/img_path"' in (data / "croissant.json").read_text(encoding="utf-8")
    assert not (data / ".build").exists()


def test_the_bytes_are_the_same_whatever_was_attached_before(
    data: Path, passages: pl.DataFrame, listed: Listed, tmp_path: Path
) -> None:
    other, path = listed(*lines_of(passages)[:3], name="other.jsonl"), listed(*lines_of(passages))
    twice = Path(shutil.copytree(data, tmp_path / "twice"))
    attach(data, TASK, path, quiet=True)
    attach(twice, TASK, other, quiet=True)
    attach(twice, TASK, path, quiet=True)
    assert files(twice) == files(data)
    times = {path: path.stat().st_mtime_ns for path in data.rglob("*.parquet")}
    attach(data, TASK, path, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    attach(data, TASK, path, rerun=True, quiet=True)
    assert files(twice) == files(data)


def test_a_kill_at_any_time_leaves_what_the_next_run_makes_whole(
    data: Path, passages: pl.DataFrame, listed: Listed, tmp_path: Path
) -> None:
    path = listed(*lines_of(passages))
    whole = Path(shutil.copytree(data, tmp_path / "whole"))
    attach(whole, TASK, path, quiet=True)
    kept = shutil.copytree(data, tmp_path / "kept")

    def run(kill: Kill) -> None:
        attach(data, TASK, path, quiet=True)

    for _ in killed_everywhere(run):
        attach(data, TASK, path, quiet=True)
        assert files(data) == files(whole)
        shutil.rmtree(data)
        shutil.copytree(kept, data)
    assert files(data) == files(whole)


def test_a_build_keeps_them_until_it_is_made_again(
    data: Path, passages: pl.DataFrame, listed: Listed, world: Path
) -> None:
    plain = read_manifest(data)["tasks"]["OVEN"]["fingerprint"]
    attach(data, TASK, listed(*lines_of(passages)), quiet=True)
    build_task(task_inputs(TASK, world), data, rerun=False, quiet=True)
    assert load_task(TASK, data).has_passage_images
    build_task(task_inputs(TASK, world), data, quiet=True)
    assert not load_task(TASK, data).has_passage_images
    assert load_task(TASK, data).fingerprint == plain
    assert "img_path" not in load_task(TASK, data).passages.columns


def test_a_passage_may_be_named_by_its_title(illustrated: Path) -> None:
    passages = load_task("Infoseek", illustrated).passages
    assert passages["img_path"].null_count() == 0
    assert passages.group_by("title").agg(pl.col("img_path").n_unique())["img_path"].max() == 1
    assert passages["img_path"].n_unique() == passages["title"].n_unique()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passage_text": "another"}, r"line 2: passage '.*' has another text in .* \(1 of .*--other-texts"),
        ({"passage_image_path": "https://example.org/a.jpg"}, r"line 2: the picture '.*a\.jpg' is an address.*fetch"),
        ({"passage_image_path": "../a.jpg"}, r"line 2: the picture '\.\./a\.jpg' does not stay below an image root"),
        ({"passage_image_path": "/a.jpg"}, r"line 2: the picture '/a\.jpg' does not stay below"),
        ({"passage_image_path": 7}, "line 2: passage_image_path is not a string"),
        ({"passage_id": None}, "line 2: it has neither passage_id nor title"),
        ({"passage_id": None, "title": "x"}, "line 2: it names a passage by its title, and those of OVEN have none"),
    ],
)
def test_a_list_that_cannot_be_right_is_refused_and_nothing_is_written(
    data: Path, passages: pl.DataFrame, listed: Listed, change: dict[str, Any], message: str
) -> None:
    lines = lines_of(passages)
    lines[1] |= change
    before = files(data)
    with pytest.raises(M2KRError, match=message):
        attach(data, TASK, listed(*lines), quiet=True)
    assert files(data) == before


def test_lists_of_something_else_are_refused(data: Path, passages: pl.DataFrame, listed: Listed) -> None:
    line = lines_of(passages)[0]
    for lines, message in (
        ([line, {**line, "passage_image_path": "b.jpg"}], "line 2: .* has another picture in line 1"),
        (["[1]"], "line 1: it is not an object with"),
        (["{"], "line 1: invalid JSON"),
        ([], "names no passages"),
        ([{**line, "passage_id": "x"}], "names no passage of OVEN in .*: passage_id 'x' of line 1 is none"),
    ):
        with pytest.raises(M2KRError, match=message):
            attach(data, TASK, listed(*lines), quiet=True)
    with pytest.raises(M2KRError, match="is no file"):
        attach(data, TASK, data / "nothing", quiet=True)


def test_another_text_is_let_be_where_that_is_asked_for(data: Path, passages: pl.DataFrame, listed: Listed) -> None:
    lines = lines_of(passages)
    lines[1]["passage_text"] = "another"
    facts = attach(data, TASK, listed(*lines), other_texts=True, quiet=True)
    assert facts["counts"]["other_text"] == 1
    row = load_task(TASK, data).passages.row(by_predicate=pl.col("passage_id") == lines[1]["passage_id"], named=True)
    assert row["img_path"] == lines[1]["passage_image_path"]


def test_tasks_that_take_none_and_tables_that_are_not_known_are_refused(
    built: Path, data: Path, passages: pl.DataFrame, listed: Listed
) -> None:
    path = listed(*lines_of(passages))
    with pytest.raises(M2KRError, match=r"passages of WIT have a column img_path.* OVEN, OKVQA, Infoseek, EVQA"):
        attach(built, TASKS["WIT"], path, quiet=True)
    with pytest.raises(M2KRError, match="has no manifest of OKVQA"):
        attach(data, TASKS["OKVQA"], path, quiet=True)
    shard = next((data / TASK.data_config).glob("test-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(M2KRError, match="not those of its manifest"):
        attach(data, TASK, path, quiet=True)
    (data / "manifest.json").unlink()
    with pytest.raises(M2KRError, match="has no manifest of OVEN"):
        attach(data, TASK, path, quiet=True)
    assert not (data / ".build").exists()


@pytest.mark.parametrize("key", ["WIT", "IGLUE", "KVQA", "LLaVA", "CC"])
def test_the_pictures_that_other_passages_name_are_those_of_their_own_queries(built: Path, key: str) -> None:
    """They would give each passage away, so that nobody is given them."""
    split = TASKS[key].splits[-1]
    data = load_task(key, built, split)
    pairs = data.queries.select("img_path", passage_id="pos_item_ids").explode("passage_id")
    both = pairs.join(data.passages.select("passage_id", of="img_path"), on="passage_id")
    assert both.height
    assert (both["img_path"] == both["of"]).all()
    assert not data.has_passage_images


# --- checked and packed ---------------------------------------------------------------------------------------------


def test_check_counts_those_that_are_missing_and_those_that_give_the_passage_away(
    illustrated: Path, world: Path, passage_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [f"--images={world}", f"--images={passage_pictures}"]
    assert run_command(check, [str(illustrated), "--tasks", "OVEN", *roots, "--quiet"]) == 0
    data = tmp_path / "data"
    for config in ("OVEN_data", "OVEN_passages"):
        shutil.copytree(illustrated / config, data / config)
    capsys.readouterr()
    report = tmp_path / "report.json"
    command = [str(data), "--tasks", "OVEN", "--report", str(report), "--quiet"]
    assert run_command(check, [*command, f"--images={world}"]) == 1
    found = json.loads(report.read_text())
    everything = {path for _, _, path in image_paths(data, TASK) if path.startswith("passage_images/")}
    assert found["counts"]["OVEN"] == {"missing image": len(everything)}
    assert everything
    assert found["problems"][0]["where"].startswith("OVEN_passages/")
    assert ", passage 'Q" in capsys.readouterr().out

    queries = load_task("OVEN", data).queries
    positive = queries["pos_item_ids"][0][0]
    shard = next((data / "OVEN_passages").glob("test_passages-*"))
    for path, says in (
        (queries["img_path"][0], "1 queries ask with the picture of a positive"),
        ("../x.jpg", "the image path leaves its root"),
    ):
        changed = pl.when(pl.col("passage_id") == positive).then(pl.lit(path)).otherwise("img_path")
        table = pl.read_parquet(shard).with_columns(img_path=changed).to_arrow()
        pq.write_table(table.cast(arrow_schema("OVEN_passages", passage_images=True)), shard)
        assert run_command(check, command) == 1
        assert says in report.read_text()


def test_a_column_of_another_type_is_refused(illustrated: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for config in ("OVEN_data", "OVEN_passages"):
        shutil.copytree(illustrated / config, data / config)
    shard = next((data / "OVEN_passages").glob("test_passages-*"))
    pl.read_parquet(shard).with_columns(img_path=pl.lit(7)).write_parquet(shard)
    with pytest.raises(M2KRError, match="column img_path has type"):
        load_task("OVEN", data)


def test_they_are_packed_after_those_of_queries_and_found_in_the_shards(
    data: Path, world: Path, passage_pictures: Path
) -> None:
    pack_task(data, TASK, parse_roots([str(world)]), out=data, quiet=True)
    queries = PackedImages(data / TASK.images_config).paths()
    attach(data, TASK, passage_pictures / "passage_images" / "OVEN.jsonl", quiet=True)
    with pytest.raises(M2KRError, match="images of OVEN are not in"):
        pack_task(data, TASK, parse_roots([str(world)]), out=data, quiet=True)
    roots = parse_roots([str(world), str(passage_pictures)])
    pack_task(data, TASK, roots, out=data, quiet=True)
    found = PackedImages(data / TASK.images_config).paths()
    assert found[: len(queries)] == queries
    loaded = load_task(TASK, data)
    paths = loaded.passages["img_path"].drop_nulls()
    assert set(paths) <= set(found[len(queries) :])
    assert loaded.images is not None
    file = loaded.images.find(paths[0])
    assert file is not None
    assert file.read() == (passage_pictures / paths[0]).read_bytes()
