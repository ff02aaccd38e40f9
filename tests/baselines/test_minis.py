"""The small models: that those in the repository load and find, and that they can be made anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from baselines.minis import OneVectorRetriever, clip_mini, judging, preflmr_mini, recipe
from baselines.minis.models import RETRIEVERS, SEED, SINGLE_SCALE, model_folder
from baselines.preflmr.training import encoders
from m2kr.dataset import load_task
from m2kr.errors import run_command
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.images.roots import parse_roots
from m2kr.retriever import Retriever
from m2kr.tasks import TASKS
from tests.tolerance import assert_vectors_near

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("unsampled")]

MAKERS = {"clip-mini": clip_mini, "dpr-mini": OneVectorRetriever, "preflmr-mini": preflmr_mini}


@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_committed_model_is_a_retriever_with_a_card(name: str) -> None:
    retriever = MAKERS[name]()
    assert isinstance(retriever, Retriever)
    assert retriever.name == name
    assert retriever.reads == {"text", "image"}
    card = (model_folder(name) / "README.md").read_text()
    assert f"seed {SEED}" in card
    assert "make train-mini" in card


def test_the_committed_models_are_small() -> None:
    sizes = [path.stat().st_size for name in RETRIEVERS for path in model_folder(name).rglob("*") if path.is_file()]
    assert sum(sizes) < 12_000_000


def some_tasks(patch: pytest.MonkeyPatch, *keys: str) -> None:
    """Judge on these tasks alone; of each kind of query there is one among those that are named here."""
    patch.setattr(judging, "TASKS", {key: TASKS[key] for key in keys})


@pytest.fixture(scope="module")
def judged(built: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[judging.Scores, str]:
    """Scores of the committed models on a world that they were not trained on, and the report of them."""
    out = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        some_tasks(patch, "WIT", "MSMARCO", "OVEN", "EVQA")
        patch.setattr("m2kr.evaluate.batch_effect.SAMPLED", 0)
        scores = judging.judge_retrievers(None, built, parse_roots([str(world)]), out, quiet=True)
        return scores, judging.retrievers_report(scores)


def test_the_committed_models_are_judged(judged: tuple[judging.Scores, str]) -> None:
    scores, report = judged
    assert {tuple(found) for found in scores.values()} == {("WIT", "MSMARCO", "OVEN", "EVQA")}
    for name in ("bm25", *RETRIEVERS):
        assert f"| {name} |" in report


@pytest.mark.parametrize(("name", "key", "least"), [
    ("clip-mini", "WIT", 0.9), ("dpr-mini", "OVEN", 0.7), ("preflmr-mini", "OVEN", 0.9), ("preflmr-mini", "EVQA", 0.6),
])  # fmt: skip
def test_a_committed_model_finds_passages_of_another_world(
    judged: tuple[judging.Scores, str], name: str, key: str, least: float
) -> None:
    assert judged[0][name][key].mean() >= least


def test_clip_mini_finds_more_with_the_pictures_of_passages(
    illustrated: Path, world: Path, passage_pictures: Path, tmp_path: Path
) -> None:
    """Its towers were trained on pictures with texts; a passage's picture is another one of what the query shows."""
    data = load_task("EVQA", illustrated, "test", images=parse_roots([str(world), str(passage_pictures)]))
    found, without = (
        evaluate_task(clip_mini(), data, tmp_path / str(off), TaskOptions(quiet=True, ignore_passage_images=off))
        for off in (False, True)
    )
    assert (found["passage_images"], without["passage_images"]) == ("read", "ignored")
    measure = data.task.metrics[0]
    assert found["metrics"][measure] > without["metrics"][measure] + 0.1


def test_one_vector_is_the_mean_of_all() -> None:
    many, one = preflmr_mini(checkpoint=str(model_folder("dpr-mini"))), OneVectorRetriever()
    picture = Image.effect_noise((80, 70), 60).convert("RGB")
    inputs = [{"text": "Find it: a bird?", "image": picture}, {"text": "Find it: a boat?", "image": picture}]
    for encode, short, passages, length in (
        (many.encode_query, one.encode_query, inputs, SINGLE_SCALE),
        (many.encode_document, one.encode_document, ["a bird", "a boat with two sails"], 1),
    ):
        means = np.stack([vectors.mean(axis=0) for vectors in encode(passages)])
        expected = length * means / np.linalg.norm(means, axis=1, keepdims=True)
        assert_vectors_near(short(passages), expected)
    assert one.encode_query([]).shape == (0, 128)


@pytest.mark.usefixtures("worlds_there")
def test_a_small_model_can_be_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps of one, each for an update or two."""
    some_tasks(monkeypatch, "MSMARCO", "OVEN")
    values = {"steps": 2, "evaluate_every": 2, "log_every": 1, "batch_size": 4, "warmup_steps": 1}
    values |= {"valid_queries": 4, "valid_passages": 10}
    work = tmp_path / "work"
    command = ["--work", str(work), "--scale", "0.1", "--test-scale", "0.05", "--models", "dpr-mini", "--jobs", "1"]
    command += ["--quiet", *(f"--set={name}={value}" for name, value in values.items())]
    assert run_command(recipe.main, command) == 0
    folders = [work / "clip", *(work / "dpr" / stage for stage in recipe.STAGES)]
    written = {folder: (folder / "model.safetensors").stat().st_mtime_ns for folder in folders}
    changes = tuple(f"{name}={value}" for name, value in values.items())
    options = recipe.RecipeOptions(work=work, scale=0.1, jobs=1, set=changes, quiet=True)
    recipe.make_models(options, ["dpr-mini"])  # everything is there
    assert {folder: (folder / "model.safetensors").stat().st_mtime_ns for folder in folders} == written
    exported = load_file(work / "minis" / "dpr-mini" / "model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.float16}
    for name in ("clip-mini", "dpr-mini"):
        assert "make train-mini" in (work / "minis" / name / "README.md").read_text()
    scores = (work / "judged" / "scores.md").read_text()
    assert "| dpr-mini stage1 |" in scores
    assert "| dpr-mini (stage 4) |" in scores
    assert OneVectorRetriever(checkpoint=str(work / "minis" / "dpr-mini")).encode_query(["a"]).shape == (1, 128)


def test_encoders_begin_the_same_each_time(built: Path, tmp_path: Path) -> None:
    texts = load_task("EVQA", built, "train").passages["passage_content"].to_list()
    for write, names in (
        (encoders.write_bert, ["vocab.txt", "model.safetensors"]),
        (encoders.write_clip, ["vocab.json", "merges.txt", "model.safetensors"]),
    ):
        folders = [tmp_path / f"{write.__name__}-{run}" for run in range(3)]
        for folder in folders:
            write(texts, folder, 5)
        for name in names:
            assert len({(folder / name).read_bytes() for folder in folders}) == 1


def test_differences_of_means_are_paired() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    scores = {
        "a": {"OKVQA": (hard > 0.4).astype(float), "EVQA": (hard > 0.5).astype(float)},
        "b": {"OKVQA": (hard > 0.5).astype(float), "EVQA": (hard > 0.5).astype(float)},
    }
    mean, low, high = judging.difference(scores, "a", "b", ["OKVQA", "EVQA"])
    expected = np.mean([(scores["a"][key] - scores["b"][key]).mean() for key in ("OKVQA", "EVQA")])
    assert mean == pytest.approx(expected)
    assert 0 < low < mean < high < 2 * mean
    assert judging.difference(scores, "a", "a", ["OKVQA", "EVQA"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--models", "bert"], "--models names 'bert'"),
        (["--scale", "0"], "--scale is 0"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--seed", "0"], "take another"),
        (["--set", "steps"], "NAME=VALUE"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    command: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(recipe.main, ["--work", str(tmp_path), *command]) == 2
    assert message in capsys.readouterr().err
