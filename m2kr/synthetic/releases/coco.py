"""The pictures of COCO 2014, which LLaVA-Instruct and OK-VQA show: one JPEG each."""

from __future__ import annotations

from collections.abc import Iterator

from m2kr.synthetic.releases.files import ReleaseFile, SyntheticRelease, picture_file
from m2kr.synthetic.world import World


def _files(world: World) -> Iterator[ReleaseFile]:
    pictures = [world.picture("train2014", number) for number in range(world.sizes.train_pictures)]
    pictures += [world.picture("val2014", number) for number in range(world.sizes.val_pictures)]
    for shown in pictures:
        yield picture_file(shown.path, world, shown.entity, shown.variation)


RELEASE = SyntheticRelease("COCO 2014", _files)
