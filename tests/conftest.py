"""The made-up world that the tests read, generated once a session."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.made_once import made_once

SCALE = 0.2
PLOTS = ("radar", "against_size", "curve")

gc.disable()  # until everything is imported, which makes objects by the million and no garbage

# The same examples each time: a run that passes passes again, however slow the machine. `make fuzz` explores others.
ANY_SPEED: dict[str, Any] = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("same", derandomize=True, **ANY_SPEED)
hypothesis.settings.register_profile("explore", print_blob=True, **ANY_SPEED)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: some tests wait for others, or for a limit to pass."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules that take long first, those that read no world last.

    Of pytest-xdist's processes each begins with a part of this order, and one that has ended with its own takes from
    the end of another's. So nothing long is left for the end, and while one process makes the world the others have
    something to do.
    """
    places: dict[Path, tuple[bool, bool]] = {}
    for item in items:
        read = {"world", "built", "illustrated"} & set(getattr(item, "fixturenames", ()))
        short, alone = places.get(item.path, (True, True))
        places[item.path] = (short and item.get_closest_marker("long") is None, alone and not read)
    items.sort(key=lambda item: places[item.path])


@pytest.fixture(autouse=True, scope="session")
def _of_its_own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep a cache of one's own, hear Ctrl-C, and neither wait for the disk, whose power does not fail here, nor search
    all imported modules for garbage; but benchmarks do, as users' commands do.
    """
    measured = request.config.getoption("benchmark_only", default=False)
    if not measured:
        gc.freeze()
        gc.set_threshold(30_000)
    gc.enable()
    # What a shell starts in its background ignores Ctrl-C, and so would the commands whose end by it is tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M2KR_CACHE", str(tmp_path_factory.mktemp("cache")))
        if not measured:
            patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def unsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations encode no sample of inputs for `m2kr.evaluate.batch_effect`, so that each is encoded once."""
    monkeypatch.setattr("m2kr.evaluate.batch_effect.SAMPLED", 0)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the plots of a site out, which take most of its time, and which other tests look at."""
    from markupsafe import Markup

    from leaderboard import plots

    for name in PLOTS:
        monkeypatch.setattr(plots, name, lambda *_, **__: Markup("<svg></svg>"))


@pytest.fixture
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw equal plots of sites once, as those of the published figures are in every site."""
    from leaderboard import plots

    for name in PLOTS:
        monkeypatch.setattr(plots, name, _remembering(name, getattr(plots, name)))


_drawn: dict[str, Any] = {}


def _remembering(name: str, draw: Callable[..., Any]) -> Callable[..., Any]:
    def drawn(*given: Any, **named: Any) -> Any:
        key = f"{name} {given!r} {named!r}"
        if key not in _drawn:
            _drawn[key] = draw(*given, **named)
        return _drawn[key]

    return drawn


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw releases of a small world, one folder each; also the root of its images. Not to be changed."""
    from m2kr.synthetic.write import generate  # imported late: the process that shares out the tests reads this too

    return made_once("raw", tmp_path_factory, lambda out: generate(out, scale=SCALE, quiet=True))


@pytest.fixture(scope="session")
def built(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark built from `world`: every task. Not to be changed."""
    from m2kr.build.inputs import task_inputs
    from m2kr.build.task import build_task
    from m2kr.tasks import TASKS

    def build(out: Path) -> None:
        for task in TASKS.values():
            build_task(task_inputs(task, world), out, quiet=True)

    return made_once("m2kr", tmp_path_factory, build)


@pytest.fixture(scope="session")
def passage_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of pictures for the passages of `world`, with the lists of them. Not to be changed."""
    from m2kr.synthetic.write import PASSAGE_IMAGES, generate

    return made_once(
        "pictures", tmp_path_factory, lambda out: generate(out, scale=SCALE, releases=[PASSAGE_IMAGES], quiet=True)
    )


@pytest.fixture(scope="session")
def illustrated(built: Path, passage_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`built`, with pictures at the passages of each task that takes them. Not to be changed."""
    from m2kr.images.attach import attach
    from m2kr.synthetic.write import PASSAGE_IMAGES
    from m2kr.tasks import TASKS

    def make(out: Path) -> None:
        shutil.copytree(built, out)
        for task in TASKS.values():
            if task.takes_passage_images:
                attach(out, task, passage_pictures / PASSAGE_IMAGES / f"{task.key}.jsonl", quiet=True)

    return made_once("m2kr-illustrated", tmp_path_factory, make)
