"""Readers: models of transformers that answer a question about a picture, with passages or without.

BLIP-2 (Li et al., "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language
Models", ICML 2023) with FLAN-T5, which the articles of RA-VQA, FLMR and PreFLMR fine-tuned, and every model that
transformers loads as "image-text-to-text". Nothing is fine-tuned here: their figures are not to be expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from baselines.common.batching import device_of, dtype_of, encode
from baselines.common.checkpoints import PUBLISHED, find_checkpoint, load_model, loading
from baselines.common.options import whole_number
from m2kr.common.tokenizer_check import check_tokenizer, embedded_tokens
from m2kr.errors import M2KRError
from m2kr.reader import Answer, ReaderInput

PROMPT = "Question: {question} Short answer:"
"""What is asked without passages. The wording of BLIP-2's article for FLAN-T5, section 4.1."""

PROMPT_WITH_PASSAGES = "Context: {passages} Question: {question} Short answer:"
"""What is asked with passages, which are joined by blanks. This wording is this project's own."""

_GET_AGAIN = "Get its files again, or install what it names."
_FILES = "config.json, processor and tokenizer files, model.safetensors"


class ImageTextToText:
    """A model that transformers loads with AutoModelForImageTextToText, answering greedily.

    A model with a chat template is asked as its user. Another gets the prompt as it is, after the token that stands
    for the picture where its processor does not put that itself. The log-probability of an answer is the sum of
    those of its tokens, the end token included, under the model's own distribution.

    Args:
        preset: name of the published checkpoint that is loaded where none is given.
        checkpoint: folder or hub id.
        device: as torch names it.
        dtype: of the weights.
        prompt: wording without passages; holds {question}.
        prompt_with_passages: wording with passages; holds {passages} and {question}.
        max_length: tokens of a prompt at most, those of the picture and of a chat template not counted. The passages
            are cut at their ends to keep to it, the longest first; the question never is.
        max_new_tokens: tokens of an answer at most.

    Raises:
        M2KRError: the checkpoint cannot be loaded or is of another kind, or an option cannot be.
    """

    reads = frozenset({"text", "image"})

    def __init__(
        self,
        preset: str | None = None,
        /,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        prompt: str = PROMPT,
        prompt_with_passages: str = PROMPT_WITH_PASSAGES,
        max_length: str = "512",
        max_new_tokens: str = "16",
    ) -> None:
        checkpoint = checkpoint or PUBLISHED.get(preset or "")
        if checkpoint is None:
            raise M2KRError("image-text-to-text has no model of its own. Name a folder or hub id with --checkpoint.")
        self._max_length = whole_number("max_length", max_length)
        self._max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        _check_prompt("prompt", prompt, {"question"})
        _check_prompt("prompt_with_passages", prompt_with_passages, {"passages", "question"})
        self._prompt, self._prompt_with_passages = prompt, prompt_with_passages
        self._device, self._dtype = device_of(device), dtype_of(dtype)
        found = find_checkpoint(checkpoint, files=_FILES)
        folder = found.folder
        self._model = load_model(_model_class(folder), folder, device=self._device, dtype=self._dtype)
        self._processor = _load_processor(folder)
        self._tokenizer = self._processor.tokenizer
        check_tokenizer(self._tokenizer, embedded_tokens(self._model), f"the tokenizer in {folder}")
        # A decoder goes on after the last token of its prompt, which padding must not be.
        self._tokenizer.padding_side = "right" if self._model.config.is_encoder_decoder else "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        # Files of BLIP-2 of early versions lack the number of the picture's tokens, which the model knows.
        queries = getattr(self._model.config, "num_query_tokens", None)
        if queries is not None and getattr(self._processor, "num_query_tokens", 0) is None:
            self._processor.num_query_tokens = queries
        self.name = found.called
        self.settings: dict[str, Any] = {
            **found.identity(),
            "architecture": type(self._model).__name__,
            "chat_template": self._chat,
            "prompt": prompt,
            "prompt_with_passages": prompt_with_passages,
            "max_length": self._max_length,
            "max_new_tokens": self._max_new_tokens,
            "decoding": "greedy",
        }
        # Some of what is wrong in a processor's files is missed by the first picture and question only.
        with loading(f"the processor in {folder} cannot prepare a picture and a question", _GET_AGAIN):
            self._inputs([self.prompt(ReaderInput("a", passages=("a",)))], [Image.new("RGB", (64, 64))])

    @property
    def _chat(self) -> bool:
        return bool(getattr(self._processor, "chat_template", None))

    def answer(self, asked: Sequence[ReaderInput], batch_size: int = 8) -> list[Answer]:
        """Return one answer for each question, ``batch_size`` of them at a time, those of like length together.

        Raises:
            M2KRError: a question has no picture.
        """
        if any(item.image is None for item in asked):
            raise M2KRError(f"{self.name} reads a picture with every question, and one has none: give it its images.")
        texts = [self.prompt(item) for item in asked]
        lengths = [len(ids) for ids in self._tokenizer(texts)["input_ids"]] if texts else []

        def run(rows: list[int]) -> list[Answer]:
            return self._generate([texts[row] for row in rows], [asked[row].image for row in rows])

        return encode(run, lengths, batch_size)

    def prompt(self, asked: ReaderInput) -> str:
        """Return the prompt of a question, its passages cut to what there is room for."""
        if not asked.passages:
            text = self._prompt.format(question=asked.question)
        else:
            bare = self._prompt_with_passages.format(passages="", question=asked.question)
            blanks = len(asked.passages) - 1
            room = max(self._max_length - len(self._tokenizer(bare)["input_ids"]) - blanks, 0)
            passages = " ".join(part for part in self._cut(asked.passages, room) if part)
            text = self._prompt_with_passages.format(passages=passages, question=asked.question)
        if self._chat:
            content = [{"type": "image"}, {"type": "text", "text": text}]
            message = [{"role": "user", "content": content}]
            return str(self._processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
        if hasattr(self._processor, "num_query_tokens") or not getattr(self._processor, "image_token", None):
            return text
        return f"{self._processor.image_token}\n{text}"

    def _cut(self, passages: Sequence[str], room: int) -> list[str]:
        tokens = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in passages]
        sizes = shares([len(ids) for ids in tokens], room)
        return [
            text if size == len(ids) else self._tokenizer.decode(ids[:size], skip_special_tokens=True).strip()
            for text, ids, size in zip(passages, tokens, sizes, strict=True)
        ]

    def _inputs(self, texts: list[str], images: list[Any]) -> Any:
        # One list of pictures for each text: processors of several pictures a text ask for that, the others take it.
        return self._processor(
            images=images if self._is_blip else [[image] for image in images],
            text=texts,
            padding=True,
            return_tensors="pt",
        ).to(self._device, self._dtype)

    def _generate(self, texts: list[str], images: list[Any]) -> list[Answer]:
        made = self._model.generate(
            **self._inputs(texts, images),
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._max_new_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ends = self._model.generation_config.eos_token_id
        return read_answers(self._tokenizer, made.sequences, made.logits, ends)

    @property
    def _is_blip(self) -> bool:
        return hasattr(self._processor, "num_query_tokens")


blip2_flan_t5_xl = partial(ImageTextToText, "blip2-flan-t5-xl")
"""BLIP-2 with FLAN-T5 XL (Salesforce/blip2-flan-t5-xl), or another checkpoint; see `ImageTextToText`."""


def read_answers(
    tokenizer: Any, sequences: torch.Tensor, logits: Sequence[torch.Tensor], ends: int | list[int]
) -> list[Answer]:
    """Return what was generated: the text up to the first end token, and its log-probability, that token included.

    Args:
        tokenizer: of transformers.
        sequences: token ids ``(n, tokens)``, which end with those generated; before them are the prompt, or the first
            token of a decoder.
        logits: of each token generated, ``(n, vocabulary)``.
        ends: ids of the end tokens.
    """
    tokens = sequences[:, -len(logits) :]
    probabilities = torch.stack([step.float().log_softmax(dim=-1) for step in logits], dim=1)
    each = probabilities.gather(2, tokens.unsqueeze(2).to(probabilities.device)).squeeze(2)
    last = torch.isin(tokens, torch.tensor(ends, device=tokens.device))
    before = (last.cumsum(dim=1) - last.long()) == 0
    sums = torch.where(before, each, 0.0).sum(dim=1).tolist()
    kept = [row[mask].tolist() for row, mask in zip(tokens.cpu(), before.cpu(), strict=True)]
    said = tokenizer.batch_decode(kept, skip_special_tokens=True)
    return [Answer(text.strip(), min(float(value), 0.0)) for text, value in zip(said, sums, strict=True)]


def shares(lengths: Sequence[int], room: int) -> list[int]:
    """Return how much of each length is kept so that the sum is at most ``room``: the longest give first.

    Equal shares go to those that need them; what short ones leave goes to the others. Of a rest that cannot be shared
    equally, the first get one more.
    """
    kept = [0] * len(lengths)
    waiting = sorted(range(len(lengths)), key=lambda row: lengths[row])
    while waiting:
        row = waiting[0]
        share = room // len(waiting)
        if lengths[row] > share:  # then the others are as long at least
            for place, other in enumerate(sorted(waiting)):
                kept[other] = share + (place < room % len(waiting))
            break
        kept[row] = lengths[row]
        room -= lengths[row]
        waiting.pop(0)
    return [min(length, size) for length, size in zip(lengths, kept, strict=True)]


def _check_prompt(name: str, prompt: str, fields: set[str]) -> None:
    try:
        filled = prompt.format(**{field: f"<{field}>" for field in fields})
    except (KeyError, IndexError, ValueError) as error:
        raise M2KRError(
            f"--option {name}: {prompt!r} cannot be filled in ({error}). Write other braces twice."
        ) from error
    lacking = [f"{{{field}}}" for field in sorted(fields) if f"<{field}>" not in filled]
    if lacking:
        raise M2KRError(f"--option {name}: {prompt!r} lacks {' and '.join(lacking)}.")


def _model_class(folder: Path) -> Any:
    """Return the class of transformers that runs the model in a folder. Code beside the model is never run."""
    advice = "Name an image-text-to-text model whose code is part of transformers."
    with loading(f"{folder} is no model that this version of transformers knows", advice):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    known = AutoModelForImageTextToText._model_mapping
    if type(config) not in known:
        raise M2KRError(
            f"{folder} holds a model of the type {config.model_type}, which is no image-text-to-text model of "
            "transformers. Name another."
        )
    return known[type(config)]


def _load_processor(folder: Path) -> Any:
    make: Any = AutoProcessor
    with loading(f"the processor in {folder} could not be loaded", _GET_AGAIN):
        processor = make.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise M2KRError(f"{folder} has no processor for pictures and texts (preprocessor_config.json). Get its files.")
    return processor
