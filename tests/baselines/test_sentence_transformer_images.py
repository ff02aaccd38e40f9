"""`baselines.sentence_transformer` with models that read pictures: apart (CLIP, SigLIP), or in late interaction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.sentence_transformer import SentenceTransformerRetriever
from m2kr.dataset import load_task
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.images.roots import ImageRoots
from m2kr.results.run import Run
from m2kr.retriever import get_retriever
from tests.baselines.families.references import siglip2
from tests.baselines.images import MODES, write_picture

TEXTS = ["an owl", "a tower that is very tall and stands beside the river"]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(2)]


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_pictures_are_read_and_both_parts_count(
    folders: Callable[[str], Path], pictures: list[Image.Image], name: str
) -> None:
    folder = str(folders(name))
    by = {how: SentenceTransformerRetriever(checkpoint=folder, fusion=how) for how in ("sum", "image", "text")}
    assert by["sum"].reads == {"text", "image"}
    assert by["text"].reads == {"text"}
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


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_a_passage_with_a_picture_is_both_and_as_long_as_a_text(
    folders: Callable[[str], Path], pictures: list[Image.Image], name: str
) -> None:
    folder = str(folders(name))
    by = {how: SentenceTransformerRetriever(checkpoint=folder, fusion=how) for how in ("sum", "image", "text")}
    assert [by[how].reads_passage_images for how in ("sum", "image", "text")] == [True, True, False]
    passages = [TEXTS[0], {"text": TEXTS[1], "image": pictures[1]}]
    found = by["sum"].encode_document(passages)
    picture = by["image"].encode_document([{"text": "", "image": pictures[1]}])[0]
    text = by["text"].encode_document([TEXTS[1]])[0]
    both = (picture + text) / np.linalg.norm(picture + text)
    np.testing.assert_allclose(found[1], both, atol=1e-5)
    np.testing.assert_allclose(found[0], by["text"].encode_document([TEXTS[0]])[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_vectors_depend_neither_on_the_batch_nor_on_what_kinds_it_mixes(
    folders: Callable[[str], Path], pictures: list[Image.Image], name: str
) -> None:
    retriever = SentenceTransformerRetriever(checkpoint=str(folders(name)))
    mixed = [TEXTS[0], {"text": TEXTS[1], "image": pictures[0]}, {"text": "", "image": pictures[1]}, TEXTS[1]]
    together = retriever.encode_query(mixed, batch_size=4)
    alone = np.concatenate([retriever.encode_query([item]) for item in mixed])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_a_folder_of_transformers_is_read_as_one_of_sentence_transformers(
    folders: Callable[[str], Path], pictures: list[Image.Image], name: str
) -> None:
    one, other = (SentenceTransformerRetriever(checkpoint=str(folders(kind))) for kind in (name, f"{name}-modules"))
    assert one.reads == {"text", "image"}
    query = [{"text": TEXTS[0], "image": pictures[0]}]
    np.testing.assert_allclose(one.encode_query(query), other.encode_query(query), atol=1e-5)
    np.testing.assert_allclose(one.encode_document(TEXTS), other.encode_document(TEXTS), atol=1e-5)


def test_a_task_of_pictures_alone_is_done_by_a_model_that_reads_them(
    folders: Callable[[str], Path], built: Path, world: Path, tmp_path: Path
) -> None:
    """WIT asks with pictures; the same evaluation without them gives every query one vector."""
    retriever = get_retriever(str(folders("clip")))
    data = load_task("WIT", built, images=str(world), limit=12)
    found = {}
    for name, blind in (("seen", False), ("blind", True)):
        result = evaluate_task(retriever, data, tmp_path / name, TaskOptions(quiet=True, ignore_images=blind))
        assert result["ignored_inputs"] == (["image"] if blind else [])
        ranked = Run.read_trec(tmp_path / name / "WIT.run.trec.gz").passage_ids
        found[name] = len({tuple(ids[:5]) for ids in ranked})
    assert found["blind"] == 1 < found["seen"]


@pytest.mark.parametrize("name", MODES)
def test_a_picture_of_any_mode_is_read_as_in_an_evaluation(
    folders: Callable[[str], Path], name: str, tmp_path: Path
) -> None:
    write_picture(name, tmp_path / name)
    retriever = SentenceTransformerRetriever(checkpoint=str(folders("clip")))
    given, decoded = (
        retriever.encode_query([{"text": "", "image": image}])
        for image in (Image.open(tmp_path / name), ImageRoots([tmp_path]).open(name))
    )
    np.testing.assert_array_equal(given, decoded)


def test_a_siglip_of_fewer_positions_reads_so_many_tokens(folders: Callable[[str], Path]) -> None:
    folder = folders("siglip2-short")
    with torch.no_grad():
        wanted = [siglip2(folder, text, None, query=False) for text in TEXTS]
    vectors = SentenceTransformerRetriever(checkpoint=str(folder)).encode_document(TEXTS)
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
