"""CLIP: one model that gives pictures and texts vectors of the same space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from PIL.Image import Image
from transformers import CLIPModel, CLIPTokenizer

from baselines.common.batching import device_of, dtype_of, encode_texts, encode_vectors, texts_of
from baselines.common.checkpoints import PUBLISHED, count_parameters, find_checkpoint, load_model, load_tokenizer
from baselines.common.clip_pixels import ClipPixels, Pixels
from baselines.common.options import check_choice
from m2kr.retriever import Input

Fusion = Literal["sum", "image", "text"]
"""What of a query that has a picture and a question is compared with the passages."""

_FILES = "config.json, preprocessor_config.json, vocab.json, merges.txt, model.safetensors or pytorch_model.bin"


class CLIP:
    """CLIP with a query of picture and question, against passages of text, or of text and picture.

    Pictures and texts are encoded apart, and their vectors normalised. The score of a passage is the cosine of its
    vector with that of the picture plus that with that of the question (``fusion`` "sum"), or one of the two alone
    ("image", "text"). A query without a picture is its question, and one without a question its picture, whatever
    the fusion. A passage with a picture is read by the same rule, and its vector brought to length 1 after that: else
    it would come before those without a picture, whatever it shows. CLIP reads 77 tokens at most: only the beginning of
    a longer passage counts. The task's instruction is left out: it would take some of that room and is the same for all
    queries.

    Args:
        preset: name of the published checkpoint that is loaded where none is given.
        checkpoint: folder or hub id.
        device: as torch names it.
        dtype: of the weights.
        fusion: "sum", "image" or "text". With "text" the retriever reads no pictures.
    """

    vectors: Literal["single", "multi"] = "single"

    def __init__(
        self,
        preset: str = "clip-vit-b-32",
        /,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        fusion: str = "sum",
    ) -> None:
        check_choice("fusion", fusion, Fusion)
        self._device, self._dtype, self._fusion = device_of(device), dtype_of(dtype), fusion
        found = find_checkpoint(checkpoint or PUBLISHED[preset], files=_FILES)
        self._model = load_model(CLIPModel, found.folder, device=self._device, dtype=self._dtype)
        config = self._model.config
        self._tokenizer = load_tokenizer(CLIPTokenizer, found.folder, vocabulary=config.text_config.vocab_size)
        self._pixels = ClipPixels.from_folder(found.folder, config.vision_config.image_size)
        self._max_length = int(config.text_config.max_position_embeddings)
        self._dim = int(config.projection_dim)
        self.name = found.registered_name + ("" if fusion == "sum" else f"-{fusion}")
        self.reads = frozenset({"text"} if fusion == "text" else {"text", "image"})
        self.reads_passage_images = fusion != "text"
        self.reads_instructions = False
        self.settings: dict[str, Any] = {
            **found.identity(),
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
        return self._encode(inputs, batch_size)

    def encode_document(self, inputs: Sequence[Input], batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Return the vectors of passages, float32 of shape (inputs, dim), of length 1; see `encode_query`."""
        fused = [row for row, item in enumerate(inputs) if not isinstance(item, str)]  # the others are of length 1
        if not fused:
            return self._encode_texts(texts_of(inputs, self.name), batch_size)
        vectors = self._encode(inputs, batch_size)
        vectors[fused] /= np.maximum(np.linalg.norm(vectors[fused], axis=1, keepdims=True), 1e-12)
        return vectors

    def _encode(self, inputs: Sequence[Input], batch_size: int) -> npt.NDArray[np.float32]:
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

    def _encode_texts(self, texts: list[str], batch_size: int) -> npt.NDArray[np.float32]:
        def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            pooled = self._model.text_model(input_ids=ids, attention_mask=mask).pooler_output
            return _normalised(self._model.text_projection(pooled))

        return encode_texts(
            run, self._tokenizer, texts, batch_size, max_length=self._max_length, dim=self._dim, device=self._device
        )

    def _encode_images(self, images: Sequence[Any], batch_size: int) -> npt.NDArray[np.float32]:
        def run(rows: list[int]) -> torch.Tensor:
            pixels = self._pixels.pixels([images[row] for row in rows], self._device, self._dtype)
            return _normalised(self._model.visual_projection(self._model.vision_model(pixels).pooler_output))

        return encode_vectors(run, [1] * len(images), batch_size, self._dim)


clip_vit_l_14 = partial(CLIP, "clip-vit-l-14")
"""CLIP ViT-L/14 (openai/clip-vit-large-patch14, 224 pixels), or another checkpoint; see `CLIP`."""


def _normalised(vectors: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors.float(), dim=-1)
