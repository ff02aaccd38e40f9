"""From texts and pictures to the tensors a PreFLMR takes, and to arrays of its vectors.

An input is a text, or a mapping with ``text`` and ``image``. An image is a picture of Pillow, a uint8 array that
`Pictures.prepare` made of one, or a list of either: regions of interest (FLMR, section 3.2), the whole picture first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from baselines.common.batching import ClipPixels, Pixels, as_array, encode
from m2kr.errors import M2KRError, did_you_mean

if TYPE_CHECKING:
    import torch

    from baselines.preflmr.preflmr import Embeddings, ImageStates, PreFLMR

MissingImage = Literal["black", "none"]
Regions = Literal["whole", "grid"]
Pictured: TypeAlias = str | Mapping[str, Any]

_GRID = 3
_TYPICAL_TOKENS = 128
"""Of a passage of M2KR: 100 words and their punctuation."""


class Features(TypedDict, total=False):
    """A batch, as sentence-transformers hands it from one step to the next.

    Attributes:
        input_ids: ``(n, tokens)`` int64.
        attention_mask: ``(n, tokens)`` int64, 1 where the text encoder attends.
        pixel_values: ``(n, regions, 3, height, width)``, if the batch has pictures.
        picture_mask: ``(n, regions)`` bool, false for what only fills up; missing where nothing does.
        query_expansion_positions: ``(n, tokens)`` bool, tokens of a query that count although nothing attends to them.
            sentence-transformers cuts other such tokens off when it splits a batch.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pixel_values: torch.Tensor
    picture_mask: torch.Tensor
    query_expansion_positions: torch.Tensor


@dataclass(frozen=True)
class Pictures:
    """What is made of a picture before it is encoded. It pickles to a few hundred bytes.

    Attributes:
        pixels: how CLIP reads it.
        regions: "whole" for the picture as it is. "grid" for the whole and its nine parts, three by three, row by row,
            each prepared like a picture of its own. The regions of the official FLMR come from an object detector,
            whose boxes M2KR does not hold; the grid is a substitute of ours and repeats no published figure.
    """

    pixels: ClipPixels
    regions: Regions = "whole"

    @property
    def number(self) -> int:
        """Regions of a picture."""
        return 1 + _GRID * _GRID if self.regions == "grid" else 1

    def prepare(self, image: Image.Image) -> Pixels:
        """Return what the model sees, before normalisation: uint8 (height, width, 3); (10, height, width, 3) of a grid.

        ``image`` may be of any mode; see `ClipPixels.prepare`.
        """
        whole = self.pixels.prepare(image)
        if self.regions == "whole":
            return whole
        parts = []
        for row in range(_GRID):
            top, bottom = _third(image.height, row)
            for column in range(_GRID):
                left, right = _third(image.width, column)
                parts.append(self.pixels.prepare(image.crop((left, top, right, bottom))))
        return np.stack([whole, *parts])

    def black(self) -> list[Pixels]:
        """Return a prepared black picture. Its size does not show: the official 336 x 336 pixels give the same."""
        return [np.zeros(self.pixels.shape, dtype=np.uint8)] * self.number


def _third(length: int, part: int) -> tuple[int, int]:
    """Return where a part of the grid begins and ends; it has a pixel at least."""
    begin = length * part // _GRID
    return begin, max(begin + 1, length * (part + 1) // _GRID)


def check_choice(name: str, value: str, choices: Any) -> None:
    """Refuse a value that is not one of a ``Literal``.

    Raises:
        M2KRError: it is not; with the choices.
    """
    known = list(get_args(choices))
    if value not in known:
        raise M2KRError(f"{name} {value!r} is not known.{did_you_mean(value, known)} Choose one of {', '.join(known)}.")


def configure(
    model: PreFLMR,
    *,
    missing_image: str | None = None,
    regions: str | None = None,
    query_maxlen: int | None = None,
    doc_maxlen: int | None = None,
) -> None:
    """Set how a model reads its inputs; what is None stays as it is.

    Args:
        model: changed in place.
        missing_image: "black" or "none"; see `encode_queries`.
        regions: "whole" or "grid"; see `Pictures`. The grid is for models without a mapping network (FLMR).
        query_maxlen: tokens of a query.
        doc_maxlen: most tokens of a passage.

    Raises:
        M2KRError: a value is not possible.
    """
    if missing_image is not None:
        check_choice("missing_image", missing_image, MissingImage)
        model.missing_image = cast("MissingImage", missing_image)
    if regions is not None:
        check_choice("regions", regions, Regions)
        model.pictures = replace(model.pictures, regions=cast("Regions", regions))
    limit = model.config.text_config.max_tokens
    for name, value, tokenizer in (
        ("query_maxlen", query_maxlen, model.query_tokenizer),
        ("doc_maxlen", doc_maxlen, model.document_tokenizer),
    ):
        if value is None or tokenizer is None:
            continue
        if not 4 <= value <= limit:
            raise M2KRError(f"{name} is {value}; the text encoder takes 4 to {limit} tokens.")
        tokenizer.maxlen = value


# --- batches --------------------------------------------------------------------------------------------------------


def reads_pictures(model: PreFLMR) -> bool:
    """Whether a model's queries may have pictures."""
    return model.config.use_vision_encoder and model.config.query_concat_output_from_vision_encoder


def query_features(
    model: PreFLMR, inputs: Sequence[Pictured], *, device: torch.device, dtype: torch.dtype, prompt: str = ""
) -> Features:
    """Return a batch of queries.

    A query without a picture gets a black one if ``model.missing_image`` is "black" and others of the batch have one.
    Where none has, there are no ``pixel_values``, and `query_vectors` sees to it: what all queries share is encoded
    once.

    Args:
        model: says how texts and pictures are read.
        inputs: n queries; the text of one is its instruction, a space and the question.
        device: of the tensors.
        dtype: of the pixels.
        prompt: put in front of each text.

    Raises:
        M2KRError: an input is not as the module says, or has a picture that the model does not read.
    """
    if model.query_tokenizer is None:
        raise M2KRError("this model was built without tokenizers: pass both to PreFLMR.")
    texts, pictures = _split(inputs, model.pictures)
    if any(pictures) and not reads_pictures(model):
        raise M2KRError("a query has a picture, and this model reads none (see config.json). Pass the text alone.")
    encoding = model.query_tokenizer([prompt + text for text in texts])
    features = Features(
        input_ids=encoding.input_ids.to(device),
        attention_mask=encoding.attention_mask.to(device),
        query_expansion_positions=(encoding.attention_mask == 0).to(device),
    )
    if any(pictures):
        if model.missing_image == "black":
            pictures = [own or list(model.pictures.black()) for own in pictures]
        _add_pixels(features, model, pictures, device, dtype)
    return features


def document_features(
    model: PreFLMR, inputs: Sequence[Pictured], *, device: torch.device, dtype: torch.dtype, prompt: str = ""
) -> Features:
    """Return a batch of passages, filled up to the longest; arguments as `query_features`.

    Raises:
        M2KRError: an input is not as the module says, or has a picture that the model does not read.
    """
    texts, pictures = _split(inputs, model.pictures)
    ids, attention = _document_tokens(model, [prompt + text for text in texts])
    features = Features(input_ids=ids.to(device), attention_mask=attention.to(device))
    _add_document_pixels(features, model, pictures, device, dtype)
    return features


def query_vectors(model: PreFLMR, features: Features, black: ImageStates | None = None) -> Embeddings:
    """Return the vectors of a batch of queries; see `PreFLMR.query`.

    Args:
        model: the model.
        features: of `query_features`.
        black: of `black_states`, if they are at hand.
    """
    ids, attention = features["input_ids"], features["attention_mask"]
    pixels = features.get("pixel_values")
    if pixels is None:
        if model.missing_image == "none" or not reads_pictures(model):
            return model.query(ids, attention)
        states = black_states(model) if black is None else black
        number = len(ids)
        states = states._replace(first=states.first.repeat(number, 1), patches=states.patches.repeat(number, 1, 1))
        return model.query(ids, attention, image_states=states)
    vectors = model.query(ids, attention, pixels)
    return _without_fill(model, vectors, features, text_first=True)


def document_vectors(model: PreFLMR, features: Features) -> Embeddings:
    """Return the vectors of a batch of passages; see `PreFLMR.document`."""
    vectors = model.document(features["input_ids"], features["attention_mask"], features.get("pixel_values"))
    return _without_fill(model, vectors, features, text_first=False)


def black_states(model: PreFLMR) -> ImageStates:
    """Return what the image encoder makes of the black picture of one query."""
    pixels = model.pictures.pixels.pixels(model.pictures.black(), model.device, model.dtype)
    return model.image_states(pixels[None])


def _split(inputs: Sequence[Pictured], pictures: Pictures) -> tuple[list[str], list[list[Image.Image | Pixels]]]:
    """Return the texts of inputs, and the pictures of each, prepared where that makes regions of one."""
    texts: list[str] = []
    found: list[list[Image.Image | Pixels]] = []
    for row, item in enumerate(inputs):
        texts.append(_text(row, item))
        image = None if isinstance(item, str) else item.get("image")
        if isinstance(image, Image.Image):
            image = pictures.prepare(image)
        if isinstance(image, np.ndarray):
            image = list(image) if image.ndim == 4 else [image]
        if image is not None and not isinstance(image, (list, tuple)):
            raise M2KRError(
                f"the image of input {row} is of the type {type(image).__name__}; pass a picture of Pillow, an array "
                "that prepare_image made, or a list of these."
            )
        found.append(list(image or []))
    return texts, found


def _text(row: int, item: Pictured) -> str:
    """Return the text of an input; a picture may stand alone."""
    text = item.get("text") or "" if isinstance(item, Mapping) else item
    if not isinstance(text, str):
        raise M2KRError(
            f"input {row} is of the type {type(item).__name__}, or its text is of another: pass a text, or a mapping "
            "with text and image."
        )
    return text


def _document_tokens(model: PreFLMR, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    if model.document_tokenizer is None:
        raise M2KRError("this model was built without tokenizers: pass both to PreFLMR.")
    return model.document_tokenizer(texts, padding="max" if _padding_counts(model) else "longest")


def _padding_counts(model: PreFLMR) -> bool:
    """Whether padding has vectors of its own, as in the official code with a text encoder other than BERT.

    How long passages are padded then changes the scores, and only the official length repeats the official ones.
    """
    tokenizer = model.document_tokenizer
    return model.padding_mask == "official" and tokenizer is not None and tokenizer.pad_id != 0


def _add_document_pixels(
    features: Features,
    model: PreFLMR,
    pictures: list[list[Image.Image | Pixels]],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    if any(pictures):
        if not model.config.context_concat_output_from_vision_encoder:
            raise M2KRError(
                "a passage has a picture, and this model reads none of passages "
                "(context_concat_output_from_vision_encoder is false). Pass the text alone."
            )
        _add_pixels(features, model, pictures, device, dtype)


def _add_pixels(
    features: Features,
    model: PreFLMR,
    pictures: list[list[Image.Image | Pixels]],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Add the pictures of a batch, those of an input filled up with black ones to the most that one has."""
    import torch

    most = max(map(len, pictures))
    fill = np.zeros(model.pictures.pixels.shape, dtype=np.uint8)
    flat = [picture for own in pictures for picture in [*own, *[fill] * (most - len(own))]]
    pixels = model.pictures.pixels.pixels(flat, device, dtype)
    features["pixel_values"] = pixels.view(len(pictures), most, *pixels.shape[1:])
    if any(len(own) < most for own in pictures):
        rows = [[number < len(own) for number in range(most)] for own in pictures]
        features["picture_mask"] = torch.tensor(rows, device=device)


def _without_fill(model: PreFLMR, vectors: Embeddings, features: Features, *, text_first: bool) -> Embeddings:
    """Mask the vectors of pictures that only fill a batch up."""
    import torch

    mask = features.get("picture_mask")
    if mask is None:
        return vectors
    number, regions = mask.shape
    prefix = model.config.mapping_network_prefix_length
    concat = "query" if text_first else "context"
    tokens = features["input_ids"].shape[1] if getattr(model.config, f"{concat}_concat_output_from_text_encoder") else 0
    patches = (vectors.mask.shape[1] - tokens) // regions - prefix
    text = mask.new_ones(number, tokens)
    parts = [mask.repeat_interleave(prefix, dim=1), mask.repeat_interleave(patches, dim=1)]
    kept = torch.cat([text, *parts] if text_first else [*parts, text], dim=1)
    return vectors._replace(
        embeddings=vectors.embeddings.masked_fill(~kept[..., None], 0),
        mask=vectors.mask & kept,
    )


# --- all inputs -----------------------------------------------------------------------------------------------------


def encode_queries(model: PreFLMR, inputs: Sequence[Pictured], batch_size: int = 32) -> list[npt.NDArray[np.float32]]:
    """Return the vectors of queries.

    A query without a picture gets a black one where ``model.missing_image`` is "black": the official evaluation does
    so (examples/example_use_preflmr.py), and published figures on MS MARCO depend on it. The vision encoder sees it
    once a call. With "none" such a query has its text's vectors only.

    Args:
        model: in evaluation mode. It runs in torch's inference mode.
        inputs: texts (instruction, a space, question), or mappings with ``text`` and ``image``; see the module.
        batch_size: queries of a batch. The vectors do not depend on it beyond float noise (1e-5 in float32).

    Returns:
        For each query a float32 array ``(tokens_i, dim)`` of vectors of length 1, without masked ones.

    Raises:
        M2KRError: an input is not as the module says, or has a picture and the model reads none; ``batch_size`` is
            less than 1.
    """
    import torch

    _check_batch_size(batch_size)
    if not inputs:
        return []
    numbers = [_picture_number(item, model.pictures) for item in inputs]
    black = None
    if model.missing_image == "black" and reads_pictures(model) and not all(numbers):
        with torch.inference_mode():
            black = black_states(model)

    def run(rows: list[int]) -> list[npt.NDArray[np.float32]]:
        features = query_features(model, [inputs[row] for row in rows], device=model.device, dtype=model.dtype)
        return _arrays(query_vectors(model, features, black))

    # Sorted by the number of their pictures, so that few batches are filled up.
    return encode(run, numbers, batch_size)


def encode_documents(model: PreFLMR, inputs: Sequence[Pictured], batch_size: int = 32) -> list[npt.NDArray[np.float32]]:
    """Return the vectors of passages.

    Passages of like length go together and are filled up to the longest of them, not to 512 tokens as by the official
    indexer; no vector depends on it beyond float noise.

    Args:
        model: in evaluation mode. It runs in torch's inference mode.
        inputs: texts, or, for models that read passage images, mappings with ``text`` and ``image``; see the module.
        batch_size: a batch has as many tokens as this many passages of 128 tokens, filling included, so that batches
            of long and of short passages take like time and memory.

    Returns:
        For each passage a float32 array ``(tokens_i, dim)`` of vectors of length 1, without punctuation and padding.

    Raises:
        M2KRError: an input is not as the module says, or has a picture and the model reads none of passages;
            ``batch_size`` is less than 1.
    """
    _check_batch_size(batch_size)
    if not inputs:
        return []
    texts = [_text(row, item) for row, item in enumerate(inputs)]
    ids, attention = _document_tokens(model, texts)
    lengths = [ids.shape[1]] * len(ids) if _padding_counts(model) else attention.sum(dim=1).tolist()

    def run(rows: list[int]) -> list[npt.NDArray[np.float32]]:
        longest = max(lengths[row] for row in rows)
        features = Features(
            input_ids=ids[rows, :longest].to(model.device), attention_mask=attention[rows, :longest].to(model.device)
        )
        _, pictures = _split([inputs[row] for row in rows], model.pictures)
        _add_document_pixels(features, model, pictures, model.device, model.dtype)
        return _arrays(document_vectors(model, features))

    return encode(run, lengths, len(inputs), max_tokens=batch_size * _TYPICAL_TOKENS)


def _picture_number(item: Pictured, pictures: Pictures) -> int:
    image = item.get("image") if isinstance(item, Mapping) else None
    if image is None:
        return 0
    if isinstance(image, Image.Image):
        return pictures.number
    if isinstance(image, (list, tuple)) or (isinstance(image, np.ndarray) and image.ndim == 4):
        return len(image)
    return 1


def _arrays(vectors: Embeddings) -> list[npt.NDArray[np.float32]]:
    """Return the vectors that count, input by input. They travel from the device in one piece."""
    counts = vectors.mask.sum(dim=1).tolist()
    flat = as_array(vectors.embeddings[vectors.mask])
    return np.split(flat, np.cumsum(counts)[:-1])


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise M2KRError(f"batch_size is {batch_size}; it has to be 1 or more.")
