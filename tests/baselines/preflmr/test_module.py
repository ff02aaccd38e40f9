"""PreFLMR as a module of sentence-transformers: the same vectors, saved and read again, with gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.losses import (
    CachedMultiVectorMultipleNegativesRankingLoss,
    MultiVectorMultipleNegativesRankingLoss,
)

from baselines.common.clip_pixels import ClipPixels
from baselines.preflmr import PreFLMR
from baselines.preflmr.module import PreFLMRModule, as_multi_vector_encoder, load_multi_vector_encoder
from baselines.preflmr.pictures import Pictures
from baselines.preflmr.retriever import PreFLMRRetriever
from m2kr.errors import M2KRError
from tests.baselines.images import random_images
from tests.baselines.preflmr.make_fixtures import DOCUMENTS, QUERIES
from tests.tolerance import SAME_NETWORK, assert_vectors_near, assert_within, maxsim_table

IMAGES = random_images(4)
PICTURED: list[Any] = [{"text": text, "image": image} for text, image in zip(QUERIES, IMAGES, strict=True)]
PICTURED += [{"text": QUERIES[0], "image": None}, {"text": QUERIES[1], "image": IMAGES[:2]}]


@pytest.mark.parametrize("missing_image", ["black", "none"])
def test_the_encoder_gives_the_models_vectors(either: PreFLMR, missing_image: str) -> None:
    either.configure(missing_image=missing_image)
    encoder = as_multi_vector_encoder(either)
    assert isinstance(encoder, MultiVectorEncoder)
    for inputs in (PICTURED, QUERIES):
        expected = either.encode_query(inputs)
        for batch_size in (2, 32):
            found = encoder.encode_query(inputs, batch_size=batch_size, convert_to_numpy=True)
            assert_vectors_near(found, expected)
    found = encoder.encode_document(DOCUMENTS, batch_size=3, convert_to_numpy=True)
    assert_vectors_near(found, either.encode_document(DOCUMENTS))


def test_similarity_is_the_models_score(model: PreFLMR) -> None:
    encoder = as_multi_vector_encoder(model)
    with torch.no_grad():
        query = model.query(*model.query_tokenizer(QUERIES))
        document = model.document(*model.document_tokenizer(DOCUMENTS))
    passages = [vectors[counted] for vectors, counted in zip(document.embeddings, document.mask, strict=True)]
    model.configure(missing_image="none")
    found = encoder.similarity(encoder.encode_query(QUERIES), encoder.encode_document(DOCUMENTS))
    model.configure(missing_image="black")
    assert_within(found, *maxsim_table(query.embeddings, passages, relative=SAME_NETWORK))


def test_what_was_saved_is_read_again(either: PreFLMR, tmp_path: Path) -> None:
    either.pictures = Pictures(ClipPixels(18, (16, 16), mean=(0.1, 0.2, 0.3)))
    either.configure(query_maxlen=20, doc_maxlen=12)
    encoder = as_multi_vector_encoder(either)
    encoder.prompts["query"] = "look: "
    encoder.save(str(tmp_path / "saved"))
    again = load_multi_vector_encoder(tmp_path / "saved")
    assert again[0].get_config_dict() == encoder[0].get_config_dict()
    assert again[0].model.pictures == either.pictures
    assert again.prompts["query"] == "look: "
    for task in ("query", "document"):
        inputs = PICTURED if task == "query" else DOCUMENTS
        one, other = (getattr(item, f"encode_{task}")(inputs, convert_to_numpy=True) for item in (encoder, again))
        assert_vectors_near(one, other, 0)
    assert again[0].max_seq_length == 12
    assert again.get_embedding_dimension() == 8


def by_retriever(folder: Path) -> PreFLMR:
    retriever = PreFLMRRetriever("flmr", checkpoint=str(folder))
    assert (
        retriever.settings.items() >= {"missing_image": "none", "regions": "grid", "padding_mask": "official"}.items()
    )
    return retriever.model


@pytest.mark.parametrize("as_module", [False, True], ids=["saved as PreFLMR", "saved as MultiVectorEncoder"])
@pytest.mark.parametrize(
    "load",
    [PreFLMR.from_pretrained, lambda folder: load_multi_vector_encoder(folder)[0].model, by_retriever],
    ids=["PreFLMR", "MultiVectorEncoder", "retriever"],
)
def test_every_way_of_loading_gives_what_was_set(
    load: Callable[[Path], PreFLMR], as_module: bool, flmr_folder: Path, tmp_path: Path
) -> None:
    model = PreFLMR.from_pretrained(flmr_folder, padding_mask="official")
    model.pictures = Pictures(ClipPixels(18, (16, 16), mean=(0.1, 0.2, 0.3)))
    model.configure(query_maxlen=20, doc_maxlen=12, missing_image="none", regions="grid")
    as_multi_vector_encoder(model).save(str(tmp_path)) if as_module else model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert (again.query_tokenizer.maxlen, again.document_tokenizer.maxlen) == (20, 12)
    assert (again.settings, again.pictures) == (model.settings, model.pictures)
    assert again.settings.padding_mask == "official"
    inputs = [{"text": "owl " * 30, "image": IMAGES[0]}, "who built it"]
    assert_vectors_near(again.encode_query(inputs), model.encode_query(inputs), 0)
    assert_vectors_near(again.encode_document(["bell " * 30]), model.encode_document(["bell " * 30]), 0)


def test_it_loads_in_another_type(model: PreFLMR, tmp_path: Path) -> None:
    as_multi_vector_encoder(model).save(str(tmp_path / "saved"))
    short = load_multi_vector_encoder(tmp_path / "saved", dtype="bfloat16")
    assert short[0].model.dtype == torch.bfloat16
    (tmp_path / "saved" / "preflmr_module.json").write_text(json.dumps({"missing_image": "white"}))
    with pytest.raises(M2KRError, match=r"preflmr_module\.json .*'white'"):
        load_multi_vector_encoder(tmp_path / "saved")


def test_forward_leaves_its_features_as_they_were(model: PreFLMR) -> None:
    module = PreFLMRModule(model)
    features = module.preprocess(PICTURED, task="query")
    before = {name: value.clone() for name, value in features.items()}
    out = module(features, task="query")
    assert set(features) == set(before)
    assert all(torch.equal(features[name], value) for name, value in before.items())
    assert out["token_embeddings"].shape[:2] == out["attention_mask"].shape
    zero = out["token_embeddings"].norm(dim=2) == 0
    assert torch.equal(zero, out["attention_mask"] == 0)
    assert zero.any()


@pytest.mark.parametrize("with_pictures", [True, False])
def test_cached_and_plain_losses_have_the_same_gradients(either: PreFLMR, with_pictures: bool) -> None:
    """A cached loss cuts batches up, and must not cut the mask tokens off that fill a query up."""
    queries = PICTURED[:4] if with_pictures else QUERIES
    gradients = []
    for make in (MultiVectorMultipleNegativesRankingLoss, CachedMultiVectorMultipleNegativesRankingLoss):
        encoder = as_multi_vector_encoder(either).eval()  # dropout would differ
        either.zero_grad()
        columns = [
            encoder.preprocess(queries, task="query"),
            encoder.preprocess(DOCUMENTS[:4], task="document"),
            encoder.preprocess(DOCUMENTS[4:], task="document"),
        ]
        loss = make(encoder, mini_batch_size=2)(columns)
        loss.backward()
        gradients.append({name: item.grad.clone() for name, item in either.named_parameters() if item.grad is not None})
    plain, cached = gradients
    assert set(plain) == set(cached) == {name for name, item in either.named_parameters() if item.requires_grad}
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-4, rtol=1e-3, msg=name)
    assert sum(float(gradient.abs().sum() > 0) for gradient in plain.values()) > 0.9 * len(plain)


def test_what_it_cannot_read_is_refused(model: PreFLMR) -> None:
    encoder = as_multi_vector_encoder(model)
    assert encoder.modalities == ["text", ("image", "text")]
    with pytest.raises(M2KRError, match="call encode_query or encode_document"):
        encoder.encode(["a"])
    with pytest.raises(ValueError, match="mixes multiple modalities"):
        encoder.encode_query(["a", PICTURED[0]])
    # A text that looks like a file is a text.
    assert encoder.encode_query("bridge.jpg").shape[1] == 8
