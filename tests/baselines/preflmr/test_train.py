"""The training stages with a tiny model on a small made-up world."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import MultiVectorEncoder

from baselines.common.settings import parse_changes, read_settings
from baselines.preflmr import PreFLMR
from baselines.preflmr.module import PreFLMRModule
from baselines.preflmr.train import main, run_stage
from baselines.preflmr.training.heads import ImageVectors, OneVector
from baselines.preflmr.training.runs import FiniteLoss
from baselines.preflmr.training.stages import StageConfig, config_file, trained_names
from baselines.preflmr.training.trainer import PipelineTrainer, loss_of
from m2kr.errors import M2KRError, run_command
from m2kr.images.roots import parse_roots
from tests.baselines.preflmr.reference import contrastive_losses
from tests.kills import Killed
from tests.tolerance import assert_within, same_network_errors

pytestmark = pytest.mark.long

TINY: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-3, "evaluate_every": 2, "log_every": 1, "negatives": 1}


def tiny(stage: int, *tasks: str, **changes: Any) -> StageConfig:
    values: dict[str, Any] = {**TINY, "steps": 2, **changes}
    return StageConfig(stage=stage, tasks=dict.fromkeys(tasks, 1.0), **values)


def command(folder: Path, data: Path, world: Path, out: Path, *more: str) -> list[str]:
    settings = [f"--set={name}={value}" for name, value in TINY.items()]
    return [
        "--stage", "4", "--init", str(folder), "--data", str(data), "--images", str(world), "--out", str(out),
        "--quiet", *settings, "--set=precision=float32", "--set=accumulate=2", "--set=mini_batch=2",
        "--set=tasks=EVQA,MSMARCO", "--set=validate=EVQA", "--set=valid_queries=6", "--set=valid_passages=12",
        "--set=schedule=linear", "--set=warmup_steps=1", "--set=steps=6", *more,
    ]  # fmt: skip


def losses(out: Path) -> list[tuple[int, float]]:
    log = json.loads((out / "training.json").read_text())["log"]
    return [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]


@pytest.mark.parametrize(
    ("stage", "tasks"), [(1, ["MSMARCO"]), (2, ["WIT", "EVQA"]), (3, ["EVQA"]), (4, ["MSMARCO", "EVQA", "WIT"])]
)
def test_a_stage_changes_exactly_its_parameters(
    stage: int, tasks: list[str], folder: Path, built: Path, world: Path, tmp_path: Path
) -> None:
    config = tiny(stage, *tasks, steps=4, evaluate_every=4, query_text=stage != 2)
    before = PreFLMR.from_pretrained(folder)
    expected = set(trained_names(before, stage))
    run_stage(config, built, tmp_path / "run", init=folder, images=parse_roots([str(world)]), quiet=True)
    after = dict(PreFLMR.from_pretrained(tmp_path / "run").named_parameters())
    changed = {name for name, value in before.named_parameters() if not torch.equal(value, after[name])}
    assert changed == expected
    assert 0 < len(changed) < len(after)
    assert not any(name.startswith("vision_encoder.") for name in changed)
    assert any(name.startswith("query_text_encoder.") for name in changed) == (stage != 2)


@pytest.mark.parametrize("mini_batch", [0, 2])
@pytest.mark.parametrize("kind", ["preflmr", "flmr"])
def test_loss_equals_the_official_one(golden: Path, kind: str, mini_batch: int) -> None:
    inputs = json.loads((golden / kind / "inputs.json").read_text())
    expected = load_file(golden / kind / "expected.safetensors")
    module = PreFLMRModule(PreFLMR.from_pretrained(golden / kind)).eval()
    encoder = MultiVectorEncoder(modules=[module], device="cpu").eval()
    queries = module.preprocess(inputs["queries"], task="query")
    queries["pixel_values"] = expected["query_pixel_values"].view(3, -1, 3, 32, 32)
    groups = 1 + inputs["num_negative_examples"]
    columns = [module.preprocess(inputs["documents"][column::groups], task="document") for column in range(groups)]
    loss = loss_of(encoder, tiny(4, "EVQA", mini_batch=mini_batch))([queries, *columns])
    official = expected["query_late_interaction_output"], expected["context_late_interaction_output"]
    assert_within(loss.item(), expected["in_batch_loss"].item(), same_network_errors(*official).max())


def test_loss_equals_ours_for_one_vector_and_for_images_alone(folder: Path) -> None:
    module = PreFLMRModule(PreFLMR.from_pretrained(folder)).eval()
    size = module.model.config.vision_config.image_size
    features = module.preprocess(["Find it: a bird?", "Find it: a boat?"], task="query")
    pixels = torch.rand(2, 1, 3, size, size, generator=torch.Generator().manual_seed(0))
    passages = [module.preprocess(texts, task="document") for texts in (["a bird", "a boat"], ["a tower", "a kite."])]
    tokens = features["input_ids"].shape[1]
    query = module.model.query(features["input_ids"], features["attention_mask"], pixels)
    documents = [module.model.document(**passage) for passage in passages]

    def score(row: int, document: Any, column: int, single: bool) -> float:
        own = query.embeddings[row, tokens:][query.mask[row, tokens:]].detach()
        other = document.embeddings[column][document.mask[column]].detach()
        if single:
            return float(torch.cosine_similarity(own.mean(0), other.mean(0), dim=0))
        return float((own @ other.T).amax(dim=1).sum())

    for single in (False, True):
        modules = [module, ImageVectors(), *([OneVector()] if single else [])]
        encoder = MultiVectorEncoder(modules=modules, device="cpu").eval()
        loss = loss_of(encoder, tiny(4, "EVQA", scale=3.0))([{**features, "pixel_values": pixels}, *passages])
        scores = [
            [score(row, document, column, single) for column in range(2) for document in documents] for row in range(2)
        ]
        expected, _ = contrastive_losses((3.0 * torch.tensor(scores)).tolist(), negatives=1)
        assert loss.item() == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def whole(folder: Path, built: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("training") / "whole"
    assert run_command(main, command(folder, built, world, out)) == 0
    return out


def test_a_killed_run_goes_on_with_the_same_losses(
    whole: Path, folder: Path, built: Path, world: Path, tmp_path: Path
) -> None:
    """Here it ends by an exception that nothing catches; `make torture` kills processes."""
    killed = tmp_path / "killed"

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FiniteLoss, "on_step_end", stop)
        with pytest.raises(Killed):
            main(command(folder, built, world, killed))
    assert [path.name for path in (killed / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (killed / "training.json").exists()
    (killed / ".lock").touch()
    cut = killed / "checkpoints" / "checkpoint-5"  # what a kill in the middle of writing leaves
    cut.mkdir()
    (cut / "model.safetensors").write_bytes(b"half")
    assert run_command(main, command(folder, built, world, killed)) == 0
    assert json.loads((killed / "training.json").read_text())["resumed"]
    assert losses(killed) == losses(whole)
    assert len(losses(whole)) == 6
    for name, tensor in load_file(whole / "model.safetensors").items():
        assert torch.equal(tensor, load_file(killed / "model.safetensors")[name])


@pytest.mark.parametrize("table", ["MSMARCO_passages/train_passages", "MSMARCO_data/valid"])
def test_data_that_change_while_it_trains_give_no_model(
    folder: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    for config in ("MSMARCO_data", "MSMARCO_passages"):
        shutil.copytree(built / config, tmp_path / "data" / config)

    def train(*_: Any, **__: Any) -> None:
        (shard,) = (tmp_path / "data").glob(f"{table}-*")
        shard.write_bytes(shard.read_bytes() + b" ")

    monkeypatch.setattr(PipelineTrainer, "train", train)
    config = tiny(1, "MSMARCO", validate=["MSMARCO"], valid_queries=4, valid_passages=8)
    with pytest.raises(M2KRError, match=rf"{table}-.* changed while it was used"):
        run_stage(config, tmp_path / "data", tmp_path / "run", init=folder, quiet=True)
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert not (tmp_path / "run" / "training.json").exists()


def test_the_best_checkpoint_is_kept(whole: Path, folder: Path, built: Path, world: Path) -> None:
    result = json.loads((whole / "training.json").read_text())
    recalls = {entry["step"]: entry["eval_Recall@5"] for entry in result["log"] if "eval_Recall@5" in entry}
    assert sorted(recalls) == [2, 4, 6]
    assert result["Recall@5"] == max(recalls.values())
    assert recalls[result["best_step"]] == result["Recall@5"]
    # Run again, a finished run is left as it is.
    written = (whole / "model.safetensors").stat().st_mtime_ns
    assert run_command(main, command(folder, built, world, whole)) == 0
    assert (whole / "model.safetensors").stat().st_mtime_ns == written


def test_a_folder_of_another_run_is_left_alone(
    folder: Path, built: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert run_command(main, command(folder, built, world, out)) == 2
    assert "is no run's" in capsys.readouterr().err
    (out / "thesis.txt").unlink()
    (out / "run.json").write_text(json.dumps({"config": {"stage": 3}}))
    assert run_command(main, command(folder, built, world, out)) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


def test_tuning_to_questions_of_ones_own(folder: Path, tmp_path: Path) -> None:
    """The command of docs/training.md, on tables and pictures that a user has."""
    data, pictures = tmp_path / "mine", tmp_path / "pictures"
    pictures.mkdir()
    colours = ["red", "lime", "blue", "yellow", "black", "white"]
    for colour in colours:
        Image.new("RGB", (40, 30), colour).save(pictures / f"{colour}.png")
    for split in ("train", "valid"):
        for config in ("data", "passages"):
            (data / f"EVQA_{config}").mkdir(parents=True, exist_ok=True)
        pl.DataFrame(
            {
                "question_id": [f"{split}-{colour}" for colour in colours],
                "question": ["who painted this?"] * len(colours),
                "instruction": [""] * len(colours),
                "pos_item_ids": [[f"p-{colour}"] for colour in colours],
                "img_path": [f"{colour}.png" for colour in colours],
            }
        ).write_parquet(data / "EVQA_data" / f"{split}-00000-of-00001.parquet")
        pl.DataFrame(
            {
                "passage_id": [f"p-{colour}" for colour in colours],
                "passage_content": [
                    f"The {colour} picture is by a painter of the {colour} school." for colour in colours
                ],
            }
        ).write_parquet(data / "EVQA_passages" / f"{split}_passages-00000-of-00001.parquet")
    arguments = [
        "--stage", "4", "--init", str(folder), "--data", str(data), "--images", str(pictures), "--quiet",
        "--out", str(tmp_path / "tuned"), "--set=tasks=EVQA", "--set=validate=EVQA", "--set=steps=20",
        "--set=evaluate_every=10", "--set=log_every=10", "--set=batch_size=4", "--set=mini_batch=0",
        "--set=accumulate=1", "--set=negatives=1", "--set=learning_rate=0.003", "--set=precision=float32",
        "--set=warmup_steps=2", "--set=instructions=fixed", "--log=tensorboard",
    ]  # fmt: skip
    pytest.importorskip("tensorboard")
    assert run_command(main, arguments) == 0
    (_, first), (_, last) = losses(tmp_path / "tuned")
    assert last < first
    assert list((tmp_path / "tuned" / "logs").rglob("events.*"))
    vectors = PreFLMR.from_pretrained(tmp_path / "tuned").encode_query(["who painted this?"])
    assert np.isfinite(vectors[0]).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set=learning_rate=-1"], "learning_rate is -1. Expected `float` > 0"),
        (["--set=rate=1"], "there is no setting 'rate'"),
        (["--set=tasks=OKVKA"], "Did you mean OKVQA"),
        (["--set=tasks=IGLUE"], "IGLUE, which has no train split"),
        (["--set=validate=Infoseek"], "Infoseek, which has no valid split"),
        (["--set=steps"], "write it as NAME=VALUE"),
        (["--set=steps=many"], "steps is 'many'. Expected `int`"),
        (["--set=batch_size=4000"], "lower batch_size"),
        (["--stage", "3"], "--stage is 3"),
        (["--text", "bert"], None),
        (["--data", "nowhere"], "nowhere is no folder here"),
        (["--init", "nowhere"], "nowhere"),
        (["--log", "trackio"], "pip install trackio"),
        (["--workers", "-1"], "--workers is -1"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    more: list[str],
    message: str | None,
    folder: Path,
    built: Path,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if message is None:
        arguments = ["--stage", "4", "--data", str(built), "--out", str(tmp_path / "run"), *more]
        message = "say what to begin with"
    else:
        given = command(folder, built, world, tmp_path / "run")
        names = {value.split("=")[1] for value in more if value.startswith("--set=")}
        arguments = [value for value in given if not any(value.startswith(f"--set={name}=") for name in names)] + more
        if "--stage" in more:
            config = tmp_path / "four.toml"
            shutil.copy(config_file(4), config)
            arguments += ["--config", str(config)]
    if "trackio" in more and __import__("importlib.util").util.find_spec("trackio"):
        pytest.skip("trackio is installed")
    assert run_command(main, arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_settings_of_every_stage_can_be_read(stage: int) -> None:
    config = read_settings(StageConfig, config_file(stage))
    assert config.stage == stage
    assert replace(config) == config
    assert set(config.tasks) <= {"WIT", "CC", "KVQA", "MSMARCO", "OVEN", "LLaVA", "OKVQA", "Infoseek", "EVQA"}


def test_changes_are_read_as_toml_or_text() -> None:
    changes = parse_changes(["steps=5", "schedule=linear", "tasks=EVQA,OKVQA", "validate=EVQA", "query_text=false"])
    assert changes == {
        "steps": 5,
        "schedule": "linear",
        "tasks": {"EVQA": 1.0, "OKVQA": 1.0},
        "validate": ["EVQA"],
        "query_text": False,
    }
    with pytest.raises(M2KRError, match="given twice"):
        parse_changes(["steps=5", "steps=6"])
