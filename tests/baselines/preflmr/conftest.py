"""Tiny checkpoints: our own beside the tests, and those of the official implementation where they are at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from baselines.preflmr import PreFLMR

FIXTURES = Path(__file__).parent / "fixtures"
GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden"


@dataclass
class Known:
    """A checkpoint, what went into it and what came out."""

    folder: Path
    config: dict[str, Any]
    inputs: dict[str, Any]
    expected: dict[str, torch.Tensor]


def known(folder: Path) -> Known:
    if not folder.is_dir():
        pytest.skip(f"{folder.parent.name}/{folder.name} is not beside the repository")
    return Known(
        folder,
        json.loads((folder / "config.json").read_text()),
        json.loads((folder / "inputs.json").read_text()),
        load_file(folder / "expected.safetensors"),
    )


@pytest.fixture(params=["ours/preflmr", "ours/flmr", "official/preflmr", "official/flmr"])
def case(request: pytest.FixtureRequest) -> Known:
    origin, kind = request.param.split("/")
    return known((FIXTURES if origin == "ours" else GOLDEN) / kind)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with the official implementation's files."""
    if not GOLDEN.is_dir():
        pytest.skip("the official implementation's files are not beside the repository")
    return GOLDEN


@pytest.fixture(scope="session")
def folder() -> Path:
    """Our tiny PreFLMR on disk. Not to be changed."""
    return FIXTURES / "preflmr"


@pytest.fixture(scope="session")
def flmr_folder() -> Path:
    """Our tiny FLMR on disk. Not to be changed."""
    return FIXTURES / "flmr"


@pytest.fixture(scope="session")
def model(folder: Path) -> PreFLMR:
    """Our tiny PreFLMR. Not to be changed."""
    return PreFLMR.from_pretrained(folder)


@pytest.fixture(params=["preflmr", "flmr"])
def either(request: pytest.FixtureRequest) -> PreFLMR:
    """Our tiny PreFLMR, then our tiny FLMR; a new one for each test."""
    return PreFLMR.from_pretrained(FIXTURES / request.param)
