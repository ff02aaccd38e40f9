"""Tiny random checkpoints of each family's layout, for tests and for the table in docs/retrievers.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from tests.baselines.families.making import QWEN_SPECIAL, TINY, byte_tokenizer, edit, save, word_tokenizer
from tests.baselines.families.visual_checkpoints import VISUAL


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


# --- texts ----------------------------------------------------------------------------------------------------------


def _bert(make: str, **given: Any) -> Any:
    tokenizer = word_tokenizer()
    config = transformers.BertConfig(vocab_size=len(tokenizer), **TINY, **given)
    return getattr(transformers, make)(config), tokenizer


def _bare(folder: Path, root: Path) -> None:
    save(folder, *_bert("BertModel"))


def _masked(folder: Path, root: Path) -> None:
    save(folder, *_bert("BertForMaskedLM"))


def _classifier(folder: Path, root: Path) -> None:
    save(folder, *_bert("BertForSequenceClassification", num_labels=1))


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
    tokenizer = byte_tokenizer(*QWEN_SPECIAL, pad="<|endoftext|>", eos_token="<|endoftext|>", padding_side="left")
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), **TINY, head_dim=16, num_key_value_heads=1, max_position_embeddings=4096
    )
    save(root / "qwen3-plain", transformers.Qwen3Model(config), tokenizer)
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
    edit(folder / "config_sentence_transformers.json", **settings)


def _stanford(folder: Path, root: Path) -> None:
    shutil.copytree(checkpoint("bare", root), folder)
    weights = {f"bert.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", architectures=["HF_ColBERT"])
    metadata = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 32, "doc_maxlen": 180}
    (folder / "artifact.metadata").write_text(json.dumps({**metadata, "dim": 16, "mask_punctuation": True}))


def _as_modules(name: str) -> Callable[[Path, Path], None]:
    """Return what makes a folder of sentence-transformers from one of transformers."""
    return lambda folder, root: SentenceTransformer(str(checkpoint(name, root))).save(str(folder))


# --- what is refused ------------------------------------------------------------------------------------------------


def _sparse(folder: Path, root: Path) -> None:
    SparseEncoder(str(checkpoint("masked", root))).save(str(folder))


def _cross(folder: Path, root: Path) -> None:
    CrossEncoder(str(checkpoint("classifier", root))).save(str(folder))


def _half(folder: Path, root: Path) -> None:
    tokenizer = word_tokenizer()
    config = transformers.DPRConfig(vocab_size=len(tokenizer), **TINY)
    save(folder, transformers.DPRContextEncoder(config), tokenizer)


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


def _adapter(folder: Path, root: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))


def _engine(folder: Path, root: Path) -> None:
    shutil.copytree(checkpoint("bare", root), folder)
    edit(folder / "config.json", architectures=["ColQwen2"])


def _auto_map(folder: Path, root: Path) -> None:
    shutil.copytree(checkpoint("bare", root), folder)
    edit(folder / "config.json", auto_map={"AutoModel": "modeling_theirs.Theirs"})


def _marked(folder: Path, root: Path) -> None:
    """Its tokenizer.json puts a marker in front of each text, and BertTokenizer, which is named beside it, does not."""
    shutil.copytree(checkpoint("bare", root), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    known = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[unused0]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing("[CLS] [unused0] $A [SEP]", None, known)
    tokenizer.save(str(folder / "tokenizer.json"))


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    **VISUAL,
    "bare": _bare,
    "masked": _masked,
    "classifier": _classifier,
    "mean": _mean,
    "last-with-prompt": _last_with_prompt,
    "many": _many,
    "pylate": _pylate,
    "stanford": _stanford,
    "sparse": _sparse,
    "cross": _cross,
    "half": _half,
    "foreign": _foreign,
    "auto-map": _auto_map,
    "marked": _marked,
    "adapter": _adapter,
    "colpali-engine": _engine,
    "stanford-without-metadata": _without_metadata,
    "lacking": _with_weights(**{"encoder.layer.0.attention.self.query.weight": None}),
    "left": _with_weights(**{"projection.weight": torch.ones(3, 3)}),
    "long-plain": _with_weights(**{"encoder.layer.1.output.LayerNorm.weight": torch.full((32,), 2000.0)}),
    "long": _compared_by("cosine", "long-plain"),
    **{name: _compared_by(name) for name in ("cosine", "dot", "euclidean", "manhattan")},
    **{f"{name}-modules": _as_modules(name) for name in ("clip", "siglip2")},
}
"""What makes a checkpoint, by name: a function of its folder and of the folder of all."""
