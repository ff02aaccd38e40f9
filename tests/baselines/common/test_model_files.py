"""Numbers of a config.json that decide how much is built are bounded before any library builds a model of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from baselines.clip import CLIP
from baselines.common.model_folder import check_model_files, read_model_folder
from baselines.common.settings import to_settings
from baselines.dpr import DPR
from baselines.image_text_to_text import ImageTextToText
from baselines.minis.models import model_folder
from baselines.preflmr.checkpoint import find_official
from baselines.preflmr.preflmr import PreFLMR
from baselines.preflmr.training.stages import StageConfig
from baselines.sentence_transformer import SentenceTransformerRetriever
from m2kr.common.json_input import MAX_DEPTH
from m2kr.errors import M2KRError
from tests.damage import damaged_json


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """Copy one of the small models, which the test may change."""

    def copied(name: str) -> Path:
        shutil.copytree(model_folder(name), tmp_path / name)
        return tmp_path / name

    return copied


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


LOADERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "PreFLMR": ("preflmr-mini", PreFLMR.from_pretrained),
    "CLIP": ("clip-mini", lambda path: CLIP(checkpoint=path)),
    "sentence-transformers": ("clip-mini", lambda path: SentenceTransformerRetriever(checkpoint=path)),
    "reader": ("reader-mini", lambda path: ImageTextToText(checkpoint=path)),
}


@pytest.mark.parametrize(("name", "load"), LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"text_config": {"num_hidden_layers": 1_000_000}}, "text_config.num_hidden_layers = 1,000,000"),
        ({"vision_config": {"num_hidden_layers": 1001}}, "vision_config.num_hidden_layers = 1,001"),
        ({"depths": [1, 2, 5000]}, "depths = 5,000"),
        ({"hidden_size": 1 << 40}, "hidden_size = 1,099,511,627,776"),
        ({"vocab_size": 1e9}, "vocab_size = "),
        ({"projection_dim": -(1 << 20)}, "projection_dim = -1,048,576"),
        (
            {"text_config": {"vocab_size": 1 << 24, "hidden_size": 128}},
            "text_config.vocab_size = 16,777,216, which with",
        ),
        ({"text_config": {"hidden_size": 100_000}}, "text_config.hidden_size = 100,000, which with a width of 100,000"),
        ({"text_config": {"num_layers": 1000, "d_model": 512}}, "text_config.num_layers = 1,000, which with a width"),
        (
            {"vision_config": {"image_size": 1 << 17, "patch_size": 8, "hidden_size": 64}},
            "vision_config.image_size = 131,072, which with",
        ),
    ],
)
def test_every_loader_refuses_sizes_that_no_model_has(folder, name, load, values, says):
    path = folder(name)
    change(path / "config.json", **values)
    with pytest.raises(M2KRError) as refused:
        load(str(path))
    assert f"config.json says {says}" in str(refused.value)


def test_both_halves_of_dpr_are_looked_at(tmp_path):
    for part in ("question_encoder", "ctx_encoder"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    change(tmp_path / "ctx_encoder" / "config.json", num_hidden_layers=10**6)
    with pytest.raises(M2KRError, match="num_hidden_layers = 1,000,000"):
        DPR(checkpoint=str(tmp_path))


def test_all_json_of_a_model_is_bounded_in_depth(folder):
    path = folder("clip-mini")
    check_model_files(path)
    (path / "tokenizer.json").write_text("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    with pytest.raises(M2KRError, match=r"tokenizer\.json cannot be read: nested too deeply"):
        find_official(path)


@pytest.mark.parametrize(
    ("name", "load", "damages"),
    [
        ("preflmr-mini", PreFLMR.from_pretrained, 25),
        ("clip-mini", lambda path: CLIP(checkpoint=path), 25),
        ("clip-mini", lambda path: SentenceTransformerRetriever(checkpoint=path, pooling=None), 6),
        ("clip-mini", lambda path: read_model_folder(Path(path)), 40),
        ("reader-mini", lambda path: ImageTextToText(checkpoint=path), 8),
    ],
    ids=["PreFLMR", "CLIP", "sentence-transformers", "kind", "reader"],
)
def test_damaged_configurations_are_loaded_or_refused_in_a_line(folder, name, load, damages):
    path = folder(name)
    files = [*sorted(path.rglob("*config*.json"))]
    whole = {file: file.read_text(encoding="utf-8") for file in files}
    refused, defects = 0, []
    for number in range(damages):
        random = Random(f"{name} {number}")
        file = random.choice(files)
        file.write_bytes(damaged_json(whole[file], random))
        try:
            load(str(path))
        except M2KRError:
            refused += 1
        except Exception as error:
            defects.append(f"{file.name} {file.read_bytes()[:400]!r}: {error!r}")
        file.write_text(whole[file], encoding="utf-8")
    assert not defects, "\n".join(defects)
    assert refused


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "scale", "steps", "seed"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**30])
def test_settings_of_training_are_finite_and_fit(name, value):
    values = {"stage": 4, "tasks": {"OKVQA": 1.0}, "steps": 1, "batch_size": 2, "learning_rate": 1e-3, name: value}
    with pytest.raises(M2KRError, match=rf"{name} is .*2,147,483,647 at most"):
        to_settings(StageConfig, values)
    with pytest.raises(M2KRError, match=r"tasks\.OKVQA is nan"):
        to_settings(StageConfig, {**values, name: 1, "tasks": {"OKVQA": float("nan")}})
