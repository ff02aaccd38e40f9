"""Evaluation by mteb: tasks of an export (`m2kr.export`), and retrievers that search with `m2kr.search`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import finalize

from m2kr.common.progress import progress
from m2kr.errors import M2KRError
from m2kr.tasks import Task, get_task

if TYPE_CHECKING:
    from PIL.Image import Image

    from m2kr.retriever import Retriever, SparseRetriever
    from m2kr.search.store import EmbeddingStore

PAPER = "https://aclanthology.org/2024.acl-long.289/"


def mteb_module(module: str) -> Any:
    """Return a module of mteb, whose import takes seconds.

    Raises:
        M2KRError: mteb is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise M2KRError(
            f"{module} cannot be imported ({error}). Install the package with: python -m pip install 'mteb>=2.26'"
        ) from error


def mteb_name(task: Task) -> str:
    """Return what a task is called in mteb, which has an OKVQA and others of its own, over other passages."""
    return f"M2KR{task.key}"


def model_name(name: str) -> str:
    """Return what a model is called in mteb: owner/name."""
    return name if name.count("/") == 1 else f"m2kr/{name.replace('/', '--')}"


def dataset_revision(dataset: str, *, pictured: bool, without: Sequence[str] = ()) -> str:
    """Return a revision for mteb: the fingerprint of the tables, and what differs from them.

    Args:
        dataset: the fingerprint.
        pictured: whether the pictures of passages are read.
        without: what queries have in the tables and not in the export: "images", "instructions".
    """
    return "-".join([dataset, *(f"no-{what}" for what in without), *(["it2it"] if pictured else [])])


def main_score(task: Task) -> str:
    """Return mteb's name of the measure that ranks a task."""
    return (task.metrics or ("Recall@10",))[0].replace("Recall@", "hit_rate_at_")


def mteb_task(folder: str | Path, task: str | Task, *, ignore_images: bool = False) -> Any:
    """Return a task of an export to mteb as an ``AbsTaskRetrieval``, called ``M2KR<TASK>``.

    Where passages were exported with pictures, its category is ``it2it``. mteb's own models cannot encode passages of
    which some have a picture and some have none: they are refused, and `search_model` does it.

    mteb's ``hit_rate_at_K`` is what M2KR calls Recall@K. mteb rounds it to 5 digits; this task does not. Ties are
    ordered by mteb as here: by id, the larger first. The dataset's revision is the fingerprint of its tables, with what
    the export leaves out of them, so that scores of different builds and exports do not meet in mteb's cache.

    mteb 2.26 leaves out, with no more than a line in its log, what a model's metadata does not name. So the task's
    ``evaluate`` raises an M2KRError where queries have images and the metadata name text only, as those of most models
    of sentence-transformers do that mteb does not know.

    Args:
        folder: what ``python -m m2kr.export --to mteb`` wrote.
        task: its key.
        ignore_images: let such models do the task without the images.

    Raises:
        M2KRError: mteb is not installed, or the folder is no such export or lacks the task.
    """
    from m2kr.export.files import MANIFEST, open_folder

    folder, task = Path(folder), get_task(task)
    if not (folder / MANIFEST).is_file():
        raise M2KRError(f"{folder} holds no export. Make one with python -m m2kr.export --to mteb --out {folder}.")
    every = open_folder(folder, "mteb")["parts"].values()
    parts = [part for part in every if part["task"] == task.key]
    if not parts:
        there = ", ".join(dict.fromkeys(part["task"] for part in every)) or "nothing"
        raise M2KRError(f"{folder} has no {task.key}; it has {there}. Export it with python -m m2kr.export --to mteb.")
    pictured = [{**part, "pictures of passages": bool(part.get("passage_images"))} for part in parts]
    for name in ("images", "instructions", "dataset", "pictures of passages"):
        if len({part[name] for part in pictured}) > 1:
            raise M2KRError(f"the splits of {task.key} in {folder} differ in {name}. Export them again, all alike.")
    images, found = parts[0]["images"], bool(parts[0].get("passage_images"))
    unpictured = sum(part["passages"] - part.get("passage_images", 0) for part in parts) if found else 0
    texts = parts[0]["instructions"] or task.kind != "I2T"
    has = {"images": "I" in task.kind.partition("2")[0], "instructions": bool(task.instructions)}
    without = [what for what, there in has.items() if there and not parts[0][what]]
    retrieval = mteb_module("mteb.abstasks.retrieval").AbsTaskRetrieval
    metadata = mteb_module("mteb.abstasks.task_metadata").TaskMetadata(
        name=mteb_name(task),
        description=task.description,
        reference=PAPER,
        dataset={
            "path": str(folder.resolve()),
            "revision": dataset_revision(parts[0]["dataset"], pictured=found, without=without),
        },
        type="Any2AnyRetrieval" if images or found else "Retrieval",
        category=("i" if images else "") + ("t" if texts else "") + ("2it" if found else "2t"),
        modalities=["image", "text"] if images or found else ["text"],
        eval_splits=[part["split"] for part in parts],
        eval_langs={task.key: ["eng-Latn"]},
        main_score=main_score(task),
        bibtex_citation=task.citation,
    )

    def evaluate(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        meta, does = getattr(model, "mteb_model_meta", None), "asks with" if images else "finds"
        called, reads = getattr(meta, "name", type(model).__name__), sorted(getattr(meta, "modalities", None) or ())
        if (images or found) and not ignore_images and "image" not in reads and not isinstance(model, _SearchModel):
            raise M2KRError(
                f"{metadata.name} {does} images, and mteb's metadata of {called} names only "
                f"{', '.join(reads) or 'nothing'}: mteb would leave the images out. If the model reads them, give it "
                'metadata with modalities=["image", "text"]; else pass ignore_images=True to mteb_task.'
            )
        if unpictured and not isinstance(model, _SearchModel):
            raise M2KRError(
                f"{unpictured:,} passages of {metadata.name} have no picture and the others have, which mteb's models "
                "do not encode together. Pass the model as m2kr.export.search_model, or export with "
                "--ignore-passage-images."
            )
        return retrieval.evaluate(self, model, *arguments, **options)

    parts_of_class = {"metadata": metadata, "task_specific_scores": _unrounded_hit_rates, "evaluate": evaluate}
    return type(metadata.name, (retrieval,), parts_of_class)()


def _unrounded_hit_rates(self: Any, scores: dict[str, dict[str, float]], *_: Any, **__: Any) -> dict[str, float]:
    """Return the hit rates of `scores`, query -> measure -> value, in place of those mteb rounds."""
    return {
        f"hit_rate_at_{k}": sum(values[f"success_{k}"] for values in scores.values()) / len(scores)
        for k in self.k_values
    }


def search_model(
    retriever: Retriever | SparseRetriever,
    *,
    device: str = "cpu",
    ignore_images: bool = False,
    ignore_passage_images: bool = False,
) -> Any:
    """Return a retriever as mteb's ``SearchProtocol``, searching with `m2kr.search`: exact, ties by passage id.

    ``mteb.evaluate(search_model(retriever), mteb_task(folder, "OKVQA"))`` gives the scores of `m2kr.evaluate`. A
    retriever that reads no instructions is given the column ``question``, where there is one, instead of ``text``.

    Args:
        retriever: what to evaluate.
        device: where torch searches.
        ignore_images: let a retriever that reads no images do an image task without them.
        ignore_passage_images: let a retriever do without pictures of passages, as one that reads none of them has to.

    Raises:
        M2KRError: mteb is not installed.
    """
    from m2kr.common.files import digest

    vectors = getattr(retriever, "vectors", None)
    meta = mteb_module("mteb.models.model_meta").ModelMeta.create_empty(
        overwrites={
            "name": model_name(retriever.name),
            "revision": digest(retriever.settings, ignore_images, *([True] if ignore_passage_images else [])),
            "modalities": sorted(retriever.reads - ({"image"} if ignore_images else set())),
            "model_type": [{"multi": "late-interaction", "single": "dense"}.get(str(vectors), "sparse")],
            "use_instructions": retriever.reads_instructions,
        }
    )
    return _SearchModel(retriever, meta, device, ignore_images, ignore_passage_images)


class _SearchModel:
    """See `search_model`. Vectors lie in a temporary folder, which goes when the object does."""

    def __init__(
        self, retriever: Any, meta: Any, device: str, ignore_images: bool, ignore_passage_images: bool
    ) -> None:
        from m2kr.retriever import Retriever

        self.mteb_model_meta = meta
        self._ranks_itself = not isinstance(retriever, Retriever)
        self._retriever = retriever
        self._device = device
        self._ignore_images = ignore_images
        self._ignore_passage_images = ignore_passage_images
        self._ids: list[str] = []
        self._folder = Path(mkdtemp(prefix="m2kr-"))
        finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def index(self, corpus: Any, *, task_metadata: Any, encode_kwargs: Any = None, **_: Any) -> None:
        """Take in the passages: a dataset with ``id``, ``text`` and perhaps ``title`` and ``image``."""
        from m2kr.retriever import reads_passage_images

        if "text" not in corpus.column_names:
            raise M2KRError(f"the passages of {task_metadata.name} are not texts, and retrievers here read no others.")
        pictured = "image" in corpus.column_names and not self._ignore_passage_images
        if pictured and not reads_passage_images(self._retriever):
            raise M2KRError(
                f"the passages of {task_metadata.name} have images, and {self._retriever.name} reads only their texts. "
                "Pass ignore_passage_images=True to search_model to evaluate it without them."
            )
        reads, category = self._retriever.reads, getattr(task_metadata, "category", None) or "it2t"
        asks_with_images = "image" in task_metadata.modalities and "i" in category.partition("2")[0]
        if asks_with_images and "image" not in reads and not self._ignore_images:
            raise M2KRError(
                f"{task_metadata.name} asks with images and {self._retriever.name} reads only "
                f"{', '.join(sorted(reads))}. Pass ignore_images=True to search_model to evaluate it without them."
            )
        ids, texts = list(corpus["id"]), list(corpus["text"])
        if "title" in corpus.column_names:
            texts = [f"{title or ''} {text}".strip() for title, text in zip(corpus["title"], texts, strict=True)]
        # As in m2kr.evaluate: the search prefers lower rows, so the larger ids come first.
        order = sorted(range(len(ids)), key=ids.__getitem__, reverse=True)
        self._ids = [ids[row] for row in order]
        texts = [texts[row] for row in order]
        if self._ranks_itself:
            self._retriever.index(texts)
            return
        inputs: Sequence[Any] = _Pictured(texts, corpus.select(order), "passage") if pictured else texts
        chunk = 256 if pictured else 1024
        self._passages = self._encoded("passages", self._retriever.encode_document, inputs, chunk, encode_kwargs)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        top_k: int,
        top_ranked: Any = None,
        encode_kwargs: Any = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Return query id -> passage id -> score, the best ``top_k`` of all passages."""
        from m2kr.dataset import query_text
        from m2kr.retriever import instruction_end
        from m2kr.search.exact import search

        if top_ranked is not None:
            raise M2KRError(f"{task_metadata.name} ranks passages that were found before; search_model ranks all.")
        columns = queries.column_names
        instructed = self._retriever.reads_instructions or "question" not in columns
        texts = list(queries["text" if instructed else "question"])
        if instructed and "question" in columns and (end := instruction_end(self._retriever)) != ":":
            questions = [question or "" for question in queries["question"]]
            texts = [query_text(text.removesuffix(own), own, end) for text, own in zip(texts, questions, strict=True)]
        inputs: Sequence[Any] = texts
        if "image" in columns and "image" in self._retriever.reads and not self._ignore_images:
            inputs = _Pictured(texts, queries, "query")
        if self._ranks_itself:
            scores, rows = self._retriever.rank(texts, top_k)
        else:
            chunk = 1024 if inputs is texts else 256
            vectors = self._encoded("queries", self._retriever.encode_query, inputs, chunk, encode_kwargs)
            scores, rows = search(vectors, self._passages, top_k, device=self._device)
        return {
            query: {self._ids[row]: value for row, value in zip(found, values, strict=True)}
            for query, found, values in zip(queries["id"], rows.tolist(), scores.tolist(), strict=True)
        }

    def _encoded(self, name: str, encode: Any, inputs: Sequence[Any], chunk: int, options: Any) -> EmbeddingStore:
        from m2kr.search.store import EmbeddingStore

        store = EmbeddingStore(self._folder / name, uuid4().hex, kind=self._retriever.vectors)
        batch_size = (options or {}).get("batch_size", 32)
        with progress(len(inputs), f"encode {name}", unit="inputs") as bar:
            for first in range(0, len(inputs), chunk):
                some = inputs[first : first + chunk]
                store.append(encode(some, batch_size=batch_size))
                bar.update(len(some))
        return store


class _Pictured(Sequence[Any]):
    """Texts with the pictures of a column of mteb's queries or passages, decoded as they are asked for.

    A passage may have none, and is its text then.

    By `m2kr.images`, as for `m2kr.evaluate`: `datasets` turns pictures by their EXIF orientation, the benchmark's own
    code does not.
    """

    def __init__(self, texts: list[str], rows: Any, kind: str) -> None:
        from datasets import Image

        self._texts = texts
        self._kind = kind
        self._ids = rows["id"]
        self._images = rows.select_columns(["image"]).cast_column("image", Image(decode=False))

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, rows: Any) -> Any:
        if not isinstance(rows, slice):
            return self[rows : rows + 1][0]
        named = zip(self._ids[rows], self._texts[rows], self._images[rows]["image"], strict=True)
        return [
            text if image is None and self._kind == "passage" else {"text": text, "image": self._picture(name, image)}
            for name, text, image in named
        ]

    def _picture(self, name: str, image: dict[str, Any] | None) -> Image:
        from m2kr.images.decode import ImageFile, decode

        content = (image or {}).get("bytes")
        if content is None:
            raise M2KRError(f"{self._kind} {name} has no image.")
        return decode(ImageFile(f"the image of {self._kind} {name}", len(content), lambda: content))
