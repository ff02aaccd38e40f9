"""Modules after PreFLMR in a sentence-transformers pipeline: one mean vector, or the vectors of the image alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from sentence_transformers.base.modules import Module


class _Head(Module):
    """A module without weights."""

    config_keys = []  # noqa: RUF012 - as the base class has it

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write nothing: there is nothing to keep."""


class OneVector(_Head):
    """Makes one vector of all: the mean of those that count, of length 1, or zero where none counts.

    With it the encoders of PreFLMR are those of a dual encoder like DPR, and MaxSim is the dot product.
    """

    forward_kwargs = set()  # noqa: RUF012 - as the base class has it

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the features with ``token_embeddings`` ``(n, 1, dim)`` and an ``attention_mask`` ``(n, 1)`` of 1."""
        vectors = features["token_embeddings"]
        kept = features["attention_mask"].to(vectors.dtype)[..., None]
        mean = F.normalize((vectors * kept).sum(dim=1).float(), dim=-1).to(vectors.dtype)
        mask = torch.ones(mean.shape[:1], dtype=torch.int64, device=mean.device)
        return {**features, "token_embeddings": mean[:, None], "attention_mask": mask[:, None]}


class ImageVectors(_Head):
    """Leaves the vectors of a query's text out, where there are others.

    In stage 2 an image has to find its passage by its own vectors (``query_concat_output_from_text_encoder`` is false
    in the official training; thread 30 of LinWeizheDragon/FLMR).
    """

    forward_kwargs = {"task"}  # noqa: RUF012 - as the base class has it

    def forward(self, features: dict[str, Any], task: str | None = None, **_: Any) -> dict[str, Any]:
        """Return the features of a batch of queries without the text's vectors, those of passages as they are."""
        tokens = features["input_ids"].shape[1]
        vectors, mask = features["token_embeddings"], features["attention_mask"]
        if task != "query" or vectors.shape[1] <= tokens:
            return features
        return {**features, "token_embeddings": vectors[:, tokens:], "attention_mask": mask[:, tokens:]}
