"""PreFLMR as a module of sentence-transformers, for its `MultiVectorEncoder`: encoding, training, saving, the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modality_types import Modality, PairInput, SingleInput
from sentence_transformers.base.modules import InputModule

from baselines.common.batching import device_of
from baselines.preflmr.checkpoint import SETTINGS, Settings
from baselines.preflmr.inputs import Features, Pictured
from baselines.preflmr.preflmr import PreFLMR
from m2kr.errors import M2KRError


class PreFLMRModule(InputModule):
    """A `PreFLMR` that speaks sentence-transformers.

    Inputs are texts, or mappings with ``text`` and ``image``. All inputs of a batch are of one of the two kinds:
    sentence-transformers refuses mixed batches. A query without a picture goes into a batch with pictures as a
    mapping whose ``image`` is None.

    ``preprocess`` needs the task, "query" or "document", which ``encode_query``, ``encode_document`` and the data
    collator of `MultiVectorEncoderTrainer` give. ``forward`` keeps the gradients; which parameters are trained is
    their ``requires_grad``.

    Args:
        model: the model; it stays the attribute ``model``.
    """

    config_file_name = SETTINGS
    config_keys = [field.name for field in fields(Settings)]  # noqa: RUF012
    forward_kwargs = {"task"}  # noqa: RUF012 - both as the base class has them
    save_in_root = True

    def __init__(self, model: PreFLMR) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model

    @property
    def modalities(self) -> list[Modality]:
        """Kinds of input: texts, and texts with images where the model reads those.

        An image alone is not among them, since sentence-transformers would then take a text that is a path or an
        address for one; it is given with an empty text.
        """
        config = self.model.config
        images = self.model.reads_pictures or config.context_concat_output_from_vision_encoder
        return ["text", ("image", "text")] if images else ["text"]

    @property
    def instruction_end(self) -> str:
        """See `PreFLMR.instruction_end`."""
        return self.model.instruction_end

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a passage."""
        return self.model.document_tokenizer.maxlen

    def get_embedding_dimension(self) -> int:
        """Return the size of a vector."""
        return self.model.config.dim

    def preprocess(
        self,
        inputs: Sequence[SingleInput | PairInput],
        prompt: str | None = None,
        task: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Return the tensors of a batch, on the CPU; see `Features`.

        Args:
            inputs: texts, or mappings with ``text`` and ``image``.
            prompt: put in front of each text.
            task: "query" or "document".

        Raises:
            M2KRError: no task is given, or the model cannot read an input.
        """
        features = self.model.query_features if _is_query(task) else self.model.document_features
        given = cast("Sequence[Pictured]", inputs)
        cpu = torch.device("cpu")
        return dict(features(given, device=cpu, dtype=torch.float32, prompt=prompt or ""))

    def forward(self, features: dict[str, Any], task: str | None = None, **_: Any) -> dict[str, Any]:
        """Return the features with ``token_embeddings``, and ``attention_mask`` as late interaction has it.

        The features that come in are not changed, so that they can be used again (cached losses do so).

        Args:
            features: of `preprocess`.
            task: "query" or "document".

        Returns:
            Besides what came in, ``token_embeddings`` ``(n, vectors, dim)`` in the model's type, and
            ``attention_mask`` ``(n, vectors)`` int64 in place of the encoder's: 0 for the instruction of a query, and
            for punctuation and padding of a passage.

        Raises:
            M2KRError: no task is given.
        """
        batch = cast("Features", features)
        vectors = self.model.query_vectors(batch) if _is_query(task) else self.model.document_vectors(batch)
        return {**features, "token_embeddings": vectors.embeddings, "attention_mask": vectors.mask.long()}

    def get_config_dict(self) -> dict[str, Any]:
        """Return what a saved module holds besides the official checkpoint."""
        return asdict(self.model.settings)

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the checkpoint in official form (safetensors); see `PreFLMR.save_pretrained`."""
        self.model.save_pretrained(Path(output_path))

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> PreFLMRModule:
        """Return a saved module, on the CPU; ``model_kwargs={"dtype": ...}`` sets the type of the weights.

        Raises:
            M2KRError: a file is missing or says what cannot be.
        """
        where: dict[str, Any] = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        folder = cls.load_dir_path(model_name_or_path, **where)
        if folder is None:
            raise M2KRError(f"there is no PreFLMR in {model_name_or_path}: name the folder of a saved model.")
        dtype = str((kwargs.get("model_kwargs") or {}).get("dtype") or "float32").removeprefix("torch.")
        return cls(PreFLMR.from_pretrained(folder, dtype=dtype))


def as_multi_vector_encoder(model: PreFLMR) -> MultiVectorEncoder:
    """Return a model as sentence-transformers' `MultiVectorEncoder`, with the same weights, where they are.

    It has ``encode_query``, ``encode_document``, ``similarity`` and ``save``; `load_multi_vector_encoder` loads what
    it saved. mteb leaves the images of queries out unless its description of the model names them (seen with mteb
    2.26: scores come out all the same)::

        wrapper = mteb.models.MultiVectorWrapper(as_multi_vector_encoder(model))
        meta = wrapper.mteb_model_meta.model_copy(update={"modalities": ["text", "image"]})
        wrapper.mteb_model_meta = meta
    """
    return MultiVectorEncoder(modules=[PreFLMRModule(model)], device=str(model.device))


def load_multi_vector_encoder(name: str | Path, *, device: str = "cpu", dtype: str = "float32") -> MultiVectorEncoder:
    """Return a `MultiVectorEncoder` that was saved, with its prompts.

    ``MultiVectorEncoder(name)`` would ask for ``trust_remote_code``, as for every module that is not its own.

    Args:
        name: folder, or hub id.
        device: as torch names it.
        dtype: of the weights.

    Raises:
        M2KRError: a file is missing or says what cannot be.
    """
    settings = PreFLMRModule.load_config(str(name), config_filename="config_sentence_transformers.json")
    kept = {key: settings[key] for key in ("prompts", "default_prompt_name", "similarity_fn_name") if settings.get(key)}
    module = PreFLMRModule.load(str(name), model_kwargs={"dtype": dtype})
    return MultiVectorEncoder(modules=[module], device=str(device_of(device)), **kept)


def _is_query(task: str | None) -> bool:
    if task not in ("query", "document"):
        raise M2KRError(
            f"PreFLMR reads queries and passages differently, and the task given is {task!r}: call encode_query or "
            "encode_document, or pass task='query' or task='document'."
        )
    return task == "query"
