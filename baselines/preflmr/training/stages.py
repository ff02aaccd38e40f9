"""The four training stages of PreFLMR: what each trains, and the settings of a run.

A stage's settings are a TOML file (``configs/stage1.toml`` to ``stage4.toml``), in which every value has its reason or
its source beside it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from m2kr.errors import M2KRError, did_you_mean
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    from baselines.preflmr.preflmr import PreFLMR

Instructions = Literal["fixed", "sampled", "none"]
Precision = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine"]

STAGES = (0, 1, 2, 3, 4)
_TEXT = ("query_text_encoder", "query_text_linear", "document_text_encoder", "document_text_linear")
_MAPPING = ("vision_projection", "document_vision_projection", "mapping_network")

TRAINED: dict[int, tuple[str, ...]] = {1: _TEXT, 2: _MAPPING, 3: (*_TEXT, *_MAPPING), 4: (*_TEXT, *_MAPPING)}
"""Submodules of `PreFLMR` that a stage trains; everything else is frozen, the image encoder in all of them.

Stage 1 trains the text encoders for text-to-text retrieval, stage 2 the projections from image to text alone, stages 3
and 4 all but the image encoder. That the image encoder is frozen throughout, and that stage 2 trains only the mapping
structure, is said by the authors (the model zoo and thread 30 of LinWeizheDragon/FLMR). That stage 3 trains what stage
4 does is this project's reading.
"""


@dataclass(frozen=True)
class StageConfig:
    """The settings of one training run.

    Attributes:
        stage: 1 to 4. 0 is what comes before, the training of a CLIP, which `baselines.minis` needs.
        tasks: what is trained on, with the share of batches that each task gets. A batch is of one task. Shares need
            not add up to 1.
        steps: updates of the weights.
        batch_size: queries of a batch on one device; the other passages of the batch are negatives.
        accumulate: batches whose gradients are added up for one update.
        mini_batch: inputs that the encoders get at once, with gradients cached so that memory does not grow with
            ``batch_size``; 0 for all at once, which computes everything once instead of twice.
        negatives: passages that each query brings besides its positive.
        mined: how many of these come from the first ``mined_depth`` of BM25; the others are drawn from all passages.
        mined_depth: see ``mined``.
        instructions: "fixed" for the one that stands in the data, "sampled" to draw one of the task's each time a
            query is used, "none" to leave it out.
        query_text: whether the vectors of the query's text count. Without them an image has to be told by its own.
        gather: whether passages of the other devices are negatives too.
        scale: what scores are multiplied by in the loss. 1 for late interaction, a sum over some 100 vectors.
        learning_rate: its largest value.
        warmup_steps: updates until then.
        schedule: what it does afterwards.
        weight_decay: of AdamW.
        max_grad_norm: length that gradients are cut to; 0 for none.
        precision: of the computation: "bfloat16" is autocast, the weights stay float32.
        validate: tasks whose valid split chooses the best checkpoint, by the mean of Recall@5.
        valid_queries: queries of each such task.
        valid_passages: passages of its pool: the positives of these queries, filled up with others.
        evaluate_every: updates between two validations, each with a checkpoint.
        log_every: updates between two values of the loss.
        seed: of everything that is drawn.
    """

    stage: int
    tasks: dict[str, float]
    steps: int
    batch_size: int
    learning_rate: float
    accumulate: int = 1
    mini_batch: int = 0
    negatives: int = 1
    mined: int = 0
    mined_depth: int = 50
    instructions: Instructions = "fixed"
    query_text: bool = True
    gather: bool = False
    scale: float = 1.0
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: Precision = "float32"
    validate: tuple[str, ...] = field(default=())
    valid_queries: int = 500
    valid_passages: int = 5000
    evaluate_every: int = 500
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise M2KRError(f"stage is {self.stage}; the stages are {', '.join(map(str, STAGES))}.")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise M2KRError(f"{name} is {getattr(self, name)}; it has to be {least} or more.")
        if self.learning_rate <= 0 or self.scale <= 0:
            raise M2KRError("learning_rate and scale have to be more than 0.")
        if self.mined > self.negatives:
            raise M2KRError(f"mined is {self.mined}, more than the {self.negatives} negatives of a query.")
        if self.evaluate_every % self.log_every:
            raise M2KRError(
                f"evaluate_every ({self.evaluate_every}) is no multiple of log_every ({self.log_every}), so that a "
                "resumed run would log other means than one that was never stopped: change one of the two."
            )
        for name, choices in (("instructions", Instructions), ("precision", Precision), ("schedule", Schedule)):
            if getattr(self, name) not in get_args(choices):
                raise M2KRError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(get_args(choices))}.")
        if not self.tasks or any(not share > 0 for share in self.tasks.values()):
            raise M2KRError("tasks has to name at least one task, each with a share above 0.")
        for key in (*self.tasks, *self.validate):
            if key not in TASKS:
                raise M2KRError(f"there is no task {key!r}.{did_you_mean(key, list(TASKS))}")
        for key in self.tasks:
            _check_split(key, "train", "tasks")
        for key in self.validate:
            _check_split(key, "valid", "validate")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as they are kept beside what was trained."""
        return {**asdict(self), "validate": list(self.validate)}


_LEAST = {
    **dict.fromkeys(("steps", "accumulate", "mined_depth", "valid_queries", "valid_passages", "evaluate_every"), 1),
    **dict.fromkeys(("mini_batch", "negatives", "mined", "warmup_steps", "seed"), 0),
    **dict.fromkeys(("weight_decay", "max_grad_norm"), 0),
    "log_every": 1,
    "batch_size": 2,  # without other passages there is nothing to tell a positive from
}


def _check_split(key: str, split: str, name: str) -> None:
    if split not in TASKS[key].splits:
        has = ", ".join(task.key for task in TASKS.values() if split in task.splits)
        raise M2KRError(f"{name} names {key}, which has no {split} split. Those that have one: {has}.")


def config_file(stage: int) -> Path:
    """Return the file with the settings of a stage at full size."""
    return Path(__file__).parents[1] / "configs" / f"stage{stage}.toml"


def read_config(path: Path, changes: Mapping[str, Any] | None = None) -> StageConfig:
    """Read the settings of a run.

    Args:
        path: a TOML file with the attributes of `StageConfig`; what it leaves out has its default.
        changes: values that go before those of the file.

    Raises:
        M2KRError: the file cannot be read, or has a name or a value that cannot be.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise M2KRError(f"{path} could not be read ({error.strerror}): name a file of settings.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise M2KRError(f"{path} is no TOML ({error}): correct it there.") from error
    values = {**values, **(changes or {})}
    known = {item.name: item for item in fields(StageConfig)}
    for name, value in values.items():
        if name not in known:
            raise M2KRError(f"{path}: there is no setting {name!r}.{did_you_mean(name, list(known))}")
        values[name] = _typed(name, value, str(known[name].type), path)
    lacking = [name for name in ("stage", "tasks", "steps", "batch_size", "learning_rate") if name not in values]
    if lacking:
        raise M2KRError(f"{path} does not say {', '.join(lacking)}: add it.")
    try:
        return StageConfig(**values)
    except M2KRError as error:
        raise M2KRError(f"{path}: {error}") from error


def _typed(name: str, value: Any, kind: str, path: Path) -> Any:
    """Return a value of a settings file as the type of its attribute."""
    if name == "tasks":
        if isinstance(value, dict) and all(_is_number(share) for share in value.values()):
            return {str(key): float(share) for key, share in value.items()}
        expected = "a table of tasks and their shares, as in tasks = { EVQA = 1.0 },"
    elif name == "validate":
        if isinstance(value, (list, tuple)) and all(isinstance(key, str) for key in value):
            return tuple(value)
        expected = "a list of tasks"
    elif kind == "int":
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        expected = "a whole number"
    elif kind == "float":
        if _is_number(value):
            return float(value)
        expected = "a number"
    elif kind == "bool":
        if isinstance(value, bool):
            return value
        expected = "true or false"
    else:
        if isinstance(value, str):
            return value
        expected = "text"
    raise M2KRError(f"{path}: {name} is {value!r} where {expected} is expected.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def trained_names(model: PreFLMR, stage: int) -> list[str]:
    """Return the names of the parameters that a stage trains, as the model lists them.

    Poolers of the text encoders and CLIP's last layer norm reach no output and are never among them.
    """
    prefixes = tuple(f"{name}." for name in TRAINED[stage])
    return [name for name, _ in model.named_parameters() if name.startswith(prefixes) and ".pooler." not in f".{name}"]


def freeze(model: PreFLMR, stage: int) -> None:
    """Let exactly the parameters of a stage take gradients, and switch dropout off in modules that are frozen whole.

    A frozen encoder with dropout would be a noisy teacher.

    Raises:
        M2KRError: the model has nothing that this stage trains, as one without images in stage 2.
    """
    from torch import nn

    names = set(trained_names(model, stage))
    if not names:
        raise M2KRError(
            f"stage {stage} trains {', '.join(TRAINED[stage])}, and this model has none of these: start from a model "
            "with an image encoder."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    for module in model.children():
        if not any(parameter.requires_grad for parameter in module.parameters()):
            for part in module.modules():
                if isinstance(part, nn.Dropout):
                    part.p = 0.0
