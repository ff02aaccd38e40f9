"""What reader-mini is trained on: questions with passages and pictures, in batches drawn beforehand.

A batch depends on the seed and its number alone, so that a run that was stopped goes on with the batches it would have
had. The prompts are those that `baselines.image_text_to_text.ImageTextToText` writes.
"""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch.utils.data import Dataset

from baselines.image_text_to_text import PROMPT, PROMPT_WITH_PASSAGES
from m2kr.answer.score import ANSWER_TASKS
from m2kr.dataset import TaskData
from m2kr.errors import M2KRError

Kind = Literal["text", "positive", "wrong", "none", "several"]
_Count = Annotated[int, Meta(ge=1)]
_Share = Annotated[float, Meta(ge=0, le=1)]

POOL = 8
"""Batches that are drawn together and shared out by length, so that little is padding."""

PASSAGE, ANSWER = 1, 2
"""Weights of tokens: those of a passage that are to be predicted, and those of an answer; 0 marks all others."""

# Tasks whose positive passages are about what the picture shows. Those of OKVQA need only hold the answer.
_ABOUT_THE_PICTURE = ("Infoseek", "EVQA")


@dataclass(frozen=True)
class ReaderConfig:
    """Settings of a training run; ``configs/reader.toml`` gives the values and their reasons.

    Attributes:
        layers: of the decoder.
        width: numbers of a token's vector.
        inner: numbers of the layer between, of the feed-forward part.
        heads: of the attention.
        vocabulary: tokens, 256 of them single bytes.
        tasks: whose train splits are read.
        steps: updates.
        text_steps: how many of them, the first, are without pictures, each from a positive passage that is cut.
        batch_size: prompts of an update.
        keep: probability with which a sentence without the answer stays in a passage that is cut.
        cut: share of the passages that are cut in the updates with pictures.
        renamed: share of the prompts with a positive passage in which names and numbers of the answer are replaced by
            others, in the passages too.
        positive: share of prompts with a positive passage, in the updates with pictures.
        wrong: share with a passage that answers the same question about something else.
        none: share without passages.
        several: share with 2 passages or more, one of them positive.
        most: passages of such a prompt, at most.
        passage_loss: weight of the loss of the passages' tokens; that of the answers' has 1.
        learning_rate: its largest value; it falls to 0 in a straight line.
        warmup_steps: updates until then.
        weight_decay: of AdamW.
        save_every: updates between two checkpoints.
        log_every: updates between two values of the loss.
        seed: of the weights and of everything that is drawn.
    """

    layers: _Count
    width: _Count
    inner: _Count
    heads: _Count
    vocabulary: Annotated[int, Meta(ge=300)]  # 256 tokens are single bytes
    tasks: tuple[str, ...]
    steps: _Count
    text_steps: int
    batch_size: _Count
    keep: _Share
    cut: _Share
    renamed: _Share
    positive: _Share
    wrong: _Share
    none: _Share
    several: _Share
    most: Annotated[int, Meta(ge=2)]
    passage_loss: float
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    save_every: _Count
    log_every: _Count
    seed: int

    def __post_init__(self) -> None:
        if abs(self.positive + self.wrong + self.none + self.several - 1) > 1e-6:
            raise M2KRError("positive, wrong, none and several are shares: their sum has to be 1.")
        if self.width % (2 * self.heads):
            raise M2KRError(f"width is {self.width}, and every one of {self.heads} heads needs an even part of it.")
        if self.save_every % self.log_every:
            raise M2KRError(
                f"save_every ({self.save_every}) is no multiple of log_every ({self.log_every}), so that a resumed run "
                "would log other means than one that was never stopped: change one of the two."
            )
        if not self.tasks or (unknown := [key for key in self.tasks if key not in ANSWER_TASKS]):
            named = repr(unknown[0]) if self.tasks else "nothing"
            raise M2KRError(f"tasks names {named}; those with answers are {', '.join(ANSWER_TASKS)}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as they are kept beside what was trained."""
        return {**asdict(self), "tasks": list(self.tasks)}


@dataclass(frozen=True)
class Question:
    """A question of a train split.

    Attributes:
        task: place of its task among those that are read.
        row: of its task's table.
        text: of the question.
        answer: lower-case, as the tokenizer reads everything.
        positives: texts of its positive passages, at least one.
    """

    task: int
    row: int
    text: str
    answer: str
    positives: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """A prompt and its answer.

    Attributes:
        question: what is asked.
        passages: what is given, in order.
        kind: what they are; "text" is a positive passage without the picture.
        about: the passage is about what the picture shows, so that it can be predicted from that.
    """

    question: Question
    passages: tuple[str, ...]
    kind: Kind
    about: bool


def questions_of(splits: Sequence[TaskData]) -> list[Question]:
    """Return the questions that have an answer and a positive passage.

    Raises:
        M2KRError: there are none.
    """
    found = []
    for task, data in enumerate(splits):
        texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
        rows = data.queries.select("question_id", "question", "gold_answer", "answers").iter_rows()
        for row, (name, question, gold, answers) in enumerate(rows):
            answer = gold or next(iter(answers or ()), None)
            positives = tuple(texts[passage] for passage in data.qrels[name] if passage in texts)
            if answer and positives:
                found.append(Question(task, row, question or "", answer.lower(), positives))
    if not found:
        raise M2KRError("no question has an answer and a positive passage, so there is nothing to train on.")
    return found


def names_in(texts: Iterable[str]) -> list[str]:
    """Return the words of texts, at least 4 letters long, that never stand there in lower case, sorted."""
    words = {word for text in set(texts) for word in re.findall(r"[^\W\d_]{4,}", text)}
    return sorted(word for word in words if word.istitle() and word.lower() not in words)


class Batches(Dataset[dict[str, torch.Tensor]]):
    """The batches of a run by number: item i is that of update i.

    A batch has ``input_ids`` ``(n, tokens)`` int64, padded on the right; ``weights`` ``(n, tokens)`` int64, `PASSAGE`
    at tokens of passages that are to be predicted, `ANSWER` at those of the answer with its end, 0 elsewhere; and,
    after the updates without pictures, ``pixel_values`` ``(n, 3, height, width)`` float32.

    Args:
        splits: train splits, with their pictures.
        processor: of the model, a LlavaProcessor.
        config: settings.
    """

    def __init__(self, splits: Sequence[TaskData], processor: Any, config: ReaderConfig) -> None:
        self._splits, self._processor, self._config = splits, processor, config
        self._about = [data.task.key in _ABOUT_THE_PICTURE for data in splits]
        self._questions = questions_of(splits)
        self._names = names_in(passage for question in self._questions for passage in question.positives)
        self._is_name = frozenset(name.lower() for name in self._names)
        self._alike: defaultdict[str, list[Question]] = defaultdict(list)
        for question in self._questions:
            self._alike[question.text].append(question)
        self._pool: tuple[int, list[list[Example]]] = (-1, [])
        size = processor.image_processor.crop_size
        patches = (int(size[side]) // int(processor.patch_size) for side in ("height", "width"))
        self._image = processor.image_token * math.prod(patches)

    def __len__(self) -> int:
        return self._config.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        return self.tensors(self.examples(step))

    def examples(self, step: int) -> list[Example]:
        """Return what the batch of an update is made of."""
        text = step < self._config.text_steps
        # Pools begin anew where the pictures do.
        number, place = divmod(step if text else step - self._config.text_steps, POOL)
        key = 2 * number + (not text)
        if self._pool[0] != key:
            self._pool = key, self._draw(random.Random(f"{self._config.seed}/{key}"), text=text)
        return self._pool[1][place]

    def _draw(self, rng: random.Random, *, text: bool) -> list[list[Example]]:
        size = self._config.batch_size
        drawn = [self._example(rng, text=text) for _ in range(POOL * size)]
        drawn.sort(key=lambda example: sum(len(passage) for passage in example.passages))
        batches = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        rng.shuffle(batches)
        return batches

    def _example(self, rng: random.Random, *, text: bool) -> Example:
        config = self._config
        question = rng.choice(self._questions)
        positive = rng.choice(question.positives)
        kinds: tuple[Kind, ...] = ("positive", "wrong", "none", "several")
        shares = (config.positive, config.wrong, config.none, config.several)
        kind: Kind = "text" if text else rng.choices(kinds, shares)[0]
        passages = {
            "none": [],
            "wrong": [self._other(question, rng)],
            "several": [positive, *(self._other(question, rng) for _ in range(rng.randrange(1, config.most)))],
        }.get(kind, [positive])
        rng.shuffle(passages)
        share = 1.0 if text else config.cut
        cut = [self._cut(passage, question.answer, rng) if rng.random() < share else passage for passage in passages]
        if kind != "wrong" and kind != "none" and rng.random() < config.renamed:
            question, cut = self._renamed(question, cut, rng)
        about = kind == "text" or (kind == "positive" and self._about[question.task])
        return Example(question, tuple(cut), kind, about)

    def _other(self, question: Question, rng: random.Random) -> str:
        """Return a passage that answers the same question about something else, as well as there is one."""
        alike = self._alike[question.text]
        passage = ""
        for attempt in range(20):
            other = rng.choice(alike if attempt < 10 else self._questions)
            passage = rng.choice(other.positives)
            if question.answer not in passage.lower():
                break
        return passage

    def _renamed(self, question: Question, passages: list[str], rng: random.Random) -> tuple[Question, list[str]]:
        """Replace the names and numbers of the answer, so that they have to be copied: by heart they are of no use."""
        new = {}
        for word in dict.fromkeys(question.answer.split()):
            if word.isdecimal():
                new[word] = str(rng.randrange(10 ** (len(word) - 1), 10 ** len(word)))
            elif word in self._is_name:
                new[word] = rng.choice(self._names)
        if not new:
            return question, passages
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, new))})\b", re.IGNORECASE)
        stated = {word.lower() for passage in passages for word in pattern.findall(passage)}
        if stated != set(new):  # a positive passage may hold another answer that is accepted
            return question, passages

        def swapped(text: str) -> str:
            return pattern.sub(lambda found: new[found[0].lower()], text)

        return replace(question, answer=swapped(question.answer).lower()), [swapped(text) for text in passages]

    def _cut(self, passage: str, answer: str, rng: random.Random) -> str:
        sentences = passage.split(". ")
        kept = [part for part in sentences if answer in part.lower() or rng.random() < self._config.keep]
        return ". ".join(kept) if kept else passage

    def tensors(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return the tensors of a batch; see the class."""
        rows = [self.tokens(example) for example in examples]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), longest), self._processor.tokenizer.pad_token_id)
        weights = torch.zeros_like(ids)
        for place, (own, own_weights) in enumerate(rows):
            ids[place, : len(own)] = torch.tensor(own)
            weights[place, : len(own)] = torch.tensor(own_weights)
        batch = {"input_ids": ids, "weights": weights}
        if examples[0].kind != "text":
            pictures = [self._splits[e.question.task].query_image(e.question.row) for e in examples]
            batch["pixel_values"] = self._processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        return batch

    def tokens(self, example: Example) -> tuple[list[int], list[int]]:
        """Return the token ids of a prompt with its answer, and the weight of each."""
        parts = list(self._parts(example))
        encoded = self._processor.tokenizer([text for text, _ in parts])["input_ids"]
        ids = [token for own in encoded for token in own]
        weights = [weight for own, (_, weight) in zip(encoded, parts, strict=True) for _ in own]
        return [*ids, self._processor.tokenizer.eos_token_id], [*weights, ANSWER]

    def _parts(self, example: Example) -> Iterator[tuple[str, int]]:
        """Yield the parts of a prompt with their weights.

        They are cut before blanks, which begin tokens, so that they have the same tokens as the whole.
        """
        if example.kind != "text":
            yield self._image, 0
        yield "\n", 0
        if example.passages:
            before, _, after = PROMPT_WITH_PASSAGES.partition("{passages}")
            yield before.rstrip(" "), 0
            yield " " + " ".join(example.passages), PASSAGE if example.about else 0
        else:
            after = PROMPT
        yield after.format(question=example.question.text), 0
        yield f" {example.question.answer}", ANSWER
