"""Tiny random readers of real architectures: BLIP-2 with T5, and LLaVA with a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.baselines.tiny_models import byte_tokenizer

SHARED = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE = 16


def random_weights(model: Any, spread: float) -> Any:
    with torch.no_grad():  # at their usual size, random weights make all inputs nearly alike
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, spread)
    return model


def write_blip2(folder: Path) -> None:
    """Write a BLIP-2 with T5 of a few thousand weights."""
    images = BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    processor = Blip2Processor(images, byte_tokenizer(end=True), num_query_tokens=4)
    size = len(processor.tokenizer)
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config={**SHARED, "image_size": SIZE, "patch_size": 8},
        qformer_config={**SHARED, "vocab_size": size, "encoder_hidden_size": 16, "cross_attention_frequency": 1},
        text_config={"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        | {"vocab_size": size, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 1},
        num_query_tokens=4,
        image_token_index=size - 1,
    )
    random_weights(Blip2ForConditionalGeneration(config), 0.6).save_pretrained(folder)
    processor.save_pretrained(folder)


def write_llava(folder: Path) -> None:
    """Write a LLaVA with CLIP and Llama of a few thousand weights, and a chat template."""
    tokenizer = byte_tokenizer("<image>", end=False)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    template = (
        "{% for m in messages %}USER: {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %} {{ c['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    processor = LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", chat_template=template,
        num_additional_image_tokens=1,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config={**SHARED, "model_type": "clip_vision_model", "image_size": SIZE, "patch_size": 8},
        text_config={**SHARED, "model_type": "llama", "vocab_size": len(tokenizer), "max_position_embeddings": 4096}
        | {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1},
        image_token_index=3,
    )
    random_weights(LlavaForConditionalGeneration(config), 0.4).save_pretrained(folder)
    processor.save_pretrained(folder)
