"""Inputs of PreFLMR: what a text with pictures may look like, and the tensors of a batch of them.

An input is a text, or a mapping with ``text`` and ``image``. An image is a picture of Pillow, a uint8 array that
`Pictures.prepare` made of one, or a list of either: regions of interest (FLMR, section 3.2), the whole picture first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
import torch
from PIL import Image

from baselines.common.clip_pixels import ClipPixels, Pixels
from baselines.preflmr.pictures import Pictures
from m2kr.errors import M2KRError

Pictured: TypeAlias = str | Mapping[str, Any]


class Features(TypedDict, total=False):
    """A batch, as sentence-transformers hands it from one step to the next.

    Attributes:
        input_ids: ``(n, tokens)`` int64.
        attention_mask: ``(n, tokens)`` int64, 1 where the text encoder attends.
        pixel_values: ``(n, regions, 3, height, width)``, if the batch has pictures.
        picture_mask: ``(n, regions)`` bool, false for what only fills up; missing where nothing does.
        query_expansion_positions: ``(n, tokens)`` bool, tokens of a query that count although nothing attends to them.
            sentence-transformers cuts other such tokens off when it splits a batch.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pixel_values: torch.Tensor
    picture_mask: torch.Tensor
    query_expansion_positions: torch.Tensor


def text_of(row: int, item: Pictured) -> str:
    """Return the text of an input; a picture may stand alone.

    Raises:
        M2KRError: the input is neither a text nor a mapping with one.
    """
    text = item.get("text") or "" if isinstance(item, Mapping) else item
    if not isinstance(text, str):
        raise M2KRError(
            f"input {row} is of the type {type(item).__name__}, or its text is of another: pass a text, or a mapping "
            "with text and image."
        )
    return text


def pictures_of(row: int, item: Pictured, pictures: Pictures) -> list[Image.Image | Pixels]:
    """Return the pictures of an input, prepared where that makes regions of one.

    Raises:
        M2KRError: its image is none.
    """
    image = item.get("image") if isinstance(item, Mapping) else None
    if isinstance(image, Image.Image):
        image = pictures.prepare(image)
    if isinstance(image, np.ndarray):
        image = list(image) if image.ndim == 4 else [image]
    if image is not None and not isinstance(image, (list, tuple)):
        raise M2KRError(
            f"the image of input {row} is of the type {type(image).__name__}; pass a picture of Pillow, an array "
            "that prepare_image made, or a list of these."
        )
    return list(image or [])


def picture_number(item: Pictured, pictures: Pictures) -> int:
    """Return how many pictures `pictures_of` finds, without preparing any."""
    image = item.get("image") if isinstance(item, Mapping) else None
    if image is None:
        return 0
    if isinstance(image, Image.Image):
        return pictures.number
    if isinstance(image, (list, tuple)) or (isinstance(image, np.ndarray) and image.ndim == 4):
        return len(image)
    return 1


def add_pixels(
    features: Features,
    images: Sequence[Sequence[Image.Image | Pixels]],
    pixels: ClipPixels,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Add the pictures of a batch, those of an input filled up with black ones to the most that one has."""
    most = max(map(len, images))
    fill = np.zeros(pixels.shape, dtype=np.uint8)
    flat = [image for own in images for image in [*own, *[fill] * (most - len(own))]]
    values = pixels.pixels(flat, device, dtype)
    features["pixel_values"] = values.view(len(images), most, *values.shape[1:])
    if any(len(own) < most for own in images):
        rows = [[number < len(own) for number in range(most)] for own in images]
        features["picture_mask"] = torch.tensor(rows, device=device)
