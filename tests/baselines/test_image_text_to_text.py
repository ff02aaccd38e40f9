"""Readers with tiny random models of real architectures: BLIP-2 with T5, and LLaVA with a chat template."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
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
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    CLIPConfig,
    CLIPModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from baselines.bm25 import BM25
from baselines.image_text_to_text import ImageTextToText, blip2_flan_t5_xl, read_answers, shares
from m2kr.answer import generate
from m2kr.answer.__main__ import main
from m2kr.common import registry
from m2kr.dataset import load_task
from m2kr.errors import M2KRError
from m2kr.evaluate.options import TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.reader import Reader, ReaderInput
from m2kr.results.answer_record import read_answer_result
from tests.baselines.images import random_images
from tests.baselines.tampered import FAULTS, tampered, with_tensors
from tests.baselines.tiny_models import byte_tokenizer

SHARED = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE = 16


def random_weights(model: Any, spread: float) -> Any:
    with torch.no_grad():  # at their usual size, random weights make all inputs nearly alike
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, spread)
    return model


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP-2 with T5 of a few thousand weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny-blip2"
    images = BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    processor = Blip2Processor(images, byte_tokenizer(end=True), num_query_tokens=4)
    size = len(processor.tokenizer)
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config={**SHARED, "image_size": SIZE, "patch_size": 8},
        qformer_config={**SHARED, "vocab_size": size, "encoder_hidden_size": 16, "cross_attention_frequency": 1},
        text_config={"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        | {"vocab_size": size, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 1},
        num_query_tokens=4,
        image_token_index=size - 1,
    )
    random_weights(Blip2ForConditionalGeneration(config), 0.6).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA with CLIP and Llama of a few thousand weights, and a chat template."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llava"
    tokenizer = byte_tokenizer("<image>", end=False)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    template = (
        "{% for m in messages %}USER: {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %} {{ c['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    processor = LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", chat_template=template,
        num_additional_image_tokens=1,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config={**SHARED, "model_type": "clip_vision_model", "image_size": SIZE, "patch_size": 8},
        text_config={**SHARED, "model_type": "llama", "vocab_size": len(tokenizer), "max_position_embeddings": 4096}
        | {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1},
        image_token_index=3,
    )
    random_weights(LlavaForConditionalGeneration(config), 0.4).save_pretrained(folder)
    processor.save_pretrained(folder)
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


# --- the command ----------------------------------------------------------------------------------------------------

_COMMAND = """
import sys
import torch
from m2kr.answer import generate
from m2kr.answer.__main__ import main
from m2kr.common import registry
from m2kr.errors import run_command

class Point:
    name, value = "image-text-to-text", "baselines.image_text_to_text:ImageTextToText"
    def load(self):
        from baselines.image_text_to_text import ImageTextToText
        return ImageTextToText

if __name__ == "__main__":
    torch.set_num_threads(1)
    registry.entry_points = lambda group: [Point()]
    generate.CHUNK = 5
    sys.exit(run_command(main))
"""


@pytest.fixture(scope="module")
def results(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of BM25. Not to be changed."""
    out = tmp_path_factory.mktemp("results") / "bm25"
    evaluate_task(BM25(), load_task("OKVQA", built), out, TaskOptions(top_k=10, ignore_images=True, quiet=True))
    return out


def command(script: Path, *arguments: Any) -> subprocess.Popen[str]:
    script.write_text(_COMMAND, encoding="utf-8")
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


class Point:
    """The entry point of the reader that loads a folder."""

    name, value = "image-text-to-text", "baselines.image_text_to_text:ImageTextToText"

    def load(self) -> Any:
        return ImageTextToText


def arguments_of(blip2: Path, built: Path, world: Path, results: Path, folder: Path, combine: str) -> list[str]:
    """Return the command's arguments for a copy of the results in ``folder``."""
    shutil.copytree(results, folder / "bm25")
    run = folder / "bm25" / "OKVQA.run.trec.gz"
    given = ["--reader", blip2, "--data", built, "--images", world, "--run", run, "--combine", combine, "--k", 3]
    return [*map(str, given), "--option", "max_new_tokens=4", "--quiet"]


@pytest.mark.parametrize("combine", ["joint", "concat"])
def test_the_command_answers_with_blip2(
    blip2: Path, built: Path, world: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, combine: str
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()])
    assert main(arguments_of(blip2, built, world, results, tmp_path, combine)) == 0
    folder = tmp_path / "bm25" / "answers" / "tiny-blip2"
    result = read_answer_result(folder / f"OKVQA.{combine}-3.json")
    assert (result["reader"], result["retriever"], result["ignored_inputs"]) == ("tiny-blip2", "bm25", [])
    lines = [json.loads(line) for line in (folder / f"OKVQA.{combine}-3.predictions.jsonl").open(encoding="utf-8")]
    assert len(lines) == 30
    assert len({line["answer"] for line in lines}) > 1
    data = load_task("OKVQA", built, images=world)
    made = ImageTextToText(checkpoint=str(blip2), max_new_tokens="4")
    texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
    for row in (0, 7, 29):
        given = [texts[name] for name in lines[row]["passages"]]
        groups = [tuple(given)] if combine == "concat" else [(text,) for text in given]
        question, picture = data.queries["question"][row], data.query_image(row)
        answers = made.answer([ReaderInput(question, passages, picture) for passages in groups])
        found = lines[row]["candidates"] if combine == "joint" else [lines[row]]
        assert [item["answer"] for item in found] == [answer.text for answer in answers]
        values = [answer.log_probability for answer in answers]
        assert [item["log_probability"] for item in found] == pytest.approx(values, abs=1e-3)


def test_after_kill_9_the_command_goes_on_and_ends_with_the_same_bytes(
    blip2: Path, built: Path, world: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()])
    monkeypatch.setattr(generate, "CHUNK", 5)
    assert main(arguments_of(blip2, built, world, results, tmp_path / "whole", "joint")) == 0
    whole = tmp_path / "whole" / "bm25" / "answers" / "tiny-blip2"

    given = arguments_of(blip2, built, world, results, tmp_path / "killed", "joint")
    folder = tmp_path / "killed" / "bm25" / "answers" / "tiny-blip2"
    killed = command(tmp_path / "command.py", *given)
    deadline = time.monotonic() + 120
    while not list(folder.glob(".OKVQA.joint-3.work-*/00000005.jsonl")):
        assert killed.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (folder / "OKVQA.joint-3.json").exists()
    (work,) = folder.glob(".OKVQA.joint-3.work-*")
    kept = {path: path.read_bytes() for path in work.glob("*.jsonl")}
    assert 2 <= len(kept) <= 6

    asked: list[int] = []
    answer = ImageTextToText.answer

    def counted(self: ImageTextToText, given: Any, batch_size: int = 8) -> Any:
        asked.append(len(given))
        return answer(self, given, batch_size)

    monkeypatch.setattr(ImageTextToText, "answer", counted)
    assert main(given) == 0
    assert sum(asked) <= 3 * (30 - 5)  # what was finished is not answered again
    name = "OKVQA.joint-3.predictions.jsonl"
    assert (folder / name).read_bytes() == (whole / name).read_bytes()
    first, second = (
        json.loads((place / "OKVQA.joint-3.json").read_text(encoding="utf-8")) for place in (whole, folder)
    )
    for changing in ("seconds", "peak_memory"):
        assert first.pop(changing) > 0
        assert second.pop(changing) > 0
    assert first == second
    assert sorted(path.name for path in folder.iterdir()) == ["OKVQA.joint-3.json", name]


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
