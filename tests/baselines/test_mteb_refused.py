"""`baselines.mteb_model`: what of mteb's registry cannot be measured right is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.mteb_model import MtebRetriever
from m2kr.errors import M2KRError
from m2kr.retriever import get_retriever
from tests.baselines.mteb_encoder import Encoder
from tests.baselines.tampered import FAULTS, tampered, with_a_token_more

mteb = pytest.importorskip("mteb", reason="its registry is read; pip install mteb")

from mteb.models import SentenceTransformerEncoderWrapper  # noqa: E402

Register = Callable[..., str]


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
