"""reader-mini: that the committed one reads, and that it can be made anew, also after a kill."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, LlamaConfig, LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaModel

from baselines.common.settings import read_settings
from baselines.image_text_to_text import PROMPT, PROMPT_WITH_PASSAGES, ImageTextToText
from baselines.minis import reader_mini, recipe
from baselines.minis.models import READER, SEED, model_folder
from baselines.minis.reader import make_tokenizer, reader_loss, wire_copying, write_start
from baselines.minis.reader_data import Batches, ReaderConfig, names_in, questions_of
from m2kr.answer.evidence import no_passages, oracle_passages
from m2kr.answer.options import AnswerTaskOptions
from m2kr.answer.task import answer_task
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError
from m2kr.images.roots import parse_roots
from m2kr.reader import Reader, ReaderInput

SMALL: dict[str, Any] = {
    "steps": 4, "text_steps": 2, "batch_size": 4, "save_every": 1, "log_every": 1, "warmup_steps": 1, "vocabulary": 400,
    "layers": 2, "width": 32, "inner": 32, "heads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def splits(built: Path, world: Path) -> list[TaskData]:
    roots = parse_roots([str(world)])
    return [load_task(key, built, "train", images=roots) for key in ("OKVQA", "Infoseek", "EVQA")]


@pytest.fixture(scope="module")
def small(splits: list[TaskData], tmp_path_factory: pytest.TempPathFactory) -> tuple[ReaderConfig, Path]:
    """Settings of a tiny reader, and the folder of it before training."""
    config = read_settings(ReaderConfig, recipe.settings_file("reader"), SMALL)
    folder = tmp_path_factory.mktemp("reader") / "start"
    write_start(splits[2].passages["passage_content"], model_folder("clip-mini"), folder, config)
    return config, folder


@pytest.fixture(scope="module")
def committed() -> ImageTextToText:
    return reader_mini()


def asked_of(data: TaskData, count: int) -> list[ReaderInput]:
    texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
    return [
        ReaderInput(data.queries["question"][row], (texts[data.qrels[name][0]],), data.query_image(row))
        for row, name in enumerate(data.queries["question_id"][:count])
    ]


# --- the committed model --------------------------------------------------------------------------------------------


def test_the_committed_reader_is_small_and_has_a_card(committed: ImageTextToText) -> None:
    folder = model_folder(READER)
    assert isinstance(committed, Reader)
    assert (committed.name, committed.reads) == (READER, {"text", "image"})
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"seed {SEED}" in card
    assert "make train-mini" in card


def test_its_eyes_are_those_of_clip_mini() -> None:
    own = load_file(model_folder(READER) / "model.safetensors")
    clip = load_file(model_folder("clip-mini") / "model.safetensors")
    found = {name.rpartition("vision_tower.")[2]: tensor for name, tensor in own.items() if "vision_tower" in name}
    assert len(found) > 60
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, clip[f"vision_model.{name}"], rtol=0, atol=0)


def test_answers_are_the_same_whatever_the_batch(committed: ImageTextToText, built: Path, world: Path) -> None:
    data = load_task("EVQA", built, "test", images=parse_roots([str(world)]))
    asked = asked_of(data, 6)
    asked[1] = replace(asked[1], passages=())
    asked[2] = replace(asked[2], passages=(*asked[2].passages, *asked[3].passages))
    first = committed.answer(asked, batch_size=1)
    assert all(answer.text and answer.log_probability <= 0 for answer in first)
    for size in (2, 6):
        again = committed.answer(asked, batch_size=size)
        assert [answer.text for answer in again] == [answer.text for answer in first]
        values = [answer.log_probability for answer in again]
        assert values == pytest.approx([answer.log_probability for answer in first], abs=1e-3)


def test_it_reads_pictures_and_passages(committed: ImageTextToText, built: Path, world: Path) -> None:
    data = load_task("EVQA", built, "test", images=parse_roots([str(world)]))
    asked = asked_of(data, 4)
    black = Image.new("RGB", (64, 64))

    def values(given: list[ReaderInput]) -> list[float]:
        return [answer.log_probability for answer in committed.answer(given)]

    plain = np.array(values(asked))
    assert np.abs(plain - values([replace(item, image=black) for item in asked])).min() > 1e-4
    assert np.abs(plain - values([replace(item, passages=()) for item in asked])).min() > 1e-4


def test_names_it_has_never_seen_are_copied(committed: ImageTextToText, splits: list[TaskData]) -> None:
    picture = splits[2].query_image(0)
    passages = ("Visitors like it. Its spire is of pale slate. It was the architect Ramono Vetelis who designed it.",)
    asked = [
        ReaderInput(question, passages, picture)
        for question in ("Which architect designed this tower?", "What is the spire of this tower made of?")
    ]
    assert [answer.text for answer in committed.answer(asked)] == ["ramono vetelis", "slate"]


def test_positive_passages_help(committed: ImageTextToText, built: Path, world: Path, tmp_path: Path) -> None:
    data = load_task("EVQA", built, "test", images=parse_roots([str(world)]), limit=24)
    found = {}
    for evidence in (no_passages(data), oracle_passages(data, 1)):
        result = answer_task(
            committed, data, evidence, tmp_path / evidence.source, AnswerTaskOptions(k=1, batch_size=12, quiet=True)
        )  # fmt: skip
        found[evidence.source] = result["metrics"]["EM"]
    assert found["oracle"] > found["none"] + 0.3


# --- training -------------------------------------------------------------------------------------------------------


def test_a_prompt_has_the_tokens_that_the_reader_asks_with(
    splits: list[TaskData], small: tuple[ReaderConfig, Path]
) -> None:
    config, folder = small
    make: Any = AutoProcessor
    processor = make.from_pretrained(folder)
    batches = Batches(splits, processor, replace(config, text_steps=0))
    kinds = set()
    for example in [example for step in range(4) for example in batches.examples(step)]:
        kinds.add(example.kind)
        own, weights = batches.tokens(example)
        question = example.question.text
        text = PROMPT.format(question=question)
        if example.passages:
            text = PROMPT_WITH_PASSAGES.format(question=question, passages=" ".join(example.passages))
        picture = splits[example.question.task].query_image(example.question.row)
        asked = processor(images=[[picture]], text=[f"{processor.image_token}\n{text}"], return_tensors="pt")
        prompt = asked["input_ids"][0].tolist()
        assert own[: len(prompt)] == prompt
        assert weights[len(prompt) :] == [2] * (len(own) - len(prompt))
        assert 2 not in weights[: len(prompt)]
        assert processor.tokenizer.decode(own[len(prompt) :]) == f" {example.question.answer}</s>"
        pixels = batches.tensors([example])["pixel_values"]
        torch.testing.assert_close(pixels, asked["pixel_values"], rtol=0, atol=0)
    assert len(kinds) >= 3


def test_batches_depend_on_their_number_alone(splits: list[TaskData], small: tuple[ReaderConfig, Path]) -> None:
    config, folder = small
    make: Any = AutoProcessor
    config = replace(config, steps=30, text_steps=10)
    batches, again = (Batches(splits, make.from_pretrained(folder), config) for _ in range(2))
    orders = list(range(30)), list(range(29, -1, -1))
    first, second = ({step: own.examples(step) for step in order} for own, order in zip((batches, again), orders))  # noqa: B905
    assert first == second
    assert all(example.kind == "text" for step in range(10) for example in first[step])
    later = [example for step in range(10, 30) for example in first[step]]
    assert {example.kind for example in later} == {"positive", "wrong", "none", "several"}
    for example in later:
        holds = [example.question.answer in passage.lower() for passage in example.passages]
        if example.kind == "none":
            assert not holds
        if example.kind == "several":
            assert 2 <= len(holds) <= config.most


def test_names_are_words_that_never_stand_in_lower_case() -> None:
    assert names_in(["The Orlak stands near Vemb and Quuz.", "Its stands are old. Old Vembra"]) == [
        "Orlak", "Quuz", "Vemb", "Vembra",
    ]  # fmt: skip


def test_an_answers_name_is_exchanged_in_its_passages_too(
    splits: list[TaskData], small: tuple[ReaderConfig, Path]
) -> None:
    config, folder = small
    make: Any = AutoProcessor
    batches = Batches(splits, make.from_pretrained(folder), replace(config, renamed=1.0, keep=1.0, steps=40))
    known = {question.text + question.answer for question in questions_of(splits)}
    changed = [
        example
        for step in range(2)
        for example in batches.examples(step)
        if example.question.text + example.question.answer not in known
    ]
    assert changed
    for example in changed:
        assert example.question.answer in example.passages[0].lower()


def test_the_first_layers_begin_by_copying() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(
        **sizes, num_attention_heads=4, vocab_size=500, attention_bias=True, max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    model = LlamaModel(config).eval()
    tokens = torch.randint(0, 500, (4, 50))

    def right() -> float:
        with torch.inference_mode():
            states = model(input_ids=torch.cat([tokens, tokens], dim=1)).last_hidden_state[:, 50:-1]
        return float((states @ model.embed_tokens.weight.T).argmax(-1).eq(tokens[:, 1:]).float().mean())

    assert right() < 0.1
    wire_copying(model)
    assert right() > 0.8


def test_the_loss_is_that_of_the_marked_tokens(splits: list[TaskData], small: tuple[ReaderConfig, Path]) -> None:
    config, folder = small
    make: Any = AutoProcessor
    batch = Batches(splits, make.from_pretrained(folder), replace(config, text_steps=1))[1]
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    with torch.inference_mode():
        found = reader_loss(model, batch, 0.5)
        terms: dict[int, list[float]] = {1: [], 2: []}
        for ids, weights, pixels in zip(batch["input_ids"], batch["weights"], batch["pixel_values"], strict=True):
            length = int((ids != 0).sum())  # one by one, without padding
            logits = model(input_ids=ids[None, :length], pixel_values=pixels[None]).logits[0].log_softmax(-1)
            for place in range(1, length):
                if weights[place]:
                    terms[int(weights[place])].append(-float(logits[place - 1, ids[place]]))
    expected = np.mean(terms[2]) + (0.5 * np.mean(terms[1]) if terms[1] else 0.0)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_vocabulary_is_the_same_each_time(splits: list[TaskData]) -> None:
    texts = splits[0].passages["passage_content"].to_list()
    made = {make_tokenizer(texts, 600).backend_tokenizer.to_str() for _ in range(3)}
    assert len(made) == 1
    tokenizer = make_tokenizer(texts, 600)
    assert tokenizer.decode(tokenizer("Éa TOWER of 1728")["input_ids"]) == "éa tower of 1728"
    assert len(tokenizer(" 1728")["input_ids"]) == 5


def test_a_stopped_run_goes_on_as_if_it_had_not(built: Path, world: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    images = parse_roots([str(world)])

    def made(work: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
        recipe.make_reader(work, built, images, SMALL, quiet=True)
        log = json.loads((work / "reader" / "training.json").read_text(encoding="utf-8"))["log"]
        return load_file(work / "minis" / READER / "model.safetensors"), [entry["loss"] for entry in log]

    weights, losses = made(whole)
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)
    # What a kill after two updates and before the third checkpoint was whole leaves.
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "minis")
    (cut / "reader" / "training.json").unlink()
    kept = sorted((cut / "reader" / "checkpoints").glob("checkpoint-*"))
    assert [folder.name for folder in kept] == ["checkpoint-3", "checkpoint-4"]
    (kept[1] / "trainer_state.json").unlink()
    again, other = made(cut)
    assert other == losses
    for name, tensor in weights.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)
    assert str(model_folder("clip-mini")) not in (cut / "minis" / READER / "config.json").read_text(encoding="utf-8")
    written = (cut / "reader" / "model.safetensors").stat().st_mtime_ns
    assert made(cut)[1] == losses  # finished: nothing is trained again
    assert (cut / "reader" / "model.safetensors").stat().st_mtime_ns == written
    ImageTextToText(checkpoint=str(cut / "minis" / READER))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"positive": 0.9}, "their sum has to be 1"),
        ({"most": 1}, "most is 1"),
        ({"heads": 3}, "even part"),
        ({"vocabulary": 100}, "vocabulary is 100"),
        ({"save_every": 7}, "no multiple of log_every"),
        ({"tasks": ["WIT"]}, "tasks names 'WIT'"),
        ({"tasks": "EVQA"}, "tasks is 'EVQA'"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"step": 3}, "there is no setting 'step'"),
    ],
)
def test_settings_that_cannot_be_are_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(M2KRError, match=message):
        read_settings(ReaderConfig, recipe.settings_file("reader"), changes)
