"""What kind of model a folder holds, told by its configuration files alone, and whether all its weights were used.

Loaders take almost any folder: a checkpoint of ColBERT becomes a mean-pooled encoder with its projection dropped, a
reranker becomes a retriever. Such a model gets a score and means nothing, so it is refused here, by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from m2kr.common.files import files_below
from m2kr.common.json_input import check_depth, read_json, read_text
from m2kr.errors import M2KRError

Pooling = Literal["mean", "cls", "last"]
"""How a bare encoder's token vectors become one: their mean, the first, or the last."""

PROMPTS = "config_sentence_transformers.json"
"""What a folder of modules has its prompts and its similarity in. Some published models have none."""

_OWN_MODULES = ("sentence_transformers.", "pylate.")
_OF_COLPALI_ENGINE = re.compile(r"(Col|Bi)[A-Z]\w*(?<!ForRetrieval)")
_ONE_VECTOR = ("clip", "siglip", "siglip2")
# Types of transformers whose text and image halves each end in one vector of their own, so that nothing is pooled.
_BUFFERS = ("position_ids", "token_type_ids", "rotary_emb.inv_freq")
# That older releases saved, and that every model computes.
PRETRAINING_HEADS = (
    *("pooler.", "cls.", "lm_head.", "mlm_head.", "qa_outputs."),
    *("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
)
"""Parts of a checkpoint that no embedding made of the encoder's hidden states uses: heads of the tasks of training."""


_MOST = (
    # The deepest published models have some 200 layers, and each takes time to build, whatever the weights are.
    (re.compile(r"layers?$|blocks$|^depths?$"), 1_000),
    (re.compile(r"(vocab_size|positions?|position_embeddings|length)$"), 1 << 24),
    (re.compile(r"features$"), 1 << 15),
    (re.compile(r"(size|dim|width|heads|channels|d_model|d_ff|d_kv)$"), 1 << 18),
)
"""Names of numbers in config.json, and what they are at most: a few times what any published model has."""
_WIDTHS = ("hidden_size", "d_model", "n_embd")
_ROWS = re.compile(r"(vocab_size|hidden_size|intermediate_size|position_embeddings|d_model|d_ff|ffn_dim)$")
_LAYERS = re.compile(r"layers?$")
_NUMBERS_OF_A_BYTE = 2  # of weights: the shortest types have 4 bits
_FEW = 1 << 25  # numbers: what is built in a moment, so that loaders say what they find wrong


def check_model_files(folder: Path) -> None:
    """Check the JSON files of a model, before a library builds what they say: size, depth, and sizes of the model.

    Libraries make room, and random numbers, for all that config.json says before they look at the weights: 90 seconds
    and 9 GB for a vocabulary of 16 million. So the sizes also have to fit into the files of weights that are there.

    Raises:
        M2KRError: naming the file and the key.
    """
    files = files_below(folder)
    weights = sum(path.stat().st_size for path in files if path.suffix in (".safetensors", ".bin"))
    if folder / "adapter_config.json" in files and folder / "config.json" in files:
        raise M2KRError(
            f"{folder} holds an adapter (adapter_config.json) beside a model, and it would be left out. Merge it into "
            "the model and save that, or take the adapter's files away."
        )
    for path in files:
        if path.suffix != ".json":
            continue
        if path.name == "config.json":
            config = _json(path)
            if name := _too_large(config) or _beyond_weights(config, max(weights * _NUMBERS_OF_A_BYTE, _FEW)):
                raise M2KRError(f"{path} says {name}: no model is built of that size. Get the model's files again.")
            continue
        try:
            check_depth(read_text(path))
        except ValueError as error:
            raise M2KRError(f"{path} cannot be read: {error}. Get the model's files again.") from error


def _too_large(value: Any, name: str = "", most: int | None = None) -> str:
    """Return "key = number" of the first number in a configuration that is out of its bounds, or nothing."""
    if isinstance(value, dict):
        for key, item in value.items():
            bound = next((bound for pattern, bound in _MOST if pattern.search(key)), None)
            if found := _too_large(item, f"{name}.{key}".lstrip("."), bound):
                return found
    elif isinstance(value, list):
        return next(filter(None, (_too_large(item, name, most) for item in value)), "")
    elif isinstance(value, int | float) and most is not None and abs(value) > most:
        return f"{name} = {value:,}, more than {most:,}"
    return ""


def _beyond_weights(config: dict[str, Any], most: int, name: str = "") -> str:
    """Return "key = number" of the first size that calls for more numbers than ``most``, which files hold; or nothing.

    There is a weight for each pair of a row, or of a part of the width, and the width.
    """
    width = next((config[key] for key in _WIDTHS if isinstance(config.get(key), int)), 0)
    rotary = any(key.startswith("rope") for key in config)  # positions that have no weights
    patch = config.get("patch_size")
    for key, value in config.items():
        if isinstance(value, dict):
            if found := _beyond_weights(value, most, f"{name}{key}."):
                return found
        elif isinstance(value, int):
            rows = value if _ROWS.search(key) else value * width if _LAYERS.search(key) else 0
            if rotary and key.endswith("position_embeddings"):
                rows = 0
            if key == "image_size" and isinstance(patch, int) and patch > 0:
                rows = (value // patch) ** 2
            if rows * width > most:
                return f"{name}{key} = {value:,}, which with a width of {width:,} is more than all weights there"
    return ""


@dataclass(frozen=True)
class ModelFolder:
    """What a folder holds.

    Attributes:
        path: the folder.
        kind: "single" or "multi", by the number of vectors for an input.
        bare: whether it is an encoder without a rule of pooling.
        model_type: as transformers names it in config.json; empty where a folder of modules has no such file.
        stanford: whether it is a ColBERT of Stanford, whose projection is beside its encoder's tensors.
        told: whether it says which prompts it was trained with, if any: `PROMPTS` is there, or it is no folder of
            modules.
    """

    path: Path
    kind: Literal["single", "multi"]
    bare: bool
    model_type: str
    stanford: bool = False
    told: bool = True


def read_model_folder(path: Path) -> ModelFolder:
    """Return what a folder holds.

    Raises:
        M2KRError: it is no model folder, or one that cannot be searched by vectors: a sparse encoder, a reranker, one
            half of DPR, a generator, a model that needs code of its own.
    """
    config, modules = _json(path / "config.json"), _json(path / "modules.json")
    told = _json(path / PROMPTS)
    if config is None and modules is None:
        if (adapter := _json(path / "adapter_config.json")) is not None:
            base = adapter.get("base_model_name_or_path") or "its model"
            raise M2KRError(
                f"{path} holds an adapter alone, of {base}. Merge it into that, save the model with transformers, and "
                "name its folder."
            )
        raise M2KRError(f"{path} holds neither modules.json nor config.json: it is no model folder.")
    config = config or {}
    types = [str(module.get("type", "")) for module in modules or []]
    architectures = [str(name) for name in config.get("architectures") or []]
    model_type = str(config.get("model_type", ""))
    named = (told or {}).get("model_type")

    def refused(what: str, remedy: str) -> M2KRError:
        return M2KRError(f"{path} holds {what}. {remedy}")

    elsewhere = "Search with its own tool instead."
    own_code = (
        "One of a registered family takes its name as --model (--list-models has all) and this folder as --checkpoint; "
        "for another, register a retriever that loads it."
    )
    if named == "SparseEncoder" or any(".sparse_encoder." in name for name in types):
        raise refused("a sparse encoder (SPLADE), which has a weight for each word and no dense vectors", elsewhere)
    if named == "CrossEncoder" or any(name.endswith("ForSequenceClassification") for name in architectures):
        raise refused("a reranker (CrossEncoder), which scores pairs and has no vectors", elsewhere)
    if foreign := [name for name in types if not name.startswith(_OWN_MODULES)]:
        raise refused(f"a model with modules of its own code ({foreign[0]}), which is not run", own_code)
    if blip := [name for name in architectures if name.endswith("ForImageTextRetrieval")]:
        vectors = (
            "its score is the best product of a text's vector with a picture's 32, which neither a dot product nor "
            "MaxSim from a picture's query gives"
            if blip[0].startswith("Blip2")
            else "it scores pairs"
        )
        raise refused(f"a model that matches pictures with texts ({blip[0]}): {vectors}", elsewhere)
    if any(name.startswith(("DPRContextEncoder", "DPRQuestionEncoder")) for name in architectures):
        raise refused(
            f"one half of DPR ({architectures[0]})",
            "Put both halves into question_encoder/ and ctx_encoder/ of a folder, and pass --model dpr --checkpoint.",
        )
    if modules is None and config.get("auto_map"):
        raise refused("a model with code of its own (auto_map in config.json), which is not run", own_code)
    stanford = "HF_ColBERT" in architectures
    if not stanford and modules is None and (path / "artifact.metadata").is_file():
        raise refused(
            "the artifact.metadata of a ColBERT of Stanford, and a config.json without its architecture HF_ColBERT",
            "Get its files again, all of one download.",
        )
    late = named in ("MultiVectorEncoder", "ColBERT")
    if lost := _lost_module(path, modules or [], late=late):
        raise refused(f"no {lost}, which modules.json names", "Get its files again, all of one download.")
    if stanford and not (path / "artifact.metadata").is_file():
        raise refused(
            "a ColBERT of Stanford without artifact.metadata, which has its markers and lengths",
            "Put that file there, from where the others come.",
        )
    retrieval = any(name.endswith("ForRetrieval") for name in architectures)
    if late or stanford or (modules is None and retrieval):
        if modules is None and not (stanford or retrieval):
            raise refused(
                "a late-interaction model without modules.json, whose projection would be made up",
                "Get its files again, all of one download.",
            )
        return ModelFolder(path, "multi", False, model_type, stanford)
    if modules is None and (engine := [name for name in architectures if _OF_COLPALI_ENGINE.fullmatch(name)]):
        raise refused(
            f"a checkpoint of colpali-engine ({engine[0]}), with other tensors than transformers' class",
            "Name one that was converted, as those of the registered colpali, colqwen2 and colmodernvbert are.",
        )
    if modules is None and any(name.endswith(("ForCausalLM", "ForConditionalGeneration")) for name in architectures):
        raise refused(
            f"a generator ({architectures[0]}), no encoder",
            "Name a model made for retrieval; one of a registered family takes its name, and --checkpoint.",
        )
    bare = modules is None and model_type not in _ONE_VECTOR
    return ModelFolder(path, "single", bare, model_type, told=modules is None or told is not None)


def _lost_module(path: Path, modules: list[dict[str, Any]], *, late: bool) -> str:
    """Return the folder of the first module that is not there, or nothing.

    To normalise one vector needs no file, and repositories keep no empty folder; of late interaction it has a file.
    """
    for module in modules:
        needs_none = str(module.get("type", "")).endswith(".Normalize") and not late
        if (place := str(module.get("path", ""))) and not needs_none and not (path / place).is_dir():
            return place
    return ""


def plain_model_folder(path: Path) -> ModelFolder:
    """Return a folder by its config.json alone, for a model of one vector of which something else says how it is read.

    Raises:
        M2KRError: it has no config.json.
    """
    config = _json(path / "config.json")
    if config is None:
        raise M2KRError(f"{path} holds no config.json: it is no model folder.")
    return ModelFolder(path, "single", False, str(config.get("model_type", "")))


def _json(path: Path) -> Any:
    """Return what a JSON file holds, None where it is not there.

    Raises:
        M2KRError: it is damaged.
    """
    if not path.is_file():
        return None
    kind: Any = list[dict[str, Any]] if path.name == "modules.json" else dict[str, Any]
    found = read_json(path, kind, "file of a model", "Get the model's files again.")
    if path.name == "config.json" and not isinstance(found.get("architectures") or [], list):
        raise M2KRError(f"{path} has no list under architectures. Get the model's files again.")
    return found


@dataclass
class WeightsReport:
    """What loading did with weights: those it made up, and those of the checkpoint that it left.

    Attributes:
        made_up: names of parameters that no file held.
        misshapen: names of parameters that a file holds in another shape, and both shapes.
        left: names of tensors that no parameter took.
    """

    made_up: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def add(self, info: Mapping[str, Any]) -> None:
        """Take in what transformers says with ``output_loading_info=True`` and ``ignore_mismatched_sizes=True``."""
        self.made_up += info["missing_keys"]
        self.misshapen += [
            f"{name} {tuple(found)}, not {tuple(wanted)}," for name, found, wanted in info["mismatched_keys"]
        ]
        self.left += info["unexpected_keys"]

    def check(
        self, path: Path | str, *, taken_elsewhere: tuple[str, ...] = (), unused: tuple[str, ...] = PRETRAINING_HEADS
    ) -> None:
        """Refuse a model whose weights are not those of its files.

        Args:
            path: its folder, for the message.
            taken_elsewhere: names of tensors that another part of the model reads.
            unused: parts of names of tensors that checkpoints of this kind hold and the model has no use for.

        Raises:
            M2KRError: weights were made up, of another shape, or tensors of the checkpoint were left.
        """
        # A head for pooling that the embedding does not use is made anew by some architectures.
        made_up = sorted(name for name in self.made_up if not ("pooler." in unused and "pooler." in name))
        known = (*_BUFFERS, *unused)
        left = sorted(
            name for name in self.left if name not in taken_elsewhere and not any(part in name for part in known)
        )
        for names, fault in (
            (made_up, "has no {} and random numbers stood in"),
            (sorted(self.misshapen), "has {} which the model cannot take"),
            (left, "has {}, which nothing took"),
        ):
            if names:
                listed = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
                raise M2KRError(
                    f"the checkpoint in {path} {fault.format(listed)}: it is not the model that its configuration "
                    "says. Get its files again, or name the model with the tool that made it."
                )


@contextmanager
def reporting_weights() -> Iterator[WeightsReport]:
    """Collect what transformers says of the weights it loads, through whichever library it is called."""
    from transformers import PreTrainedModel

    report = WeightsReport()
    original = PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        wanted = options.pop("output_loading_info", False)
        # Otherwise a shape that is wrong ends it, and nothing says which.
        told = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = original.__func__(cls, *arguments, **told)
        report.add(info)
        return (model, info) if wanted else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # type: ignore[assignment]
    try:
        yield report
    finally:
        PreTrainedModel.from_pretrained = original  # type: ignore[method-assign]
