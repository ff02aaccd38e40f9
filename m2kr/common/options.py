"""Options that several commands share, each described once; a command's own options class inherits those it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from m2kr.common import cli
from m2kr.common.cli import option
from m2kr.common.devices import best_device, best_dtype
from m2kr.errors import M2KRError
from m2kr.tasks import HUB_ID

if TYPE_CHECKING:
    from m2kr.common.cluster import Cluster

ModelType: TypeAlias = Literal["float32", "float16", "bfloat16"]
"""Name of the torch type that a model computes in."""

StoredType: TypeAlias = Literal["float32", "float16", "bfloat16", "int8"]
"""Form in which embeddings are stored."""


HERE = "m2kr-data"
"""Folder of the benchmark that m2kr.build makes, and that other commands read, where none is named."""


@dataclass(frozen=True, kw_only=True)
class QuietOption:
    """``--quiet``."""

    quiet: bool = option("no progress, no notices", False)


@dataclass(frozen=True, kw_only=True)
class TrustOption:
    """``--trust``."""

    trust: bool = option("compare only the sizes of the benchmark's files with its manifest, not their hashes", False)


@dataclass(frozen=True, kw_only=True)
class DataOption(TrustOption):
    """``--data``, where a benchmark of the hub will do too."""

    data: str = option(
        f"folder of the benchmark, or a dataset id of the hub; default {HERE} where that is, else the published data",
        found=lambda _: HERE if Path(HERE).is_dir() else HUB_ID,
    )


@dataclass(frozen=True, kw_only=True)
class TasksOption:
    """``--tasks``, to be read by `m2kr.tasks.parse_tasks`."""

    tasks: str = option("comma-separated, or all: those that are there; default all", "all")


@dataclass(frozen=True, kw_only=True)
class SplitOption:
    """``--split``."""

    split: str = option("split of the queries", "test")


_PICTURES = "pictures: folder or archive; or hub, or a dataset id of it, to fetch those needed"


@dataclass(frozen=True, kw_only=True)
class ImagesOption:
    """``--images``, to be read by `m2kr.images.roots.parse_roots`."""

    images: tuple[str, ...] = option(f"{_PICTURES}; repeatable", (), metavar="[TASK=]ROOT")


@dataclass(frozen=True, kw_only=True)
class QueryImagesOption(ImagesOption):
    """``--images`` of commands that ask with them; see `m2kr.dataset.default_images`."""

    images: tuple[str, ...] = option(
        f"{_PICTURES}; repeatable; default those packed beside the tables, else those below ./raw, else those on the "
        "hub",
        (),
        metavar="[TASK=]ROOT",
    )


@dataclass(frozen=True, kw_only=True)
class BadImagesOption:
    """``--bad-images``."""

    bad_images: Literal["error", "black", "skip"] = option(
        "pictures that are missing or broken: end there, or go on with a black one in their place, or count their "
        "queries as missed (of passages: leave them out); the result says how many there were, and is ranked apart",
        "error",
    )


@dataclass(frozen=True, kw_only=True)
class PassageImagesOption:
    """``--ignore-passage-images``."""

    ignore_passage_images: bool = option(
        "encode passages without their pictures, where they have any; the result says so", False
    )


@dataclass(frozen=True, kw_only=True)
class SeedOption:
    """``--seed``."""

    seed: int = option("of everything drawn by chance", 0)


@dataclass(frozen=True, kw_only=True)
class LimitOption:
    """``--limit``."""

    limit: int | None = option("only the first N queries; the result says so", None, least=1, metavar="N")


@dataclass(frozen=True, kw_only=True)
class RerunOption:
    """``--rerun``."""

    rerun: bool = option("do finished tasks again", False)


@dataclass(frozen=True, kw_only=True)
class DeviceOption:
    """``--device``."""

    device: str = option(
        "as torch names it; default the best there is: cuda, mps or cpu",
        "cpu",
        in_result=True,
        found=lambda _: best_device(),
    )


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(DeviceOption):
    """Where a model computes, and in what numbers."""

    dtype: ModelType = option(
        "number format of the model; default bfloat16 on a GPU that has it, else float32",
        "float32",
        in_key=True,
        in_result=True,
        found=lambda given: best_dtype(given.device or best_device()),
    )


@dataclass(frozen=True, kw_only=True)
class LoadOptions(ComputeOptions):
    """How a registered retriever or reader is loaded."""

    checkpoint: str | None = option("folder or hub id to load instead of the model's own", None)
    option: tuple[str, ...] = cli.option("a setting of the model; repeatable", (), metavar="NAME=VALUE")

    @property
    def loading(self) -> dict[str, Any]:
        """Keyword arguments of `m2kr.retriever.get_retriever` and `m2kr.reader.get_reader`.

        Raises:
            M2KRError: a value of ``--option`` cannot be read; see `parse_pairs`.
        """
        return {
            "checkpoint": self.checkpoint,
            "device": self.device,
            "dtype": self.dtype,
            "options": parse_pairs("--option", self.option),
        }


@dataclass(frozen=True, kw_only=True)
class RayOptions(DeviceOption, QuietOption):
    """Computing on several GPUs or machines."""

    ray: str | None = option(
        "compute in processes that Ray starts: local (on this machine), auto (the cluster that runs here) or "
        "HOST:PORT; see docs/scale.md",
        None,
        metavar="ADDRESS",
    )
    ray_actors: int | None = option("such processes; default: as many as there is room for", None, least=1, most=4096)
    ray_cpus: int = option("CPU cores of each, and its threads where it computes on them", 1, least=1, most=4096)
    ray_gpus: float | None = option("GPUs of each; default 1 where --device is cuda, else 0", None, least=0, most=64)
    verbose: bool = option("with --ray, show what Ray logs", False)

    def __post_init__(self) -> None:
        if self.ray is None and (self.ray_actors or self.ray_gpus is not None or self.ray_cpus != 1 or self.verbose):
            raise M2KRError("--ray-actors, --ray-cpus, --ray-gpus and --verbose are of --ray, which is not given.")

    def cluster(self) -> Cluster:
        """Return the cluster of ``--ray``, to be entered."""
        from m2kr.common.cluster import Cluster

        if self.ray is None:
            raise M2KRError("there is no cluster without --ray.")
        gpus = self.ray_gpus
        if gpus is None:
            gpus = 1 if self.device.startswith("cuda") else 0
        return Cluster(
            self.ray, actors=self.ray_actors, cpus=self.ray_cpus, gpus=gpus, verbose=self.verbose, quiet=self.quiet
        )


def parse_pairs(flag: str, values: Iterable[str], form: str = "NAME=VALUE") -> dict[str, str]:
    """Return the pairs of an option ``flag`` of the given form, given any number of times.

    Raises:
        M2KRError: one has no "=", or no name, or a name stands twice.
    """
    pairs: dict[str, str] = {}
    for value in values:
        name, separator, text = value.partition("=")
        if not separator or not name:
            raise M2KRError(f"{flag} {value}: write it as {form}.")
        if name in pairs:
            raise M2KRError(f"{flag} {name} is given twice, as {pairs[name]!r} and as {text!r}.")
        pairs[name] = text
    return pairs
