"""Models that sentence-transformers makes of a folder: `SentenceTransformer` and `MultiVectorEncoder`.

Where it, or transformers below it, differs from what a model's authors published, the difference is taken back here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from baselines.common.checkpoints import check_tokenizers, knows_words, loading
from baselines.common.model_folder import ModelFolder, Pooling, reporting_weights
from baselines.common.options import check_choice
from m2kr.errors import M2KRError

FILES = "config.json, tokenizer and processor files, model.safetensors; modules.json and 1_Pooling/ where it has them"
"""The files of a model folder, for messages."""


def load_modules(held: ModelFolder, name: str, *, device: torch.device, dtype: torch.dtype, pooling: str | None) -> Any:
    """Return a ``SentenceTransformer`` or ``MultiVectorEncoder`` in evaluation mode.

    Args:
        held: the model's folder.
        name: what the user called it, for messages.
        device: where the weights go.
        dtype: of the weights.
        pooling: of a bare encoder.

    Raises:
        M2KRError: it cannot be loaded, or its weights or its tokenizer are not all there.
    """
    # Imported late: it takes seconds, and a model that cannot be had is said to be so at once.
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer
    from transformers import PreTrainedTokenizerBase

    advice = f"A model folder needs {FILES}, all of one download. Get its files again."
    options: dict[str, Any] = {"device": str(device), "model_kwargs": {"dtype": dtype}, "local_files_only": True}
    with (
        loading(f"the model {name!r} could not be loaded", advice),
        reporting_weights() as weights,
        _pictures_by_pillow(),
    ):
        if pooling is not None:
            check_choice("pooling", pooling, Pooling)
            model: Any = SentenceTransformer(modules=_pooled(str(held.path), pooling, dtype), device=str(device))
        else:
            model = (MultiVectorEncoder if held.kind == "multi" else SentenceTransformer)(str(held.path), **options)
    weights.check(held.path, taken_elsewhere=("linear.weight",) if held.stanford else ())
    tokenizer = getattr(model, "tokenizer", None)
    if isinstance(tokenizer, PreTrainedTokenizerBase) and not knows_words(tokenizer):
        raise M2KRError(f"the model {name!r} has no tokenizer: its files are missing. A model folder needs {FILES}.")
    check_tokenizers(f"the model {name!r}", model)
    if held.model_type in ("siglip", "siglip2"):
        _read_as_siglip(model[0], second=held.model_type == "siglip2")
    elif held.model_type == "colqwen2":
        _read_as_colqwen2(model[0])
    elif held.model_type == "colmodernvbert":
        _read_as_colmodernvbert(model[0])
    model.eval()
    # Of files that are lacking, some are missed by the first text only.
    with loading(f"the model {name!r} was loaded and cannot encode a text", advice):
        if model.supports("text"):
            model.encode_query(["a"], show_progress_bar=False)
            model.encode_document(["a"], show_progress_bar=False)
    return model


def _pooled(folder: str, pooling: str, dtype: torch.dtype) -> list[Any]:
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule
    from sentence_transformers.sentence_transformer.modules import Transformer

    encoder = Transformer(folder, model_kwargs={"dtype": dtype, "local_files_only": True})
    mode = {"mean": "mean", "cls": "cls", "last": "lasttoken"}[pooling]
    return [encoder, PoolingModule(encoder.get_embedding_dimension(), mode)]


@contextmanager
def _pictures_by_pillow() -> Iterator[None]:
    """Load processors for pictures alone, prepared by Pillow.

    Those that read videos too need torchvision for that. Where it is there, transformers also resizes pictures by it,
    to other pixels: figures would depend on whether it is installed.
    """
    from transformers import AutoImageProcessor, ProcessorMixin

    attributes = ProcessorMixin.__dict__["get_attributes"]
    image_processor = AutoImageProcessor.__dict__["from_pretrained"]

    def get_attributes(cls: Any) -> list[str]:
        return [name for name in attributes.__func__(cls) if name != "video_processor"]

    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        return image_processor.__func__(cls, *arguments, **{"backend": "pil", **options})

    ProcessorMixin.get_attributes = classmethod(get_attributes)  # type: ignore[assignment]
    AutoImageProcessor.from_pretrained = classmethod(from_pretrained)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ProcessorMixin.get_attributes = attributes  # type: ignore[method-assign]
        AutoImageProcessor.from_pretrained = image_processor  # type: ignore[method-assign]


def _read_as_siglip(encoder: Any, *, second: bool) -> None:
    """Fill texts up to all positions (64 as a rule) without a mask, as SigLIP was trained; SigLIP2's in lower case.

    SigLIP2 put its texts in lower case before Gemma's tokenizer (section 2 of Tschannen et al., 2025), which the
    tokenizer files beside its checkpoints do not; SigLIP's own tokenizer does. Checkpoints of SigLIP2 for pictures of
    one size have the network of SigLIP, and are told by their tokenizer.
    """
    from tokenizers.normalizers import Lowercase, Sequence

    length = int(encoder.config.text_config.max_position_embeddings)
    own: dict[str, Any] = {
        "text": {"padding": "max_length", "max_length": length, "truncation": True, "return_attention_mask": False}
    }
    if second:  # its processor's defaults would go before what the folder says of pictures
        pixels = encoder.processor.image_processor
        own["image"] = {"max_num_patches": pixels.max_num_patches, "patch_size": pixels.patch_size}
    given = encoder.processing_kwargs or {}
    encoder.processing_kwargs = {**given, **{kind: {**told, **given.get(kind, {})} for kind, told in own.items()}}
    if second or "gemma" in type(encoder.tokenizer).__name__.lower():
        backend = encoder.tokenizer.backend_tokenizer
        backend.normalizer = Sequence([Lowercase(), *([backend.normalizer] if backend.normalizer else [])])


def _read_as_colqwen2(encoder: Any) -> None:
    """Give ColQwen2 the positions and the queries that it was published with.

    Its authors' engine, and the class that they gave to transformers (4.53), number the pieces of a picture by their
    place on its grid, and end a query with ten augmentation tokens. transformers 5.23 numbers the pieces as it does
    words, and ends each query with a line feed more.
    """
    from transformers import ColQwen2Processor

    class Processor(ColQwen2Processor):  # type: ignore[misc, unused-ignore]
        def __call__(self, images: Any = None, text: Any = None, **given: Any) -> Any:
            if text is None:
                return super().__call__(images=images, **given)
            return _as_queries(self, text, given)

    encoder.processor.__class__ = Processor
    model = encoder.model
    forward = model.forward

    def on_grid(*, input_ids: torch.Tensor, image_grid_thw: torch.Tensor | None = None, **given: Any) -> Any:
        if image_grid_thw is not None:
            pieces = (input_ids == model.config.vlm_config.image_token_id).int()
            given["position_ids"], _ = model.vlm.get_rope_index(
                input_ids, pieces, image_grid_thw=image_grid_thw, attention_mask=given.get("attention_mask")
            )
        return forward(input_ids=input_ids, image_grid_thw=image_grid_thw, **given)

    model.forward = on_grid


def _read_as_colmodernvbert(encoder: Any) -> None:
    """Give ColModernVBERT its words around a picture, and the augmentation tokens after a query.

    Its processor does both in methods of their own, which sentence-transformers 6.2 does not call.
    """
    from transformers import ColModernVBertProcessor

    class Processor(ColModernVBertProcessor):  # type: ignore[misc, unused-ignore]
        def __call__(self, images: Any = None, text: Any = None, **given: Any) -> Any:
            if images is None:
                return _as_queries(self, text, given)
            if text is None:
                return self.process_images(list(images))
            return super().__call__(images=images, text=text, **given)

    encoder.processor.__class__ = Processor


def _as_queries(processor: Any, texts: Any, given: Any) -> Any:
    """Return the tokens of texts, between the prefix and ten augmentation tokens of a late-interaction model."""
    suffix = processor.query_augmentation_token * 10
    options = {"padding": True, "return_tensors": "pt", **given.get("text_kwargs", {})}
    return processor.tokenizer([f"{processor.query_prefix}{text}{suffix}" for text in texts], **options)
