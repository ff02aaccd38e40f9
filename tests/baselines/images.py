"""Random images."""

from __future__ import annotations

import numpy as np
from PIL import Image


def random_image(seed: int, size: tuple[int, int] = (30, 20)) -> Image.Image:
    """Return an image of noise; ``size`` is (width, height)."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(values.astype(np.uint8))


def random_images(count: int) -> list[Image.Image]:
    """Return images of several shapes."""
    sizes = [(60, 40), (40, 60), (32, 32), (90, 33)]
    return [random_image(row, sizes[row % 4]) for row in range(count)]
