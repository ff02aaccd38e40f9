"""Random images, and files of pictures of every mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODES = {
    "RGB": "PNG",
    "P": "PNG",
    "P opaque": "PNG",
    "P of GIF": "GIF",
    "RGBA": "PNG",
    "LA": "PNG",
    "PA": "TIFF",
    "1": "PNG",
    "L": "PNG",
    "I;16": "PNG",
    "CMYK": "TIFF",
    "MPO": "MPO",
}
"""Picture -> the format of its file. How the 16 bits of I;16 become 8 is not looked at, only that all do it alike."""


def random_image(seed: int, size: tuple[int, int] = (30, 20)) -> Image.Image:
    """Return an image of noise; ``size`` is (width, height)."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(values.astype(np.uint8))


def random_images(count: int) -> list[Image.Image]:
    """Return images of several shapes."""
    sizes = [(60, 40), (40, 60), (32, 32), (90, 33)]
    return [random_image(row, sizes[row % 4]) for row in range(count)]


def write_picture(name: str, path: Path) -> None:
    """Write a picture that is transparent in part, or has a transparent colour in opaque places, if its mode can be."""
    rng = np.random.default_rng(len(name))
    colours = rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    colours[..., 3] = np.where(colours[..., 3] < 128, 0, 255)
    image = Image.fromarray(colours, "RGBA")
    more: dict[str, Any] = {}
    if name == "I;16":
        image = Image.fromarray(rng.integers(0, 1 << 16, (20, 30), dtype=np.uint16))
    elif name == "MPO":
        image = image.convert("RGB")
        more = {"save_all": True, "append_images": [Image.new("RGB", image.size, "red")]}
    else:
        palette = name.split()[0] == "P"
        image = image.convert("RGB").convert("P") if palette else image.convert(name)
        if palette and name != "P opaque":
            more = {"transparency": int(np.asarray(image)[3, 4])}
    image.save(path, MODES[name], **more)
