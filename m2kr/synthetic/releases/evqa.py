"""Encyclopedic-VQA: questions about species and landmarks, its knowledge base, and the pictures."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from m2kr.synthetic import text
from m2kr.synthetic.releases.part import Part, encoded, json_members, page_url, picture, upload_url
from m2kr.synthetic.world import MONTHS, Entity, Person, Shuffle, World

Split = Literal["train", "val", "test"]

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_COLUMNS = (
    *("question", "answer", "dataset_image_ids", "dataset_name", "dataset_category_id", "question_type"),
    *("wikipedia_url", "wikipedia_title", "evidence", "evidence_section_id", "evidence_section_title"),
    *("encyclopedic_vqa_split", "question_original", "wikipedia_url_used_in_train"),
)
_SPECIES = {
    "bird": "Animalia_Chordata_Aves_Passeriformes",
    "butterfly": "Animalia_Arthropoda_Insecta_Lepidoptera",
    "flower": "Plantae_Tracheophyta_Magnoliopsida_Asterales",
}
_PICTURES = (1, 1, 2, 1, 5, 1, 1, 1, 1, 5)  # of an entity in training, by the last digit of its number
_FACTS: dict[Split, slice] = {"train": slice(0, 5), "val": slice(5, 7), "test": slice(7, 9)}  # of a training entity
_TRAIN_IDS, _VAL_IDS = 2_686_843, 100_000


@dataclass(frozen=True, slots=True)
class _Image:
    """A picture of iNaturalist or Google Landmarks: the id that questions name, and its path below evqa/images."""

    image_id: str
    path: str
    variation: str


def _is_species(entity: Entity) -> bool:
    return entity.kind.word in _SPECIES


def _covered(world: World, split: Split) -> Iterator[Entity]:
    """Yield whom a split asks about: training entities, a third of them again in val and a third in test, and more."""
    sizes = world.sizes
    for index in range(sizes.asked):
        seen = index < sizes.train_entities
        asked = {"train": seen, "val": seen and index % 3 == 1, "test": not seen or index % 3 == 2}[split]
        if asked and world.look(index)[0].group != "object":
            yield world.entity(index)


def _images(world: World, split: Split, entity: Entity) -> list[_Image]:
    """Return the pictures of an entity in a split; val and test have pictures of their own."""
    count = _PICTURES[entity.index % len(_PICTURES)] if split == "train" else 1 + (entity.index % 4 == 2)
    images = []
    for number in range(count):
        variation = f"evqa/{split}/{number}"
        key = f"{world.seed}/{entity.index}/{variation}"
        if _is_species(entity):
            folder = "train" if split == "train" else "val"
            # The two parts of iNaturalist count on their own, so one number may stand for two pictures.
            total = max(_TRAIN_IDS if split == "train" else _VAL_IDS, 16 * world.sizes.asked)
            place = 8 * entity.index + 4 * (split == "test") + number  # at most five in train, two in val and test
            image_id = str(Shuffle(total, f"{world.seed}/inat {folder}").at(place))
            category = f"{entity.index:05d}_{_SPECIES[entity.kind.word]}_{entity.name}"
            name = uuid.UUID(bytes=hashlib.md5(key.encode(), usedforsecurity=False).digest(), version=4)
            images.append(_Image(image_id, f"inat/{folder}/{category}/{name}.jpg", variation))
        else:
            image_id = hashlib.sha256(key.encode()).hexdigest()[:16]
            path = f"google-landmark/train/{'/'.join(image_id[:3])}/{image_id}.jpg"
            images.append(_Image(image_id, path, variation))
    return images


def evqa(world: World) -> Iterator[Part]:
    """Encyclopedic-VQA: three CSV files, the knowledge base in one JSON object, iNaturalist's names, the pictures."""
    entities = {split: sum(1 for _ in _covered(world, split)) for split in _SPLITS}
    for split in _SPLITS:
        yield Part(f"{split}.csv", entities[split], encoded(partial(_csv, world, split)))
    pages = world.sizes.entities + world.sizes.people
    yield Part("encyclopedic_kb_wiki.json", pages, encoded(lambda: json_members(_pages(world))))
    for folder, splits in (("train", _SPLITS[:1]), ("val", _SPLITS[1:])):
        count = sum(entities[split] for split in splits)
        yield Part(f"{folder}_id2name.json", count, encoded(partial(_id2name, world, splits)))
    for split in _SPLITS:
        for entity in _covered(world, split):
            for image in _images(world, split, entity):
                yield picture(f"images/{image.path}", world, entity.index, image.variation)


def _id2name(world: World, splits: tuple[Split, ...]) -> Iterator[str]:
    return json_members(_names(world, splits))


def _names(world: World, splits: tuple[Split, ...]) -> Iterator[tuple[str, str]]:
    for split in splits:
        for entity in _covered(world, split):
            if _is_species(entity):
                for image in _images(world, split, entity):
                    yield image.image_id, image.path.removeprefix("inat/")


# --- questions ------------------------------------------------------------------------------------------------------


def _csv(world: World, split: Split) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, "", lineterminator="\r\n")  # as RFC 4180 has it
    writer.writeheader()
    for entity in _covered(world, split):
        writer.writerows(_rows(world, split, entity))
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _rows(world: World, split: Split, entity: Entity) -> Iterator[dict[str, str]]:
    rng = world.rng("evqa", split, entity.index)
    images = [image.image_id for image in _images(world, split, entity)]
    seen = entity.index < world.sizes.train_entities
    common = {
        "dataset_name": "inaturalist" if _is_species(entity) else "landmarks",
        "dataset_category_id": str(entity.index),
        "wikipedia_url": page_url(entity.title),
        "wikipedia_title": entity.title,
        "encyclopedic_vqa_split": split,
        "wikipedia_url_used_in_train": str(seen),
    }
    facts = entity.rng("evqa").sample(text.FACTS, len(text.FACTS))
    if seen:
        facts = facts[_FACTS[split]]
    for number, fact in enumerate(facts[:3]):
        chosen = images if number == 0 else sorted(rng.sample(images, rng.randrange(1, len(images) + 1)))
        section_id, section, known = _section(entity, fact)
        question = text.visual_question(entity, fact, rng)
        original = text.visual_question(entity, fact, rng) if number else text.text_query(entity, fact, rng)
        if rng.random() < 0.1:
            original = f'What is meant: "{original}"'
        templated = number % 2 == 0
        yield common | {
            "question": question,
            "answer": "|".join(known),
            "dataset_image_ids": "|".join(chosen),
            "question_type": "templated" if templated else "automatic",
            "evidence": _evidence(section, known[0], rng.random() < 0.2) if templated else "",
            "evidence_section_id": str(section_id),
            "evidence_section_title": section.title,
            "question_original": original,
        }
    ids = "|".join(images)
    if entity.index % 2 == 0:
        yield common | {"dataset_image_ids": ids} | _several(entity)
    if entity.index % 5 < 3:
        yield common | {"dataset_image_ids": ids} | _two_hops(entity)


def _section(entity: Entity, fact: str) -> tuple[int, text.Section, list[str]]:
    """Return the section that answers best, its number, and the answers that it states."""
    found = []
    for number, section in enumerate(text.article(entity)):
        known = [answer for answer in text.exact_answers(entity, fact) if text.states(section.text, answer)]
        if known:
            found.append((number, section, known))
    # The summary repeats a fact or two; the section about the matter says more.
    return max(found, key=lambda each: (len(each[2]), each[0]))


def _evidence(section: text.Section, answer: str, more: bool) -> str:
    sentences = re.findall(r".+?[.!?](?:\s|$)", section.text)
    place = next(i for i, sentence in enumerate(sentences) if text.states(sentence, answer))
    return "\n".join(sentence.strip() for sentence in sentences[place : place + 1 + more])


def _several(entity: Entity) -> dict[str, str]:
    colours = [entity.look.colour, entity.look.second_colour]
    sections = text.article(entity)
    states_both = (all(text.states(section.text, colour) for colour in colours) for section in sections)
    section_id = list(states_both).index(True)
    return {
        "question": f"Which two colours does this {entity.kind.word} have?",
        "answer": f"{'&&'.join(colours)}|{'&&'.join(reversed(colours))}",
        "question_type": "multi_answer",
        "evidence_section_id": str(section_id),
        "evidence_section_title": sections[section_id].title,
        "question_original": f"Which two colours does {entity.title} have?",
    }


def _two_hops(entity: Entity) -> dict[str, str]:
    section_id, section, _ = _section(entity, "person")
    person, kind = entity.person, entity.kind
    return {
        "question": f"In which town was the {kind.role} born who {kind.by} this {kind.word}?",
        "answer": person.birthplace.city,
        "question_type": "2_hop",
        "wikipedia_url": f"{page_url(entity.title)}|{page_url(person.name)}",
        "wikipedia_title": f"{entity.title}|{person.name}",
        "evidence_section_id": f"{section_id}|1",
        "evidence_section_title": f"{section.title}|Life",
        "question_original": f"In which town was {person.name} born?",
    }


# --- knowledge base -------------------------------------------------------------------------------------------------


def _pages(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all entities and all people: what is asked for lies between what is not."""
    entities = world.sizes.entities
    order = Shuffle(entities + world.sizes.people, f"{world.seed}/evqa pages")
    for number in map(order.at, range(entities + world.sizes.people)):
        if number < entities:
            entity = world.entity(number)
            yield _page(entity.title, text.article(entity), text.mention(entity, entity.rng("evqa page")))
        else:
            person = world.maker(number - entities)
            yield _page(person.name, _life(person), "")


def _page(title: str, sections: tuple[text.Section, ...], caption: str) -> tuple[str, dict[str, Any]]:
    url = page_url(title)
    return url, {
        "title": title,
        "section_titles": [section.title for section in sections],
        "section_texts": [section.text for section in sections],
        "image_urls": [upload_url(f"{title}.jpg")] if caption else [],
        "image_reference_descriptions": [caption] if caption else [],
        "image_section_indices": [0] if caption else [],
        "url": url,
    }


def _life(person: Person) -> tuple[text.Section, ...]:
    born = f"{person.born.day} {MONTHS[person.born.month - 1]} {person.born.year}"
    place = person.birthplace
    return (
        text.Section(person.name, f"{person.name} was {text.a(person.occupation)} of {place.country}."),
        text.Section(
            "Life",
            f"Born in {place.city} on {born}, {person.surname} became {text.a(person.occupation)} and travelled much. "
            f"A street in {place.city} is named after {person.name}.",
        ),
    )
