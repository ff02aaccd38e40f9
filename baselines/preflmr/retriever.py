"""PreFLMR and FLMR behind the protocol of `m2kr.retriever`, by the names under which they are registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from baselines.common.checkpoints import configuration_hash, count_parameters, weights_hash
from baselines.common.clip_pixels import Pixels
from baselines.common.options import check_choice
from baselines.preflmr.tokenization import PaddingMask
from m2kr.errors import M2KRError
from m2kr.retriever import Input

if TYPE_CHECKING:
    from baselines.preflmr.preflmr import PreFLMR

OFFICIAL = {
    "preflmr-vit-b": "LinWeizheDragon/PreFLMR_ViT-B",
    "preflmr-vit-l": "LinWeizheDragon/PreFLMR_ViT-L",
    "preflmr-vit-g": "LinWeizheDragon/PreFLMR_ViT-G",
    "preflmr-vit-l-encn": "LinWeizheDragon/PreFLMR_ViT-L_ENCN",
    "flmr": "LinWeizheDragon/FLMR",
}
"""Hub ids of the published checkpoints by the names of their retrievers."""


class PreFLMRRetriever:
    """A `PreFLMR` as a retriever. Queries begin with the task's instruction, as in training (PreFLMR, section 4).

    Options come as text, from ``--option NAME=VALUE``.

    Args:
        name: one of `OFFICIAL`; which checkpoint is loaded where none is given.
        checkpoint: folder in official form, or hub id.
        device: as torch names it.
        dtype: of the weights.
        missing_image: "black" (default) or "none": what a query without a picture gets. The official evaluation gives
            it a black picture, and published figures on MS MARCO depend on that.
        padding_mask: "sane" (default) or "official"; see `TokenMasks`. They differ for text encoders other than BERT.
        regions: "whole" (default) or "grid": what of a picture is encoded; see `Pictures`.
        query_maxlen: tokens of a query; the checkpoint's by default.
        doc_maxlen: most tokens of a passage; the checkpoint's by default.

    Raises:
        M2KRError: the checkpoint cannot be had or read, or an option cannot be.
    """

    vectors: Literal["single", "multi"] = "multi"

    def __init__(
        self,
        name: str,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        missing_image: str = "black",
        padding_mask: str = "sane",
        regions: str = "whole",
        query_maxlen: str | None = None,
        doc_maxlen: str | None = None,
    ) -> None:
        check_choice("padding_mask", padding_mask, PaddingMask)
        lengths = {
            "query_maxlen": _whole("query_maxlen", query_maxlen),
            "doc_maxlen": _whole("doc_maxlen", doc_maxlen),
        }
        from baselines.preflmr.checkpoint import checkpoint_folder
        from baselines.preflmr.preflmr import PreFLMR

        checkpoint = checkpoint or OFFICIAL[name]
        folder = checkpoint_folder(checkpoint)
        self.model: PreFLMR = PreFLMR.from_pretrained(
            folder, dtype=dtype, device=device, padding_mask=cast("PaddingMask", padding_mask)
        )
        self.model.configure(missing_image=missing_image, regions=regions, **lengths)
        assert self.model.query_tokenizer is not None
        assert self.model.document_tokenizer is not None
        called = folder.resolve().name if Path(checkpoint).is_dir() else checkpoint
        self.name = {hub_id: known for known, hub_id in OFFICIAL.items()}.get(called, called)
        self.reads = frozenset({"text", "image"} if self.model.reads_pictures else {"text"})
        self.reads_instructions = True
        self.settings: dict[str, Any] = {
            "checkpoint": called,
            "checkpoint_sha256": weights_hash(folder),
            "configuration": configuration_hash(folder),
            "parameters": count_parameters(self.model),
            "missing_image": missing_image,
            "padding_mask": padding_mask,
            "regions": regions,
            "query_maxlen": self.model.query_tokenizer.maxlen,
            "doc_maxlen": self.model.document_tokenizer.maxlen,
        }

    @property
    def prepare_image(self) -> Callable[[Image], Pixels]:
        """What turns a picture into the bytes the model sees; see `m2kr.retriever.Retriever`.

        It pickles without the model.
        """
        return self.model.pictures.prepare

    def encode_query(self, inputs: Sequence[Input], batch_size: int = 32) -> list[npt.NDArray[np.float32]]:
        """Return the vectors of queries, one float32 array ``(tokens_i, dim)`` each; see `encode_queries`."""
        return self.model.encode_query(inputs, batch_size)

    def encode_document(self, inputs: Sequence[Input], batch_size: int = 32) -> list[npt.NDArray[np.float32]]:
        """Return the vectors of passages, one float32 array ``(tokens_i, dim)`` each; see `encode_documents`."""
        return self.model.encode_document(inputs, batch_size)


def preflmr_vit_b(
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    missing_image: str = "black",
    query_maxlen: str | None = None,
    doc_maxlen: str | None = None,
) -> PreFLMRRetriever:
    """Return PreFLMR with CLIP ViT-B/32, 327 M parameters; see `PreFLMRRetriever`."""
    return PreFLMRRetriever("preflmr-vit-b", **locals())


def preflmr_vit_l(
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    missing_image: str = "black",
    query_maxlen: str | None = None,
    doc_maxlen: str | None = None,
) -> PreFLMRRetriever:
    """Return PreFLMR with CLIP ViT-L/14, 543 M parameters; see `PreFLMRRetriever`."""
    return PreFLMRRetriever("preflmr-vit-l", **locals())


def preflmr_vit_g(
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    missing_image: str = "black",
    query_maxlen: str | None = None,
    doc_maxlen: str | None = None,
) -> PreFLMRRetriever:
    """Return PreFLMR with the CLIP ViT-bigG/14 of LAION, 2,085 M parameters; see `PreFLMRRetriever`."""
    return PreFLMRRetriever("preflmr-vit-g", **locals())


def preflmr_vit_l_encn(
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    missing_image: str = "black",
    padding_mask: str = "sane",
    query_maxlen: str | None = None,
    doc_maxlen: str | None = None,
) -> PreFLMRRetriever:
    """Return PreFLMR for English and Chinese, with the text encoder bge-m3; see `PreFLMRRetriever`."""
    return PreFLMRRetriever("preflmr-vit-l-encn", **locals())


def flmr(
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    missing_image: str = "black",
    regions: str = "whole",
    query_maxlen: str | None = None,
    doc_maxlen: str | None = None,
) -> PreFLMRRetriever:
    """Return FLMR with CLIP ViT-B/32, 207 M parameters; see `PreFLMRRetriever`.

    The article's figures use regions of interest from an object detector, whose boxes are not part of M2KR. Here a
    picture is one region, or with ``regions=grid`` the whole and a grid of nine parts.
    """
    return PreFLMRRetriever("flmr", **locals())


def _whole(name: str, value: str | int | None) -> int | None:
    """Return the number an option holds; None stays None."""
    try:
        return None if value is None else int(value)
    except ValueError as error:
        raise M2KRError(f"{name} is {value!r} where a whole number is expected.") from error
