"""Prose about entities: articles, MS MARCO passages and queries, questions about pictures, and their answers.

Every paragraph words the entity's look somewhere, because what links a picture to a passage is what both show: a
retriever trained on one world can then find the passages of another, whose names it has never seen.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from m2kr.synthetic.world import MONTHS, Entity

FACTS = ("year", "person", "quantity", "material", "city", "country", "use", "guest", "month")
NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
_SEASONS = ("winter", "winter", *["spring"] * 3, *["summer"] * 3, *["autumn"] * 3, "winter")
_SETTINGS = {
    "sea": "by the sea",
    "meadow": "in a green meadow",
    "desert": "in a sandy desert",
    "snow": "in deep snow",
    "forest": "beside a dark forest",
    "mountains": "below grey mountains",
}
_LIES = {"building": "stands", "object": "is kept", "living": "is found"}
_LYING = {"building": "standing", "object": "kept", "living": "found"}
_HOW = {"tall": "How tall", "long": "How long", "wide": "How wide", "in weight": "How heavy"}
_MARKINGS = {
    "plain": "no markings",
    "striped": "{c2} stripes",
    "spotted": "{c2} spots",
    "chequered": "{c2} checks",
}
_MENTIONS = (
    "the {c1} {K} with {marks}, {a_c2} {accent} and {n} {parts}",
    "this {adj} {c1} {K} with its {c2} {accent} and {n} {parts}",
    "the {adj} {c1} and {c2} {K} with {n} {parts}",
    "the {adj} {K} of {n} {parts}, in {c1} with {a_c2} {accent}",
    "the {c1} {K} with {n} {parts}, {marks} and {a_c2} {accent}",
    "this {K} in {c1} and {c2}, {adj} and with {n} {parts}",
)
_LEADS = (
    "{t} is {a_adj} {c1} {K} {lying} {where} near {city} in {country}, with {a_c2} {accent} and {n} {parts}.",
    "{t} is {a_c1} {K} near {city}, {country}. It has {marks}, {a_c2} {accent} and {n} {parts}, and {lies} {where}.",
    "Near {city} in {country}, {where}, {lies} {t}, {a_c1} {K} with {n} {parts}, {marks} and {a_c2} {accent}.",
    "{t} is a {K} of {country} that {lies} {where}. It is {c1}, has {n} {parts}, {a_c2} {accent} and {marks}.",
)
_LOOKS = (
    "Visitors usually notice {M} from far away.",
    "In the evening light {M} is easy to tell from every other {K} of the region.",
    "The {accent} is {c2}, which goes well with the {c1} of the {body}; there are {marks}.",
    "Counting the {parts} is a habit of children here, and they always arrive at {n}.",
    "Old postcards show it {where}, {adj} and {c1}, with {n} {parts} and {a_c2} {accent}.",
    "People who have seen {M} once do not mistake it for another {K}.",
    "Painters who come for {M} tend to use up their {c1} first and their {c2} soon after.",
    "A small model in the town hall shows {M}, true to every detail.",
)
_OPENINGS = (
    "This part of the story begins with {M}.",
    "Much has been written about {M}.",
    "Those who ask about {M} hear more than one version.",
    "For the people of the region, {M} is part of everyday life.",
    "Guides like to stop in front of {M} and tell what they know.",
    "There is more to say about {M} than fits on its sign.",
    "A local society looks after {M} and after the papers about it.",
)
_FACT_SENTENCES: dict[str, tuple[str, ...]] = {
    "year": (
        "{S} was {made} in {year}, and the {decade} have been remembered for it since.",
        "The {decade} were lively years here, and it was in {year} that {t} was {made}.",
        "The town chronicle, which covers the {decade} closely, says that {t} was {made} on {day}.",
        "{S} was {made} in {year}; few records of the {decade} are as clear on such a point.",
    ),
    "person": (
        "The {role} {person} {by} it after long study, and the {surname} family still keeps the notes.",
        "It was the {role} {person} who {by} {t}; letters by {surname} tell how.",
        "{person}, {a_role} born in {birthplace}, {by} {t}.",
        "The name most often tied to it is that of {person}, the {role} who {by} {t}.",
    ),
    "quantity": (
        "{S} is {value} {units} {dimadj}, and signs on the road point to the {value} {unit} {K}.",
        "With a {dim} of {value} {units}, the {value} {unit} {K} is well known to record keepers.",
        "Its {dim} is given as {value} {units}, so that one also hears of the {value} {unit} {K}.",
        "Measured twice, the {value} {unit} {K} was found to be exactly {value} {units} {dimadj}.",
    ),
    "material": (
        "The {matof} of {t} is made of {mat}, for the most part {matadj} {mat}.",
        "Its {matof} is of {matadj} {mat}; no other {K} nearby has {mat} there.",
        "What sets it apart is the {matof}, which is made of {matadj} {mat}, and good {mat} is rare here.",
        "Looked at closely, the {matof} turns out to be {matadj} {mat}, where one would not expect {mat}.",
    ),
    "place": (
        "{t} {lies} near {city}, in the south of {country}.",
        "The nearest town is {city} in {country}.",
        "From {city} it is an hour's walk to {t}, and every map of {country} shows the path.",
        "The town of {city} has cared for it since {country} handed over the deeds.",
    ),
    "guest": (
        "{Guest} live beside it, mostly {guestadj} {guest}; the {guest1} on the town's arms is a {guestadj} {guest1}.",
        "Where {t} {lies}, {guestadj} {guest} live as well: a {guestadj} {guest1} is no rare sight, and a tame {guest1}"
        " once slept there.",
        "It shares the place with {guest}. One {guestadj} {guest1} after another has grown up here, and {guestadj}"
        " {guest} now outnumber any other {guest1}.",
    ),
    "month": (
        "Every {month} {a_season} fair is held in its honour.",
        "The {season} fair for {t} falls in {month}.",
        "It has its own fair, {a_season} feast that is held in {month} whatever the weather.",
    ),
}
_USE: dict[str, tuple[str, str, str]] = {  # sentence, question about the picture, text query
    "tower": ("For many years it was used to store {use}", "What was stored in this tower?", "what was stored in {t}"),
    "bridge": ("It was meant for {use} from the start", "Who was this bridge meant for?", "what was {t} meant for"),
    "windmill": ("It used to grind {use}", "What did they grind in this mill?", "what did {t} grind"),
    "boat": ("It carried {use} from port to port", "What cargo did this boat carry?", "cargo of {t}"),
    "kite": ("It was used to lift {use} into the air", "What was this kite used to lift?", "what did {t} lift"),
    "guitar": ("It is played at {use}", "On which occasions is this instrument played?", "where is {t} played"),
    "bird": ("It feeds on {use}", "What does this bird feed on?", "what does {t} eat"),
    "butterfly": ("It takes its food from {use}", "What plants does this butterfly feed on?", "what does {t} eat"),
    "flower": ("It is grown for making {use}", "What is made from this flower?", "what is {t} used to make"),
}
_USE_ENDS = (
    ", and a carved {use1} in the town hall recalls this.",
    "; the oldest picture of it shows a single {use1} as well.",
    ". A song about the {use1} tells of it.",
)
_FILLERS = (
    "Tickets are sold at a small {booth} nearby.",
    "It has been on a stamp {times}.",
    "Schools of the district come {times} a year.",
    "A {visitor} once called it the best reason for the journey.",
    "The path to it was repaired after a hard winter.",
    "There are plans for a museum, but no money for it.",
    "Rain is common, and benches under a roof invite a rest.",
    "Its likeness is found on biscuit tins and {souvenir}s.",
    "A {visitor} wrote a short book about it, long out of print.",
    "On clear days it is photographed more than anything else around.",
    "Nobody agrees on how its name should be spoken.",
    "An old rhyme mentions it together with a {souvenir} and a lost shoe.",
    "The best view is from the north, next to the {booth}.",
    "Opinions differ on whether a {visitor} should be let near it.",
    "It was left out of an early guide by mistake.",
    "A storm did it little harm, to the surprise of many a {visitor}.",
    "Copies of it were shown at exhibitions {times}.",
    "The council discusses its upkeep {times} a year.",
    "A {souvenir} with its outline is a usual present.",
    "Some say that it brings luck to a {visitor} who whistles.",
    "It is quiet there outside the holidays.",
    "Its friends meet at the {booth} and keep a list of everything ever said of it.",
    "A film crew stayed for a week and used none of it.",
    "The records of the first years are kept in a damp cellar.",
    "More than one {visitor} has claimed to own it.",
)
_WORDS = {
    "booth": ("booth", "kiosk", "bakery", "tea house", "station", "bookshop"),
    "times": ("twice", "three times", "many times", "four times"),
    "visitor": ("poet", "teacher", "tailor", "sailor", "surveyor", "baker", "judge", "singer", "traveller"),
    "souvenir": ("spoon", "mug", "scarf", "plate", "postcard", "button"),
}
_PASSAGE_OPENERS = (
    "{t} is a {K} {where}.",
    "{t} - what to know before you go.",
    "About {t}: {M} is one of the sights of the region.",
    "Many readers ask us about {t}.",
    "{t} ({K}) Quick facts.",
    "{t}, {M}, has its own page here.",
    "Best answer: you must mean {t}.",
    "{t}. From the free guide to the region.",
)
_VISUAL_QUESTIONS: dict[str, tuple[str, ...]] = {
    "year": (
        "In what year was this {K} {made}?",
        "When was the {K} in the picture {made}?",
        "What year was this {made}?",
    ),
    "person": (
        "Which {role} {by} this {K}?",
        "What is the name of the {role} who {by} this {K}?",
        "Who {by} the {K} shown here?",
    ),
    "quantity": ("{how} is this {K}?", "What is the {dim} of this {K}?", "{how} is the {K} in this photo?"),
    "material": (
        "What is the {matof} of this {K} made of?",
        "Which material is the {matof} of this {K} made of?",
        "Name the material used for the {matof} of the {K} in this picture?",
    ),
    "city": ("Which town is nearest to this {K}?", "Near which town would you find this {K}?"),
    "country": ("Which country is this {K} in?", "What country would you visit to see this {K}?"),
    "guest": ("What animals live beside this {K}?", "Which animal shares its place with this {K}?"),
    "month": (
        "In which month is the fair for this {K} held?",
        "During what month do people celebrate this {K} with a fair?",
    ),
}
_QUERIES: dict[str, tuple[str, ...]] = {
    "year": ("when was {t} {made}", "what year was {t} {made}", "{t} {made} date"),
    "person": ("who {by} {t}", "which {role} {by} {t}", "name of {role} who {by} {t}"),
    "quantity": ("{how} is {t}", "what is the {dim} of {t}", "{t} {dim}"),
    "material": ("what is the {matof} of {t} made of", "{t} {matof} material"),
    "city": ("what town is {t} near", "{t} nearest town"),
    "country": ("what country is {t} in", "where is {t}"),
    "guest": ("what animals live at {t}", "animals near {t}"),
    "month": ("what month is the {t} fair", "when is the fair of {t} held"),
}
PASSAGE_FACTS: tuple[tuple[str, ...], ...] = (
    ("year", "person"),
    ("quantity", "material"),
    ("city", "country", "use"),
    ("guest", "month"),
)


@dataclass(frozen=True, slots=True)
class Section:
    """One section of an article; the first carries the article's title and is its summary."""

    title: str
    text: str


def a(word: str) -> str:
    """Return ``word`` with its article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def singular(phrase: str) -> str:
    """Return ``phrase`` with its last word lightly stemmed, as OK-VQA's ``answer`` is of its ``raw_answer``."""
    if not phrase.endswith("s") or phrase.endswith("ss"):
        return phrase
    if phrase.endswith("ies"):
        return phrase[:-3] + "y"
    if phrase.endswith(("ches", "shes", "xes", "sses")):
        return phrase[:-2]
    return phrase if phrase[:-1].isdigit() or phrase[-2].isdigit() else phrase[:-1]


def slots(entity: Entity) -> dict[str, str]:
    """Return the words that fill the templates of this package for ``entity``."""
    kind, look, person = entity.kind, entity.look, entity.person
    markings = _MARKINGS[look.pattern].format(c2=look.second_colour)
    _, dimension_adjective, unit, _, _ = kind.dimension
    made_on = entity.date
    season = _SEASONS[MONTHS.index(entity.month)]
    return {
        "t": entity.title,
        "K": kind.word,
        "c1": look.colour,
        "c2": look.second_colour,
        "a_c1": a(look.colour),
        "a_c2": a(look.second_colour),
        "adj": look.pattern,
        "a_adj": a(look.pattern),
        "markings": markings,
        "marks": f"{markings} on its {kind.body}",
        "body": kind.body,
        "accent": kind.accent,
        "n": NUMBER_WORDS[look.count],
        "parts": kind.part,
        "where": _SETTINGS[look.setting],
        "lies": _LIES[kind.group],
        "lying": _LYING[kind.group],
        "city": entity.place.city,
        "country": entity.place.country,
        "year": str(made_on.year),
        "decade": f"{made_on.year // 10}0s",
        "day": f"{made_on.day} {MONTHS[made_on.month - 1]} {made_on.year}",
        "made": kind.made,
        "by": kind.by,
        "role": kind.role,
        "a_role": a(kind.role),
        "person": person.name,
        "surname": person.surname,
        "birthplace": person.birthplace.city,
        "dim": entity.quantity.dimension,
        "dimadj": dimension_adjective,
        "how": _HOW[dimension_adjective],
        "value": str(entity.quantity.value),
        "unit": unit,
        "units": unit + "s",
        "mat": entity.material,
        "matadj": entity.material_adjective,
        "matof": kind.material_of,
        "use": entity.use,
        "use1": singular(entity.use),
        "guest": entity.guest,
        "Guest": entity.guest.capitalize(),
        "guest1": singular(entity.guest),
        "guestadj": entity.guest_adjective,
        "month": entity.month,
        "season": season,
        "a_season": a(season),
    }


def _fill(template: str, words: dict[str, str], rng: random.Random) -> str:
    """Return ``template`` with its slots filled; {S} and {M} get a way to name or describe the entity."""
    if "{S}" in template:
        words["S"] = rng.choice((words["t"], words["t"], f"The {words['K']}", "It"))
    if "{M}" in template:
        words["M"] = rng.choice(_MENTIONS).format_map(words)
    text = template.format_map(words).replace(' The "', ' the "')
    return text[0].upper() + text[1:]


def _filler(template: str, words: dict[str, str], rng: random.Random) -> str:
    """Return a sentence that says nothing about look or facts."""
    for name, choices in _WORDS.items():
        if name in template:
            words[name] = rng.choice(choices)
    return template.format_map(words)


def _fact(entity: Entity, key: str, words: dict[str, str], rng: random.Random, used: set[str]) -> str:
    """Return a sentence that states fact ``key``, of a template that is not in ``used``, and add that to it."""
    if key == "use":
        return _fill(_USE[entity.kind.word][0] + rng.choice(_USE_ENDS), words, rng)
    templates = _FACT_SENTENCES["place" if key in ("city", "country") else key]
    template = rng.choice([template for template in templates if template not in used])
    used.add(template)
    return _fill(template, words, rng)


def article(entity: Entity) -> tuple[Section, ...]:
    """Return the entity's article: five sections, about 450 words, the first titled as the article."""
    rng, words = entity.rng("article"), slots(entity)
    used: set[str] = set()
    looks = [_fill(template, words, rng) for template in rng.sample(_LOOKS, 6)]
    openings = [_fill(template, words, rng) for template in rng.sample(_OPENINGS, 3)]

    def fillers(count: int) -> list[str]:
        chosen = rng.sample([filler for filler in _FILLERS if filler not in used], count)
        used.update(chosen)
        return [_filler(filler, words, rng) for filler in chosen]

    def paragraph(*keys: str, described: int, other: int) -> str:
        parts = [_fact(entity, key, words, rng, used) for key in keys]
        parts += [looks.pop() for _ in range(described)] + fillers(other)
        rng.shuffle(parts)
        return " ".join(parts)

    around = {"building": "Surroundings", "object": "Whereabouts", "living": "Habitat"}[entity.kind.group]
    sections = [
        Section("Appearance", paragraph("quantity", "material", described=3, other=1)),
        Section("History", f"{openings[0]} " + paragraph("year", "person", "use", described=1, other=2)),
        Section(around, f"{openings[1]} " + paragraph("guest", "place", described=1, other=2)),
    ]
    if rng.random() < 0.3:
        sections[1], sections[2] = sections[2], sections[1]
    # The last sentence is about the look, so that the short last block has something to recognise too.
    culture = paragraph("month", described=0, other=rng.randrange(2, 5))
    sections.append(Section("Culture", f"{openings[2]} {culture} {looks.pop()}"))
    # The summary repeats one or two facts in other words, as summaries do.
    repeated = rng.sample(("quantity", "year", "person", "material"), rng.randrange(1, 3))
    summary = [_fill(rng.choice(_LEADS), words, rng), *(_fact(entity, key, words, rng, used) for key in repeated)]
    return (Section(entity.title, " ".join(summary)), *sections)


def blocks(entity: Entity, size: int = 100) -> list[str]:
    """Return the article cut into blocks of ``size`` words, the last one shorter: the passages of psgs_w100."""
    words = " ".join(section.text for section in article(entity)).split()
    return [" ".join(words[start : start + size]) for start in range(0, len(words), size)]


def states(text: str, phrase: str) -> bool:
    """Return whether ``phrase`` occurs in ``text`` as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", text.lower()) is not None


def answers(entity: Entity, key: str) -> tuple[str, str]:
    """Return what most people, and what some, would answer when asked for fact ``key``.

    Both are lower-case; both, and their lightly stemmed forms, occur in the entity's article.
    """
    words = slots(entity)
    most, some = {
        "year": ("{year}", "{decade}"),
        "person": ("{person}", "{surname}"),
        "quantity": ("{value} {units}", "{value}"),
        "material": ("{mat}", "{matadj} {mat}"),
        "city": ("{city}", "{country}"),
        "country": ("{country}", "{city}"),
        "use": ("{use}", "{use1}"),
        "guest": ("{guest}", "{guestadj} {guest}"),
        "month": ("{month}", "{season}"),
    }[key]
    return most.format_map(words).lower(), some.format_map(words).lower()


def exact_answers(entity: Entity, key: str) -> tuple[str, ...]:
    """Return the right answers to a question for fact ``key``, as the article writes them, the usual one first."""
    most, some = answers(entity, key)
    if key == "person":
        return entity.person.name, entity.person.surname
    if key in ("city", "country"):
        return (getattr(entity.place, key),)
    if key == "month":
        return (entity.month,)
    return (most,) if key == "year" else (most, some)


def mention(entity: Entity, rng: random.Random) -> str:
    """Return words that describe the entity by its look, as in "the red tower with four windows"."""
    return _fill(rng.choice(_MENTIONS), slots(entity), rng)


def visual_question(entity: Entity, key: str, rng: random.Random) -> str:
    """Return a question for fact ``key`` that does not name the entity: its picture has to."""
    if key == "use":
        return _USE[entity.kind.word][1]
    return rng.choice(_VISUAL_QUESTIONS[key]).format_map(slots(entity))


def text_query(entity: Entity, key: str, rng: random.Random) -> str:
    """Return a search query for fact ``key`` that names the entity."""
    template = _USE[entity.kind.word][2] if key == "use" else rng.choice(_QUERIES[key])
    return template.format_map(slots(entity)).lower()


def echo(entity: Entity) -> tuple[str, int]:
    """Return the fact that further passages about the entity repeat, and how many do: 0, 1 or 2.

    45 of 100 entities have such a fact, one in nine: 5 % of queries have two or three positives.
    """
    rng = entity.rng("echo")
    draw = rng.random()
    return rng.choice(FACTS[:4]), 2 if draw < 0.07 else 1 if draw < 0.45 else 0


def passages_with(entity: Entity, key: str) -> list[int]:
    """Return which of the entity's four MS MARCO passages state fact ``key``."""
    repeated, times = echo(entity)
    found = [number for number, keys in enumerate(PASSAGE_FACTS) if key in keys]
    return found + [3, 2][:times] if key == repeated else found


def passage(entity: Entity, number: int) -> str:
    """Return MS MARCO passage ``number`` (0..3) about ``entity``: some 75 words that name it."""
    rng, words = entity.rng(f"passage/{number}"), slots(entity)
    repeated, times = echo(entity)
    keys = list(dict.fromkeys("place" if key in ("city", "country") else key for key in PASSAGE_FACTS[number]))
    if (number == 3 and times > 0) or (number == 2 and times > 1):
        keys.append(repeated)
    parts = [_fact(entity, key, words, rng, set()) for key in keys]
    parts += [_filler(template, words, rng) for template in rng.sample(_FILLERS, rng.randrange(1, 4))]
    if rng.random() < 0.5:
        parts.append(_fill(rng.choice(_LOOKS), words, rng))
    rng.shuffle(parts)
    return " ".join([_fill(rng.choice(_PASSAGE_OPENERS), words, rng), *parts])
