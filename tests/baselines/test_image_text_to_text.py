"""Readers with tiny random models of real architectures: BLIP-2 with T5, and LLaVA with a chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    AutoProcessor,
    Blip2ForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    LlavaForConditionalGeneration,
)

from baselines.image_text_to_text import ImageTextToText, blip2_flan_t5_xl, read_answers, shares
from m2kr.errors import M2KRError
from m2kr.reader import Reader, ReaderInput
from tests.baselines.images import random_images
from tests.baselines.readers import SHARED, SIZE, write_llava
from tests.baselines.tampered import FAULTS, tampered, with_a_token_more, with_tensors
from tests.baselines.tiny_models import byte_tokenizer


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llava"
    write_llava(folder)
    return folder


def questions() -> list[ReaderInput]:
    texts = ["What is it?", "", "Where does the owl live, and what does it eat? " * 3, "Wer?", "é 🦉?"]
    passages: list[tuple[str, ...]] = [
        (),
        ("An owl lives in trees.",),
        ("Mice.", "Trees."),
        ("long " * 60, "short"),
        (),
    ]
    return [
        ReaderInput(text, given, image) for text, given, image in zip(texts, passages, random_images(5), strict=True)
    ]


def reference(folder: Path, text: str, image: Image.Image, steps: int) -> tuple[str, float]:
    """Answer one prompt greedily with one plain call of the model for each token."""
    make = Blip2ForConditionalGeneration if "blip2" in folder.name else LlavaForConditionalGeneration
    model, processor = make.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    inputs = processor(images=image, text=text, return_tensors="pt")
    total, made = 0.0, []
    for _ in range(steps):
        with torch.no_grad():
            if make is Blip2ForConditionalGeneration:
                logits = model(**inputs, decoder_input_ids=torch.tensor([[0, *made]])).logits
            else:
                ids = torch.cat([inputs["input_ids"], torch.tensor([made], dtype=torch.long)], dim=1)
                logits = model(ids, pixel_values=inputs["pixel_values"], attention_mask=torch.ones_like(ids)).logits
        probabilities = logits[0, -1].log_softmax(-1)
        made.append(int(probabilities.argmax()))
        total += float(probabilities[made[-1]])
        if made[-1] == 1:
            break
    return processor.tokenizer.decode(made, skip_special_tokens=True).strip(), total


def test_blip2_answers_as_a_plain_loop_does_whatever_the_batch(blip2: Path) -> None:
    made = ImageTextToText(checkpoint=str(blip2), max_new_tokens="5")
    assert isinstance(made, Reader)
    prompts = [
        "Question: What is it? Short answer:",
        "Context: An owl lives in trees. Question:  Short answer:",
        f"Context: Mice. Trees. Question: {questions()[2].question} Short answer:",
        f"Context: {'long ' * 60} short Question: Wer? Short answer:",
        "Question: é 🦉? Short answer:",
    ]
    images = [item.image for item in questions() if item.image]
    expected = [reference(blip2, text, image, 5) for text, image in zip(prompts, images, strict=True)]
    assert len({text for text, _ in expected}) > 2
    for batch_size in (1, 2, 8):
        answers = made.answer(questions(), batch_size=batch_size)
        assert [answer.text for answer in answers] == [text for text, _ in expected]
        values = [answer.log_probability for answer in answers]
        assert values == pytest.approx([value for _, value in expected], abs=1e-3)


def test_a_chat_model_answers_as_a_plain_loop_does_whatever_the_batch(llava: Path) -> None:
    made = ImageTextToText(checkpoint=str(llava), max_new_tokens="5", prompt="Q: {question}")
    assert made.settings["chat_template"] is True
    asked = [ReaderInput(item.question, (), item.image) for item in questions()]
    expected = [
        reference(llava, f"USER: <image> Q: {item.question} ASSISTANT:", item.image, 5) for item in asked if item.image
    ]
    assert len({text for text, _ in expected}) > 2
    for batch_size in (1, 8):
        answers = made.answer(asked, batch_size=batch_size)
        assert [answer.text for answer in answers] == [text for text, _ in expected]
        values = [answer.log_probability for answer in answers]
        assert values == pytest.approx([value for _, value in expected], abs=1e-3)


def test_tokens_after_the_end_do_not_count() -> None:
    tokenizer = byte_tokenizer(end=True)
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.3, 0.5]]))
    word = tokenizer.convert_tokens_to_ids("a")
    wide = torch.full((2, word + 1), -1e9)
    wide[:, [0, 1, word]] = logits
    sequences = torch.tensor([[0, word, 1, 0], [0, 1, 0, 0]])
    found = read_answers(tokenizer, sequences, (wide, wide, wide), 1)
    assert [answer.text for answer in found] == ["a", ""]
    assert found[0].log_probability == pytest.approx(np.log(0.3) + np.log(0.6), abs=1e-5)
    assert found[1].log_probability == pytest.approx(np.log(0.3), abs=1e-5)


def test_passages_are_cut_to_the_room_and_the_question_is_not(blip2: Path) -> None:
    made = ImageTextToText(checkpoint=str(blip2), max_length="120")
    image = random_images(1)[0]
    question = "How high is the tower?"
    text = made.prompt(ReaderInput(question, ("x" * 300, "short", "y" * 300), image))
    assert len(byte_tokenizer(end=True)(text)["input_ids"]) == 120
    assert f"short yy" in text and text.endswith(f"Question: {question} Short answer:")  # noqa: F541, PT018
    assert abs(text.count("x") - text.count("y")) <= 2
    long = question * 20
    assert made.prompt(ReaderInput(long, ("x" * 9,), image)) == f"Context:  Question: {long} Short answer:"
    assert made.prompt(ReaderInput(question, (), image)) == f"Question: {question} Short answer:"


@given(st.lists(st.integers(0, 30), max_size=6), st.integers(0, 80))
def test_the_room_is_shared_so_that_the_longest_give_first(lengths: list[int], room: int) -> None:
    kept = shares(lengths, room)
    assert all(size <= length for size, length in zip(kept, lengths, strict=True))
    assert sum(kept) == min(sum(lengths), room)
    cut = [size for size, length in zip(kept, lengths, strict=True) if size < length]
    assert all(size <= min(cut) + 1 for size in kept) if cut else kept == lengths


def test_a_reader_says_what_its_answers_depend_on(blip2: Path) -> None:
    made = ImageTextToText(checkpoint=str(blip2), dtype="bfloat16", prompt="Q {question}", max_new_tokens="3")
    assert made.name == "tiny-blip2"
    assert made.reads == {"text", "image"}
    settings = made.settings
    assert json.loads(json.dumps(settings)) == settings
    assert (settings["architecture"], settings["chat_template"]) == ("Blip2ForConditionalGeneration", False)
    assert (settings["prompt"], settings["max_new_tokens"], settings["max_length"]) == ("Q {question}", 3, 512)
    assert len(made.answer(questions())) == 5
    named = blip2_flan_t5_xl(checkpoint=str(blip2), max_new_tokens="3")
    assert named.settings["checkpoint_sha256"] == settings["checkpoint_sha256"]
    assert made.answer([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": "0"}, "max_length=0: it has to be a whole number from 1"),
        ({"max_new_tokens": "x"}, "max_new_tokens=x: it has to be"),
        ({"prompt": "what?"}, r"--option prompt: 'what\?' lacks \{question\}"),
        ({"prompt_with_passages": "{question}"}, r"lacks \{passages\}"),
        ({"prompt": "{question} {colour}"}, "cannot be filled in"),
        ({"checkpoint": "missing folder"}, "could not be loaded"),
        ({"checkpoint": None}, "has no model of its own"),
    ],
)
def test_what_cannot_be_a_reader_is_said(blip2: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(M2KRError, match=message):
        ImageTextToText(**{"checkpoint": str(blip2), **options})


def test_a_question_without_a_picture_is_refused(blip2: Path) -> None:
    made = ImageTextToText(checkpoint=str(blip2))
    with pytest.raises(M2KRError, match="tiny-blip2 reads a picture with every question, and one has none"):
        made.answer([ReaderInput("What is it?")])


def test_folders_of_other_things_are_refused(blip2: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="is no model that this version of transformers knows"):
        ImageTextToText(checkpoint=str(tmp_path))
    towers = {**SHARED, "projection_dim": 8}
    CLIPModel(
        CLIPConfig(text_config=towers, vision_config={**towers, "image_size": SIZE, "patch_size": 8})
    ).save_pretrained(tmp_path / "clip")
    with pytest.raises(M2KRError, match="holds a model of the type clip, which is no image-text-to-text model"):
        ImageTextToText(checkpoint=str(tmp_path / "clip"))
    shutil.copytree(blip2, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "processor*"))
    with pytest.raises(M2KRError, match=r"the processor in .*bare could not be loaded"):
        ImageTextToText(checkpoint=str(tmp_path / "bare"))


def test_a_processor_that_fails_at_its_first_picture_is_refused_when_it_is_loaded(llava: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(llava, folder)
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "patch_size": settings["patch_size"] + 0.5}), encoding="utf-8")
    with pytest.raises(M2KRError, match=r"half cannot prepare a picture and a question"):
        ImageTextToText(checkpoint=str(folder))


def test_a_tokenizer_with_a_token_that_the_model_does_not_know_is_refused(blip2: Path, tmp_path: Path) -> None:
    folder = with_a_token_more(blip2, tmp_path / "more")
    with pytest.raises(M2KRError, match="do not belong together"):
        ImageTextToText(checkpoint=str(folder))


def test_code_beside_a_model_is_not_run(blip2: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(blip2, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    mapping = {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": mapping}))
    with pytest.raises(M2KRError, match="is no model that this version of transformers knows"):
        ImageTextToText(checkpoint=str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("blip2", "language_model.encoder.block.1.layer.0.SelfAttention.q.weight"),
        ("llava", "language_model.model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused_by_name(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, name: str, fault: str
) -> None:
    folder = tampered(request.getfixturevalue(kind), tmp_path / kind, fault, name)
    with pytest.raises(M2KRError, match=FAULTS[fault].format(r"\S*" + name.split(".", 2)[2])):
        ImageTextToText(checkpoint=str(folder))


def test_tensors_that_official_files_hold_besides_are_no_fault(blip2: Path, tmp_path: Path) -> None:
    bias = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    names = ("vision_model.embeddings.position_ids", f"language_model.{bias}")
    asked = [question for question in questions() if question.image is not None][:2]
    one, other = (
        ImageTextToText(checkpoint=str(path)) for path in (blip2, with_tensors(blip2, tmp_path / "b", *names))
    )
    assert one.answer(asked) == other.answer(asked)
