"""Checkpoints whose weights or tokenizers are not those of their configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

FAULTS = {
    "removed": "has no {} and random numbers stood in",
    "foreign": "has adapter.up.weight, which nothing took",
    "misshapen": r"has {} \([\d, ]*\), not \([\d, ]*\), which the model cannot take",
}
"""What may be wrong, and what is said of it; {} is the tensor's name."""


def tampered(folder: Path, out: Path, fault: str, name: str) -> Path:
    """Copy a checkpoint, and remove one tensor, give it another shape, or add a foreign one."""
    shutil.copytree(folder, out)
    path = out / "model.safetensors"
    weights = load_file(path)
    if fault == "removed":
        del weights[name]
    elif fault == "foreign":
        weights["adapter.up.weight"] = torch.ones(2, 2)
    else:
        weights[name] = torch.cat([weights[name], weights[name]]).contiguous()
    save_file(weights, path, metadata={"format": "pt"})
    return out


def with_tensors(folder: Path, out: Path, *names: str) -> Path:
    """Copy a checkpoint and add tensors."""
    shutil.copytree(folder, out)
    weights = load_file(out / "model.safetensors")
    save_file(weights | {name: torch.ones(2, 2) for name in names}, out / "model.safetensors", {"format": "pt"})
    return out


def with_a_token_more(folder: Path, out: Path) -> Path:
    """Copy a checkpoint, and give its tokenizer a token that the model has no embedding of."""
    shutil.copytree(folder, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    tokenizer.add_tokens(["<one-more>"])
    tokenizer.save_pretrained(out)
    return out
