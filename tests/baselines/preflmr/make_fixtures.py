"""Make the checkpoints in fixtures/ anew: `python -m tests.baselines.preflmr.make_fixtures`.

Two tiny models in the official form on disk, PreFLMR and FLMR, with random weights, a vocabulary and texts of our own,
and what `baselines.preflmr` computed from them. Make them anew only when their content has to change: the expected
values are from a model that agreed with the official implementation, and from one machine.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from baselines.preflmr import PreFLMR, PreFLMRConfig
from baselines.preflmr.tokenization import DOCUMENT_FOLDER, QUERY_FOLDER, read_tokenizers
from tests.baselines.preflmr import reference

FIXTURES = Path(__file__).parent / "fixtures"
SPECIAL = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
an and at answer bell boat bridge built by copper does ferry find for from harbour how in is it lantern looking meadow
of old on owl passage picture question red river show that the this to tower was what when where which who with year
##ed
"""
LETTERS = string.ascii_lowercase + string.digits
VOCABULARY = [*SPECIAL, *string.punctuation, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS.split()]
LEADS = ["Looking at the picture, find a passage that answers the question:", "Show the passage of this picture:"]
QUERIES = [f"{LEADS[0]} when was this old bridge built?", LEADS[1], f"{LEADS[0]} who built it", "a red owl on a tower"]
DOCUMENTS = [
    "The old bridge on the river was built in 1712; it is red.",
    "Harbour.",
    "An owl (with a lantern) in the meadow: what is that?",
    "The ferry, a boat of copper & red, was built by the tower in the harbour in that year, and a bell is on it.",
    "Meadows!",
    "Who was at the bridge? An owl.",
    "bell tower",
    "The river is by the meadow.",
]


def configuration(kind: str) -> dict[str, Any]:
    """Return the config.json of a tiny PreFLMR or FLMR, as the official class writes it: defaults left out."""
    value: dict[str, Any] = {
        "architectures": ["FLMRModelForRetrieval"],
        "model_type": "flmr",
        "dim": 8,
        "mapping_network_prefix_length": 3,
        "mask_instruction_token": None,
        "separate_query_and_context_text_encoder": False,
        "transformer_mapping_config_base": None,
        "transformer_mapping_num_hidden_layers": None,
        "use_transformer_mapping_network": False,
        "text_config": {
            "model_type": "flmr_text_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "max_position_embeddings": 64,
            "vocab_size": len(VOCABULARY),
        },
        "vision_config": {
            "model_type": "flmr_vision_model",
            "hidden_size": 12,
            "intermediate_size": 24,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "image_size": 16,
            "patch_size": 8,
        },
    }
    if kind == "preflmr":
        value |= {
            "mask_instruction_token": ":",
            "separate_query_and_context_text_encoder": True,
            "transformer_mapping_config_base": "bert-base-uncased",
            "transformer_mapping_num_hidden_layers": 1,
            "transformer_mapping_config": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2},
            "use_transformer_mapping_network": True,
        }
    return value


def write_tokenizers(folder: Path) -> None:
    """Write query_tokenizer/ and context_tokenizer/ as the official tokenizers do."""
    for name, length in ((QUERY_FOLDER, {"query_maxlen": 32}), (DOCUMENT_FOLDER, {"doc_maxlen": 64})):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
        special = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL if "unused" not in token}
        settings = {**special, **length, "do_lower_case": True, "model_max_length": 10**30}
        (folder / name / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
        (folder / name / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def fill(model: PreFLMR, seed: int) -> None:
    """Give a model random weights, large enough that every part of it shows in its vectors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(values + 1 if "norm" in name.lower() and name.endswith("weight") else values)


def make(kind: str, seed: int) -> None:
    """Write the fixture of one kind: checkpoint, inputs.json and expected.safetensors."""
    folder = FIXTURES / kind
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizers(folder)
    config = PreFLMRConfig.from_json(configuration(kind))
    queries, documents = read_tokenizers(folder, config)
    model = PreFLMR(config, queries, documents).eval()
    fill(model, seed)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(configuration(kind), indent=2) + "\n", encoding="utf-8")

    regions = () if kind == "preflmr" else (2,)
    pixels = torch.randn(len(QUERIES), *regions, 3, 16, 16, generator=torch.Generator().manual_seed(seed + 1))
    q, d = queries(QUERIES), documents(DOCUMENTS, padding="max", maxlen=48)
    with torch.no_grad():
        query, document = model.query(*q, pixels), model.document(*d)
        scores = model.score(query.embeddings, document.embeddings, document.mask)
    in_batch, pairwise = reference.contrastive_losses(scores.tolist(), negatives=1)
    expected = {
        "query_input_ids": q.input_ids,
        "query_attention_mask": q.attention_mask,
        "query_pixel_values": pixels,
        "query_late_interaction_output": query.embeddings,
        "context_input_ids": d.input_ids,
        "context_attention_mask": d.attention_mask,
        "context_mask": document.mask.to(torch.uint8),
        "context_late_interaction_output": document.embeddings,
        "all_pairs_maxsim": scores,
        "in_batch_loss": torch.tensor([in_batch]),
        "pairwise_loss": torch.tensor([pairwise]),
    }
    save_file(expected, folder / "expected.safetensors")
    inputs = {"queries": QUERIES, "documents": DOCUMENTS, "document_max_length": 48, "num_negative_examples": 1}
    (folder / "inputs.json").write_text(json.dumps(inputs, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make("preflmr", 20240)
    make("flmr", 20230)
    sys.exit(0)
