"""What exists in the made-up world: entities, their looks, facts, people and places. Pure data, no files, no pictures.

Everything is addressed by number and computed when asked for: entity ``i`` depends on the seed and on ``i`` alone,
not on the scale, so a world of any size is written in constant memory, and a larger world contains the smaller one.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Literal

import msgspec

from m2kr.errors import M2KRError
from m2kr.synthetic.shuffle import Shuffle
from m2kr.synthetic.sizes import POOL, Sizes
from m2kr.synthetic.things import COLOURS, ENTITY_TYPES, MARKINGS, SETTINGS, EntityType
from m2kr.synthetic.word_lists import load

CocoSplit = Literal["train2014", "val2014"]


class _Words(msgspec.Struct):
    onsets: list[str]
    vowels: list[str]
    middles: list[str]
    endings: list[str]
    accented: dict[str, str]
    country_endings: list[str]
    months: list[str]
    seasons: list[str]
    material_adjectives: list[str]
    guests: list[str]
    guest_adjectives: list[str]


_WORDS = load("world", _Words)
MONTHS = _WORDS.months
SEASONS = dict(zip(MONTHS, _WORDS.seasons, strict=True))
_COLOURS, _PATTERNS, _SETTINGS = list(COLOURS), list(MARKINGS), list(SETTINGS)
_LOOKS = len(ENTITY_TYPES) * len(COLOURS) * (len(COLOURS) - 1) * len(MARKINGS) * 4 * len(SETTINGS)
_SHORT_NAMES = len(_WORDS.onsets) * 6 * len(_WORDS.middles) * 6 * len(_WORDS.endings)
_NAMES = _SHORT_NAMES * (1 + 10 * 6)
_CITIES, _COUNTRIES = 60, 14
_COCO_IDS = 581_929  # the largest image number of COCO 2014; larger worlds go beyond it


@dataclass(frozen=True, slots=True)
class Look:
    """What can be seen: drawn in the pictures, worded in the article."""

    colour: str
    second_colour: str
    pattern: str
    count: int
    setting: str


@dataclass(frozen=True, slots=True)
class Place:
    """A made-up city in a made-up country."""

    city: str
    country: str


@dataclass(frozen=True, slots=True)
class Person:
    """A made-up person; several entities may have been made by the same one."""

    qid: str
    given_name: str
    surname: str
    occupation: str
    born: date
    birthplace: Place

    @property
    def name(self) -> str:
        """Given name and surname."""
        return f"{self.given_name} {self.surname}"

    @property
    def clothes(self) -> tuple[str, str, str]:
        """Colours of coat, trousers and hat, which the person wears in all pictures."""
        rng = random.Random(f"{self.qid}/{self.name}/clothes")
        coat, trousers = rng.sample(_COLOURS, 2)
        return coat, trousers, rng.choice([colour for colour in _COLOURS if colour != coat])


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing of the world, with everything that a release may ask or tell about it."""

    index: int  # its number, from 0
    seed: int  # the world's seed, so that texts about the entity need nothing else
    qid: str  # an identifier in Wikidata's form, beyond those that exist
    name: str  # unique in the world up to 14 million entities
    title: str  # unique article title; some hold brackets, double quotes or accents
    type: EntityType  # the type of thing
    look: Look  # what can be seen. Looks of different entities differ up to 77,760 entities.
    value: int  # a numeric fact, in units of ``type.dimension``
    date: date  # the day it was built, launched, first recorded and so on
    place: Place  # where it is
    person: Person  # who made or described it
    material: str  # of ``type.material_of``
    material_adjective: str  # a word that makes the material more specific
    use: str  # one of ``type.uses``
    guest: str  # animals that live beside it, plural
    guest_adjective: str  # a word that makes these animals more specific
    month: str  # in which its yearly fair is held

    def __hash__(self) -> int:
        return hash((self.seed, self.index))

    def rng(self, purpose: str) -> random.Random:
        """Return the random numbers for one purpose; the same each time, and independent of other purposes."""
        return random.Random(f"{self.seed}/entity/{self.index}/{purpose}")


@dataclass(frozen=True, slots=True)
class CocoPicture:
    """One COCO picture of the world."""

    split: CocoSplit  # the COCO 2014 part that holds it
    image_id: int  # COCO's number, unique over both parts
    entity: int  # index of the entity that it shows
    variation: int  # which of that entity's pictures: another place, size, noise and shade for each number

    @property
    def path(self) -> str:
        """Relative path in the COCO 2014 layout."""
        return f"{self.split}/COCO_{self.split}_{self.image_id:012d}.jpg"


def spell(number: int) -> str:
    """Return the pronounceable name that stands for ``number`` < 14,054,400.

    Names differ where numbers do: clusters of consonants and single vowels alternate, so a name is read in one way.
    """
    longer, number = divmod(number, _SHORT_NAMES)
    number, ending = divmod(number, len(_WORDS.endings))
    number, second = divmod(number, 6)
    number, middle = divmod(number, len(_WORDS.middles))
    onset, first = divmod(number, 6)
    extra = ""
    if longer:
        consonant, vowel = divmod(longer - 1, 6)
        extra = _WORDS.middles[2 * consonant] + _WORDS.vowels[vowel]
    start = _WORDS.onsets[onset] + _WORDS.vowels[first]
    return start + extra + _WORDS.middles[middle] + _WORDS.vowels[second] + _WORDS.endings[ending]


class World:
    """All entities, people, places and pictures of one seed, in the numbers of one scale."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        """Describe a world; nothing is computed before it is asked for.

        Args:
            seed: which world.
            scale: how much of it; 1 is about 250 entities, 2,000 MS MARCO passages and 1,900 pictures.

        Raises:
            M2KRError: ``scale`` is not a positive number.
        """
        if not (scale > 0 and math.isfinite(scale)):
            raise M2KRError(f"scale is {scale}; it must be a positive number, such as 1 or 0.2.")
        self.seed = seed
        self.sizes = Sizes(scale)
        self.shuffle = lru_cache(self._shuffle)
        # One article holds four MS MARCO passages, which queries reach in any order.
        self.entity = lru_cache(maxsize=4096)(self._entity)
        spelt = [spell(self.shuffle(_SHORT_NAMES, "place").at(i)) for i in range(_COUNTRIES + _CITIES)]
        endings = _WORDS.country_endings
        countries = [spelt[i] + endings[i % len(endings)] for i in range(_COUNTRIES)]
        self.places = tuple(Place(city, countries[i % _COUNTRIES]) for i, city in enumerate(spelt[_COUNTRIES:]))
        self._given = tuple(spell(self.shuffle(_SHORT_NAMES, "place").at(1000 + i)) for i in range(80))

    def _shuffle(self, size: int, *key: object) -> Shuffle:
        """Return the permutation of ``size`` numbers that belongs to ``key``."""
        return Shuffle(size, "/".join(map(str, (self.seed, *key))))

    def rng(self, *key: object) -> random.Random:
        """Return the random numbers that belong to ``key``: the same each time, whatever else was drawn before."""
        return random.Random("/".join(map(str, (self.seed, *key))))

    def look(self, index: int) -> tuple[EntityType, Look]:
        """Return type and look of entity ``index``: the shuffled ``index``-th of all combinations."""
        rest = self.shuffle(_LOOKS, "look").at(index % _LOOKS)
        rest, setting = divmod(rest, len(_SETTINGS))
        rest, count = divmod(rest, 4)
        rest, pattern = divmod(rest, len(_PATTERNS))
        rest, second = divmod(rest, len(_COLOURS) - 1)
        type_index, colour = divmod(rest, len(_COLOURS))
        second += second >= colour  # never the same colour twice
        shown = ENTITY_TYPES[type_index]
        look = Look(_COLOURS[colour], _COLOURS[second], _PATTERNS[pattern], shown.counts[count], _SETTINGS[setting])
        return shown, look

    def maker(self, number: int) -> Person:
        """Return the person of this number, who makes entities of type ``number % len(ENTITY_TYPES)``."""
        rng = self.rng("person", number)
        born = date(rng.randrange(1600, 1960), rng.randrange(1, 13), rng.randrange(1, 29))
        surname = spell(self.shuffle(_NAMES, "surname").at(number))
        role = ENTITY_TYPES[number % len(ENTITY_TYPES)].role
        return Person(
            f"Q{9_500_000_000 + number}", rng.choice(self._given), surname, role, born, rng.choice(self.places)
        )

    def _entity(self, index: int) -> Entity:
        rng = self.rng("entity", index)
        entity_type, look = self.look(index)
        name = spell(self.shuffle(_NAMES, "name").at(index))
        if rng.random() < 0.1:
            vowel = next(letter for letter in name if letter in _WORDS.accented)
            name = name.replace(vowel, _WORDS.accented[vowel], 1)
        # People come in pools of two for every `POOL` entities and type, so that some made more than one of these.
        pool = 2 * (index // POOL)
        person = self.maker((pool + rng.randrange(2)) * len(ENTITY_TYPES) + ENTITY_TYPES.index(entity_type))
        year = person.born.year + rng.randrange(24, 62)
        return Entity(
            index=index,
            seed=self.seed,
            qid=f"Q{9_000_000_000 + index}",
            name=name,
            title=rng.choice(entity_type.titles).format(name=name),
            type=entity_type,
            look=look,
            value=rng.randrange(entity_type.dimension.least, entity_type.dimension.below),
            date=date(year, rng.randrange(1, 13), rng.randrange(1, 29)),
            place=rng.choice(self.places),
            person=person,
            material=rng.choice(entity_type.materials),
            material_adjective=rng.choice(_WORDS.material_adjectives),
            use=rng.choice(entity_type.uses),
            guest=rng.choice(_WORDS.guests),
            guest_adjective=rng.choice(_WORDS.guest_adjectives),
            month=rng.choice(MONTHS),
        )

    def picture(self, split: CocoSplit, index: int) -> CocoPicture:
        """Return picture ``index`` of a COCO part; the last fifth of the asked entities are in val2014 only."""
        asked, train = self.sizes.asked, self.sizes.train_pictures
        number = index if split == "train2014" else train + index
        image_id = 1 + self.shuffle(max(_COCO_IDS, 4 * (train + self.sizes.val_pictures)), "coco").at(number)
        if split == "train2014":
            return CocoPicture(split, image_id, index % self.sizes.train_entities, number)
        return CocoPicture(split, image_id, self.shuffle(asked, "val2014").at(index % asked), number)
