"""DPR: two BERTs, one for questions and one for passages, each giving one vector.

Karpukhin et al., "Dense Passage Retrieval for Open-Domain Question Answering", EMNLP 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import BertTokenizer, DPRContextEncoder, DPRQuestionEncoder

from baselines.common.batching import device_of, dtype_of, encode_texts, texts_of
from baselines.common.checkpoints import (
    PUBLISHED,
    configuration_hash,
    count_parameters,
    load_model,
    load_tokenizer,
    snapshot,
    weights_hash,
)
from m2kr.errors import M2KRError
from m2kr.retriever import Input

_PARTS = ("question_encoder", "ctx_encoder")
_OFFICIAL = [PUBLISHED[f"dpr/{part}"] for part in _PARTS]
_FILES = "config.json, vocab.txt, tokenizer_config.json, pytorch_model.bin or model.safetensors"

# facebookresearch/DPR, conf/encoder/hf_bert.yaml, sequence_length: what questions and passages are cut to.
_MAX_LENGTH = 256


_UNUSED = ("pooler.",)
# A vector is the hidden state at [CLS] itself. The official files still hold BERT's pooler, which would come after it.


class DPR:
    """DPR trained on Natural Questions, with the official checkpoints.

    The vector of a text is the last hidden state at [CLS], as it is: vectors are compared by dot product and not
    normalised (section 3.1 of the article). Questions and passages are cut to 256 tokens. The authors encode a
    passage as a pair, title and text; a passage of M2KR is one text, with its title in it, and is encoded as one. The
    task's instruction is left out of the query: the model was not trained with any.

    Args:
        checkpoint: folder or hub id that has a model in each of the sub-folders question_encoder and ctx_encoder
            (config.json, tokenizer files, weights); the official pair by default.
        device: as torch names it.
        dtype: of the weights.
    """

    vectors: Literal["single", "multi"] = "single"

    def __init__(self, *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32") -> None:
        self._device, kind = device_of(device), dtype_of(dtype)
        folders = _folders(checkpoint)
        models = [
            load_model(make, folder, device=self._device, dtype=kind, unused=_UNUSED)
            for make, folder in zip((DPRQuestionEncoder, DPRContextEncoder), folders, strict=True)
        ]
        tokenizers = [
            load_tokenizer(BertTokenizer, folder, vocabulary=model.config.vocab_size)
            for folder, model in zip(folders, models, strict=True)
        ]
        self._question, self._context = zip(models, tokenizers, strict=True)
        if len({_dim(model) for model in models}) > 1:
            raise M2KRError(
                "the two encoders of this DPR have vectors of different sizes: they do not belong together."
            )
        self._max_length = min(_MAX_LENGTH, *(model.config.max_position_embeddings for model in models))
        name = "dpr" if checkpoint is None else checkpoint
        self.name = Path(name).resolve().name if Path(name).is_dir() else name
        self.reads = frozenset({"text"})
        self.reads_instructions = False
        self.settings: dict[str, Any] = {
            "checkpoint": ", ".join(_OFFICIAL) if checkpoint is None else self.name,
            "checkpoint_sha256": weights_hash(*folders),
            "configuration": configuration_hash(*folders),
            "parameters": sum(count_parameters(model) for model in models),
            "max_length": self._max_length,
        }

    def encode_query(self, inputs: Sequence[Input], batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Return the vectors of questions, float32 of shape (inputs, dim).

        Raises:
            M2KRError: an input has a picture.
        """
        return self._encode(*self._question, inputs, batch_size)

    def encode_document(self, inputs: Sequence[Input], batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Return the vectors of passages, float32 of shape (inputs, dim).

        Raises:
            M2KRError: an input has a picture.
        """
        return self._encode(*self._context, inputs, batch_size)

    def _encode(self, model: Any, tokenizer: Any, inputs: Sequence[Input], batch_size: int) -> npt.NDArray[np.float32]:
        texts = [text.strip() for text in texts_of(inputs, self.name)]  # as the authors do

        def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            vectors: torch.Tensor = model(input_ids=ids, attention_mask=mask).pooler_output
            return vectors

        return encode_texts(
            run, tokenizer, texts, batch_size, max_length=self._max_length, dim=_dim(model), device=self._device
        )


def _folders(checkpoint: str | None) -> list[Path]:
    """Return the folders of the question encoder and of the context encoder."""
    if checkpoint is None:
        return [
            snapshot(name, files=_FILES, into=f"FOLDER/{part}, those of the other encoder into FOLDER/{other},")
            for name, part, other in zip(_OFFICIAL, _PARTS, reversed(_PARTS), strict=True)
        ]
    folder = snapshot(checkpoint, files=" and ".join(f"{part}/" for part in _PARTS))
    for part in _PARTS:
        if not (folder / part).is_dir():
            raise M2KRError(
                f"{folder} has no folder {part}. A checkpoint of DPR is a folder with the models of both encoders in "
                f"{' and '.join(f'{part}/' for part in _PARTS)} ({_FILES})."
            )
    return [folder / part for part in _PARTS]


def _dim(model: Any) -> int:
    return int(model.config.projection_dim or model.config.hidden_size)
