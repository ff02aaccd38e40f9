"""The made-up world laid out as the hub's two datasets, and a client of a hub on this machine."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from m2kr.tasks import HUB_ID, HUB_IMAGES, TASKS
from tests.hub_server import Files, HubServer, files_in
from tests.m2kr.archives import archived


def tables(built: Path, tasks: Iterable[str]) -> Files:
    """The tables of tasks, as the published dataset has them: without a manifest."""
    configs = [config for key in tasks for config in (TASKS[key].data_config, TASKS[key].passages_config)]
    return {f"{config}/{name}": content for config in configs for name, content in files_in(built / config).items()} | {
        "README.md": b"# made up\n"
    }


def stored_zip(files: Files) -> bytes:
    """A zip of files that are not compressed, as pictures are."""
    with zipfile.ZipFile(made := io.BytesIO(), "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # of no time, so that equal files give equal bytes
    return made.getvalue()


def tarred(files: Files, folder: Path, name: str = "made.tar") -> bytes:
    """A tar of files, or one that is packed, as the name says."""
    return archived(folder / name, files).read_bytes()


def pictures(world: Path, folder: str) -> Files:
    """The pictures below a folder of the raw releases."""
    return files_in(world / folder)


def in_parts(name: str, content: bytes, count: int) -> Files:
    """A file cut into parts."""
    size = -(-len(content) // count)
    return {f"{name}.{part + 1:03d}": content[part * size : (part + 1) * size] for part in range(count)}


def image_dataset(world: Path, work: Path) -> Files:
    """All pictures of a world, in archives named and laid out as on the hub."""
    coco, evqa = pictures(world, "coco"), pictures(world, "evqa/images")
    oven = pictures(world, "oven/images")
    natural = {name: content for name, content in evqa.items() if name.startswith("inat/")}
    landmarks = {name: content for name, content in evqa.items() if name not in natural}
    flat = {Path(name).name: content for name, content in oven.items()}
    return {
        "OKVQA/train2014.zip": stored_zip({name: content for name, content in coco.items() if "train2014" in name}),
        "OKVQA/val2014.zip": stored_zip({name: content for name, content in coco.items() if "val2014" in name}),
        "LLAVA/train2014.zip": stored_zip({name: content for name, content in coco.items() if "train2014" in name}),
        "KVQA/KVQAimgs.tar.gz": tarred(
            {f"KVQAimgs/{name}": content for name, content in pictures(world, "kvqa/KVQAimgs").items()},
            work,
            "kvqa.tar.gz",
        ),
        "EVQA/inat.zip": stored_zip(natural),
        "EVQA/google-landmark.tar": tarred(landmarks, work),
        "Infoseek/infoseek_val_images.tar": tarred(flat, work),
        **{
            f"OVEN/shard{number:02d}.tar": tarred(
                {name: content for name, content in oven.items() if name.startswith(f"{number:02d}/")}, work
            )
            for number in range(1, 10)
            if any(name.startswith(f"{number:02d}/") for name in oven)
        },
        **in_parts("WIT/images.zip", stored_zip(pictures(world, "wit/images")), 3),
    }


@contextmanager
def client_of(hub: HubServer, home: Path) -> Iterator[None]:
    """Let huggingface_hub in this process ask a hub, and keep what it fetches in a folder.

    It reads its variables when it is imported, which may have been long ago.
    """
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.endpoint)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.delenv("HF_TOKEN", raising=False)
        patch.setenv("HF_HUB_ETAG_TIMEOUT", "60")  # a busy machine may take its time
        patch.setenv("M2KR_CACHE", str(home / "m2kr"))
        patch.setattr("m2kr.common.hub._WAIT", 0.0)
        yield


def published(hub: HubServer, built: Path, images: Files, tasks: Iterable[str]) -> None:
    """Publish the two datasets under their names."""
    hub.publish(HUB_ID, tables(built, tasks))
    hub.publish(HUB_IMAGES, images)
