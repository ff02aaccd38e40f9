"""Tiny random checkpoints of the families that read pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.baselines.families.making import (
    QWEN_SPECIAL,
    TINY,
    byte_tokenizer,
    edit,
    gemma_tokenizer,
    save,
    word_tokenizer,
)

_VISION: dict[str, Any] = {**TINY, "num_hidden_layers": 1, "image_size": 32, "patch_size": 16}
_QWEN_TEXT: dict[str, Any] = {
    **TINY,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# --- pictures and texts apart ---------------------------------------------------------------------------------------


def _clip(folder: Path, root: Path) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={token: row for row, token in enumerate(tokens)}, merges=[], model_max_length=77
    )
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = {**TINY, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16))
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    save(folder, model, transformers.CLIPProcessor(transformers.CLIPImageProcessorPil(**size), tokenizer))


def _siglip2(folder: Path, root: Path, length: int = 64) -> None:
    """SigLIP2 of one resolution: the network of SigLIP, and Gemma's tokenizer, which leaves capital letters."""
    tokenizer = gemma_tokenizer()
    tokenizer.model_max_length = length  # as the published files say
    text = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": length}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config={**text, **ids}, vision_config=_VISION))
    pixels = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    save(folder, model, tokenizer, pixels)


def _naflex(folder: Path, root: Path) -> None:
    """SigLIP2 for pictures of any shape."""
    tokenizer = gemma_tokenizer()
    text = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 32}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    vision = {**TINY, "num_hidden_layers": 1, "patch_size": 16, "num_patches": 16}
    config = transformers.Siglip2Config(text_config={**text, **ids}, vision_config=vision)
    pixels = transformers.Siglip2ImageProcessorPil(patch_size=16, max_num_patches=16)
    save(folder, transformers.Siglip2Model(config), tokenizer, pixels)


def _blip2(folder: Path, root: Path) -> None:
    tokenizer = word_tokenizer()
    qformer = {**TINY, "vocab_size": len(tokenizer), "encoder_hidden_size": 32, "use_qformer_text_input": True}
    config = transformers.Blip2Config(
        vision_config=_VISION,
        qformer_config=qformer,
        text_config={"model_type": "opt", "hidden_size": 32, "vocab_size": len(tokenizer)},
        num_query_tokens=32,
        image_text_hidden_size=16,
    )
    save(folder, transformers.Blip2ForImageTextRetrieval(config), tokenizer)


# --- pictures and texts together ------------------------------------------------------------------------------------


def _qwen_tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(*QWEN_SPECIAL, pad="<|endoftext|>", eos_token="<|im_end|>", model_max_length=32768)


def _qwen_config(make: str, vision: dict[str, Any], text: dict[str, Any] | None = None) -> Any:
    tokenizer = _qwen_tokenizer()
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}
    text = {**_QWEN_TEXT, **(text or {}), "vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": None}
    return getattr(transformers, make)(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def _qwen2_vl() -> Any:
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    return _qwen_config("Qwen2VLConfig", vision)


def _qwen2_5_vl() -> Any:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    return _qwen_config("Qwen2_5_VLConfig", {**vision, "window_size": 56, "fullatt_block_indexes": [1]})


def _qwen3_vl() -> Any:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    text = {"head_dim": 16, "rope_parameters": {**_QWEN_TEXT["rope_parameters"], "mrope_interleaved": True}}
    return _qwen_config(
        "Qwen3VLConfig", {**vision, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}, text
    )


def _qwen_pixels(folder: Path, side: int, most: int) -> None:
    size = {"shortest_edge": 4 * side**2, "longest_edge": most * side**2}
    transformers.Qwen2VLImageProcessorPil(size=size, patch_size=side // 2).save_pretrained(folder)
    edit(folder / "preprocessor_config.json", image_processor_type="Qwen2VLImageProcessor")


def _gme(folder: Path, root: Path) -> None:
    """The tensors' names of its time, and the authors' own class in config.json."""
    save(folder, transformers.Qwen2VLForConditionalGeneration(_qwen2_vl()), _qwen_tokenizer())
    _qwen_pixels(folder, 28, 64)
    renamed = {}
    for key, value in load_file(folder / "model.safetensors").items():
        key = key.removeprefix("model.") if "visual" in key else key.replace("model.language_model.", "model.")
        renamed[key] = value
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", architectures=["GmeQwen2VL"], auto_map={"AutoModel": "modeling_gme.GmeQwen2VL"})


def _qwen3_vl_embedding(folder: Path, root: Path) -> None:
    save(folder, transformers.Qwen3VLForConditionalGeneration(_qwen3_vl()), _qwen_tokenizer())
    _qwen_pixels(folder, 32, 64)


def _chat(folder: Path, root: Path) -> None:
    """A Qwen2.5-VL as a folder of sentence-transformers, with a chat template."""
    plain = root / "qwen2_5-vl-plain"
    tokenizer = _qwen_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    save(plain, transformers.Qwen2_5_VLModel(_qwen2_5_vl()), tokenizer)
    _qwen_pixels(plain, 28, 64)
    (plain / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}))
    shutil.copytree(plain, folder)
    modality = {"method": "forward", "method_output_name": "last_hidden_state"}
    settings = {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": modality,
            "image": modality,
            "message": {**modality, "format": "structured"},
        },
        "module_output_name": "token_embeddings",
        "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
    }
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    (folder / "1_Pooling").mkdir()
    Pooling(32, "lasttoken").save(str(folder / "1_Pooling"))
    names = [("", "sentence_transformers.base.modules.transformer.Transformer")]
    names += [("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling")]
    modules = [{"idx": row, "name": str(row), "path": path, "type": kind} for row, (path, kind) in enumerate(names)]
    (folder / "modules.json").write_text(json.dumps(modules))
    told = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine", "prompts": {}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(told))


def _generator(folder: Path, root: Path) -> None:
    save(folder, transformers.Qwen2VLForConditionalGeneration(_qwen2_vl()), _qwen_tokenizer())


# --- late interaction with pictures ---------------------------------------------------------------------------------


def _colpali(folder: Path, root: Path) -> None:
    tokenizer = gemma_tokenizer("<image>")
    tokenizer.padding_side = "right"
    pixels = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}, image_seq_length=4)
    processor = transformers.ColPaliProcessor(pixels, tokenizer)  # it adds tokens for places in a picture
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    text = {**TINY, **ids, "model_type": "gemma", "vocab_size": len(tokenizer), "head_dim": 16}
    vlm = transformers.PaliGemmaConfig(
        text_config={**text, "num_key_value_heads": 1},
        vision_config={**_VISION, "model_type": "siglip_vision_model", "projection_dim": 32},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    model = transformers.ColPaliForRetrieval(transformers.ColPaliConfig(vlm_config=vlm, embedding_dim=16))
    save(folder, model, processor)


def _colqwen2(folder: Path, root: Path) -> None:
    config = transformers.ColQwen2Config(vlm_config=_qwen2_vl(), embedding_dim=16)
    tokenizer = _qwen_tokenizer()
    tokenizer.padding_side = "left"
    pixels = transformers.Qwen2VLImageProcessorPil(size={"shortest_edge": 4 * 784, "longest_edge": 64 * 784})
    save(folder, transformers.ColQwen2ForRetrieval(config), transformers.ColQwen2Processor(pixels, tokenizer))


def _colmodernvbert(folder: Path, root: Path) -> None:
    grid = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<|begin_of_text|>", "<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *grid]
    tokenizer = byte_tokenizer(*special, pad="[PAD]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=8192)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    text = {**TINY, **ids, "model_type": "modernbert", "vocab_size": len(tokenizer), "bos_token_id": None}
    vlm = transformers.ModernVBertConfig(
        text_config={**text, "eos_token_id": None, "local_attention": 64, "max_position_embeddings": 8192},
        vision_config={**_VISION, "model_type": "siglip_vision_model"},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pixel_shuffle_factor=2,
    )
    model = transformers.ColModernVBertForRetrieval(transformers.ColModernVBertConfig(vlm_config=vlm, embedding_dim=16))
    pixels = transformers.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = transformers.ColModernVBertProcessor(pixels, tokenizer, image_seq_len=1)
    save(folder, model, processor)


VISUAL: dict[str, Callable[[Path, Path], None]] = {
    "clip": _clip,
    "siglip2": _siglip2,
    "siglip2-naflex": _naflex,
    "siglip2-short": partial(_siglip2, length=16),
    "blip2": _blip2,
    "gme": _gme,
    "qwen3-vl-embedding": _qwen3_vl_embedding,
    "qwen2_5-vl": _chat,
    "generator": _generator,
    "colpali": _colpali,
    "colqwen2": _colqwen2,
    "colmodernvbert": _colmodernvbert,
}
"""What makes a checkpoint, by name: a function of its folder and of the folder of all."""
