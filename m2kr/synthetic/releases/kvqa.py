"""KVQA: people in front of what they are known for; dataset.json, one object by image id, and the pictures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from m2kr.synthetic import articles
from m2kr.synthetic.releases.files import ReleaseFile, SyntheticRelease, drawn, json_members, record_file
from m2kr.synthetic.word_lists import load
from m2kr.synthetic.world import MONTHS, Entity, Person, World


class _Question(msgspec.Struct):
    question: str
    paraphrase: str
    answer: str
    types: list[str]


class _Words(msgspec.Struct):
    dresses: list[str]
    captions: list[str]
    short_caption: str
    one: list[_Question]
    two: list[_Question]


_WORDS = load("kvqa", _Words)


def _people(world: World, number: int) -> tuple[Entity, tuple[Person, ...]]:
    """Return what portrait ``number`` has in its background, and who is on it, from left to right."""
    # Each background comes twice and most people come more often, in the same clothes.
    index = number % max(1, world.sizes.portraits // 2) % world.sizes.asked
    entity = world.entity(index)
    other = world.entity((index + 1) % world.sizes.asked).person
    if number % 4 != 2 or other == entity.person:
        return entity, (entity.person,)
    return entity, (entity.person, other) if number % 8 == 2 else (other, entity.person)


def _files(world: World) -> Iterator[ReleaseFile]:
    count = world.sizes.portraits
    yield record_file("dataset.json", count, partial(_record, world), partial(json_members, ascii_only=False))
    for number in range(count):
        yield ReleaseFile(_image(world, number)[1], 1, partial(_portrait, world, number))


def _image(world: World, number: int) -> tuple[str, str]:
    """Return the identifier and the path of portrait ``number``; some extensions are in capitals."""
    image_id = str(1 + world.shuffle(max(60_000, 4 * world.sizes.portraits), "kvqa").at(number))
    extension = {3: "JPG", 11: "jpeg"}.get(number % 16, "jpg")
    return image_id, f"KVQAimgs/{image_id}.{extension}"


def _portrait(world: World, number: int) -> Iterator[bytes]:
    entity, people = _people(world, number)
    yield drawn(entity, f"kvqa/{number}", people)


def _record(world: World, row: int) -> tuple[str, dict[str, Any]]:
    count = world.sizes.portraits
    number = world.shuffle(count, "kvqa records").at(row)
    places = [10 * world.shuffle(count, "kvqa", partition).find(number) // count for partition in range(5)]
    image_id, path = _image(world, number)
    rng = world.rng("kvqa", number)
    entity, people = _people(world, number)
    asked, facts = _about_one(people[0], rng) if len(people) == 1 else _about_two(people[0], people[1], rng)
    types = [each.types for each in asked]
    if number % 9 == 4:
        del types[-1]
    if number % 20 == 1:
        types[0] = [*types[0], people[0].birthplace.country]
    named = list(people)
    rng.shuffle(named)
    return image_id, {
        "NamedEntities": [person.name for person in named],
        "imgPath": path,
        "ParaQuestions": [each.paraphrase.format_map(facts) for each in asked],
        "Qids": [person.qid for person in named],
        "Questions": [each.question.format_map(facts) for each in asked],
        "split": [1 if place < 7 else 2 if place < 9 else 3 for place in places],
        "wikiCap": _caption(entity, people, rng),
        "Answers": [facts[each.answer] for each in asked],
        "Type of Question": types,
    }


def _caption(entity: Entity, people: tuple[Person, ...], rng: random.Random) -> str:
    def dressed(person: Person) -> str:
        coat, trousers, hat = person.clothes
        words = {"trousers": trousers, "a_coat": articles.a(coat), "a_hat": articles.a(hat)}
        return rng.choice(_WORDS.dresses).format_map(words)

    behind = articles.description(entity, rng)
    words = {"description": behind[0].lower() + behind[1:], "city": entity.place.city}
    if len(people) == 2:
        left, right = people
        who = f"{left.name} (left) {dressed(left)} and {right.name}"
        caption = _WORDS.captions[rng.choice((0, 2, 3))].format(who=who, dress=dressed(right), **words)
    else:
        (person,) = people
        template = _WORDS.short_caption if rng.random() < 0.1 else rng.choice(_WORDS.captions)
        words |= {"who": person.name, "surname": person.surname, "role": articles.a(person.occupation)}
        caption = template.format(dress=dressed(person), **words)
    return caption[0].upper() + caption[1:]


def _yes(value: bool) -> str:
    return "Yes" if value else "No"


def _about_one(person: Person, rng: random.Random) -> tuple[list[_Question], dict[str, Any]]:
    """Return the questions about one person, and the facts that fill and answer them."""
    year = rng.choice((1700, 1800, 1850))
    role = rng.choice((person.occupation, "singer", "sailor", "judge"))
    facts = {
        "year": year,
        "a_role": articles.a(role),
        "name": person.name,
        "occupation": person.occupation,
        "birth_year": person.born.year,
        "country": person.birthplace.country,
        "city": person.birthplace.city,
        "born_before": _yes(person.born.year < year),
        "has_role": _yes(role == person.occupation),
        "birth_month": MONTHS[person.born.month - 1],
        "birth_day": str(person.born.day),
    }
    return [_WORDS.one[0], *rng.sample(_WORDS.one[1:], rng.randrange(3, 7))], facts


def _about_two(left: Person, right: Person, rng: random.Random) -> tuple[list[_Question], dict[str, Any]]:
    """Return the questions about two people, and the facts that fill and answer them."""
    role = rng.choice((left.occupation, right.occupation))
    facts = {
        "role": role,
        "left": left.name,
        "right": right.name,
        "elder": f"Person in the {'left' if left.born < right.born else 'right'}",
        "years_between": abs(left.born.year - right.born.year),
        "same_occupation": _yes(left.occupation == right.occupation),
        "with_role": [left.occupation, right.occupation].count(role),
    }
    return [*_WORDS.two[:2], *rng.sample(_WORDS.two[2:], rng.randrange(2, 5))], facts


RELEASE = SyntheticRelease(
    "KVQA",
    _files,
    build_options=lambda sizes: {"KVQA": {"test_queries": max(2, 2 * sizes.portraits // 5)}},
)
