"""Tokenizers that read texts otherwise than their files say, as transformers makes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from m2kr.common.tokenizer_check import check_tokenizer
from m2kr.errors import M2KRError

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
TEXTS = ["An X-ray of the Owl's eye, 1984", "what is this? (a) b&w photo_2.jpg"] * 3


def as_bert(*, lowercase: bool = True) -> Tokenizer:
    """What BertTokenizer makes, too."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(special_tokens=[*SPECIAL.values(), "[Q]"]))
    template(made, "[CLS] $A [SEP]")
    return made


def template(tokenizer: Tokenizer, words: str) -> None:
    known = [(word, tokenizer.token_to_id(word)) for word in words.split() if word != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(words, None, known)


def written(folder: Path, tokenizer: Tokenizer, kind: str = "BertTokenizer", **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **SPECIAL, **config}))
    return folder


def checked(folder: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    check_tokenizer(tokenizer, None, "the tokenizer")
    return tokenizer


def marked(tokenizer: Tokenizer) -> None:
    template(tokenizer, "[CLS] [Q] $A [SEP]")


def joined(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("-", ""), normalizers.Lowercase()])


def by_spaces(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()


@pytest.mark.parametrize("change", [marked, joined, by_spaces])
@pytest.mark.parametrize("kind", ["BertTokenizer", "DistilBertTokenizer"])
def test_what_a_class_makes_otherwise_is_refused_and_both_remedies_help(
    tmp_path: Path, kind: str, change: Callable[[Tokenizer], None]
) -> None:
    change(tokenizer := as_bert())
    folder = written(tmp_path / "model", tokenizer, kind)
    with pytest.raises(
        M2KRError, match=r"the tokenizer: transformers makes .*PreTrainedTokenizerFast.*save_pretrained"
    ):
        checked(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "other")
    other = checked(tmp_path / "other")
    written(folder, tokenizer, "PreTrainedTokenizerFast")
    text = TEXTS[0]
    assert checked(folder)(text)["input_ids"] == tokenizer.encode(text).ids != other(text)["input_ids"]


def test_what_the_class_makes_the_same_is_taken_and_stays_as_it_is(tmp_path: Path) -> None:
    tokenizer = as_bert()
    tokenizer.enable_truncation(4, stride=1)
    tokenizer.enable_padding(length=6)
    folder = written(tmp_path / "model", tokenizer)
    found = checked(folder)
    unchecked = AutoTokenizer.from_pretrained(folder)
    for each in ("truncation", "padding"):
        assert getattr(found.backend_tokenizer, each) == getattr(unchecked.backend_tokenizer, each) is not None
    (folder / "tokenizer_config.json").unlink()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    checked(folder)


@pytest.mark.parametrize("lowercase", [False, True])
def test_the_configuration_decides_about_capitals(tmp_path: Path, lowercase: bool) -> None:
    found = checked(written(tmp_path / "model", as_bert(lowercase=not lowercase), do_lower_case=lowercase))
    assert found.backend_tokenizer.normalizer.lowercase == lowercase


def test_siglip_2_reads_capitals_as_small_letters(tmp_path: Path) -> None:
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    letters = sorted({letter for text in TEXTS for letter in text.replace(" ", "\u2581")})
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(special_tokens=special, initial_alphabet=letters, vocab_size=60)
    )
    made.add_special_tokens([AddedToken(word, special=True) for word in special])
    template(made, "$A <eos>")
    folder = written(tmp_path / "model", made, "Siglip2Tokenizer", pad_token="<pad>", unk_token="<unk>")
    found = checked(folder)
    assert found("OWL")["input_ids"] == found("owl")["input_ids"]
    joined(made)
    with pytest.raises(M2KRError, match="Siglip2Tokenizer does not take all of it"):
        checked(written(folder, made, "Siglip2Tokenizer", pad_token="<pad>", unk_token="<unk>"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    found = checked(written(tmp_path / "model", as_bert()))
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    with pytest.raises(M2KRError, match=r"the tokenizer: its tokenizer\.json cannot be read"):
        check_tokenizer(found, None, "the tokenizer")
