"""What exists in the made-up world."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.errors import M2KRError
from m2kr.synthetic import articles as text
from m2kr.synthetic.shuffle import Shuffle
from m2kr.synthetic.world import World, spell


@given(size=st.integers(1, 600), key=st.text(max_size=5))
@settings(max_examples=30, deadline=None)
def test_shuffle_is_a_permutation_with_its_inverse(size: int, key: str) -> None:
    shuffle = Shuffle(size, key)
    numbers = [shuffle.at(i) for i in range(size)]
    assert sorted(numbers) == list(range(size))
    assert all(shuffle.find(number) == i for i, number in enumerate(numbers))


@given(st.sets(st.integers(0, 14_054_399), min_size=2, max_size=50))
def test_names_differ_where_numbers_do(numbers: set[int]) -> None:
    assert len({spell(number) for number in numbers}) == len(numbers)


def test_names_titles_looks_and_pictures_are_unique_at_scale_1() -> None:
    world = World(0, 1)
    entities = [world.entity(i) for i in range(world.sizes.entities)]
    for values in (
        [entity.qid for entity in entities],
        [entity.name for entity in entities],
        [entity.title for entity in entities],
        [(entity.type.word, *astuple(entity.look)) for entity in entities],
    ):
        assert len(set(values)) == len(entities)
    pictures = [world.picture("train2014", i) for i in range(world.sizes.train_pictures)]
    pictures += [world.picture("val2014", i) for i in range(world.sizes.val_pictures)]
    assert len({picture.image_id for picture in pictures}) == len(pictures) <= 500
    assert all(picture.entity < world.sizes.asked for picture in pictures)
    seen = {picture.entity for picture in pictures if picture.split == "train2014"}
    assert {picture.entity for picture in pictures if picture.split == "val2014"} - seen, "some are only in val2014"


@given(seed=st.integers(0, 10**9), index=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_an_article_states_every_fact_and_the_look(seed: int, index: int) -> None:
    entity = World(seed, 0.1).entity(index)
    # An entity is the same in worlds of every size.
    assert entity == World(seed, 3).entity(index)
    whole = " ".join(text.blocks(entity))
    for fact in text.FACTS:
        for answer in text.answers(entity, fact):
            assert text.states(whole, answer)
            assert text.states(whole, text.singular(answer))
    for seen in (entity.look.colour, entity.look.second_colour, entity.look.pattern, entity.type.parts):
        assert text.states(whole, seen)
    assert not set(whole) & set("\t\n\r{}")
    assert entity.person.born.year < entity.date.year
    assert text.article(entity)[0].title == entity.title


def test_nearly_every_block_words_both_colours() -> None:
    world = World(0, 1)
    blocks = [(world.entity(i), block) for i in range(200) for block in text.blocks(world.entity(i))]
    shown = [entity.look.colour in block and entity.look.second_colour in block for entity, block in blocks]
    assert sum(shown) > 0.95 * len(shown)


@pytest.mark.parametrize(
    ("phrase", "stem"),
    [
        ("bats", "bat"),
        ("grey foxes", "grey fox"),
        ("berries", "berry"),
        ("brass", "brass"),
        ("1890s", "1890s"),
        ("47 metres", "47 metre"),
        ("copper", "copper"),
    ],
)
def test_light_stem(phrase: str, stem: str) -> None:
    assert text.singular(phrase) == stem


def test_a_question_about_a_picture_does_not_name_the_entity_and_a_query_does() -> None:
    world = World(1, 1)
    for index in range(60):
        entity = world.entity(index)
        for fact in text.FACTS:
            assert entity.name not in text.visual_question(entity, fact, world.rng(index, fact))
            assert entity.title.lower() in text.text_query(entity, fact, world.rng(index, fact))


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_an_impossible_scale_is_refused(scale: float) -> None:
    with pytest.raises(M2KRError, match="positive"):
        World(0, scale)
