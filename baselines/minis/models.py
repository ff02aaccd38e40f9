"""The small models as registered retrievers and readers: preflmr-mini, dpr-mini, clip-mini and reader-mini."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from baselines.preflmr.retriever import PreFLMRRetriever
from m2kr.retriever import Input

if TYPE_CHECKING:
    from baselines.clip import CLIP
    from baselines.image_text_to_text import ImageTextToText

RETRIEVERS = ("clip-mini", "dpr-mini", "preflmr-mini")
READER = "reader-mini"

SEED, SCALE = 7, 10.0
"""The synthetic world that they were trained on: 5,000 articles, 13,000 pictures."""

SINGLE_SCALE = 20.0
"""What cosines are multiplied by in the loss of the dual encoder, as sentence-transformers does by default."""


def model_folder(name: str) -> Path:
    """Return the folder of a small model's checkpoint."""
    return Path(__file__).parent / name


class OneVectorRetriever(PreFLMRRetriever):
    """The encoders of a PreFLMR as a dual encoder: the vector of a query or passage is the mean of its vectors.

    It is compared by cosine, times what the cosines were multiplied by in training: the order is that of the cosines,
    and the softmax of the scores, which answering reads as probabilities, is that of the loss. Everything else is as in
    `PreFLMRRetriever`, so that the two differ in late interaction alone.

    Args:
        checkpoint: folder in official form, trained for one vector; dpr-mini by default.
        device: as torch names it.
        dtype: of the weights.
        missing_image: "black" or "none": what a query without a picture gets; default: as the model was saved.
    """

    vectors: Literal["single", "multi"] = "single"

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        missing_image: str | None = None,
    ) -> None:
        checkpoint = checkpoint or str(model_folder("dpr-mini"))
        super().__init__("dpr-mini", checkpoint=checkpoint, device=device, dtype=dtype, missing_image=missing_image)
        self.settings |= {"pooling": "mean", "scale": SINGLE_SCALE}

    def encode_query(  # type: ignore[override]
        self, inputs: Sequence[Input], batch_size: int = 32
    ) -> npt.NDArray[np.float32]:
        """Return the vectors of queries, float32 ``(inputs, dim)``, of length `SINGLE_SCALE`."""
        return SINGLE_SCALE * self._means(super().encode_query(inputs, batch_size))

    def encode_document(  # type: ignore[override]
        self, inputs: Sequence[Input], batch_size: int = 32
    ) -> npt.NDArray[np.float32]:
        """Return the vectors of passages, float32 ``(inputs, dim)``, of length 1."""
        return self._means(super().encode_document(inputs, batch_size))

    def _means(self, vectors: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        found = np.zeros((len(vectors), self.model.config.dim), dtype=np.float32)
        for row, own in enumerate(vectors):
            mean = own.sum(axis=0)
            found[row] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return found


def preflmr_mini(
    *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32", missing_image: str | None = None
) -> PreFLMRRetriever:
    """Return preflmr-mini: late interaction with images, 2.0 M parameters; see `PreFLMRRetriever`."""
    checkpoint = checkpoint or str(model_folder("preflmr-mini"))
    return PreFLMRRetriever(
        "preflmr-mini", checkpoint=checkpoint, device=device, dtype=dtype, missing_image=missing_image
    )


def clip_mini(
    *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32", fusion: str = "sum"
) -> CLIP:
    """Return clip-mini: an image tower and a text tower, 1.1 M parameters; see `baselines.clip.CLIP`."""
    from baselines.clip import CLIP

    return CLIP(checkpoint=checkpoint or str(model_folder("clip-mini")), device=device, dtype=dtype, fusion=fusion)


def reader_mini(
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    max_length: str = "800",
    max_new_tokens: str = "16",
) -> ImageTextToText:
    """Return reader-mini: a LLaVA of 1.5 M parameters that answers from passages; see `ImageTextToText`.

    Five passages of the made-up world have up to 800 tokens of its small vocabulary.
    """
    from baselines.image_text_to_text import ImageTextToText

    return ImageTextToText(
        checkpoint=checkpoint or str(model_folder("reader-mini")),
        device=device,
        dtype=dtype,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
    )
