"""Scaling study: ``python -m baselines.preflmr.scaling --form cpu --out runs/scaling``.

How good is PreFLMR with a larger image encoder, and how good with larger text encoders? And what do its stages 2 and 3
add? Each pair of sizes is trained through all stages with several seeds and judged on the test splits (the article's
sections on scaling and on intermediate pretraining). A reduced form on made-up data runs on a CPU, a full form needs a
GPU; see docs/scaling.md.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from msgspec import structs

from baselines.common.processes import in_parallel
from baselines.common.synthetic_data import make_data, train_texts
from baselines.preflmr.scaling_plan import (
    Run,
    Settings,
    describe_plan,
    image_and_question,
    plan_runs,
    read_study,
    settings_file,
)
from baselines.preflmr.scaling_report import RunScores, draw, report
from m2kr.common.cli import MOST_WORKERS, option, parse
from m2kr.common.files import atomic, write_json
from m2kr.common.json_input import read_json
from m2kr.common.locks import one_writer
from m2kr.common.measure import hardware, versions
from m2kr.common.options import QuietOption
from m2kr.common.progress import say
from m2kr.common.work import claim
from m2kr.dataset import load_task
from m2kr.errors import M2KRError, run_command
from m2kr.images.roots import ImageRoots, parse_roots

Kind = Literal["text", "vision"]

_SETTINGS, _SCORES = "settings.json", "scores.json"
_TOP_K = 100  # the deepest metric of a task is Recall@10
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class ScalingOptions(QuietOption):
    """Options of the command."""

    form: Literal["cpu", "gpu"] = option("reduced, or at full size", "cpu")
    config: Path | None = option("settings of your own instead of a form's", None, metavar="FILE")
    out: Path | None = option("folder of the study", None)
    seeds: str = option("of weights, order of data and draws", "0,1,2")
    grid: bool = option("all pairs of sizes, not the two axes alone", False)
    plan: bool = option("list the runs and stop", False)
    data: Path | None = option("folder of a built benchmark, where the settings make no world", None)
    images: tuple[str, ...] = option("its pictures", (), metavar="[TASK=]ROOT")
    device: str | None = option("as torch names it; default: the settings' own", None)
    jobs: int | None = option(
        "runs at once; default 2 on a CPU, of one thread each, else 1", None, least=1, most=MOST_WORKERS
    )
    workers: int = option("processes that decode pictures, a run", 0, least=0, most=MOST_WORKERS)


@dataclass(frozen=True)
class Study:
    """What every process of a study knows.

    Its folder gets ``<run>/scores.json``, ``scaling.json``, ``scaling.md``, ``scaling.png``, and the checkpoints in
    ``trained``.
    """

    settings: Settings
    options: ScalingOptions

    @property
    def out(self) -> Path:
        """Its folder."""
        assert self.options.out is not None
        return self.options.out

    @property
    def device(self) -> str:
        """Where it is trained and judged, as torch names it."""
        return self.options.device or self.settings.device

    def benchmark(self, which: Literal["train", "test"]) -> tuple[Path, ImageRoots | None]:
        """Return the folder of the benchmark to train on or to judge on, and where its pictures are."""
        if self.settings.world is None:
            assert self.options.data is not None
            return self.options.data, parse_roots(self.options.images) if self.options.images else None
        made = self.out / "world" / which
        return made / "m2kr", parse_roots([str(made / "raw")])

    def encoder(self, kind: Kind, name: str, seed: int) -> str:
        """Return the folder or hub id of an encoder."""
        size = (self.settings.vision if kind == "vision" else self.settings.text)[name]
        return size.path or str(self.out / "encoders" / f"{kind}-{name}-seed{seed}")


def run_study(study: Study, runs: Sequence[Run]) -> list[RunScores]:
    """Train and judge the runs of a study, and write its report; return their scores in the order of ``runs``.

    What is finished is not done again, and a stage that was killed goes on after its last checkpoint. On a CPU each
    run is trained by one thread, so that its figures do not depend on how many are trained at once. Seeds and pairs may
    be added to a study later.

    Raises:
        M2KRError: the folder holds a study with other settings, another process makes one in it, or a stage cannot be
            trained or judged.
    """
    with one_writer(study.out, wait=False):
        return _studied(study, runs)


def _studied(study: Study, runs: Sequence[Run]) -> list[RunScores]:
    settings, out = study.settings, study.out
    jobs = study.options.jobs or (2 if study.device == "cpu" else 1)
    configs = {f"stages.{stage}": config.to_json() for stage, config in settings.stages.items()}
    if settings.clip:
        configs["clip"] = settings.clip.to_json()
    data = str(study.options.data.resolve()) if study.options.data else None
    claim(out / _SETTINGS, {"settings": settings.raw, **configs, "data": data}, "study")
    if world := settings.world:
        make_data(out / "world" / "train", world.train_seed, world.train_scale, quiet=True)
        make_data(out / "world" / "test", world.test_seed, world.test_scale, quiet=True)
    waiting = [run for run in runs if not (out / run.name / _SCORES).is_file()]
    if waiting:
        if world:
            encoders: dict[tuple[Kind, str, int], None] = {("vision", run.vision, run.seed): None for run in waiting}
            encoders |= {("text", run.text, run.seed): None for run in waiting}
            in_parallel(partial(_make_encoder, study), list(encoders), jobs)
        _mine_negatives(study)
        order = {name: place for sizes in (settings.vision, settings.text) for place, name in enumerate(sizes)}
        waiting.sort(key=lambda run: -order[run.vision] - order[run.text])  # the longest first, so that none is alone
        # Whole pipelines first: those that leave a stage out begin with theirs.
        in_parallel(partial(_do, study), [run for run in waiting if len(run.stages) == 4], jobs)
        in_parallel(partial(_do, study), [run for run in waiting if len(run.stages) < 4], jobs)
    scores = [read_json(out / run.name / _SCORES, RunScores, "file of scores", "Delete it.") for run in runs]
    facts = {"settings": settings.raw, "hardware": hardware(study.device), "versions": versions()}
    write_json(out / "scaling.json", {**facts, "runs": scores})
    middle = settings.middle.vision, settings.middle.text
    with atomic(out / "scaling.md", "w") as file:
        file.write(report(scores, middle))
    draw(scores, middle, out / "scaling.png")
    return scores


def _make_encoder(study: Study, which: tuple[Kind, str, int]) -> None:
    """Write a BERT with random weights, or write a CLIP and train it contrastively; nothing where it is there."""
    from baselines.preflmr.training.encoders import train_clip, write_bert, write_clip

    kind, name, seed = which
    settings, folder = study.settings, Path(study.encoder(*which))
    data, images = study.benchmark("train")
    _one_thread(study)
    if kind == "text":
        _whole(folder, lambda into: write_bert(train_texts(data), into, seed, settings.text[name].shape))
        return
    start = folder.with_name(f"{folder.name}-start")
    # The text tower is of one size: what differs between image encoders is they themselves.
    shapes = settings.vision[name].shape, settings.text[settings.middle.text].shape
    _whole(start, lambda into: write_clip(train_texts(data), into, seed, *shapes))
    assert images is not None
    train_clip(start, replace(settings.clip, seed=_seed(seed, 0)), data, images, folder, quiet=True)
    say(f"vision encoder {name}, seed {seed}: trained", quiet=study.options.quiet)


def _whole(folder: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder under another name first, so that it is there only when it is whole."""
    if folder.is_dir():
        return
    temporary = folder.with_name(f".{folder.name}.tmp")
    if temporary.is_symlink():  # which rmtree leaves, and writing would follow
        temporary.unlink()
    shutil.rmtree(temporary, ignore_errors=True)
    write(temporary)
    temporary.replace(folder)


def _mine_negatives(study: Study) -> None:
    """Find the hard negatives of all stages, which runs in several processes would otherwise find at once."""
    from baselines.preflmr.training.negatives import mine

    wanted = {
        (key, config.mined_depth) for config in study.settings.stages.values() if config.mined for key in config.tasks
    }
    for key, depth in sorted(wanted):
        split = load_task(key, study.benchmark("train")[0], "train")
        mine(split, depth, study.out / "trained" / "negatives", quiet=study.options.quiet)


def _one_thread(study: Study) -> None:
    """Let torch add up in the same order wherever there are as many cores."""
    import torch

    if study.device == "cpu":
        torch.set_num_threads(1)


def _seed(seed: int, stage: int) -> int:
    """Return the seed of a stage (0: of a CLIP): another for each, so that no two draw alike."""
    return 10 * seed + stage


def _do(study: Study, run: Run) -> None:
    """Train the stages of a run that are not there yet, judge it, and write its scores."""
    from baselines.preflmr.train import run_stage
    from baselines.preflmr.training.assemble import assemble

    _one_thread(study)
    settings, trained = study.settings, study.out / "trained"
    start = trained / f"{run.vision}-{run.text}-seed{run.seed}-start"
    encoders = study.encoder("text", run.text, run.seed), study.encoder("vision", run.vision, run.seed)
    _whole(start, lambda into: assemble(*encoders, into, **structs.asdict(settings.model), seed=run.seed))
    data, images = study.benchmark("train")
    seconds: dict[str, float] = {}
    for stage, folder in zip(run.stages, run.folders, strict=True):
        result = run_stage(
            replace(settings.stages[stage], seed=_seed(run.seed, stage)),
            data,
            trained / folder,
            init=start,
            images=images,
            device=study.device,
            workers=study.options.workers,
            quiet=True,
        )
        seconds[str(stage)] = result["seconds"]
        start = trained / folder
    scores = _judge(study, run, start, seconds)
    write_json(study.out / run.name / _SCORES, scores)
    say(f"{run.name}: {100 * scores['mean']:.1f}", quiet=study.options.quiet)


def _judge(study: Study, run: Run, checkpoint: Path, seconds: dict[str, float]) -> RunScores:
    """Return the scores of a checkpoint on the test splits, and the sizes of its parts."""
    from baselines.common.checkpoints import count_parameters
    from baselines.preflmr.retriever import PreFLMRRetriever
    from m2kr.evaluate.options import TaskOptions
    from m2kr.evaluate.task import evaluate_task

    judge, device = study.settings.judge, study.device
    retriever = PreFLMRRetriever(run.name, checkpoint=str(checkpoint), device=device, dtype=judge.dtype)
    retriever.name = run.name
    data, images = study.benchmark("test")
    metrics = {}
    for key in judge.tasks:
        split = load_task(key, data, "test", images=images)
        result = evaluate_task(
            retriever,
            split,
            study.out / run.name,
            TaskOptions(top_k=_TOP_K, device=device, dtype=judge.dtype, workers=study.options.workers, quiet=True),
        )
        metrics[key] = result["metrics"][split.task.metrics[0]]
    model = retriever.model
    assert model.vision_encoder is not None
    both = image_and_question(judge.tasks)
    return RunScores(
        run=run.name,
        vision=run.vision,
        text=run.text,
        seed=run.seed,
        stages=list(run.stages),
        parameters={
            "vision": count_parameters(model.vision_encoder),
            "text": count_parameters(model.query_text_encoder) + count_parameters(model.document_text_encoder),
            "all": count_parameters(model),
        },
        mean=sum(metrics[key] for key in both) / len(both),
        metrics=metrics,
        seconds=seconds,
    )


def parse_seeds(value: str) -> list[int]:
    """Return the seeds of ``--seeds 0,1,2``.

    Raises:
        M2KRError: one is no whole number of 0 or more, or stands there twice.
    """
    numbers = [number.strip() for number in value.split(",")]
    if not all(number.isdecimal() for number in numbers) or len(set(map(int, numbers))) < len(numbers):
        raise M2KRError(f"--seeds is {value!r}; give different whole numbers, as in 0,1,2.")
    return [int(number) for number in numbers]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        ScalingOptions,
        argv,
        prog="python -m baselines.preflmr.scaling",
        description="Train PreFLMR with encoders of several sizes, and without some stages. Running it again goes on.",
    )
    path = options.config or settings_file(options.form)
    settings = read_study(path)
    runs = plan_runs(settings, parse_seeds(options.seeds), grid=options.grid)
    if options.plan:
        print(describe_plan(settings, runs))
        return 0
    if options.out is None:
        raise M2KRError("--out is not given: name a folder for the study, or list its runs with --plan.")
    if settings.world is None and (options.data is None or not options.data.is_dir()):
        given = f"--data {options.data} is no folder" if options.data else "--data is not given"
        raise M2KRError(f"{given}, and {path.name} makes no data: name the folder of a built benchmark.")
    if settings.world is not None and (options.data or options.images):
        raise M2KRError(f"{path.name} makes data of its own, so that --data and --images have no use: leave them out.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches are made in forked processes
    run_study(Study(settings, options), runs)
    print((options.out / "scaling.md").read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
