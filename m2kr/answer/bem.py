"""BEM, the answer-equivalence model that Encyclopedic-VQA is scored with."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from m2kr.common.files import digest, sha256_of
from m2kr.common.tokenizer_check import check_tokenizer, embedded_tokens
from m2kr.errors import M2KRError, first_line


class Equivalence(Protocol):
    """Judges whether a candidate answer says the same as a reference, such as `EquivalenceModel`.

    Attributes:
        settings: what its judgement depends on; kept in the result file.
    """

    settings: dict[str, Any]

    def __call__(self, questions: Sequence[str], references: Sequence[str], candidates: Sequence[str]) -> list[float]:
        """Return, for each triple, the probability that candidate and reference are equivalent."""


class EquivalenceModel:
    """BEM, the answer-equivalence model: a BERT that judges a candidate given reference and question.

    The official model is one of TensorFlow. This reads a checkpoint of transformers in its place, a sequence classifier
    with two classes, the second of which is "equivalent", such as the reproduction kortukov/answer-equivalence-bem.
    Its figure need not equal that of the official weights, so the result names the checkpoint.

    Args:
        checkpoint: folder or hub id.
        device: as torch names it.
        batch_size: triples judged at once.

    Raises:
        M2KRError: it cannot be loaded, or is no classifier with two classes.

    Source: Bulian et al., "Tomayto, Tomahto. Beyond Token-level Answer Equivalence for Question Answering Evaluation",
    EMNLP 2022. Input: [CLS] candidate [SEP] reference [SEP] question [SEP], token types 0, 1 and 2 as in the official
    code; of a model that has two types only, 0, 1 and 1. Texts are case-folded and brought to NFKC first, as
    TensorFlow's BERT tokenizer does and that of transformers does not: "ß" is "ss", "x²" is "x2". What is longer than
    the model can read is cut at the end of the longest part. (What tensorflow-text 2.21 does.)
    """

    def __init__(self, checkpoint: str, *, device: str = "cpu", batch_size: int = 64) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        # A path that is no folder would be looked for at the hub, for half a minute where that cannot be reached.
        folder = Path(checkpoint)
        local = folder.is_dir()
        if not local and (checkpoint.count("/") != 1 or checkpoint[0] in "./~"):
            raise M2KRError(f"--bem {checkpoint} is no folder here, and no model id of the hub (owner/name).")
        options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local}
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, **options)
            model: Any
            model, report = AutoModelForSequenceClassification.from_pretrained(
                checkpoint, output_loading_info=True, **options
            )
            self._model = model.to(device).eval()
        except Exception as error:  # of damaged files and networks, loaders raise all kinds
            raise M2KRError(
                f"--bem {checkpoint} could not be loaded as a sequence classifier of transformers "
                f"({first_line(error)}). Name a folder or hub id that holds one."
            ) from error
        faults = [
            f", and its checkpoint {what} {min(report[keys])}"
            for keys, what in (("missing_keys", "lacks"), ("unexpected_keys", "has, to no use,"))
            if report[keys]
        ]
        if faults or model.config.num_labels != 2:
            raise M2KRError(
                f"--bem {checkpoint} is no answer-equivalence model, which has two classes: this one has "
                f"{model.config.num_labels}{''.join(faults)}. Name another."
            )
        if self._tokenizer.cls_token_id is None or self._tokenizer.sep_token_id is None:
            raise M2KRError(f"--bem {checkpoint} has a tokenizer without [CLS] and [SEP]: it is no BERT. Name another.")
        check_tokenizer(self._tokenizer, embedded_tokens(model), f"the tokenizer of --bem {checkpoint}")
        self._device, self._batch_size = device, batch_size
        weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]) if local else []
        self.settings: dict[str, Any] = {
            "checkpoint": folder.resolve().name if local else checkpoint,
            "checkpoint_sha256": digest([sha256_of(file) for file in weights])
            if weights
            else getattr(model.config, "_commit_hash", None),
            "kind": "sequence classifier of transformers, not the official TensorFlow weights",
        }

    def __call__(self, questions: Sequence[str], references: Sequence[str], candidates: Sequence[str]) -> list[float]:
        """Return, for each triple, the probability that candidate and reference are equivalent."""
        import torch

        scores: list[float] = []
        for first in range(0, len(questions), self._batch_size):
            rows = slice(first, first + self._batch_size)
            encoded = [
                self._encode(parts) for parts in zip(candidates[rows], references[rows], questions[rows], strict=True)
            ]
            inputs = self._tokenizer.pad(encoded, return_tensors="pt").to(self._device)
            with torch.inference_mode():
                scores += self._model(**inputs).logits.float().softmax(dim=-1)[:, 1].tolist()
        return scores

    def _encode(self, parts: tuple[str, str, str]) -> dict[str, list[int]]:
        """Return what the model reads of a candidate, a reference and a question."""
        texts = [unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()) for text in parts]
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        room = min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings) - len(ids) - 1
        while sum(map(len, ids)) > room:
            max(ids, key=len).pop()
        types = min(len(ids), getattr(self._model.config, "type_vocab_size", 0))
        found, kinds = [self._tokenizer.cls_token_id], [0]
        for kind, part in enumerate(ids):
            found += [*part, self._tokenizer.sep_token_id]
            kinds += [min(kind, types - 1)] * (len(part) + 1)
        inputs = {"input_ids": found, "attention_mask": [1] * len(found)}
        return inputs | ({"token_type_ids": kinds} if types else {})
