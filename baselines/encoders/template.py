"""Models on Qwen-VL that read text and picture by a template of their authors: GME and Qwen3-VL-Embedding.

Both come with code of their authors, which is not run here. What it does with an input (the words around it, the size
of a picture, where the vector is read) is stated in `TEMPLATES` and done with the plain models of transformers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from PIL.Image import Image

from baselines.common.batching import encode_vectors, padded
from baselines.common.checkpoints import check_tokenizers, knows_words, loading
from baselines.common.model_folder import ModelFolder, reporting_weights
from m2kr.errors import M2KRError

_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


@dataclass(frozen=True)
class Template:
    """What a model's authors do with an input.

    Attributes:
        model_type: as transformers names it in config.json.
        model: class of transformers.
        instruction: the system's turn, of passages and of queries without another.
        full_stop: whether an instruction loses white space around it, and gets a full stop where it ends without one.
        end: what follows the header of the assistant's turn. The vector is the last hidden state of the last token.
        empty: the text of an input without text and picture.
        fitted: fewest and most tokens of the size to which a picture is resized first.
        resized: the same of a second resizing, by the image processor; None for none.
        max_length: tokens, at most; what is beyond is cut off.
        on_grid: whether a picture's tokens have positions on its grid (M-RoPE), or go on as those of text.
    """

    model_type: str
    model: str
    instruction: str
    full_stop: bool
    end: str
    empty: str
    fitted: tuple[int, int]
    resized: tuple[int, int] | None
    max_length: int
    on_grid: bool


TEMPLATES = {
    # modeling_gme_qwen2vl.py beside the checkpoints. It gives the language model embeddings without their ids, for
    # which transformers, to 4.51 as that file requires, numbers the pieces of a picture as it does words.
    "gme": Template(
        model_type="qwen2_vl",
        model="Qwen2VLModel",
        instruction="You are a helpful assistant.",
        full_stop=False,
        end="<|endoftext|>",
        empty="",
        fitted=(4, 16384),
        resized=(256, 1280),
        max_length=1800,
        on_grid=False,
    ),
    # scripts/qwen3_vl_embedding.py beside the checkpoints, and their chat template.
    "qwen3-vl-embedding": Template(
        model_type="qwen3_vl",
        model="Qwen3VLModel",
        instruction="Represent the user's input.",
        full_stop=True,
        end="",
        empty="NULL",
        fitted=(4, 1800),
        resized=None,
        max_length=8192,
        on_grid=True,
    ),
}
"""Templates by the name that ``--option template`` takes."""


class TemplateEncoder:
    """A model that reads text and picture by its authors' template, with the verbs of a ``SentenceTransformer``.

    Args:
        template: of `TEMPLATES`.
        held: the model's folder.
        name: what the user called it, for messages.
        device: where the weights go.
        dtype: of the weights.

    Raises:
        M2KRError: the folder holds another kind of model, lacks weights or files, or cannot be loaded.
    """

    similarity_fn_name = "cosine"

    def __init__(
        self, template: str, held: ModelFolder, name: str, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._template = wanted = TEMPLATES[template]
        if held.model_type != wanted.model_type:
            raise M2KRError(
                f"{name} is of type {held.model_type or 'unknown'}, and the template {template!r} is for "
                f"{wanted.model_type}. Name a checkpoint of that family, or pass this one as --model."
            )
        import transformers

        image_processors: Any = transformers.AutoImageProcessor
        with loading(f"the model {name!r} could not be loaded"), reporting_weights() as weights:
            files: dict[str, Any] = {"pretrained_model_name_or_path": str(held.path), "local_files_only": True}
            self.model = getattr(transformers, wanted.model).from_pretrained(**files, dtype=dtype).to(device).eval()
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(**files)
            self._pixels = image_processors.from_pretrained(**files, backend="pil")
        weights.check(held.path)
        if not knows_words(self.tokenizer):
            raise M2KRError(f"the model {name!r} has no tokenizer: its files are missing.")
        check_tokenizers(f"the model {name!r}", self)
        self._device = device
        self._side = int(self._pixels.patch_size * self._pixels.merge_size)
        self._image_token = int(self.model.config.image_token_id)
        self._dim = int(self.model.config.text_config.hidden_size)

    def supports(self, kind: Any) -> bool:
        """Whether it reads "text", "image", or both together."""
        return kind in ("text", "image", ("image", "text"))

    def parameters(self) -> Any:
        """Return the model's parameters."""
        return self.model.parameters()

    def encode_query(
        self, inputs: Sequence[Any], prompt: str | None = None, batch_size: int = 32, **_: Any
    ) -> npt.NDArray[np.float32]:
        """Return the vectors of queries, float32 of shape (inputs, dim); ``prompt`` is the system's turn."""
        instruction = self._template.instruction if prompt is None else prompt
        if self._template.full_stop:
            instruction = instruction.strip()
            instruction += "" if unicodedata.category(instruction[-1]).startswith("P") else "."
        return self._encode(inputs, instruction, batch_size)

    def encode_document(self, inputs: Sequence[Any], batch_size: int = 32, **_: Any) -> npt.NDArray[np.float32]:
        """Return the vectors of passages, float32 of shape (inputs, dim)."""
        return self._encode(inputs, self._template.instruction, batch_size)

    def _encode(self, inputs: Sequence[Any], instruction: str, batch_size: int) -> npt.NDArray[np.float32]:
        given: list[Mapping[str, Any]] = [
            item if isinstance(item, Mapping) else {"text" if isinstance(item, str) else "image": item}
            for item in inputs
        ]
        sizes = [self._sizes(item["image"]) if "image" in item else [] for item in given]
        counts = [size[-1][0] * size[-1][1] // self._side**2 if size else 0 for size in sizes]
        tokens = [
            self._tokens(item, instruction, count, row)
            for row, (item, count) in enumerate(zip(given, counts, strict=True))
        ]

        def run(rows: list[int]) -> torch.Tensor:
            ids, mask = padded([tokens[row] for row in rows], self.tokenizer.pad_token_id or 0, self._device)
            seen = [_resized(given[row]["image"], sizes[row]) for row in rows if sizes[row]]
            states = self._states(ids, mask, seen)
            last = states[torch.arange(len(rows), device=self._device), mask.sum(dim=1) - 1]
            return F.normalize(last.float(), dim=1)

        return encode_vectors(run, [len(ids) for ids in tokens], batch_size, self._dim)

    def _states(self, ids: torch.Tensor, mask: torch.Tensor, pictures: list[Image]) -> torch.Tensor:
        """Return the last hidden states of a batch, (inputs, tokens, dim)."""
        model, seen = self.model, {}
        if pictures:
            made = self._pixels(images=pictures, do_resize=False, return_tensors="pt").to(self._device)
            seen = {"pixel_values": made["pixel_values"], "image_grid_thw": made["image_grid_thw"]}
        if self._template.on_grid:
            kinds = (ids == self._image_token).int() if seen else None
            read = model(input_ids=ids, attention_mask=mask, mm_token_type_ids=kinds, use_cache=False, **seen)
            return cast(torch.Tensor, read.last_hidden_state)
        embedded = model.get_input_embeddings()(ids)
        if seen:
            features = torch.cat(model.get_image_features(**seen, return_dict=True).pooler_output).to(embedded.dtype)
            embedded = embedded.masked_scatter((ids == self._image_token).unsqueeze(-1), features)
        read = model.language_model(inputs_embeds=embedded, attention_mask=mask, use_cache=False)
        return cast(torch.Tensor, read.last_hidden_state)

    def _sizes(self, image: Image) -> list[tuple[int, int]]:
        """Return the sizes, (height, width), to which a picture is resized one after the other."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        sizes = [(image.height, image.width)]
        if max(sizes[0]) > 200 * min(sizes[0]):
            raise M2KRError(
                f"a picture of {image.width} by {image.height} pixels is too narrow: this model takes sides of 200 to "
                "1, at most. Leave it out."
            )
        for bounds in (self._template.fitted, self._template.resized):
            if bounds is not None:
                fewest, most = (count * self._side**2 for count in bounds)
                sizes.append(smart_resize(*sizes[-1], factor=self._side, min_pixels=fewest, max_pixels=most))
        return sizes[1:]

    def _tokens(self, item: Mapping[str, Any], instruction: str, picture_tokens: int, row: int) -> list[int]:
        """Return the token ids of an input, with one for each piece of its picture."""
        parts = [_PICTURE if kind == "image" else str(value) for kind, value in item.items()]
        said = "".join(parts) or self._template.empty
        text = (
            f"<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{said}<|im_end|>\n"
            f"<|im_start|>assistant\n{self._template.end}"
        )
        if picture_tokens:
            text = text.replace("<|image_pad|>", "<|image_pad|>" * picture_tokens, 1)
        ids: list[int] = self.tokenizer(text)["input_ids"][: self._template.max_length]
        if ids.count(self._image_token) != picture_tokens:
            raise M2KRError(
                f"input {row} cannot be encoded: of its {picture_tokens} tokens for a picture "
                f"{ids.count(self._image_token)} are left within {self._template.max_length}, or its text holds such "
                "tokens. Pass --option image_first=yes, or a shorter text."
            )
        return ids


def _resized(image: Image, sizes: Sequence[tuple[int, int]]) -> Image:
    """Return a picture resized to each of the sizes, (height, width), one after the other."""
    from PIL.Image import Resampling

    for height, width in sizes:
        if image.size != (width, height):
            image = image.resize((width, height), Resampling.BICUBIC)
    return image
