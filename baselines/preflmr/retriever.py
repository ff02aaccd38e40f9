"""PreFLMR and FLMR behind the protocol of `m2kr.retriever`, by the names under which they are registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from baselines.common.checkpoints import PUBLISHED, count_parameters
from baselines.common.clip_pixels import Pixels
from baselines.common.options import whole_number
from m2kr.errors import M2KRError
from m2kr.retriever import Input

if TYPE_CHECKING:
    from baselines.preflmr.preflmr import PreFLMR


class PreFLMRRetriever:
    """A `PreFLMR` as a retriever. Queries begin with the task's instruction, as in training (PreFLMR, section 4).

    Pictures of passages are read by checkpoints whose configuration says so
    (``context_concat_output_from_vision_encoder``): their projected vectors stand in front of those of the text. The
    published ones read none.

    Options come as text, from ``--option NAME=VALUE``.

    Args:
        preset: name of the published checkpoint that is loaded where none is given.
        checkpoint: folder in official form, or hub id.
        device: as torch names it.
        dtype: of the weights.
        missing_image: "black" or "none": what a query without a picture gets. The official evaluation gives it a black
            picture, and published figures on MS MARCO depend on that.
        padding_mask: "sane" or "official"; see `TokenMasks`. They differ for text encoders other than BERT: the
            published figures of PreFLMR_ViT-L_ENCN need "official".
        regions: "whole" or "grid": what of a picture is encoded; see `Pictures`. The grid is for FLMR: its
            article's figures use regions of interest from an object detector, whose boxes are not part of M2KR.
        query_maxlen: tokens of a query.
        doc_maxlen: most tokens of a passage.

    The options' defaults are what the checkpoint was saved with; that of an official one is the first value named.

    Raises:
        M2KRError: the checkpoint cannot be had or read, or an option cannot be.
    """

    vectors: Literal["single", "multi"] = "multi"

    def __init__(
        self,
        preset: str,
        /,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        missing_image: str | None = None,
        padding_mask: str | None = None,
        regions: str | None = None,
        query_maxlen: str | None = None,
        doc_maxlen: str | None = None,
    ) -> None:
        from baselines.preflmr.checkpoint import find_official
        from baselines.preflmr.preflmr import PreFLMR

        found = find_official(checkpoint or PUBLISHED[preset])
        self.model: PreFLMR = PreFLMR.from_pretrained(
            found.folder, dtype=dtype, device=device, padding_mask=padding_mask
        )
        self.model.configure(
            missing_image=missing_image,
            regions=regions,
            query_maxlen=None if query_maxlen is None else whole_number("query_maxlen", query_maxlen),
            doc_maxlen=None if doc_maxlen is None else whole_number("doc_maxlen", doc_maxlen),
        )
        if self.model.pictures.regions == "grid" and self.model.mapping_network is not None:
            raise M2KRError(
                f"regions=grid is for FLMR, and {found.called} has a mapping network, which was trained with whole "
                "pictures: leave the option out."
            )
        self.name = found.registered_name
        self.reads = frozenset({"text", "image"} if self.model.reads_pictures else {"text"})
        self.reads_passage_images = self.model.reads_passage_pictures
        self.reads_instructions = True
        self.instruction_end = self.model.instruction_end
        self.settings: dict[str, Any] = {
            **found.identity(),
            "parameters": count_parameters(self.model),
            **asdict(self.model.settings),
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
        """Return the vectors of queries, one float32 array ``(tokens_i, dim)`` each; see `PreFLMR.encode_query`."""
        return self.model.encode_query(inputs, batch_size)

    def encode_document(self, inputs: Sequence[Input], batch_size: int = 32) -> list[npt.NDArray[np.float32]]:
        """Return the vectors of passages, one float32 array ``(tokens_i, dim)`` each; see `PreFLMR.encode_document`."""
        return self.model.encode_document(inputs, batch_size)


preflmr_vit_b = partial(PreFLMRRetriever, "preflmr-vit-b")
"""PreFLMR with CLIP ViT-B/32, 327 M parameters."""

preflmr_vit_l = partial(PreFLMRRetriever, "preflmr-vit-l")
"""PreFLMR with CLIP ViT-L/14, 543 M parameters."""

preflmr_vit_g = partial(PreFLMRRetriever, "preflmr-vit-g")
"""PreFLMR with the CLIP ViT-bigG/14 of LAION, 2,085 M parameters."""

preflmr_vit_l_encn = partial(PreFLMRRetriever, "preflmr-vit-l-encn")
"""PreFLMR for English and Chinese, with the text encoder bge-m3."""

flmr = partial(PreFLMRRetriever, "flmr")
"""FLMR with CLIP ViT-B/32, 207 M parameters."""
