"""Scaling study: ``python -m baselines.preflmr.scaling --form cpu --out runs/scaling``.

How good is PreFLMR with a larger image encoder, and how good with larger text encoders? And what do its stages 2 and 3
add? Each pair of sizes is trained through all stages with several seeds and judged on the test splits (the article's
sections on scaling and on intermediate pretraining). A reduced form on made-up data runs on a CPU, a full form needs a
GPU; see docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from baselines.common.processes import pool
from baselines.preflmr.scaling_plan import (
    FORMS,
    Run,
    Settings,
    Size,
    describe,
    image_and_question,
    make_plan,
    read_settings,
    settings_file,
)
from baselines.preflmr.scaling_report import RunScores, draw, report
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command

Kind = Literal["text", "vision"]

_SETTINGS, _SCORES = "settings.json", "scores.json"
_TOP_K = 100  # the deepest metric of a task is Recall@10
_T = TypeVar("_T")


@dataclass(frozen=True)
class Study:
    """What every process of a study knows.

    Attributes:
        settings: of the study.
        out: its folder.
        data: folder of the benchmark to train on.
        images: where its pictures are, as `m2kr.images.parse_roots` reads it.
        test_data: folder of the benchmark to judge on.
        test_images: where its pictures are.
        device: as torch names it.
        workers: processes that decode pictures.
        quiet: no progress.
    """

    settings: Settings
    out: Path
    data: Path
    images: tuple[str, ...]
    test_data: Path
    test_images: tuple[str, ...]
    device: str
    workers: int = 0
    quiet: bool = False


def run_study(
    settings: Settings,
    out: Path,
    runs: Sequence[Run],
    *,
    data: Path | None = None,
    images: Sequence[str] = (),
    device: str = "cpu",
    jobs: int = 1,
    workers: int = 0,
    quiet: bool = False,
) -> list[RunScores]:
    """Train and judge the runs of a study, and write its report; return their scores in the order of ``runs``.

    What is finished is not done again, and a stage that was killed goes on after its last checkpoint. On a CPU each
    run is trained by one thread, so that its figures do not depend on ``jobs``.

    Args:
        settings: of the study.
        out: folder of everything: ``<run>/scores.json``, ``scaling.json``, ``scaling.md`` and ``scaling.png``, and the
            checkpoints in ``trained``.
        runs: of `make_plan`. Seeds and pairs may be added to a study later.
        data: folder of the benchmark, where the settings make none.
        images: where its pictures are.
        device: as torch names it.
        jobs: runs that are trained at once, each in a process of its own; 1 for this one.
        workers: processes that decode pictures, for each run.
        quiet: no progress.

    Raises:
        M2KRError: the folder holds a study with other settings, or a stage cannot be trained or judged.
    """
    _claim(out, settings, data)
    study = _study(settings, out, data, images, device, workers, quiet)
    waiting = [run for run in runs if not (out / run.name / _SCORES).is_file()]
    if waiting:
        if settings.world:
            _in_parallel(partial(_make_encoder, study), _encoders_of(waiting), jobs)
        _mine_beforehand(study)
        order = {name: place for sizes in (settings.vision, settings.text) for place, name in enumerate(sizes)}
        waiting.sort(key=lambda run: -order[run.vision] - order[run.text])  # the longest first, so that none is alone
        # Whole pipelines first: those that leave a stage out begin with theirs.
        _in_parallel(partial(_do, study), [run for run in waiting if len(run.stages) == 4], jobs)
        _in_parallel(partial(_do, study), [run for run in waiting if len(run.stages) < 4], jobs)
    scores = [json.loads((out / run.name / _SCORES).read_text(encoding="utf-8")) for run in runs]
    _write_report(study, scores)
    return scores


def _claim(out: Path, settings: Settings, data: Path | None) -> None:
    """Make the folder this study's, unless it is another's."""
    from m2kr.common.files import digest, write_json

    configs = {f"stages.{stage}": config.to_json() for stage, config in settings.stages.items()}
    if settings.clip:
        configs["clip"] = settings.clip.to_json()
    mine = {"settings": settings.raw, **configs, "data": str(data.resolve()) if data else None}
    known = out / _SETTINGS
    if known.is_file():
        try:
            found = json.loads(known.read_text(encoding="utf-8"))
        except ValueError as error:
            raise M2KRError(f"{known} is no JSON ({error}): choose another --out.") from error
        other = [name for name in {**found, **mine} if digest(found.get(name)) != digest(mine.get(name))]
        if other:
            raise M2KRError(
                f"{out} holds a study with other settings ({', '.join(other)}): delete it, or choose another --out."
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise M2KRError(f"{out} is there and holds no {_SETTINGS}, so it is not a study's: choose another --out.")
    else:
        write_json(known, mine)


def _study(
    settings: Settings,
    out: Path,
    data: Path | None,
    images: Sequence[str],
    device: str,
    workers: int,
    quiet: bool,
) -> Study:
    """Make the two worlds, or take the data that are given."""
    world = settings.world
    if world is None:
        assert data is not None
        return Study(settings, out, data, tuple(images), data, tuple(images), device, workers, quiet)
    from baselines.minis.train import make_data

    train, test = out / "world" / "train", out / "world" / "test"
    own, _ = make_data(train, world.train_seed, world.train_scale, quiet=True)
    other, _ = make_data(test, world.test_seed, world.test_scale, quiet=True)
    roots = (str(train / "raw"),), (str(test / "raw"),)
    return Study(settings, out, own, roots[0], other, roots[1], device, workers, quiet)


def _in_parallel(work: Callable[[_T], None], items: Sequence[_T], jobs: int) -> None:
    if jobs == 1 or len(items) < 2:
        for item in items:
            work(item)
        return
    with pool(min(jobs, len(items))) as processes:
        for _ in processes.map(work, items):
            pass  # an error of one ends the others that wait


# --- what runs begin with -------------------------------------------------------------------------------------------


def _encoders_of(runs: Sequence[Run]) -> list[tuple[Kind, str, int]]:
    """Return the encoders that runs begin with, each once: what it is, its size and its seed."""
    found: dict[tuple[Kind, str, int], None] = {}
    for run in runs:
        found[("vision", run.vision, run.seed)] = None
    for run in runs:
        found[("text", run.text, run.seed)] = None
    return list(found)


def _encoder(study: Study, kind: Kind, name: str, seed: int) -> str:
    """Return the folder or hub id of an encoder."""
    size = (study.settings.vision if kind == "vision" else study.settings.text)[name]
    return size.path or str(study.out / "encoders" / f"{kind}-{name}-seed{seed}")


def _make_encoder(study: Study, which: tuple[Kind, str, int]) -> None:
    """Write a BERT with random weights, or write a CLIP and train it contrastively; nothing where it is there."""
    from baselines.minis.encoders import ClipModule, Shape, write_bert, write_clip
    from baselines.minis.train import texts, train_clip
    from m2kr.images.roots import parse_roots

    kind, name, seed = which
    settings, folder = study.settings, Path(_encoder(study, *which))
    _one_thread(study)
    if kind == "text":
        _whole(folder, lambda into: write_bert(texts(study.data), into, seed, _shape(settings.text[name])))
        return
    start = folder.with_name(f"{folder.name}-start")
    # The text tower is of one size: what differs between image encoders is they themselves.
    tower = _shape(settings.text[settings.middle[1]])
    image: Shape = _shape(settings.vision[name])
    _whole(start, lambda into: write_clip(texts(study.data), into, seed, image, tower))
    assert settings.clip is not None
    config = replace(settings.clip, seed=_seed(seed, 0))
    train_clip(ClipModule(start), config, study.data, parse_roots(study.images), folder, quiet=True)
    say(f"vision encoder {name}, seed {seed}: trained", quiet=study.quiet)


def _shape(size: Size) -> Any:
    """Return the sizes of an encoder to be made; its feed-forward layers are twice as wide, as in the small models."""
    from baselines.minis.encoders import Shape

    return Shape(size.layers, size.width, 2 * size.width, size.heads)


def _whole(folder: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder under another name first, so that it is there only when it is whole."""
    if folder.is_dir():
        return
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    write(temporary)
    temporary.replace(folder)


def _mine_beforehand(study: Study) -> None:
    """Find the hard negatives of all stages, which runs in several processes would otherwise find at once."""
    from baselines.preflmr.training.negatives import mine
    from m2kr.dataset import load_task

    wanted = {
        (key, config.mined_depth) for config in study.settings.stages.values() if config.mined for key in config.tasks
    }
    for key, depth in sorted(wanted):
        mine(load_task(key, study.data, "train"), depth, study.out / "trained" / "negatives", quiet=study.quiet)


def _one_thread(study: Study) -> None:
    """Let torch add up in the same order wherever there are as many cores."""
    import torch

    if study.device == "cpu":
        torch.set_num_threads(1)


def _seed(seed: int, stage: int) -> int:
    """Return the seed of a stage (0: of a CLIP): another for each, so that no two draw alike."""
    return 10 * seed + stage


# --- a run ----------------------------------------------------------------------------------------------------------


def _do(study: Study, run: Run) -> None:
    """Train the stages of a run that are not there yet, judge it, and write its scores."""
    from baselines.preflmr.train import run_stage
    from baselines.preflmr.training.assemble import assemble
    from m2kr.common.files import write_json
    from m2kr.images.roots import parse_roots

    _one_thread(study)
    settings, trained = study.settings, study.out / "trained"
    start = trained / f"{run.vision}-{run.text}-seed{run.seed}-start"
    encoders = _encoder(study, "text", run.text, run.seed), _encoder(study, "vision", run.vision, run.seed)
    _whole(start, lambda into: assemble(*encoders, into, **settings.model, seed=run.seed))  # type: ignore[arg-type]
    images = parse_roots(study.images) if study.images else None
    seconds: dict[str, float] = {}
    for stage, part in zip(run.stages, run.parts, strict=True):
        result = run_stage(
            replace(settings.stages[stage], seed=_seed(run.seed, stage)),
            study.data,
            trained / part,
            init=start,
            images=images,
            device=study.device,
            workers=study.workers,
            quiet=True,
        )
        seconds[str(stage)] = result["seconds"]
        start = trained / part
    scores = _judge(study, run, start, seconds)
    write_json(study.out / run.name / _SCORES, scores)
    say(f"{run.name}: {100 * scores['mean']:.1f}", quiet=study.quiet)


def _judge(study: Study, run: Run, checkpoint: Path, seconds: dict[str, float]) -> RunScores:
    """Return the scores of a checkpoint on the test splits, and the sizes of its parts."""
    from baselines.common.checkpoints import count_parameters
    from baselines.preflmr.retriever import PreFLMRRetriever
    from m2kr.dataset import load_task
    from m2kr.evaluate.task import evaluate_task
    from m2kr.images.roots import parse_roots

    judge: Any = study.settings.judge
    retriever = PreFLMRRetriever(run.name, checkpoint=str(checkpoint), device=study.device, dtype=judge.dtype)
    retriever.name = run.name
    images = parse_roots(study.test_images) if study.test_images else None
    metrics = {}
    for key in judge.tasks:
        split = load_task(key, study.test_data, "test", images=images)
        result = evaluate_task(
            retriever,
            split,
            study.out / run.name,
            top_k=_TOP_K,
            device=study.device,
            dtype=judge.dtype,
            workers=study.workers,
            quiet=True,
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


def _write_report(study: Study, scores: Sequence[RunScores]) -> None:
    """Write what all runs together say: scaling.json, scaling.md and scaling.png."""
    from m2kr.common.files import atomic, write_json
    from m2kr.common.measure import hardware, versions

    settings = study.settings
    write_json(
        study.out / "scaling.json",
        {
            "settings": settings.raw,
            "hardware": hardware(study.device),
            "versions": versions(),
            "runs": list(scores),
        },
    )
    with atomic(study.out / "scaling.md", "w") as file:
        file.write(report(scores, settings.middle))
    draw(scores, settings.middle, study.out / "scaling.png")


# --- the command ----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m baselines.preflmr.scaling",
        description="Train PreFLMR with encoders of several sizes, and without some stages. Running it again goes on.",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--form", default="cpu", help=f"{' or '.join(FORMS)}: reduced, or at full size; default cpu")
    chosen.add_argument("--config", type=Path, metavar="FILE", help="settings of your own instead of a form's")
    parser.add_argument("--out", type=Path, help="folder of the study")
    parser.add_argument("--seeds", default="0,1,2", help="of weights, order of data and draws; default %(default)s")
    parser.add_argument("--grid", action="store_true", help="all pairs of sizes, not the two axes alone")
    parser.add_argument("--plan", action="store_true", help="list the runs and stop")
    parser.add_argument("--data", type=Path, help="folder of a built benchmark, where the settings make no world")
    parser.add_argument("--images", action="append", default=[], metavar="[TASK=]ROOT", help="its pictures")
    parser.add_argument("--device", help="as torch names it; default: the settings' own")
    parser.add_argument("--jobs", type=int, help="runs at once; default 2 on a CPU, of one thread each, else 1")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode pictures, a run; default 0")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def parse_seeds(value: str) -> list[int]:
    """Return the seeds of ``--seeds 0,1,2``.

    Raises:
        M2KRError: one is no whole number of 0 or more, or stands there twice.
    """
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts) or len({int(part) for part in parts}) < len(parts):
        raise M2KRError(f"--seeds is {value!r}; give different whole numbers, as in 0,1,2.")
    return [int(part) for part in parts]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    arguments = _parser().parse_args(argv)
    path = arguments.config or settings_file(arguments.form)
    settings = read_settings(path)
    runs = make_plan(settings, parse_seeds(arguments.seeds), grid=arguments.grid)
    if arguments.plan:
        print(describe(settings, runs))
        return 0
    if arguments.out is None:
        raise M2KRError("--out is not given: name a folder for the study, or list its runs with --plan.")
    if settings.world is None and (arguments.data is None or not arguments.data.is_dir()):
        given = f"--data {arguments.data} is no folder" if arguments.data else "--data is not given"
        raise M2KRError(f"{given}, and {path.name} makes no data: name the folder of a built benchmark.")
    if settings.world is not None and (arguments.data or arguments.images):
        raise M2KRError(f"{path.name} makes data of its own, so that --data and --images have no use: leave them out.")
    device = arguments.device or settings.device
    jobs = arguments.jobs if arguments.jobs is not None else 2 if device == "cpu" else 1
    if jobs < 1 or arguments.workers < 0:
        raise M2KRError(f"--jobs is {jobs} and --workers {arguments.workers}; give 1 or more jobs, 0 or more workers.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # batches are made in forked processes
    run_study(
        settings,
        arguments.out,
        runs,
        data=arguments.data,
        images=arguments.images,
        device=device,
        jobs=jobs,
        workers=arguments.workers,
        quiet=arguments.quiet,
    )
    print((arguments.out / "scaling.md").read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
