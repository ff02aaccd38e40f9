"""`baselines.common.model_folder`: what folders hold, and those that a loader would turn into something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertModel

from baselines.common.model_folder import PROMPTS
from baselines.sentence_transformer import SentenceTransformerRetriever
from m2kr.errors import M2KRError
from m2kr.retriever import get_retriever

QUERIES = ["Which owl lives here?", "tower"]
PASSAGES = ["An owl.", "The tower is tall and stands beside the river.", "A boat."]


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("sparse", ("sparse encoder",)),
        ("cross", ("reranker", "CrossEncoder")),
        ("classifier", ("reranker",)),
        ("half", ("DPRContextEncoder", "--model dpr")),
        ("foreign", ("their_package.Module", "not run")),
        ("auto-map", ("auto_map", "not run")),
        ("blip2", ("Blip2ForImageTextRetrieval",)),
        ("generator", ("generator", "Qwen2VLForConditionalGeneration", "--checkpoint")),
        ("stanford-without-metadata", ("artifact.metadata",)),
        ("bare", ("bare encoder", "--option pooling=mean|cls|last")),
        ("masked", ("bare encoder",)),
        ("euclidean", ("euclidean",)),
        ("manhattan", ("manhattan",)),
    ],
)
def test_what_no_dense_search_can_measure_is_refused_by_name(
    folders: Callable[[str], Path], name: str, facts: tuple[str, ...]
) -> None:
    with pytest.raises(M2KRError) as error:
        SentenceTransformerRetriever(checkpoint=str(folders(name)))
    assert all(fact in str(error.value) for fact in facts)
    assert str(folders(name)) in str(error.value)


@pytest.mark.parametrize(
    ("name", "fact"), [("lacking", "encoder.layer.0.attention.self.query.weight"), ("left", "projection.weight")]
)
def test_weights_that_are_made_up_or_left_over_are_refused(
    folders: Callable[[str], Path], name: str, fact: str
) -> None:
    with pytest.raises(M2KRError, match=fact):
        SentenceTransformerRetriever(checkpoint=str(folders(name)), pooling="mean")


def test_a_projection_that_only_colbert_has_is_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("bare"), tmp_path / "bare")
    tensors = load_file(folder / "model.safetensors") | {"linear.weight": torch.zeros(2, 2)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(M2KRError, match=r"linear\.weight, which nothing took"):
        SentenceTransformerRetriever(checkpoint=str(folder), pooling="mean")


def spoiled(folder: Path, file: str, change: str) -> None:
    """Take a file or folder away, write a JSON file, or take the architectures out of one."""
    if change == "remove":
        (shutil.rmtree if (folder / file).is_dir() else Path.unlink)(folder / file)
    elif change == "unnamed":
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**config, "architectures": None}))
    else:
        (folder / file).write_text(change)


@pytest.mark.parametrize(
    ("name", "file", "change", "facts"),
    [
        ("stanford", "config.json", "unnamed", ("artifact.metadata", "HF_ColBERT")),
        ("many", "1_Dense", "remove", ("no 1_Dense", "modules.json")),
        ("cosine", "adapter_config.json", "{}", ("adapter", "Merge")),
        ("many", "config_sentence_transformers.json", "remove", ("no config_sentence_transformers.json", "prompts")),
        ("last-with-prompt", "config_sentence_transformers.json", "remove", ("no config_sentence", "--option prompt=")),
    ],
)
def test_half_a_download_and_what_lies_beside_a_model_are_refused(
    folders: Callable[[str], Path], tmp_path: Path, name: str, file: str, change: str, facts: tuple[str, ...]
) -> None:
    folder = shutil.copytree(folders(name), tmp_path / name)
    SentenceTransformerRetriever(checkpoint=str(folder))
    spoiled(folder, file, change)
    with pytest.raises(M2KRError) as error:
        SentenceTransformerRetriever(checkpoint=str(folder))
    assert all(fact in str(error.value) for fact in facts), str(error.value)


@pytest.mark.parametrize("name", ["cosine", "dot"])
def test_ranking_and_scores_are_those_of_the_model_s_similarity(folders: Callable[[str], Path], name: str) -> None:
    folder = folders(name)
    retriever, model = SentenceTransformerRetriever(checkpoint=str(folder)), SentenceTransformer(str(folder))
    found = retriever.encode_query(QUERIES) @ retriever.encode_document(PASSAGES).T
    wanted = model.similarity(model.encode_query(QUERIES), model.encode_document(PASSAGES)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    norms = np.linalg.norm(retriever.encode_document(PASSAGES), axis=1)
    assert np.allclose(norms, 1.0) == (name == "cosine")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_long_vectors_are_normalised_in_any_type(folders: Callable[[str], Path], dtype: str) -> None:
    """The squares of these lengths are beyond float16."""
    vectors = SentenceTransformerRetriever(checkpoint=str(folders("long")), dtype=dtype).encode_document(PASSAGES)
    exact = SentenceTransformer(str(folders("long"))).encode_document(PASSAGES)
    assert np.linalg.norm(exact, axis=1).min() > 1000
    np.testing.assert_allclose(vectors, exact / np.linalg.norm(exact, axis=1, keepdims=True), atol=2e-3)


@pytest.mark.parametrize("name", ["many", "pylate", "stanford"])
def test_late_interaction_is_recognised_whoever_saved_it(folders: Callable[[str], Path], name: str) -> None:
    folder = folders(name)
    retriever, model = SentenceTransformerRetriever(checkpoint=str(folder)), MultiVectorEncoder(str(folder))
    assert retriever.vectors == "multi"
    for verb in ("encode_query", "encode_document"):
        for found, wanted in zip(getattr(retriever, verb)(PASSAGES), getattr(model, verb)(PASSAGES), strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)
    assert retriever.encode_query(QUERIES)[0].shape[1] == (16 if name == "stanford" else 128)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_bare_encoder_is_pooled_as_asked_and_named_so(folders: Callable[[str], Path], pooling: str) -> None:
    folder = folders("bare")
    retriever = SentenceTransformerRetriever(checkpoint=str(folder), pooling=pooling)
    assert retriever.name == f"bare-{pooling}"
    tokens = AutoTokenizer.from_pretrained(folder)(PASSAGES[:1], return_tensors="pt")
    with torch.no_grad():
        states = BertModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0]
    wanted = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
    np.testing.assert_allclose(
        retriever.encode_document(PASSAGES)[0], torch.nn.functional.normalize(wanted, dim=0).numpy(), atol=1e-5
    )


def test_pooling_of_a_model_that_has_its_own_is_refused(folders: Callable[[str], Path]) -> None:
    with pytest.raises(M2KRError, match="pooling=cls"):
        SentenceTransformerRetriever(checkpoint=str(folders("cosine")), pooling="cls")


def test_a_prompt_of_one_s_own_changes_queries_alone(folders: Callable[[str], Path]) -> None:
    folder = str(folders("cosine"))
    plain = SentenceTransformerRetriever(checkpoint=folder)
    told = SentenceTransformerRetriever(checkpoint=folder, prompt="Find the page: ", instructions="yes")
    assert (plain.reads_instructions, told.reads_instructions) == (False, True)
    np.testing.assert_allclose(
        told.encode_query(QUERIES), plain.encode_query([f"Find the page: {query}" for query in QUERIES]), atol=1e-6
    )
    np.testing.assert_array_equal(told.encode_document(PASSAGES), plain.encode_document(PASSAGES))


def test_an_empty_prompt_is_none(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Also of a model without the file that would have its prompts, as some are published."""
    folder = folders("last-with-prompt")
    plain = SentenceTransformerRetriever(checkpoint=str(folder))
    bare = SentenceTransformerRetriever(checkpoint=str(folder), prompt="")
    np.testing.assert_allclose(bare.encode_query(QUERIES), plain.encode_document(QUERIES), atol=1e-6)
    assert np.abs(bare.encode_query(QUERIES) - plain.encode_query(QUERIES)).max() > 1e-3
    shutil.copytree(folder, tmp_path / "untold")
    (tmp_path / "untold" / PROMPTS).unlink()
    untold = SentenceTransformerRetriever(checkpoint=str(tmp_path / "untold"), prompt="")
    np.testing.assert_allclose(untold.encode_query(QUERIES), bare.encode_query(QUERIES), atol=1e-6)


def test_a_table_of_word_vectors_without_one_of_a_token_is_refused(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "owl": 1, "tower": 2, "the": 3, "boat": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)]).save(str(tmp_path / "words"))
    (tokens,) = (tmp_path / "words").rglob("tokenizer.json")
    SentenceTransformerRetriever(checkpoint=str(tmp_path / "words"))
    words.add_tokens(["bridge"])
    words.save(str(tokens))
    with pytest.raises(M2KRError, match="token ids up to 5, and the model knows 5 tokens"):
        SentenceTransformerRetriever(checkpoint=str(tmp_path / "words"))


@pytest.mark.parametrize("option", [{"prompt": "Find: "}, {"instructions": "yes"}])
def test_what_an_option_changes_is_not_taken_for_earlier_work(
    folders: Callable[[str], Path], option: dict[str, str]
) -> None:
    """Settings are part of the key by which embeddings and finished work are found again."""
    folder = str(folders("cosine"))
    assert get_retriever(folder, options=option).settings != get_retriever(folder).settings


@pytest.mark.parametrize(
    "option",
    [{"fusion": "mean"}, {"instructions": "true"}, {"image_first": "1"}],
    ids=lambda option: next(iter(option)),
)
def test_options_take_the_values_listed_only(folders: Callable[[str], Path], option: dict[str, str]) -> None:
    with pytest.raises(M2KRError, match=next(iter(option.values()))):
        SentenceTransformerRetriever(checkpoint=str(folders("cosine")), **option)
