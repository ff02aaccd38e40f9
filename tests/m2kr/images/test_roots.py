"""`m2kr.images`: which file a path means, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from m2kr.errors import M2KRError
from m2kr.images.decode import ImageError
from m2kr.images.roots import ImageRoots, parse_roots
from m2kr.tasks import TASKS
from tests.m2kr.archives import archived

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(path: Path, colour: tuple[int, int, int], mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).convert(mode).save(path)
    return path


def colour_of(roots: ImageRoots, path: str) -> object:
    image = roots.open(path)
    assert image.mode == "RGB"
    assert image.size == (6, 4)
    return image.getpixel((0, 0))


# --- where a picture is looked for ----------------------------------------------------------------------------------


def test_roots_are_tried_in_order(tmp_path: Path) -> None:
    paint(tmp_path / "one" / "x.png", RED)
    paint(tmp_path / "two" / "x.png", GREEN)
    paint(tmp_path / "two" / "sub" / "y.png", BLUE)
    roots = ImageRoots([tmp_path / "one", tmp_path / "two"])
    assert colour_of(roots, "x.png") == RED
    assert colour_of(roots, "sub/y.png") == BLUE
    assert colour_of(ImageRoots([tmp_path / "two", tmp_path / "one"]), "x.png") == GREEN


def test_a_task_looks_where_its_release_keeps_images_before_the_root_itself(tmp_path: Path) -> None:
    paint(tmp_path / "coco" / "x.png", RED)
    paint(tmp_path / "x.png", GREEN)
    paint(tmp_path / "y.png", BLUE)
    roots = ImageRoots([tmp_path])
    okvqa = roots.for_task(TASKS["OKVQA"])
    assert colour_of(okvqa, "x.png") == RED
    assert colour_of(okvqa, "y.png") == BLUE
    assert colour_of(roots.for_task(TASKS["EVQA"]), "x.png") == GREEN
    assert colour_of(roots.for_task(TASKS["MSMARCO"]), "x.png") == GREEN


def test_the_root_of_one_task_goes_for_that_task_alone(tmp_path: Path) -> None:
    paint(tmp_path / "general" / "x.png", RED)
    paint(tmp_path / "special" / "x.png", GREEN)
    roots = parse_roots([str(tmp_path / "general"), f"okvqa={tmp_path / 'special'}"])
    assert colour_of(roots.for_task(TASKS["OKVQA"]), "x.png") == GREEN
    assert colour_of(roots.for_task(TASKS["LLaVA"]), "x.png") == RED
    only = parse_roots([f"OKVQA={tmp_path / 'special'}"]).for_task(TASKS["LLaVA"])
    with pytest.raises(ImageError, match=r"x\.png is not in any image root"):
        only.open("x.png")


def test_a_folder_with_an_equals_sign_in_its_name_is_a_root(tmp_path: Path) -> None:
    paint(tmp_path / "size=small" / "x.png", RED)
    assert colour_of(parse_roots([str(tmp_path / "size=small")]), "x.png") == RED


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{}/missing", "missing is not a folder"),
        ("OKVQA={}/missing", "missing is not a folder"),
        ("{}/x.png", "is not a folder"),
        ("OKVQ={}", "there is no task 'OKVQ'. Did you mean OKVQA?"),
    ],
)
def test_roots_that_cannot_be_are_refused(tmp_path: Path, value: str, message: str) -> None:
    paint(tmp_path / "x.png", RED)
    with pytest.raises(M2KRError) as caught:
        parse_roots([value.format(tmp_path)])
    assert message in str(caught.value)


# --- archives -------------------------------------------------------------------------------------------------------


def pack(folder: Path, archive: Path, prefix: str = "") -> Path:
    """An archive of the files of a folder, of the kind its name says."""
    files = sorted(folder.rglob("*.png"))
    return archived(archive, {prefix + path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    paint(tmp_path / "pictures" / "x.png", RED)
    paint(tmp_path / "pictures" / "sub" / "y.png", GREEN)
    return tmp_path / "pictures"


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tgz"])
@pytest.mark.parametrize("prefix", ["", "./", "top/", "coco/"])
def test_an_archive_is_a_root(tmp_path: Path, pictures: Path, suffix: str, prefix: str) -> None:
    roots = parse_roots([str(pack(pictures, tmp_path / f"x.{suffix}", prefix))])
    for task in (TASKS["OKVQA"], TASKS["EVQA"]):
        assert colour_of(roots.for_task(task), "x.png") == RED
        assert colour_of(roots.for_task(task), "./sub//y.png") == GREEN
        for path in ("X.png", "y.png", "sub", ""):
            assert not roots.for_task(task).has(path)
    with pytest.raises(ImageError, match="leaves its root"):
        roots.open("../x.png")


def test_archives_are_found_where_the_releases_keep_images(tmp_path: Path, pictures: Path) -> None:
    root = tmp_path / "root"
    pack(pictures, root / "kvqa" / "KVQAimgs.tar.gz", "KVQAimgs/")
    pack(pictures, root / "coco" / "train2014.zip", "train2014/")
    pack(pictures, root / "coco" / "val2014.tar", "val2014/")
    paint(root / "coco" / "val2014" / "x.png", BLUE)
    roots = parse_roots([str(root)])
    assert colour_of(roots.for_task(TASKS["KVQA"]), "x.png") == RED
    coco = roots.for_task(TASKS["OKVQA"])
    assert colour_of(coco, "train2014/sub/y.png") == GREEN
    assert colour_of(coco, "val2014/sub/y.png") == GREEN
    assert colour_of(coco, "val2014/x.png") == BLUE  # a folder goes before an archive
    assert not roots.for_task(TASKS["EVQA"]).has("x.png")


PUBLISHED = [
    ("OKVQA", "OKVQA/val2014.zip", "val2014/{}", "val2014/{}"),
    ("LLaVA", "LLAVA/train2014.zip", "train2014/{}", "train2014/{}"),
    ("CC", "CC3M/images.zip", "{}", "{}"),
    ("KVQA", "KVQA/KVQAimgs.tar.gz", "KVQAimgs/{}", "{}"),
    ("OVEN", "OVEN/shard04.tar", "04/{}", "04/{}"),
    ("OVEN", "OVEN/shard04.tar", "{}", "04/{}"),
    ("EVQA", "EVQA/inat.zip", "val/00002_P/{}", "inat/val/00002_P/{}"),
    ("EVQA", "EVQA/inat.zip", "inat/val/00002_P/{}", "inat/val/00002_P/{}"),
    ("EVQA", "EVQA/google-landmark.tar", "google-landmark/train/0/3/9/{}", "google-landmark/train/0/3/9/{}"),
    ("Infoseek", "Infoseek/infoseek_val_images.tar", "infoseek_val_images/{}", "{}"),
    ("WIT", "WIT/images.zip.001", "{}", "{}"),
    ("IGLUE", "WIT/images.zip.001", "images/{}", "{}"),
    ("Infoseek", "Infoseek/infoseek_train_images.tar", "infoseek_train_images/{}", "{}"),
    ("OKVQA", "OKVQA/train2014.zip", "train2014/{}", "train2014/{}"),
    # as the sources publish them
    ("KVQA", "kvqa/KVQAimgs.tar.gz", "KVQAimgs/{}", "{}"),
    ("CC", "llava_cc3m/images.zip", "{}", "{}"),
    ("OKVQA", "coco/val2014.zip", "val2014/{}", "val2014/{}"),
    ("OKVQA", "coco/train2014.zip", "train2014/{}", "train2014/{}"),
    ("LLaVA", "coco/train2014.zip", "train2014/{}", "train2014/{}"),
    ("OVEN", "oven/images/shard05.tar", "04/{}", "04/{}"),
    ("OVEN", "oven/images/shard05.tar", "{}", "04/{}"),
    ("Infoseek", "oven/images/shard05.tar", "04/{}", "{}"),
    ("Infoseek", "oven/images/shard05.tar", "{}", "{}"),
    ("EVQA", "evqa/images/train.tar.gz", "train/00002_P/{}", "inat/train/00002_P/{}"),
    ("EVQA", "evqa/images/val.tar.gz", "val/00002_P/{}", "inat/val/00002_P/{}"),
    ("EVQA", "evqa/images/images_007.tar", "0/3/9/{}", "google-landmark/train/0/3/9/{}"),
]


@pytest.mark.parametrize(("task", "archive", "member", "path"), PUBLISHED)
def test_pictures_are_found_in_the_archives_that_are_published(
    tmp_path: Path, task: str, archive: str, member: str, path: str
) -> None:
    name = "oven_04000001.png"
    picture = paint(tmp_path / name, GREEN)
    file = tmp_path / "root" / archive
    file.parent.mkdir(parents=True)
    if ".zip" in archive:
        with zipfile.ZipFile(file, "w") as written:
            written.write(picture, member.format(name))
            written.write(picture, member.format("other"))
    else:
        with tarfile.open(file, "w:gz" if archive.endswith(".gz") else "w") as tar:
            tar.add(picture, member.format(name))
            tar.add(picture, member.format("other"))
    if archive.endswith(".001"):
        content = file.read_bytes()
        for part, start in enumerate(range(0, len(content), 100), start=1):
            file.with_suffix(f".{part:03d}").write_bytes(content[start : start + 100])
    for root in (tmp_path / "root", file.parent):
        if root.name != "images":  # that folder's name says nothing of its task
            assert colour_of(ImageRoots([root]).for_task(TASKS[task]), path.format(name)) == GREEN
    assert colour_of(ImageRoots([], {task: file.parent}).for_task(TASKS[task]), path.format(name)) == GREEN
    with pytest.raises(ImageError, match=f"M2KR_Images, folder {TASKS[task].hub_images}"):
        ImageRoots([tmp_path / "root"]).for_task(TASKS[task]).open("missing.png")


@pytest.mark.parametrize("lost", [2, 5])
def test_an_archive_that_lacks_a_part_says_how_many_there_are(tmp_path: Path, pictures: Path, lost: int) -> None:
    whole = pack(pictures, tmp_path / "images.zip")
    content, step = whole.read_bytes(), len(whole.read_bytes()) // 5 + 1
    for part in range(5):
        whole.with_suffix(f".zip.{part + 1:03d}").write_bytes(content[part * step : (part + 1) * step])
    first = whole.with_suffix(".zip.001")
    assert ImageRoots([first]).has("x.png")
    first.with_suffix(f".{lost:03d}").unlink()
    os.utime(first, (1, 1))
    with pytest.raises(M2KRError, match=f"joined of {lost - 1} part"):
        ImageRoots([first]).has("x.png")


def test_a_task_may_have_several_roots_and_a_folder_of_archives(tmp_path: Path, pictures: Path) -> None:
    pack(pictures / "sub", tmp_path / "shards" / "00.tar", "00/")
    pack(pictures / "sub", tmp_path / "shards" / "01.tar", "01/")
    pack(pictures, tmp_path / "more.zip")
    roots = parse_roots([f"OVEN={tmp_path / 'shards'}", f"OVEN={tmp_path / 'more.zip'}"]).for_task(TASKS["OVEN"])
    assert colour_of(roots, "00/y.png") == colour_of(roots, "01/y.png") == GREEN
    assert colour_of(roots, "x.png") == RED


def test_a_broken_picture_in_an_archive_is_named_with_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x.jpg", "<html>not found</html>")
    with pytest.raises(ImageError, match=r"x\.zip/x\.jpg cannot be decoded as an image \(cannot identify") as caught:
        ImageRoots([tmp_path / "x.zip"]).open("x.jpg")
    assert (caught.value.fault, caught.value.reason) == ("undecodable", "cannot identify image file")


def test_pictures_of_infoseek_are_found_in_the_folders_of_oven(tmp_path: Path, pictures: Path) -> None:
    paint(tmp_path / "oven" / "images" / "04" / "oven_04999999.png", RED)
    paint(tmp_path / "oven" / "images" / "00" / "oven_00000001.png", BLUE)
    pack(tmp_path / "oven" / "images", tmp_path / "x.tar")
    for root in (tmp_path, tmp_path / "x.tar"):
        roots = parse_roots([str(root)])
        assert colour_of(roots.for_task(TASKS["Infoseek"]), "oven_04999999.png") == RED
        assert not roots.for_task(TASKS["OVEN"]).has("oven_04999999.png")  # whose paths have the folder
        assert colour_of(roots.for_task(TASKS["OVEN"]), "04/oven_04999999.png") == RED
        for path in ("oven_04999998.png", "oven_4999999.png", "sub/oven_04999999.png", "oven_04999999"):
            assert not roots.for_task(TASKS["Infoseek"]).has(path)
    paint(tmp_path / "oven" / "images" / "oven_04999999.png", GREEN)
    assert colour_of(parse_roots([str(tmp_path)]).for_task(TASKS["Infoseek"]), "oven_04999999.png") == GREEN


@pytest.mark.parametrize(
    "module", ["m2kr.images.__main__", "m2kr.export.__main__", "m2kr.check", "m2kr.cards", "leaderboard.__main__"]
)
def test_help_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, contextlib, {module} as m\nwith contextlib.suppress(SystemExit): m.main(['--help'])\n"
        "print([n for n in ('polars', 'pyarrow', 'PIL', 'datasets', 'numpy', 'yaml') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "sub/../../secret.png", "sub/../inside.png", "..", "sub\\..\\..\\secret.png", "a\0b.png"],
)
def test_a_path_that_leaves_its_root_is_refused(tmp_path: Path, path: str) -> None:
    paint(tmp_path / "secret.png", RED)
    paint(tmp_path / "root" / "inside.png", GREEN)
    paint(tmp_path / "root" / "sub" / "inside.png", GREEN)
    roots = ImageRoots([tmp_path / "root"])
    for look in (roots.find, roots.has, roots.open):
        with pytest.raises(ImageError, match="leaves its root"):
            look(path)


def test_an_absolute_path_is_refused_even_below_the_root(tmp_path: Path) -> None:
    file = paint(tmp_path / "x.png", RED)
    with pytest.raises(ImageError, match="leaves its root"):
        ImageRoots([tmp_path]).open(str(file))


def test_a_linked_folder_is_followed_and_a_linked_file_only_below_a_root(tmp_path: Path) -> None:
    paint(tmp_path / "secret.png", RED)
    paint(tmp_path / "root" / "real.png", GREEN)
    paint(tmp_path / "root" / "pool" / "1.png", GREEN)
    paint(tmp_path / "disk" / "kept.png", GREEN)
    (tmp_path / "root" / "out.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "disk")
    (tmp_path / "root" / "in.png").symlink_to("real.png")
    (tmp_path / "root" / "sub").mkdir()
    (tmp_path / "root" / "sub" / "pooled.png").symlink_to("../pool/1.png")
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    roots = ImageRoots([tmp_path / "root"])
    with pytest.raises(ImageError, match=r"a link to .*secret\.png.*name .* with --images too") as caught:
        roots.open("out.png")
    assert caught.value.fault == "outside"
    assert colour_of(ImageRoots([tmp_path / "root", tmp_path]), "out.png") == RED  # what the error says helps
    assert colour_of(roots, "folder/kept.png") == GREEN  # a user's own layout
    assert colour_of(roots, "in.png") == GREEN
    assert colour_of(roots, "sub/pooled.png") == GREEN
    assert colour_of(ImageRoots([tmp_path / "alias"]), "in.png") == GREEN


def test_a_snapshot_of_the_hub_s_cache_is_a_root(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--owner--pictures"
    (repository / "refs").mkdir(parents=True)
    kept = paint(repository / "blobs" / "0a1b.png", GREEN)
    kept.rename(kept.with_suffix(""))
    pictures = repository / "snapshots" / "c0ffee" / "OKVQA" / "val2014"
    pictures.mkdir(parents=True)
    (pictures / "x.png").symlink_to("../../../../blobs/0a1b")
    paint(tmp_path / "secret.png", RED)
    (pictures / "y.png").symlink_to(tmp_path / "secret.png")
    roots = ImageRoots([pictures.parents[1]]).for_task(TASKS["OKVQA"])
    assert colour_of(roots, "val2014/x.png") == GREEN
    with pytest.raises(ImageError, match="below no image root"):
        roots.open("val2014/y.png")


@pytest.mark.parametrize("path", ["missing.png", "sub", "", "x.png/y.png", "a" * 300 + ".png", "é車.png"])
def test_a_missing_picture_is_said_with_the_roots_that_lack_it(tmp_path: Path, path: str) -> None:
    paint(tmp_path / "x.png", RED)
    (tmp_path / "sub").mkdir()
    roots = ImageRoots([tmp_path, tmp_path / "other"])
    assert not roots.has(path)
    with pytest.raises(ImageError) as caught:
        roots.open(path)
    assert str(caught.value) == (
        f"the image {path} is not in {tmp_path} or {tmp_path / 'other'}. Name its folder with --images."
    )
