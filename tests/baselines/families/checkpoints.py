"""Tiny random checkpoints of each family's layout, for tests and for the table in docs/retrievers.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_VISION: dict[str, Any] = {**TINY, "num_hidden_layers": 1, "image_size": 32, "patch_size": 16}
_QWEN_TEXT: dict[str, Any] = {
    **TINY,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}
_QWEN_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def checkpoint(name: str, root: Path) -> Path:
    """Return the folder of a tiny checkpoint, made at the first call.

    Args:
        name: a key of `MAKERS`.
        root: where they are kept.
    """
    folder = root / name
    if not folder.exists():
        torch.manual_seed(0)
        MAKERS[name](folder, root)
    return folder


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


def _word_tokenizer() -> Any:
    """Return BERT's tokenizer with letters and a few words."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters), "owl", "tower", "the"]
    return transformers.BertTokenizer(vocab={token: row for row, token in enumerate(vocabulary)}, do_lower_case=True)


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _save(folder: Path, model: Any, *parts: Any) -> Path:
    """Save a model with random weights, and what prepares its inputs."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    model.save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    return folder


# --- texts ----------------------------------------------------------------------------------------------------------


def _bert(make: str, **given: Any) -> Any:
    tokenizer = _word_tokenizer()
    config = transformers.BertConfig(vocab_size=len(tokenizer), **TINY, **given)
    return getattr(transformers, make)(config), tokenizer


def _bare(folder: Path, root: Path) -> None:
    _save(folder, *_bert("BertModel"))


def _masked(folder: Path, root: Path) -> None:
    _save(folder, *_bert("BertForMaskedLM"))


def _classifier(folder: Path, root: Path) -> None:
    _save(folder, *_bert("BertForSequenceClassification", num_labels=1))


def _modules(folder: Path, encoder: Path, pooling: str, **given: Any) -> None:
    first = Transformer(str(encoder))
    size = first.get_embedding_dimension()
    SentenceTransformer(modules=[first, Pooling(size, pooling), Normalize()], **given).save(str(folder))


def _mean(folder: Path, root: Path) -> None:
    _modules(folder, checkpoint("bare", root), "mean")


def _compared_by(similarity: str, of: str = "bare") -> Callable[[Path, Path], None]:
    """Return what makes a model of one vector, not normalised, that compares vectors so."""

    def make(folder: Path, root: Path) -> None:
        encoder = Transformer(str(checkpoint(of, root)))
        pooling = Pooling(encoder.get_embedding_dimension(), "mean")
        SentenceTransformer(modules=[encoder, pooling], similarity_fn_name=similarity).save(str(folder))

    return make


def _last_with_prompt(folder: Path, root: Path) -> None:
    tokenizer = byte_tokenizer(*_QWEN_SPECIAL, pad="<|endoftext|>", eos_token="<|endoftext|>", padding_side="left")
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), **TINY, head_dim=16, num_key_value_heads=1, max_position_embeddings=4096
    )
    _save(root / "qwen3-plain", transformers.Qwen3Model(config), tokenizer)
    prompts = {"query": "Instruct: Find the page.\nQuery:", "document": ""}
    _modules(folder, root / "qwen3-plain", "lasttoken", prompts=prompts, similarity_fn_name="cosine")


def _many(folder: Path, root: Path) -> None:
    MultiVectorEncoder(str(checkpoint("bare", root))).save(str(folder))


def _pylate(folder: Path, root: Path) -> None:
    """PyLate to release 3: two modules, and its settings at the top of the configuration."""
    shutil.copytree(checkpoint("many", root), folder)
    modules = json.loads((folder / "modules.json").read_text())[:2]
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    settings = {"query_prefix": "[unused0]", "document_prefix": "[unused1]", "query_length": 16, "document_length": 40}
    settings |= {"do_query_expansion": True, "attend_to_expansion_tokens": False}
    settings |= {"skiplist_words": [".", "!", ","], "prompts": {}, "model_type": "ColBERT"}
    _edit(folder / "config_sentence_transformers.json", **settings)


def _stanford(folder: Path, root: Path) -> None:
    shutil.copytree(checkpoint("bare", root), folder)
    weights = {f"bert.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _edit(folder / "config.json", architectures=["HF_ColBERT"])
    metadata = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 32, "doc_maxlen": 180}
    (folder / "artifact.metadata").write_text(json.dumps({**metadata, "dim": 16, "mask_punctuation": True}))


# --- pictures and texts apart ---------------------------------------------------------------------------------------


def _clip(folder: Path, root: Path) -> None:
    end = "<|endoftext|>"
    tokenizer = byte_tokenizer(end, pad=end, eos_token=end, bos_token="<|startoftext|>", model_max_length=77)
    tokenizer.backend_tokenizer.post_processor = _around(tokenizer, "<|startoftext|>", end)
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = {**TINY, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16))
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    _save(folder, model, transformers.CLIPProcessor(transformers.CLIPImageProcessorPil(**size), tokenizer))


def _around(tokenizer: Any, first: str, last: str) -> Any:
    from tokenizers.processors import TemplateProcessing

    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (first, last)]
    return TemplateProcessing(single=f"{first} $A {last}", special_tokens=ids)


def _siglip2(folder: Path, root: Path, length: int = 64) -> None:
    """SigLIP2 of one resolution: the network of SigLIP, and Gemma's tokenizer, which leaves capital letters."""
    tokenizer = gemma_tokenizer()
    tokenizer.model_max_length = length  # as the published files say
    text = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": length}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config={**text, **ids}, vision_config=_VISION))
    pixels = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    _save(folder, model, tokenizer, pixels)


def _naflex(folder: Path, root: Path) -> None:
    """SigLIP2 for pictures of any shape."""
    tokenizer = gemma_tokenizer()
    text = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 32}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    vision = {**TINY, "num_hidden_layers": 1, "patch_size": 16, "num_patches": 16}
    config = transformers.Siglip2Config(text_config={**text, **ids}, vision_config=vision)
    pixels = transformers.Siglip2ImageProcessorPil(patch_size=16, max_num_patches=16)
    _save(folder, transformers.Siglip2Model(config), tokenizer, pixels)


def _as_modules(name: str) -> Callable[[Path, Path], None]:
    """Return what makes a folder of sentence-transformers from one of transformers."""
    return lambda folder, root: SentenceTransformer(str(checkpoint(name, root))).save(str(folder))


def _blip2(folder: Path, root: Path) -> None:
    tokenizer = _word_tokenizer()
    qformer = {**TINY, "vocab_size": len(tokenizer), "encoder_hidden_size": 32, "use_qformer_text_input": True}
    config = transformers.Blip2Config(
        vision_config=_VISION,
        qformer_config=qformer,
        text_config={"model_type": "opt", "hidden_size": 32, "vocab_size": len(tokenizer)},
        num_query_tokens=32,
        image_text_hidden_size=16,
    )
    _save(folder, transformers.Blip2ForImageTextRetrieval(config), tokenizer)


# --- pictures and texts together ------------------------------------------------------------------------------------


def _qwen_tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(*_QWEN_SPECIAL, pad="<|endoftext|>", eos_token="<|im_end|>", model_max_length=32768)


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
    _edit(folder / "preprocessor_config.json", image_processor_type="Qwen2VLImageProcessor")


def _gme(folder: Path, root: Path) -> None:
    """The tensors' names of its time, and the authors' own class in config.json."""
    _save(folder, transformers.Qwen2VLForConditionalGeneration(_qwen2_vl()), _qwen_tokenizer())
    _qwen_pixels(folder, 28, 64)
    renamed = {}
    for key, value in load_file(folder / "model.safetensors").items():
        key = key.removeprefix("model.") if "visual" in key else key.replace("model.language_model.", "model.")
        renamed[key] = value
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    _edit(folder / "config.json", architectures=["GmeQwen2VL"], auto_map={"AutoModel": "modeling_gme.GmeQwen2VL"})


def _qwen3_vl_embedding(folder: Path, root: Path) -> None:
    _save(folder, transformers.Qwen3VLForConditionalGeneration(_qwen3_vl()), _qwen_tokenizer())
    _qwen_pixels(folder, 32, 64)


def _chat(folder: Path, root: Path) -> None:
    """A Qwen2.5-VL as a folder of sentence-transformers, with a chat template."""
    plain = root / "qwen2_5-vl-plain"
    tokenizer = _qwen_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    _save(plain, transformers.Qwen2_5_VLModel(_qwen2_5_vl()), tokenizer)
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


# --- late interaction with pictures ---------------------------------------------------------------------------------


def _colpali(folder: Path, root: Path) -> None:
    tokenizer = gemma_tokenizer("<image>")
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
    pixels = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}, image_seq_length=4)
    tokenizer.padding_side = "right"
    _save(folder, model, transformers.ColPaliProcessor(pixels, tokenizer))


def _colqwen2(folder: Path, root: Path) -> None:
    config = transformers.ColQwen2Config(vlm_config=_qwen2_vl(), embedding_dim=16)
    tokenizer = _qwen_tokenizer()
    tokenizer.padding_side = "left"
    pixels = transformers.Qwen2VLImageProcessorPil(size={"shortest_edge": 4 * 784, "longest_edge": 64 * 784})
    _save(folder, transformers.ColQwen2ForRetrieval(config), transformers.ColQwen2Processor(pixels, tokenizer))


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
    _save(folder, model, processor)


# --- what is refused ------------------------------------------------------------------------------------------------


def _sparse(folder: Path, root: Path) -> None:
    SparseEncoder(str(checkpoint("masked", root))).save(str(folder))


def _cross(folder: Path, root: Path) -> None:
    CrossEncoder(str(checkpoint("classifier", root))).save(str(folder))


def _half(folder: Path, root: Path) -> None:
    tokenizer = _word_tokenizer()
    config = transformers.DPRConfig(vocab_size=len(tokenizer), **TINY)
    _save(folder, transformers.DPRContextEncoder(config), tokenizer)


def _generator(folder: Path, root: Path) -> None:
    _save(folder, transformers.Qwen2VLForConditionalGeneration(_qwen2_vl()), _qwen_tokenizer())


def _foreign(folder: Path, root: Path) -> None:
    shutil.copytree(checkpoint("many", root), folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "their_package.Module"
    (folder / "modules.json").write_text(json.dumps(modules))


def _with_weights(**changes: torch.Tensor | None) -> Callable[[Path, Path], None]:
    """Return what makes a bare encoder with tensors more, or less where they are None."""

    def make(folder: Path, root: Path) -> None:
        shutil.copytree(checkpoint("bare", root), folder)
        weights = {**load_file(folder / "model.safetensors"), **changes}
        kept = {name: value for name, value in weights.items() if value is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    return make


def _without_metadata(folder: Path, root: Path) -> None:
    shutil.copytree(checkpoint("stanford", root), folder)
    (folder / "artifact.metadata").unlink()


def _auto_map(folder: Path, root: Path) -> None:
    shutil.copytree(checkpoint("bare", root), folder)
    _edit(folder / "config.json", auto_map={"AutoModel": "modeling_theirs.Theirs"})


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "bare": _bare,
    "masked": _masked,
    "classifier": _classifier,
    "mean": _mean,
    "last-with-prompt": _last_with_prompt,
    "many": _many,
    "pylate": _pylate,
    "stanford": _stanford,
    "clip": _clip,
    "siglip2": _siglip2,
    "siglip2-naflex": _naflex,
    "siglip2-short": partial(_siglip2, length=16),
    "blip2": _blip2,
    "gme": _gme,
    "qwen3-vl-embedding": _qwen3_vl_embedding,
    "qwen2_5-vl": _chat,
    "colpali": _colpali,
    "colqwen2": _colqwen2,
    "colmodernvbert": _colmodernvbert,
    "sparse": _sparse,
    "cross": _cross,
    "half": _half,
    "generator": _generator,
    "foreign": _foreign,
    "auto-map": _auto_map,
    "stanford-without-metadata": _without_metadata,
    "lacking": _with_weights(**{"encoder.layer.0.attention.self.query.weight": None}),
    "left": _with_weights(**{"projection.weight": torch.ones(3, 3)}),
    "long-plain": _with_weights(**{"encoder.layer.1.output.LayerNorm.weight": torch.full((32,), 2000.0)}),
    "long": _compared_by("cosine", "long-plain"),
    **{name: _compared_by(name) for name in ("cosine", "dot", "euclidean", "manhattan")},
    **{f"{name}-modules": _as_modules(name) for name in ("clip", "siglip2")},
}
"""What makes a checkpoint, by name: a function of its folder and of the folder of all."""
