"""Tiny random models of pictures and texts, in folders of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIZE = 32
_TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def byte_tokenizer(*special: str, end: bool, **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are single bytes; of T5's kind if every text has an end token."""
    words = ["<pad>", "</s>", "<unk>", *special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={word: row for row, word in enumerate(words)}, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(special))
    if end:
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", **options
    )


def write_clip(folder: Path) -> Path:
    """Write a CLIP of a few thousand weights, whose tokens are single bytes."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ids = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    config = CLIPConfig(
        text_config={**_TINY, **ids, "vocab_size": len(words), "max_position_embeddings": 77},
        vision_config={**_TINY, "image_size": SIZE, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    _spread(CLIPModel(config)).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: row for row, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}')
    CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(
        folder
    )
    return folder


def _spread(model: Any) -> Any:
    with torch.no_grad():  # at their usual size, random weights make all inputs nearly alike
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.5)
            elif name.endswith("class_embedding"):
                weight.normal_(0, 0.1)
    return model
