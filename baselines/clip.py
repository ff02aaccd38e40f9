"""CLIP: one model that gives pictures and texts vectors of the same space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from baselines.common.batching import as_array, device_of, dtype_of, encode, padded, texts_of
from baselines.common.checkpoints import (
    configuration_hash,
    count_parameters,
    load_model,
    load_tokenizer,
    snapshot,
    weights_hash,
)
from baselines.common.clip_pixels import ClipPixels, Pixels
from m2kr.errors import M2KRError, did_you_mean
from m2kr.retriever import Input

FUSIONS = ("sum", "image", "text")
"""What of a query that has a picture and a question is compared with the passages."""

_BASE, _LARGE = "openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14"
_NAMES = {_BASE: "clip-vit-b-32", _LARGE: "clip-vit-l-14"}
_FILES = "config.json, preprocessor_config.json, vocab.json, merges.txt, model.safetensors or pytorch_model.bin"


class CLIP:
    """CLIP with a query of picture and question, against passages of text.

    Pictures and texts are encoded apart, and their vectors normalised. The score of a passage is the cosine of its
    vector with that of the picture plus that with that of the question (``fusion`` "sum"), or one of the two alone
    ("image", "text"). A query without a picture is its question, and one without a question its picture, whatever
    the fusion. CLIP reads 77 tokens at most: only the beginning of a longer passage counts. The task's instruction
    is left out: it would take some of that room and is the same for all queries.

    Args:
        checkpoint: folder or hub id; openai/clip-vit-base-patch32 by default.
        device: as torch names it.
        dtype: of the weights.
        fusion: "sum", "image" or "text". With "text" the retriever reads no pictures.
    """

    vectors: Literal["single", "multi"] = "single"

    def __init__(
        self, *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32", fusion: str = "sum"
    ) -> None:
        if fusion not in FUSIONS:
            raise M2KRError(
                f"fusion {fusion!r} is not known.{did_you_mean(fusion, list(FUSIONS))} "
                f"Choose one of {', '.join(FUSIONS)}."
            )
        self._device, self._dtype, self._fusion = device_of(device), dtype_of(dtype), fusion
        from transformers import CLIPModel, CLIPTokenizer

        checkpoint = checkpoint or _BASE
        folder = snapshot(checkpoint, files=_FILES)
        self._model = load_model(CLIPModel, folder, device=self._device, dtype=self._dtype)
        config = self._model.config
        self._tokenizer = load_tokenizer(CLIPTokenizer, folder, vocabulary=config.text_config.vocab_size)
        self._pixels = ClipPixels.from_folder(folder, config.vision_config.image_size)
        self._max_length = int(config.text_config.max_position_embeddings)
        called = folder.resolve().name if Path(checkpoint).is_dir() else checkpoint
        self.name = _NAMES.get(called, called) + ("" if fusion == "sum" else f"-{fusion}")
        self.reads = frozenset({"text"} if fusion == "text" else {"text", "image"})
        self.reads_instructions = False
        self.settings: dict[str, Any] = {
            "checkpoint": called,
            "checkpoint_sha256": weights_hash(folder),
            "configuration": configuration_hash(folder),
            "parameters": count_parameters(self._model),
            "max_length": self._max_length,
            "fusion": fusion,
        }

    @property
    def prepare_image(self) -> Callable[[Image], Pixels]:
        """What turns a picture into the bytes the model sees; see `m2kr.retriever.Retriever`.

        It pickles without the model.
        """
        return self._pixels.prepare

    def encode_query(self, inputs: Sequence[Input], batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Return the vectors of queries, float32 of shape (inputs, dim).

        Args:
            inputs: texts, or texts with a picture: Pillow's, or what `prepare_image` made of it.
            batch_size: inputs of a batch, at most.

        Raises:
            M2KRError: a picture was prepared for another model, or ``fusion`` is "text" and there is one.
        """
        if self._fusion == "text":
            return self._encode_texts(texts_of(inputs, self.name), batch_size)
        texts = [item if isinstance(item, str) else item.get("text") or "" for item in inputs]
        images = [None if isinstance(item, str) else item.get("image") for item in inputs]
        with_image = [row for row, image in enumerate(images) if image is not None]
        with_text = [
            row for row, image in enumerate(images) if image is None or (self._fusion == "sum" and texts[row].strip())
        ]
        vectors = np.zeros((len(inputs), self._dim), dtype=np.float32)
        vectors[with_text] += self._encode_texts([texts[row] for row in with_text], batch_size)
        vectors[with_image] += self._encode_images([images[row] for row in with_image], batch_size)
        return vectors

    def encode_document(self, inputs: Sequence[Input], batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Return the vectors of passages, float32 of shape (inputs, dim), of length 1.

        Raises:
            M2KRError: an input has a picture.
        """
        return self._encode_texts(texts_of(inputs, self.name), batch_size)

    @property
    def _dim(self) -> int:
        return int(self._model.config.projection_dim)

    def _encode_texts(self, texts: list[str], batch_size: int) -> npt.NDArray[np.float32]:
        if not texts:
            return np.zeros((0, self._dim), dtype=np.float32)
        tokens = self._tokenizer(texts, truncation=True, max_length=self._max_length)["input_ids"]

        def run(rows: list[int]) -> npt.NDArray[np.float32]:
            ids, mask = padded([tokens[row] for row in rows], self._tokenizer.pad_token_id, self._device)
            pooled = self._model.text_model(input_ids=ids, attention_mask=mask).pooler_output
            return _normalised(self._model.text_projection(pooled))

        return np.stack(encode(run, [len(ids) for ids in tokens], batch_size))

    def _encode_images(self, images: Sequence[Any], batch_size: int) -> npt.NDArray[np.float32]:
        if not images:
            return np.zeros((0, self._dim), dtype=np.float32)

        def run(rows: list[int]) -> npt.NDArray[np.float32]:
            pixels = self._pixels.pixels([images[row] for row in rows], self._device, self._dtype)
            return _normalised(self._model.visual_projection(self._model.vision_model(pixels).pooler_output))

        return np.stack(encode(run, [1] * len(images), batch_size))


def _normalised(vectors: Any) -> npt.NDArray[np.float32]:
    from torch.nn.functional import normalize

    return as_array(normalize(vectors.float(), dim=-1))


def clip_vit_l_14(
    *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32", fusion: str = "sum"
) -> CLIP:
    """Return CLIP ViT-L/14 (openai/clip-vit-large-patch14, 224 pixels), or another checkpoint; see `CLIP`."""
    return CLIP(checkpoint=checkpoint or _LARGE, device=device, dtype=dtype, fusion=fusion)
