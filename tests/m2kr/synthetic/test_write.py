"""The raw releases of the made-up world: their formats, and how they are written."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from m2kr.errors import M2KRError
from m2kr.synthetic import articles as text
from m2kr.synthetic import write as raw
from m2kr.synthetic.__main__ import main
from m2kr.synthetic.world import World
from m2kr.synthetic.write import MARKER, RELEASES, UNFINISHED, Part, generate

SCALE = 0.2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    generate(root, scale=SCALE, quiet=True)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def tsv(path: Path) -> list[list[str]]:
    content = path.read_bytes().decode()
    assert content.endswith("\n")
    assert "\r" not in content
    return [line.split("\t") for line in content[:-1].split("\n")]


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


# --- formats --------------------------------------------------------------------------------------------------------


def test_msmarco_collection_has_the_native_form_and_defects(root: Path) -> None:
    rows = tsv(root / "msmarco" / "collection.tsv")
    assert all(len(row) == 2 for row in rows)
    assert [int(pid) for pid, _ in rows] == list(range(len(rows)))
    assert any("\x85" in passage for _, passage in rows)
    assert any(passage.count('"') % 2 for _, passage in rows)
    assert len({passage for _, passage in rows}) > 0.99 * len(rows)


@pytest.mark.parametrize("split", ["train", "dev.small"])
def test_msmarco_judgements_refer_to_queries_and_passages(root: Path, split: str) -> None:
    folder = root / "msmarco"
    collection = dict(tsv(folder / "collection.tsv"))
    rows = tsv(folder / f"queries.{split}.tsv")
    queries = dict(rows)
    assert len(queries) == len(rows)
    qids = [int(qid) for qid in queries]
    assert qids != sorted(qids)
    qrels = tsv(folder / f"qrels.{split}.tsv")
    assert all(len(row) == 4 and row[1] == "0" and row[3] == "1" for row in qrels)
    assert len({(row[0], row[2]) for row in qrels}) == len(qrels)
    pids = [int(row[2]) for row in qrels]
    assert pids == sorted(pids)
    # A judged passage names what its query asks about.
    for qid, _, pid, _ in qrels:
        words = set(queries[qid].replace("(boat)", "").split())
        assert words & set(collection[pid].lower().replace(".", " ").replace(",", " ").split()) - {"the", "was"}
    assert any(query != query.strip() for query in queries.values())
    judged = {row[0] for row in qrels}
    assert judged <= set(queries)
    assert (judged < set(queries)) if split == "train" else (judged == set(queries))


def test_five_percent_of_msmarco_queries_have_two_or_three_positives(tmp_path: Path) -> None:
    generate(tmp_path, scale=3, releases=["msmarco"], quiet=True)
    positives = Counter(row[0] for row in tsv(tmp_path / "msmarco" / "qrels.train.tsv"))
    counts = Counter(positives.values())
    assert set(counts) == {1, 2, 3}
    assert 0.03 < 1 - counts[1] / len(positives) < 0.07
    train, dev = ({row[0] for row in tsv(tmp_path / "msmarco" / f"queries.{s}.tsv")} for s in ("train", "dev.small"))
    assert not train & dev


def test_the_positives_of_msmarco_state_the_fact(root: Path) -> None:
    world = World(0, SCALE)
    for index in range(40):
        entity = world.entity(index)
        for fact in text.FACTS:
            numbers = text.passages_with(entity, fact)
            assert numbers
            # City and country share sentences, and not every one of these names both.
            facts = ("city", "country") if fact in ("city", "country") else (fact,)
            for number in numbers:
                passage = text.passage(entity, number)
                assert any(text.states(passage, text.answers(entity, key)[0]) for key in facts)


def test_llava_records_have_the_native_form(root: Path) -> None:
    pictures: set[str] = set()
    for name, first in (("conversation_58k", False), ("detail_23k", False), ("complex_reasoning_77k", True)):
        path = root / "llava_instruct" / f"{name}.json"
        records = load(path)
        assert path.read_text("utf-8") == json.dumps(records, indent=2, ensure_ascii=False)
        assert len({record["id"] for record in records}) == len(records)
        lengths = []
        for record in records:
            assert list(record) == ["id", "image", "conversations"]
            assert len(record["id"]) == 12
            assert record["id"].isdigit()
            assert record["image"] == record["id"] + ".jpg"
            assert (root / "coco" / "train2014" / f"COCO_train2014_{record['image']}").is_file()
            turns = record["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            opening = turns[0]["value"]
            assert opening.startswith("<image>\n") if first else opening.endswith("\n<image>")
            assert sum("<image>" in turn["value"] for turn in turns) == 1
            assert all(12 <= len(turn["value"].split()) <= 70 for turn in turns if turn["from"] == "gpt")
            lengths.append(len(turns) // 2)
        assert set(lengths) == ({2, 3, 4} if name.startswith("conversation") else {1})
        pictures.update(record["id"] for record in records)
    assert len(pictures) < 0.2 * (150 + 200 + 250), "files share pictures"


def okvqa(root: Path, split: str) -> tuple[Any, Any]:
    folder = root / "okvqa"
    return (
        load(folder / f"OpenEnded_mscoco_{split}_questions.json"),
        load(folder / f"mscoco_{split}_annotations.json"),
    )


@pytest.mark.parametrize("split", ["train2014", "val2014"])
def test_okvqa_files_have_the_native_form(root: Path, split: str) -> None:
    questions, annotations = okvqa(root, split)
    assert list(questions) == ["license", "data_subtype", "task_type", "questions", "info", "data_type"]
    assert list(annotations) == ["license", "data_subtype", "question_types", "annotations", "info", "data_type"]
    for path in (root / "okvqa").glob(f"*{split}*.json"):
        assert path.read_bytes().decode("ascii") == json.dumps(load(path))
    assert len(questions["questions"]) == len(annotations["annotations"])
    for question, annotation in zip(questions["questions"], annotations["annotations"], strict=True):
        assert list(question) == ["image_id", "question", "question_id"]
        assert question["question_id"] == annotation["question_id"] == int(f"{question['image_id']}5")
        assert question["image_id"] == annotation["image_id"]
        assert annotation["question_type"] in annotations["question_types"]
        answers = annotation["answers"]
        assert [answer["answer_id"] for answer in answers] == list(range(1, 11))
        assert list(answers[0]) == ["answer_id", "raw_answer", "answer_confidence", "answer"]
        assert all(count % 2 == 0 for count in Counter(answer["raw_answer"] for answer in answers).values())
        path = root / "coco" / split / f"COCO_{split}_{question['image_id']:012d}.jpg"
        with Image.open(path) as image:
            image.load()
    other = "val2014" if split == "train2014" else "train2014"
    images, elsewhere = (
        {question["image_id"] for question in okvqa(root, name)[0]["questions"]} for name in (split, other)
    )
    assert not images & elsewhere


def passages(root: Path) -> list[dict[str, str]]:
    with (root / "wikipedia" / "psgs_w100.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_wikipedia_parses_as_csv_and_holds_whole_articles(root: Path) -> None:
    rows = passages(root)
    assert list(rows[0]) == ["id", "text", "title"]
    assert [int(row["id"]) for row in rows] == list(range(1, len(rows) + 1))
    articles: dict[str, list[str]] = {}
    for row in rows:
        articles.setdefault(row["title"], []).append(row["text"])
    world = World(0, SCALE)
    assert articles == {entity.title: text.blocks(entity) for entity in map(world.entity, range(world.sizes.entities))}
    assert all(len(block.split()) == 100 for blocks in articles.values() for block in blocks[:-1])
    assert any('"' in title for title in articles)
    lines = (root / "wikipedia" / "psgs_w100.tsv").read_text("utf-8").split("\n")
    assert lines[0] == "id\ttext\ttitle"
    assert all(line.split("\t")[1].startswith('"') for line in lines[1:-1])


@pytest.mark.parametrize("split", ["train2014", "val2014"])
def test_every_okvqa_answer_is_in_a_passage_about_the_pictured_entity(root: Path, split: str) -> None:
    world = World(0, SCALE)
    pictures = [world.picture("train2014", i) for i in range(world.sizes.train_pictures)]
    pictures += [world.picture("val2014", i) for i in range(world.sizes.val_pictures)]
    shown = {picture.image_id: world.entity(picture.entity).title for picture in pictures}
    articles: dict[str, list[str]] = {}
    for row in passages(root):
        articles.setdefault(row["title"], []).append(row["text"])
    for annotation in okvqa(root, split)[1]["annotations"]:
        for answer in annotation["answers"]:
            blocks = articles[shown[annotation["image_id"]]]
            assert any(text.states(block, answer["answer"]) for block in blocks)


def test_markers_say_what_the_files_are(root: Path) -> None:
    for name in RELEASES:
        marker = load(root / name / MARKER)
        assert marker["made_up"] is True
        assert (marker["seed"], marker["scale"], marker["generator"]) == (0, SCALE, "m2kr.synthetic")
    options = {name: load(root / name / MARKER)["options"] for name in RELEASES}
    assert options["msmarco"]["MSMARCO"] == {"pool": 200, "test_queries": 22}
    assert options["llava_instruct"]["LLaVA"] == {"heldout_per_subset": 8, "test_queries": 20}
    assert options["okvqa"] == {"OKVQA": {}}
    assert options["wikipedia"] == options["coco"] == {}


@pytest.mark.parametrize("scale", [0.001, 0.05, 0.5, 1.7])
def test_the_build_options_fit_the_files(tmp_path: Path, scale: float) -> None:
    generate(tmp_path, scale=scale, releases=["msmarco"], quiet=True)
    options = load(tmp_path / "msmarco" / MARKER)["options"]["MSMARCO"]
    positives = tsv(tmp_path / "msmarco" / "qrels.dev.small.tsv")
    assert len(positives) + 3 * options["test_queries"] <= options["pool"]
    assert options["pool"] < len(tsv(tmp_path / "msmarco" / "collection.tsv"))


# --- writing --------------------------------------------------------------------------------------------------------


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(root: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", scale=SCALE, quiet=True)
    assert contents(tmp_path / "again") == contents(root)
    generate(tmp_path / "other", scale=SCALE, seed=1, releases=["msmarco"], quiet=True)
    assert contents(tmp_path / "other")["msmarco/collection.tsv"] != contents(root)["msmarco/collection.tsv"]


@pytest.mark.parametrize(
    ("releases", "folders"),
    [
        (["msmarco"], {"msmarco"}),
        (["llava_instruct"], {"llava_instruct", "coco"}),
        (["okvqa"], {"okvqa", "wikipedia", "coco"}),
    ],
)
def test_bytes_do_not_depend_on_what_is_written_together(
    root: Path, tmp_path: Path, releases: list[str], folders: set[str]
) -> None:
    generate(tmp_path, scale=SCALE, releases=releases, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == folders
    assert contents(tmp_path) == {
        path: content for path, content in contents(root).items() if path.split("/")[0] in folders
    }


def test_a_finished_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path), "--scale", "0.01", "--releases", "okvqa"]
    assert main(arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().err.count("already there") == 3
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_interrupted_run_is_visible_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate(tmp_path / "whole", scale=0.02, quiet=True)

    def interrupted(world: World) -> Iterator[Part]:
        def stop() -> Iterator[bytes]:
            yield b"half a "
            raise KeyboardInterrupt

        parts = list(whole(world))
        yield from parts[:2]
        yield Part(parts[2].path, 1, stop)
        yield from parts[3:]

    for name in ("msmarco", "coco"):
        whole = RELEASES[name]
        with monkeypatch.context() as patch:
            patch.setitem(raw.RELEASES, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                generate(tmp_path / "cut", scale=0.02, releases=[name], quiet=True)
        files = [path for path in (tmp_path / "cut" / name).rglob("*") if path.is_file()]
        assert {path.name for path in files} > {UNFINISHED}
        assert MARKER not in {path.name for path in files}
        assert len(files) == 3
    (tmp_path / "cut" / "coco" / "train2014" / ".killed.jpg.1.tmp").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "coco").rglob("*.jpg")}
    with pytest.raises(M2KRError, match="another made-up world"):
        generate(tmp_path / "cut", scale=0.02, seed=1, quiet=True)
    generate(tmp_path / "cut", scale=0.02, quiet=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished pictures are not drawn again"


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
    for content, message in (("{", "is not JSON"), ("[]", "another made-up world"), ("\xff", "is not JSON")):
        (tmp_path / "okvqa" / MARKER).write_bytes(content.encode("latin-1"))
        with pytest.raises(M2KRError, match=message):
            generate(tmp_path, scale=0.01, releases=["okvqa"], quiet=True)


def test_an_unknown_release_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="Did you mean 'okvqa'"):
        generate(tmp_path, releases=["OK-VQA"])
    assert not list(tmp_path.iterdir())


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
