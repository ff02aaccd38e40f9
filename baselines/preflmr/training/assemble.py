"""A PreFLMR to begin training with: text encoders from a BERT, the image encoder from a CLIP, the rest random."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.preflmr.configuration import PreFLMRConfig, TextConfig, VisionConfig
from m2kr.common.files import atomic, write_json
from m2kr.errors import M2KRError

if TYPE_CHECKING:
    from baselines.preflmr.preflmr import PreFLMR

_BERT_FILES = "config.json, vocab.txt, tokenizer_config.json, model.safetensors or pytorch_model.bin"
_CLIP_FILES = "config.json, preprocessor_config.json, model.safetensors or pytorch_model.bin"
INSTRUCTION_END = ":"


def assemble(
    text: str,
    vision: str,
    folder: Path,
    *,
    dim: int = 128,
    prefix: int = 32,
    query_maxlen: int = 32,
    doc_maxlen: int = 512,
    mapping_layers: int = 1,
    seed: int = 0,
) -> PreFLMR:
    """Write an untrained PreFLMR as a checkpoint, and return it.

    Args:
        text: folder or hub id of a BERT, which both text encoders begin as.
        vision: folder or hub id of a CLIP, or of its vision tower alone.
        folder: where to write it.
        dim: size of a vector; 128 in all published models.
        prefix: vectors that the image's class token is projected to; 32 in all published models.
        query_maxlen: tokens of a query; 32 in all published models.
        doc_maxlen: tokens of a passage at most; 512 in all published models.
        mapping_layers: layers of the mapping network, of the BERT's shape; 1 in all published models.
        seed: of the weights that are new.

    Raises:
        M2KRError: an encoder cannot be had or read, or is of another kind.
    """
    import torch
    from transformers import BertModel, BertTokenizer, CLIPVisionModel

    from baselines.common.checkpoints import CLIP_TEXT_HALF, load_model, load_tokenizer, snapshot
    from baselines.common.model_folder import PRETRAINING_HEADS
    from baselines.preflmr.preflmr import PreFLMR
    from baselines.preflmr.tokenization import DOCUMENT_FOLDER, QUERY_FOLDER, read_tokenizers

    bert_folder, clip_folder = snapshot(text, files=_BERT_FILES), snapshot(vision, files=_CLIP_FILES)
    cpu = torch.device("cpu")
    bert = load_model(BertModel, bert_folder, device=cpu, dtype=torch.float32, unused=PRETRAINING_HEADS)
    clip = load_model(CLIPVisionModel, clip_folder, device=cpu, dtype=torch.float32, unused=CLIP_TEXT_HALF)
    tokenizer = load_tokenizer(BertTokenizer, bert_folder, vocabulary=bert.config.vocab_size)
    encoder = TextConfig(**_shared(TextConfig, bert.config), family="bert", base="bert-base-uncased")
    # Official configurations name BERT-base and say what differs from it.
    mapping = TextConfig(**{**asdict(encoder), "num_hidden_layers": mapping_layers, "base": "bert-base-uncased"})
    config = PreFLMRConfig(
        text_config=encoder,
        vision_config=VisionConfig(**_shared(VisionConfig, clip.config)),
        mapping=mapping,
        dim=dim,
        mapping_network_prefix_length=prefix,
        separate_query_and_context_text_encoder=True,
        mask_instruction_token=INSTRUCTION_END,
        transformer_mapping_cross_attention_length=query_maxlen,
        vision_model_version=Path(vision).name if Path(vision).is_dir() else vision,
    )
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    for name, length in ((QUERY_FOLDER, {"query_maxlen": query_maxlen}), (DOCUMENT_FOLDER, {"doc_maxlen": doc_maxlen})):
        with atomic(folder / name / "vocab.txt", "w") as file:
            file.writelines(f"{token}\n" for token, _ in vocabulary)
        settings = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": bool(tokenizer.init_kwargs.get("do_lower_case", True)),
        }
        write_json(folder / name / "tokenizer_config.json", {**settings, **length})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PreFLMR(config, *read_tokenizers(folder, config))
    for part in (model.query_text_encoder, model.document_text_encoder):
        _copy(bert, part, bert_folder)
    assert model.vision_encoder is not None
    _copy(clip, model.vision_encoder, clip_folder)
    model.save_pretrained(folder)
    return model


def _shared(kind: type, config: Any) -> dict[str, Any]:
    """Return the values of an encoder's own configuration that ours has too."""
    return {
        item.name: getattr(config, item.name) for item in fields(kind) if getattr(config, item.name, None) is not None
    }


def _copy(source: Any, target: Any, folder: Path) -> None:
    """Copy the weights of an encoder; what the other lacks (a pooler) stays as it is."""
    state, wanted = source.state_dict(), target.state_dict()
    lacking = [name for name in wanted if name not in state and "pooler" not in name]
    if lacking:
        raise M2KRError(f"{folder} has no {lacking[0]}: it is no encoder of the kind that PreFLMR is made of.")
    target.load_state_dict({name: tensor for name, tensor in state.items() if name in wanted}, strict=False)
