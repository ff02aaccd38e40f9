"""The pictures of COCO 2014."""

from __future__ import annotations

from collections.abc import Iterator

from m2kr.synthetic.releases.part import Part, picture
from m2kr.synthetic.world import CocoSplit, World


def coco(world: World) -> Iterator[Part]:
    """COCO 2014: one JPEG per picture; what LLaVA-Instruct and OK-VQA show."""
    splits: tuple[tuple[CocoSplit, int], ...] = (
        ("train2014", world.sizes.train_pictures),
        ("val2014", world.sizes.val_pictures),
    )
    for split, count in splits:
        for number in range(count):
            shown = world.picture(split, number)
            yield picture(shown.path, world, shown.entity, shown.variation)
