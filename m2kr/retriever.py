"""The Retriever protocol and its registry.

A retriever has the verbs of sentence-transformers, so that any of its models nearly is one already. It is found
through an entry point of the group ``m2kr.retrievers``: a package of yours that declares

    [project.entry-points."m2kr.retrievers"]
    my-model = "my_package:MyRetriever"

is evaluated by ``python -m m2kr.evaluate --model my-model``. The entry point is called with ``checkpoint``, ``device``
and ``dtype`` by keyword, and with what the user gives as ``--option NAME=VALUE``, which are strings. A file
``models.toml`` beside the package's ``__init__.py`` describes its models, and can name further ones
(`m2kr.common.model_records`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, runtime_checkable

from m2kr.common.registry import Registry
from m2kr.errors import M2KRError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image


class TextAndImage(TypedDict, total=False):
    """An input with a picture: in RGB, or the uint8 array that the retriever's own ``prepare_image`` made of one."""

    text: str
    image: Image | npt.NDArray[np.uint8]


Input: TypeAlias = str | TextAndImage
"""What is encoded: a text, or a text and a picture. A query of a retriever that reads images may have none."""


@runtime_checkable
class Retriever(Protocol):
    """A model that turns queries and passages into vectors.

    Inputs come in the order of their table, thousands at a time: grouping texts of like length, to save padding, is the
    retriever's own affair. What it returns is in the order of the inputs, and depends on neither ``batch_size`` nor
    the other inputs, beyond float noise.

    A retriever that reads images may have one attribute more, ``prepare_image``: a callable that takes a picture in RGB
    and returns what the model needs of it as a uint8 array, of shape (height, width, 3) as a rule, such as after
    resizing and cropping. It is called in the processes that decode pictures, which then have less to send, and the
    model's ``encode_query`` gets the array as the input's image. It still has to take pictures themselves, with equal
    results. The callable is pickled, so it has to be small: a function, or a method of an object of its own that holds
    numbers only. A method of the retriever would take the model with it, and is refused for its size.

    One that encodes passages with pictures says so by ``reads_passage_images``, true. Where passages have pictures, its
    ``encode_document`` then gets them as ``{"text": ..., "image": ...}``, and those without one as texts, all in one
    call; their pictures too are what ``prepare_image`` made. Without the attribute passages are texts, and the result
    says that their pictures were not read.

    One that reads instructions may have ``instruction_end``: what stands for each ":" of an instruction, where that is
    not ":" itself. Instructions end with one.

    Attributes:
        name: what it is called in results.
        reads: the kinds of input it uses, of "text" and "image". A task with a kind it does not read is refused
            unless the user asks for the image to be ignored.
        vectors: "multi" for late interaction (scored by MaxSim), "single" for one vector (scored by dot product).
        reads_instructions: whether queries come with the task's instruction in front of the question.
        settings: what else its output depends on (checkpoint, dtype, ...); kept in the result file.
    """

    name: str
    reads: frozenset[str]
    vectors: Literal["single", "multi"]
    reads_instructions: bool
    settings: dict[str, Any]

    def encode_query(self, inputs: Sequence[Input], batch_size: int = 32) -> Any:
        """Return a list of (tokens_i, dim) float arrays if ``vectors`` is "multi", else one (n, dim) array."""

    def encode_document(self, inputs: Sequence[Input], batch_size: int = 32) -> Any:
        """Return the same for passages: texts, and with ``reads_passage_images`` texts with pictures among them."""


@runtime_checkable
class SparseRetriever(Protocol):
    """A retriever without vectors (BM25): it indexes texts and ranks them itself.

    Attributes are those of `Retriever`, without ``vectors``.
    """

    name: str
    reads: frozenset[str]
    reads_instructions: bool
    settings: dict[str, Any]

    def index(self, passages: Sequence[str]) -> None:
        """Take in the passages, replacing those of an earlier call."""

    def rank(self, queries: Sequence[str], k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return scores and row numbers of the best passages, each of shape (queries, min(k, passages)).

        Best first; equal scores by row, the lower first.
        """


def reads_passage_images(model: object) -> bool:
    """Return whether a retriever encodes passages with pictures: its optional attribute of this name."""
    return bool(getattr(model, "reads_passage_images", False))


def instruction_end(model: object) -> str:
    """Return what stands for each ":" of an instruction in the texts that a retriever is given."""
    return str(getattr(model, "instruction_end", ":"))


REGISTRY = Registry("m2kr.retrievers", "retriever", "sentence-transformer", "A sentence-transformers model")
"""Finds retrievers by name."""


def get_retriever(
    name: str,
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    options: Mapping[str, str] | None = None,
) -> Retriever | SparseRetriever:
    """Return the retriever called ``name``.

    A name that is not registered but is a folder, or has the form ``org/model``, is taken for the checkpoint of a
    sentence-transformers model; ``mteb:NAME`` for a model of mteb's registry.

    Args:
        name: registered name, folder or hub id, or ``FILE.py:NAME`` for code of one's own.
        checkpoint: folder or hub id to load instead of the retriever's own.
        device: as torch names it.
        dtype: "float32", "float16" or "bfloat16".
        options: further keyword arguments of its entry point; kept in its ``settings`` under "options".

    Raises:
        M2KRError: there is no such retriever (with the closest name there is), it does not have such an option, or it
            cannot be loaded.
    """
    options = REGISTRY.with_preset(name, options)
    retriever: Retriever | SparseRetriever = REGISTRY.make(
        name, (Retriever, SparseRetriever), checkpoint=checkpoint, device=device, dtype=dtype, options=options
    )
    if isinstance(retriever, Retriever) and retriever.vectors not in ("single", "multi"):
        raise M2KRError(f"{retriever.name}: its vectors is {retriever.vectors!r} and has to be 'single' or 'multi'.")
    if options:
        retriever.settings = {**retriever.settings, "options": dict(options)}
    return retriever
