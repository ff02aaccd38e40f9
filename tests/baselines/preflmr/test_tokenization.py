"""Token ids, attention masks and which tokens count, for BERT checkpoints."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch

from baselines.preflmr import PreFLMRConfig
from baselines.preflmr.tokenization import (
    DOCUMENT_FOLDER,
    QUERY_FOLDER,
    QueryTokenizer,
    TokenMasks,
    has_doubled_instruction,
    read_tokenizers,
)
from m2kr.errors import M2KRError
from tests.baselines.preflmr.make_fixtures import LEADS, VOCABULARY, configuration


@pytest.fixture
def tokenizers(folder, tmp_path):
    """Make both tokenizers of our PreFLMR from a copy, with settings and a configuration changed."""

    def make(settings=None, added=None, **config):
        for name in (QUERY_FOLDER, DOCUMENT_FOLDER):
            shutil.copytree(folder / name, tmp_path / name, dirs_exist_ok=True)
            path = tmp_path / name / "tokenizer_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | (settings or {})))
            if added:
                (tmp_path / name / "added_tokens.json").write_text(json.dumps(added))
        value = PreFLMRConfig.from_json(configuration("preflmr") | config)
        return read_tokenizers(tmp_path, value)

    return make


def tokens(ids):
    return [VOCABULARY[token] for token in ids]


def test_a_query_has_its_marker_and_is_filled_up_with_masks(tokenizers):
    query, _ = tokenizers()
    ids, attention = query(["Who built it?", "owl"], maxlen=10)
    assert tokens(ids[0]) == ["[CLS]", "[unused0]", "who", "built", "it", "?", "[SEP]", *["[MASK]"] * 3]
    assert tokens(ids[1]) == ["[CLS]", "[unused0]", "owl", "[SEP]", *["[MASK]"] * 6]
    assert attention.tolist() == [[1] * 7 + [0] * 3, [1] * 4 + [0] * 6]
    assert ids.dtype == attention.dtype == torch.int64
    assert query(["owl"]).input_ids.shape == (1, 32)


def test_a_long_query_is_cut_and_keeps_its_end_token(tokenizers):
    query, _ = tokenizers()
    ids, attention = query(["owl " * 50])
    assert ids.shape == (1, 32)
    assert tokens(ids[0]) == ["[CLS]", "[unused0]", *["owl"] * 29, "[SEP]"]
    assert attention.all()


def test_mask_tokens_are_attended_to_where_the_tokenizer_says_so(tokenizers):
    query, _ = tokenizers({"attend_to_mask_tokens": True})
    assert query(["owl"]).attention_mask.all()


def test_passages_are_padded_to_the_longest_or_to_the_most(tokenizers):
    _, document = tokenizers()
    ids, attention = document(["The red owl.", "bell"])
    assert tokens(ids[0]) == ["[CLS]", "[unused1]", "the", "red", "owl", ".", "[SEP]"]
    assert tokens(ids[1]) == ["[CLS]", "[unused1]", "bell", "[SEP]", *["[PAD]"] * 3]
    assert attention[1].tolist() == [1] * 4 + [0] * 3
    assert document(["bell"], padding="max").input_ids.shape == (1, 64)
    assert document(["bell " * 99], maxlen=9).input_ids.shape == (1, 9)


def test_lengths_are_those_of_the_tokenizers_folder(tokenizers):
    query, document = tokenizers({"query_maxlen": 64, "doc_maxlen": 20})
    assert (query.maxlen, document.maxlen) == (64, 20)
    text = configuration("preflmr")["text_config"] | {"query_maxlen": 20}  # the official code passes over it
    query, document = tokenizers({"query_maxlen": None, "doc_maxlen": None}, text_config=text)
    assert (query.maxlen, document.maxlen) == (32, 64)  # 512 where the encoder has as many positions


def test_added_tokens_are_one_token_each(tokenizers):
    text = configuration("preflmr")["text_config"] | {"vocab_size": len(VOCABULARY) + 2}
    added = {"<BOV>": len(VOCABULARY), "<EOV>": len(VOCABULARY) + 1}
    query, document = tokenizers(added=added, text_config=text)
    ids = document(["a <BOV> red owl <EOV>"]).input_ids[0].tolist()
    assert [ids[3], ids[6]] == list(added.values())
    assert query(["<EOV>"]).input_ids[0, 2] == added["<EOV>"]


def test_official_added_tokens_are_read_from_the_settings(tokenizers):
    """The form of transformers 4.34 and later: added_tokens_decoder in tokenizer_config.json."""
    token = {"content": "<BOV>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    text = configuration("preflmr")["text_config"] | {"vocab_size": len(VOCABULARY) + 1}
    decoder = {"added_tokens_decoder": {str(len(VOCABULARY)): token | {"special": True}}}
    _, document = tokenizers(decoder, text_config=text)
    assert document(["owl <BOV>owl"]).input_ids[0, 3] == len(VOCABULARY)


def test_added_tokens_with_other_ids_are_refused(tokenizers):
    text = configuration("preflmr")["text_config"] | {"vocab_size": len(VOCABULARY) + 9}
    with pytest.raises(M2KRError, match="<BOV>"):
        tokenizers(added={"<BOV>": len(VOCABULARY) + 5}, text_config=text)


def test_instructions_end_at_the_first_colon(tokenizers):
    query, document = tokenizers()
    masks = TokenMasks.of(PreFLMRConfig.from_json(configuration("preflmr")), query, document, "sane")
    ids = query(["find it: who: what", "no such sign", ": owl"], maxlen=12).input_ids
    assert tokens(ids[0])[4:6] == [":", "who"]
    hidden = [(~row).nonzero().flatten().tolist() for row in masks.query(ids)]
    assert hidden == [[2, 3, 4], [], [2]]


def test_nothing_is_masked_where_the_configuration_says_so(tokenizers):
    query, document = tokenizers()
    value = configuration("preflmr") | {"mask_instruction_token": None, "mask_punctuation": False}
    masks = TokenMasks.of(PreFLMRConfig.from_json(value), query, document, "sane")
    assert masks.query(query(["find it: who"]).input_ids).all()
    ids, attention = document(["An owl.", "a, b"])
    assert torch.equal(masks.document(ids), attention.bool())


def test_ids_to_skip_are_left_out_of_queries(tokenizers):
    query, document = tokenizers()
    mask = VOCABULARY.index("[MASK]")
    value = configuration("preflmr") | {"query_mask_input_ids_skip_list": [mask]}
    masks = TokenMasks.of(PreFLMRConfig.from_json(value), query, document, "sane")
    ids, attention = query(["owl: owl"])
    assert torch.equal(masks.attended(ids), attention.bool())
    assert not masks.query(ids)[ids == mask].any()


@pytest.mark.parametrize(
    ("text", "doubled"),
    [
        (f"{LEADS[0]} {LEADS[0]} who built it?", True),
        (f"{LEADS[1]}{LEADS[1]}", True),
        (f"{LEADS[0]}  {LEADS[0]}", True),
        (f"{LEADS[0]} who built it?", False),
        (f"{LEADS[0]} {LEADS[1]} who", False),
        (LEADS[1], False),
        ("who built it? who built it?", False),
        ("Re: Re: owls", False),
        ("find it: find items: all", False),
        ("", False),
        (":", False),
    ],
)
def test_a_doubled_instruction_is_noticed(text, doubled):
    assert has_doubled_instruction(text) is doubled


def test_a_doubled_instruction_is_warned_of_once(tokenizers):
    query, _ = tokenizers()
    twice = f"{LEADS[0]} {LEADS[0]} who built it?"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        query([f"{LEADS[0]} who built it?"])
    with pytest.warns(UserWarning, match="same instruction twice"):
        query(["owl", twice])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        query([twice])


def test_what_does_not_fit_is_refused(tokenizers, folder, tmp_path):
    query, document = tokenizers()
    for tokenizer in (query, document):
        with pytest.raises(M2KRError, match="no text"):
            tokenizer([])
        with pytest.raises(M2KRError, match="one text"):
            tokenizer("owl")
        for length in (65, 3):
            with pytest.raises(M2KRError, match=f"maxlen is {length}"):
                tokenizer(["owl"], maxlen=length)
    with pytest.raises(M2KRError, match=r"query_maxlen of .* is 65"):
        tokenizers({"query_maxlen": 65})
    config = PreFLMRConfig.from_json(configuration("preflmr"))
    with pytest.raises(M2KRError, match=r"vocab\.txt is missing"):
        QueryTokenizer(tmp_path / "nowhere", config)
    small = configuration("preflmr")["text_config"] | {"vocab_size": 50}
    with pytest.raises(M2KRError, match="50"):
        tokenizers(text_config=small)
    path = tmp_path / QUERY_FOLDER / "vocab.txt"
    path.write_text(path.read_text().replace("[unused0]", "[other]"))
    with pytest.raises(M2KRError, match=r"no \[unused0\]"):
        QueryTokenizer(tmp_path / QUERY_FOLDER, config)
