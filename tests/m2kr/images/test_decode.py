"""What is decoded of a picture, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from m2kr.images.decode import MAX_PIXELS, ImageError, ImageFile, decode
from m2kr.images.members import MAX_MEMBER_BYTES
from m2kr.images.roots import ImageRoots
from tests.m2kr.pictures import png_header

GREY = np.linspace(0, 1, 24).reshape(4, 6)


def decoded(picture: Image.Image, kind: str, **options: object) -> Image.Image:
    picture.save(file := io.BytesIO(), kind, **options)
    return decode(ImageFile(f"x.{kind}", len(file.getvalue()), file.getvalue))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "CMYK"])
def test_every_mode_comes_as_rgb(mode: str) -> None:
    image = decoded(Image.new("RGB", (6, 4), "white").convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 4), (255, 255, 255))
    assert "scaled" not in image.info


def test_a_palette_s_transparent_colour_is_forgotten(tmp_path: Path) -> None:
    """Else what looks for it afterwards takes opaque pixels of that colour for transparent (Pillow 13)."""
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 0, 0, 200, 0, 0])
    picture.putdata([0, 1])
    picture.save(tmp_path / "x.png", transparency=0)
    opened = ImageRoots([tmp_path]).open("x.png")
    assert "transparency" not in opened.info
    assert [opened.convert("RGBA").getpixel((x, 0)) for x in (0, 1)] == [(200, 0, 0, 255)] * 2


@pytest.mark.parametrize(
    ("numbers", "kind", "options", "said"),
    [
        (np.round(GREY * 65535).astype(np.uint16), "PNG", {}, "16 bits"),
        (np.round(GREY * 65535).astype(np.uint16), "TIFF", {}, "16 bits"),
        (np.round(GREY * 65535).astype(np.uint16), "TIFF", {"big_endian": True}, "16 bits"),
        (np.round(GREY * 65535).astype(np.uint16), "PPM", {}, "16 bits"),
        (GREY.astype(np.float32), "TIFF", {}, "floats"),
    ],
)
def test_numbers_of_more_than_8_bits_are_scaled_and_not_clipped(
    numbers: np.ndarray, kind: str, options: dict[str, object], said: str
) -> None:
    image = decoded(Image.fromarray(numbers), kind, **options)
    assert image.mode == "RGB"
    assert image.info["scaled"] == said
    assert np.abs(np.asarray(image)[..., 0] - GREY * 255).max() <= 1
    assert len(np.unique(np.asarray(image))) == GREY.size


@pytest.mark.parametrize(
    "numbers",
    [
        (GREY * 255).astype(np.float32),
        (GREY - 0.5).astype(np.float32),
        np.full((4, 6), np.nan, np.float32),
        (GREY * 255).astype(np.int32),
        (GREY * 1e6).astype(np.int32),
    ],
)
def test_numbers_that_nothing_says_the_white_of_are_refused(numbers: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"x\.TIFF.*nothing says what is white.*8 bits") as caught:
        decoded(Image.fromarray(numbers), "TIFF")
    assert caught.value.fault == "undecodable"


@pytest.mark.parametrize("remark", ["profile", "text", "international text"])
def test_a_png_with_megabytes_of_remarks_is_read_without_them(remark: str) -> None:
    picture = Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
    long, info = b"x" * (3 << 20), PngInfo()
    if remark == "text":
        info.add_text("Comment", long.decode(), zip=True)
    if remark == "international text":
        info.add_itxt("Comment", long.decode(), zip=True)
    image = decoded(picture, "PNG", pnginfo=info, **({"icc_profile": long} if remark == "profile" else {}))
    assert np.array_equal(np.asarray(image), np.asarray(picture))


def test_a_damaged_png_is_not_mended_by_that() -> None:
    info = PngInfo()
    info.add_text("Comment", "x" * (3 << 20), zip=True)
    Image.new("RGB", (64, 48)).save(file := io.BytesIO(), "PNG", pnginfo=info)
    broken = file.getvalue()[:-40]
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(ImageFile("x.png", len(broken), lambda: broken))


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
        file.truncate(MAX_MEMBER_BYTES + 1)
    with pytest.raises(ImageError, match="no picture"):
        ImageRoots([tmp_path]).open("x.jpg")
