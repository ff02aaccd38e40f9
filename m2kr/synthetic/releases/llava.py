"""LLaVA-Instruct-150K, and the captions of CC3M in the same container."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from m2kr.synthetic import dialogues
from m2kr.synthetic.releases.part import Part, encoded, json_array, picture
from m2kr.synthetic.world import Entity, Picture, Shuffle, World


def llava_instruct(world: World) -> Iterator[Part]:
    """LLaVA-Instruct-150K: three JSON arrays about train2014 pictures; a picture occurs at most once in each."""
    sizes = world.sizes
    files = (("conversation_58k", sizes.conversations), ("detail_23k", sizes.details))
    for name, records in (*files, ("complex_reasoning_77k", sizes.reasonings)):
        yield Part(f"{name}.json", records, encoded(partial(_llava_file, world, name, records)))


def _llava_file(world: World, name: str, records: int) -> Iterator[str]:
    order = Shuffle(world.sizes.train_pictures, f"{world.seed}/{name}")
    shown = (world.picture("train2014", order.at(row)) for row in range(records))
    return json_array(_llava_record(world.entity(each.entity), each, name, world) for each in shown)


def _llava_record(entity: Entity, shown: Picture, name: str, world: World) -> dict[str, Any]:
    rng = world.rng(name, shown.image_id)
    if name == "conversation_58k":
        pairs = dialogues.conversation(entity, rng)
    else:
        pairs = [dialogues.detail(entity, rng) if name == "detail_23k" else dialogues.reasoning(entity, rng)]
    turns = [turn for question, answer in pairs for turn in (("human", question), ("gpt", answer))]
    first = turns[0][1]
    first = f"<image>\n{first}" if name == "complex_reasoning_77k" else f"{first}\n<image>"
    turns[0] = ("human", first)
    number = f"{shown.image_id:012d}"
    conversations = [{"from": speaker, "value": value} for speaker, value in turns]
    return {"id": number, "image": f"{number}.jpg", "conversations": conversations}


def llava_cc3m(world: World) -> Iterator[Part]:
    """LLaVA-CC3M-Pretrain-595K: one JSON array of captioned pictures, and the pictures in one folder."""
    count = world.sizes.captions
    numbers = Shuffle(max(3_318_333, 4 * count), f"{world.seed}/captions")

    def shown(row: int) -> tuple[int, str]:
        return row % world.sizes.train_entities, f"GCC_train_{numbers.at(row):09d}"

    def records() -> Iterator[dict[str, Any]]:
        order = Shuffle(count, f"{world.seed}/chat")
        return (_captioned(*shown(order.at(row)), world) for row in range(count))

    yield Part("chat.json", count, encoded(lambda: json_array(records())))
    for row in range(count):
        entity, name = shown(row)
        yield picture(f"images/{name}.jpg", world, entity, name)


def _captioned(entity: int, name: str, world: World) -> dict[str, Any]:
    rng = world.rng("caption", name)
    prompt = rng.choice(dialogues.BRIEF_PROMPTS)
    prompt = rng.choice((f"<image>\n{prompt}", f"{prompt}\n<image>"))
    return {
        "id": name,
        "image": f"{name}.jpg",
        "conversations": [
            {"from": "human", "value": prompt},
            {"from": "gpt", "value": dialogues.caption(world.entity(entity), rng)},
        ],
    }
