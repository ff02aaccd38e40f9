"""Official checkpoints: read in every form in which they occur, written in one.

A checkpoint is a folder with config.json, query_tokenizer/, context_tokenizer/ and the weights: model.safetensors,
pytorch_model.bin, or shards of either with an index. Names of tensors differ between uploads:

- the text encoders' ``bert_model`` may be there as ``text_model`` too, or instead;
- CLIP's tensors are under one to three levels of ``vision_model.`` (transformers 5 has one less than 4 had);
- of tied halves, one name or both may be there;
- buffers of position ids, which old versions saved, say nothing.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from baselines.common.checkpoints import Checkpoint, find_checkpoint
from baselines.preflmr.network import PreFLMRNetwork
from baselines.preflmr.pictures import MissingImage, Regions
from baselines.preflmr.tokenization import DOCUMENT_FOLDER, QUERY_FOLDER, PaddingMask
from m2kr.common.files import atomic_path, not_written
from m2kr.common.json_input import read_json
from m2kr.errors import M2KRError, first_line

SETTINGS = "preflmr_module.json"
"""What official files have no place for; as a module of sentence-transformers is described there."""

# What a hub repository is asked for.
FILES = (
    "config.json",
    "preprocessor_config.json",
    SETTINGS,
    "model*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    *(f"{folder}/*{kind}" for folder in (QUERY_FOLDER, DOCUMENT_FOLDER) for kind in (".txt", ".json", ".model")),
)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# Beginnings of our names and of the official ones. Where two of ours are one module (tied halves), both official names
# are names of the same tensors.
_NAMES = {
    "query_text_encoder.": "query_text_encoder.bert_model.",
    "query_text_linear.": "query_text_encoder_linear.",
    "document_text_encoder.": "context_text_encoder.bert_model.",
    "document_text_linear.": "context_text_encoder_linear.",
    "vision_encoder.": "query_vision_encoder.vision_model.vision_model.",
    "vision_projection.": "query_vision_projection.model.",
    "document_vision_encoder.": "context_vision_encoder.vision_model.vision_model.",
    "document_vision_projection.": "context_vision_projection.model.",
    "mapping_network.input_linear.": "transformer_mapping_input_linear.",
    "mapping_network.layers.": "transformer_mapping_network.layer.",
    "mapping_network.output_linear.": "transformer_mapping_output_linear.",
}
_VISION = re.compile(r"^(query|context)_vision_encoder\.(?:vision_model\.){1,3}")
_TEXT = re.compile(r"^(query|context)_text_encoder\.text_model\.")
_BUFFERS = (".position_ids", ".token_type_ids")


@dataclass(frozen=True)
class Settings:
    """How a model reads its inputs; `PreFLMR.configure` and `TokenMasks` say what the values mean."""

    missing_image: MissingImage = "black"
    padding_mask: PaddingMask = "sane"
    regions: Regions = "whole"


def read_settings(folder: Path) -> Settings:
    """Return what `PreFLMR.save_pretrained` wrote beside a checkpoint, the defaults where there is nothing.

    Raises:
        M2KRError: the file is damaged.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return Settings()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except (OSError, msgspec.MsgspecError) as error:
        raise M2KRError(
            f"{path} does not say how inputs are read ({first_line(error)}). Get this file again."
        ) from error


def official_state_dict(model: PreFLMRNetwork) -> dict[str, torch.Tensor]:
    """Return a model's tensors by their official names, tied ones under both, as the official class lists them."""
    state = model.state_dict()  # names a shared module's tensors once for each of its names
    return {_official(name): tensor for name, tensor in state.items()}


def find_official(name: str | Path) -> Checkpoint:
    """Return the checkpoint in a folder, or that of a hub id, which is downloaded.

    Raises:
        M2KRError: there is no such folder, and the hub cannot be reached or has no such model.
    """
    wanted = "config.json, model.safetensors, query_tokenizer/, context_tokenizer/"
    return find_checkpoint(str(name), FILES, files=wanted)


def load_weights(model: PreFLMRNetwork, folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
    """Fill a network that was built on the meta device with the weights in a folder.

    Raises:
        M2KRError: they cannot be read, or are not those of the network.
    """
    model.load_state_dict(_read_state(folder, model, dtype, str(device)), strict=False, assign=True)
    _fill_buffers(model, device)


def save_weights(model: PreFLMRNetwork, folder: Path) -> None:
    """Write ``folder``/model.safetensors, atomically, with official names and every tensor once.

    Raises:
        M2KRError: it cannot be written.
    """
    # Parameters are listed once, under the name of the query's half.
    tensors = {_official(name): tensor.detach().contiguous() for name, tensor in model.named_parameters()}
    path = folder / "model.safetensors"
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
    except SafetensorError as error:
        raise not_written(path, error) from error


def _official(name: str) -> str:
    """Return the official name of a tensor of ours."""
    for ours, official in _NAMES.items():
        if name.startswith(ours):
            return official + name.removeprefix(ours)
    raise AssertionError(f"{name} has no official name")


def _read_state(folder: Path, model: PreFLMRNetwork, dtype: torch.dtype, device: str) -> dict[str, torch.Tensor]:
    """Return the weights in a folder by our names, in ``dtype`` on ``device``; refuse what the model cannot take."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    first: dict[int, str] = {}
    ours: dict[str, str] = {}  # official names, of shared parameters both, to the first of our names
    for name, parameter in model.named_parameters(remove_duplicate=False):
        ours[_official(name)] = first.setdefault(id(parameter), name)
    state: dict[str, torch.Tensor] = {}
    seen: dict[str, str] = {}  # our name to the name it was found by
    unexpected: list[str] = []
    misshapen: list[str] = []
    unequal: list[str] = []
    for found, tensor in _tensors(folder, device):
        if found.endswith(_BUFFERS):
            continue
        usual = _VISION.sub(r"\1_vision_encoder.vision_model.vision_model.", found)
        known = ours.get(_TEXT.sub(r"\1_text_encoder.bert_model.", usual))
        if known is None:
            unexpected.append(found)
            continue
        twin = seen.setdefault(known, found)
        if tensor.shape != shapes[known] or not tensor.is_floating_point():
            misshapen.append(
                f"{found} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}, not {tuple(shapes[known])}"
            )
            continue
        tensor = tensor.to(device=device, dtype=dtype)
        if known not in state:
            state[known] = tensor
        elif not torch.equal(tensor, state[known]):
            unequal.append(f"{found} and {twin}")
    problems = {
        "missing": [_official(name) for name in shapes if name not in seen],
        "unexpected": unexpected,
        "of the wrong shape": misshapen,
        "different, although the configuration says they are one tensor": unequal,
    }
    if any(problems.values()):
        raise M2KRError(
            f"the weights in {folder} are not those of the model that its config.json describes; "
            + "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
            + ". Copy config.json and the weights from one and the same checkpoint."
        )
    return state


def _tensors(folder: Path, device: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a checkpoint with its name, one after the other."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            break
    else:
        raise M2KRError(f"{folder} holds no weights: none of {', '.join(_WEIGHTS)} is there.")
    path = folder / name
    for shard in _shards(path) if name.endswith(".json") else [path]:
        try:
            if shard.suffix == ".safetensors":
                with safe_open(shard, framework="pt", device=device) as file:
                    for key in file.keys():  # noqa: SIM118 - it is no dict
                        yield key, file.get_tensor(key)
            else:
                for key, tensor in _unpickled(shard).items():
                    # A copy, since the tensors of a mapped file stay bound to it.
                    yield key, tensor.clone()
        except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise M2KRError(
                f"{shard} could not be read ({first_line(error)}): copy it again, or one in safetensors."
            ) from error


def _unpickled(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a .bin file, mapped where its format allows it, and never run what it may hold."""
    with path.open("rb") as file:
        mapped = file.read(4) == b"PK\x03\x04"  # files from before torch 1.6 are no zip archives
    state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise M2KRError(f"{path} holds something else than named tensors: it is no checkpoint of a model.")
    return state


class _Index(Struct):
    weight_map: dict[str, str]


def _shards(index: Path) -> list[Path]:
    """Return the files that an index names."""
    names = read_json(index, _Index, "index of weights", "Copy the file again.").weight_map.values()
    paths = [index.parent / name for name in sorted(set(names))]
    for path in paths:
        if path.parent != index.parent or path.suffix not in (".safetensors", ".bin"):
            raise M2KRError(f"{index} names {path.name!r}, which is no file of weights beside it: copy the file again.")
        if not path.is_file():
            raise M2KRError(f"{index} names {path.name}, which is missing: copy it to {index.parent}.")
    return paths


def _fill_buffers(model: PreFLMRNetwork, device: torch.device) -> None:
    """Compute the buffers that no checkpoint holds and that a model built on the meta device is without."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name == "position_ids":
                value = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            elif name == "token_type_ids":
                value = torch.zeros(buffer.shape, dtype=torch.long, device=device)
            else:
                raise AssertionError(f"{type(module).__name__} has a buffer {name}, and no value for it is known")
            setattr(module, name, value)


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
