"""A text encoder other than BERT (PreFLMR_ViT-L_ENCN has BAAI/bge-m3, an XLM-RoBERTa), tiny and made here."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from baselines.preflmr import PreFLMR, PreFLMRConfig
from baselines.preflmr.checkpoint import official_state_dict
from baselines.preflmr.network import PreFLMRNetwork
from baselines.preflmr.tokenization import DOCUMENT_FOLDER, QUERY_FOLDER, QueryTokenizer, read_tokenizers
from m2kr.errors import M2KRError
from tests.baselines.preflmr.make_fixtures import configuration, fill
from tests.tolerance import SAME_NETWORK, assert_vectors_near, assert_within, maxsim_table

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
PIECES = ["▁.", "▁the", "▁owl", "▁红", "色", "▁who", "▁built", "▁it", "?", ".", "▁?", "▁:", "▁", "<mask>"]
VOCABULARY = [*SPECIAL, *PIECES]
PAD = 1
TEXT = {
    "model_type": "flmr_text_model",
    "text_encoder_base_model": "BAAI/bge-m3",
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 42,
    "query_maxlen": 12,
}


def write_tokenizer(folder):
    tokenizer = Tokenizer(models.Unigram([(piece, -float(row)) for row, piece in enumerate(VOCABULARY)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    settings |= {"unk_token": "<unk>", "mask_token": "<mask>", "model_max_length": 8192}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "XLMRobertaTokenizer"}), encoding="utf-8"
    )


@pytest.fixture
def make(tmp_path):
    """Write a checkpoint with changes to its configuration, and load it."""

    def build(padding_mask="sane", **changes):
        folder = tmp_path / "made"
        if not folder.exists():
            write_tokenizer(folder / QUERY_FOLDER)
            write_tokenizer(folder / DOCUMENT_FOLDER)
        value = configuration("flmr") | {"text_config": TEXT} | changes
        config = PreFLMRConfig.from_json(value)
        model = PreFLMR(config, *read_tokenizers(folder, config))
        fill(model, 5)
        model.save_pretrained(folder)
        return PreFLMR.from_pretrained(folder, padding_mask=padding_mask)

    return build


def test_texts_have_no_marker_and_queries_are_padded(make):
    model = make()
    ids, attention = model.query_tokenizer(["who built it?", "the owl"])
    first = ["<s>", "▁.", "▁who", "▁built", "▁it", "?", "</s>"]
    assert [VOCABULARY[token] for token in ids[0].tolist()] == [*first, *["<pad>"] * 5]
    assert attention[0].tolist() == [1] * 7 + [0] * 5
    ids, _ = model.document_tokenizer(["红色 owl", "it"])
    assert [VOCABULARY[token] for token in ids[0].tolist()] == ["<s>", "▁.", "▁红", "色", "▁owl", "</s>"]
    assert ids[1].tolist()[-2:] == [PAD, PAD]
    assert model.document_tokenizer(["it"], padding="max").input_ids.shape == (1, 40)


@torch.no_grad()
def test_the_two_modes_differ_in_padding_and_in_the_first_token(make):
    encoding = make().document_tokenizer(["the owl", "who built it?"], padding="max", maxlen=12)
    sane = make("sane").document(*encoding)
    official = make("official").document(*encoding)
    ids = encoding.input_ids
    punctuation = torch.isin(ids, torch.tensor([VOCABULARY.index("▁."), VOCABULARY.index("▁?"), 3]))
    punctuation |= ids == VOCABULARY.index("▁:")
    assert torch.equal(official.mask, (ids != 0) & ~punctuation)
    assert torch.equal(sane.mask, (ids != PAD) & ~punctuation)
    both = sane.mask & official.mask
    assert_vectors_near(sane.embeddings[both], official.embeddings[both])


@torch.no_grad()
def test_only_the_sane_mode_is_independent_of_padding(make):
    scores = {}
    for mode in ("sane", "official"):
        model = make(mode)
        query = model.query(*model.query_tokenizer(["the owl"]))
        for padding in ("longest", "max"):
            document = model.document(*model.document_tokenizer(["who built it"], padding=padding))
            scores[mode, padding] = model.score(query.embeddings, document.embeddings, document.mask).item()
            if (mode, padding) == ("sane", "longest"):
                errors = maxsim_table(query.embeddings, document.embeddings, relative=SAME_NETWORK)[1]
    assert_within(scores["sane", "max"], scores["sane", "longest"], errors.item())
    assert scores["official", "max"] > scores["official", "longest"] + 1e-3


@torch.no_grad()
def test_padding_of_queries_adds_nothing(make):
    model = make()
    document = model.document(*model.document_tokenizer(["who built it"]))
    short = model.query(*model.query_tokenizer(["the owl"], maxlen=6))
    padded = model.query(*model.query_tokenizer(["the owl"], maxlen=20))
    assert padded.mask.sum() == short.mask.sum()
    wanted = maxsim_table(short.embeddings, [document.embeddings[0][document.mask[0]]], relative=SAME_NETWORK)
    assert_within(model.score(padded.embeddings, document.embeddings, document.mask), *wanted)


@torch.no_grad()
def test_skipped_ids_are_out_of_the_query_and_of_cross_attention(make):
    mapping = {
        "use_transformer_mapping_network": True,
        "transformer_mapping_config_base": "bert-base-uncased",
        "transformer_mapping_num_hidden_layers": 1,
        "transformer_mapping_config": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2},
    }
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    patches = {}
    for name, skip in (("all", []), ("skip", [PAD])):
        model = make("official", query_mask_input_ids_skip_list=skip, **mapping)
        for maxlen in (6, 20):
            query = model.query(*model.query_tokenizer(["the owl"], maxlen=maxlen), pixels)
            patches[name, maxlen] = query.embeddings[:, -4:]
            kept = query.mask[0, :maxlen].sum().item()
            assert kept == (4 if skip else maxlen - 1)  # of <s> ▁. ▁the ▁owl </s>, without <s>
    assert_vectors_near(patches["skip", 6], patches["skip", 20])
    assert (patches["all", 6] - patches["all", 20]).abs().max() > 1e-3


def test_it_is_saved_and_read_again(make, tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "saved")
    again = PreFLMR.from_pretrained(tmp_path / "saved")
    ours, theirs = official_state_dict(model), official_state_dict(again)
    assert "query_text_encoder.bert_model.encoder.layer.1.output.dense.weight" in ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.config == model.config
    ids = again.query_tokenizer(["红色 owl"]).input_ids
    assert torch.equal(ids, model.query_tokenizer(["红色 owl"]).input_ids)
    model.configure(query_maxlen=20, doc_maxlen=9)
    model.save_pretrained(tmp_path / "saved")
    again = PreFLMR.from_pretrained(tmp_path / "saved")
    assert (again.query_tokenizer.maxlen, again.document_tokenizer.maxlen) == (20, 9)
    # Where the official code looks for it.
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["text_config"]["query_maxlen"] == 20


def test_the_published_one_has_the_size_of_its_file():
    """One bge-m3 for queries and passages, ViT-L and its projection: 3.53 GB at 4 bytes a parameter."""
    value = {
        "text_config": {"text_encoder_base_model": "BAAI/bge-m3"},
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    }
    with torch.device("meta"):
        model = PreFLMRNetwork(PreFLMRConfig.from_json(value))
    assert sum(parameter.numel() for parameter in model.parameters()) == 881_557_504


def test_a_tokenizer_of_another_model_is_refused(make, tmp_path):
    make()
    config = PreFLMRConfig.from_json(configuration("flmr") | {"text_config": TEXT | {"vocab_size": 10}})
    with pytest.raises(M2KRError, match="10"):
        QueryTokenizer(tmp_path / "made" / QUERY_FOLDER, config)
    (tmp_path / "made" / QUERY_FOLDER / "tokenizer_config.json").unlink()
    with pytest.raises(M2KRError, match=r"tokenizer_config\.json is missing"):
        QueryTokenizer(tmp_path / "made" / QUERY_FOLDER, config)
