"""PreFLMR computed plainly, in float64, from the tensors of an official checkpoint and one text at a time.

It shares nothing with `baselines.preflmr`: no library of models, no batches, no padding. Tokens that are not attended
to are left out of the keys, and masks are loops over ids.
"""

from __future__ import annotations

import math
from typing import Any

import torch

Weights = dict[str, torch.Tensor]


def gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    out = x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def norm(w: Weights, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scale = (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(w: Weights, names: list[str], x: torch.Tensor, y: torch.Tensor, heads: int) -> torch.Tensor:
    """Every row of x (m, d) attends to every row of y (n, d)."""
    q, k, v = (linear(w, name, z) for name, z in zip(names, (x, y, y), strict=True))
    size = q.shape[1] // heads
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        out.append(torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(size), dim=1) @ v[:, part])
    return torch.cat(out, dim=1)


def bert_attention(w: Weights, name: str, x: torch.Tensor, y: torch.Tensor, heads: int) -> torch.Tensor:
    mixed = attention(w, [f"{name}.self.{part}" for part in ("query", "key", "value")], x, y, heads)
    return norm(w, f"{name}.output.LayerNorm", linear(w, f"{name}.output.dense", mixed) + x, 1e-12)


def bert_feed_forward(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    inner = gelu(linear(w, f"{name}.intermediate.dense", x))
    return norm(w, f"{name}.output.LayerNorm", linear(w, f"{name}.output.dense", inner) + x, 1e-12)


def bert(w: Weights, name: str, config: dict[str, Any], ids: list[int], attended: list[int]) -> torch.Tensor:
    """Last hidden states (tokens, width) of one text."""
    e = f"{name}.embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.position_embeddings.weight"][: len(ids)]
    x = norm(w, f"{e}.LayerNorm", x + w[f"{e}.token_type_embeddings.weight"][0], 1e-12)
    keys = [position for position, value in enumerate(attended) if value]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"{name}.encoder.layer.{layer}"
        x = bert_attention(w, f"{prefix}.attention", x, x[keys], config["num_attention_heads"])
        x = bert_feed_forward(w, prefix, x)
    return x


def clip(w: Weights, name: str, config: dict[str, Any], image: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states (1 + patches, width) of one image before the first layer and after each."""
    size = config["patch_size"]
    kernel = w[f"{name}.embeddings.patch_embedding.weight"]
    rows = [w[f"{name}.embeddings.class_embedding"]]
    for top in range(0, image.shape[1], size):
        for left in range(0, image.shape[2], size):
            patch = image[:, top : top + size, left : left + size]
            rows.append((kernel * patch).sum(dim=(1, 2, 3)))
    x = torch.stack(rows) + w[f"{name}.embeddings.position_embedding.weight"]
    x = norm(w, f"{name}.pre_layrnorm", x, 1e-5)
    states = [x]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"{name}.encoder.layers.{layer}"
        inner = norm(w, f"{prefix}.layer_norm1", x, 1e-5)
        names = [f"{prefix}.self_attn.{part}_proj" for part in "qkv"]
        mixed = attention(w, names, inner, inner, config["num_attention_heads"])
        x = x + linear(w, f"{prefix}.self_attn.out_proj", mixed)
        inner = norm(w, f"{prefix}.layer_norm2", x, 1e-5)
        x = x + linear(w, f"{prefix}.mlp.fc2", quick_gelu(linear(w, f"{prefix}.mlp.fc1", inner)))
        states.append(x)
    return states


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.square().sum(dim=-1, keepdim=True).sqrt()


def query(
    w: Weights,
    config: dict[str, Any],
    ids: list[int],
    attended: list[int],
    images: list[torch.Tensor],
    colon: int | None,
) -> torch.Tensor:
    """Vectors (tokens, dim) of one query with one image or several regions."""
    hidden = bert(w, "query_text_encoder.bert_model", config["text_config"], ids, attended)
    text = unit(linear(w, "query_text_encoder_linear", hidden))
    end = ids.index(colon) if colon in ids else 1
    for position in range(len(ids)):
        if colon is not None and 2 <= position <= end:
            text[position] = 0
    projected, mapped = [], []
    for image in images:
        states = clip(w, "query_vision_encoder.vision_model.vision_model", config["vision_config"], image)
        inner = torch.tanh(linear(w, "query_vision_projection.model.0", states[-1][0]))
        projected.append(linear(w, "query_vision_projection.model.2", inner).view(-1, config["dim"]))
        if config["use_transformer_mapping_network"]:
            x = linear(w, "transformer_mapping_input_linear", states[-2][1:])
            heads = config["transformer_mapping_config"]["num_attention_heads"]
            for layer in range(config["transformer_mapping_num_hidden_layers"]):
                prefix = f"transformer_mapping_network.layer.{layer}"
                x = bert_attention(w, f"{prefix}.attention", x, x, heads)
                x = bert_attention(w, f"{prefix}.crossattention", x, hidden[:32], heads)
                x = bert_feed_forward(w, prefix, x)
            mapped.append(linear(w, "transformer_mapping_output_linear", x))
    return torch.cat([text, *(unit(part) for part in projected + mapped)])


def document(
    w: Weights,
    config: dict[str, Any],
    ids: list[int],
    attended: list[int],
    dropped: set[int],
    images: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """The vectors of one passage that count: those of its images, projected, in front of those of its text."""
    side = "context" if config["separate_query_and_context_text_encoder"] else "query"
    hidden = bert(w, f"{side}_text_encoder.bert_model", config["text_config"], ids, attended)
    text = unit(linear(w, f"{side}_text_encoder_linear", hidden))
    parts = []
    for image in images or []:  # by the query's encoder, where the two are one
        states = clip(w, "query_vision_encoder.vision_model.vision_model", config["vision_config"], image)
        inner = torch.tanh(linear(w, "query_vision_projection.model.0", states[-1][0]))
        parts.append(unit(linear(w, "query_vision_projection.model.2", inner).view(-1, config["dim"])))
    return torch.cat([*parts, text[[position for position, token in enumerate(ids) if token not in dropped]]])


def score(q: torch.Tensor, d: torch.Tensor) -> float:
    return sum(max(float(row @ other) for other in d) for row in q)


def cross_entropy(scores: list[list[float]], targets: list[int]) -> float:
    losses = [math.log(sum(map(math.exp, row))) - row[target] for row, target in zip(scores, targets, strict=True)]
    return sum(losses) / len(losses)


def contrastive_losses(scores: list[list[float]], negatives: int) -> tuple[float, float]:
    """The losses of the official ``forward``: of the positive among all passages, and within the query's own group.

    Passages come in groups, one for each query: its positive, then its ``negatives``.
    """
    group = 1 + negatives
    targets = [group * row for row in range(len(scores))]
    groups = [row[target : target + group] for row, target in zip(scores, targets, strict=True)]
    return cross_entropy(scores, targets), cross_entropy(groups, [0] * len(scores))
