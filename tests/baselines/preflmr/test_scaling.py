"""The scaling study: its plan, a tiny one from end to end, and its report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from baselines.preflmr import scaling
from baselines.preflmr.scaling_plan import WITHOUT, Run, describe_plan, plan_runs, read_study, settings_file
from baselines.preflmr.scaling_report import RunScores, draw, report
from baselines.preflmr.training import encoders, trainer
from m2kr.dataset import load_task
from m2kr.errors import M2KRError, run_command

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("unsampled")]

MINIS = Path(scaling.__file__).resolve().parents[1] / "minis" / "configs"
TASKS = ["MSMARCO", "OVEN", "EVQA"]


def tiny(path: Path, **changes: str) -> Path:
    """Write settings of two sizes of each encoder and of two updates a stage; change lines by their name."""
    few = "steps = 2\nbatch_size = 4\nwarmup_steps = 0\nlog_every = 1\nvalidate = []\nevaluate_every = {every}\n"
    lines = {
        "middle": '{ vision = "big", text = "big" }',
        "world": "{ train_seed = 7, train_scale = 0.1, test_seed = 0, test_scale = 0.05 }",
        "model": "{ dim = 8, prefix = 2, query_maxlen = 24, doc_maxlen = 40 }",
        "judge": f"{{ tasks = {json.dumps(TASKS)} }}",
        "vision": "{ little = { layers = 1, width = 8, heads = 2 }, big = { layers = 1, width = 16, heads = 2 } }",
        "text": "{ little = { layers = 1, width = 8, heads = 2 }, big = { layers = 2, width = 16, heads = 2 } }",
        "extra": "",
    }
    lines.update(changes)
    extra = lines.pop("extra")
    text = "".join(f"{name} = {value}\n" for name, value in lines.items() if value)
    tables = {
        "clip": (MINIS / "clip.toml", few),
        **{f"stages.{n}": (MINIS / f"stage{n}.toml", few) for n in range(1, 5)},
    }
    for name, (file, values) in tables.items():
        if name not in extra and name not in changes:
            text += f"\n[{name}]\nsettings = {json.dumps(str(file))}\n" + values.format(
                every=1 if name[-1] == "4" else 2
            )
    path.write_text(text + extra)
    return path


def made_up(run: Run, mean: float) -> RunScores:
    vision, text = {"small": 23_000, "large": 4_200_000}, {"small": 90_000, "large": 304_000_000}
    return RunScores(
        run=run.name,
        vision=run.vision,
        text=run.text,
        seed=run.seed,
        stages=list(run.stages),
        parameters={
            "vision": vision[run.vision],
            "text": text[run.text],
            "all": vision[run.vision] + text[run.text] + 1000,
        },
        mean=mean,
        metrics={"WIT": 0.5, "EVQA": mean},
        seconds={"1": 1.0},
    )


@pytest.mark.parametrize("form", ["cpu", "gpu"])
def test_the_plan_crosses_at_the_middle(form: str) -> None:
    settings = read_study(settings_file(form))
    sizes = len(settings.vision), len(settings.text)
    runs = plan_runs(settings, [0, 5])
    whole = [run for run in runs if len(run.stages) == 4]
    assert len(whole) == 2 * (sum(sizes) - 1)
    assert all(run.vision == settings.middle.vision or run.text == settings.middle.text for run in whole)
    assert len({run.name for run in runs}) == len(runs) == len(whole) + 2 * len(WITHOUT)
    assert all(
        (run.vision, run.text) == (settings.middle.vision, settings.middle.text) for run in runs if len(run.stages) < 4
    )
    grid = plan_runs(settings, [0], grid=True)
    assert len({(run.vision, run.text) for run in grid}) == sizes[0] * sizes[1]
    assert set(plan_runs(settings, [0])) <= set(grid)


def test_ablations_share_what_they_begin_with() -> None:
    whole, without_2, without_3 = Run("m", "m", 0), Run("m", "m", 0, WITHOUT[2]), Run("m", "m", 0, WITHOUT[3])
    assert [part.rsplit("-", 1)[1] for part in whole.folders] == ["1", "12", "123", "1234"]
    assert set(whole.folders) & set(without_2.folders) == {whole.folders[0]}
    assert set(whole.folders) & set(without_3.folders) == set(whole.folders[:2])
    assert set(without_2.folders) & set(without_3.folders) == {whole.folders[0]}
    assert not set(whole.folders) & set(Run("m", "m", 1).folders)


def test_the_plan_is_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tiny(tmp_path / "tiny.toml")
    assert run_command(scaling.main, ["--config", str(path), "--plan", "--seeds", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "little-big-seed7: stages 1, 2, 3, 4"
    assert lines[-3] == "big-big-seed7-without-3: stages 1, 2, 4 (stage 1 and 2 shared)"
    # Three pairs of four stages, and 3, 4 and 4: stage 4 without 3 begins where stage 2 of the whole ended.
    assert lines[-2] == "5 runs, 15 stages to train, 30 updates"
    assert lines[-1] == "2 image encoders to train before, 4 updates"
    settings = read_study(path)
    assert describe_plan(settings, plan_runs(settings, [7])).splitlines() == lines


@pytest.mark.usefixtures("worlds_there")
def test_a_study_from_end_to_end_trains_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    one = "{ big = { layers = 2, width = 16, heads = 2 } }"
    path = tiny(tmp_path / "tiny.toml", text=one)
    command = ["--config", str(path), "--seeds", "0", "--jobs", "1", "--quiet", "--out", str(out)]
    trained: list[str] = []
    run = trainer.PipelineTrainer.train

    def train(self: Any, *arguments: Any, **keywords: Any) -> Any:
        folder = Path(self.args.output_dir).parent.name
        trained.append(folder)
        if folder == "big-big-seed0-124":  # killed while it trains the last run's last stage, after its first update
            stop = trained.count(folder) == 1
            self.args.max_steps = 1 if stop else 2
            result = run(self, *arguments, **keywords)
            if stop:
                raise KeyboardInterrupt
            return result
        return run(self, *arguments, **keywords)

    monkeypatch.setattr(trainer.PipelineTrainer, "train", train)
    assert run_command(scaling.main, command) == 130
    assert len(trained) == len(set(trained)) == 13  # 11 stages and 2 image encoders
    assert not (out / "scaling.md").exists()
    assert run_command(scaling.main, command) == 0
    assert trained[13:] == ["big-big-seed0-124"]
    last = json.loads((out / "trained" / "big-big-seed0-124" / "training.json").read_text())
    assert last["resumed"]

    scores = json.loads((out / "scaling.json").read_text())["runs"]
    assert len(scores) == 4
    for own in scores:
        assert json.loads((out / own["run"] / "scores.json").read_text()) == own
        assert list(own["metrics"]) == TASKS
        assert own["mean"] == pytest.approx((own["metrics"]["OVEN"] + own["metrics"]["EVQA"]) / 2)
        found = json.loads((out / own["run"] / "OVEN.json").read_text())
        assert own["metrics"]["OVEN"] == found["metrics"]["Recall@5"]
        assert own["parameters"]["all"] == found["model_settings"]["parameters"]
    by_name = {own["run"]: own["parameters"] for own in scores}
    assert by_name["little-big-seed0"]["text"] == by_name["big-big-seed0"]["text"]
    assert by_name["little-big-seed0"]["vision"] < by_name["big-big-seed0"]["vision"]
    text = (out / "scaling.md").read_text()
    assert capsys.readouterr().out.endswith(text)
    assert text.count("| little | big |") == text.count("| stage 2 |") == 1
    assert Image.open(out / "scaling.png").width >= 1000

    assert run_command(scaling.main, command) == 0  # everything is there
    assert len(trained) == 14
    other = tiny(tmp_path / "other.toml", model="{ dim = 16, prefix = 2, query_maxlen = 24, doc_maxlen = 40 }")
    assert run_command(scaling.main, ["--config", str(other), *command[2:]]) == 2
    assert "holds a study with other settings (settings)" in capsys.readouterr().err


def test_encoders_and_data_that_are_given(tmp_path: Path, small_worlds: Path) -> None:
    """The way of the full form, with small encoders in folders."""
    built, world = small_worlds / "train" / "m2kr", small_worlds / "train" / "raw"
    texts = load_task("EVQA", built, "train").passages["passage_content"].to_list()
    shape = encoders.Shape(1, 16, 16, 2)
    encoders.write_bert(texts, tmp_path / "bert", 0, shape)
    encoders.write_clip(texts, tmp_path / "clip", 0, shape, shape)
    path = tiny(
        tmp_path / "given.toml",
        world="",
        model="",
        clip="",
        vision=f"{{ big = {{ path = {json.dumps(str(tmp_path / 'clip'))} }} }}",
        text=f"{{ big = {{ path = {json.dumps(str(tmp_path / 'bert'))} }} }}",
        judge='{ tasks = ["OVEN"], dtype = "bfloat16" }',
    )
    settings = read_study(path)
    assert settings.world is settings.clip is None
    out = tmp_path / "study"
    runs = [Run("big", "big", 2)]
    options = scaling.ScalingOptions(out=out, data=built, images=(str(world),), jobs=1, quiet=True)
    study = scaling.Study(settings, options)
    (own,) = scaling.run_study(study, runs)
    assert own["seconds"].keys() == {"1", "2", "3", "4"}
    assert json.loads((out / "big-big-seed2" / "OVEN.json").read_text())["dtype"] == "bfloat16"
    assert not (out / "encoders").exists()
    assert not (out / "world").exists()
    trained = [json.loads((out / "trained" / part / "training.json").read_text()) for part in runs[0].folders]
    assert [stage["config"]["seed"] for stage in trained] == [21, 22, 23, 24]
    with pytest.raises(M2KRError, match=r"other settings \(data\)"):
        scaling.run_study(scaling.Study(settings, replace(options, data=tmp_path)), runs)


def test_report_on_made_up_scores(tmp_path: Path) -> None:
    pairs = [("small", "small"), ("large", "small"), ("small", "large")]
    scores = [
        made_up(Run(*pair, seed), 0.3 + 0.1 * place + 0.02 * seed)
        for place, pair in enumerate(pairs)
        for seed in (0, 1)
    ]
    scores += [made_up(Run("small", "small", 0, WITHOUT[2]), 0.25), made_up(Run("small", "small", 1, WITHOUT[2]), 0.37)]
    text = report(scores, ("small", "small"))
    assert (
        "| vision | text | vision encoder, M | text encoders, M | all, M | image + question | WIT R@10 | EVQA R@5 |"
        in text
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[2] == "| small | small | 0.023 | 0.090 | 0.114 | 31.0 [30.0, 32.0] | 50.0 | 31.0 |"
    assert rows[3] == "| small | large | 0.023 | 304 | 304 | 51.0 [50.0, 52.0] | 50.0 | 51.0 |"
    assert rows[4] == "| large | small | 4.20 | 0.090 | 4.29 | 41.0 [40.0, 42.0] | 50.0 | 41.0 |"
    assert "| 1, 2, 3, 4 | 31.0 [30.0, 32.0] | 50.0 | 31.0 |" in rows
    assert "| 1, 3, 4 | 31.0 [25.0, 37.0] | 50.0 | 31.0 |" in rows
    assert rows[-1] == "| stage 2 | -5.0 | +5.0 | +0.0 |"
    assert not any(row.startswith("| stage 3") for row in rows)
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    draw(scores, ("small", "small"), paths[0])
    draw(list(reversed(scores)), ("small", "small"), paths[1])
    scores[-3]["mean"] += 0.2
    draw(scores, ("small", "small"), paths[2])
    first, again, other = (Image.open(path).convert("RGB").tobytes() for path in paths)
    assert first == again != other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"middle": '{ vision = "huge", text = "big" }'}, "middle.vision is 'huge'; the sizes are little, big"),
        ({"middle": ""}, "does not say middle"),
        ({"judge": '{ tasks = ["OVNE"] }'}, "'OVNE', which is no task. Did you mean OVEN"),
        ({"judge": '{ tasks = ["CC"] }'}, "CC, which has no test split"),
        ({"judge": '{ tasks = ["WIT"] }'}, "no task with an image and a question"),
        ({"vision": "{ big = { layers = 1, width = 9, heads = 2 } }"}, "vision.big: an encoder's width is 9"),
        ({"text": '{ big = { path = "bert" } }'}, "text.big needs layers, width and heads"),
        ({"text": "{ a-b = { layers = 1, width = 8, heads = 2 }, big = {} }"}, "the size 'a-b'"),
        ({"text": "{ big = { layers = 1, width = 8, heads = 2 }, a-b = { layers = 1 } }"}, "the size 'a-b'"),
        ({"world": "{ train_seed = 3, train_scale = 0.1, test_seed = 3, test_scale = 0.1 }"}, "on the same world"),
        ({"world": "{ train_seed = 3, train_scale = 0.1 }"}, "missing required field `test_seed`"),
        ({"world": '{ train_seed = "3", train_scale = 0.1 }'}, "world.train_seed is '3'. Expected `int`"),
        ({"model": "{ dims = 8 }"}, "unknown field `dims`"),
        ({"depth": "3"}, "there is no setting 'depth'"),
        ({"extra": "[stages.4]\nsteps = 3"}, "stages.4 does not say whose settings"),
        ({"extra": f'[stages.4]\nsettings = "{MINIS / "stage4.toml"}"\nseed = 3'}, "stages.4 has a seed"),
        ({"extra": f'[stages.4]\nsettings = "{MINIS / "stage3.toml"}"'}, "the settings of stage 3"),
        ({"extra": f'[stages.4]\nsettings = "{MINIS / "stage4.toml"}"\nsteps = 0'}, "steps is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match=r"tiny\.toml") as error:
        read_study(tiny(tmp_path / "tiny.toml", **changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.toml", "--out", "x"], "nowhere.toml could not be read"),
        (["--form", "gpu", "--out", "x"], "--data is not given, and scaling-gpu.toml makes no data"),
        (["--form", "gpu", "--out", "x", "--data", "nowhere"], "--data nowhere is no folder"),
        (["--data", ".", "--out", "x"], "scaling-cpu.toml makes data of its own"),
        ([], "--out is not given"),
        (["--out", "x", "--seeds", "0,0"], "--seeds is '0,0'"),
        (["--out", "x", "--seeds", "-1"], "--seeds is '-1'"),
        (["--out", "x", "--jobs", "0"], "--jobs is 0"),
        (["--out", "{taken}"], "so it is no study's"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    given = [value.format(taken=tmp_path) for value in arguments]
    assert run_command(scaling.main, given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
