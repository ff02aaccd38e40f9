"""`baselines.dpr` with tiny random encoders, against plain calls of transformers, one text at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertTokenizer, DPRConfig, DPRContextEncoder, DPRQuestionEncoder

from baselines import dpr
from baselines.dpr import DPR
from m2kr.errors import M2KRError
from m2kr.retriever import Retriever
from tests.baselines.tampered import FAULTS, tampered, with_tensors
from tests.tolerance import assert_vectors_near

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz.,?" for prefix in ("", "##")]
MODELS = {"question_encoder": DPRQuestionEncoder, "ctx_encoder": DPRContextEncoder}
TEXTS = ["An owl.", "", "Where is the bridge over the river?", "  fox  ", "a long passage about a harbour " * 30, "車"]


def write(folder: Path, projection: int = 0, positions: int = 512) -> Path:
    """Write a checkpoint of two tiny encoders, with weights large enough for every token to matter."""
    torch.manual_seed(0)
    for part, make in MODELS.items():
        config = DPRConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=positions,
            projection_dim=projection,
            initializer_range=0.5,
        )
        make(config).save_pretrained(folder / part)
        (folder / part / "vocab.txt").write_text("\n".join(WORDS))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / "tiny-dpr")


@pytest.fixture(scope="module")
def retriever(checkpoint: Path) -> DPR:
    return DPR(checkpoint=str(checkpoint))


def reference(checkpoint: Path, part: str, texts: list[str], max_length: int = 256) -> np.ndarray:
    """One text at a time, with what transformers itself makes of it."""
    model = MODELS[part].from_pretrained(checkpoint / part).eval()
    tokenizer = BertTokenizer.from_pretrained(checkpoint / part)
    with torch.no_grad():
        rows = [
            model(**tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")).pooler_output[0]
            for text in texts
        ]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_vectors_are_those_of_transformers_whatever_the_batch(
    checkpoint: Path, retriever: DPR, batch_size: int
) -> None:
    questions, passages = reference(checkpoint, "question_encoder", TEXTS), reference(checkpoint, "ctx_encoder", TEXTS)
    found = retriever.encode_query(TEXTS, batch_size=batch_size)
    assert (found.shape, found.dtype) == ((len(TEXTS), 16), np.float32)
    assert_vectors_near(found, questions)
    assert_vectors_near(retriever.encode_document(TEXTS, batch_size=batch_size), passages)
    assert np.abs(questions - passages).max() > 0.1
    assert np.abs(questions[0] - questions[2]).max() > 0.1


def test_it_says_what_it_is(checkpoint: Path, retriever: DPR) -> None:
    assert isinstance(retriever, Retriever)
    assert (retriever.name, retriever.vectors, retriever.reads) == ("tiny-dpr", "single", {"text"})
    assert not retriever.reads_instructions
    assert retriever.settings["checkpoint"] == "tiny-dpr"
    assert retriever.settings["max_length"] == 256
    assert str(checkpoint) not in str(retriever.settings)


def test_texts_are_cut_to_256_tokens(retriever: DPR) -> None:
    words = ["a"] * 254
    whole = retriever.encode_document([" ".join(words)])
    np.testing.assert_array_equal(retriever.encode_document([" ".join([*words, "z", "z"])]), whole)
    assert np.abs(retriever.encode_document([" ".join([*words[1:], "z"])]) - whole).max() > 1e-3


def test_a_model_with_fewer_positions_and_a_projection_is_read_so(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "short", projection=6, positions=40)
    retriever = DPR(checkpoint=str(checkpoint))
    assert retriever.settings["max_length"] == 40
    found = retriever.encode_query(TEXTS)
    assert found.shape == (len(TEXTS), 6)
    assert_vectors_near(found, reference(checkpoint, "question_encoder", TEXTS, 40))
    assert retriever.encode_query([]).shape == (0, 6)


def test_the_official_form_of_the_files_is_read(checkpoint: Path, retriever: DPR, tmp_path: Path) -> None:
    """Pickled, with a pooler and positions that are not used."""
    for part in MODELS:
        shutil.copytree(checkpoint / part, tmp_path / part)
        weights = load_file(tmp_path / part / "model.safetensors")
        weights[f"{part}.bert_model.embeddings.position_ids"] = torch.arange(512)[None]
        weights[f"{part}.bert_model.pooler.dense.weight"] = torch.zeros(16, 16)
        weights[f"{part}.bert_model.pooler.dense.bias"] = torch.zeros(16)
        torch.save(weights, tmp_path / part / "pytorch_model.bin")
        (tmp_path / part / "model.safetensors").unlink()
    pickled = DPR(checkpoint=str(tmp_path))
    np.testing.assert_array_equal(pickled.encode_query(TEXTS), retriever.encode_query(TEXTS))
    np.testing.assert_array_equal(pickled.encode_document(TEXTS), retriever.encode_document(TEXTS))
    assert pickled.settings["checkpoint_sha256"] != retriever.settings["checkpoint_sha256"]


def test_the_official_models_are_found_by_their_names(
    checkpoint: Path, retriever: DPR, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def found(name: str, **_: str) -> Path:
        asked.append(name)
        return checkpoint / ("ctx_encoder" if "ctx" in name else "question_encoder")

    monkeypatch.setattr(dpr, "snapshot", found)
    official = DPR()
    assert asked == ["facebook/dpr-question_encoder-single-nq-base", "facebook/dpr-ctx_encoder-single-nq-base"]
    assert official.name == "dpr"
    assert official.settings["checkpoint"] == ", ".join(asked)
    assert official.settings["checkpoint_sha256"] == retriever.settings["checkpoint_sha256"]
    np.testing.assert_array_equal(official.encode_query(TEXTS), retriever.encode_query(TEXTS))


def test_offline_the_message_names_both_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(M2KRError, match="facebook/dpr-question_encoder-single-nq-base") as caught:
        DPR()
    for part in ("FOLDER/question_encoder", "FOLDER/ctx_encoder", "vocab.txt", "--checkpoint FOLDER"):
        assert part in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_shorter_types_give_vectors_near_those_of_float32(checkpoint: Path, retriever: DPR, dtype: str) -> None:
    short = DPR(checkpoint=str(checkpoint), dtype=dtype)
    found, wanted = short.encode_query(TEXTS), retriever.encode_query(TEXTS)
    assert found.dtype == np.float32
    assert short.settings == retriever.settings
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() > 0.99


# --- what cannot be used --------------------------------------------------------------------------------------------


def test_pictures_are_refused(retriever: DPR) -> None:
    from PIL import Image

    with pytest.raises(M2KRError, match="input 0 has a picture, and tiny-dpr reads only text"):
        retriever.encode_query([{"text": "what is it?", "image": Image.new("RGB", (8, 8))}])


def test_a_folder_without_both_encoders_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint / "question_encoder", tmp_path / "question_encoder")
    with pytest.raises(M2KRError, match="has no folder ctx_encoder"):
        DPR(checkpoint=str(tmp_path))


def test_encoders_in_each_others_place_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint / "question_encoder", tmp_path / "ctx_encoder")
    shutil.copytree(checkpoint / "ctx_encoder", tmp_path / "question_encoder")
    with pytest.raises(M2KRError, match="read as DPRQuestionEncoder, has no question_encoder"):
        DPR(checkpoint=str(tmp_path))


def test_encoders_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write(tmp_path, projection=6)
    other = write(tmp_path / "other", projection=8)
    shutil.rmtree(tmp_path / "ctx_encoder")
    shutil.copytree(other / "ctx_encoder", tmp_path / "ctx_encoder")
    with pytest.raises(M2KRError, match="vectors of different sizes"):
        DPR(checkpoint=str(tmp_path))


@pytest.mark.parametrize("part", MODELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_those_of_the_configuration_are_refused_by_name(
    checkpoint: Path, tmp_path: Path, fault: str, part: str
) -> None:
    name = f"{part}.bert_model.encoder.layer.1.output.dense.weight"
    shutil.copytree(checkpoint, tmp_path / "dpr")
    shutil.rmtree(tmp_path / "dpr" / part)
    tampered(checkpoint / part, tmp_path / "dpr" / part, fault, name)
    with pytest.raises(M2KRError, match=FAULTS[fault].format(name)):
        DPR(checkpoint=str(tmp_path / "dpr"))


def test_tensors_that_official_files_hold_besides_are_no_fault(
    checkpoint: Path, retriever: DPR, tmp_path: Path
) -> None:
    for part in MODELS:
        inner = f"{part}.bert_model"
        names = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")
        with_tensors(checkpoint / part, tmp_path / part, *(f"{inner}.{name}" for name in names))
    official = DPR(checkpoint=str(tmp_path))
    np.testing.assert_array_equal(official.encode_query(TEXTS), retriever.encode_query(TEXTS))
