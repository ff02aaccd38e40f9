"""Pictures of the made-up world."""

from __future__ import annotations

import io

from PIL import Image

from m2kr.synthetic.pictures import draw_picture, jpeg
from m2kr.synthetic.things import ENTITY_TYPES, SETTINGS
from m2kr.synthetic.world import World


def test_every_kind_and_setting_can_be_drawn_as_a_small_jpeg() -> None:
    world = World(0, 1)
    drawn = set()
    for index in range(120):
        entity = world.entity(index)
        content = jpeg(draw_picture(entity, 0))
        assert len(content) < 20_000
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (160, 160))
        drawn |= {entity.type.word, entity.look.setting}
    assert drawn == {each.word for each in ENTITY_TYPES} | set(SETTINGS)


def test_pictures_of_an_entity_differ_and_each_is_always_the_same() -> None:
    entity = World(0, 1).entity(3)
    contents = [jpeg(draw_picture(entity, variation)) for variation in range(5)]
    assert len(set(contents)) == 5
    assert contents == [jpeg(draw_picture(entity, variation)) for variation in range(5)]
