"""The sorts of things in the made-up world, and the words that all things of one sort share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# fmt: off
_HARD = (
    "copper", "slate", "oak", "pine", "tin", "brass", "cedar", "zinc", "granite", "bamboo", "walnut",
    "bronze", "cork", "elm", "maple", "leather", "iron", "willow", "beech", "glass",
)
_SOFT = (
    "moss", "straw", "wool", "bark", "reed", "lichen", "silk", "mud", "hemp", "heather", "clay", "down",
    "ivy", "grass", "resin", "flax",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of thing, with the words that all entities of the sort share.

    Attributes:
        word: what a passer-by calls it.
        titles: article titles; ``{name}`` stands for the entity's name.
        group: decides which sentences fit.
        body: the part that carries the main colour and the pattern.
        accent: the part that carries the second colour.
        part: what is counted, plural.
        counts: the four numbers of parts that occur.
        material_of: the part whose material is a fact.
        materials: those that occur.
        dimension: what the numeric fact measures, its adjective, its unit (singular), and the smallest and largest
            value.
        made: what happened in the year of the date fact, as a participle.
        by: what the person did to it, as a past tense.
        role: the person's occupation.
        uses: values of the fact that only this kind has, plural nouns.
        okvqa_type: number of the OK-VQA question type that fits.
    """

    word: str
    titles: tuple[str, ...]
    group: Literal["building", "object", "living"]
    body: str
    accent: str
    part: str
    counts: tuple[int, int, int, int]
    material_of: str
    materials: tuple[str, ...]
    dimension: tuple[str, str, str, int, int]
    made: str
    by: str
    role: str
    uses: tuple[str, ...]
    okvqa_type: str


KINDS = (
    Kind(
        word="tower",
        titles=("{name} Tower",),
        group="building",
        body="walls",
        accent="roof",
        part="windows",
        counts=(2, 3, 4, 5),
        material_of="spire",
        materials=_HARD,
        dimension=("height", "tall", "metre", 18, 140),
        made="completed",
        by="designed",
        role="architect",
        uses=("maps", "lanterns", "barrels", "clocks", "letters", "candles", "bells", "carpets"),
        okvqa_type="six",
    ),
    Kind(
        word="bridge",
        titles=("{name} Bridge", "{name} Crossing"),
        group="building",
        body="sides",
        accent="deck",
        part="arches",
        counts=(2, 3, 4, 5),
        material_of="railing",
        materials=_HARD,
        dimension=("length", "long", "metre", 40, 900),
        made="opened",
        by="engineered",
        role="engineer",
        uses=("carters", "traders", "miners", "cyclists", "pilgrims", "shepherds", "porters", "soldiers"),
        okvqa_type="six",
    ),
    Kind(
        word="windmill",
        titles=("{name} Mill",),
        group="building",
        body="walls",
        accent="cap",
        part="blades",
        counts=(3, 4, 5, 6),
        material_of="main shaft",
        materials=_HARD,
        dimension=("height", "tall", "metre", 9, 38),
        made="built",
        by="planned",
        role="millwright",
        uses=("acorns", "peppercorns", "chestnuts", "lentils", "oats", "beans", "walnuts", "poppy seeds"),
        okvqa_type="nine",
    ),
    Kind(
        word="boat",
        titles=("{name} (boat)", 'The "{name}"'),
        group="object",
        body="hull",
        accent="sail",
        part="portholes",
        counts=(2, 3, 4, 5),
        material_of="mast",
        materials=_HARD,
        dimension=("length", "long", "metre", 6, 48),
        made="launched",
        by="drew the plans of",
        role="shipwright",
        uses=("barrels", "oranges", "bricks", "melons", "carpets", "herrings", "lemons", "violins"),
        okvqa_type="one",
    ),
    Kind(
        word="kite",
        titles=("{name} Kite",),
        group="object",
        body="cloth",
        accent="tail",
        part="bows",
        counts=(2, 3, 4, 5),
        material_of="frame",
        materials=_HARD,
        dimension=("wingspan", "wide", "centimetre", 60, 480),
        made="first flown",
        by="invented",
        role="kite maker",
        uses=("lanterns", "cameras", "flags", "whistles", "banners", "ropes", "mirrors", "letters"),
        okvqa_type="four",
    ),
    Kind(
        word="guitar",
        titles=("{name} Guitar", "{name} Lute"),
        group="object",
        body="body",
        accent="neck",
        part="strings",
        counts=(2, 3, 4, 5),
        material_of="bridge",
        materials=_HARD,
        dimension=("length", "long", "centimetre", 55, 130),
        made="made",
        by="built",
        role="luthier",
        uses=("weddings", "fairs", "parades", "dances", "banquets", "regattas", "harvests", "birthdays"),
        okvqa_type="seven",
    ),
    Kind(
        word="bird",
        titles=("{name} Finch", "{name} Warbler", "{name} Thrush"),
        group="living",
        body="breast",
        accent="wing",
        part="tail feathers",
        counts=(2, 3, 4, 5),
        material_of="nest",
        materials=_SOFT,
        dimension=("weight", "in weight", "gram", 12, 900),
        made="first recorded",
        by="described",
        role="ornithologist",
        uses=("beetles", "berries", "snails", "crickets", "worms", "moths", "acorns", "cherries"),
        okvqa_type="eight",
    ),
    Kind(
        word="butterfly",
        titles=("{name} Swallowtail", "{name} Fritillary"),
        group="living",
        body="wings",
        accent="border",
        part="spots on each wing",
        counts=(2, 3, 4, 5),
        material_of="cocoon",
        materials=_SOFT,
        dimension=("wingspan", "wide", "millimetre", 18, 190),
        made="first recorded",
        by="described",
        role="entomologist",
        uses=("thistles", "clovers", "daisies", "nettles", "violets", "poppies", "plums", "figs"),
        okvqa_type="eight",
    ),
    Kind(
        word="flower",
        titles=("{name} Lily", "{name} Aster", "{name} Poppy"),
        group="living",
        body="blossom",
        accent="centre",
        part="petals",
        counts=(4, 5, 6, 8),
        material_of="seed case",
        materials=_SOFT,
        dimension=("height", "tall", "centimetre", 8, 210),
        made="first recorded",
        by="described",
        role="botanist",
        uses=("candles", "perfumes", "soaps", "syrups", "inks", "jams", "cakes", "ointments"),
        okvqa_type="eight",
    ),
)
