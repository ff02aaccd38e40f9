"""The types of entities, and the colours, patterns and settings of which their looks consist."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from m2kr.synthetic.word_lists import load

RGB = tuple[int, int, int]


class Setting(msgspec.Struct, frozen=True):
    """A landscape: how an article, a dialogue and a caption word it, and the colours in which it is drawn."""

    where: str
    seen: str
    noun: str
    sky: RGB
    horizon: RGB
    ground: RGB


class Dimension(msgspec.Struct, frozen=True):
    """What the numeric fact of a type measures, in units; values are ``least`` or more and less than ``below``."""

    name: str
    adjective: str
    how: str
    unit: str
    least: int
    below: int


class EntityType(msgspec.Struct, frozen=True):
    """A type of entity, with the words that all entities of the type share."""

    word: str  # what a passer-by calls it
    titles: tuple[str, ...]  # article titles; ``{name}`` stands for the entity's name
    group: Literal["building", "object", "living"]  # decides which sentences fit
    lies: str  # of the group, the verb that says where such an entity is
    lying: str  # of the group, that verb's participle
    surroundings: str  # of the group, the title of the section about the place
    body: str  # the part that carries the main colour and the pattern
    accent: str  # the part that carries the second colour
    parts: str  # what is counted, plural
    counts: tuple[int, int, int, int]  # the four numbers of parts that occur
    material_of: str  # the part whose material is a fact
    materials: tuple[str, ...]  # those that occur
    dimension: Dimension  # of the numeric fact
    made: str  # what happened in the year of the date fact, as a participle
    by: str  # what the person did to it, as a past tense
    role: str  # the person's occupation
    uses: tuple[str, ...]  # values of the fact that only this type has, plural nouns
    use_sentence: str  # states that fact
    use_question: str  # asks for it about a picture
    use_query: str  # asks for it in a search
    okvqa_type: str  # number of the OK-VQA question type that fits
    taxonomy: str = ""  # of a species, kingdom to order in iNaturalist's folder names; empty for what is no species


class _Looks(msgspec.Struct):
    colours: dict[str, RGB]
    markings: dict[str, str]
    settings: dict[str, Setting]


def _entity_types() -> tuple[EntityType, ...]:
    """Return the types, each with what its group and its list of materials say."""
    words = load("things", dict[str, Any])
    merged = [words["groups"][each["group"]] | each for each in words["types"]]
    return msgspec.convert(
        [each | {"materials": words["materials"][each["materials"]]} for each in merged], tuple[EntityType, ...]
    )


ENTITY_TYPES = _entity_types()
_LOOKS = load("looks", _Looks)
COLOURS = _LOOKS.colours
MARKINGS = _LOOKS.markings
"""What each pattern looks like, as a template."""
SETTINGS = _LOOKS.settings
