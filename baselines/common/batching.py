"""Batches of like length, types and devices, for every retriever and reader that runs a torch model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from m2kr.errors import M2KRError, first_line
from m2kr.retriever import Input

_T = TypeVar("_T")

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def dtype_of(name: str) -> torch.dtype:
    """Return the torch type called "float32", "float16" or "bfloat16".

    Raises:
        M2KRError: the name is none of these.
    """
    if name not in _DTYPES:
        raise M2KRError(f"dtype {name!r} is not known. Choose one of {', '.join(_DTYPES)}.")
    return _DTYPES[name]


def device_of(name: str) -> torch.device:
    """Return a torch device on which something can be placed.

    Raises:
        M2KRError: there is no such device here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise M2KRError(f"device {name!r} cannot be used: {first_line(error)}") from error


def as_array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    """Return a tensor's values as float32, which holds every value of the shorter types (NumPy has no bfloat16)."""
    array: npt.NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array


def check_batch_size(batch_size: int) -> None:
    """Refuse batches without room for one input, with an M2KRError."""
    if batch_size < 1:
        raise M2KRError(f"batch_size is {batch_size}; it has to be 1 or more.")


def batches(lengths: Sequence[int], batch_size: int, max_tokens: int | None = None) -> list[list[int]]:
    """Return the rows 0 to len(lengths) - 1 in batches of like length, so that little is padding.

    Longest first: a batch that is too large for the device fails at once, not after an hour. Equal lengths stay in
    order.

    Args:
        lengths: tokens of every input.
        batch_size: inputs of a batch, at most.
        max_tokens: tokens of a batch with its padding, at most; an input longer than that is a batch of its own.

    Raises:
        M2KRError: ``batch_size`` is less than 1.
    """
    check_batch_size(batch_size)
    found: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        full = not found or len(found[-1]) == batch_size
        if full or (max_tokens is not None and longest * (len(found[-1]) + 1) > max_tokens):
            found.append([])
            longest = lengths[row]
        found[-1].append(row)
    return found


def token_counts(tokenizer: Any, texts: Sequence[str], most: int | None) -> list[int] | None:
    """Return how many tokens each text has, special ones aside, but ``most`` at most.

    Args:
        tokenizer: of transformers. Of one without a backend of the library tokenizers nothing is known: None.
        texts: what is counted.
        most: what the model reads; None for no limit.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    backend.no_truncation()  # transformers sets both anew at each call
    backend.no_padding()
    return [min(len(found), most or len(found)) for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


def encode(
    run: Callable[[list[int]], Iterable[_T]],
    lengths: Sequence[int],
    batch_size: int,
    *,
    max_tokens: int | None = None,
) -> list[_T]:
    """Return one result for every input, in the inputs' order, whatever the batches were.

    Args:
        run: gets the rows of a batch and returns their results in that order. It runs in torch's inference mode.
        lengths: tokens of every input.
        batch_size: inputs of a batch, at most.
        max_tokens: see `batches`.
    """
    results: list[Any] = [None] * len(lengths)
    with torch.inference_mode():
        for rows in batches(lengths, batch_size, max_tokens):
            for row, result in zip(rows, run(rows), strict=True):
                results[row] = result
    return results


def padded(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids, padded on the right to the longest, and the mask of the real ones.

    Returns:
        Two int64 tensors of shape (sequences, longest); the mask is 1 at real tokens.
    """
    ids = np.full((len(sequences), max(map(len, sequences), default=0)), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def encode_vectors(
    run: Callable[[list[int]], torch.Tensor], lengths: Sequence[int], batch_size: int, dim: int
) -> npt.NDArray[np.float32]:
    """Return one vector for every input, float32 ``(inputs, dim)``, in the inputs' order; arguments as in `encode`."""
    rows = encode(lambda batch: as_array(run(batch)), lengths, batch_size)
    return np.stack(rows) if rows else np.zeros((0, dim), dtype=np.float32)


def encode_texts(
    run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    tokenizer: Any,
    texts: Sequence[str],
    batch_size: int,
    *,
    max_length: int,
    dim: int,
    device: torch.device,
) -> npt.NDArray[np.float32]:
    """Return one vector for every text, float32 ``(texts, dim)``; texts of like length go together.

    Args:
        run: gets the token ids and the mask of a batch, `padded`, and returns its vectors ``(batch, dim)``.
        tokenizer: of transformers.
        texts: what is encoded, cut to ``max_length`` tokens.
        batch_size: texts of a batch, at most.
        max_length: tokens of a text, at most.
        dim: numbers of a vector.
        device: where ids and mask go.
    """
    tokens = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"] if texts else []

    def run_rows(rows: list[int]) -> torch.Tensor:
        return run(*padded([tokens[row] for row in rows], tokenizer.pad_token_id, device))

    return encode_vectors(run_rows, [len(ids) for ids in tokens], batch_size, dim)


def texts_of(inputs: Sequence[Input], name: str) -> list[str]:
    """Return the texts of inputs that have no pictures.

    Raises:
        M2KRError: one has a picture, which the model called ``name`` does not read.
    """
    texts = []
    for row, item in enumerate(inputs):
        if not isinstance(item, str) and item.get("image") is not None:
            raise M2KRError(f"input {row} has a picture, and {name} reads only text here. Pass the text alone.")
        texts.append(item if isinstance(item, str) else item.get("text") or "")
    return texts
