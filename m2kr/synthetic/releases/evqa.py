"""Encyclopedic-VQA: questions about species and landmarks, its knowledge base, and the pictures."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from m2kr.synthetic import articles
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
_RANKS = ("kingdom", "phylum", "class", "order")


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
            name = uuid.UUID(bytes=hashlib.md5(key.encode(), usedforsecurity=False).digest(), version=4)
            images.append(_Image(image_id, f"inat/{folder}/{_folder(entity)}/{name}.jpg", variation))
        else:
            image_id = hashlib.sha256(key.encode()).hexdigest()[:16]
            path = f"google-landmark/train/{'/'.join(image_id[:3])}/{image_id}.jpg"
            images.append(_Image(image_id, path, variation))
    return images


def _folder(species: Entity) -> str:
    return f"{species.index:05d}_{_SPECIES[species.kind.word]}_{species.name}"


def evqa(world: World) -> Iterator[Part]:
    """Encyclopedic-VQA: three CSV files, the knowledge base in a zip, iNaturalist's annotations, the pictures."""
    entities = {split: sum(1 for _ in _covered(world, split)) for split in _SPLITS}
    for split in _SPLITS:
        yield Part(f"{split}.csv", entities[split], encoded(partial(_csv, world, split)))
    pages = world.sizes.entities + world.sizes.people
    base = encoded(lambda: json_members(_pages(world)))
    yield Part("encyclopedic_kb_wiki.zip", pages, _zipped("encyclopedic_kb_wiki.json", base))
    for folder, splits in (("train", _SPLITS[:1]), ("val", _SPLITS[1:])):
        count = sum(entities[split] for split in splits)
        annotations = encoded(partial(_annotations, world, splits))
        yield Part(f"{folder}.json.tar.gz", count, _tarred(f"{folder}.json", annotations))
    for split in _SPLITS:
        for entity in _covered(world, split):
            for image in _images(world, split, entity):
                yield picture(f"images/{image.path}", world, entity.index, image.variation)


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


def _zipped(name: str, pieces: Callable[[], Iterator[bytes]]) -> Callable[[], Iterator[bytes]]:
    """Return a zip of one file, which holds no time and says the same on every platform."""

    def packed() -> Iterator[bytes]:
        file = _Written()
        member = zipfile.ZipInfo(name)  # of 1980
        member.compress_type, member.create_system = zipfile.ZIP_DEFLATED, 3
        # An ``IO`` as far as zipfile asks for one.
        with (
            zipfile.ZipFile(file, "w") as archive,  # type: ignore[call-overload]
            archive.open(member, "w", force_zip64=True) as content,
        ):
            for piece in pieces():
                content.write(piece)
                yield file.take()
        yield file.take()

    return packed


def _tarred(name: str, pieces: Callable[[], Iterator[bytes]]) -> Callable[[], Iterator[bytes]]:
    """Return a .tar.gz of one file, without a time."""

    def packed() -> Iterator[bytes]:
        member = tarfile.TarInfo(name)
        member.size = sum(map(len, pieces()))  # stands before the content, which is therefore made twice
        stream = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        yield stream.compress(member.tobuf())
        for piece in pieces():
            yield stream.compress(piece)
        yield stream.compress(bytes(-member.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))
        yield stream.flush()

    return packed


# --- iNaturalist ----------------------------------------------------------------------------------------------------


def _annotations(world: World, splits: tuple[Split, ...]) -> Iterator[str]:
    """Yield iNaturalist's annotations in COCO's form, on one line, NaN where a place is not known."""
    start = {"info": {"year": 2021, "version": "0", "description": "Made up", "contributor": "", "url": ""}}
    yield json.dumps(start)[:-1] + ', "images": ['
    yield from _listed(_image(world, image, entity) for entity, image in _species_images(world, splits))
    yield '], "categories": ['
    yield from _listed(
        _category(entity) for entity in map(world.entity, range(world.sizes.asked)) if _is_species(entity)
    )
    yield '], "annotations": ['
    yield from _listed(
        {"id": int(image.image_id), "image_id": int(image.image_id), "category_id": entity.index}
        for entity, image in _species_images(world, splits)
    )
    yield '], "licenses": [{"id": 0, "name": "None, the picture is made up", "url": ""}]}'


def _listed(records: Iterator[dict[str, Any]]) -> Iterator[str]:
    for number, record in enumerate(records):
        yield (", " if number else "") + json.dumps(record)


def _species_images(world: World, splits: tuple[Split, ...]) -> Iterator[tuple[Entity, _Image]]:
    for split in splits:
        for entity in _covered(world, split):
            if _is_species(entity):
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
        "supercategory": entity.kind.word,
        **dict(zip(_RANKS, _SPECIES[entity.kind.word].split("_"), strict=True)),
        "image_dir_name": _folder(entity),
    }


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
            yield _page(entity.title, articles.article(entity), articles.mention(entity, entity.rng("evqa page")))
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
    place = person.birthplace
    return (
        articles.Section(person.name, f"{person.name} was {articles.a(person.occupation)} of {place.country}."),
        articles.Section(
            "Life",
            f"Born in {place.city} on {born}, {person.surname} became {articles.a(person.occupation)} and travelled much. "
            f"A street in {place.city} is named after {person.name}.",
        ),
    )
