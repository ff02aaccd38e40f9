"""PreFLMR at the official sizes with random weights, since no checkpoint is at hand, and texts and pictures for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from baselines.preflmr import PreFLMR, PreFLMRConfig
from baselines.preflmr.configuration import TextConfig, VisionConfig
from baselines.preflmr.tokenization import DOCUMENT_FOLDER, QUERY_FOLDER, DocumentTokenizer, QueryTokenizer
from tests.baselines.preflmr.make_fixtures import WORDS, configuration, write_tokenizers

VISION = {
    "ViT-B": VisionConfig(),
    "ViT-L": VisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        projection_dim=768,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
    ),
    "ViT-G": VisionConfig(
        hidden_size=1664,
        intermediate_size=8192,
        projection_dim=1280,
        num_hidden_layers=48,
        num_attention_heads=16,
        patch_size=14,
        hidden_act="gelu",
    ),
}
PARAMETERS = {"ViT-B": 326_725_504, "ViT-L": 543_170_176, "ViT-G": 2_084_569_984}


def make_model(name: str, device: torch.device, dtype: torch.dtype, *, tiny: bool) -> PreFLMR:
    """Return a PreFLMR of an official size (or a tiny one), with random weights, in evaluation mode."""
    if tiny:
        config = PreFLMRConfig.from_json(configuration("preflmr"))
    else:
        config = PreFLMRConfig(
            vision_config=VISION[name],
            mapping=replace(TextConfig(), num_hidden_layers=1),
            mask_instruction_token=":",
            separate_query_and_context_text_encoder=True,
        )
    with TemporaryDirectory() as folder, torch.device("meta"):
        write_tokenizers(Path(folder))
        documents = DocumentTokenizer(Path(folder) / DOCUMENT_FOLDER, config)
        documents.maxlen = config.text_config.max_tokens
        model = PreFLMR(config, QueryTokenizer(Path(folder) / QUERY_FOLDER, config), documents)
    if not tiny:
        assert sum(item.numel() for item in model.parameters()) == PARAMETERS[name]
    model.to_empty(device=device)
    model.to(dtype)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for item in model.parameters():
            item.normal_(0, 0.02, generator=generator)
        for key, item in model.named_buffers():
            item.copy_(torch.arange(item.shape[-1], device=device) if key.endswith("position_ids") else item * 0)
    return model.eval()


def make_passages(count: int) -> list[str]:
    """Return passages of 100 words, of 1 to 4 tokens each: about 130 tokens."""
    draw = np.random.default_rng(0)
    words = [word for word in WORDS.split() if not word.startswith("##")]
    endings = draw.choice(["", "", "", "", "s", ","], size=(count, 100))
    return [
        " ".join(words[number] + end for number, end in zip(numbers, own, strict=True))
        for numbers, own in zip(draw.integers(0, len(words), (count, 100)), endings, strict=True)
    ]


def make_queries(count: int, shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Return queries with prepared pictures of noise."""
    pixels = np.random.default_rng(1).integers(0, 256, (count, *shape), dtype=np.uint8)
    return [{"text": "show the passage of this picture: what is it", "image": image} for image in pixels]
