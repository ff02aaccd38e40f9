"""What exists in the made-up world: entities, their looks, facts, people and places. Pure data, no files, no pictures.

Everything is addressed by number and computed when asked for: entity ``i`` depends on the seed and on ``i`` alone,
not on the scale, so a world of any size is written in constant memory, and a larger world contains the smaller one.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Literal

from m2kr.errors import M2KRError
from m2kr.synthetic.things import KINDS, Kind

CocoSplit = Literal["train2014", "val2014"]

COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "violet", "pink", "white", "black")
PATTERNS = ("plain", "striped", "spotted", "chequered")
SETTINGS = ("sea", "meadow", "desert", "snow", "forest", "mountains")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_MATERIAL_ADJECTIVES = ("local", "dark", "pale", "polished", "recycled", "imported", "smoked", "old")
_GUESTS = (
    *("bats", "swallows", "foxes", "hedgehogs", "owls", "goats", "lizards", "otters", "squirrels", "rabbits"),
    *("storks", "badgers", "frogs", "doves", "cats", "donkeys", "turtles", "geckos", "herons", "ferrets"),
)
_GUEST_ADJECTIVES = ("grey", "brown", "tame", "wild", "shy", "noisy", "spectacled", "long-eared")
_POOL = 36  # so many entities share two people for each kind
_LOOKS = len(KINDS) * len(COLOURS) * (len(COLOURS) - 1) * len(PATTERNS) * 4 * len(SETTINGS)


@dataclass(frozen=True, slots=True)
class Look:
    """What can be seen: drawn in the pictures, worded in the article."""

    colour: str
    second_colour: str
    pattern: str
    count: int
    setting: str


@dataclass(frozen=True, slots=True)
class Quantity:
    """A numeric fact: ``dimension`` is ``value`` ``unit``s."""

    dimension: str
    value: int
    unit: str

    @property
    def text(self) -> str:
        """The value with its unit, as in "47 metres"."""
        return f"{self.value} {self.unit}s"


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
        coat, trousers = rng.sample(COLOURS, 2)
        return coat, trousers, rng.choice([colour for colour in COLOURS if colour != coat])


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing of the world, with everything that a release may ask or tell about it.

    Attributes:
        index: its number, from 0.
        seed: the world's seed, so that texts about the entity need nothing else.
        qid: an identifier in Wikidata's form, beyond those that exist.
        name: unique in the world up to 14 million entities.
        title: unique article title; some hold brackets, double quotes or accents.
        kind: the sort of thing.
        look: what can be seen. Looks of different entities differ up to 77,760 entities.
        quantity: a numeric fact with a unit.
        date: the day it was built, launched, first recorded and so on.
        place: where it is.
        person: who made or described it.
        material: of ``kind.material_of``.
        material_adjective: a word that makes the material more specific.
        use: one of ``kind.uses``.
        guest: animals that live beside it, plural.
        guest_adjective: a word that makes these animals more specific.
        month: in which its yearly fair is held.
    """

    index: int
    seed: int
    qid: str
    name: str
    title: str
    kind: Kind
    look: Look
    quantity: Quantity
    date: date
    place: Place
    person: Person
    material: str
    material_adjective: str
    use: str
    guest: str
    guest_adjective: str
    month: str

    def rng(self, purpose: str) -> random.Random:
        """Return the random numbers for one purpose; the same each time, and independent of other purposes."""
        return random.Random(f"{self.seed}/entity/{self.index}/{purpose}")


@dataclass(frozen=True, slots=True)
class Picture:
    """One COCO picture of the world.

    Attributes:
        split: the COCO 2014 part that holds it.
        image_id: COCO's number, unique over both parts.
        entity: index of the entity that it shows.
        variation: which of that entity's pictures: another place, size, noise and shade for each number.
    """

    split: CocoSplit
    image_id: int
    entity: int
    variation: int

    @property
    def path(self) -> str:
        """Relative path in the COCO 2014 layout."""
        return f"{self.split}/COCO_{self.split}_{self.image_id:012d}.jpg"


class Shuffle:
    """A permutation of 0..size-1 that is computed, not stored: `at` and its inverse `find` take constant memory.

    Four rounds of a Feistel network over the next even number of bits; numbers that fall outside are sent round again.
    """

    def __init__(self, size: int, key: str) -> None:
        """Make the permutation of ``size`` numbers that belongs to ``key``."""
        rng = random.Random(f"shuffle/{key}")
        self._size = size
        self._half = max(1, math.ceil((size - 1).bit_length() / 2))
        self._mask = (1 << self._half) - 1
        self._keys = [rng.getrandbits(32) for _ in range(4)]

    def _mix(self, value: int, key: int) -> int:
        value = ((value ^ key) * 0x9E3779B1) & 0xFFFFFFFF
        value = ((value ^ (value >> 15)) * 0x85EBCA77) & 0xFFFFFFFF
        return (value ^ (value >> 13)) & self._mask

    def at(self, index: int) -> int:
        """Return the number at position ``index``."""
        while True:
            left, right = index >> self._half, index & self._mask
            for key in self._keys:
                left, right = right, left ^ self._mix(right, key)
            index = left << self._half | right
            if index < self._size:
                return index

    def find(self, value: int) -> int:
        """Return the position of ``value``."""
        while True:
            left, right = value >> self._half, value & self._mask
            for key in reversed(self._keys):
                left, right = right ^ self._mix(left, key), left
            value = left << self._half | right
            if value < self._size:
                return value


_ONSETS = ("B", "Br", "D", "Dr", "F", "G", "Gl", "H", "J", "K", "L", "M", "N", "P", "Qu", "R", "T", "Tr", "V", "Z")
_VOWELS = "aeiouy"
_MIDDLES = ("b", "d", "g", "k", "l", "ll", "lm", "m", "n", "nd", "nt", "r", "rd", "rv", "ss", "st", "t", "v", "x", "z")
_ENDINGS = ("", "l", "n", "r", "th", "rn", "m", "sk", "nd", "x", "ck", "t", "lm", "ng", "nk", "rt")
_ACCENTS = {"a": "á", "e": "é", "i": "í", "o": "ö", "u": "ü", "y": "ý"}
_SHORT_NAMES = len(_ONSETS) * 6 * len(_MIDDLES) * 6 * len(_ENDINGS)
_NAMES = _SHORT_NAMES * (1 + 10 * 6)


def spell(number: int) -> str:
    """Return the pronounceable name that stands for ``number`` < 14,054,400.

    Names differ where numbers do: clusters of consonants and single vowels alternate, so a name is read in one way.
    """
    longer, number = divmod(number, _SHORT_NAMES)
    number, ending = divmod(number, len(_ENDINGS))
    number, second = divmod(number, 6)
    number, middle = divmod(number, len(_MIDDLES))
    onset, first = divmod(number, 6)
    extra = ""
    if longer:
        consonant, vowel = divmod(longer - 1, 6)
        extra = _MIDDLES[2 * consonant] + _VOWELS[vowel]
    start = _ONSETS[onset] + _VOWELS[first]
    return start + extra + _MIDDLES[middle] + _VOWELS[second] + _ENDINGS[ending]


@dataclass(frozen=True)
class Sizes:
    """How many of everything a scale gives.

    Attributes:
        scale: the factor that was asked for.
        asked: entities that questions and pictures are about: entities 0..asked-1.
        distractors: further entities that only have articles: the numbers after those.
        train_pictures: pictures in COCO train2014, of the first four fifths of the asked entities.
        val_pictures: pictures in COCO val2014, of all asked entities.
        passages: MS MARCO passages, four for each of entities 0..passages/4-1.
        train_queries: judged MS MARCO training queries.
        unjudged_queries: further training queries without a judgement.
        dev_queries: MS MARCO development queries, all judged.
        conversations: records of LLaVA-Instruct's conversation file; a picture occurs once per file.
        details: records of its detail file.
        reasonings: records of its complex-reasoning file.
        okvqa_train: OK-VQA questions about train2014 pictures, one per picture.
        okvqa_val: OK-VQA questions about val2014 pictures, one per picture.
        wit_train: pictures of WIT's training files, each on one page or more.
        wit_val: pictures of its validation files; every other one is in IGLUE.
        portraits: pictures of KVQA, of one or two people each.
        captions: captioned pictures of CC3M.
        oven_train: records and pictures of OVEN's training file, of the first four fifths of the asked entities.
        oven_val: records and pictures of its validation file; every other one shows one of the last fifth.
        infoseek_train: InfoSeek questions about OVEN's training pictures.
        infoseek_val: InfoSeek questions about OVEN's validation pictures.
    """

    scale: float
    asked: int = field(init=False)
    distractors: int = field(init=False)
    train_pictures: int = field(init=False)
    val_pictures: int = field(init=False)
    passages: int = field(init=False)
    train_queries: int = field(init=False)
    unjudged_queries: int = field(init=False)
    dev_queries: int = field(init=False)
    conversations: int = field(init=False)
    details: int = field(init=False)
    reasonings: int = field(init=False)
    okvqa_train: int = field(init=False)
    okvqa_val: int = field(init=False)
    wit_train: int = field(init=False)
    wit_val: int = field(init=False)
    portraits: int = field(init=False)
    captions: int = field(init=False)
    oven_train: int = field(init=False)
    oven_val: int = field(init=False)
    infoseek_train: int = field(init=False)
    infoseek_val: int = field(init=False)

    def __post_init__(self) -> None:
        """Work the numbers out; each has a smallest value that keeps the tiniest world usable."""

        def size(name: str, at_scale_1: int, at_least: int) -> None:
            object.__setattr__(self, name, max(at_least, round(at_scale_1 * self.scale)))

        size("asked", 250, 10)
        size("distractors", 250, 6)
        size("train_pictures", 330, 18)
        size("val_pictures", 150, 6)
        size("passages", 500, 20)
        object.__setattr__(self, "passages", 4 * self.passages)
        size("train_queries", 600, 24)
        size("unjudged_queries", 360, 12)
        size("dev_queries", 150, 8)
        size("conversations", 150, 8)
        size("details", 200, 10)
        size("reasonings", 250, 12)
        size("okvqa_train", 300, 14)
        size("okvqa_val", 150, 6)
        size("wit_train", 220, 20)
        size("wit_val", 110, 12)
        size("portraits", 150, 10)
        size("captions", 220, 8)
        size("oven_train", 260, 16)
        size("oven_val", 120, 8)
        size("infoseek_train", 320, 24)
        size("infoseek_val", 120, 10)

    @property
    def entities(self) -> int:
        """Entities that have an article."""
        return self.asked + self.distractors

    @property
    def train_entities(self) -> int:
        """Asked entities that training data is about: the first four fifths."""
        return max(1, self.asked * 4 // 5)

    @property
    def people(self) -> int:
        """People who made or described the entities: numbers 0..people-1 of `World.maker`."""
        return 2 * math.ceil(self.entities / _POOL) * len(KINDS)


_CITIES, _COUNTRIES = 60, 14
_COCO_IDS = 581_929  # the largest image number of COCO 2014; larger worlds go beyond it


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
        self._names = Shuffle(_NAMES, f"{seed}/name")
        self._looks = Shuffle(_LOOKS, f"{seed}/look")
        self._surnames = Shuffle(_NAMES, f"{seed}/surname")
        places = Shuffle(_SHORT_NAMES, f"{seed}/place")
        countries = [spell(places.at(i)) + ("land", "ia", "mark")[i % 3] for i in range(_COUNTRIES)]
        self.places = tuple(Place(spell(places.at(_COUNTRIES + i)), countries[i % _COUNTRIES]) for i in range(_CITIES))
        self._given = tuple(spell(places.at(1000 + i)) for i in range(80))
        pictures = self.sizes.train_pictures + self.sizes.val_pictures
        self._image_ids = Shuffle(max(_COCO_IDS, 4 * pictures), f"{seed}/coco")
        self._val_entities = Shuffle(self.sizes.asked, f"{seed}/val2014")
        # One article holds four MS MARCO passages, which queries reach in any order.
        self.entity = lru_cache(maxsize=4096)(self._entity)

    def rng(self, *key: object) -> random.Random:
        """Return the random numbers that belong to ``key``: the same each time, whatever else was drawn before."""
        return random.Random("/".join(map(str, (self.seed, *key))))

    def look(self, index: int) -> tuple[Kind, Look]:
        """Return kind and look of entity ``index``: the shuffled ``index``-th of all combinations."""
        rest = self._looks.at(index % _LOOKS)
        rest, setting = divmod(rest, len(SETTINGS))
        rest, count = divmod(rest, 4)
        rest, pattern = divmod(rest, len(PATTERNS))
        rest, second = divmod(rest, len(COLOURS) - 1)
        kind_index, colour = divmod(rest, len(COLOURS))
        second += second >= colour  # never the same colour twice
        kind = KINDS[kind_index]
        look = Look(COLOURS[colour], COLOURS[second], PATTERNS[pattern], kind.counts[count], SETTINGS[setting])
        return kind, look

    def person(self, index: int, occupation: str) -> Person:
        """Return person ``index``; the caller keeps one occupation per number."""
        rng = self.rng("person", index)
        born = date(rng.randrange(1600, 1960), rng.randrange(1, 13), rng.randrange(1, 29))
        surname = spell(self._surnames.at(index))
        return Person(
            f"Q{9_500_000_000 + index}", rng.choice(self._given), surname, occupation, born, rng.choice(self.places)
        )

    def maker(self, number: int) -> Person:
        """Return the person of this number, of the occupation that makes entities of kind ``number % len(KINDS)``."""
        return self.person(number, KINDS[number % len(KINDS)].role)

    def _entity(self, index: int) -> Entity:
        rng = self.rng("entity", index)
        kind, look = self.look(index)
        name = spell(self._names.at(index))
        if rng.random() < 0.1:
            vowel = next(letter for letter in name if letter in _VOWELS)
            name = name.replace(vowel, _ACCENTS[vowel], 1)
        dimension, _, unit, low, high = kind.dimension
        # People come in pools of two for every `_POOL` entities and kind, so that some made more than one of these.
        pool = 2 * (index // _POOL)
        person = self.maker((pool + rng.randrange(2)) * len(KINDS) + KINDS.index(kind))
        year = person.born.year + rng.randrange(24, 62)
        return Entity(
            index=index,
            seed=self.seed,
            qid=f"Q{9_000_000_000 + index}",
            name=name,
            title=rng.choice(kind.titles).format(name=name),
            kind=kind,
            look=look,
            quantity=Quantity(dimension, rng.randrange(low, high), unit),
            date=date(year, rng.randrange(1, 13), rng.randrange(1, 29)),
            place=rng.choice(self.places),
            person=person,
            material=rng.choice(kind.materials),
            material_adjective=rng.choice(_MATERIAL_ADJECTIVES),
            use=rng.choice(kind.uses),
            guest=rng.choice(_GUESTS),
            guest_adjective=rng.choice(_GUEST_ADJECTIVES),
            month=rng.choice(MONTHS),
        )

    def picture(self, split: CocoSplit, index: int) -> Picture:
        """Return picture ``index`` of a COCO part; the last fifth of the asked entities are in val2014 only."""
        asked, train = self.sizes.asked, self.sizes.train_pictures
        if split == "train2014":
            return Picture(split, 1 + self._image_ids.at(index), index % self.sizes.train_entities, index)
        image_id = 1 + self._image_ids.at(train + index)
        return Picture(split, image_id, self._val_entities.at(index % asked), train + index)
