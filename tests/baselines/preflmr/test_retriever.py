"""The registered PreFLMR retrievers, and the command that evaluates one."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from baselines.preflmr.retriever import PreFLMRRetriever
from m2kr.dataset import load_task, query_text
from m2kr.errors import M2KRError
from m2kr.evaluate.__main__ import main
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.images.roots import parse_roots
from m2kr.results.record import read_result
from m2kr.retriever import Retriever, get_retriever, instruction_end, reads_passage_images
from tests.baselines.images import random_image
from tests.tolerance import assert_vectors_near


@pytest.mark.parametrize("name", ["preflmr-vit-b", "preflmr-vit-l", "preflmr-vit-g", "preflmr-vit-l-encn", "flmr"])
def test_every_name_loads_a_checkpoint(name: str, folder: Path, flmr_folder: Path, tmp_path: Path) -> None:
    origin = flmr_folder if name == "flmr" else folder
    used = shutil.copytree(origin, tmp_path / "mine", ignore=shutil.ignore_patterns("expected.safetensors"))
    retriever = get_retriever(name, checkpoint=str(used))
    assert isinstance(retriever, PreFLMRRetriever)
    assert isinstance(retriever, Retriever)
    assert (retriever.name, retriever.vectors, retriever.reads_instructions) == (used.name, "multi", True)
    assert retriever.reads == {"text", "image"}
    settings = retriever.settings
    assert settings["checkpoint"] == used.name
    assert settings["checkpoint_sha256"] == hashlib.sha256((used / "model.safetensors").read_bytes()).hexdigest()
    assert (settings["missing_image"], settings["query_maxlen"], settings["doc_maxlen"]) == ("black", 32, 64)
    json.dumps(settings)
    assert len(pickle.dumps(retriever.prepare_image)) < 2000
    assert retriever.prepare_image(random_image(0)).shape == (16, 16, 3)


def test_options_change_what_is_encoded(folder: Path, flmr_folder: Path) -> None:
    options = {"missing_image": "none", "query_maxlen": "8", "doc_maxlen": "6"}
    retriever: Any = get_retriever("preflmr-vit-b", checkpoint=str(folder), options=options)
    assert retriever.settings["options"] == options
    assert retriever.settings["query_maxlen"] == 8
    assert len(retriever.encode_query(["owl " * 9])[0]) == 8
    assert len(retriever.encode_document(["owl " * 9])[0]) == 6
    grid: Any = get_retriever("flmr", checkpoint=str(flmr_folder), options={"regions": "grid"})
    assert grid.prepare_image(random_image(0)).shape == (10, 16, 16, 3)
    assert grid.settings["regions"] == "grid"


def test_pictures_of_passages_are_read_where_the_configuration_says_so(folder: Path, tmp_path: Path) -> None:
    used = shutil.copytree(folder, tmp_path / "mine")
    assert not reads_passage_images(get_retriever("preflmr-vit-b", checkpoint=str(used)))
    config = json.loads((used / "config.json").read_text())
    config["context_concat_output_from_vision_encoder"] = True
    (used / "config.json").write_text(json.dumps(config))
    retriever: Any = get_retriever("preflmr-vit-b", checkpoint=str(used))
    assert reads_passage_images(retriever)
    picture = random_image(0)
    plain, seen, prepared = retriever.encode_document(
        [
            "a red owl",
            {"text": "a red owl", "image": picture},
            {"text": "a red owl", "image": retriever.prepare_image(picture)},
        ]
    )
    assert len(seen) == len(plain) + config["mapping_network_prefix_length"]
    assert_vectors_near(prepared, seen)
    assert_vectors_near(seen[-len(plain) :], plain)


def test_an_evaluation_gives_it_the_pictures_of_passages(
    folder: Path, illustrated: Path, world: Path, passage_pictures: Path, tmp_path: Path
) -> None:
    used = shutil.copytree(folder, tmp_path / "mine")
    config = json.loads((used / "config.json").read_text())
    config["context_concat_output_from_vision_encoder"] = True
    (used / "config.json").write_text(json.dumps(config))
    data = load_task("OVEN", illustrated, images=parse_roots([str(world), str(passage_pictures)]))
    retriever = get_retriever("preflmr-vit-b", checkpoint=str(used))
    result = evaluate_task(retriever, data, tmp_path / "out", TaskOptions(quiet=True, batch_size=4))
    assert result["passage_images"] == "read"
    assert result["batch_effect"] is not None
    assert max(result["batch_effect"].values()) < 1e-5


@pytest.mark.parametrize("token", [":", ";"])
def test_an_instruction_ends_as_the_checkpoint_says(token: str, folder: Path, tmp_path: Path) -> None:
    """The official example puts ``mask_instruction_token`` for every colon of an instruction."""
    used = shutil.copytree(folder, tmp_path / "mine")
    config = json.loads((used / "config.json").read_text())
    (used / "config.json").write_text(json.dumps({**config, "mask_instruction_token": token}))
    retriever: Any = get_retriever("preflmr-vit-b", checkpoint=str(used), options={"missing_image": "none"})
    text = query_text("find: the passage", "who built it: an owl?", instruction_end(retriever))
    assert text == f"find{token} the passage{token} who built it: an owl?"
    (vectors,) = retriever.encode_query([text])
    assert len(vectors) == 32 - 2  # find, and the first token


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("preflmr-vit-b", {"missing_image": "blak"}, r"Did you mean black\?.*Choose one of black, none"),
        ("flmr", {"regions": "boxes"}, r"regions 'boxes' is not known.*whole, grid"),
        ("preflmr-vit-l-encn", {"padding_mask": "x"}, r"padding_mask 'x' is not known.*sane, official"),
        ("preflmr-vit-b", {"query_maxlen": "many"}, "query_maxlen=many: it has to be a whole number"),
        ("preflmr-vit-b", {"doc_maxlen": "65"}, "doc_maxlen is 65; the text encoder takes 4 to 64 tokens"),
        ("preflmr-vit-g", {"regions": "grid"}, "regions=grid is for FLMR"),
    ],
)
def test_impossible_options_are_refused(
    name: str, options: dict[str, str], message: str, folder: Path, flmr_folder: Path
) -> None:
    checkpoint = flmr_folder if name == "flmr" else folder
    with pytest.raises(M2KRError, match=message):
        get_retriever(name, checkpoint=str(checkpoint), options=options)


def test_without_the_hub_the_files_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(M2KRError, match=r"PreFLMR_ViT-B.*config.json, model.safetensors, query_tokenizer/") as caught:
        get_retriever("preflmr-vit-b")
    assert "\n" not in str(caught.value)


def test_evaluate_runs_a_checkpoint(
    built: Path, world: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", "preflmr-vit-b", "--checkpoint", str(folder), "--data", str(built), "--images", str(world)]
    command += ["--tasks", "OKVQA,MSMARCO", "--quiet", "--workers", "0", "--limit", "12"]
    arguments = [*command, "--option", "query_maxlen=24"]
    assert main([*arguments, "--out", str(tmp_path / "one"), "--batch-size", "3"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "two")]) == 0
    assert "OKVQA" in capsys.readouterr().out
    for task in ("OKVQA", "MSMARCO"):
        one, two = (read_result(tmp_path / name / "preflmr" / f"{task}.json") for name in ("one", "two"))
        assert one["model_settings"]["options"] == {"query_maxlen": "24"}
        assert one["instructions"]
        assert not one["ignored_inputs"]
        assert one["metrics"] == two["metrics"]
