"""How CLIP reads pictures: resized, cropped and normalised as by transformers' CLIPImageProcessor with Pillow.

CLIPImageProcessorPil of transformers gives the same pixels, but importing it takes seconds and 372 MB, torch included,
in each of the processes that decode pictures and prepare them too; this module takes 29 MB there. It also cuts pictures
so long that resizing all of them would take gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from m2kr.common.files import write_json
from m2kr.common.json_input import read_json
from m2kr.errors import M2KRError
from m2kr.images.decode import to_rgb

if TYPE_CHECKING:
    import torch

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""A prepared picture: (height, width, 3), RGB."""

# Mean and standard deviation of the pixels CLIP was trained on (openai/CLIP, clip/clip.py, _transform).
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

LARGEST = 64_000_000
"""Pixels of a resized picture above which only its middle is resized."""


@dataclass(frozen=True)
class ClipPixels:
    """How CLIP reads a picture: RGB, resized, the middle cut out, normalised.

    `prepare` is the slow half, on the processor, and can run in other processes: an object of this class pickles to
    a few hundred bytes. `pixels` is the rest, on the model's device. Together they return what CLIPImageProcessor of
    transformers (Pillow back end) returns for the same picture.

    Attributes:
        size: of the resized picture: an int for the shortest edge, with the aspect kept, or (height, width).
        crop: (height, width) of the middle that is kept; None for all, which needs a fixed ``size``.
        resample: Pillow's number of the filter; 3 is bicubic.
        scale: what pixels are multiplied by before ``mean`` and ``std``, which are those of the three channels.
    """

    size: int | tuple[int, int] = 224
    crop: tuple[int, int] | None = (224, 224)
    resample: int = 3
    scale: float = 1 / 255
    mean: tuple[float, float, float] = _CLIP_MEAN
    std: tuple[float, float, float] = _CLIP_STD

    def __post_init__(self) -> None:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        if self.crop is None and isinstance(self.size, int):
            raise M2KRError("pictures of different shapes need a crop, or a size with height and width.")
        if self.crop is not None and (self.crop[0] > height or self.crop[1] > width):
            raise M2KRError(f"a crop of {self.crop} does not fit in a picture resized to {self.size}.")

    @classmethod
    def from_folder(cls, folder: Path, image_size: int = 224) -> ClipPixels:
        """Return the settings of a checkpoint: its preprocessor_config.json, else CLIP's own at ``image_size``.

        Raises:
            M2KRError: the file cannot be read, or asks for what is not done here.
        """
        for name in ("preprocessor_config.json", "processor_config.json"):
            path = folder / name
            if not path.is_file():
                continue
            try:
                values = read_json(path, dict[str, Any], "file of a model", "")
                values = values.get("image_processor", values)
                # A processor's file of its text half only says nothing about pictures.
                if any(key in values for key in ("size", "crop_size", "image_mean", "image_processor_type")):
                    return cls._from_values(values, image_size)
            except (ValueError, TypeError, KeyError, AttributeError, msgspec.ValidationError, M2KRError) as error:
                raise M2KRError(
                    f"{path} does not describe how CLIP reads pictures ({error}). Get this file again."
                ) from error
        return cls(image_size, (image_size, image_size))

    @classmethod
    def _from_values(cls, values: dict[str, Any], image_size: int) -> ClipPixels:
        for key in ("do_resize", "do_normalize", "do_rescale"):
            if values.get(key) is False:
                raise ValueError(f"{key} is false")
        # Files of early versions have a number where later ones have a dictionary.
        size, crop = values.get("size", image_size), values.get("crop_size", image_size)
        if isinstance(size, dict):
            size = size["shortest_edge"] if "shortest_edge" in size else (int(size["height"]), int(size["width"]))
        crop = (int(crop["height"]), int(crop["width"])) if isinstance(crop, dict) else (int(crop), int(crop))
        return cls(
            size=size if isinstance(size, tuple) else int(size),
            crop=crop if values.get("do_center_crop", True) else None,
            resample=int(values.get("resample", 3)),
            scale=float(values.get("rescale_factor", 1 / 255)),
            mean=msgspec.convert(values.get("image_mean", _CLIP_MEAN), tuple[float, float, float]),
            std=msgspec.convert(values.get("image_std", _CLIP_STD), tuple[float, float, float]),
        )

    def write(self, folder: Path) -> None:
        """Write ``folder``/preprocessor_config.json, which `from_folder` and transformers' CLIPImageProcessor read."""
        height, width, _ = self.shape
        size = self.size
        values = {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": size} if isinstance(size, int) else {"height": size[0], "width": size[1]},
            "resample": self.resample,
            "do_center_crop": self.crop is not None,
            "crop_size": {"height": height, "width": width},
            "do_rescale": True,
            "rescale_factor": self.scale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        write_json(folder / "preprocessor_config.json", values)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of a prepared picture."""
        height, width = self.crop or (self.size if isinstance(self.size, tuple) else (self.size, self.size))
        return height, width, 3

    def prepare(self, image: Image.Image) -> Pixels:
        """Return a picture as the model sees it, before normalisation: uint8 of shape `shape`.

        What is transparent keeps its colour; see `m2kr.images.decode.to_rgb`. Of a picture so long that resizing all of
        it would take gigabytes, the middle alone is resized, which can differ by a level or two.
        """
        image = to_rgb(image)
        width, height = self._resized(*image.size)
        crop_height, crop_width, _ = self.shape
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        resample = Image.Resampling(self.resample)
        if width * height > LARGEST:
            across, down = image.width / width, image.height / height
            box = (left * across, top * down, (left + crop_width) * across, (top + crop_height) * down)
            return np.array(image.resize((crop_width, crop_height), resample, box=box))
        resized = image.resize((width, height), resample)
        return np.array(resized.crop((left, top, left + crop_width, top + crop_height)))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size[1], self.size[0]
        long = int(self.size * max(width, height) / min(width, height))
        return (self.size, long) if width <= height else (long, self.size)

    def pixels(
        self, pictures: Sequence[Image.Image | Pixels], device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return what the model takes: (pictures, 3, height, width), normalised, of ``dtype`` on ``device``.

        Args:
            pictures: Pillow's, or arrays that `prepare` returned.
            device: of the result. Pictures travel to it as bytes.
            dtype: of the result.

        Raises:
            M2KRError: an array is not of the type and shape that `prepare` returns.
        """
        import torch

        arrays = np.empty((len(pictures), *self.shape), dtype=np.uint8)
        for row, picture in enumerate(pictures):
            array = self.prepare(picture) if isinstance(picture, Image.Image) else picture
            if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.shape != self.shape:
                found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise M2KRError(
                    f"picture {row} is {found}, where a Pillow image or a uint8 array of shape {self.shape} is "
                    "needed. Prepare it with this retriever's prepare_image."
                )
            arrays[row] = array
        scaled = torch.from_numpy(arrays).to(device).permute(0, 3, 1, 2).float() * self.scale
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return ((scaled - mean) / std).to(dtype).contiguous()
