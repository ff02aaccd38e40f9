"""The same model through `m2kr.evaluate`, and through mteb by two ways; the hit rates are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from baselines.preflmr.module import as_multi_vector_encoder
from baselines.preflmr.preflmr import PreFLMR
from baselines.preflmr.retriever import PreFLMRRetriever
from m2kr.dataset import load_task
from m2kr.errors import M2KRError
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.export import mteb_task, search_model
from m2kr.export.task import export_task
from m2kr.images.roots import parse_roots

TASK = "LLaVA"


@pytest.fixture(scope="module")
def by_mteb(built: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], Any]]:
    """Return the scores mteb computes of a model on a synthetic task with pictures."""
    mteb = pytest.importorskip("mteb", reason="mteb evaluates; pip install mteb")
    from datasets import config

    folder = tmp_path_factory.mktemp("mteb")
    export_task(built, TASK, "mteb", folder / "export", images=parse_roots([str(world)]), quiet=True)
    cache, config.HF_DATASETS_CACHE = config.HF_DATASETS_CACHE, folder / "cache"

    def run(model: Any) -> Any:
        task = mteb_task(folder / "export", TASK)
        found = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
        return found.task_results[0].scores["test"][0]

    yield run
    config.HF_DATASETS_CACHE = cache


@pytest.fixture(scope="module")
def ours(built: Path, world: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    data = load_task(TASK, built, images=parse_roots([str(world)]))
    retriever = PreFLMRRetriever("preflmr-vit-b", checkpoint=str(folder))
    return evaluate_task(retriever, data, tmp_path_factory.mktemp("ours"), TaskOptions(quiet=True))["metrics"]


def check_equal(scores: dict[str, float], ours: dict[str, float]) -> None:
    assert 0 < ours["Recall@5"] < 1
    for k in (1, 5, 10, 20, 100):
        assert scores[f"hit_rate_at_{k}"] == pytest.approx(ours[f"Recall@{k}"], abs=1e-6)


def test_our_search_in_mteb(by_mteb: Callable[[Any], Any], ours: dict[str, float], folder: Path) -> None:
    check_equal(by_mteb(search_model(PreFLMRRetriever("preflmr-vit-b", checkpoint=str(folder)))), ours)


def test_mtebs_own_search(by_mteb: Callable[[Any], Any], ours: dict[str, float], model: PreFLMR) -> None:
    models = pytest.importorskip("mteb.models", reason="mteb evaluates; pip install mteb")
    seen: list[int] = []
    assert model.vision_encoder is not None
    hook = model.vision_encoder.embeddings.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    wrapper = models.MultiVectorWrapper(as_multi_vector_encoder(model))
    changes = {"modalities": ["text", "image"], "name": "m2kr/preflmr", "revision": "test"}
    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(update=changes)
    scores = by_mteb(wrapper)
    hook.remove()
    # Had mteb left the pictures out, one black picture a batch would have been encoded.
    assert sum(seen) > len(seen)
    check_equal(scores, ours)


def test_mtebs_own_description_would_leave_the_pictures_out_and_is_refused(
    by_mteb: Callable[[Any], Any], model: PreFLMR
) -> None:
    with pytest.raises(M2KRError, match=f"M2KR{TASK} asks with images.*names only text"):
        by_mteb(as_multi_vector_encoder(model))
