"""`PreFLMR`: the network with its tokenizers and image settings; loads checkpoints, encodes queries and passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from baselines.common.batching import as_array, check_batch_size, device_of, dtype_of, encode
from baselines.common.clip_pixels import ClipPixels, Pixels
from baselines.common.options import check_choice
from baselines.preflmr.checkpoint import SETTINGS, Settings, find_official, load_weights, read_settings, save_weights
from baselines.preflmr.configuration import PreFLMRConfig
from baselines.preflmr.inputs import Features, Pictured, add_pixels, picture_number, pictures_of, text_of
from baselines.preflmr.network import Embeddings, ImageStates, PreFLMRNetwork
from baselines.preflmr.pictures import MissingImage, Pictures, Regions
from baselines.preflmr.tokenization import (
    DOCUMENT_FOLDER,
    QUERY_FOLDER,
    DocumentTokenizer,
    PaddingMask,
    QueryTokenizer,
    TokenMasks,
    read_tokenizers,
)
from m2kr.common.files import write_json
from m2kr.errors import M2KRError

_TYPICAL_TOKENS = 128
"""Of a passage of M2KR: 100 words and their punctuation."""


class PreFLMR(PreFLMRNetwork):
    """A late-interaction retriever of texts and pictures; its submodules are those of `PreFLMRNetwork`.

    Args:
        config: the architecture.
        query_tokenizer: of the checkpoint; the two tokenizers name the ids to mask.
        document_tokenizer: of the checkpoint.
        padding_mask: "sane" or "official"; see `TokenMasks`. The same for BERT.

    Attributes:
        pictures: what is made of a picture before it is encoded; see `Pictures`.
        missing_image: what a query without a picture gets, "black" or "none"; see `encode_query`.

    Raises:
        M2KRError: the configuration asks for an activation that transformers does not have.
    """

    def __init__(
        self,
        config: PreFLMRConfig,
        query_tokenizer: QueryTokenizer,
        document_tokenizer: DocumentTokenizer,
        *,
        padding_mask: str = "sane",
    ) -> None:
        super().__init__(config, TokenMasks.of(config, query_tokenizer, document_tokenizer, padding_mask))
        self.query_tokenizer = query_tokenizer
        self.document_tokenizer = document_tokenizer
        self.padding_mask = cast("PaddingMask", padding_mask)
        size = config.vision_config.image_size
        self.pictures = Pictures(ClipPixels(size, (size, size)))
        self.missing_image: MissingImage = "black"

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, dtype: str = "float32", device: str = "cpu", padding_mask: str | None = None
    ) -> PreFLMR:
        """Return the model of a checkpoint in official form, in evaluation mode.

        The model is built without memory for its weights, which are then read one by one: in memory are no more than
        the weights in ``dtype`` and one tensor. On the CPU, safetensors already in ``dtype`` stay mapped from the file.

        Pictures are prepared as a preprocessor_config.json in the folder says, or else as CLIP does at the size of
        the checkpoint's vision encoder, which is what the official models were trained with. What `configure` set
        before the model was saved holds again.

        Args:
            name: a folder, or a hub id as "LinWeizheDragon/PreFLMR_ViT-L", which is downloaded first.
            dtype: of the weights: float32, bfloat16 or float16.
            device: as torch names it.
            padding_mask: see `TokenMasks`; None for that of the saved model, "sane" where it says nothing.

        Raises:
            M2KRError: a file is missing, or it does not hold the model that config.json describes.
        """
        kind, place = dtype_of(dtype), device_of(device)
        folder = find_official(name).folder
        config = PreFLMRConfig.from_folder(folder)
        tokenizers = read_tokenizers(folder, config)
        saved = read_settings(folder)
        with torch.device("meta"):
            model = cls(config, *tokenizers, padding_mask=saved.padding_mask if padding_mask is None else padding_mask)
        load_weights(model, folder, dtype=kind, device=place)
        model.pictures = Pictures(ClipPixels.from_folder(folder, config.vision_config.image_size))
        model.configure(missing_image=saved.missing_image, regions=saved.regions)
        return model.eval()

    def save_pretrained(self, folder: Path) -> None:
        """Write an official checkpoint: official names, every tensor once, and the tokenizers.

        Beside it are preprocessor_config.json and preflmr_module.json, which the official code does not look at: how
        pictures are prepared, and what its files have no place for. Lengths are where it reads them. Each file appears
        under its name when it is whole, config.json last; a folder without it is no checkpoint.

        Raises:
            M2KRError: the folder cannot be written.
        """
        save_weights(self, folder)
        self.query_tokenizer.write(folder / QUERY_FOLDER)
        self.document_tokenizer.write(folder / DOCUMENT_FOLDER)
        self.pictures.pixels.write(folder)
        write_json(folder / SETTINGS, asdict(self.settings))
        text = self.config.text_config
        if text.family != "bert":  # a BERT's tokenizer says it
            text = replace(text, query_maxlen=self.query_tokenizer.maxlen)
        replace(self.config, text_config=text).write(folder)

    def configure(
        self,
        *,
        missing_image: str | None = None,
        regions: str | None = None,
        query_maxlen: int | None = None,
        doc_maxlen: int | None = None,
    ) -> None:
        """Set how inputs are read; what is None stays as it is. A model that is saved keeps it.

        Args:
            missing_image: "black" or "none"; see `encode_query`.
            regions: "whole" or "grid"; see `Pictures`. The grid is for models without a mapping network (FLMR).
            query_maxlen: tokens of a query.
            doc_maxlen: most tokens of a passage.

        Raises:
            M2KRError: a value is not possible.
        """
        if missing_image is not None:
            check_choice("missing_image", missing_image, MissingImage)
            self.missing_image = cast("MissingImage", missing_image)
        if regions is not None:
            check_choice("regions", regions, Regions)
            self.pictures = replace(self.pictures, regions=cast("Regions", regions))
        if query_maxlen is not None:
            self.query_tokenizer.maxlen = query_maxlen
        if doc_maxlen is not None:
            self.document_tokenizer.maxlen = doc_maxlen

    @property
    def settings(self) -> Settings:
        """How inputs are read, but for lengths."""
        return Settings(self.missing_image, self.padding_mask, self.pictures.regions)

    @property
    def instruction_end(self) -> str:
        """What stands for each ":" of an instruction in the text of a query; see `m2kr.dataset.query_text`."""
        return self.config.mask_instruction_token or ":"

    @property
    def reads_pictures(self) -> bool:
        """Whether queries may have pictures."""
        return self.config.use_vision_encoder and self.config.query_concat_output_from_vision_encoder

    @property
    def reads_passage_pictures(self) -> bool:
        """Whether passages may have pictures."""
        return self.config.use_vision_encoder and self.config.context_concat_output_from_vision_encoder

    # --- all inputs -------------------------------------------------------------------------------------------------

    def encode_query(self, inputs: Sequence[Pictured], batch_size: int = 32) -> list[npt.NDArray[np.float32]]:
        """Return the vectors of queries, in torch's inference mode; the model has to be in evaluation mode.

        A query without a picture gets a black one where ``missing_image`` is "black": the official evaluation does so
        (examples/example_use_preflmr.py), and published figures on MS MARCO depend on it. The vision encoder sees it
        once a call. With "none" such a query has its text's vectors only.

        Args:
            inputs: texts (instruction, a space, question), or mappings with ``text`` and ``image``; see `inputs`. The
                instruction ends with `instruction_end`. What is transparent in a picture keeps its colour, as for the
                published figures.
            batch_size: queries of a batch. The vectors do not depend on it beyond float noise (1e-5 in float32).

        Returns:
            For each query a float32 array ``(tokens_i, dim)`` of vectors of length 1, without masked ones.

        Raises:
            M2KRError: an input is not as `inputs` says, or has a picture and the model reads none; ``batch_size`` is
                less than 1.
        """
        check_batch_size(batch_size)
        if not inputs:
            return []
        numbers = [picture_number(item, self.pictures) for item in inputs]
        black = None
        if self.missing_image == "black" and self.reads_pictures and not all(numbers):
            with torch.inference_mode():
                black = self._black_states()

        def run(rows: list[int]) -> list[npt.NDArray[np.float32]]:
            features = self.query_features([inputs[row] for row in rows], device=self.device, dtype=self.dtype)
            return _arrays(self.query_vectors(features, black))

        # Sorted by the number of their pictures, so that few batches are filled up.
        return encode(run, numbers, batch_size)

    def encode_document(self, inputs: Sequence[Pictured], batch_size: int = 32) -> list[npt.NDArray[np.float32]]:
        """Return the vectors of passages, in torch's inference mode; the model has to be in evaluation mode.

        Passages of like length go together and are filled up to the longest of them, not to 512 tokens as by the
        official indexer; no vector depends on it beyond float noise.

        Args:
            inputs: texts, or, for models that read passage images, mappings with ``text`` and ``image``; see `inputs`.
            batch_size: a batch has as many tokens as this many passages of 128 tokens, filling included, so that
                batches of long and of short passages take like time and memory.

        Returns:
            For each passage a float32 array ``(tokens_i, dim)`` of vectors of length 1, without punctuation and
            padding.

        Raises:
            M2KRError: an input is not as `inputs` says, or has a picture and the model reads none of passages;
                ``batch_size`` is less than 1.
        """
        check_batch_size(batch_size)
        if not inputs:
            return []
        ids, attention = self._document_tokens([text_of(row, item) for row, item in enumerate(inputs)])
        lengths = [ids.shape[1]] * len(ids) if self._padding_counts else attention.sum(dim=1).tolist()

        def run(rows: list[int]) -> list[npt.NDArray[np.float32]]:
            longest = max(lengths[row] for row in rows)
            features = Features(
                input_ids=ids[rows, :longest].to(self.device), attention_mask=attention[rows, :longest].to(self.device)
            )
            images = [pictures_of(row, inputs[row], self.pictures) for row in rows]
            self._add_document_pixels(features, images, self.device, self.dtype)
            return _arrays(self.document_vectors(features))

        return encode(run, lengths, len(inputs), max_tokens=batch_size * _TYPICAL_TOKENS)

    # --- batches ----------------------------------------------------------------------------------------------------

    def query_features(
        self, inputs: Sequence[Pictured], *, device: torch.device, dtype: torch.dtype, prompt: str = ""
    ) -> Features:
        """Return a batch of queries.

        A query without a picture gets a black one if ``missing_image`` is "black" and others of the batch have one.
        Where none has, there are no ``pixel_values``, and `query_vectors` sees to it: what all queries share is
        encoded once.

        Args:
            inputs: n queries; the text of one is its instruction, a space and the question.
            device: of the tensors.
            dtype: of the pixels.
            prompt: put in front of each text.

        Raises:
            M2KRError: an input is not as `inputs` says, or has a picture that the model does not read.
        """
        images = [pictures_of(row, item, self.pictures) for row, item in enumerate(inputs)]
        if any(images) and not self.reads_pictures:
            raise M2KRError("a query has a picture, and this model reads none (see config.json). Pass the text alone.")
        ids, attention = self.query_tokenizer([prompt + text_of(row, item) for row, item in enumerate(inputs)])
        features = Features(
            input_ids=ids.to(device),
            attention_mask=attention.to(device),
            query_expansion_positions=(attention == 0).to(device),
        )
        if any(images):
            if self.missing_image == "black":
                images = [own or list(self.pictures.black()) for own in images]
            add_pixels(features, images, self.pictures.pixels, device, dtype)
        return features

    def document_features(
        self, inputs: Sequence[Pictured], *, device: torch.device, dtype: torch.dtype, prompt: str = ""
    ) -> Features:
        """Return a batch of passages, filled up to the longest; arguments and errors as in `query_features`."""
        ids, attention = self._document_tokens([prompt + text_of(row, item) for row, item in enumerate(inputs)])
        features = Features(input_ids=ids.to(device), attention_mask=attention.to(device))
        images = [pictures_of(row, item, self.pictures) for row, item in enumerate(inputs)]
        self._add_document_pixels(features, images, device, dtype)
        return features

    def query_vectors(self, features: Features, black: ImageStates | None = None) -> Embeddings:
        """Return the vectors of a batch of queries; see `query`.

        Args:
            features: of `query_features`.
            black: states of the black picture of one query, if they are at hand.
        """
        ids, attention = features["input_ids"], features["attention_mask"]
        pixels = features.get("pixel_values")
        if pixels is not None:
            return self._without_fill(self.query(ids, attention, pixels), features, text_first=True)
        if self.missing_image == "none" or not self.reads_pictures:
            return self.query(ids, attention)
        first, patches = self._black_states() if black is None else black
        states = ImageStates(first.repeat(len(ids), 1), patches.repeat(len(ids), 1, 1))
        return self.query(ids, attention, image_states=states)

    def document_vectors(self, features: Features) -> Embeddings:
        """Return the vectors of a batch of passages; see `document`."""
        vectors = self.document(features["input_ids"], features["attention_mask"], features.get("pixel_values"))
        return self._without_fill(vectors, features, text_first=False)

    def _black_states(self) -> ImageStates:
        """Return what the image encoder makes of the black picture of one query."""
        pixels = self.pictures.pixels.pixels(self.pictures.black(), self.device, self.dtype)
        return self.image_states(pixels[None])

    def _document_tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.document_tokenizer(texts, padding="max" if self._padding_counts else "longest")

    @property
    def _padding_counts(self) -> bool:
        """Whether padding has vectors of its own, as in the official code with a text encoder other than BERT.

        How long passages are padded then changes the scores, and only the official length repeats the official ones.
        """
        return self.padding_mask == "official" and self.document_tokenizer.pad_id != 0

    def _add_document_pixels(
        self,
        features: Features,
        images: Sequence[Sequence[Image.Image | Pixels]],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        if any(images):
            if not self.config.context_concat_output_from_vision_encoder:
                raise M2KRError(
                    "a passage has a picture, and this model reads none of passages "
                    "(context_concat_output_from_vision_encoder is false). Pass the text alone."
                )
            add_pixels(features, images, self.pictures.pixels, device, dtype)

    def _without_fill(self, vectors: Embeddings, features: Features, *, text_first: bool) -> Embeddings:
        """Mask the vectors of pictures that only fill a batch up."""
        mask = features.get("picture_mask")
        if mask is None:
            return vectors
        number, regions = mask.shape
        config = self.config
        prefix = config.mapping_network_prefix_length
        with_text = (
            config.query_concat_output_from_text_encoder
            if text_first
            else config.context_concat_output_from_text_encoder
        )
        tokens = features["input_ids"].shape[1] if with_text else 0
        patches = (vectors.mask.shape[1] - tokens) // regions - prefix
        text = mask.new_ones(number, tokens)
        parts = [mask.repeat_interleave(prefix, dim=1), mask.repeat_interleave(patches, dim=1)]
        kept = torch.cat([text, *parts] if text_first else [*parts, text], dim=1)
        return Embeddings(vectors.embeddings.masked_fill(~kept[..., None], 0), vectors.mask & kept)


def _arrays(vectors: Embeddings) -> list[npt.NDArray[np.float32]]:
    """Return the vectors that count, input by input. They travel from the device in one piece."""
    counts = vectors.mask.sum(dim=1).tolist()
    flat = as_array(vectors.embeddings[vectors.mask])
    return np.split(flat, np.cumsum(counts)[:-1])
