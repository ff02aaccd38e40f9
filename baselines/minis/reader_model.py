"""The LLaVA that reader-mini begins with: a vocabulary of its own, a decoder with random weights, clip-mini's eyes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from baselines.common.checkpoints import load_model, quiet_loading
from baselines.minis.reader_data import ReaderConfig

PAD, END, IMAGE = "<pad>", "</s>", "<image>"
_POSITIONS = 2048
"""Tokens of a prompt and its answer: five passages of the made-up world are 700."""

_THETA = 1e6
"""Base of the rotary positions: large, so that half of a head's numbers turn by less than a radian over a prompt."""

_SPREAD, _NEAR, _SHARP, _COPIED = 0.1, 8.0, 2.0, 0.5
"""Of the copying circuit: spread of the embeddings, how firmly the token before and equal tokens are looked at, and how
much of a token is copied. As tried: when a list of 100 random tokens comes again, 9 in 10 of them are right."""


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """Return a PreTrainedTokenizerFast of byte pairs, trained on ``texts``: lower case, digits one by one.

    A word has the same tokens wherever it stands, as long as a blank is before it, so that it can be copied. Equal
    texts give an equal vocabulary: there are no marks of a word's end, whose numbers would depend on a hash.
    """
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            special_tokens=[PAD, END, IMAGE],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=made, pad_token=PAD, eos_token=END, extra_special_tokens={"image_token": IMAGE})


def wire_copying(decoder: Any) -> None:
    """Set the first two layers of a Llama so that they copy: after "a b ... a" they predict "b".

    This is the circuit of Olsson et al., "In-context Learning and Induction Heads" (2022), which training from random
    weights takes thousands of updates to find. One head of the first layer looks at the token before and writes a
    projection of it where embeddings have no numbers yet; the heads of the second layer look for places that hold the
    projection of their own token, and copy the token there. All of it is trained on.

    Args:
        decoder: a LlamaModel with biases in its attention and at least 2 layers. Drawn from torch's generator.
    """
    config = decoder.config
    width, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    half = size // 2
    # Numbers of a head that turn slowly with the distance, in pairs: what is compared must not depend on that.
    slow = torch.arange(math.ceil(half * 7 / 16), half)
    slow = torch.cat([slow, slow + half])
    matched = len(slow)
    free = width - matched
    turns = decoder.rotary_emb.inv_freq
    with torch.no_grad():
        decoder.embed_tokens.weight.normal_(0, _SPREAD)
        decoder.embed_tokens.weight[:, free:] = 0
        projection = torch.randn(matched, free) / math.sqrt(free)
        first, second = (layer.self_attn for layer in decoder.layers[:2])
        # Turned by one place, the bias of the query is that of the key.
        first.q_proj.weight[:size], first.k_proj.weight[:size] = 0, 0
        first.k_proj.bias[:half] = _NEAR
        first.q_proj.bias[:half], first.q_proj.bias[half:size] = _NEAR * turns.cos(), -_NEAR * turns.sin()
        first.v_proj.weight[:size] = 0
        first.v_proj.weight[:matched, :free] = projection
        first.o_proj.weight[:, :size] = 0
        first.o_proj.weight[free:, :matched] = _SPREAD * torch.eye(matched)
        second.q_proj.weight.zero_()
        second.k_proj.weight.zero_()
        for start in range(0, width, size):
            second.q_proj.weight[start + slow, :free] = _SHARP * projection
            second.k_proj.weight[start + slow, free:] = _SHARP * torch.eye(matched)
        second.v_proj.weight.copy_(torch.eye(width))
        second.o_proj.weight.copy_(_COPIED * torch.eye(width))
        second.o_proj.weight[free:] = 0


def write_start(texts: Iterable[str], clip: Path, folder: Path, config: ReaderConfig) -> None:
    """Write the model as it is before training, in float32, with its processor.

    Args:
        texts: what the vocabulary is learned from.
        clip: folder of the CLIP whose vision tower it gets.
        folder: where to write it.
        config: sizes and seed.
    """
    tower = load_model(CLIPVisionModel, clip, device=torch.device("cpu"), dtype=torch.float32)
    tokenizer = make_tokenizer(texts, config.vocabulary)
    size, patch = tower.config.image_size, tower.config.patch_size
    make: Any = LlavaProcessor
    processor = make(
        CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" leaves out again
        image_token=IMAGE,
    )
    ends: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    eyes = {name: value for name, value in tower.config.to_dict().items() if name != "_name_or_path"}
    made = LlavaConfig(
        vision_config={**eyes, "model_type": "clip_vision_model"},
        text_config={
            **ends,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": config.width,
            "intermediate_size": config.inner,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.heads,
            "max_position_embeddings": _POSITIONS,
            "tie_word_embeddings": True,
            "attention_bias": True,  # with it, a head can look at a place whatever stands there
            "rope_parameters": {"rope_type": "default", "rope_theta": _THETA},
        },
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        tie_word_embeddings=True,
        **ends,
    )
    torch.manual_seed(config.seed)
    model = LlavaForConditionalGeneration(made)
    wire_copying(model.model.language_model)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    with quiet_loading():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)
