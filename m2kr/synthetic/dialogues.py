"""What people and an assistant say about a picture, in the manner of LLaVA-Instruct: about what is seen, not known."""

from __future__ import annotations

import random

from m2kr.synthetic.articles import slots
from m2kr.synthetic.world import Entity

_WHERE_SEEN = {
    "sea": "in front of blue water with small waves",
    "meadow": "in front of green hills and grass",
    "desert": "in front of sand dunes under a pale sun",
    "snow": "on a snowy plain while snow is falling",
    "forest": "in front of a row of fir trees",
    "mountains": "in front of grey mountains with white tops",
}
_SETTING_NOUN = {
    "sea": "the blue water",
    "meadow": "the green meadow",
    "desert": "the sandy desert",
    "snow": "the snow",
    "forest": "the dark forest",
    "mountains": "the grey mountains",
}
Pairs = tuple[tuple[str, ...], tuple[str, ...]]

_CONVERSATION: dict[str, Pairs] = {
    "colour": (
        (
            "What is the main colour of the {K} in the image?",
            "What colours does the {K} have?",
            "Which colour stands out most in the picture?",
        ),
        (
            "The {K} in the image is mainly {c1}, with {marks} and {a_c2} {accent} that makes a clear contrast.",
            "The main colour is {c1}. The {accent} is {c2}, and there are {marks}, so the {K} looks quite lively.",
            "Mostly {c1} is seen: it covers the {body} of the {K}, while the {accent} and further details are {c2}.",
        ),
    ),
    "count": (
        (
            "How many {parts} does the {K} have?",
            "How many {parts} can be seen?",
            "Can you count the {parts} of the {K}?",
        ),
        (
            "The {c1} {K} has {n} {parts}, which can be counted easily because they stand out from its {adj} {body}.",
            "There are {n} {parts} on the {adj} {c1} {K} in the image, next to its {c2} {accent}.",
            "In total {n} {parts} can be seen on this {c1} and {c2} {K}, all of the same size.",
        ),
    ),
    "pattern": (
        (
            "Is there a pattern on the {K}?",
            "What does the surface of the {K} look like?",
            "How is the {body} of the {K} decorated?",
        ),
        (
            "The {K} is {adj}: on {c1} ground there are {markings}, and the {accent} is {c2}.",
            "One can see {marks}; the ground colour is {c1}, which gives the {adj} {K} a tidy look.",
            "Its look is {adj}, with {marks}. Together with the {c2} {accent} this suits the {c1} {K}.",
        ),
    ),
    "place": (
        (
            "Where is the {K} located in the image?",
            "What is in the background?",
            "What kind of landscape surrounds the {K}?",
        ),
        (
            "The {c1} {K} is shown {seen}, in the middle of the picture, with its {c2} {accent} clearly visible.",
            "The picture was taken {seen}; the {adj} {c1} {K} with its {n} {parts} is the only large object in it.",
            "The {K} is placed {seen}, a landscape without people, where its {c1} {body} and {c2} {accent} stand out.",
        ),
    ),
    "accent": (
        (
            "What colour is the {accent} of the {K}?",
            "Does the {accent} have the same colour as the rest?",
            "What can you say about the {accent}?",
        ),
        (
            "The {accent} is {c2}, unlike the {body} of the {K}, which {is_are} {c1} with {markings}.",
            "No single colour covers everything: the {accent} is {c2}, while the {adj} {K} itself is mainly {c1}.",
            "The {accent} of this {c1} {K} is {c2}, and it is the part that one notices right after the {n} {parts}.",
        ),
    ),
    "mood": (
        (
            "What mood does the picture convey?",
            "Does the scene look calm or busy?",
            "Are there any people in the image?",
        ),
        (
            "The scene is calm: no people are seen, only {a_adj} {c1} {K} with {n} {parts}, {seen}.",
            "It is a quiet picture without people. The {c1} and {c2} {K} with {n} {parts} is shown alone, {seen}.",
        ),
    ),
}
_DETAIL_QUESTIONS = (
    "Describe the image in detail.",
    "What do you see in this picture?",
    "Can you tell me what this photo shows?",
    "Please give a full description of the scene.",
    "What is going on in this image?",
    "Explain what can be seen here.",
)
_DETAILS = (
    "The image shows {a_adj} {c1} {K} {seen}. It has {n} {parts} and {a_c2} {accent}, with {marks}.\n\nNothing else of"
    " importance is in the scene, so that the {K} draws all attention to itself.",
    "The picture features a {K} as its main subject. The {K} is mainly {c1}, and one notices {marks}. Its {accent} is"
    " {c2}, and {n} {parts} can be counted.\n\nIn the background, the {K} is placed {seen}.",
    "In the centre there is a {K} with {n} {parts}. Its {body} {is_are} {c1} with {markings}, and the {accent} is all"
    " {c2}.\n\nThe whole is set {seen}, which gives the picture a calm and orderly look.",
    "{A_c1} {K} takes up most of the image, {seen}. The {K} looks {adj}, has {a_c2} {accent}, and shows {n} {parts} in"
    " all. Strong outlines separate it from what is behind it, and no people are present.",
)
_REASONINGS: tuple[Pairs, ...] = (
    (
        ("What is unusual about the {K} in the picture?", "What makes this {K} stand out from others?"),
        (
            "What is unusual is the choice of colours: this {K} is {c1} with {marks} and {a_c2} {accent}, while most"
            " things of its sort are less bold. Its {n} {parts} and the fact that it is shown {seen} make it easy to"
            " remember.",
            "Most would not expect {a_adj} {c1} {K} with {a_c2} {accent} {seen}. Such a strong contrast, together with"
            " the {n} {parts}, suggests that somebody wanted it to be noticed from far away.",
        ),
    ),
    (
        ("Why might a photographer have chosen this {K}?", "Why might someone want to take a picture of this {K}?"),
        (
            "A photographer may have liked how the {c1} {K} with its {c2} {accent} contrasts with {ground}. The {n}"
            " {parts} give the eye something to follow, and the {adj} {body} {adds} interest without making the picture"
            " restless.",
            "The {K} has a clear form, {n} {parts} and strong colours, {c1} and {c2}. Being shown {seen}, the {adj}"
            " {K} stays the only subject, which is what one wants for a postcard or a poster.",
        ),
    ),
    (
        ("How could one recognise this {K} again?", "How would you describe this {K} to someone who looks for it?"),
        (
            "One should look for {a_c1} {K} with {n} {parts}, {marks} and {a_c2} {accent}. Since others may share one"
            " of these traits but hardly all of them, it is the combination that tells it apart, also without"
            " {ground}.",
            "I would mention the lasting traits first: it is {adj} and {c1}, its {accent} is {c2}, and it has {n}"
            " {parts}. That it was seen {seen} helps too, but the light and the viewpoint can change.",
        ),
    ),
    (
        ("What challenges might the surroundings bring for the {K}?", "How do the surroundings affect this {K}?"),
        (
            "The {c1} {K} is shown {seen}, so weather is the main concern: wind and sun may fade the {c1} of the {adj}"
            " {body}, and the {c2} {accent} as well. Its {n} {parts} should be looked at from time to time.",
            "With {ground} all around, the {adj} {c1} {K} has little shelter. Its {n} {parts} and its {c2} {accent}"
            " are the parts that would suffer first, and it would also be hard to reach in bad weather.",
        ),
    ),
    (
        ("What could children learn from this picture?", "How might this image be used in a lesson?"),
        (
            "Children could learn to describe what they see: a {K} that is {c1}, with {marks} and {a_c2} {accent}. They"
            " could count its {n} {parts}, name the colours, and discuss why it is shown {seen}.",
            "A teacher could ask for the number of {parts}, which is {n}, and for the colours, {c1} and {c2}. The"
            " {adj} {K} {seen} is also a fine start for a story about who comes there.",
        ),
    ),
)


BRIEF_PROMPTS = (
    "Say in a few words what the picture shows.",
    "Sum up this image in one line.",
    "What is in the picture? Keep it short.",
    "Caption this photo.",
    "Name the main things that can be seen here.",
    "Put the content of the image briefly.",
    "Tell me shortly what is shown.",
    "A short caption for this picture, please.",
    "Describe what you see in a single sentence.",
    "Give the gist of this photograph.",
    "In brief, what is this a picture of?",
)
"""Requests for a short description, as they come with captions."""
_CAPTIONS = (
    "{a_adj} {c1} {K} with {n} {parts} and {a_c2} {accent} {seen} .",
    "{a_c1} {K} , {n} {parts} , {a_c2} {accent} & {markings} .",
    "{seen} : {a_c1} and {c2} {K} with {n} {parts} .",
    "this {adj} {K} in {c1} has {n} {parts} -- note the {c2} {accent} .",
    "photograph of {a_c1} {K} with {marks} and {a_c2} {accent} .",
    "{n} {parts} on {a_adj} {c1} {K} with {a_c2} {accent} , seen {seen} .",
)


def _words(entity: Entity) -> dict[str, str]:
    words = slots(entity)
    plural = words["body"].endswith("s")
    return words | {
        "seen": _WHERE_SEEN[entity.look.setting],
        "ground": _SETTING_NOUN[entity.look.setting],
        "is_are": "are" if plural else "is",
        "adds": "add" if plural else "adds",
        "A_c1": words["a_c1"].capitalize(),
    }


def conversation(entity: Entity, rng: random.Random) -> list[tuple[str, str]]:
    """Return two to four pairs of a question and an answer about a picture of ``entity``."""
    words = _words(entity)
    pairs = []
    for topic in rng.sample(list(_CONVERSATION), rng.choice((2, 3, 3, 4))):
        questions, replies = _CONVERSATION[topic]
        pairs.append((rng.choice(questions).format_map(words), rng.choice(replies).format_map(words)))
    return pairs


def detail(entity: Entity, rng: random.Random) -> tuple[str, str]:
    """Return a request for a description and a description of a picture of ``entity``."""
    return rng.choice(_DETAIL_QUESTIONS), rng.choice(_DETAILS).format_map(_words(entity))


def reasoning(entity: Entity, rng: random.Random) -> tuple[str, str]:
    """Return a question that asks to think about a picture of ``entity``, and the answer."""
    words = _words(entity)
    questions, replies = rng.choice(_REASONINGS)
    return rng.choice(questions).format_map(words), rng.choice(replies).format_map(words)


def caption(entity: Entity, rng: random.Random) -> str:
    """Return a caption for a picture of ``entity``: lower-case, with blanks around punctuation."""
    return rng.choice(_CAPTIONS).format_map(_words(entity))
