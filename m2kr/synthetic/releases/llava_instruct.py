"""LLaVA-Instruct-150K: three JSON arrays about train2014 pictures; a picture occurs at most once in each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from m2kr.synthetic import dialogues
from m2kr.synthetic.releases.files import ReleaseFile, SyntheticRelease, json_array, record_file
from m2kr.synthetic.sizes import Sizes
from m2kr.synthetic.world import World


def _files(world: World) -> Iterator[ReleaseFile]:
    sizes = world.sizes
    files = (("conversation_58k", sizes.conversations), ("detail_23k", sizes.details))
    for name, records in (*files, ("complex_reasoning_77k", sizes.reasonings)):
        yield record_file(f"{name}.json", records, partial(_record, world, name), json_array)


def _record(world: World, name: str, row: int) -> dict[str, Any]:
    shown = world.picture("train2014", world.shuffle(world.sizes.train_pictures, name).at(row))
    entity, rng = world.entity(shown.entity), world.rng(name, shown.image_id)
    if name == "conversation_58k":
        pairs = dialogues.conversation(entity, rng)
    else:
        pairs = [dialogues.detail(entity, rng) if name == "detail_23k" else dialogues.reasoning(entity, rng)]
    turns = [turn for question, answer in pairs for turn in (("human", question), ("gpt", answer))]
    first = turns[0][1]
    turns[0] = ("human", f"<image>\n{first}" if name == "complex_reasoning_77k" else f"{first}\n<image>")
    number = f"{shown.image_id:012d}"
    conversations = [{"from": speaker, "value": value} for speaker, value in turns]
    return {"id": number, "image": f"{number}.jpg", "conversations": conversations}


def _build_options(sizes: Sizes) -> dict[str, dict[str, int]]:
    """``heldout_per_subset`` is the number of question-answer pairs of each file that make up the test pool."""
    held_out = max(1, min(sizes.details, sizes.reasonings) // 5)  # the conversation file has more pairs than these
    return {"LLaVA": {"heldout_per_subset": held_out, "test_queries": max(1, round(3 * held_out * 5120 / 6006))}}


RELEASE = SyntheticRelease("LLaVA-Instruct-150K", _files, needs=("coco",), build_options=_build_options)
