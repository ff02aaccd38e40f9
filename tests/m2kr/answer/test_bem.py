"""The answer-equivalence model, with a tiny random BERT."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2kr.answer.bem import EquivalenceModel
from m2kr.errors import M2KRError
from tests.baselines.tampered import with_a_token_more, with_tensors


@pytest.fixture(scope="module", params=[2, 3])
def bert(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A BERT classifier of a few thousand weights, with two or three token types."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-bem"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "owl", "bird", "what", "is", "it", "?", "strasse"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        type_vocab_size=request.param,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.5)
    model.save_pretrained(folder)
    return folder


def test_the_equivalence_model_reads_candidate_reference_and_question(bert: Path) -> None:
    import torch
    from transformers import BertForSequenceClassification

    judge = EquivalenceModel(str(bert), batch_size=2)
    triples = [("what is it ?", "owl", "bird"), ("what ?", "owl", ""), ("is it owl ?", "bird bird", "owl")]
    triples.append(("ＷＨＡＴ ?", "Straße", "ＯＷＬ"))
    triples.append(("what is it ?", "owl", "bird " * 30))
    found = judge(*(list(part) for part in zip(*triples, strict=True)))
    ids = {"owl": 5, "bird": 6, "what": 7, "is": 8, "it": 9, "?": 10, "strasse": 11}
    triples[3:] = [("what ?", "strasse", "owl"), ("what is it ?", "owl", "bird " * 7)]
    model = BertForSequenceClassification.from_pretrained(bert).eval()
    for (question, reference, said), value in zip(triples, found, strict=True):
        parts = [[ids[word] for word in text.split()] + [3] for text in (said, reference, question)]
        types = (
            [0] * (1 + len(parts[0])) + [1] * len(parts[1]) + [min(2, model.config.type_vocab_size - 1)] * len(parts[2])
        )
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([[2, *parts[0], *parts[1], *parts[2]]]),
                token_type_ids=torch.tensor([types]),
            ).logits
        assert value == pytest.approx(float(logits.softmax(-1)[0, 1]), abs=1e-5)
    assert len({round(value, 4) for value in found}) == len(triples)
    assert judge.settings["checkpoint"] == "tiny-bem"
    assert "not the official" in judge.settings["kind"]
    assert judge([], [], []) == []


def test_what_is_no_equivalence_model_is_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="missing is no folder here"):
        EquivalenceModel("missing")
    with pytest.raises(M2KRError, match="could not be loaded as a sequence classifier"):
        EquivalenceModel(str(tmp_path))
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(bert)
    tokenizer.save_pretrained(tmp_path)
    config = BertConfig.from_pretrained(bert, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(M2KRError, match="has two classes: this one has 3"):
        EquivalenceModel(str(tmp_path))


def test_weights_that_nothing_takes_are_refused_by_name(bert: Path, tmp_path: Path) -> None:
    folder = with_tensors(bert, tmp_path / "bem", "adapter.weight")
    with pytest.raises(M2KRError, match=r"its checkpoint has, to no use, adapter\.weight"):
        EquivalenceModel(str(folder))


def test_a_tokenizer_with_a_token_that_the_model_does_not_know_is_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="token ids up to 12, and the model knows 12 tokens"):
        EquivalenceModel(str(with_a_token_more(bert, tmp_path / "bem")))
