"""Encoders of mteb's registry, loaded by mteb and searched and scored here: ``--model mteb:NAME``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partialmethod
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from baselines.common.batching import as_array, check_batch_size, device_of
from baselines.common.checkpoints import check_tokenizers, count_parameters, quiet_loading
from baselines.common.model_folder import reporting_weights
from baselines.common.options import check_choice
from m2kr.errors import M2KRError, did_you_mean, first_line
from m2kr.export.mteb import mteb_module
from m2kr.retriever import Input

_Answer = Literal["yes", "no"]
_SEARCHED = ("dense",)
# Of mteb's model types. Late interaction is left out on purpose: mteb fills such vectors up with zeros, which then
# beat every token whose products are negative.


class MtebRetriever:
    """A dense encoder of mteb's registry, of texts, or of texts and pictures, behind the protocol of `m2kr.retriever`.

    It gets what it would get of mteb for a task of retrieval without a prompt of its own: batches of ``text`` and
    ``image``, told which are queries and which documents. Passages are stripped, as mteb does. An input with a picture
    and no text is its picture. How vectors are compared is what the metadata say, and is tried out on the model.

    Args:
        checkpoint: name in the registry, such as "intfloat/e5-base-v2".
        device: as torch names it.
        dtype: of the weights. Which it is, mteb's loader decides; another one is refused.
        instructions: "yes" for the task's instruction in front of each question, as exports to mteb have it unless
            they are made with --no-instructions. Default "no".
        trust_remote_code: "yes" to run the code that a model brings along in its repository. Default "no".

    Raises:
        M2KRError: mteb, or what the model needs, is not installed; the registry has no such model, or it cannot be
            loaded here; it is no dense encoder, or compares vectors in a way that no search here does.
    """

    vectors: Literal["single", "multi"] = "single"

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        instructions: str = "no",
        trust_remote_code: str = "no",
    ) -> None:
        check_choice("instructions", instructions, _Answer)
        check_choice("trust_remote_code", trust_remote_code, _Answer)
        if not checkpoint:
            raise M2KRError("mteb needs a model of its registry. Name it with --model mteb:NAME.")
        meta = _metadata(checkpoint)
        self.name = f"mteb:{meta.name}"
        self.reads = frozenset(meta.modalities) & {"text", "image"}
        if "text" not in self.reads:
            raise M2KRError(f"{self.name} reads only {', '.join(meta.modalities)}, and passages are texts.")
        self.reads_passage_images = "image" in self.reads
        self.reads_instructions = instructions == "yes"
        self._model = _load(meta, str(device_of(device)), trusted=trust_remote_code == "yes")
        parts = [self._model, *vars(self._model).values()]
        check_tokenizers(self.name, *parts)
        modules = [part for part in parts if isinstance(part, torch.nn.Module)][:1]
        _check_dtype(self.name, modules, dtype)
        self._normalise = _compared_by_cosine(self.name, self._model, meta)
        self._prompts = mteb_module("mteb.types").PromptType
        self._tasks: dict[tuple[str, ...], Any] = {}
        self.settings: dict[str, Any] = {
            "checkpoint": meta.name,
            "revision": meta.revision,
            "mteb": version("mteb"),
            "similarity": "cosine" if self._normalise else "dot",
            "parameters": sum(map(count_parameters, modules)) or meta.n_parameters,
        }

    def encode_query(self, inputs: Sequence[Input], batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Return the vectors of queries, float32 ``(inputs, dim)``, of length 1 where they are compared by cosine."""
        return self._encode(inputs, batch_size, self._prompts.query, "query", "2t")

    def encode_document(self, inputs: Sequence[Input], batch_size: int = 32) -> npt.NDArray[np.float32]:
        """Return the vectors of passages, as `encode_query` does those of queries."""
        stripped: list[Input] = [
            item.strip() if isinstance(item, str) else {**item, "text": (item.get("text") or "").strip()}
            for item in inputs
        ]
        return self._encode(stripped, batch_size, self._prompts.document, "body", "2it")

    def _encode(
        self, inputs: Sequence[Input], batch_size: int, prompt_type: Any, alias: str, target: str
    ) -> npt.NDArray[np.float32]:
        check_batch_size(batch_size)
        kinds: dict[tuple[str, ...], list[int]] = {}
        columns = [_columns(item) for item in inputs]
        for row, own in enumerate(columns):
            kinds.setdefault(tuple(own), []).append(row)
        found: list[Any] = [None] * len(inputs)
        for kind, rows in kinds.items():
            table = {name: [columns[row][name] for row in rows] for name in kind}
            if "text" in table:
                table[alias] = table["text"]  # by which some of mteb's models read it
            with _no_bars():
                vectors = self._model.encode(
                    DataLoader(_Inputs(table), batch_size=batch_size, collate_fn=_batch),
                    task_metadata=self._task(kind, target if "image" in kind else "2t"),
                    hf_split="test",
                    hf_subset="default",
                    prompt_type=prompt_type,
                    batch_size=batch_size,
                    show_progress_bar=False,
                )
            array = as_array(vectors) if isinstance(vectors, torch.Tensor) else np.asarray(vectors, dtype=np.float32)
            if array.ndim != 2 or len(array) != len(rows):
                raise M2KRError(f"{self.name} gave vectors of the shape {array.shape} for {len(rows)} inputs.")
            if self._normalise:
                array = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
            for row, vector in zip(rows, array, strict=True):
                found[row] = vector
        return np.stack(found).astype(np.float32, copy=False) if found else np.zeros((0, 1), dtype=np.float32)

    def _task(self, kind: tuple[str, ...], target: str) -> Any:
        """Return the metadata of a task whose queries are of a kind; mteb looks prompts up by them, and their class.

        ``target`` is what they look for: "2t" for texts, "2it" where the inputs are passages with pictures.
        """
        if (*kind, target) not in self._tasks:
            category = "".join(letter for name, letter in (("image", "i"), ("text", "t")) if name in kind) + target
            metadata = mteb_module("mteb").TaskMetadata(
                name="M2KR",
                description="Retrieval of passages for questions about pictures.",
                dataset={"path": "m2kr", "revision": "1"},
                type="Any2AnyRetrieval" if "image" in kind else "Retrieval",
                category=category,
                modalities=sorted({*kind, "text"}),
                eval_splits=["test"],
                eval_langs=["eng-Latn"],
                main_score="hit_rate_at_5",
            )
            base = mteb_module("mteb.abstasks.retrieval").AbsTaskRetrieval
            self._tasks[*kind, target] = type("M2KR", (base,), {"metadata": metadata})
        return self._tasks[*kind, target].metadata


@contextmanager
def _no_bars() -> Iterator[None]:
    """Show no bars of models that have one for every call, and do not ask whether they should."""
    from tqdm.std import tqdm

    bar: Any = tqdm
    original = bar.__init__
    bar.__init__ = partialmethod(original, disable=True)
    try:
        yield
    finally:
        bar.__init__ = original


class _Inputs(Dataset[dict[str, Any]]):
    """Columns of inputs, as mteb's encoders look at them: by ``features``, and batch by batch."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.features = columns
        self.column_names = list(columns)

    def __len__(self) -> int:
        return len(self.features[self.column_names[0]])

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: values[row] for name, values in self.features.items()}


def _batch(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _columns(item: Input) -> dict[str, Any]:
    """Return what there is of an input: "text", "image" or both."""
    if isinstance(item, str):
        return {"text": item}
    text, image = item.get("text") or "", item.get("image")
    if image is None:
        return {"text": text}
    return {"image": image, "text": text} if text else {"image": image}


def _metadata(name: str) -> Any:
    """Return what mteb's registry says of a model.

    Raises:
        M2KRError: there is none of that name, or it is no dense encoder, or only described there.
    """
    mteb = mteb_module("mteb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a former name; the result has the present one
        try:
            meta = mteb.get_model_meta(name)
        except KeyError as error:
            names = [str(known.name) for known in mteb.get_model_metas()]
            raise M2KRError(
                f"mteb {version('mteb')} has no model {name!r} in its registry.{did_you_mean(name, names)} A folder, "
                "or a model of the hub that mteb does not know, is named without 'mteb:'."
            ) from error
    if kinds := [kind for kind in meta.model_type if kind not in _SEARCHED]:
        remedy = " A folder or hub id without 'mteb:' is searched exactly." if kinds == ["late-interaction"] else ""
        raise M2KRError(
            f"mteb describes {meta.name} as {', '.join(kinds)}, and of its models only dense encoders are searched "
            f"here.{remedy}"
        )
    if meta.loader is None:
        raise M2KRError(f"mteb describes {meta.name} and has no code to load it. Name another model.")
    return meta


def _load(meta: Any, device: str, *, trusted: bool) -> Any:
    name = meta.name
    try:
        with quiet_loading(), _remote_code(allowed=trusted), reporting_weights() as weights:
            model = meta.load_model(device=device)
    except Exception as error:  # loaders raise all kinds
        here = ", ".join(
            f"{package} {version(package)}" for package in ("mteb", "transformers", "sentence-transformers")
        )
        remedy = f"It needs files of the hub or of its cache, and code that goes with {here}."
        reason = first_line(error)
        if isinstance(error, ImportError):
            reason = " ".join(str(error).split("\n")[:2])  # the second says how to install what is missing
            remedy = f"Installed are {here}."
        raise M2KRError(f"mteb could not load {name!r} ({reason}). {remedy}") from error
    weights.check(name)
    if not isinstance(model, mteb_module("mteb").EncoderProtocol):
        raise M2KRError(f"mteb loads {name} as {type(model).__name__}, which searches by itself. Name an encoder.")
    return model


@contextmanager
def _remote_code(*, allowed: bool) -> Iterator[None]:
    """Keep transformers from running code of a repository, as many of mteb's loaders ask it to."""
    from transformers import dynamic_module_utils

    original = dynamic_module_utils.get_cached_module_file

    def refused(*_: Any, **__: Any) -> Any:
        raise M2KRError("it brings code of its own, which is run only with --option trust_remote_code=yes")

    if not allowed:
        dynamic_module_utils.get_cached_module_file = refused
    try:
        yield
    finally:
        dynamic_module_utils.get_cached_module_file = original


def _check_dtype(name: str, modules: Sequence[torch.nn.Module], dtype: str) -> None:
    """Refuse to record another type than the weights have."""
    kinds = {parameter.dtype for module in modules for parameter in module.parameters()}
    found = {str(kind).removeprefix("torch.") for kind in kinds if kind.is_floating_point} or {"float32"}
    if found != {dtype}:
        held = " and ".join(sorted(found))
        remedy = f"Pass --dtype {held}." if held in ("float32", "float16", "bfloat16") else "It is not searched here."
        raise M2KRError(f"mteb loads {name.removeprefix('mteb:')} in {held}, not in {dtype}. {remedy}")


def _compared_by_cosine(name: str, model: Any, meta: Any) -> bool:
    """Return whether a model compares vectors by cosine, else by dot product, as found by comparing some.

    Raises:
        M2KRError: by neither, or not as its metadata say.
    """
    said = meta.similarity_fn_name and str(meta.similarity_fn_name.value)
    rng = np.random.default_rng(0)
    one, other = (torch.from_numpy(rng.normal(size=(4, 8)).astype(np.float32)) for _ in range(2))
    unit = torch.nn.functional.normalize
    known = {"dot": one @ other.T, "cosine": unit(one) @ unit(other).T}
    try:
        found = torch.as_tensor(model.similarity(one, other)).float().cpu()
        measured = [way for way, wanted in known.items() if torch.allclose(found, wanted, atol=1e-5)]
    except Exception:  # whatever a model that compares nothing of the kind raises
        measured = []
    if not measured or said not in (None, *measured):
        ways = f"by {measured[0]}" if measured else "by neither cosine nor dot product"
        declared = f", and its metadata say {said}" if said else ""
        raise M2KRError(
            f"{name} compares vectors {ways}{declared}: what is searched for here would not be what it is trained for. "
            "Name a model that is compared by cosine or dot product."
        )
    return measured == ["cosine"]
