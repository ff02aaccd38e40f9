"""Encoding by PreFLMR, against the model run on one input at a time."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.common.clip_pixels import ClipPixels
from baselines.preflmr import PreFLMR, PreFLMRConfig
from baselines.preflmr.pictures import Pictures
from baselines.preflmr.tokenization import read_tokenizers
from m2kr.errors import M2KRError
from tests.baselines.images import random_image
from tests.baselines.preflmr import test_encn
from tests.baselines.preflmr.make_fixtures import DOCUMENTS, QUERIES, configuration, fill
from tests.tolerance import assert_vectors_near

make_encn = test_encn.make


def one_by_one(model: PreFLMR, inputs: list[Any]) -> list[np.ndarray]:
    """Reference: every query alone, its pictures as a tensor, the vectors that are not zero."""
    found = []
    for item in inputs:
        text, images = (item, []) if isinstance(item, str) else (item["text"], item["image"])
        images = images if isinstance(images, list) else [images]
        pixels = None
        if images:
            ready = [model.pictures.pixels.prepare(image) for image in images]
            pixels = model.pictures.pixels.pixels(ready, model.device, model.dtype)[None]
        with torch.no_grad():
            vectors = model.query(*model.query_tokenizer([text]), pixels).embeddings[0]
        found.append(vectors[vectors.norm(dim=1) > 0].numpy())
    return found


@pytest.fixture
def flmr(flmr_folder: Path) -> PreFLMR:
    return PreFLMR.from_pretrained(flmr_folder)


def test_documents_are_their_unmasked_vectors_however_they_are_padded(either: PreFLMR) -> None:
    texts = [*DOCUMENTS, "", "owl " * 90, "!!!"]
    with torch.no_grad():
        vectors = either.document(*either.document_tokenizer(texts, padding="max"))
    expected = [own[mask].numpy() for own, mask in zip(vectors.embeddings, vectors.mask, strict=True)]
    for batch_size in (1, 2, 32):
        found = either.encode_document(texts, batch_size=batch_size)
        assert_vectors_near(found, expected)
        assert all(item.dtype == np.float32 for item in found)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_queries_do_not_depend_on_their_batch(either: PreFLMR, batch_size: int) -> None:
    either.missing_image = "none"
    inputs = [
        QUERIES[0],
        {"text": QUERIES[1], "image": random_image(0)},
        {"text": "", "image": [random_image(1), random_image(2), random_image(3)]},
        QUERIES[3],
        {"text": QUERIES[2], "image": [random_image(4), random_image(5)]},
        {"text": QUERIES[2], "image": random_image(6)},
    ]
    found = either.encode_query(inputs, batch_size=batch_size)
    assert_vectors_near(found, one_by_one(either, inputs))
    lengths = np.concatenate([np.linalg.norm(item, axis=1) for item in found])
    assert lengths == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_query_without_a_picture_gets_the_official_black_one(either: PreFLMR, batch_size: int) -> None:
    black = Image.new("RGB", (336, 336))
    inputs: list[Any] = [QUERIES[0], {"text": QUERIES[1], "image": random_image(0)}, {"text": QUERIES[2]}, QUERIES[3]]
    given = [{"image": black, **(item if isinstance(item, dict) else {"text": item})} for item in inputs]
    found = either.encode_query(inputs, batch_size=batch_size)
    assert_vectors_near(found, one_by_one(either, given))
    either.missing_image = "none"
    assert len(either.encode_query(inputs, batch_size=batch_size)[0]) < len(found[0])


def test_the_black_picture_is_encoded_once(folder: Path) -> None:
    model = PreFLMR.from_pretrained(folder)
    seen: list[int] = []
    assert model.vision_encoder is not None
    model.vision_encoder.embeddings.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    model.encode_query(QUERIES * 3, batch_size=2)
    assert seen == [1]
    model.encode_query([{"text": "a", "image": random_image(0)}] * 3)
    assert seen == [1, 3]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_types_give_nearly_the_same(folder: Path, model: PreFLMR, dtype: str) -> None:
    short = PreFLMR.from_pretrained(folder, dtype=dtype)
    inputs = [*QUERIES, {"text": QUERIES[0], "image": random_image(0)}]
    pairs = [
        *zip(short.encode_query(inputs), model.encode_query(inputs), strict=True),
        *zip(short.encode_document(DOCUMENTS), model.encode_document(DOCUMENTS), strict=True),
    ]
    for one, other in pairs:
        assert one.dtype == np.float32
        assert float((one * other).sum(axis=1).min()) > 0.98


def test_passages_with_pictures(folder: Path) -> None:
    value = configuration("preflmr") | {"context_concat_output_from_vision_encoder": True}
    config = PreFLMRConfig.from_json(value)
    model = PreFLMR(config, *read_tokenizers(folder, config))
    fill(model, 3)
    model.eval()
    inputs = [
        DOCUMENTS[0],
        {"text": DOCUMENTS[1], "image": random_image(0)},
        {"text": "owl", "image": [random_image(1)] * 2},
    ]
    found = model.encode_document(inputs)
    assert_vectors_near(found, [model.encode_document([item])[0] for item in inputs])
    text = [model.encode_document([item if isinstance(item, str) else item["text"]])[0] for item in inputs]
    prefix = config.mapping_network_prefix_length
    for item, own, regions in zip(found, text, (0, 1, 2), strict=True):
        assert len(item) == len(own) + regions * prefix
        assert_vectors_near(item[regions * prefix :], own)


def test_padding_of_an_official_xlm_roberta_counts_in_full(make_encn: Any) -> None:
    """There, how far a passage is filled up changes its vectors, so that it is always filled up as far as it goes."""
    texts = ["the owl", "who built it? the owl the owl", "红色"]
    official, sane = make_encn(padding_mask="official"), make_encn()
    with torch.no_grad():
        vectors = official.document(*official.document_tokenizer(texts, padding="max"))
    expected = [own[mask].numpy() for own, mask in zip(vectors.embeddings, vectors.mask, strict=True)]
    for batch_size in (1, 32):
        assert_vectors_near(official.encode_document(texts, batch_size), expected)
        own = sane.encode_document(texts, batch_size)
        assert all(len(item) < len(other) for item, other in zip(own, expected, strict=True))


def test_a_prepared_picture_is_as_good_as_the_picture(either: PreFLMR) -> None:
    image = random_image(0, (50, 20)).convert("RGBA")
    ready = pickle.loads(pickle.dumps(either.pictures.prepare))(image)
    assert ready.shape == (16, 16, 3)
    some, others = ([{"text": "a", "image": given}] for given in (image, ready))
    np.testing.assert_array_equal(either.encode_query(some)[0], either.encode_query(others)[0])


def test_a_grid_is_the_whole_and_its_nine_parts(flmr: PreFLMR) -> None:
    image = random_image(0, (45, 31))
    parts = [
        image.crop((45 * column // 3, 31 * row // 3, 45 * (column + 1) // 3, 31 * (row + 1) // 3))
        for row in range(3)
        for column in range(3)
    ]
    expected = one_by_one(flmr, [{"text": "a", "image": [image, *parts]}])
    flmr.pictures = Pictures(flmr.pictures.pixels, "grid")
    ready = flmr.pictures.prepare(image)
    assert (ready.shape, ready.dtype) == ((10, 16, 16, 3), np.uint8)
    for given in (image, ready):
        assert_vectors_near(flmr.encode_query([{"text": "a", "image": given}]), expected)
    assert len(flmr.encode_query(["a"])[0]) == len(expected[0])
    assert flmr.pictures.prepare(random_image(1, (1, 2))).shape == ready.shape


def test_the_pixels_are_what_the_folder_says(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "model")
    assert PreFLMR.from_pretrained(copy).pictures.pixels == ClipPixels(16, (16, 16))
    (copy / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 20}, "crop_size": 16}))
    assert PreFLMR.from_pretrained(copy).pictures.pixels == ClipPixels(20, (16, 16))


def test_what_cannot_be_encoded_is_refused(model: PreFLMR) -> None:
    with pytest.raises(M2KRError, match="input 1 is of the type int"):
        model.encode_query(["a", 3])  # type: ignore[list-item]
    with pytest.raises(M2KRError, match="input 0 is of the type dict, or its text"):
        model.encode_document([{"text": 3}])
    with pytest.raises(M2KRError, match=r"image of input 0 is of the type .*Path"):
        model.encode_query([{"text": "a", "image": Path("a.jpg")}])
    with pytest.raises(M2KRError, match="prepare_image"):
        model.encode_query([{"text": "a", "image": np.zeros((8, 8, 3), dtype=np.uint8)}])
    with pytest.raises(M2KRError, match="a passage has a picture"):
        model.encode_document([{"text": "a", "image": random_image(0)}])
    with pytest.raises(M2KRError, match="batch_size is 0"):
        model.encode_document(["a"], batch_size=0)
    assert model.encode_query([]) == model.encode_document([]) == []
