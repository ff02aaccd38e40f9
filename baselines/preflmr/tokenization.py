"""Token ids of queries and passages, and which tokens take part in late interaction.

A BERT checkpoint writes a marker over the token after [CLS], ``[unused0]`` ([Q]) for queries and ``[unused1]`` ([D])
for passages, and fills a query up with [MASK] tokens, whose outputs count (query augmentation, ColBERT, section 3.2).
A checkpoint with another text encoder has neither, although its texts begin with the same ". ".
"""

from __future__ import annotations

import json
import string
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from msgspec import Struct

from baselines.common.checkpoints import load_tokenizer
from baselines.common.options import check_choice
from baselines.preflmr.configuration import PreFLMRConfig
from m2kr.common.files import atomic
from m2kr.common.json_input import read_json
from m2kr.errors import M2KRError

PaddingMask = Literal["sane", "official"]

QUERY_FOLDER = "query_tokenizer"
DOCUMENT_FOLDER = "context_tokenizer"
_SETTINGS = "tokenizer_config.json"
# Whatever of these a tokenizer's folder has is copied when a model is saved.
_FILES = (
    "vocab.txt",
    "tokenizer.json",
    _SETTINGS,
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece.bpe.model",
)


class Encoding(NamedTuple):
    """Token ids and attention mask of a batch, both ``(n, tokens)`` int64; the mask is 1 where the encoder attends."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor


class _Tokenizer:
    """What the tokenizers of queries and passages share.

    Args:
        folder: with vocab.txt (BERT) or the files of a fast tokenizer (other text encoders), tokenizer_config.json and,
            where tokens were added, added_tokens.json.
        config: of the checkpoint.

    Raises:
        M2KRError: a file is missing or cannot be read, or a token the model needs is not in the vocabulary.
    """

    _marker_token: str
    _length_name: str

    def __init__(self, folder: Path, config: PreFLMRConfig) -> None:
        self._bert = config.text_config.family == "bert"
        self._tokenizer, self.files = _read(folder, config)
        self._limit = config.text_config.max_tokens
        self._marker = _token(self._tokenizer, self._marker_token, folder) if self._bert else None

    @property
    def maxlen(self) -> int:
        """Tokens of a text, at most; setting it raises an M2KRError where it does not fit the text encoder."""
        return self._maxlen

    @maxlen.setter
    def maxlen(self, value: int) -> None:
        self._maxlen = self._fitting(value, self._length_name)

    def first_id(self, text: str) -> int:
        """Return the id of the first token of ``text``."""
        return int(self._tokenizer.encode(text, add_special_tokens=False)[0])

    def write(self, folder: Path) -> None:
        """Write the files that the tokenizer was read from, each atomically, with ``maxlen`` where that was changed."""
        files = dict(self.files)
        if self._maxlen != self._given:
            # As they are written: they were looked at when they were read, and 10^30 is to stay a whole number.
            settings = json.loads(files.get(_SETTINGS, b"{}"))
            files[_SETTINGS] = json.dumps({**settings, self._length_name: self._maxlen}, indent=2).encode()
        for name, content in files.items():
            with atomic(folder / name) as file:
                file.write(content)

    def _read_maxlen(self, maxlen: int, name: str) -> None:
        self._given = self._maxlen = self._fitting(maxlen, name)

    def _encode(self, texts: Sequence[str], padding: Literal["longest", "max"], maxlen: int | None) -> Encoding:
        if isinstance(texts, str) or not texts:
            raise M2KRError(
                "the tokenizer was given " + ("one text" if texts else "no text") + "; pass a list of texts."
            )
        encoding = self._tokenizer(
            [". " + text for text in texts],  # a token to be overwritten with the marker
            padding="max_length" if padding == "max" else "longest",
            truncation=True,
            max_length=self._fitting(self.maxlen if maxlen is None else maxlen, "maxlen"),
            return_tensors="pt",
        )
        if self._marker is not None:
            encoding["input_ids"][:, 1] = self._marker
        return Encoding(encoding["input_ids"], encoding["attention_mask"])

    def _fitting(self, maxlen: int, name: str) -> int:
        if not 4 <= maxlen <= self._limit:
            raise M2KRError(f"{name} is {maxlen}; the text encoder takes 4 to {self._limit} tokens.")
        return maxlen


class QueryTokenizer(_Tokenizer):
    """The tokenizer of queries, read from ``query_tokenizer/`` of a checkpoint.

    Shorter queries than ``maxlen`` are filled up to it, longer ones cut. It is ``query_maxlen`` of the tokenizer (of
    ``text_config`` where the encoder is no BERT), 32 where it is not said there, as in the official code.
    """

    _marker_token = "[unused0]"
    _length_name = "query_maxlen"

    def __init__(self, folder: Path, config: PreFLMRConfig) -> None:
        super().__init__(folder, config)
        settings = self._tokenizer.init_kwargs
        length = config.text_config.query_maxlen
        length = _length(settings, "query_maxlen", 32, folder) if self._bert else length or 32
        self._read_maxlen(length, f"query_maxlen of {folder}")
        self._attend_to_masks = self._bert and bool(settings.get("attend_to_mask_tokens"))
        self._instruction_end = config.mask_instruction_token
        self._warned = False

    def __call__(self, texts: Sequence[str], *, maxlen: int | None = None) -> Encoding:
        """Return ids and attention mask, ``(n, maxlen)`` int64, of queries (instruction, a space, question).

        [MASK] tokens that fill a query up have attention 0, unless the tokenizer's ``attend_to_mask_tokens`` is true.

        Raises:
            M2KRError: there is no text, or ``maxlen`` does not fit the encoder.
        """
        if not self._warned and any(has_doubled_instruction(text, self._instruction_end) for text in texts):
            self._warned = True
            warnings.warn(
                "a query has the same instruction twice in front of its question, and everything after the first "
                f"{self._instruction_end!r} counts as the question: pass the instruction once (recall drops by many "
                "points otherwise)",
                stacklevel=2,
            )
        ids, attention = self._encode(texts, "max", maxlen)
        if self._bert:
            ids[ids == self._tokenizer.pad_token_id] = self._tokenizer.mask_token_id
        return Encoding(ids, torch.ones_like(attention) if self._attend_to_masks else attention)


class DocumentTokenizer(_Tokenizer):
    """The tokenizer of passages, read from ``context_tokenizer/`` of a checkpoint.

    Passages longer than ``maxlen`` are cut: the tokenizer's ``doc_maxlen``, 512 where not said.

    Attributes:
        pad_id: id of the padding token.
    """

    _marker_token = "[unused1]"
    _length_name = "doc_maxlen"

    def __init__(self, folder: Path, config: PreFLMRConfig) -> None:
        super().__init__(folder, config)
        told = _length(self._tokenizer.init_kwargs, "doc_maxlen", 512, folder)
        self._read_maxlen(min(told, self._limit), f"doc_maxlen of {folder}")
        self.pad_id = int(self._tokenizer.pad_token_id)

    def __call__(
        self, texts: Sequence[str], *, padding: Literal["longest", "max"] = "longest", maxlen: int | None = None
    ) -> Encoding:
        """Return ids and attention mask, ``(n, tokens)`` int64, of passages.

        Args:
            texts: the passages.
            padding: "longest" fills up to the longest passage given; "max" to ``maxlen``, as the official code does.
                Vectors of tokens that count do not depend on it.
            maxlen: instead of the attribute of that name.

        Raises:
            M2KRError: there is no text, or ``maxlen`` does not fit the encoder.
        """
        return self._encode(texts, padding, maxlen)


def read_tokenizers(folder: Path, config: PreFLMRConfig) -> tuple[QueryTokenizer, DocumentTokenizer]:
    """Return the two tokenizers in the folder of a checkpoint; errors as in `QueryTokenizer`."""
    return QueryTokenizer(folder / QUERY_FOLDER, config), DocumentTokenizer(folder / DOCUMENT_FOLDER, config)


@dataclass(frozen=True)
class TokenMasks:
    """Which tokens of a query or passage have a vector in late interaction.

    Attributes:
        padding: the id that never counts. "sane" takes the padding id of the tokenizer. "official" takes 0 whatever
            the encoder, as the official code does; for BERT that is the same. XLM-RoBERTa has padding 1 and ``<s>`` 0,
            so there "official" drops ``<s>`` and makes every padding token of a passage a vector that can match, and
            a score depends on how far a passage was padded. The default is "sane", since a passage's vectors should
            be its own; "official" with passages padded to 512 repeats what the official script computes, and with it
            the published figures of PreFLMR_ViT-L_ENCN. Scores of a tiny model differed by up to 4.6 between the two.
        punctuation: ids that do not count in passages.
        instruction_end: the id that ends the instruction of a query; None where instructions count.
        skip: ids that do not count in queries and that the mapping network does not look at.
    """

    padding: int
    punctuation: tuple[int, ...]
    instruction_end: int | None
    skip: tuple[int, ...]

    @classmethod
    def of(cls, config: PreFLMRConfig, query: QueryTokenizer, document: DocumentTokenizer, mode: str) -> TokenMasks:
        """Look the ids up. A symbol that is several tokens is represented by its first, as in the official code."""
        check_choice("padding_mask", mode, PaddingMask)
        end = config.mask_instruction_token
        return cls(
            padding=document.pad_id if mode == "sane" else 0,
            punctuation=tuple(document.first_id(symbol) for symbol in string.punctuation)
            if config.mask_punctuation
            else (),
            instruction_end=query.first_id(end) if end is not None else None,
            skip=config.query_mask_input_ids_skip_list,
        )

    def query(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return which tokens of queries count, ``(n, tokens)`` bool.

        The instruction, which ends at the first ``instruction_end``, does not, except for the first two tokens ([CLS]
        and [Q]) (PreFLMR, section 3; the official ``query_mask``). Without such a token everything counts.
        """
        keep = (input_ids != self.padding) & ~_is_in(input_ids, self.skip)
        if self.instruction_end is None:
            return keep
        ends = (input_ids == self.instruction_end).int()
        last = ends.argmax(dim=1, keepdim=True)  # 0 where there is none
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        return keep & ((position > last) | (position < 2))

    def document(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return which tokens of passages count, ``(n, tokens)`` bool: neither punctuation nor padding."""
        return (input_ids != self.padding) & ~_is_in(input_ids, self.punctuation)

    def attended(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """Return which tokens of queries the mapping network looks at, ``(n, tokens)`` bool; None for all of them."""
        return ~_is_in(input_ids, self.skip) if self.skip else None


def has_doubled_instruction(text: str, end: str | None = ":") -> bool:
    """Tell whether a query's text up to its first ``end`` stands a second time right after it.

    That happens where data with the instruction already in the question get it put in front once more. A lead of one
    word ("Re: Re: ...") is no instruction.
    """
    if not end:
        return False
    lead, found, rest = text.partition(end)
    words = lead.split()
    return bool(found) and len(words) > 1 and rest.split()[: len(words)] == [*words[:-1], words[-1] + end]


def _read(folder: Path, config: PreFLMRConfig) -> tuple[Any, dict[str, bytes]]:
    """Return the tokenizer of a folder and the bytes of its files, with which it can be written again."""
    from transformers import AutoTokenizer, BertTokenizer

    bert = config.text_config.family == "bert"
    wanted = "vocab.txt" if bert else _SETTINGS
    if not (folder / wanted).is_file():
        raise M2KRError(
            f"{folder / wanted} is missing: copy the tokenizer's folder of the checkpoint with all its files."
        )
    tokenizer = load_tokenizer(
        BertTokenizer if bert else AutoTokenizer, folder, vocabulary=config.text_config.vocab_size
    )
    files = {name: (folder / name).read_bytes() for name in _FILES if (folder / name).is_file()}
    for token, number in _added(folder).items():
        given = tokenizer.convert_tokens_to_ids(token)
        if given != number:
            raise M2KRError(
                f"the tokenizer in {folder} adds {token!r} as {given}, where its files say {number}: vocab.txt does "
                "not belong to them, or has a line twice."
            )
    if tokenizer.pad_token_id is None:
        raise M2KRError(f"the tokenizer in {folder} has no padding token: add it to tokenizer_config.json.")
    return tokenizer, files


def _length(settings: dict[str, Any], name: str, default: int, folder: Path) -> int:
    """Return a length that a tokenizer's settings give, or else the default."""
    found = settings.get(name) or default
    if not isinstance(found, int):
        raise M2KRError(f"{name} of {folder} is {found!r:.80}, where a number of tokens belongs: correct it there.")
    return found


class _Token(Struct):
    content: str


class _TokenizerConfig(Struct):
    added_tokens_decoder: dict[str, _Token] | None = None


def _added(folder: Path) -> dict[str, int]:
    """Return the tokens that a tokenizer's files add to its vocabulary, with the ids they must have."""
    what, remedy = "file of a tokenizer", "Copy the tokenizer's folder of the checkpoint again."
    added: dict[str, int] = {}
    path = folder / "tokenizer_config.json"
    if path.is_file():
        for number, token in (read_json(path, _TokenizerConfig, what, remedy).added_tokens_decoder or {}).items():
            if not number.isdecimal():
                raise M2KRError(f"{path} is no {what}: it adds {token.content!r} as {number!r}. {remedy}")
            added[token.content] = int(number)
    path = folder / "added_tokens.json"
    return added | read_json(path, dict[str, int], what, remedy) if path.is_file() else added


def _token(tokenizer: Any, token: str, folder: Path) -> int:
    number = tokenizer.get_vocab().get(token)
    if number is None:
        raise M2KRError(
            f"the vocabulary in {folder} has no {token}, which marks queries or passages: it is not BERT's."
        )
    return int(number)


def _is_in(input_ids: torch.Tensor, ids: tuple[int, ...]) -> torch.Tensor:
    return torch.isin(input_ids, torch.tensor(ids, dtype=input_ids.dtype, device=input_ids.device))
