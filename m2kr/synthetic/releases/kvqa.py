"""KVQA: people in front of what they are known for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from m2kr.synthetic import articles
from m2kr.synthetic.releases.part import Part, drawn, encoded, json_members
from m2kr.synthetic.world import MONTHS, Entity, Person, Shuffle, World

_DRESSES = (
    "in {a_coat} coat, {trousers} trousers and {a_hat} hat",
    "wearing {a_hat} hat, {a_coat} coat and {trousers} trousers",
    "with {a_hat} hat, {trousers} trousers and {a_coat} coat",
)
_CAPTIONS = (
    "{who} {dress}, in front of {M}.",
    "{who}, {role}, {dress}. Behind: {M}.",
    "A picture of {who} {dress} near {city}, with {M} in the background.",
    "{M}; in front of it {who} {dress}.",
)
_FEW_WORDS = "{surname} {dress}, with {M}."
Question = tuple[str, str, str | int, list[str]]


def _people(world: World, number: int) -> tuple[Entity, tuple[Person, ...]]:
    """Return what portrait ``number`` has in its background, and who is on it, from left to right."""
    # Each background comes twice and most people come more often, in the same clothes.
    index = number % max(1, world.sizes.portraits // 2) % world.sizes.asked
    entity = world.entity(index)
    other = world.entity((index + 1) % world.sizes.asked).person
    if number % 4 != 2 or other == entity.person:
        return entity, (entity.person,)
    return entity, (entity.person, other) if number % 8 == 2 else (other, entity.person)


def kvqa(world: World) -> Iterator[Part]:
    """KVQA: dataset.json, one object by image id, and the pictures, some with an extension in capitals."""
    count = world.sizes.portraits
    ids = Shuffle(max(60_000, 4 * count), f"{world.seed}/kvqa")
    order = Shuffle(count, f"{world.seed}/kvqa records")
    partitions = [Shuffle(count, f"{world.seed}/kvqa/{partition}") for partition in range(5)]

    def name(number: int) -> tuple[str, str]:
        image_id = str(1 + ids.at(number))
        extension = {3: "JPG", 11: "jpeg"}.get(number % 16, "jpg")
        return image_id, f"KVQAimgs/{image_id}.{extension}"

    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        for row in range(count):
            number = order.at(row)
            image_id, path = name(number)
            places = [10 * partition.find(number) // count for partition in partitions]
            split = [1 if place < 7 else 2 if place < 9 else 3 for place in places]
            yield image_id, _record(world, number, path, split)

    yield Part("dataset.json", count, encoded(lambda: json_members(records(), ascii_only=False)))
    for number in range(count):
        yield Part(name(number)[1], 1, partial(_portrait, world, number))


def _portrait(world: World, number: int) -> Iterator[bytes]:
    entity, people = _people(world, number)
    yield drawn(entity, f"kvqa/{number}", people)


def _record(world: World, number: int, path: str, split: list[int]) -> dict[str, Any]:
    rng = world.rng("kvqa", number)
    entity, people = _people(world, number)
    asked = _about_one(people[0], rng) if len(people) == 1 else _about_two(people[0], people[1], rng)
    types = [kinds for *_, kinds in asked]
    if number % 9 == 4:
        del types[-1]
    if number % 20 == 1:
        types[0] = [*types[0], people[0].birthplace.country]
    named = list(people)
    rng.shuffle(named)
    return {
        "NamedEntities": [person.name for person in named],
        "imgPath": path,
        "ParaQuestions": [other for _, other, _, _ in asked],
        "Qids": [person.qid for person in named],
        "Questions": [question for question, _, _, _ in asked],
        "split": split,
        "wikiCap": _caption(entity, people, rng),
        "Answers": [answer for _, _, answer, _ in asked],
        "Type of Question": types,
    }


def _caption(entity: Entity, people: tuple[Person, ...], rng: random.Random) -> str:
    def dressed(person: Person) -> str:
        coat, trousers, hat = person.clothes
        words = {"coat": coat, "trousers": trousers, "hat": hat, "a_coat": articles.a(coat), "a_hat": articles.a(hat)}
        return rng.choice(_DRESSES).format_map(words)

    mention = articles.mention(entity, rng)
    words = {"M": mention[0].lower() + mention[1:], "city": entity.place.city}
    if len(people) == 2:
        left, right = people
        who = f"{left.name} (left) {dressed(left)} and {right.name}"
        caption = _CAPTIONS[rng.choice((0, 2, 3))].format(who=who, dress=dressed(right), **words)
    else:
        (person,) = people
        template = _FEW_WORDS if rng.random() < 0.1 else rng.choice(_CAPTIONS)
        words |= {"who": person.name, "surname": person.surname, "role": articles.a(person.occupation)}
        caption = template.format(dress=dressed(person), **words)
    return caption[0].upper() + caption[1:]


def _yes(value: bool) -> str:
    return "Yes" if value else "No"


def _about_one(person: Person, rng: random.Random) -> list[Question]:
    year = rng.choice((1700, 1800, 1850))
    role = rng.choice((person.occupation, "singer", "sailor", "judge"))
    born = person.birthplace
    first: Question = ("Who is shown in this image?", "Which person does the picture show?", person.name, ["1-hop"])
    rest: list[Question] = [
        (
            "What is the person in the image by trade?",
            "Which occupation did the person in the picture have?",
            person.occupation,
            ["1-hop"],
        ),
        (
            "In which year was the person in the image born?",
            "What is the year of birth of the person in the picture?",
            person.born.year,
            ["1-hop"],
        ),
        (
            "In which country was the person in the image born?",
            "Which is the country of birth of the person in the picture?",
            born.country,
            ["multi-hop"],
        ),
        (
            "In which town was the person in the image born?",
            "Which is the home town of the person in the picture?",
            born.city,
            ["1-hop"],
        ),
        (
            f"Was the person in the image born before {year}?",
            f"Was the birth of the person in the picture earlier than {year}?",
            _yes(person.born.year < year),
            ["1-hop", "boolean", "comparison"],
        ),
        (
            f"Is the person in the image {articles.a(role)}?",
            f"Does the picture show {articles.a(role)}?",
            _yes(role == person.occupation),
            ["1-hop", "boolean"],
        ),
        (
            "In which month does the person in the image have a birthday?",
            "Which is the month of birth of the person in the picture?",
            MONTHS[person.born.month - 1],
            ["1-hop"],
        ),
        (
            "How many days into its month falls the birthday of the person in the image?",
            "On which day of the month was the person in the picture born?",
            str(person.born.day),
            ["1-hop", "counting"],
        ),
    ]
    return [first, *rng.sample(rest, rng.randrange(3, 7))]


def _about_two(left: Person, right: Person, rng: random.Random) -> list[Question]:
    role = rng.choice((left.occupation, right.occupation))
    gap = abs(left.born.year - right.born.year)
    elder = "left" if left.born < right.born else "right"
    first: list[Question] = [
        ("Who stands on the left?", "Which person is on the left side?", left.name, ["spatial", "1-hop"]),
        ("Who stands on the right?", "Which person is on the right side?", right.name, ["spatial", "1-hop"]),
    ]
    rest: list[Question] = [
        (
            f"Who is to the left of {right.name}?",
            f"Whom does one see to the left of {right.name}?",
            left.name,
            ["spatial", "1-hop"],
        ),
        (
            "Who is the eldest of the people in the image?",
            "Which of the people in the picture was born first?",
            f"Person in the {elder}",
            ["multi-hop", "comparison", "Multi-Entity"],
        ),
        (
            "How many years lie between the births of the people in the image?",
            "What is the age difference of the people in the picture?",
            gap,
            ["1-hop subtraction", "Multi-Entity"],
        ),
        (
            "Do the people in the image have the same occupation?",
            "Is there an occupation that the people in the picture share?",
            _yes(left.occupation == right.occupation),
            ["1-hop", "intersection", "boolean", "Multi-Entity"],
        ),
        (
            f"How many people in the image were {role}s?",
            f"What is the number of {role}s in the picture?",
            [left.occupation, right.occupation].count(role),
            ["1-hop", "counting", "Multi-Entity"],
        ),
    ]
    return [*first, *rng.sample(rest, rng.randrange(2, 5))]
