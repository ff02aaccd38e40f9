"""The architecture of a PreFLMR or FLMR checkpoint, as its config.json says it.

An official config.json leaves out whatever equals the default of the official classes: BERT-base for the text, CLIP
ViT-B/32 at 224 pixels for the image. A value of null means the default too. Fields are named as in that file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from m2kr.common.files import write_json
from m2kr.common.json_input import read_json
from m2kr.errors import M2KRError

_T = TypeVar("_T")
Whole = Annotated[int, msgspec.Meta(ge=0)]
Real = Annotated[float, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class TextConfig:
    """A BERT or XLM-RoBERTa encoder. The defaults are those of bert-base-uncased.

    ``family`` is "bert" or "xlm-roberta"; ``base`` is the name of the encoder the checkpoint was trained from.
    ``query_maxlen`` (tokens) counts for XLM-RoBERTa only: a BERT checkpoint has it in its tokenizer's folder.
    """

    family: str = "bert"
    base: str = "bert-base-uncased"
    vocab_size: Whole = 30522
    hidden_size: Whole = 768
    num_hidden_layers: Whole = 12
    num_attention_heads: Whole = 12
    intermediate_size: Whole = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Real = 0.1
    attention_probs_dropout_prob: Real = 0.1
    max_position_embeddings: Whole = 512
    type_vocab_size: Whole = 2
    initializer_range: Real = 0.02
    layer_norm_eps: Real = 1e-12
    pad_token_id: Whole = 0
    query_maxlen: Whole = 32

    @property
    def max_tokens(self) -> int:
        """How many tokens fit: XLM-RoBERTa's positions begin after the padding id."""
        reserved = self.pad_token_id + 1 if self.family == "xlm-roberta" else 0
        return self.max_position_embeddings - reserved


@dataclass(frozen=True)
class VisionConfig:
    """A CLIP vision tower. The defaults are those of openai/clip-vit-base-patch32; sizes of images are in pixels."""

    hidden_size: Whole = 768
    intermediate_size: Whole = 3072
    projection_dim: Whole = 512
    num_hidden_layers: Whole = 12
    num_attention_heads: Whole = 12
    num_channels: Whole = 3
    image_size: Whole = 224
    patch_size: Whole = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Real = 1e-5
    attention_dropout: Real = 0.0
    initializer_range: Real = 0.02
    initializer_factor: Real = 1.0


_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_BERT = TextConfig()
_XLM = TextConfig(
    family="xlm-roberta",
    base="xlm-roberta-base",
    vocab_size=250002,
    max_position_embeddings=514,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    pad_token_id=1,
)
_FAMILIES = {"bert": _BERT, "xlm-roberta": _XLM}
# Encoders known by name, so that nothing is downloaded to learn their sizes; from each one's own config.json.
_BASES = {
    "bert-base-uncased": _BERT,
    "google-bert/bert-base-uncased": _BERT,
    "bert-large-uncased": replace(_BERT, **_LARGE),
    "google-bert/bert-large-uncased": replace(_BERT, **_LARGE),
    "xlm-roberta-base": _XLM,
    "FacebookAI/xlm-roberta-base": _XLM,
    "xlm-roberta-large": replace(_XLM, **_LARGE),
    "FacebookAI/xlm-roberta-large": replace(_XLM, **_LARGE),
    "BAAI/bge-m3": replace(_XLM, **_LARGE, max_position_embeddings=8194),
}
# What an encoder that is not known by name must say itself.
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@dataclass(frozen=True)
class PreFLMRConfig:
    """What a config.json of the official implementation says about the model; names and defaults are the same.

    ``text_config`` and ``vision_config`` hold the encoders; ``vision_config`` is there even where
    ``use_vision_encoder`` is false, as in the official file. ``mapping`` is the BERT whose layers map image patches
    (None without a mapping network); the file has it as ``transformer_mapping_config_base``, changed by
    ``transformer_mapping_config`` (our addition) and ``transformer_mapping_num_hidden_layers``.
    """

    text_config: TextConfig = field(default_factory=TextConfig)
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    mapping: TextConfig | None = None
    dim: Whole = 128
    initializer_range: Real = 0.02
    mask_punctuation: bool = True
    mapping_network_prefix_length: Whole = 32
    use_vision_encoder: bool = True
    separate_query_and_context_text_encoder: bool = False
    separate_query_and_context_vision_encoder: bool = False
    query_concat_output_from_vision_encoder: bool = True
    query_concat_output_from_text_encoder: bool = True
    context_concat_output_from_vision_encoder: bool = False
    context_concat_output_from_text_encoder: bool = True
    mask_instruction_token: str | None = None
    transformer_mapping_cross_attention_length: Whole = 32
    query_mask_input_ids_skip_list: tuple[Whole, ...] = ()
    vision_model_version: str = "openai/clip-vit-base-patch32"

    def __post_init__(self) -> None:
        for name, part in (("text_config", self.text_config), ("vision_config", self.vision_config)):
            _check_heads(part, name)
        if self.mapping is not None:
            _check_heads(self.mapping, "transformer_mapping_config")
            if not self.use_vision_encoder:
                raise M2KRError(
                    "use_vision_encoder is false, so there is nothing to map: set "
                    "use_transformer_mapping_network to false."
                )
            if self.mapping.family != "bert":
                raise M2KRError(f"transformer_mapping_config_base: {self.mapping.base!r} is no BERT; name a BERT.")
            if self.mapping.hidden_size != self.text_config.hidden_size:
                raise M2KRError(
                    f"the mapping network is {self.mapping.hidden_size} wide and the text encoder "
                    f"{self.text_config.hidden_size}, but one attends to the other: give both the same hidden_size."
                )
        if not (self.query_concat_output_from_text_encoder or self.query_concat_output_from_vision_encoder):
            raise M2KRError(
                "query_concat_output_from_text_encoder and query_concat_output_from_vision_encoder are "
                "both false, so that a query has no vectors: set one to true."
            )

    @classmethod
    def from_folder(cls, folder: Path) -> PreFLMRConfig:
        """Read ``folder``/config.json.

        Raises:
            M2KRError: the file is not there, is no JSON, or `from_json` refuses it.
        """
        path = folder / "config.json"
        value = read_json(
            path,
            dict[str, Any],
            "configuration",
            "A PreFLMR checkpoint is a folder with config.json, the weights, query_tokenizer/ and context_tokenizer/.",
        )
        try:
            return cls.from_json(value)
        except M2KRError as error:
            raise M2KRError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PreFLMRConfig:
        """Read the official form. Fields that say nothing about the model (versions, generation) are passed over.

        Raises:
            M2KRError: a field names a kind of model that is not known here, or has a value that cannot be.
        """
        _one_of(value.get("model_type"), ("flmr", None), "model_type")
        vision = _object(value.get("vision_config"), "vision_config")
        _one_of(vision.get("model_type"), ("flmr_vision_model", "clip_vision_model", None), "vision_config.model_type")
        plain = {name: item for name, item in value.items() if name not in ("text_config", "vision_config", "mapping")}
        return replace(
            _convert(cls, plain, ""),
            text_config=_read_text(_object(value.get("text_config"), "text_config")),
            vision_config=_convert(VisionConfig, vision, "vision_config."),
            mapping=_read_mapping(value),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the official form: what `from_json` reads, and what the official class reads."""
        value = asdict(self)
        text, vision = value.pop("text_config"), value.pop("vision_config")
        del value["mapping"]
        family, base = text.pop("family"), text.pop("base")
        own = self.mapping
        return {
            "architectures": ["FLMRModelForRetrieval"],
            "model_type": "flmr",
            "text_config": {
                "model_type": "flmr_text_model" if base in _BASES else family,
                "text_encoder_base_model": base,
                **text,
            },
            "vision_config": {"model_type": "flmr_vision_model", **vision},
            **value,
            "query_mask_input_ids_skip_list": list(self.query_mask_input_ids_skip_list),
            "use_transformer_mapping_network": own is not None,
            "transformer_mapping_config_base": (own.base or None) if own else None,
            "transformer_mapping_num_hidden_layers": own.num_hidden_layers if own else None,
            **({"transformer_mapping_config": _differences(own)} if own and _differences(own) else {}),
        }

    def write(self, folder: Path) -> None:
        """Write ``folder``/config.json, atomically."""
        write_json(folder / "config.json", self.to_json())


def _read_text(value: Mapping[str, Any]) -> TextConfig:
    where = "text_config."
    kind = _one_of(value.get("model_type"), ("flmr_text_model", *_FAMILIES, None), f"{where}model_type")
    base = value.get("text_encoder_base_model")
    _check_name(base, f"{where}text_encoder_base_model")
    if base is None and kind != "xlm-roberta":
        base = "bert-base-uncased"
    if value.get("projection_dim"):
        raise M2KRError(
            f"{where}projection_dim is {value['projection_dim']}, a projection that no published checkpoint has and "
            "that is not implemented here: it must be 0."
        )
    _one_of(value.get("position_embedding_type"), ("absolute", None), f"{where}position_embedding_type")
    if base in _BASES:
        if kind in _FAMILIES and kind != _BASES[base].family:
            raise M2KRError(
                f"{where}model_type is {kind!r}, but {where}text_encoder_base_model {base!r} is of the kind "
                f"{_BASES[base].family!r}: correct one of the two."
            )
        return _changed(_BASES[base], base, value, where)
    if kind not in _FAMILIES:
        raise M2KRError(
            f"{where}text_encoder_base_model is {base!r}, which is none of {', '.join(_BASES)}: if it is a BERT or an "
            f"XLM-RoBERTa, set {where}model_type to bert or xlm-roberta and give its {', '.join(_SIZES)}."
        )
    _check_complete(value, where)
    return _changed(_FAMILIES[kind], base or kind, value, where)


def _read_mapping(value: Mapping[str, Any]) -> TextConfig | None:
    """Return the architecture of the mapping network's layers; None where the configuration has no such network."""
    if not value.get("use_transformer_mapping_network"):
        return None
    where = "transformer_mapping_config."
    base = value.get("transformer_mapping_config_base")
    _check_name(base, "transformer_mapping_config_base")
    own = dict(_object(value.get("transformer_mapping_config"), where[:-1]))
    layers = value.get("transformer_mapping_num_hidden_layers")
    if layers is not None:
        own["num_hidden_layers"] = layers
    if base is not None and base not in _BASES:
        raise M2KRError(
            f"transformer_mapping_config_base is {base!r}, which is none of {', '.join(_BASES)}: name one of these, "
            f"or null and give {', '.join(_SIZES)} in transformer_mapping_config."
        )
    if base is None:
        _check_complete(own, where)
    return _changed(_BASES.get(base or "", _BERT), base or "", own, where)


def _differences(mapping: TextConfig) -> dict[str, Any]:
    """Return the fields in which a mapping network differs from the encoder it names as its base."""
    default = asdict(_BASES.get(mapping.base, _BERT))
    # The number of layers has a field of its own in the official file.
    own = {name: value for name, value in asdict(mapping).items() if name not in ("family", "base")}
    whole = mapping.base not in _BASES
    return {
        name: value
        for name, value in own.items()
        if (name != "num_hidden_layers" and value != default[name]) or (whole and name in _SIZES)
    }


def _changed(encoder: TextConfig, base: str, value: Mapping[str, Any], where: str) -> TextConfig:
    """Return an encoder with the fields that ``value`` gives, which was trained from ``base``."""
    given = {name: item for name, item in value.items() if item is not None}
    return _convert(TextConfig, {**asdict(encoder), **given, "family": encoder.family, "base": base}, where)


def _convert(cls: type[_T], value: Mapping[str, Any], where: str) -> _T:
    """Return the object whose fields ``value`` gives; null is the default.

    Raises:
        M2KRError: a value is of the wrong type, or a number of a model negative.
    """
    given = {name: item for name, item in value.items() if item is not None}
    try:
        return msgspec.convert(given, cls)
    except msgspec.ValidationError as error:
        expected, _, place = str(error).partition(" - at ")
        name = re.split(r"\W+", place)[1]
        raise M2KRError(f"{where}{name} is {given[name]!r}: {expected.lower()}.") from error


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise M2KRError(f"{name} is {value!r} where an object is expected.")
    return value


def _check_name(value: Any, name: str) -> None:
    if value is not None and not isinstance(value, str):
        raise M2KRError(f"{name} is {value!r:.80} where the name of an encoder is expected.")


def _one_of(value: Any, known: tuple[str | None, ...], name: str) -> Any:
    if value not in known:
        names = ", ".join(item for item in known if item is not None)
        raise M2KRError(f"{name} is {value!r}, and only {names} can be read here.")
    return value


def _check_complete(own: Mapping[str, Any], where: str) -> None:
    missing = [name for name in _SIZES if own.get(name) is None]
    if missing:
        raise M2KRError(f"{where}{missing[0]} is missing, and no known encoder is named to take it from: add it.")


def _check_heads(part: TextConfig | VisionConfig, name: str) -> None:
    if part.num_attention_heads < 1 or part.hidden_size % part.num_attention_heads:
        raise M2KRError(
            f"{name}: hidden_size {part.hidden_size} cannot be divided among num_attention_heads "
            f"{part.num_attention_heads}."
        )
