"""How the releases of the made-up world are written, and what they have in common."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from m2kr import tasks
from m2kr.errors import M2KRError
from m2kr.synthetic.__main__ import main
from m2kr.synthetic.releases.files import ReleaseFile
from m2kr.synthetic.world import World
from m2kr.synthetic.write import MARKER, PASSAGE_IMAGES, RELEASES, UNFINISHED, generate
from tests.conftest import SCALE
from tests.m2kr.synthetic.reading import lines, load, table, wit_rows

SMALL = 0.02


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def times(*paths: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The contents of all releases at a scale of `SMALL`."""
    root = tmp_path_factory.mktemp("small")
    generate(root, scale=SMALL, quiet=True)
    return contents(root)


# --- what is written ------------------------------------------------------------------------------------------------


def test_every_release_has_the_files_that_its_task_reads(world: Path) -> None:
    for name, release in tasks.RELEASES.items():
        assert all((world / name / file).is_file() for file in release.files)
    assert all((world / task.image_root).is_dir() for task in tasks.TASKS.values())


def test_markers_say_what_the_files_are_and_bring_options_for_so_small_a_world(world: Path) -> None:
    markers = {name: load(world / name / MARKER) for name in RELEASES}
    for marker in markers.values():
        assert marker["made_up"] is True
        assert (marker["seed"], marker["scale"], marker["generator"]) == (0, SCALE, "m2kr.synthetic")
    assert {name: marker["options"] for name, marker in markers.items()} == {
        "wit": {"WIT": {"test_queries": 11}},
        "iglue_wit": {"IGLUE": {}},
        "kvqa": {"KVQA": {"test_queries": 12}},
        "llava_cc3m": {"CC": {}},
        "msmarco": {"MSMARCO": {"pool": 200, "test_queries": 22}},
        "oven": {"OVEN": {"test_queries": 12}},
        "llava_instruct": {"LLaVA": {"heldout_per_subset": 8, "test_queries": 20}},
        "okvqa": {"OKVQA": {}},
        "infoseek": {"Infoseek": {"extra_passages": 60}},
        "evqa": {"EVQA": {}},
        "wikipedia": {},
        "coco": {},
    }


def test_an_entity_is_the_same_in_all_releases(world: Path) -> None:
    oven = {record["entity_text"] for record in lines(world / "oven" / "oven_entity_train.jsonl")}
    infoseek = {record["entity_text"] for record in lines(world / "infoseek" / "infoseek_train_withkb.jsonl")}
    rows = table(world / "evqa" / "train.csv")
    evqa = {row["wikipedia_title"] for row in rows if row["question_type"] != "2_hop"}
    wit = {row["page_title"] for row in wit_rows(world, "train")}
    assert infoseek <= oven <= wit
    assert evqa <= oven
    captions = " ".join(record["wikiCap"] for record in load(world / "kvqa" / "dataset.json").values())
    people = {entity.person.name for entity in map(World(0, SCALE).entity, range(10))}
    assert any(name in captions for name in people)


@pytest.mark.parametrize("seed", range(3))
def test_the_tiniest_world_has_every_file(tmp_path: Path, seed: int) -> None:
    generate(tmp_path, scale=0.001, seed=seed, quiet=True)
    for name, release in tasks.RELEASES.items():
        assert all((tmp_path / name / file).stat().st_size > 20 for file in release.files)
    assert all(table(tmp_path / "evqa" / f"{split}.csv") for split in ("train", "val", "test"))
    for split in ("train", "val"):
        assert any(row["language"] == "en" for row in wit_rows(tmp_path, split))


@pytest.mark.parametrize("release", RELEASES)
def test_no_two_files_have_one_path(release: str) -> None:
    paths = [file.path for file in RELEASES[release].files(World(0, 2))]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize(
    ("release", "folders"),
    [
        ("msmarco", {"msmarco"}),
        ("llava_instruct", {"llava_instruct", "coco"}),
        ("okvqa", {"okvqa", "wikipedia", "coco"}),
        ("wit", {"wit"}),
        ("iglue_wit", {"iglue_wit", "wit"}),
        ("kvqa", {"kvqa"}),
        ("llava_cc3m", {"llava_cc3m"}),
        ("oven", {"oven", "wikipedia"}),
        ("infoseek", {"infoseek", "oven", "wikipedia"}),
        ("evqa", {"evqa"}),
    ],
)
def test_the_same_settings_give_the_same_bytes_whatever_is_written_together(
    small: dict[str, bytes], tmp_path: Path, release: str, folders: set[str]
) -> None:
    generate(tmp_path, scale=SMALL, releases=[release], quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == folders
    assert contents(tmp_path) == {path: each for path, each in small.items() if path.split("/")[0] in folders}


def test_another_seed_gives_other_bytes(small: dict[str, bytes], tmp_path: Path) -> None:
    generate(tmp_path, scale=SMALL, seed=1, releases=["msmarco"], quiet=True)
    other = contents(tmp_path)
    assert all(other[path] != small[path] for path in other)


# --- going on, and other people's files -----------------------------------------------------------------------------


def test_a_finished_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--scale", "0.01", "--releases", "okvqa"]
    assert main(arguments) == 0
    before = times(*tmp_path.rglob("*"))
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().err.count("already there") == 3
    assert times(*tmp_path.rglob("*")) == before


def test_an_interrupted_run_is_visible_and_goes_on(
    small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> Iterator[bytes]:
        yield b"half a "
        raise KeyboardInterrupt

    for name in ("msmarco", "coco"):
        whole = RELEASES[name]

        def interrupted(world: World) -> Iterator[ReleaseFile]:
            files = list(whole.files(world))  # noqa: B023, it is used before the next turn
            yield from (*files[:2], replace(files[2], pieces=stop), *files[3:])

        with monkeypatch.context() as patch:
            patch.setitem(RELEASES, name, replace(whole, files=interrupted))
            with pytest.raises(KeyboardInterrupt):
                generate(tmp_path, scale=SMALL, releases=[name], quiet=True)
        files = {path.name for path in (tmp_path / name).rglob("*") if path.is_file()}
        assert len(files) == 3
        assert UNFINISHED in files
        assert MARKER not in files
    (tmp_path / "coco" / "train2014" / ".killed.jpg.1.tmp").write_bytes(b"half")
    kept = times(*(tmp_path / "coco").rglob("*.jpg"))
    with pytest.raises(M2KRError, match="another made-up world"):
        generate(tmp_path, scale=SMALL, seed=1, quiet=True)
    generate(tmp_path, scale=SMALL, quiet=True)
    assert contents(tmp_path) == small
    assert times(*kept) == kept, "finished pictures are not drawn again"


def test_a_file_lost_from_a_finished_folder_is_written_again(tmp_path: Path) -> None:
    generate(tmp_path, scale=0.01, releases=["msmarco"], quiet=True)
    before = contents(tmp_path)
    (tmp_path / "msmarco" / "collection.tsv").unlink()
    generate(tmp_path, scale=0.01, releases=["msmarco"], quiet=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"scale": 0.02}])
def test_another_world_is_not_overwritten(tmp_path: Path, change: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"scale": 0.01, "releases": ["okvqa"], "quiet": True}
    generate(tmp_path, **settings)
    before = contents(tmp_path)
    with pytest.raises(M2KRError, match=f"{next(iter(change))} .* instead of .*Delete that folder"):
        generate(tmp_path, **(settings | change))
    assert contents(tmp_path) == before


def test_real_data_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "coco" / "train2014").mkdir(parents=True)
    (tmp_path / "coco" / "train2014" / "COCO_train2014_000000000009.jpg").write_bytes(b"real")
    with pytest.raises(M2KRError, match="may be real data"):
        generate(tmp_path, scale=0.01, quiet=True)
    assert list(contents(tmp_path)) == ["coco/train2014/COCO_train2014_000000000009.jpg"]


def test_a_marker_that_is_no_json_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "okvqa").mkdir()
    for content, message in ((b"{", "invalid JSON"), (b"[]", "not an object"), (b"\xff", "could not be read")):
        (tmp_path / "okvqa" / MARKER).write_bytes(content)
        with pytest.raises(M2KRError, match=message):
            generate(tmp_path, scale=0.01, releases=["okvqa"], quiet=True)


def test_an_unknown_release_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match=r"OK-VQA.*Did you mean okvqa\?.*iglue_wit"):
        generate(tmp_path, releases=["OK-VQA"])
    assert not list(tmp_path.iterdir())


# --- the command ----------------------------------------------------------------------------------------------------


def test_help_needs_neither_pillow_nor_numpy() -> None:
    code = (
        "import sys\n"
        "from m2kr.synthetic.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'PIL', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--scale" in done.stdout


def test_the_command_ends_with_one_line_on_bad_settings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "m2kr.synthetic", "--out", str(tmp_path), "--scale", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: scale is 0.0")
    assert done.stderr.count("\n") == 1


# --- pictures for passages ------------------------------------------------------------------------------------------


def test_pictures_for_passages_are_written_only_if_asked_for(small: dict[str, bytes], tmp_path: Path) -> None:
    assert not any(name.startswith(PASSAGE_IMAGES) for name in small)
    arguments = ["--out", str(tmp_path), "--scale", str(SMALL), "--releases", "okvqa", "--passage-images", "--quiet"]
    assert main(arguments) == 0
    written = contents(tmp_path)
    more = {name for name in written if name.startswith(f"{PASSAGE_IMAGES}/")}
    assert {name: written[name] for name in written.keys() - more} == {
        name: content for name, content in small.items() if name in written
    }
    world = World(0, SMALL)
    assert sum(name.endswith(".jpg") for name in more) == world.sizes.entities
    for task in ("OVEN", "EVQA", "Infoseek", "OKVQA"):
        rows = lines(tmp_path / PASSAGE_IMAGES / f"{task}.jsonl")
        assert {row["passage_image_path"] for row in rows} <= more
        assert len({row.get("passage_id", row.get("title")) for row in rows}) == len(rows) >= world.sizes.entities
