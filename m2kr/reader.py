"""The Reader protocol, for models that answer questions from passages, and its registry.

A reader answers a question about a picture, with or without passages. It is found as a retriever is (see
`m2kr.retriever`), through an entry point of the group ``m2kr.readers``: a package of yours that declares

    [project.entry-points."m2kr.readers"]
    my-reader = "my_package:MyReader"

is run by ``python -m m2kr.answer --reader my-reader``. The entry point is called with ``checkpoint``, ``device`` and
``dtype`` by keyword, and with what the user gives as ``--option NAME=VALUE``, which are strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from m2kr.common.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ReaderInput:
    """What a reader answers.

    Attributes:
        question: in the words of the data set; may be empty where the picture alone asks.
        passages: texts to answer from, best first; none without retrieval.
        image: in RGB; None for a reader that reads no images.
    """

    question: str
    passages: tuple[str, ...] = ()
    image: Image | None = None


class Answer(NamedTuple):
    """What a reader says.

    Attributes:
        text: the answer alone, stripped; may be empty.
        log_probability: natural logarithm of its probability, given what was asked; at most 0.
    """

    text: str
    log_probability: float


@runtime_checkable
class Reader(Protocol):
    """A model that answers questions.

    A reader words its prompt and cuts passages that are too long as it likes; both stand in its ``settings``.
    The answers are in the order of what was asked. Answering the same list again, with the same ``batch_size``, gives
    the same answers: nothing is drawn.

    Attributes:
        name: what it is called in results.
        reads: the kinds of input it uses, of "text" and "image".
        settings: what else its answers depend on (checkpoint, prompt, lengths, ...); kept in the result file.
    """

    name: str
    reads: frozenset[str]
    settings: dict[str, Any]

    def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
        """Return one answer for each, ``batch_size`` of them at a time."""


REGISTRY = Registry("m2kr.readers", "reader", "image-text-to-text", "An image-text-to-text model of transformers")
"""Finds readers by name."""


def get_reader(
    name: str,
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    options: Mapping[str, str] | None = None,
) -> Reader:
    """Return the reader called ``name``.

    A name that is not registered but is a folder, or has the form ``org/model``, is taken for the checkpoint of an
    image-text-to-text model of transformers.

    Args:
        name: registered name, folder or hub id, or ``FILE.py:NAME`` for code of one's own.
        checkpoint: folder or hub id to load instead of the reader's own.
        device: as torch names it.
        dtype: "float32", "float16" or "bfloat16".
        options: further keyword arguments of its entry point.

    Raises:
        M2KRError: there is no such reader (with the closest name there is), it does not have such an option, or it
            cannot be loaded.
    """
    options = REGISTRY.with_preset(name, options)
    reader: Reader = REGISTRY.make(name, (Reader,), checkpoint=checkpoint, device=device, dtype=dtype, options=options)
    return reader
