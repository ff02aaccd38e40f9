"""What tiny checkpoints are made with: sizes, tokenizers, and saving random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def byte_tokenizer(*special: str, pad: str, **given: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte, and special ones."""
    vocabulary = {token: row for row, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, additional_special_tokens=[*special], **given
    )


def gemma_tokenizer(*special: str) -> Any:
    """Return Gemma's tokenizer with a token for each byte and letter."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "\n"]
    tokens += [chr(code) for code in range(33, 127)]
    vocabulary = {token: row for row, token in enumerate(tokens)}
    return transformers.GemmaTokenizer(vocab=vocabulary, merges=[], additional_special_tokens=[*special])


def word_tokenizer() -> Any:
    """Return BERT's tokenizer with letters and a few words."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters), "owl", "tower", "the"]
    return transformers.BertTokenizer(vocab={token: row for row, token in enumerate(vocabulary)}, do_lower_case=True)


def edit(path: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def save(folder: Path, model: Any, *parts: Any) -> Path:
    """Save a model with random weights, and what prepares its inputs."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    model.save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    return folder
