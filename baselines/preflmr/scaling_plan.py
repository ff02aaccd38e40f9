"""What a scaling study trains: its settings, read from a TOML file, and the runs that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from baselines.common.settings import read_settings, read_toml, to_settings
from m2kr.errors import M2KRError, did_you_mean
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    from baselines.preflmr.training.encoders import Shape
    from baselines.preflmr.training.stages import StageConfig

ALL_STAGES = (1, 2, 3, 4)
WITHOUT = {2: (1, 3, 4), 3: (1, 2, 4)}
"""Stages of the pipelines that leave one out, by the stage that is left out (PreFLMR's ablations of its stages)."""

_Count = Annotated[int, Meta(ge=1)]
_Seed = Annotated[int, Meta(ge=0)]
_Scale = Annotated[float, Meta(gt=0)]


class Size(Struct, frozen=True, forbid_unknown_fields=True):
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

    @property
    def shape(self) -> Shape:
        """Sizes of an encoder to be made; its feed-forward layers are twice as wide, as in the small models."""
        from baselines.preflmr.training.encoders import Shape

        return Shape(self.layers, self.width, 2 * self.width, self.heads)


class Worlds(Struct, frozen=True, forbid_unknown_fields=True):
    """Seeds and scales of two synthetic worlds, one to train on and one to judge on; see `m2kr.synthetic`."""

    train_seed: _Seed
    train_scale: _Scale
    test_seed: _Seed
    test_scale: _Scale


class Judging(Struct, frozen=True, forbid_unknown_fields=True):
    """How runs are judged.

    Attributes:
        tasks: whose test splits are searched. The mean is that of those with an image and a question.
        dtype: of the model and of its vectors.
    """

    tasks: tuple[str, ...]
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"


class Middle(Struct, frozen=True, forbid_unknown_fields=True):
    """Names of the two sizes that the axes and the ablations go through."""

    vision: str
    text: str


class NewParts(Struct, frozen=True, forbid_unknown_fields=True):
    """What `baselines.preflmr.training.assemble.assemble` is given besides the encoders; its defaults are these."""

    dim: _Count = 128
    prefix: _Count = 32
    query_maxlen: _Count = 32
    doc_maxlen: _Count = 512
    mapping_layers: _Count = 1


@dataclass(frozen=True)
class Settings:
    """The settings of a study.

    Attributes:
        raw: the file as it was read.
        vision: sizes of the vision encoder by name, smallest first.
        text: sizes of the text encoders likewise.
        middle: of these sizes.
        stages: of the training, each with the `StageConfig` of a run; their seeds are set by the study.
        judge: how runs are judged.
        device: as torch names it, unless the command names another.
        world: where data and encoders are made; None where they are given.
        clip: the `StageConfig` for the contrastive training of a CLIP that is made.
        model: sizes of what is new in it.
    """

    raw: dict[str, Any]
    vision: dict[str, Size]
    text: dict[str, Size]
    middle: Middle
    stages: dict[int, Any]
    judge: Judging
    device: str = "cpu"
    world: Worlds | None = None
    clip: Any = None
    model: NewParts = field(default_factory=NewParts)

    def __post_init__(self) -> None:
        made = self.world is not None
        if made != (self.clip is not None):
            raise M2KRError("world and clip go together: data and encoders are made, or both are given.")
        if self.world and self.world.train_seed == self.world.test_seed:
            raise M2KRError(f"world trains and judges on the same world (seed {self.world.test_seed}): change one.")
        for axis, sizes, middle in (
            ("vision", self.vision, self.middle.vision),
            ("text", self.text, self.middle.text),
        ):
            if middle not in sizes:
                raise M2KRError(f"middle.{axis} is {middle!r}; the sizes are {', '.join(sizes)}.")
            for name, size in sizes.items():
                _check_size(size, name, axis, made=made)
        if sorted(self.stages) != list(ALL_STAGES):
            raise M2KRError(f"stages has {', '.join(map(str, self.stages)) or 'nothing'}; it needs 1, 2, 3 and 4.")
        for key in self.judge.tasks:
            if key not in TASKS:
                raise M2KRError(f"judge names {key!r}, which is no task.{did_you_mean(key, TASKS)}")
            if "test" not in TASKS[key].splits:
                raise M2KRError(f"judge names {key}, which has no test split: leave it out.")
        if not image_and_question(self.judge.tasks):
            raise M2KRError("judge names no task with an image and a question, whose mean is compared: add one.")


def _check_size(size: Size, name: str, axis: str, *, made: bool) -> None:
    if not name.replace("_", "").replace(".", "").isalnum():  # a hyphen separates the parts of folders' names
        raise M2KRError(f"{axis} has the size {name!r}; use letters, digits, dots and underscores.")
    if made == bool(size.path):
        wanted = "layers, width and heads, since data and encoders are made" if made else "a path"
        raise M2KRError(f"{axis}.{name} needs {wanted}.")
    if made:
        try:
            _ = size.shape  # before hours of training
        except M2KRError as error:
            raise M2KRError(f"{axis}.{name}: {error}") from error


def read_study(path: Path) -> Settings:
    """Read the settings of a study.

    Sizes stand in tables ``vision`` and ``text``, smallest first. Each of ``stages`` (``1`` to ``4``) and ``clip`` is
    a table that names a file of settings of a run, beside this one, as ``settings``, and what is changed of it. With
    ``world``, data and encoders are made; without, encoders are named and data are given to the command.

    Raises:
        M2KRError: the file cannot be read, or has a name or a value that cannot be.
    """
    raw = read_toml(path)
    values: dict[str, Any] = {**raw, "raw": raw}
    try:
        if isinstance(raw.get("stages"), dict):
            values["stages"] = {
                int(stage) if stage.isdecimal() else stage: _stage(f"stages.{stage}", table, stage, path.parent)
                for stage, table in raw["stages"].items()
            }
        if "clip" in raw:
            values["clip"] = _stage("clip", raw["clip"], "0", path.parent)
        return to_settings(Settings, values)
    except M2KRError as error:
        raise M2KRError(f"{path}: {error}") from error


def _stage(where: str, table: Any, stage: str, folder: Path) -> StageConfig:
    """Return the settings of a run that a table names and changes."""
    from baselines.preflmr.training.stages import StageConfig

    changes = dict(table) if isinstance(table, dict) else {}
    base = changes.pop("settings", None)
    if not isinstance(base, str):
        raise M2KRError(f"{where} does not say whose settings it begins with: add settings = FILE.")
    if "seed" in changes:
        raise M2KRError(f"{where} has a seed, which the study sets: leave it out.")
    try:
        config = read_settings(StageConfig, folder / base, changes)
    except M2KRError as error:
        raise M2KRError(f"{where}: {error}") from error
    if str(config.stage) != stage:
        raise M2KRError(f"{where} begins with {base}, the settings of stage {config.stage}: name another file.")
    return config


def settings_file(form: str) -> Path:
    """Return the settings of a form of the study, "cpu" or "gpu"."""
    return Path(__file__).parent / "configs" / f"scaling-{form}.toml"


# --- the plan -------------------------------------------------------------------------------------------------------


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
    def folders(self) -> list[str]:
        """What its stages' folders are called, in order: pipelines that begin alike share the beginning."""
        done = ("".join(map(str, self.stages[: number + 1])) for number in range(len(self.stages)))
        return [f"{self.vision}-{self.text}-seed{self.seed}-{stages}" for stages in done]


def plan_runs(settings: Settings, seeds: Sequence[int], *, grid: bool = False) -> list[Run]:
    """Return the runs of a study: for each seed, the pairs of sizes, then the ablations at the middle pair.

    The pairs are those of the two axes that cross at the middle pair, or with ``grid`` all.
    """
    middle = settings.middle
    pairs = [
        (vision, text)
        for vision in settings.vision
        for text in settings.text
        if grid or vision == middle.vision or text == middle.text
    ]
    whole = [Run(*pair, seed) for seed in seeds for pair in pairs]
    return whole + [Run(middle.vision, middle.text, seed, stages) for seed in seeds for stages in WITHOUT.values()]


def describe_plan(settings: Settings, runs: Sequence[Run]) -> str:
    """Return the plan as text: a line for each run with what it trains and what it shares, then the sums."""
    seen: set[str] = set()
    lines, updates = [], 0
    for run in runs:
        fresh = [stage for stage, folder in zip(run.stages, run.folders, strict=True) if folder not in seen]
        seen.update(run.folders)
        updates += sum(settings.stages[stage].steps for stage in fresh)
        shared = [str(stage) for stage in run.stages if stage not in fresh]
        note = f" (stage {' and '.join(shared)} shared)" if shared else ""
        lines.append(f"{run.name}: stages {', '.join(map(str, run.stages))}{note}")
    clips = {(run.vision, run.seed) for run in runs} if settings.clip else set()
    lines.append(f"{len(runs)} runs, {len(seen)} stages to train, {updates:,} updates")
    if settings.clip:
        lines.append(f"{len(clips)} image encoders to train before, {len(clips) * settings.clip.steps:,} updates")
    return "\n".join(lines)


def image_and_question(tasks: Sequence[str]) -> list[str]:
    """Return those tasks that ask with an image and a question."""
    return [key for key in tasks if TASKS[key].kind == "IQ2T"]
