"""The neural network of PreFLMR and FLMR, from token ids and pixels to late-interaction vectors.

Sources: FLMR (Lin et al., NeurIPS 2023, section 3), PreFLMR (Lin et al., ACL 2024, section 3) and what the official
implementation computes from the published checkpoints. The encoders are those of transformers.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import nn
from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel, XLMRobertaConfig, XLMRobertaModel
from transformers.activations import ACT2FN
from transformers.models.bert.modeling_bert import BertLayer

from baselines.preflmr.configuration import PreFLMRConfig, TextConfig, VisionConfig
from baselines.preflmr.scoring import maxsim
from baselines.preflmr.tokenization import TokenMasks
from m2kr.errors import M2KRError

# Vectors (n, tokens, dim) and which of them count, (n, tokens) bool; None where all do.
_Part = tuple[torch.Tensor, torch.Tensor | None]


class Embeddings(NamedTuple):
    """Late-interaction vectors ``(n, tokens, dim)`` and which of them count, ``(n, tokens)`` bool."""

    embeddings: torch.Tensor
    mask: torch.Tensor


class ImageStates(NamedTuple):
    """What PreFLMR reads of images.

    Attributes:
        first: the class token after CLIP's last layer, before CLIP's own pooling, ``(images, width)``.
        patches: those after the last layer but one, ``(images, patches, width)``.
    """

    first: torch.Tensor
    patches: torch.Tensor


class PreFLMRNetwork(nn.Module):
    """A text encoder for queries, one for passages, a vision encoder, and what turns their states into vectors.

    Submodules, by which parts are frozen in training: ``query_text_encoder``, ``query_text_linear``,
    ``document_text_encoder``, ``document_text_linear``, ``vision_encoder``, ``vision_projection``,
    ``document_vision_encoder``, ``document_vision_projection`` and ``mapping_network`` (``input_linear``, ``layers``,
    ``output_linear``). What the configuration ties is one module under two names. The vision modules are None without
    an image encoder, ``mapping_network`` is None in FLMR. Parameters of the checkpoint that reach no output (poolers of
    the text encoders, CLIP's last layer norm) do not require gradients.

    Args:
        config: the architecture.
        masks: which token ids count; None for a network that holds its tensors but cannot encode.

    Raises:
        M2KRError: the configuration asks for an activation that transformers does not have.
    """

    def __init__(self, config: PreFLMRConfig, masks: TokenMasks | None = None) -> None:
        super().__init__()
        self.config = config
        self._masks = masks
        text = config.text_config
        # The query's half is named first, so that it is the one that parameters are listed under.
        self.query_text_encoder = _text_encoder(text)
        self.query_text_linear = nn.Linear(text.hidden_size, config.dim, bias=False)
        if config.separate_query_and_context_text_encoder:
            self.document_text_encoder = _text_encoder(text)
            self.document_text_linear = nn.Linear(text.hidden_size, config.dim, bias=False)
        else:
            self.document_text_encoder = self.query_text_encoder
            self.document_text_linear = self.query_text_linear

        self.vision_encoder: CLIPVisionModel | None = None
        self.vision_projection: nn.Sequential | None = None
        self.document_vision_encoder: CLIPVisionModel | None = None
        self.document_vision_projection: nn.Sequential | None = None
        if config.use_vision_encoder:
            self.vision_encoder = _vision_encoder(config.vision_config)
            self.vision_projection = _vision_projection(config)
            if config.separate_query_and_context_vision_encoder:
                self.document_vision_encoder = _vision_encoder(config.vision_config)
                self.document_vision_projection = _vision_projection(config)
            else:
                self.document_vision_encoder = self.vision_encoder
                self.document_vision_projection = self.vision_projection
        self.mapping_network = MappingNetwork(config) if config.mapping is not None else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.query_text_linear.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the vectors that `query` and `document` return."""
        return self.query_text_linear.weight.dtype

    def query(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        *,
        image_states: ImageStates | None = None,
    ) -> Embeddings:
        """Return the vectors of queries: text, then projections of the image, then mapped patches of it.

        Args:
            input_ids: ``(n, tokens)`` int64, from `QueryTokenizer`.
            attention_mask: ``(n, tokens)``, from there too.
            pixel_values: ``(n, 3, height, width)``, or ``(n, regions, 3, height, width)`` with regions of interest (or
                several images): each gives its own projections, and its own patches where there is a mapping network.
                None for queries without an image; the published figures were computed with a black image in its place.
            image_states: of `image_states`, instead of ``pixel_values``: ``n * regions`` images, query by query.

        Returns:
            Vectors ``(n, tokens + regions * (prefix + patches), dim)`` of length 1, in `dtype`. Those of masked tokens
            (the instruction) are exactly zero and add nothing to a score.

        Raises:
            M2KRError: the tensors have the wrong shape, or the model has no tokenizers or no image encoder.
        """
        masks = self._token_masks()
        input_ids, attention_mask = self._checked_text(input_ids, attention_mask)
        hidden = self.query_text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        parts: list[_Part] = []
        if self.config.query_concat_output_from_text_encoder:
            parts.append((self.query_text_linear(hidden), masks.query(input_ids)))
        if self.config.query_concat_output_from_vision_encoder:
            if pixel_values is not None:
                image_states = self._states(self.vision_encoder, pixel_values, len(input_ids))
            if image_states is not None:
                parts += self._image_parts(hidden, image_states, masks.attended(input_ids))
        return _joined(parts)

    def document(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixel_values: torch.Tensor | None = None
    ) -> Embeddings:
        """Return the vectors of passages: projections of the image, if there is one, then text.

        Args:
            input_ids: ``(n, tokens)`` int64, from `DocumentTokenizer`.
            attention_mask: ``(n, tokens)``, from there too.
            pixel_values: ``(n, 3, height, width)`` or ``(n, regions, 3, height, width)``, for models that read passage
                images (``context_concat_output_from_vision_encoder``).

        Returns:
            Vectors ``(n, regions * prefix + tokens, dim)`` of length 1, in `dtype`; those of punctuation and padding
            are zero, and only the mask keeps them from matching.

        Raises:
            M2KRError: the tensors have the wrong shape, or the model has no tokenizers, or reads no passage images.
        """
        masks = self._token_masks()
        input_ids, attention_mask = self._checked_text(input_ids, attention_mask)
        parts: list[_Part] = []
        if pixel_values is not None:
            if not self.config.context_concat_output_from_vision_encoder:
                raise M2KRError(
                    "images of passages were passed to a model that reads none "
                    "(context_concat_output_from_vision_encoder is false): leave them out."
                )
            states = self._states(self.document_vision_encoder, pixel_values, len(input_ids))
            parts.append((self._projected(self.document_vision_projection, states, len(input_ids)), None))
        if self.config.context_concat_output_from_text_encoder:
            hidden = self.document_text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            parts.append((self.document_text_linear(hidden), masks.document(input_ids)))
        return _joined(parts)

    def score(
        self, query_embeddings: torch.Tensor, document_embeddings: torch.Tensor, document_mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the score of every query with every passage; see `maxsim`."""
        return maxsim(query_embeddings, document_embeddings, document_mask)

    def image_states(self, pixel_values: torch.Tensor) -> ImageStates:
        """Return what `query` reads of images, so that a picture of many queries is encoded once.

        Args:
            pixel_values: as in `query`.

        Raises:
            M2KRError: the tensor has the wrong shape, or the model has no image encoder.
        """
        return self._states(self.vision_encoder, pixel_values, len(pixel_values))

    def _image_parts(
        self, text_hidden: torch.Tensor, states: ImageStates, attended: torch.Tensor | None
    ) -> list[_Part]:
        """Return a query's vectors from its images: projections ``(n, regions * prefix, dim)``, then mapped patches."""
        number = len(text_hidden)
        regions, rest = divmod(len(states.first), number)
        if not regions or rest:
            raise M2KRError(f"there are {len(states.first)} images for {number} queries: pass as many for each.")
        parts: list[_Part] = [(self._projected(self.vision_projection, states, number), None)]
        if self.mapping_network is not None:
            length = self.config.transformer_mapping_cross_attention_length
            context = text_hidden[:, :length].repeat_interleave(regions, dim=0)
            if attended is not None:
                attended = attended[:, :length].repeat_interleave(regions, dim=0)
            mapped = self.mapping_network(states.patches, context, attended)
            parts.append((mapped.reshape(number, -1, self.config.dim), None))
        return parts

    def _projected(self, projection: nn.Sequential | None, states: ImageStates, number: int) -> torch.Tensor:
        assert projection is not None  # it is there where the encoder is
        vectors: torch.Tensor = projection(states.first).view(number, -1, self.config.dim)
        return vectors

    def _token_masks(self) -> TokenMasks:
        if self._masks is None:
            raise M2KRError(
                "this network was built without masks and cannot encode: build a PreFLMR with its tokenizers."
            )
        return self._masks

    def _checked_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
            raise M2KRError(
                f"input_ids {tuple(input_ids.shape)} and attention_mask {tuple(attention_mask.shape)} must both be of "
                "the shape (n, tokens): pass what the tokenizer returned."
            )
        return input_ids.to(self.device), attention_mask.to(self.device)

    def _states(self, encoder: CLIPVisionModel | None, pixel_values: torch.Tensor, number: int) -> ImageStates:
        """Return what an encoder makes of ``number * regions`` images."""
        if encoder is None:
            raise M2KRError("images were passed to a model without an image encoder (use_vision_encoder is false).")
        vision = self.config.vision_config
        image = (vision.num_channels, vision.image_size, vision.image_size)
        shape = tuple(pixel_values.shape)
        if len(shape) not in (4, 5) or shape[0] != number or shape[-3:] != image or 0 in shape:
            raise M2KRError(
                f"pixel_values has the shape {shape}; for {number} texts this model takes {(number, *image)} or "
                f"({number}, regions, {', '.join(map(str, image))})."
            )
        pixels = pixel_values.to(self.device, self.dtype).flatten(0, -4)
        earlier = hidden = encoder.pre_layrnorm(encoder.embeddings(pixels))
        # The encoder's layers one by one: its own forward keeps all of their outputs to return a single one.
        for layer in encoder.encoder.layers:
            earlier, hidden = hidden, layer(hidden, None)
        return ImageStates(hidden[:, 0], earlier[:, 1:])


class MappingNetwork(nn.Module):
    """BERT layers in which image patches attend to each other and to the query's text (PreFLMR, section 3)."""

    def __init__(self, config: PreFLMRConfig) -> None:
        super().__init__()
        if config.mapping is None:
            raise M2KRError("use_transformer_mapping_network is false: there is no mapping network to build.")
        # transformers gives cross-attention to decoders only.
        bert = BertConfig(**_bert_values(config.mapping), is_decoder=True, add_cross_attention=True)
        self.input_linear = nn.Linear(config.vision_config.hidden_size, config.mapping.hidden_size)
        layers: list[Any] = [BertLayer(bert) for _ in range(config.mapping.num_hidden_layers)]  # type: ignore[no-untyped-call]
        self.output_linear = nn.Linear(config.mapping.hidden_size, config.dim)
        self.layers = nn.ModuleList(layers)
        for layer in layers:
            # Patches have no order in time; left true, SDPA would hide the later ones from the earlier.
            layer.attention.self.is_causal = False
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)
                nn.init.zeros_(module.bias)

    def forward(self, patches: torch.Tensor, text: torch.Tensor, attended: torch.Tensor | None = None) -> torch.Tensor:
        """Map patches to late-interaction vectors.

        Args:
            patches: hidden states of the image, ``(n, patches, vision width)``.
            text: hidden states of the query's text, ``(n, tokens, text width)``.
            attended: tokens to look at, ``(n, tokens)`` bool; None for all, padding included, as published models do.

        Returns:
            ``(n, patches, dim)``, not normalised.
        """
        mask = None
        if attended is not None:
            lowest = torch.finfo(text.dtype).min
            mask = torch.zeros(attended.shape, dtype=text.dtype, device=text.device)
            mask = mask.masked_fill(~attended, lowest)[:, None, None, :]
        hidden = self.input_linear(patches)
        for layer in self.layers:
            hidden = layer(hidden, None, text, encoder_attention_mask=mask)
        mapped: torch.Tensor = self.output_linear(hidden)
        return mapped


def _joined(parts: list[_Part]) -> Embeddings:
    """Put the parts of queries or passages together, with length 1; vectors that do not count become zero."""
    if not parts:
        raise M2KRError(
            "nothing was passed of what this model makes vectors from (see the concat fields of config.json)."
        )
    raw = torch.cat([vectors for vectors, _ in parts], dim=1)
    counted = [
        torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device) if mask is None else mask
        for vectors, mask in parts
    ]
    mask = torch.cat(counted, dim=1)
    # In float32: a length rounded to half precision would make the whole vector a little too long or short.
    vectors = F.normalize(raw.float(), dim=-1).to(raw.dtype)
    return Embeddings(vectors.masked_fill(~mask[..., None], 0), mask)


def _bert_values(text: TextConfig) -> dict[str, Any]:
    """Return an encoder's fields as transformers' own configurations take them."""
    _check_activation(text.hidden_act)
    values = {name: value for name, value in asdict(text).items() if name not in ("family", "base", "query_maxlen")}
    return {**values, "attn_implementation": "sdpa"}


def _text_encoder(text: TextConfig) -> BertModel | XLMRobertaModel:
    values = _bert_values(text)
    model: BertModel | XLMRobertaModel
    if text.family == "xlm-roberta":
        model = XLMRobertaModel(XLMRobertaConfig(**values))
    else:
        model = BertModel(BertConfig(**values))
    if model.pooler is not None:
        model.pooler.requires_grad_(False)
    return model


def _vision_encoder(vision: VisionConfig) -> CLIPVisionModel:
    _check_activation(vision.hidden_act)
    values: dict[str, Any] = {**asdict(vision), "attn_implementation": "sdpa"}
    model = CLIPVisionModel(CLIPVisionConfig(**values))
    model.post_layernorm.requires_grad_(False)
    return model


def _vision_projection(config: PreFLMRConfig) -> nn.Sequential:
    out = config.dim * config.mapping_network_prefix_length
    return nn.Sequential(nn.Linear(config.vision_config.hidden_size, out // 2), nn.Tanh(), nn.Linear(out // 2, out))


def _check_activation(name: str) -> None:
    if name not in ACT2FN:
        raise M2KRError(f"hidden_act {name!r} is no activation of transformers, as gelu and quick_gelu are.")
