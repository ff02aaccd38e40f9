"""What may follow PreFLMR in a pipeline of sentence-transformers: one vector in place of many, or images alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from sentence_transformers.base.modules import Module


class OneVector(Module):
    """Makes one vector of all: the mean of those that count, of length 1.

    With it the encoders of PreFLMR are those of a dual encoder like DPR, and MaxSim is the dot product.
    """

    config_keys = []  # noqa: RUF012
    forward_kwargs = set()  # noqa: RUF012 - both as the base class has them

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the features with ``token_embeddings`` ``(n, 1, dim)`` and an ``attention_mask`` ``(n, 1)`` of 1."""
        vectors = mean_vectors(features["token_embeddings"], features["attention_mask"])
        mask = torch.ones(vectors.shape[:1], dtype=torch.int64, device=vectors.device)
        return {**features, "token_embeddings": vectors[:, None], "attention_mask": mask[:, None]}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write nothing: there is nothing to keep."""


class ImageVectors(Module):
    """Leaves the vectors of a query's text out, where there are others.

    In stage 2 an image has to find its passage by its own vectors (``query_concat_output_from_text_encoder`` is false
    in the official training; thread 30 of LinWeizheDragon/FLMR).
    """

    config_keys = []  # noqa: RUF012
    forward_kwargs = {"task"}  # noqa: RUF012 - both as the base class has them

    def forward(self, features: dict[str, Any], task: str | None = None, **_: Any) -> dict[str, Any]:
        """Return the features of a batch of queries without the text's vectors, those of passages as they are."""
        tokens = features["input_ids"].shape[1]
        vectors, mask = features["token_embeddings"], features["attention_mask"]
        if task != "query" or vectors.shape[1] <= tokens:
            return features
        return {**features, "token_embeddings": vectors[:, tokens:], "attention_mask": mask[:, tokens:]}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write nothing: there is nothing to keep."""


def mean_vectors(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the vectors that count, of length 1.

    Args:
        vectors: ``(n, tokens, dim)``.
        mask: ``(n, tokens)``, true or 1 for vectors that count.

    Returns:
        ``(n, dim)``, zero where none counts.
    """
    kept = mask.to(vectors.dtype)[..., None]
    return F.normalize((vectors * kept).sum(dim=1).float(), dim=-1).to(vectors.dtype)
