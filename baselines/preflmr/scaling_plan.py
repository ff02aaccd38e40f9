"""What a scaling study trains: its settings, read from a TOML file, and the runs that follow from them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from m2kr.errors import M2KRError, did_you_mean
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    from baselines.preflmr.training.stages import StageConfig

FORMS = ("cpu", "gpu")
ALL_STAGES = (1, 2, 3, 4)
WITHOUT = {2: (1, 3, 4), 3: (1, 2, 4)}
"""Stages of the pipelines that leave one out, by the stage that is left out (PreFLMR's ablations of its stages)."""

_T = TypeVar("_T")
_ROOT = ("device", "middle", "judge", "stages", "vision", "text")
_MADE = ("world", "clip", "model")


@dataclass(frozen=True)
class Size:
    """One size of an encoder: a checkpoint to load, or the sizes of one to make with random weights.

    Attributes:
        path: folder or hub id of a BERT or a CLIP; empty where the encoder is made.
        layers: of an encoder that is made.
        width: numbers of a token's vector, likewise.
        heads: of the attention, likewise.
    """

    path: str = ""
    layers: int = 0
    width: int = 0
    heads: int = 0


@dataclass(frozen=True)
class World:
    """Two made-up worlds, one to train on and one to judge on.

    Attributes:
        train_seed: of the world to train on.
        train_scale: see `m2kr.synthetic`.
        test_seed: of the other.
        test_scale: likewise.
    """

    train_seed: int
    train_scale: float
    test_seed: int
    test_scale: float


@dataclass(frozen=True)
class Judge:
    """How runs are judged.

    Attributes:
        tasks: whose test splits are searched. The mean is that of those with an image and a question.
        dtype: of the model and of its vectors.
    """

    tasks: tuple[str, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for key in self.tasks:
            if key not in TASKS:
                raise M2KRError(f"judge names {key!r}, which is no task.{did_you_mean(key, list(TASKS))}")
            if "test" not in TASKS[key].splits:
                raise M2KRError(f"judge names {key}, which has no test split: leave it out.")
        if not image_and_question(self.tasks):
            raise M2KRError("judge names no task with an image and a question, whose mean is compared: add one.")


@dataclass(frozen=True)
class Settings:
    """The settings of a study.

    Attributes:
        vision: sizes of the vision encoder by name, smallest first.
        text: sizes of the text encoders likewise.
        middle: names of the two sizes that the axes and the ablations go through.
        stages: of the training, each with the settings of a run of its own; their seeds are set by the study.
        judge: how runs are judged.
        device: as torch names it, unless the command names another.
        world: where data are made; None where they are given.
        clip: settings of the contrastive training of a CLIP that is made.
        model: what `baselines.preflmr.training.assemble.assemble` is given besides the encoders.
        raw: the file as it was read.
    """

    vision: dict[str, Size]
    text: dict[str, Size]
    middle: tuple[str, str]
    stages: dict[int, StageConfig]
    judge: Judge
    device: str
    world: World | None
    clip: StageConfig | None
    model: dict[str, int]
    raw: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One pipeline: a pair of sizes, a seed, and the stages that it goes through."""

    vision: str
    text: str
    seed: int
    stages: tuple[int, ...] = ALL_STAGES

    @property
    def name(self) -> str:
        """What the run's folder is called."""
        missing = "".join(f"-without-{stage}" for stage in ALL_STAGES if stage not in self.stages)
        return f"{self.vision}-{self.text}-seed{self.seed}{missing}"

    @property
    def parts(self) -> list[str]:
        """What its stages' folders are called, in order: pipelines that begin alike share the beginning."""
        done = ("".join(map(str, self.stages[: number + 1])) for number in range(len(self.stages)))
        return [f"{self.vision}-{self.text}-seed{self.seed}-{stages}" for stages in done]


def image_and_question(tasks: Sequence[str]) -> list[str]:
    """Return those tasks that ask with an image and a question."""
    return [key for key in tasks if TASKS[key].kind == "IQ2T"]


def settings_file(form: str) -> Path:
    """Return the settings of a form of the study.

    Raises:
        M2KRError: there is no such form.
    """
    if form not in FORMS:
        raise M2KRError(f"--form is {form!r}; it is one of {', '.join(FORMS)}.")
    return Path(__file__).parent / "configs" / f"scaling-{form}.toml"


def make_plan(settings: Settings, seeds: Sequence[int], *, grid: bool = False) -> list[Run]:
    """Return the runs of a study: for each seed, the pairs of sizes, then the ablations at the middle pair.

    Args:
        settings: of the study.
        seeds: of weights, order of data and draws.
        grid: all pairs, instead of the two axes that cross at the middle pair.
    """
    middle = settings.middle
    pairs = [
        (vision, text)
        for vision in settings.vision
        for text in settings.text
        if grid or vision == middle[0] or text == middle[1]
    ]
    whole = [Run(*pair, seed) for seed in seeds for pair in pairs]
    return whole + [Run(*middle, seed, stages) for seed in seeds for stages in WITHOUT.values()]


def describe(settings: Settings, runs: Sequence[Run]) -> str:
    """Return the plan as text: a line for each run with what it trains and what it shares, then the sums."""
    seen: set[str] = set()
    lines, updates = [], 0
    for run in runs:
        fresh = [stage for stage, part in zip(run.stages, run.parts, strict=True) if part not in seen]
        seen.update(run.parts)
        updates += sum(settings.stages[stage].steps for stage in fresh)
        shared = [str(stage) for stage in run.stages if stage not in fresh]
        note = f" (stage {' and '.join(shared)} shared)" if shared else ""
        lines.append(f"{run.name}: stages {', '.join(map(str, run.stages))}{note}")
    clips = {(run.vision, run.seed) for run in runs} if settings.clip else set()
    lines.append(f"{len(runs)} runs, {len(seen)} stages to train, {updates:,} updates")
    if settings.clip:
        lines.append(f"{len(clips)} image encoders to train before, {len(clips) * settings.clip.steps:,} updates")
    return "\n".join(lines)


def read_settings(path: Path) -> Settings:
    """Read the settings of a study.

    Sizes stand in tables ``vision`` and ``text``, smallest first. Each of ``stages`` (``1`` to ``4``) and ``clip`` is
    a table that names a file of settings of a run, beside this one, as ``settings``, and what is changed of it. With
    ``world``, data and encoders are made; without, encoders are named and data are given to the command.

    Raises:
        M2KRError: the file cannot be read, or has a name or a value that cannot be.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise M2KRError(f"{path} could not be read ({error.strerror}): name a file of settings.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise M2KRError(f"{path} is no TOML ({error}): correct it there.") from error
    try:
        return _settings(raw, path.parent)
    except M2KRError as error:
        raise M2KRError(f"{path}: {error}") from error


def _settings(raw: dict[str, Any], folder: Path) -> Settings:
    made = "world" in raw
    known = [*_ROOT, *(_MADE if made else ())]
    for name in raw:
        if name not in known:
            raise M2KRError(f"there is no setting {name!r} here.{did_you_mean(name, known)}")
    lacking = [name for name in known if name not in raw and name not in ("device", "model")]
    if lacking:
        raise M2KRError(f"it does not say {', '.join(lacking)}: add it.")
    vision, text = (_sizes(_table(raw, axis), axis, made=made) for axis in ("vision", "text"))
    middle = _table(raw, "middle")
    for axis, sizes in (("vision", vision), ("text", text)):
        if middle.get(axis) not in sizes:
            raise M2KRError(f"middle.{axis} is {middle.get(axis)!r}; the sizes are {', '.join(sizes)}.")
    stages = _table(raw, "stages")
    if sorted(stages) != list(map(str, ALL_STAGES)):
        raise M2KRError(f"stages has {', '.join(stages) or 'nothing'}; it needs 1, 2, 3 and 4.")
    configs = {stage: _stage(_table(stages, str(stage), "stages"), stage, folder) for stage in ALL_STAGES}
    judge = dict(_table(raw, "judge"))
    if not isinstance(judge.get("tasks"), list):
        raise M2KRError("judge.tasks is no list of tasks: make it one.")
    model = _table(raw, "model") if "model" in raw else {}
    for name, value in model.items():
        if name not in _MODEL or not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise M2KRError(f"model.{name} is {value!r}; whole numbers above 0 can be given for {', '.join(_MODEL)}.")
    return Settings(
        vision=vision,
        text=text,
        middle=(middle["vision"], middle["text"]),
        stages=configs,
        judge=_build(Judge, "judge", {**judge, "tasks": tuple(judge["tasks"])}),
        device=str(raw.get("device", "cpu")),
        world=_world(_table(raw, "world")) if made else None,
        clip=_stage(_table(raw, "clip"), 0, folder) if made else None,
        model=model,
        raw=raw,
    )


_MODEL = ("dim", "prefix", "query_maxlen", "doc_maxlen", "mapping_layers")


def _world(values: Mapping[str, Any]) -> World:
    world = _build(World, "world", values)
    if min(world.train_scale, world.test_scale) <= 0 or min(world.train_seed, world.test_seed) < 0:
        raise M2KRError("a scale of world has to be more than 0, and a seed 0 or more.")
    if world.train_seed == world.test_seed:
        raise M2KRError(f"world trains and judges on the same world (seed {world.train_seed}): change one of the two.")
    return world


def _sizes(tables: Mapping[str, Any], axis: str, *, made: bool) -> dict[str, Size]:
    sizes = {name: _build(Size, f"{axis}.{name}", _table(tables, name, axis)) for name in tables}
    for name, size in sizes.items():
        if not name.replace("_", "").replace(".", "").isalnum():  # a hyphen separates the parts of folders' names
            raise M2KRError(f"{axis} has the size {name!r}; use letters, digits, dots and underscores.")
        if made == bool(size.path):
            wanted = "layers, width and heads, since data and encoders are made" if made else "a path"
            raise M2KRError(f"{axis}.{name} needs {wanted}.")
        if made:
            _shape(size, f"{axis}.{name}")
    return sizes


def _shape(size: Size, where: str) -> None:
    """Check the sizes of an encoder before hours of training, by the rule of what makes it."""
    from baselines.minis.encoders import Shape

    try:
        Shape(size.layers, size.width, 2 * size.width, size.heads)
    except M2KRError as error:
        raise M2KRError(f"{where}: {error}") from error


def _stage(values: Mapping[str, Any], stage: int, folder: Path) -> StageConfig:
    from baselines.preflmr.training.stages import read_config

    where = f"stages.{stage}" if stage else "clip"
    changes = dict(values)
    base = changes.pop("settings", None)
    if not isinstance(base, str):
        raise M2KRError(f"{where} does not say whose settings it begins with: add settings = FILE.")
    if "seed" in changes:
        raise M2KRError(f"{where} has a seed, which the study sets: leave it out.")
    try:
        config = read_config(folder / base, changes)
    except M2KRError as error:
        raise M2KRError(f"{where}: {error}") from error
    if config.stage != stage:
        raise M2KRError(f"{where} begins with {base}, the settings of stage {config.stage}: name another file.")
    return config


def _table(values: Mapping[str, Any], name: str, parent: str = "") -> dict[str, Any]:
    table = values.get(name)
    if not isinstance(table, dict) or not table:
        raise M2KRError(f"{parent}{parent and '.'}{name} is {table!r} where a table with values is expected.")
    return table


_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


def _build(kind: type[_T], where: str, values: Mapping[str, Any]) -> _T:
    """Return a dataclass from a table, its numbers and texts checked by the types of its attributes."""
    known = {item.name: str(item.type) for item in fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in known:
            raise M2KRError(f"there is no {where}.{name}.{did_you_mean(name, list(known))}")
        wanted = _KINDS.get(known[name])
        if wanted and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise M2KRError(f"{where}.{name} is {value!r} where {known[name]} is expected.")
    try:
        return kind(**values)
    except TypeError as error:
        lacking = [name for name in known if name not in values]
        raise M2KRError(f"{where} does not say {', '.join(lacking)}: add it.") from error
