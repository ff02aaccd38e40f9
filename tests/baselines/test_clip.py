"""`baselines.clip` with a tiny random model, against plain calls of transformers, one input at a time."""

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
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from baselines.clip import CLIP, clip_vit_l_14
from m2kr.errors import M2KRError
from m2kr.retriever import Retriever
from tests.baselines.images import random_images
from tests.baselines.tampered import FAULTS, tampered, with_tensors
from tests.baselines.tiny_models import SIZE, write_clip
from tests.tolerance import SAME_NETWORK, assert_vectors_near, assert_within, maxsim_table

TEXTS = ["An owl.", "", "Where is the bridge over the river?", "a long passage about a harbour " * 9, "車 é 🦉", "fox"]
LENGTH = 77


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="module")
def retriever(checkpoint: Path) -> CLIP:
    return CLIP(checkpoint=str(checkpoint))


def unit(vector: torch.Tensor) -> np.ndarray:
    return (vector / vector.norm(dim=-1, keepdim=True)).numpy()


def text_reference(checkpoint: Path, texts: list[str]) -> np.ndarray:
    model, tokenizer = CLIPModel.from_pretrained(checkpoint).eval(), CLIPTokenizer.from_pretrained(checkpoint)
    with torch.no_grad():
        rows = [
            model.get_text_features(
                **tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt")
            ).pooler_output
            for text in texts
        ]
    return np.concatenate([unit(row) for row in rows])


def image_reference(checkpoint: Path, images: list[Image.Image]) -> np.ndarray:
    model, processor = CLIPModel.from_pretrained(checkpoint).eval(), CLIPImageProcessorPil.from_pretrained(checkpoint)
    with torch.no_grad():
        rows = [model.get_image_features(**processor(image, return_tensors="pt")).pooler_output for image in images]
    return np.concatenate([unit(row) for row in rows])


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_passages_are_encoded_as_transformers_does_whatever_the_batch(
    checkpoint: Path, retriever: CLIP, batch_size: int
) -> None:
    wanted = text_reference(checkpoint, TEXTS)
    found = retriever.encode_document(TEXTS, batch_size=batch_size)
    assert (found.shape, found.dtype) == ((len(TEXTS), 12), np.float32)
    assert_vectors_near(found, wanted)
    assert_vectors_near(retriever.encode_query(TEXTS, batch_size=batch_size), wanted)
    assert (wanted @ wanted.T)[np.triu_indices(len(TEXTS), 1)].max() < 0.999


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("fusion", ["sum", "image"])
def test_a_query_is_its_picture_and_its_question(checkpoint: Path, fusion: str, batch_size: int) -> None:
    retriever = CLIP(checkpoint=str(checkpoint), fusion=fusion)
    images = random_images(len(TEXTS))
    inputs = [{"text": text, "image": image} for text, image in zip(TEXTS, images, strict=True)]
    texts, pixels = text_reference(checkpoint, TEXTS), image_reference(checkpoint, images)
    wanted = texts + pixels if fusion == "sum" else pixels.copy()
    wanted[1] = pixels[1]  # that text is empty
    assert_vectors_near(retriever.encode_query(inputs, batch_size=batch_size), wanted)
    # The same with some pictures gone, in between.
    mixed = [item if row % 2 else TEXTS[row] for row, item in enumerate(inputs)]
    wanted[::2] = texts[::2]
    assert_vectors_near(retriever.encode_query(mixed, batch_size=batch_size), wanted)
    assert np.abs(texts - pixels).max(axis=1).min() > 0.05


def test_the_score_of_the_sum_is_the_sum_of_the_cosines(checkpoint: Path, retriever: CLIP) -> None:
    images = random_images(2)
    inputs = [{"text": text, "image": image} for text, image in zip(["owl", "fox"], images, strict=True)]
    passages = retriever.encode_document(TEXTS)
    halves = [
        maxsim_table(vectors, passages, relative=SAME_NETWORK)
        for vectors in (text_reference(checkpoint, ["owl", "fox"]), image_reference(checkpoint, images))
    ]
    found, _ = maxsim_table(retriever.encode_query(inputs), passages)
    assert_within(found, halves[0][0] + halves[1][0], halves[0][1] + halves[1][1])


@pytest.mark.parametrize("fusion", ["sum", "image"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_passage_with_a_picture_is_read_as_a_query_and_has_the_length_of_the_others(
    checkpoint: Path, fusion: str, batch_size: int
) -> None:
    retriever = CLIP(checkpoint=str(checkpoint), fusion=fusion)
    images = random_images(len(TEXTS))
    texts, pixels = text_reference(checkpoint, TEXTS), image_reference(checkpoint, images)
    wanted = texts + pixels if fusion == "sum" else pixels.copy()
    wanted[1] = pixels[1]  # that text is empty
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    wanted[::2] = texts[::2]
    inputs = [{"text": text, "image": images[row]} if row % 2 else text for row, text in enumerate(TEXTS)]
    found = retriever.encode_document(inputs, batch_size=batch_size)
    assert_vectors_near(found, wanted)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert retriever.reads_passage_images
    assert not CLIP(checkpoint=str(checkpoint), fusion="text").reads_passage_images


def test_prepared_pictures_count_as_the_pictures_themselves(retriever: CLIP) -> None:
    prepare = pickle.loads(pickle.dumps(retriever.prepare_image))
    assert len(pickle.dumps(prepare)) < 1000
    images = random_images(5)
    arrays = [prepare(image) for image in images]
    assert all((array.shape, array.dtype) == ((SIZE, SIZE, 3), np.uint8) for array in arrays)
    plain = retriever.encode_query([{"text": "owl", "image": image} for image in images])
    np.testing.assert_array_equal(retriever.encode_query([{"text": "owl", "image": array} for array in arrays]), plain)
    mixed = [{"text": "owl", "image": (arrays if row % 2 else images)[row]} for row in range(5)]
    np.testing.assert_array_equal(retriever.encode_query(mixed), plain)


def test_texts_are_cut_to_77_tokens(retriever: CLIP) -> None:
    words = ["a"] * 75
    whole = retriever.encode_document([" ".join(words)])
    np.testing.assert_array_equal(retriever.encode_document([" ".join([*words, "z", "z"])]), whole)
    assert np.abs(retriever.encode_document([" ".join([*words[1:], "z"])]) - whole).max() > 1e-3


def test_the_official_configuration_is_read(checkpoint: Path, retriever: CLIP, tmp_path: Path) -> None:
    """It names another end of text than the tokenizer's, which transformers knows and works around."""
    shutil.copytree(checkpoint, tmp_path / "clip")
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    config["text_config"].update(bos_token_id=0, pad_token_id=1, eos_token_id=2)
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    torch.save(load_file(checkpoint / "model.safetensors"), tmp_path / "clip" / "pytorch_model.bin")
    (tmp_path / "clip" / "model.safetensors").unlink()
    official = CLIP(checkpoint=str(tmp_path / "clip"))
    assert_vectors_near(official.encode_document(TEXTS), retriever.encode_document(TEXTS))


def test_it_says_what_it_is(checkpoint: Path, retriever: CLIP) -> None:
    assert isinstance(retriever, Retriever)
    assert (retriever.name, retriever.vectors, retriever.reads) == ("tiny-clip", "single", {"text", "image"})
    assert not retriever.reads_instructions
    assert retriever.settings["fusion"] == "sum"
    assert retriever.settings["max_length"] == 77
    assert len(retriever.settings["checkpoint_sha256"]) == 64
    assert str(checkpoint) not in str(retriever.settings)
    image = CLIP(checkpoint=str(checkpoint), fusion="image")
    assert (image.name, image.reads) == ("tiny-clip-image", {"text", "image"})
    assert {key for key in image.settings if image.settings[key] != retriever.settings[key]} == {"fusion"}


def test_with_the_text_alone_it_reads_no_pictures(checkpoint: Path, retriever: CLIP) -> None:
    text = CLIP(checkpoint=str(checkpoint), fusion="text")
    assert (text.name, text.reads) == ("tiny-clip-text", {"text"})
    np.testing.assert_array_equal(text.encode_query(TEXTS), retriever.encode_query(TEXTS))
    with pytest.raises(M2KRError, match="input 0 has a picture, and tiny-clip-text reads only text"):
        text.encode_query([{"text": "owl", "image": random_images(1)[0]}])


def test_no_inputs_give_no_vectors(retriever: CLIP) -> None:
    assert retriever.encode_query([]).shape == retriever.encode_document([]).shape == (0, 12)


def test_the_official_models_have_short_names(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def found(name: str, *_: Any, **__: str) -> Path:
        asked.append(name)
        return checkpoint

    monkeypatch.setattr("baselines.common.checkpoints.snapshot", found)
    assert (CLIP().name, clip_vit_l_14().name) == ("clip-vit-b-32", "clip-vit-l-14")
    assert clip_vit_l_14(fusion="image").name == "clip-vit-l-14-image"
    assert clip_vit_l_14(checkpoint="org/other").name == "org/other"
    official = ["openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14"]
    assert asked == [*official, official[1], "org/other"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_shorter_types_give_vectors_near_those_of_float32(checkpoint: Path, retriever: CLIP, dtype: str) -> None:
    short = CLIP(checkpoint=str(checkpoint), dtype=dtype)
    inputs = [{"text": text, "image": image} for text, image in zip(TEXTS, random_images(len(TEXTS)), strict=True)]
    found, wanted = short.encode_query(inputs), retriever.encode_query(inputs)
    assert found.dtype == np.float32
    assert short.settings == retriever.settings
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() > 0.99


# --- what cannot be used --------------------------------------------------------------------------------------------


def test_an_unknown_fusion_is_an_error_with_the_choices(checkpoint: Path) -> None:
    with pytest.raises(M2KRError, match=r"fusion 'imag' is not known\. Did you mean image\? Choose one of sum, image"):
        CLIP(checkpoint=str(checkpoint), fusion="imag")


def test_a_passage_with_a_picture_is_refused_where_only_texts_are_read(checkpoint: Path) -> None:
    with pytest.raises(M2KRError, match="input 1 has a picture"):
        CLIP(checkpoint=str(checkpoint), fusion="text").encode_document(
            ["owl", {"text": "a", "image": random_images(1)[0]}]
        )


def test_a_picture_prepared_for_another_model_is_refused(retriever: CLIP) -> None:
    with pytest.raises(M2KRError, match="Prepare it with this retriever's prepare_image"):
        retriever.encode_query([{"text": "owl", "image": np.zeros((224, 224, 3), np.uint8)}])


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (["vocab.json"], "has no tokenizer|tokenizer in .* could not be loaded"),
        (["vocab.json", "merges.txt"], "has no tokenizer"),
        (["model.safetensors"], "is no model folder"),
        (["config.json"], "is no model folder"),
    ],
)
def test_a_folder_without_its_files_is_an_error(
    checkpoint: Path, tmp_path: Path, gone: list[str], message: str
) -> None:
    shutil.copytree(checkpoint, tmp_path / "clip")
    for name in gone:
        (tmp_path / "clip" / name).unlink()
    with pytest.raises(M2KRError, match=message):
        CLIP(checkpoint=str(tmp_path / "clip"))


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_those_of_the_configuration_are_refused_by_name(
    checkpoint: Path, tmp_path: Path, fault: str
) -> None:
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    folder = tampered(checkpoint, tmp_path / "model", fault, name)
    with pytest.raises(M2KRError, match=FAULTS[fault].format(name)):
        CLIP(checkpoint=str(folder))


def test_tensors_that_official_files_hold_besides_are_no_fault(
    checkpoint: Path, retriever: CLIP, tmp_path: Path
) -> None:
    names = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
    official = CLIP(checkpoint=str(with_tensors(checkpoint, tmp_path / "clip", *names)))
    np.testing.assert_array_equal(official.encode_document(TEXTS), retriever.encode_document(TEXTS))
