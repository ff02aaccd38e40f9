"""The four training stages of PreFLMR: what each trains, and the settings of a run.

A stage's settings are a TOML file (``configs/stage1.toml`` to ``stage4.toml``), in which every value has its reason or
its source beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from m2kr.errors import M2KRError, did_you_mean
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    from baselines.preflmr.preflmr import PreFLMR

Instructions = Literal["fixed", "sampled", "none"]
_Count = Annotated[int, Meta(ge=1)]
_Number = Annotated[int, Meta(ge=0)]
_Above0 = Annotated[float, Meta(gt=0)]

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

    stage: Literal[0, 1, 2, 3, 4]
    tasks: Annotated[dict[str, Annotated[float, Meta(gt=0)]], Meta(min_length=1)]
    steps: _Count
    batch_size: Annotated[int, Meta(ge=2)]  # without other passages there is nothing to tell a positive from
    learning_rate: _Above0
    accumulate: _Count = 1
    mini_batch: _Number = 0
    negatives: _Number = 1
    mined: _Number = 0
    mined_depth: _Count = 50
    instructions: Instructions = "fixed"
    query_text: bool = True
    gather: bool = False
    scale: _Above0 = 1.0
    warmup_steps: _Number = 0
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Meta(ge=0)] = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    validate: tuple[str, ...] = ()
    valid_queries: _Count = 500
    valid_passages: _Count = 5000
    evaluate_every: _Count = 500
    log_every: _Count = 10
    seed: _Number = 0

    def __post_init__(self) -> None:
        if self.mined > self.negatives:
            raise M2KRError(f"mined is {self.mined}, more than the {self.negatives} negatives of a query.")
        if self.evaluate_every % self.log_every:
            raise M2KRError(
                f"evaluate_every ({self.evaluate_every}) is no multiple of log_every ({self.log_every}), so that a "
                "resumed run would log other means than one that was never stopped: change one of the two."
            )
        for name, keys, split in (("tasks", self.tasks, "train"), ("validate", self.validate, "valid")):
            for key in keys:
                if key not in TASKS:
                    raise M2KRError(f"there is no task {key!r}.{did_you_mean(key, TASKS)}")
                if split not in TASKS[key].splits:
                    has = ", ".join(task.key for task in TASKS.values() if split in task.splits)
                    raise M2KRError(f"{name} names {key}, which has no {split} split. Those that have one: {has}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as they are kept beside what was trained."""
        return {**asdict(self), "validate": list(self.validate)}


def config_file(stage: int) -> Path:
    """Return the file with the settings of a stage at full size."""
    return Path(__file__).parents[1] / "configs" / f"stage{stage}.toml"


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
