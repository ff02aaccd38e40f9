"""Pictures against transformers' CLIP image processor."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from baselines.common import clip_pixels
from baselines.common.clip_pixels import ClipPixels
from m2kr.errors import M2KRError

CPU = torch.device("cpu")


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Noise with a slope in it: every filter and every shift shows."""
    draw = np.random.default_rng(seed)
    slope = np.linspace(0, 128, width)[None, :, None] + np.linspace(0, 64, height)[:, None, None]
    values = (slope + draw.integers(0, 64, (height, width, 4))).astype(np.uint8)
    if mode == "P":
        image = Image.fromarray(values[..., :3]).convert("P")
        image.info["transparency"] = 3
        return image
    return Image.fromarray(values, "RGBA").convert(mode)


SHAPES = [(224, 224), (640, 480), (480, 640), (225, 331), (30, 50), (1, 1), (224, 225), (1000, 37), (37, 1000)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pictures_become_what_transformers_makes_of_them(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    pixels = ClipPixels()
    wanted = CLIPImageProcessorPil()(image, return_tensors="pt")["pixel_values"]
    raw = CLIPImageProcessorPil(do_rescale=False, do_normalize=False)(image, return_tensors="np")["pixel_values"][0]
    prepared = pixels.prepare(image)
    np.testing.assert_array_equal(prepared, raw.transpose(1, 2, 0))
    assert (prepared.shape, prepared.dtype) == (pixels.shape, np.uint8)
    found = pixels.pixels([image, prepared], CPU, torch.float32)
    assert found.is_contiguous()
    for row in found:
        torch.testing.assert_close(row, wanted[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "PA", "CMYK", "1"])
def test_pictures_of_every_mode_are_read_without_what_is_transparent(mode: str) -> None:
    """As for the published figures (transformers 4.49); later versions of transformers lay them on white."""
    image = picture(300, 260, mode)
    plain = Image.fromarray(np.asarray(image.convert("RGB")))
    wanted = CLIPImageProcessorPil()(plain, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ClipPixels().pixels([image], CPU, torch.float32), wanted, rtol=0, atol=1e-6)


def test_a_palette_s_transparent_colour_whitens_no_pixel() -> None:
    image = picture(40, 30, "P")
    file = io.BytesIO()
    image.save(file, "PNG", transparency=int(np.asarray(image)[0, 0]))
    opened = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
    assert "transparency" in opened.info
    wanted = ClipPixels().prepare(Image.fromarray(np.asarray(opened)))
    np.testing.assert_array_equal(ClipPixels().prepare(opened), wanted)
    assert "transparency" in opened.info  # it is the caller's


@pytest.mark.parametrize(
    "values",
    [
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 24}},
        {"size": {"height": 20, "width": 30}, "do_center_crop": False, "resample": 2},
        {"size": {"shortest_edge": 33}, "crop_size": {"height": 33, "width": 33}, "image_mean": [0.5, 0.4, 0.3]},
        {"image_std": [0.5, 0.4, 0.3], "rescale_factor": 0.01, "resample": 0},
        {},
    ],
    ids=lambda values: ",".join(values) or "defaults",
)
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_a_checkpoint_says_how_its_pictures_are_read(tmp_path: Path, values: dict[str, Any], file: str) -> None:
    processor = CLIPImageProcessorPil(**values)
    content = processor.to_dict()
    nested = {"image_processor": content, "processor_class": "CLIPProcessor"}
    (tmp_path / file).write_text(json.dumps(nested if file == "processor_config.json" else content))
    image = picture(120, 70)
    wanted = processor(image, return_tensors="pt")["pixel_values"]
    found = ClipPixels.from_folder(tmp_path, 999).pixels([image], CPU, torch.float32)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_files_of_early_versions_have_numbers_for_sizes(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"size": 36, "crop_size": 32, "resample": 3}')
    assert ClipPixels.from_folder(tmp_path) == ClipPixels(36, (32, 32))


def test_without_a_file_the_model_decides_the_size(tmp_path: Path) -> None:
    assert ClipPixels.from_folder(tmp_path, 336) == ClipPixels(336, (336, 336))
    (tmp_path / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    assert ClipPixels.from_folder(tmp_path, 336) == ClipPixels(336, (336, 336))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        '{"size": "big"}',
        '{"size": {"longest_edge": 3}}',
        '{"size": 4, "crop_size": 5}',
        '{"size": 4, "do_center_crop": false}',
        '{"size": 4, "crop_size": 4, "do_resize": false}',
        '{"size": 4, "crop_size": 4, "image_mean": [0.5]}',
    ],
)
def test_a_file_that_asks_for_something_else_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(M2KRError, match=r"preprocessor_config\.json does not describe how CLIP reads pictures"):
        ClipPixels.from_folder(tmp_path)


@pytest.mark.parametrize("shape", [(640, 480), (900, 31), (31, 900), (225, 331)], ids=str)
def test_the_middle_alone_of_a_very_long_picture_is_resized(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(*shape)
    whole = ClipPixels().prepare(image).astype(int)
    monkeypatch.setattr(clip_pixels, "LARGEST", 1)
    assert np.abs(ClipPixels().prepare(image).astype(int) - whole).max() <= 2


def test_a_picture_of_one_row_takes_no_gigabytes() -> None:
    prepared = ClipPixels().prepare(picture(50_000, 1))  # 224 x 11,200,000 when resized
    assert prepared.shape == (224, 224, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((224, 224, 3), np.float32),
        np.zeros((3, 224, 224), np.uint8),
        np.zeros((336, 336, 3), np.uint8),
        "x.jpg",
    ],
    ids=["float", "channels first", "another size", "path"],
)
def test_what_was_not_prepared_here_is_refused(wrong: Any) -> None:
    good = ClipPixels().prepare(picture(30, 30))
    with pytest.raises(M2KRError, match=r"picture 1 is .* Prepare it with this retriever's prepare_image"):
        ClipPixels().pixels([good, wrong], CPU, torch.float32)


def test_no_pictures_make_an_empty_tensor_of_the_type_asked_for() -> None:
    found = ClipPixels().pixels([], CPU, torch.bfloat16)
    assert (found.shape, found.dtype) == ((0, 3, 224, 224), torch.bfloat16)


def test_workers_get_little_and_need_no_torch() -> None:
    payload = pickle.dumps(ClipPixels().prepare)
    assert len(payload) < 1000
    program = (
        "import pickle, sys; from PIL import Image; prepare = pickle.loads(sys.stdin.buffer.read());"
        "print(prepare(Image.new('RGB', (9, 5), 'red')).shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=payload, capture_output=True, check=True, timeout=60)
    assert done.stdout.decode().strip() == "(224, 224, 3) False"
