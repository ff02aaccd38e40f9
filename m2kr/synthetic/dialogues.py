"""What people and an assistant say about a picture, in the manner of LLaVA-Instruct: about what is seen, not known.

Templates are in ``words/dialogues.toml``; `m2kr.synthetic.articles` says what fills their slots.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from m2kr.synthetic.articles import template_words
from m2kr.synthetic.word_lists import load
from m2kr.synthetic.world import Entity


class _Exchange(msgspec.Struct):
    questions: list[str]
    replies: list[str]


class _Templates(msgspec.Struct):
    brief_requests: list[str]
    captions: list[str]
    detail_requests: list[str]
    details: list[str]
    conversation: dict[str, _Exchange]
    reasoning: list[_Exchange]


_TEMPLATES = load("dialogues", _Templates)
BRIEF_REQUESTS = _TEMPLATES.brief_requests
"""Requests for a short description, as they come with captions."""


def _words(entity: Entity) -> dict[str, Any]:
    plural = entity.type.body.endswith("s")
    return template_words(entity) | {"is_are": "are" if plural else "is", "adds": "add" if plural else "adds"}


def _drawn(exchange: _Exchange, words: dict[str, Any], rng: random.Random) -> tuple[str, str]:
    return rng.choice(exchange.questions).format_map(words), rng.choice(exchange.replies).format_map(words)


def conversation(entity: Entity, rng: random.Random) -> list[tuple[str, str]]:
    """Return two to four pairs of a question and an answer about a picture of ``entity``."""
    words = _words(entity)
    topics = rng.sample(list(_TEMPLATES.conversation.values()), rng.choice((2, 3, 3, 4)))
    return [_drawn(topic, words, rng) for topic in topics]


def detail(entity: Entity, rng: random.Random) -> tuple[str, str]:
    """Return a request for a description and a description of a picture of ``entity``."""
    return rng.choice(_TEMPLATES.detail_requests), rng.choice(_TEMPLATES.details).format_map(_words(entity))


def reasoning(entity: Entity, rng: random.Random) -> tuple[str, str]:
    """Return a question that asks to think about a picture of ``entity``, and the answer."""
    return _drawn(rng.choice(_TEMPLATES.reasoning), _words(entity), rng)


def caption(entity: Entity, rng: random.Random) -> str:
    """Return a caption for a picture of ``entity``: lower-case, with blanks around punctuation."""
    return rng.choice(_TEMPLATES.captions).format_map(_words(entity))
