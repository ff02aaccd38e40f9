"""The order, the negatives and the batches of a training run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.bm25 import BM25
from baselines.common.settings import read_settings
from baselines.preflmr.training.assemble import assemble
from baselines.preflmr.training.batches import Collator, TrainingTask, draw_order, load_training
from baselines.preflmr.training.negatives import mine
from baselines.preflmr.training.stages import StageConfig
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.images.roots import ImageRoots, parse_roots
from m2kr.metrics import contains_answer
from m2kr.tasks import TASKS

CONFIG = StageConfig(
    stage=4, tasks={"EVQA": 1.0}, steps=2, batch_size=4, learning_rate=1e-3, evaluate_every=2, log_every=1
)


def made_split(positives: list[list[int]], passages: int) -> TaskData:
    """A split with given positives."""
    queries = pl.DataFrame(
        {
            "question_id": [f"q{row}" for row in range(len(positives))],
            "question": [f"question {row}?" for row in range(len(positives))],
            "instruction": ["Answer:"] * len(positives),
        }
    )
    table = pl.DataFrame(
        {
            "passage_id": [f"p{row}" for row in range(passages)],
            "passage_content": [f"text {r}" for r in range(passages)],
        }
    )
    qrels = {f"q{row}": [f"p{passage}" for passage in own] for row, own in enumerate(positives)}
    return TaskData(TASKS["MSMARCO"], "train", queries, table, qrels, None, "made")


def made(positives: list[list[int]], passages: int) -> TrainingTask:
    """A task with given positives."""
    return TrainingTask(made_split(positives, passages))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 11), max_size=3, unique=True), min_size=8, max_size=30), st.integers(0, 3))
def test_no_two_queries_of_a_batch_share_a_positive(positives: list[list[int]], seed: int) -> None:
    if not any(positives):
        with pytest.raises(M2KRError, match="has a positive passage"):
            made(positives, 12)
        return
    task = made(positives, 12)
    sets = [set(own) for own in positives if own]
    # A query that shares a positive with every other one has none to stand beside.
    if any(all(first & second for second in sets) for first in sets):
        return
    order = draw_order([task], [1.0], 12, 2, seed)
    for batch in order.query:
        own = [set(task.positives(query).tolist()) for query in batch]
        assert not own[0] & own[1]
        assert len(set(batch.tolist())) == 2


def test_every_query_comes_once_a_round() -> None:
    task = made([[row] for row in range(12)], 12)
    order = draw_order([task], [1.0], 6, 4, 0)
    for first in (0, 3):
        assert sorted(order.query[first : first + 3].ravel().tolist()) == list(range(12))
    assert order.query[:3].tolist() != order.query[3:].tolist()
    again = draw_order([task], [1.0], 6, 4, 0)
    np.testing.assert_array_equal(order.query, again.query)
    assert draw_order([task], [1.0], 6, 4, 1).query.tolist() != order.query.tolist()
    # A longer run begins like a shorter one.
    np.testing.assert_array_equal(draw_order([task], [1.0], 9, 4, 0).query[:6], order.query)


def test_tasks_are_drawn_by_their_shares() -> None:
    tasks = [made([[row] for row in range(8)], 8) for _ in range(3)]
    order = draw_order(tasks, [1.0, 2.0, 5.0], 4000, 2, 0)
    shares = np.bincount(order.task, minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.125, 0.25, 0.625], atol=0.02)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 99))
def test_negatives_are_no_positives(number: int, mined: int, seed: int) -> None:
    hard = np.array([[5, 4, -1, -1], [3, -1, -1, -1]], dtype=np.int64)
    task = TrainingTask(made_split([[0, 1], [2]], 8), hard)
    for query in (0, 1):
        found = task.negatives(query, number, min(mined, number), 4, np.random.default_rng(seed))
        assert len(set(found)) == len(found) == number
        assert not set(found) & set(task.positives(query).tolist())
        wanted = min(mined, number, int((hard[query] >= 0).sum()))
        assert len(set(found) & set(hard[query].tolist())) >= wanted


def test_queries_that_share_their_positives_fill_no_batch() -> None:
    with pytest.raises(M2KRError, match="lower batch_size"):
        draw_order([made([[0, 1], [1, 2], [1]], 4)], [1.0], 1, 2, 0)


def test_too_few_passages_for_the_negatives() -> None:
    with pytest.raises(M2KRError, match="lower negatives"):
        made([[0], [1]], 3).negatives(0, 3, 0, 1, np.random.default_rng(0))


def test_a_positive_that_is_not_there() -> None:
    with pytest.raises(M2KRError, match="query q0 of MSMARCO names the passage 'p9'"):
        made([[9], [1]], 3)


def test_mined_passages_are_those_of_bm25_that_are_no_answers(built: Path, tmp_path: Path) -> None:
    data = load_task("EVQA", built, "train")
    data = replace(data, queries=data.queries.head(12), qrels=dict(list(data.qrels.items())[:12]))
    found = mine(data, 5, tmp_path, quiet=True)
    contents, ids = data.passages["passage_content"].to_list(), data.passages["passage_id"].to_list()
    bm25 = BM25()
    bm25.index(contents)
    for row, (name, positives) in enumerate(data.qrels.items()):
        own = [ids.index(positive) for positive in positives]
        searched = f"{data.queries['question'][row]} {contents[own[0]]}"
        answers = (data.answers or {})[name]
        expected = [
            passage
            for passage in bm25.rank([searched], 10)[1][0].tolist()
            if passage not in own and not contains_answer(contents[passage], answers)
        ][:5]
        assert found[row][: len(expected)].tolist() == expected
        assert (found[row][len(expected) :] == -1).all()
    files = list(tmp_path.iterdir())
    np.save(files[0], found + 1)  # what is there is not computed again
    np.testing.assert_array_equal(mine(data, 5, tmp_path, quiet=True), found + 1)


class CountingRoots(ImageRoots):
    """Counts the pictures that were opened."""

    opened = 0

    def for_task(self, task: Any) -> CountingRoots:
        roots = CountingRoots(super().for_task(task).folders, prefix=task.image_root)
        roots._counted = self  # type: ignore[attr-defined]
        return roots

    def open(self, path: str) -> Any:
        type(self).opened += 1
        return super().open(path)


def test_pictures_are_decoded_with_their_batch(built: Path, world: Path, tmp_path: Path) -> None:
    CountingRoots.opened = 0
    tasks = load_training(CONFIG, built, CountingRoots(parse_roots([str(world)]).folders), tmp_path)
    seen: list[Any] = []

    def preprocess(inputs: Any, task: str) -> dict[str, Any]:
        seen.append((task, inputs))
        return {"input_ids": len(inputs)}

    collate = Collator(tasks, preprocess, replace(CONFIG, negatives=2), prepare=lambda image: image.size)
    order = draw_order(tasks, [1.0], 2, 4, 0)
    assert CountingRoots.opened == 0
    entries = [{"task": 0, "query": int(query), "place": place} for place, query in enumerate(order.query[0])]
    batch = collate(entries)
    assert CountingRoots.opened == 4
    assert batch == {
        "query_input_ids": 4, "positive_input_ids": 4, "negative_1_input_ids": 4, "negative_2_input_ids": 4,
    }  # fmt: skip
    assert seen[0][1][0]["image"] == (160, 160)
    first = list(seen)
    seen.clear()
    collate(entries)
    assert seen == first  # the same place in the order, the same choices


def test_instructions_are_fixed_sampled_or_none(built: Path, world: Path, tmp_path: Path) -> None:
    (task,) = load_training(CONFIG, built, parse_roots([str(world)]), tmp_path)
    row = load_task("EVQA", built, "train").queries.row(0, named=True)

    def texts(kind: Any) -> set[str]:
        return {task.text(0, kind, np.random.default_rng(seed)) for seed in range(30)}

    assert texts("fixed") == {f"{row['instruction']} {row['question']}"}
    assert texts("none") == {row["question"]}
    ended = task.text(0, "fixed", np.random.default_rng(0), "<END>")
    assert ended == f"{row['instruction'].removesuffix(':')}<END> {row['question']}"
    sampled = texts("sampled")
    assert len(sampled) > 4
    assert all(text.endswith(f": {row['question']}") for text in sampled)


def test_images_are_asked_for(built: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="Name their folder with --images"):
        load_training(CONFIG, built, None, tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps = ", "is no TOML"),
        ("[tasks]\nEVQA = 'much'", "tasks is {'EVQA': 'much'}"),
        ("query_text = 1", "query_text is 1. Expected `bool`"),
        ("seed = -1", "seed is -1"),
        ("mined = 2", "more than the 1 negatives"),
        ("instructions = 'some'", "is one of fixed, sampled, none"),
        ("log_every = 3", "no multiple of log_every"),
        ("validate = 'EVQA'", "validate is 'EVQA'"),
        ("batch_size = 1", "batch_size is 1. Expected `int` >= 2"),
    ],
)
def test_settings_that_cannot_be(line: str, message: str, tmp_path: Path) -> None:
    values = {"stage": 4, "tasks": {"EVQA": 1.0}, "steps": 2, "batch_size": 4, "learning_rate": 0.1}
    name = line.partition(" ")[0]
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in (name, "tasks")]
    if not line.startswith("[tasks]"):
        lines.append("tasks = { EVQA = 1.0 }")
    path = tmp_path / "settings.toml"
    path.write_text("\n".join([*lines, line]))
    with pytest.raises(M2KRError, match=r"settings\.toml") as caught:
        read_settings(StageConfig, path)
    assert message in str(caught.value)


def test_an_untrained_model_is_assembled_from_a_bert_and_a_clip(tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

    from baselines.preflmr import PreFLMR

    words = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".:?,abcdefgh"]
    words += [f"##{letter}" for letter in "abcdefgh"]
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert, clip = tmp_path / "bert", tmp_path / "clip"
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(bert)
    (bert / "vocab.txt").write_text("\n".join(words) + "\n")
    (bert / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    CLIPModel(
        CLIPConfig(
            text_config={**sizes, "vocab_size": 20},
            vision_config={**sizes, "image_size": 32, "patch_size": 8},
            projection_dim=8,
        )
    ).save_pretrained(clip)
    model = assemble(str(bert), str(clip), tmp_path / "new", dim=8, prefix=3, query_maxlen=16, doc_maxlen=64, seed=1)
    loaded = PreFLMR.from_pretrained(tmp_path / "new")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    source = BertModel.from_pretrained(bert).state_dict()
    for part in (loaded.query_text_encoder, loaded.document_text_encoder):
        assert all(torch.equal(tensor, source[name]) for name, tensor in part.state_dict().items() if name in source)
    vision = CLIPModel.from_pretrained(clip).vision_model.state_dict()
    assert loaded.vision_encoder is not None
    assert all(torch.equal(tensor, vision[name]) for name, tensor in loaded.vision_encoder.state_dict().items())
    (vectors,) = loaded.encode_query(["find it: a bed?"])
    assert vectors.shape[1] == 8
    assert (loaded.query_tokenizer.maxlen, loaded.document_tokenizer.maxlen) == (16, 64)  # type: ignore[union-attr]
