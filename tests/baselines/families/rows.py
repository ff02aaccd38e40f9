"""The families of docs/retrievers.md: how each is loaded, and what is measured of it on a tiny random checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.util import SimilarityFunction

from baselines.sentence_transformer import SentenceTransformerRetriever
from m2kr.errors import M2KRError
from m2kr.search.exact import search
from tests.baselines.families import references
from tests.baselines.images import random_image

TEXTS = [
    "Which OWL lives here?",
    "The tower, which is tall, stands beside the river.",
    "a boat",
    "How old is the red bridge over the river near the old harbour?",
]
PASSAGES = ["An owl.", "The tower is tall: it was built in 1932!", "Boats are painted red every spring."]
INSTRUCTION = "Find the passage that answers."


@dataclass(frozen=True)
class Row:
    """A family.

    Attributes:
        family: what the table calls it.
        checkpoint: a key of `tests.baselines.families.checkpoints.MAKERS`.
        reference: what its authors compute; None for one that is refused.
        names: registered names that are loaded like this.
        options: of the retriever.
        refused: what the line says that refuses it.
    """

    family: str
    checkpoint: str
    reference: Callable[..., np.ndarray] | None = None
    names: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


ROWS = [
    Row("sentence-transformers, mean of tokens", "mean", references.mean, ("bge-base-en-v1.5", "all-minilm-l6-v2")),
    Row(
        "Qwen3-Embedding: last token, prompt for queries",
        "last-with-prompt",
        references.last_with_prompt,
        ("qwen3-embedding-0.6b",),
    ),
    Row("ColBERTv2 (Stanford)", "stanford", references.stanford, ("colbertv2",)),
    Row("PyLate", "pylate", references.pylate),
    Row("CLIP", "clip", references.clip, ("clip-vit-b-16", "clip-vit-b-32", "clip-vit-l-14")),
    Row("SigLIP2", "siglip2", references.siglip2, ("siglip2-base", "siglip2-so400m")),
    Row("SigLIP2 NaFlex", "siglip2-naflex", references.siglip2_naflex),
    Row(
        "GME (Qwen2-VL)",
        "gme",
        references.gme,
        ("gme-qwen2-vl-2b", "gme-qwen2-vl-7b"),
        {"template": "gme"},
    ),
    Row(
        "Qwen3-VL-Embedding",
        "qwen3-vl-embedding",
        references.qwen3_vl_embedding,
        ("qwen3-vl-embedding-2b", "qwen3-vl-embedding-8b"),
        {"template": "qwen3-vl-embedding"},
    ),
    Row("Qwen2.5-VL with a chat template (sentence-transformers)", "qwen2_5-vl", references.chat),
    Row("ColPali", "colpali", references.colpali, ("colpali",)),
    Row("ColQwen2", "colqwen2", references.colqwen2, ("colqwen2",)),
    Row("ColModernVBERT", "colmodernvbert", references.colmodernvbert, ("colmodernvbert",)),
    Row("BLIP-2 image-text retrieval", "blip2", refused=("Blip2ForImageTextRetrieval", "32")),
    Row("SparseEncoder", "sparse", refused=("sparse encoder",)),
    Row("CrossEncoder", "cross", refused=("reranker",)),
    Row("bare encoder without `pooling`", "bare", refused=("bare encoder", "--option pooling=")),
    Row("one half of DPR", "half", refused=("DPRContextEncoder", "--model dpr")),
    Row("generator (Qwen2-VL)", "generator", refused=("generator", "Qwen2VLForConditionalGeneration")),
    Row("adapter without its model (PEFT)", "adapter", refused=("adapter", "org/base")),
    Row("checkpoint of colpali-engine", "colpali-engine", refused=("colpali-engine (ColQwen2)", "converted")),
    Row("modules of its own code", "foreign", refused=("their_package.Module", "not run")),
    Row("model of its own code", "auto-map", refused=("auto_map", "not run")),
    Row(
        "tokenizer that its class does not follow",
        "marked",
        options={"pooling": "mean"},
        refused=("tokenizer.json", "PreTrainedTokenizerFast"),
    ),
]
"""The rows of the table, those that are measured before those that are refused."""


@dataclass(frozen=True)
class Measured:
    """What was measured of a family; differences are the largest between two numbers of vectors or scores.

    Attributes:
        refused: the line that refuses it, empty for one that loads.
        reads: what it reads.
        vectors: "single" or "multi".
        picture: by another picture beside the same text; None for one that reads none.
        text: by another text, beside the same picture where it reads pictures.
        reference: to what its authors compute.
        similarity: of scores, to the model's own similarity of the authors' vectors.
        batch: between batches of 1 and of 32.
        prompt: by another prompt, in queries.
        instruction: by the task's instruction, in queries.
    """

    refused: str = ""
    reads: str = ""
    vectors: str = ""
    picture: float | None = None
    text: float = 0.0
    reference: float = 0.0
    similarity: float = 0.0
    batch: float = 0.0
    prompt: float = 0.0
    instruction: float = 0.0


def measure(row: Row, folder: Path) -> Measured:
    """Return what is measured of a family on a tiny checkpoint."""
    try:
        retriever = SentenceTransformerRetriever(checkpoint=str(folder), **row.options)
    except M2KRError as error:
        return Measured(refused=str(error).replace(str(folder), "FOLDER"))
    assert row.reference is not None
    pictures = [random_image(seed, size) for seed, size in enumerate([(60, 90), (200, 70), (33, 32)])]
    reads_pictures = "image" in retriever.reads
    queries: list[Any] = list(TEXTS)
    if reads_pictures:
        queries += [{"text": text, "image": image} for text, image in zip(TEXTS, pictures, strict=False)]
        queries += [{"text": "", "image": image} for image in pictures]
    found = retriever.encode_query(queries)
    passages = retriever.encode_document(PASSAGES)
    with torch.no_grad():
        wanted = [_expected(row, folder, query) for query in queries]
        wanted_passages = [row.reference(folder, text, None, query=False) for text in PASSAGES]
    scores = _scores(found[: len(TEXTS)], passages)
    name = {"single": "cosine", "multi": "maxsim"}[retriever.vectors]
    similarity = SimilarityFunction.to_similarity_fn(name)(
        _as_tensors(wanted[: len(TEXTS)]), _as_tensors(wanted_passages)
    )
    other = [{"text": TEXTS[1], "image": pictures[0]}, {"text": TEXTS[0], "image": pictures[1]}, pictures[0]]
    beside = retriever.encode_query([{"text": TEXTS[0], "image": pictures[0]}, *other[:2]]) if reads_pictures else found
    told = SentenceTransformerRetriever(
        checkpoint=str(folder), **{**row.options, "prompt": "Find it: ", "instructions": "yes"}
    )
    assert told.reads_instructions
    assert not retriever.reads_instructions
    assert _largest(told.encode_document(PASSAGES), passages) < 1e-6
    with torch.no_grad():
        prompted = [row.reference(folder, text, None, query=True, prompt="Find it: ") for text in TEXTS]
    found_prompted = told.encode_query(TEXTS)
    many = [*queries[len(TEXTS) :], *TEXTS * 8][:32]
    return Measured(
        reads=" and ".join(sorted(retriever.reads)),
        vectors=retriever.vectors,
        picture=_apart(beside[0], beside[2]) if reads_pictures else None,
        text=_apart(beside[0], beside[1]),
        reference=max(_largest(found, wanted), _largest(passages, wanted_passages), _largest(found_prompted, prompted)),
        similarity=float(np.abs(scores - np.asarray(similarity)).max()),
        batch=_largest(retriever.encode_query(many, batch_size=1), retriever.encode_query(many, batch_size=32)),
        prompt=min(_apart(one, two) for one, two in zip(found, found_prompted, strict=False)),
        instruction=_apart(found[0], retriever.encode_query([f"{INSTRUCTION} {TEXTS[0]}"])[0]),
    )


def _expected(row: Row, folder: Path, query: Any) -> np.ndarray:
    """Return the vectors that a query has by the authors' code, with both parts of models that read them apart."""
    assert row.reference is not None
    text, image = (query, None) if isinstance(query, str) else (query["text"], query["image"])
    if row.checkpoint in ("gme", "qwen3-vl-embedding", "qwen2_5-vl") or image is None:
        return row.reference(folder, text, image, query=True)
    parts = [row.reference(folder, None, image, query=True)]
    parts += [row.reference(folder, text, None, query=True)] if text else []
    return np.concatenate(parts) if parts[0].ndim == 2 else np.sum(parts, axis=0)


def _as_tensors(vectors: Sequence[np.ndarray]) -> Any:
    tensors = [torch.from_numpy(np.asarray(vector)) for vector in vectors]
    return tensors if tensors[0].ndim == 2 else torch.stack(tensors)


def _scores(queries: Any, passages: Any) -> np.ndarray:
    """Return our scores as a table, queries by passages."""
    scores, rows = search(queries, passages, len(PASSAGES))
    table = np.zeros(scores.shape, dtype=np.float32)
    np.put_along_axis(table, np.asarray(rows), np.asarray(scores), axis=1)
    return table


def _largest(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Return the largest difference of any number; vectors of other shapes are infinitely different."""
    return max(_apart(one, two) for one, two in zip(found, wanted, strict=True))


def _apart(one: np.ndarray, two: np.ndarray) -> float:
    one, two = np.asarray(one), np.asarray(two)
    return float(np.abs(one - two).max()) if one.shape == two.shape else float("inf")
