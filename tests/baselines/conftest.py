"""What the tests of all models share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.made_once import made_once
from tests.threads import one_thread

__all__ = ["one_thread"]

SMALL_WORLDS = {"train": (7, 0.1), "test": (0, 0.05)}
"""Seed and scale of the worlds that small models are trained and judged on in tests."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny random checkpoint, by its name, made at the first call. Not to be changed."""
    from tests.baselines.families.checkpoints import checkpoint  # imports sentence-transformers, which takes seconds

    root = tmp_path_factory.mktemp("checkpoints")
    return lambda name: checkpoint(name, root)


@pytest.fixture(scope="session")
def small_worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of `SMALL_WORLDS`, as `make_data` makes it. Not to be changed."""
    from baselines.common.synthetic_data import make_data

    def make(out: Path) -> None:
        for name, (seed, scale) in SMALL_WORLDS.items():
            make_data(out / name, seed, scale, quiet=True)

    return made_once("small-worlds", tmp_path_factory, make)


@pytest.fixture
def worlds_there(small_worlds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipe and study find their worlds finished, each in a copy, as after a run that was stopped."""
    from baselines.common.synthetic_data import make_data
    from baselines.minis import recipe
    from baselines.preflmr import scaling

    def copied(work: Path, seed: int, scale: float, *, quiet: bool = False) -> Any:
        if not (work / "raw").exists():
            (name,) = (name for name, world in SMALL_WORLDS.items() if world == (seed, scale))
            shutil.copytree(small_worlds / name, work, dirs_exist_ok=True)
        return make_data(work, seed, scale, quiet=quiet)

    for module in (recipe, scaling):
        monkeypatch.setattr(module, "make_data", copied)


@pytest.fixture(scope="session")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BLIP-2. Not to be changed."""
    from tests.baselines.readers import write_blip2

    folder = tmp_path_factory.mktemp("models") / "tiny-blip2"
    write_blip2(folder)
    return folder


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Put a model into mteb's registry, loaded by what is given, and return how it is named here."""
    pytest.importorskip("mteb", reason="its registry is read; pip install mteb")
    from mteb.models import ModelMeta
    from mteb.models.model_implementations import MODEL_REGISTRY
    from mteb.models.model_meta import ScoringFunction

    def registered(loader: Any, **says: Any) -> str:
        # Of this owner, mteb asks for no packages that the pictures of other models need.
        name, similarity = says.pop("name", "mteb/baseline-tiny"), says.pop("similarity", "cosine")
        meta = ModelMeta.create_empty(
            overwrites={
                "name": name,
                "revision": "r1",
                "loader": loader,
                "similarity_fn_name": similarity and ScoringFunction(similarity),
                "modalities": ["text"],
                **says,
            }
        )
        monkeypatch.setitem(MODEL_REGISTRY, name, meta)
        return f"mteb:{name}"

    return registered


@pytest.fixture
def pictured(register: Callable[..., str], folders: Callable[[str], Path]) -> Callable[[str], str]:
    """Register mteb's own code for CLIP or SigLIP with a tiny folder."""
    from mteb.models.model_implementations.clip_models import CLIPModel as MtebClip
    from mteb.models.model_implementations.siglip_models import SiglipModelWrapper as MtebSiglip

    def registered(kind: str, folder: Path | None = None) -> str:
        code = {"clip": MtebClip, "siglip2": MtebSiglip}[kind]
        where = str(folder or folders(kind))
        return register(
            lambda name, revision, **given: code(where, revision, **given),
            name=f"mteb/baseline-tiny-{kind}",
            modalities=["text", "image"],
        )

    return registered
