"""`m2kr.images`: which file a path means, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from m2kr.errors import M2KRError
from m2kr.images.decode import MAX_PIXELS, ImageError
from m2kr.images.roots import ImageRoots, parse_roots
from m2kr.tasks import TASKS
from tests.m2kr.pictures import png_header

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
    archive.parent.mkdir(parents=True, exist_ok=True)
    files = [(path, prefix + path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*.png"))]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for path, name in files:
                zipped.write(path, name)
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix in (".gz", ".tgz") else "w") as tar:
            for path, name in files:
                tar.add(path, name)
    return archive


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


@pytest.mark.parametrize("module", ["m2kr.images.__main__", "m2kr.export.__main__", "m2kr.check", "m2kr.cards"])
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


def test_a_linked_folder_is_followed_and_a_linked_file_only_within_its_folder(tmp_path: Path) -> None:
    paint(tmp_path / "secret.png", RED)
    paint(tmp_path / "root" / "real.png", GREEN)
    paint(tmp_path / "disk" / "kept.png", GREEN)
    (tmp_path / "root" / "out.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "disk")
    (tmp_path / "root" / "in.png").symlink_to("real.png")
    (tmp_path / "alias").symlink_to(tmp_path / "root")
    roots = ImageRoots([tmp_path / "root"])
    with pytest.raises(ImageError, match="a link that leaves its folder"):
        roots.open("out.png")
    assert colour_of(roots, "folder/kept.png") == GREEN  # a user's own layout
    assert colour_of(roots, "in.png") == GREEN
    assert colour_of(ImageRoots([tmp_path / "alias"]), "in.png") == GREEN


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


# --- what is decoded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "CMYK"])
def test_every_mode_comes_as_rgb(tmp_path: Path, mode: str) -> None:
    paint(tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"), (255, 255, 255), mode)
    assert colour_of(ImageRoots([tmp_path]), "x.jpg" if mode == "CMYK" else "x.png") == (255, 255, 255)


def test_a_palette_s_transparent_colour_is_forgotten(tmp_path: Path) -> None:
    """Else what looks for it afterwards takes opaque pixels of that colour for transparent (Pillow 13)."""
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 0, 0, 200, 0, 0])
    picture.putdata([0, 1])
    picture.save(tmp_path / "x.png", transparency=0)
    opened = ImageRoots([tmp_path]).open("x.png")
    assert "transparency" not in opened.info
    assert [opened.convert("RGBA").getpixel((x, 0)) for x in (0, 1)] == [(200, 0, 0, 255)] * 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(MAX_PIXELS // 1000 + 1, 1000), (60_000, 60_000), (1 << 30, 1 << 30)])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(width, height))
    with pytest.raises(ImageError, match=r"bomb\.png.*pixels") as caught:
        ImageRoots([tmp_path]).open("bomb.png")
    assert "\n" not in str(caught.value)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def garble(content: bytes) -> bytes:
    return content[:40] + bytes(len(content) - 40)


# In the other formats zeros are pixels.
DAMAGES = [(suffix, cut) for suffix in (".jpg", ".png", ".webp", ".gif", ".bmp", ".ppm")]
DAMAGES += [(suffix, garble) for suffix in (".jpg", ".png")]
DAMAGES += [(".jpg", lambda _: b""), (".jpg", lambda _: b"<html>not found</html>")]


@pytest.mark.parametrize(("suffix", "damage"), DAMAGES)
def test_a_broken_picture_is_an_error_that_names_the_file(
    tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / f"x{suffix}"
    noise = bytes(value * 37 % 251 for value in range(64 * 48 * 3))
    Image.frombytes("RGB", (64, 48), noise).save(file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ImageError) as caught:
        ImageRoots([tmp_path]).open(file.name)
    assert str(caught.value).startswith(f"{file} cannot be decoded as an image (")


def test_what_a_decoder_raises_is_always_an_image_error(tmp_path: Path) -> None:
    # Pillow reads this header with int(), which raises ValueError.
    (tmp_path / "x.ppm").write_bytes(b"P6\n4x 3\n255\n" + bytes(36))
    with pytest.raises(ImageError, match="cannot be decoded"):
        ImageRoots([tmp_path]).open("x.ppm")


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("started"))
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="cannot identify"):
        ImageRoots([tmp_path]).open("x.jpg")


def test_a_file_too_large_for_a_picture_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(ImageError, match="no picture"):
        ImageRoots([tmp_path]).open("x.jpg")
