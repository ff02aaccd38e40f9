"""`m2kr.images`: which file a path means, and what is refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from m2kr.errors import M2KRError
from m2kr.images import MAX_PIXELS, ImageError, ImageRoots, parse_roots
from m2kr.tasks import TASKS

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


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be so large."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 8) + b"IDAT" + bytes(12)


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
