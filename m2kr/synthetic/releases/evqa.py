"""Encyclopedic-VQA: questions about species and landmarks, the knowledge base, iNaturalist's annotations, pictures."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from m2kr.synthetic import articles
from m2kr.synthetic.releases.files import (
    ReleaseFile,
    Split,
    SyntheticRelease,
    csv_rows,
    gzipped,
    json_items,
    json_members,
    md5,
    page_url,
    picture_file,
    text_file,
    upload_url,
)
from m2kr.synthetic.world import MONTHS, Entity, Person, World

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_COLUMNS = (
    *("question", "answer", "dataset_image_ids", "dataset_name", "dataset_category_id", "question_type"),
    *("wikipedia_url", "wikipedia_title", "evidence", "evidence_section_id", "evidence_section_title"),
    *("encyclopedic_vqa_split", "question_original", "wikipedia_url_used_in_train"),
)
_PICTURES = (1, 1, 2, 1, 5, 1, 1, 1, 1, 5)  # of an entity in training, by the last digit of its number
_FACTS: dict[Split, slice] = {"train": slice(0, 5), "val": slice(5, 7), "test": slice(7, 9)}  # of a training entity
_TRAIN_IDS, _VAL_IDS = 2_686_843, 100_000
_RANKS = ("kingdom", "phylum", "class", "order")


@dataclass(frozen=True, slots=True)
class _Image:
    """A picture of iNaturalist or Google Landmarks: the id that questions name, and its path below evqa/images."""

    image_id: str
    path: str
    variation: str


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
    return [_picture(world, split, entity, number) for number in range(count)]


def _picture(world: World, split: Split, entity: Entity, number: int) -> _Image:
    variation = f"evqa/{split}/{number}"
    key = f"{world.seed}/{entity.index}/{variation}"
    if not entity.type.taxonomy:
        image_id = hashlib.sha256(key.encode()).hexdigest()[:16]
        return _Image(image_id, f"google-landmark/train/{'/'.join(image_id[:3])}/{image_id}.jpg", variation)
    folder = "train" if split == "train" else "val"
    # The two parts of iNaturalist count on their own, so one number may stand for two pictures.
    total = max(_TRAIN_IDS if split == "train" else _VAL_IDS, 16 * world.sizes.asked)
    place = 8 * entity.index + 4 * (split == "test") + number  # at most five in train, two in val and test
    image_id = str(world.shuffle(total, f"inat {folder}").at(place))
    name = uuid.UUID(bytes=md5(key), version=4)
    return _Image(image_id, f"inat/{folder}/{_folder(entity)}/{name}.jpg", variation)


def _folder(species: Entity) -> str:
    return f"{species.index:05d}_{species.type.taxonomy}_{species.name}"


def _files(world: World) -> Iterator[ReleaseFile]:
    entities = {split: sum(1 for _ in _covered(world, split)) for split in _SPLITS}
    for split in _SPLITS:
        yield text_file(f"{split}.csv", entities[split], partial(_table, world, split))
    pages = world.sizes.entities + world.sizes.people
    base = partial(_zipped, "encyclopedic_kb_wiki.json", lambda: json_members(_pages(world)))
    yield ReleaseFile("encyclopedic_kb_wiki.zip", pages, base)
    for folder, splits in (("train", _SPLITS[:1]), ("val", _SPLITS[1:])):
        tar = partial(_tar, f"{folder}.json", partial(_annotations, world, splits))
        yield ReleaseFile(f"{folder}.json.tar.gz", sum(entities[split] for split in splits), gzipped(tar))
    for split in _SPLITS:
        for entity in _covered(world, split):
            for image in _images(world, split, entity):
                yield picture_file(f"images/{image.path}", world, entity.index, image.variation)


# --- archives -------------------------------------------------------------------------------------------------------


class _Written:
    """A file without places to go back to, whose content is taken bit by bit."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)

    def flush(self) -> None:
        """Do nothing: what was written is there."""

    def take(self) -> bytes:
        data = bytes(self.data)
        self.data.clear()
        return data


def _zipped(name: str, pieces: Callable[[], Iterator[str]]) -> Iterator[bytes]:
    """Yield a zip of one file, which holds no time and says the same on every platform."""
    file = _Written()
    member = zipfile.ZipInfo(name)  # of 1980
    member.compress_type, member.create_system = zipfile.ZIP_DEFLATED, 3
    # An ``IO`` as far as zipfile asks for one.
    with (
        zipfile.ZipFile(file, "w") as archive,  # type: ignore[call-overload]
        archive.open(member, "w", force_zip64=True) as content,
    ):
        for piece in pieces():
            content.write(piece.encode())
            yield file.take()
    yield file.take()


def _tar(name: str, pieces: Callable[[], Iterator[str]]) -> Iterator[bytes]:
    """Yield a tar of one file, without a time."""
    member = tarfile.TarInfo(name)
    member.size = sum(len(piece.encode()) for piece in pieces())  # stands before the content, which is made twice
    yield member.tobuf()
    yield from (piece.encode() for piece in pieces())
    yield bytes(-member.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


# --- iNaturalist ----------------------------------------------------------------------------------------------------


def _annotations(world: World, splits: tuple[Split, ...]) -> Iterator[str]:
    """Yield iNaturalist's annotations in COCO's form, on one line, NaN where a place is not known."""
    start = {"info": {"year": 2021, "version": "0", "description": "Made up", "contributor": "", "url": ""}}
    yield json.dumps(start)[:-1] + ', "images": ['
    yield from json_items(_image(world, image, entity) for entity, image in _species_images(world, splits))
    yield '], "categories": ['
    yield from json_items(
        _category(entity) for entity in map(world.entity, range(world.sizes.asked)) if entity.type.taxonomy
    )
    yield '], "annotations": ['
    yield from json_items(
        {"id": int(image.image_id), "image_id": int(image.image_id), "category_id": entity.index}
        for entity, image in _species_images(world, splits)
    )
    yield '], "licenses": [{"id": 0, "name": "None, the picture is made up", "url": ""}]}'


def _species_images(world: World, splits: tuple[Split, ...]) -> Iterator[tuple[Entity, _Image]]:
    for split in splits:
        for entity in _covered(world, split):
            if entity.type.taxonomy:
                for image in _images(world, split, entity):
                    yield entity, image


def _image(world: World, image: _Image, entity: Entity) -> dict[str, Any]:
    from m2kr.synthetic.pictures import SIZE  # Pillow, which the other files do without

    rng = world.rng("inat", image.path)
    known = rng.random() < 0.9
    return {
        "id": int(image.image_id),
        "width": SIZE,
        "height": SIZE,
        "file_name": image.path.removeprefix("inat/"),
        "license": 0,
        "rights_holder": entity.person.name,
        "date": f"{rng.randrange(2005, 2021)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d} 12:00:00+00:00",
        "latitude": round(rng.uniform(-60, 70), 5) if known else float("nan"),
        "longitude": round(rng.uniform(-180, 180), 5) if known else float("nan"),
        "location_uncertainty": rng.randrange(1, 500) if known else float("nan"),
    }


def _category(entity: Entity) -> dict[str, Any]:
    return {
        "id": entity.index,
        "name": entity.title,
        "common_name": entity.title,
        "supercategory": entity.type.word,
        **dict(zip(_RANKS, entity.type.taxonomy.split("_"), strict=True)),
        "image_dir_name": _folder(entity),
    }


# --- questions ------------------------------------------------------------------------------------------------------


def _table(world: World, split: Split) -> Iterator[str]:
    groups = (_rows(world, split, entity) for entity in _covered(world, split))
    return csv_rows(_COLUMNS, groups, lineterminator="\r\n")  # as RFC 4180 has it


def _rows(world: World, split: Split, entity: Entity) -> Iterator[dict[str, str]]:
    rng = world.rng("evqa", split, entity.index)
    images = [image.image_id for image in _images(world, split, entity)]
    seen = entity.index < world.sizes.train_entities
    common = {
        "dataset_name": "inaturalist" if entity.type.taxonomy else "landmarks",
        "dataset_category_id": str(entity.index),
        "wikipedia_url": page_url(entity.title),
        "wikipedia_title": entity.title,
        "encyclopedic_vqa_split": split,
        "wikipedia_url_used_in_train": str(seen),
    }
    facts = entity.rng("evqa").sample(articles.FACTS, len(articles.FACTS))
    if seen:
        facts = facts[_FACTS[split]]
    for number, fact in enumerate(facts[:3]):
        chosen = images if number == 0 else sorted(rng.sample(images, rng.randrange(1, len(images) + 1)))
        section_id, section, known = _section(entity, fact)
        question = articles.visual_question(entity, fact, rng)
        original = articles.visual_question(entity, fact, rng) if number else articles.text_query(entity, fact, rng)
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


def _section(entity: Entity, fact: str) -> tuple[int, articles.Section, list[str]]:
    """Return the section that answers best, its number, and the answers that it states."""
    found = []
    for number, section in enumerate(articles.article(entity)):
        known = [answer for answer in articles.exact_answers(entity, fact) if articles.states(section.text, answer)]
        if known:
            found.append((number, section, known))
    # The summary repeats a fact or two; the section about the matter says more.
    return max(found, key=lambda each: (len(each[2]), each[0]))


def _evidence(section: articles.Section, answer: str, more: bool) -> str:
    sentences = re.findall(r".+?[.!?](?:\s|$)", section.text)
    place = next(i for i, sentence in enumerate(sentences) if articles.states(sentence, answer))
    return "\n".join(sentence.strip() for sentence in sentences[place : place + 1 + more])


def _several(entity: Entity) -> dict[str, str]:
    colours = [entity.look.colour, entity.look.second_colour]
    sections = articles.article(entity)
    states_both = (all(articles.states(section.text, colour) for colour in colours) for section in sections)
    section_id = list(states_both).index(True)
    return {
        "question": f"Which two colours does this {entity.type.word} have?",
        "answer": f"{'&&'.join(colours)}|{'&&'.join(reversed(colours))}",
        "question_type": "multi_answer",
        "evidence_section_id": str(section_id),
        "evidence_section_title": sections[section_id].title,
        "question_original": f"Which two colours does {entity.title} have?",
    }


def _two_hops(entity: Entity) -> dict[str, str]:
    section_id, section, _ = _section(entity, "person")
    person, made = entity.person, entity.type
    return {
        "question": f"In which town was the {made.role} born who {made.by} this {made.word}?",
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
    order = world.shuffle(entities + world.sizes.people, "evqa pages")
    for number in map(order.at, range(entities + world.sizes.people)):
        if number < entities:
            entity = world.entity(number)
            yield _page(entity.title, articles.article(entity), articles.description(entity, entity.rng("evqa page")))
        else:
            person = world.maker(number - entities)
            yield _page(person.name, _life(person), "")


def _page(title: str, sections: tuple[articles.Section, ...], caption: str) -> tuple[str, dict[str, Any]]:
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


def _life(person: Person) -> tuple[articles.Section, ...]:
    born = f"{person.born.day} {MONTHS[person.born.month - 1]} {person.born.year}"
    place, role = person.birthplace, articles.a(person.occupation)
    return (
        articles.Section(person.name, f"{person.name} was {role} of {place.country}."),
        articles.Section(
            "Life",
            f"Born in {place.city} on {born}, {person.surname} became {role} and travelled much. "
            f"A street in {place.city} is named after {person.name}.",
        ),
    )


RELEASE = SyntheticRelease("Encyclopedic-VQA", _files, build_options=lambda sizes: {"EVQA": {}})
