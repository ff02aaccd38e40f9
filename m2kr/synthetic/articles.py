"""Prose about entities: articles, MS MARCO passages and queries, questions about pictures, and their answers.

Every paragraph words the entity's look somewhere, because what links a picture to a passage is what both show: a
retriever trained on one world can then find the passages of another, whose names it has never seen.

Templates are in ``words/articles.toml`` and ``words/things.toml``. What is in their slots is an attribute of the
entity, such as ``{title}`` or ``{person.surname}``, or one of the words of `template_words`; the slots
``{description}``, ``{subject}`` and those of ``filler_words`` are filled by chance.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from m2kr.synthetic.things import MARKINGS, SETTINGS
from m2kr.synthetic.word_lists import load
from m2kr.synthetic.world import MONTHS, SEASONS, Entity

FACTS = ("year", "person", "quantity", "material", "city", "country", "use", "guest", "month")
PASSAGE_FACTS: tuple[tuple[str, ...], ...] = (
    ("year", "person"),
    ("quantity", "material"),
    ("city", "country", "use"),
    ("guest", "month"),
)


class _Templates(msgspec.Struct):
    """The templates of ``articles.toml``; those in a dictionary are of the fact, or the slot, that is its key."""

    numbers: list[str]
    descriptions: list[str]
    leads: list[str]
    looks: list[str]
    openings: list[str]
    use_ends: list[str]
    passage_openers: list[str]
    fillers: list[str]
    filler_words: dict[str, list[str]]
    statements: dict[str, list[str]]
    visual_questions: dict[str, list[str]]
    text_queries: dict[str, list[str]]
    answers: dict[str, tuple[str, str]]


_TEMPLATES = load("articles", _Templates)


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


def template_words(entity: Entity) -> dict[str, Any]:
    """Return what fills the slots of the templates of this package for ``entity``."""
    look, made_on = entity.look, entity.date
    markings = MARKINGS[look.pattern].format(look=look)
    season = SEASONS[entity.month]
    return {name: getattr(entity, name) for name in Entity.__slots__} | {
        "a_colour": a(look.colour),
        "A_colour": a(look.colour).capitalize(),
        "a_second_colour": a(look.second_colour),
        "a_pattern": a(look.pattern),
        "markings": markings,
        "marks": f"{markings} on its {entity.type.body}",
        "count": _TEMPLATES.numbers[look.count],
        "setting": SETTINGS[look.setting],
        "decade": f"{made_on.year // 10}0s",
        "day": f"{made_on.day} {MONTHS[made_on.month - 1]} {made_on.year}",
        "a_role": a(entity.type.role),
        "one_use": singular(entity.use),
        "Guest": entity.guest.capitalize(),
        "one_guest": singular(entity.guest),
        "season": season,
        "a_season": a(season),
    }


def _fill(template: str, words: dict[str, Any], rng: random.Random) -> str:
    """Return ``template`` as a sentence; what some of its slots hold is drawn."""
    for slot, choices in _TEMPLATES.filler_words.items():
        if slot in template:
            words[slot] = rng.choice(choices)
    if "{subject}" in template:
        words["subject"] = rng.choice((words["title"], words["title"], f"The {words['type'].word}", "It"))
    if "{description}" in template:
        words["description"] = rng.choice(_TEMPLATES.descriptions).format_map(words)
    text = template.format_map(words).replace(' The "', ' the "')
    return text[0].upper() + text[1:]


def _statement(key: str, words: dict[str, Any], rng: random.Random, used: set[str]) -> str:
    """Return a sentence that states fact ``key``, of a template that is not in ``used``, and add that to it."""
    if key == "use":
        return _fill(words["type"].use_sentence + rng.choice(_TEMPLATES.use_ends), words, rng)
    templates = _TEMPLATES.statements["place" if key in ("city", "country") else key]
    template = rng.choice([template for template in templates if template not in used])
    used.add(template)
    return _fill(template, words, rng)


@lru_cache(maxsize=1024)
def article(entity: Entity) -> tuple[Section, ...]:
    """Return the entity's article: five sections, about 450 words, the first titled as the article."""
    rng, words = entity.rng("article"), template_words(entity)
    used: set[str] = set()
    looks = [_fill(template, words, rng) for template in rng.sample(_TEMPLATES.looks, 6)]
    openings = [_fill(template, words, rng) for template in rng.sample(_TEMPLATES.openings, 3)]

    def fillers(count: int) -> list[str]:
        chosen = rng.sample([filler for filler in _TEMPLATES.fillers if filler not in used], count)
        used.update(chosen)
        return [_fill(filler, words, rng) for filler in chosen]

    def paragraph(*keys: str, described: int, other: int) -> str:
        sentences = [_statement(key, words, rng, used) for key in keys]
        sentences += [looks.pop() for _ in range(described)] + fillers(other)
        rng.shuffle(sentences)
        return " ".join(sentences)

    sections = [
        Section("Appearance", paragraph("quantity", "material", described=3, other=1)),
        Section("History", f"{openings[0]} " + paragraph("year", "person", "use", described=1, other=2)),
        Section(entity.type.surroundings, f"{openings[1]} " + paragraph("guest", "place", described=1, other=2)),
    ]
    if rng.random() < 0.3:
        sections[1], sections[2] = sections[2], sections[1]
    # The last sentence is about the look, so that the short last block has something to recognise too.
    culture = paragraph("month", described=0, other=rng.randrange(2, 5))
    sections.append(Section("Culture", f"{openings[2]} {culture} {looks.pop()}"))
    # The summary repeats one or two facts in other words, as summaries do.
    repeated = rng.sample(("quantity", "year", "person", "material"), rng.randrange(1, 3))
    summary = [
        _fill(rng.choice(_TEMPLATES.leads), words, rng),
        *(_statement(key, words, rng, used) for key in repeated),
    ]
    return (Section(entity.title, " ".join(summary)), *sections)


def blocks(entity: Entity, size: int = 100) -> list[str]:
    """Return the article cut into blocks of ``size`` words, the last one shorter: the passages of psgs_w100."""
    words = " ".join(section.text for section in article(entity)).split()
    return [" ".join(words[start : start + size]) for start in range(0, len(words), size)]


def states(text: str, phrase: str) -> bool:
    """Return whether ``phrase`` occurs in ``text`` as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", text.lower()) is not None


def any_states(texts: list[str], phrase: str) -> bool:
    """Return whether one of ``texts`` states ``phrase``."""
    return any(states(text, phrase) for text in texts)


def exact_answers(entity: Entity, key: str) -> tuple[str, ...]:
    """Return the right answers to a question for fact ``key``, as the article writes them, the usual one first."""
    words = template_words(entity)
    most, some = (template.format_map(words) for template in _TEMPLATES.answers[key])
    return (most,) if key in ("year", "city", "country", "month") else (most, some)


def answers(entity: Entity, key: str) -> tuple[str, str]:
    """Return what most people, and what some, would answer when asked for fact ``key``.

    Both are lower-case; both, and their lightly stemmed forms, occur in the entity's article.
    """
    words = template_words(entity)
    most, some = (template.format_map(words).lower() for template in _TEMPLATES.answers[key])
    return most, some


def description(entity: Entity, rng: random.Random) -> str:
    """Return words that describe the entity by its look, as in "The red tower with four windows"."""
    return _fill(rng.choice(_TEMPLATES.descriptions), template_words(entity), rng)


def visual_question(entity: Entity, key: str, rng: random.Random) -> str:
    """Return a question for fact ``key``, or for the name, that does not name the entity: its picture has to."""
    if key == "use":
        return entity.type.use_question
    return rng.choice(_TEMPLATES.visual_questions[key]).format_map(template_words(entity))


def text_query(entity: Entity, key: str, rng: random.Random) -> str:
    """Return a search query for fact ``key`` that names the entity."""
    template = entity.type.use_query if key == "use" else rng.choice(_TEMPLATES.text_queries[key])
    return template.format_map(template_words(entity)).lower()


def repeated_fact(entity: Entity) -> tuple[str, int]:
    """Return the fact that further passages about the entity repeat, and how many do: 0, 1 or 2.

    45 of 100 entities have such a fact, one in nine: 5 % of queries have two or three positives.
    """
    rng = entity.rng("echo")
    drawn = rng.random()
    return rng.choice(FACTS[:4]), 2 if drawn < 0.07 else 1 if drawn < 0.45 else 0


def passages_with(entity: Entity, key: str) -> list[int]:
    """Return which of the entity's four MS MARCO passages state fact ``key``."""
    repeated, times = repeated_fact(entity)
    found = [number for number, keys in enumerate(PASSAGE_FACTS) if key in keys]
    return found + [3, 2][:times] if key == repeated else found


def passage(entity: Entity, number: int) -> str:
    """Return MS MARCO passage ``number`` (0..3) about ``entity``: some 75 words that name it."""
    rng, words = entity.rng(f"passage/{number}"), template_words(entity)
    repeated, times = repeated_fact(entity)
    keys = list(dict.fromkeys("place" if key in ("city", "country") else key for key in PASSAGE_FACTS[number]))
    if (number == 3 and times > 0) or (number == 2 and times > 1):
        keys.append(repeated)
    sentences = [_statement(key, words, rng, set()) for key in keys]
    sentences += [_fill(template, words, rng) for template in rng.sample(_TEMPLATES.fillers, rng.randrange(1, 4))]
    if rng.random() < 0.5:
        sentences.append(_fill(rng.choice(_TEMPLATES.looks), words, rng))
    rng.shuffle(sentences)
    return " ".join([_fill(rng.choice(_TEMPLATES.passage_openers), words, rng), *sentences])
