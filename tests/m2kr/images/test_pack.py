"""Images in shards: written once, whole, the same bytes each time, and read by load_task and load_dataset."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
from datasets import Image, load_dataset

from m2kr.build.inputs import task_inputs
from m2kr.build.task import build_task
from m2kr.dataset import load_task
from m2kr.errors import M2KRError, run_command
from m2kr.formats.manifest import read_manifest
from m2kr.images import pack
from m2kr.images.__main__ import main
from m2kr.images.decode import ImageError
from m2kr.images.pack import pack_task
from m2kr.images.packed import PackedImages
from m2kr.images.roots import ImageRoots, image_paths, parse_roots
from m2kr.tasks import TASKS

TASK = TASKS["OKVQA"]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(pack, "SHARD_BYTES", 60_000)
    monkeypatch.setattr(pack, "GROUP_BYTES", 20_000)


def command(data, images, *arguments):
    return run_command(main, ["pack", "--data", str(data), "--images", str(images), "--quiet", *arguments])


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_image_is_packed_once_with_its_bytes_test_first(data, world, small):
    pack_task(data, TASK, ImageRoots([world]), out=data, quiet=True)
    named = list(dict.fromkeys(path for _, _, path in image_paths(data, TASK)))
    rows = pl.read_parquet(data / "OKVQA_images" / "*.parquet")
    assert rows["img_path"].to_list() == named
    for path, image in rows.iter_rows():
        assert image == {"bytes": (world / "coco" / path).read_bytes(), "path": path.rsplit("/", 1)[1]}
    test = set(pl.read_parquet(data / "OKVQA_data" / "test-*.parquet")["img_path"])
    assert set(named[: len(test)]) == test
    names = sorted(path.name for path in (data / "OKVQA_images").iterdir())
    assert names == [f"images-{n:05d}-of-{len(names):05d}.parquet" for n in range(len(names))]
    assert len(names) > 3
    assert not (data / ".build").exists()


def test_load_dataset_decodes_them(data, world, tmp_path):
    assert command(data, world) == 0
    loaded = load_dataset(str(data), "OKVQA_images", cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["images"]
    assert isinstance(loaded["images"].features["image"], Image)
    row = loaded["images"][3]
    assert row["image"].size == ImageRoots([world / "coco"]).open(row["img_path"]).size


def test_the_bytes_are_the_same_each_time_and_wherever_the_images_come_from(data, world, small, tmp_path):
    pack_task(data, TASK, ImageRoots([world]), out=data, quiet=True)
    archive = shutil.make_archive(str(tmp_path / "coco"), "tar", world / "coco")
    pack_task(data, TASK, parse_roots([archive]), out=tmp_path / "other", quiet=True)
    assert shards(tmp_path / "other" / "OKVQA_images") == shards(data / "OKVQA_images")
    # Where there is no manifest, no card is made.
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["OKVQA_images"]


def test_manifest_card_and_metadata_know_them_and_a_rebuild_keeps_them(data, world):
    assert command(data, world) == 0
    before = read_manifest(data)["images"]["OKVQA"]
    build_task(task_inputs(TASK, world), data, quiet=True)
    assert read_manifest(data)["images"]["OKVQA"] == before
    assert "config_name: OKVQA_images" in (data / "README.md").read_text(encoding="utf-8")
    assert '"OKVQA_images/images"' in (data / "croissant.json").read_text(encoding="utf-8")


def test_what_is_packed_is_not_packed_again_unless_asked(data, world, capsys):
    assert command(data, world) == 0
    shard = next((data / "OKVQA_images").iterdir())
    first = shard.stat().st_mtime_ns
    assert command(data, world) == 0
    assert shard.stat().st_mtime_ns == first
    assert command(data, world, "--rerun") == 0
    assert shard.stat().st_mtime_ns != first
    assert capsys.readouterr().out.count("OKVQA_images: ") == 3


def test_a_shard_of_another_size_is_packed_again(data, world, small):
    assert command(data, world) == 0
    before = shards(data / "OKVQA_images")
    path = sorted((data / "OKVQA_images").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-1])
    assert command(data, world) == 0
    assert shards(data / "OKVQA_images") == before


def test_a_run_after_a_kill_keeps_the_finished_shards(data, world, small, monkeypatch):
    write, done = pack.write_shard, []

    def killed(path, *given, **named):
        if len(done) == 2:
            raise KeyboardInterrupt
        write(path, *given, **named)
        done.append(path.name)

    monkeypatch.setattr(pack, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        pack_task(data, TASK, ImageRoots([world]), out=data, quiet=True)
    assert not (data / "OKVQA_images").exists()
    done.clear()
    monkeypatch.setattr(pack, "write_shard", lambda *a, **named: (write(*a, **named), done.append(a[0].name)))
    pack_task(data, TASK, ImageRoots([world]), out=data, quiet=True)
    assert done[0].startswith("images-00002-of-")
    pack_task(data, TASK, ImageRoots([world]), out=data.parent / "whole", quiet=True)
    assert shards(data.parent / "whole" / "OKVQA_images") == shards(data / "OKVQA_images")


def test_a_kill_leaves_nothing_half_written(data, world):
    arguments = [sys.executable, "-m", "m2kr.images", "pack", "--data", str(data), "--images", str(world)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (data / ".build").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (data / "OKVQA_images").exists() or "OKVQA" in str(read_manifest(data).get("images"))
    assert command(data, world) == 0
    assert not (data / ".build").exists()
    assert len(PackedImages(data / "OKVQA_images").paths()) == read_manifest(data)["images"]["OKVQA"]["rows"]


def test_missing_images_are_counted_and_named_or_left_out(data, world, tmp_path, capsys):
    shutil.copytree(world / "coco", tmp_path / "coco")
    name = next(path for _, _, path in image_paths(data, TASK))
    (tmp_path / "coco" / name).unlink()
    assert command(data, tmp_path) == 2
    printed = capsys.readouterr().err
    assert "1 of " in printed
    assert repr(name) in printed
    assert not (data / "OKVQA_images").exists()
    assert command(data, tmp_path, "--allow-missing") == 0
    assert name not in PackedImages(data / "OKVQA_images").paths()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "MSMARCO"], "MSMARCO asks without images"),
        (["--tasks", "EVQA"], "EVQA is not in"),
        (["--images", "nowhere"], "is not a folder"),
        (["--data", "nowhere"], "holds no task"),
    ],
)
def test_a_wrong_argument_is_explained(data, world, capsys, arguments, message):
    assert command(data, world, *arguments) == 2
    assert message in capsys.readouterr().err


def test_evaluation_reads_packed_images_unless_told_of_others(data, world, small):
    assert load_task("OKVQA", data).images is None
    pack_task(data, TASK, ImageRoots([world]), out=data, quiet=True)
    loaded = load_task("OKVQA", data)
    other = load_task("OKVQA", data, images=world)
    for row in (0, 5, 29, 0):
        assert loaded.query_image(row).tobytes() == other.query_image(row).tobytes()
    assert str(loaded.images) == str(data / "OKVQA_images")
    assert str(other.images) != str(loaded.images)
    assert load_task("MSMARCO", data).images is None
    path = loaded.queries["img_path"][0]
    assert pickle.loads(pickle.dumps(loaded.images)).open(path).tobytes() == loaded.images.open(path).tobytes()
    with pytest.raises(ImageError, match="is not in"):
        loaded.images.open("val2014/none.jpg")
    with pytest.raises(ImageError, match="leaves its root"):
        loaded.images.open("../x.jpg")


def test_shards_that_are_damaged_or_missing_are_named(data, world, small):
    pack_task(data, TASK, ImageRoots([world]), out=data, quiet=True)
    paths = sorted((data / "OKVQA_images").iterdir())
    image = PackedImages(data / "OKVQA_images").paths()[0]
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[:1000])
    with pytest.raises(ImageError, match=r"images-00000-of-.* is not the file that manifest.json lists: it has 1,000"):
        load_task("OKVQA", data).images.open(image)
    load_task("OKVQA", data)  # which may not need them
    (data / "manifest.json").unlink()
    with pytest.raises(ImageError, match=r"images-00000-of-.* could not be read"):
        load_task("OKVQA", data).images.open(image)
    paths[0].unlink()
    with pytest.raises(ImageError, match="of its"):
        load_task("OKVQA", data).images.open(image)


def test_the_hash_of_a_shard_is_compared_when_it_is_read_unless_trusted(data, world, small):
    pack_task(data, TASK, ImageRoots([world]), out=data, quiet=True)
    images = PackedImages(data / "OKVQA_images").paths()
    last = sorted((data / "OKVQA_images").iterdir())[-1]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    loaded = load_task("OKVQA", data)
    assert loaded.images.open(images[0])  # of the first shard
    with pytest.raises(ImageError, match=rf"{last.name} is not the file that manifest.json lists.*images pack --rerun"):
        loaded.images.open(images[-1])
    with pytest.raises(ImageError, match=r"is not the file"):
        pickle.loads(pickle.dumps(loaded.images)).open(images[-1])
    found = load_task("OKVQA", data, trust=True).images.find(images[-1])
    assert found.read()
    assert pickle.loads(pickle.dumps(load_task("OKVQA", data, trust=True).images)).find(images[-1]).read()


def test_packed_images_that_change_while_they_are_read_are_noticed(data, world, small):
    pack_task(data, TASK, ImageRoots([world]), out=data, quiet=True)
    loaded = load_task("OKVQA", data)
    path = sorted((data / "OKVQA_images").iterdir())[0]
    os.utime(path, ns=(0, 10**18))
    loaded.check_unchanged()  # none was read yet
    loaded.query_image(0)
    loaded.check_unchanged()
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(M2KRError, match=r"images-00000-of-.* changed while it was used"):
        loaded.check_unchanged()


def test_a_null_image_is_an_error(tmp_path):
    folder = tmp_path / "KVQA_images"
    folder.mkdir()
    pl.DataFrame({"img_path": ["x.jpg"], "image": [None]}).write_parquet(folder / "images-00000-of-00001.parquet")
    with pytest.raises(ImageError):
        ImageRoots([], finders=[PackedImages(folder)]).open("x.jpg")
