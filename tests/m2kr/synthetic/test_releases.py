"""The releases of WIT, IGLUE, KVQA, CC3M, OVEN, InfoSeek and Encyclopedic-VQA: their formats, and how they agree."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from m2kr.synthetic import articles as text
from m2kr.synthetic import dialogues as talk
from m2kr.synthetic import write as raw
from m2kr.synthetic.world import World
from m2kr.synthetic.write import MARKER, generate
from m2kr.tasks import RELEASES, TASKS

SCALE = 0.2


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def lines(path: Path) -> list[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.decode().split("\n")[:-1]]


def wit_rows(root: Path, split: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for path in sorted((root / "wit").glob(f"wit_v1.{split}.*.tsv.gz")):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file, delimiter="\t", strict=True))
        assert found, f"{path.name} has no row"
        rows += found
    return rows


def wit_image(root: Path, url: str) -> Path:
    return root / "wit" / "images" / f"{hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()}.jpg"


def articles(root: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with (root / "wikipedia" / "psgs_w100.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found.setdefault(row["title"], []).append(row["text"])
    return found


def opens(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "JPEG"


def evqa_rows(root: Path, split: str) -> list[dict[str, str]]:
    with (root / "evqa" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_every_release_has_the_files_that_its_task_reads(world: Path) -> None:
    for name, release in RELEASES.items():
        for file in release.files:
            assert (world / name / file).is_file()
    for task in TASKS.values():
        assert (world / task.image_root).is_dir()


def test_markers_bring_options_for_so_small_a_world(world: Path) -> None:
    options = {name: load(world / name / MARKER)["options"] for name in raw.RELEASES}
    assert options["wit"] == {"WIT": {"test_queries": 11}}
    assert options["kvqa"] == {"KVQA": {"test_queries": 12}}
    assert options["oven"] == {"OVEN": {"test_queries": 12}}
    assert options["infoseek"] == {"Infoseek": {"extra_passages": 60}}
    assert [options[name] for name in ("iglue_wit", "llava_cc3m", "evqa")] == [{"IGLUE": {}}, {"CC": {}}, {"EVQA": {}}]


# --- WIT and IGLUE --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_wit_has_the_native_columns_and_quirks(world: Path, split: str) -> None:
    rows = wit_rows(world, split)
    assert list(rows[0])[:3] == ["language", "page_url", "image_url"]
    assert all(len(row) == 17 and None not in row.values() for row in rows)
    pages: dict[str, set[str]] = {}
    for row in rows:
        pages.setdefault(row["image_url"], set()).add(row["page_url"])
    assert any(len(found) > 1 for found in pages.values())
    assert {url.split(":")[0] for url in pages} == {"http", "https"}
    assert {row["mime_type"] for row in rows} >= {"image/jpeg", "image/png"}
    assert {row["is_main_image"] for row in rows} == {"true", "false"}
    assert {"en", "de", "ru"} <= {row["language"] for row in rows}
    assert 0.4 < sum(row["language"] == "en" for row in rows) / len(rows) < 0.9
    assert any(row["section_title"] == "" for row in rows)
    assert any(row["page_title"] in ("NA", "null") for row in rows)
    assert any("\n" in row["context_page_description"] for row in rows)
    assert any('"' in row["caption_reference_description"] for row in rows) or split == "train"
    assert all(row["original_height"].isdigit() for row in rows)
    # An image without an English row is no query.
    assert {row["image_url"] for row in rows if row["language"] == "en"} < set(pages)


def test_wit_is_gzip_without_a_time_and_quotes_only_what_needs_it(world: Path) -> None:
    path = world / "wit" / "wit_v1.train.all-00002-of-00010.tsv.gz"
    assert path.read_bytes()[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"
    content = gzip.decompress(path.read_bytes()).decode()
    with io.StringIO(content, newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    again = io.StringIO(newline="")
    csv.writer(again, delimiter="\t", lineterminator="\n").writerows(rows)
    assert again.getvalue() == content
    assert content.count("\n") > len(rows)


def test_most_wit_images_are_there_and_a_few_are_missing_or_tiny(world: Path) -> None:
    urls = {row["image_url"] for split in ("train", "val") for row in wit_rows(world, split)}
    found = {wit_image(world, url) for url in urls if wit_image(world, url).is_file()}
    assert found == set((world / "wit" / "images").iterdir())
    assert 0.9 < len(found) / len(urls) < 1
    sizes = Counter(Image.open(path).size for path in found)
    assert set(sizes) >= {(160, 160), (24, 24)}
    assert sizes[160, 160] > 0.9 * len(found)


def test_every_iglue_record_is_one_wit_row_with_an_image(world: Path) -> None:
    key = ("page_url", "image_url", "caption_reference_description")
    rows = Counter(tuple(row[name] for name in key) for row in wit_rows(world, "val") if row["language"] == "en")
    records = lines(world / "iglue_wit" / "test_en.jsonl")
    assert [*records[0]] == [
        *("image_idx", "image_url", "meta_url", "caption_reference_description", "language", "page_url", "wit_ix")
    ]
    assert [rows[tuple(record[name] for name in key)] for record in records] == [1] * len(records)
    assert all(opens(wit_image(world, record["image_url"])) for record in records)
    images = {record["image_url"] for record in records}
    assert len(images) < len(records)
    assert len({record["wit_ix"] for record in records}) == len(images)
    assert len({record["image_idx"] for record in records}) == len(images) - 2
    order = [int(record["wit_ix"].removeprefix("wit-test_")) for record in records]
    assert order == sorted(order)
    captions = [record["caption_reference_description"] for record in records]
    assert all(captions)
    assert any("\n" in caption for caption in captions)
    assert any(caption != caption.strip() for caption in captions)


def test_wit_tells_of_the_entities_of_the_world(world: Path) -> None:
    known = articles(world)
    rows = [row for row in wit_rows(world, "val") if row["language"] == "en"]
    told = [row for row in rows if row["page_title"] in known]
    assert len(told) > len(rows) / 2
    for row in told:
        if row["context_page_description"]:
            assert row["context_page_description"].split("\n")[0] in " ".join(known[row["page_title"]])


# --- KVQA and CC3M --------------------------------------------------------------------------------------------------


def test_kvqa_has_the_native_form(world: Path) -> None:
    path = world / "kvqa" / "dataset.json"
    records = load(path)
    assert path.read_text("utf-8") == json.dumps(records, ensure_ascii=False)
    for image_id, record in records.items():
        assert list(record) == [
            *("NamedEntities", "imgPath", "ParaQuestions", "Qids", "Questions", "split", "wikiCap", "Answers"),
            "Type of Question",
        ]
        assert Path(record["imgPath"]).stem == image_id
        assert opens(world / "kvqa" / record["imgPath"])
        assert len(record["Questions"]) == len(record["ParaQuestions"]) == len(record["Answers"]) >= 4
        assert len(record["Questions"]) - len(record["Type of Question"]) in (0, 1)
        assert len(record["split"]) == 5
        assert len(record["Qids"]) == len(record["NamedEntities"]) in (1, 2)
        for name in record["NamedEntities"]:
            assert name.split()[1] in record["wikiCap"]
    assert {type(answer) for record in records.values() for answer in record["Answers"]} == {int, str}
    assert any({int, str} == {*map(type, record["Answers"])} for record in records.values())
    assert {Path(record["imgPath"]).suffix for record in records.values()} == {".jpg", ".JPG", ".jpeg"}
    assert any(len(record["Type of Question"]) < len(record["Questions"]) for record in records.values())
    for partition in range(5):
        parts = Counter(record["split"][partition] for record in records.values())
        assert parts == {1: 21, 2: 6, 3: 3}


def test_people_of_kvqa_made_entities_and_wear_the_same_clothes_in_all_pictures(world: Path) -> None:
    made = World(0, SCALE)
    people = {person.qid: person for person in (made.entity(i).person for i in range(made.sizes.asked))}
    seen: Counter[str] = Counter()
    for record in load(world / "kvqa" / "dataset.json").values():
        for qid, name in zip(record["Qids"], record["NamedEntities"], strict=True):
            assert people[qid].name == name
            coat, trousers, hat = people[qid].clothes
            for worn in (f"{coat} coat", f"{trousers} trousers", f"{hat} hat"):
                assert worn in record["wikiCap"]
            seen[qid] += 1
    assert seen.most_common(1)[0][1] > 2
    assert len({person.clothes for person in people.values()}) > 0.9 * len(people)


def test_cc3m_has_the_native_form(world: Path) -> None:
    path = world / "llava_cc3m" / "chat.json"
    records = load(path)
    assert path.read_text("utf-8") == json.dumps(records, indent=2, ensure_ascii=False)
    sides = set()
    for record in records:
        assert list(record) == ["id", "image", "conversations"]
        assert record["id"].startswith("GCC_train_")
        assert len(record["id"]) == 19
        assert record["image"] == record["id"] + ".jpg"
        assert opens(world / "llava_cc3m" / "images" / record["image"])
        human, gpt = record["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        before, after = human["value"].split("\n")
        sides.add(before == "<image>")
        assert {before, after} - {"<image>"} <= set(talk.BRIEF_PROMPTS)
        assert gpt["value"].endswith(" .")
        assert gpt["value"] == gpt["value"].lower()
    assert sides == {True, False}
    assert len({record["id"] for record in records}) == len(records)


# --- OVEN, Wiki6M and InfoSeek --------------------------------------------------------------------------------------


def oven_paths(root: Path) -> dict[str, str]:
    content = (root / "oven" / "ovenid2impath.csv").read_text("utf-8")
    return dict(line.split(",") for line in content.split("\n")[:-1])


def test_oven_has_the_native_form(world: Path) -> None:
    train, val = (lines(world / "oven" / f"oven_entity_{split}.jsonl") for split in ("train", "val"))
    paths = oven_paths(world)
    assert set(paths) == {record["image_id"] for record in train + val}
    assert len(paths) == len(train) + len(val)
    for record in train + val:
        assert list(record) == ["data_id", "image_id", "question", "entity_id", "entity_text", "data_split"]
        path = paths[record["image_id"]]
        assert path.startswith(f"{record['image_id'][5:7]}/{record['image_id']}.")
        assert opens(world / "oven" / "images" / path)
        assert record["entity_text"] not in record["question"]
    assert {Path(path).suffix for path in paths.values()} == {".jpg", ".JPEG"}
    assert {record["data_split"] for record in train} == {"entity_train"}
    seen = {record["entity_id"] for record in train}
    for record in val:
        assert record["data_split"] == f"entity_val_{'seen' if record['entity_id'] in seen else 'unseen'}"
    assert {record["data_split"] for record in val} == {"entity_val_seen", "entity_val_unseen"}
    # The number of a picture does not tell the split.
    assert min(record["image_id"] for record in val) < max(record["image_id"] for record in train)


def test_wiki6m_has_every_article_under_its_title_and_some_without_a_summary(world: Path) -> None:
    records = lines(world / "wikipedia" / "Wiki6M_ver_1_0.jsonl.gz")
    first: dict[str, dict[str, Any]] = {}
    for record in records:
        first.setdefault(record["wikidata_id"], record)
    assert len(first) < len(records)
    known = articles(world)
    assert {record["wikipedia_title"] for record in first.values()} == set(known)
    for record in first.values():
        assert record["wikipedia_content"].split() == " ".join(known[record["wikipedia_title"]]).split()
        summary = record.get("wikipedia_summary")
        assert summary is None or record["wikipedia_content"].startswith(summary)
    assert any("wikipedia_summary" not in record for record in records)
    assert any(record.get("wikipedia_summary", "") is None for record in records)
    titles = {record["wikidata_id"]: record["wikipedia_title"] for record in records}
    asked = [*lines(world / "oven" / "oven_entity_train.jsonl"), *lines(world / "oven" / "oven_entity_val.jsonl")]
    assert all(titles[record["entity_id"]] == record["entity_text"] for record in asked)
    assert len({record["entity_id"] for record in asked}) < len(titles), "there are distractors"


@pytest.mark.parametrize("split", ["train", "val"])
def test_infoseek_has_the_native_form(world: Path, split: str) -> None:
    path = world / "infoseek" / f"infoseek_{split}.jsonl"
    assert path.read_bytes().isascii()
    assert b"\\ud83c" in path.read_bytes()
    records = lines(path)
    paths = oven_paths(world)
    shown = {record["image_id"]: record for record in lines(world / "oven" / f"oven_entity_{split}.jsonl")}
    ids = [record["data_id"] for record in records]
    assert len(set(ids)) == len(ids)
    kb = lines(world / "infoseek" / f"infoseek_{split}_withkb.jsonl")
    assert [record["data_id"] for record in kb] != ids
    entities = {record["data_id"]: record for record in kb}
    assert sorted(entities) == sorted(ids)
    for record in records:
        assert list(record) == ["data_id", "image_id", "question", "answer", "answer_eval", "data_split"]
        assert record["image_id"] in paths
        for key in ("entity_id", "entity_text"):
            assert entities[record["data_id"]][key] == shown[record["image_id"]][key]
        if isinstance(record["answer_eval"][0], str):
            assert set(record["answer"]) <= set(record["answer_eval"])
        else:
            (number,) = record["answer_eval"]
            low, high = number["range"]
            assert low < number["wikidata"] < high
            given = [float(part) for part in record["answer"][0].split("-")]
            assert given in ([number["wikidata"]], [low, high])
    asked = Counter((record["image_id"], record["question"]) for record in records)
    assert max(asked.values()) == 2
    splits = {"train": {"train"}, "val": {"val_unseen_question", "val_unseen_entity"}}[split]
    assert {record["data_split"] for record in records} == splits


def test_infoseek_holds_numbers_intervals_codes_and_times(tmp_path: Path) -> None:
    generate(tmp_path, scale=1, releases=["infoseek"], quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"infoseek", "oven", "wikipedia"}
    records = lines(tmp_path / "infoseek" / "infoseek_train.jsonl")
    numbers = [record for record in records if isinstance(record["answer_eval"][0], dict)]
    assert any("-" in record["answer"][0] for record in numbers)
    assert any(len(str(record["answer_eval"][0]["range"][1])) > 12 for record in numbers), "noise of floats"
    assert any(len(answer) == 2 for record in records for answer in record["answer_eval"])
    types = {record["question_type"] for record in lines(tmp_path / "infoseek" / "infoseek_val_qtype.jsonl")}
    assert types == {"String", "Numerical", "Time"}


@pytest.mark.parametrize("split", ["train", "val"])
def test_infoseek_answers_are_in_a_block_about_the_entity(world: Path, split: str) -> None:
    known = articles(world)
    titles = {
        record["data_id"]: record["entity_text"]
        for record in lines(world / "infoseek" / f"infoseek_{split}_withkb.jsonl")
    }
    for record in lines(world / "infoseek" / f"infoseek_{split}.jsonl"):
        first = record["answer_eval"][0]
        answers = record["answer"] if isinstance(first, str) else [f"{first['wikidata']:.0f}"]
        blocks = known[titles[record["data_id"]]]
        assert any(text.states(block, answer) for block in blocks for answer in answers)


def test_val_questions_are_about_unseen_facts_or_unseen_entities(world: Path) -> None:
    train = {record["entity_id"] for record in lines(world / "infoseek" / "infoseek_train_withkb.jsonl")}
    kb = {r["data_id"]: r["entity_id"] for r in lines(world / "infoseek" / "infoseek_val_withkb.jsonl")}
    for record in lines(world / "infoseek" / "infoseek_val.jsonl"):
        if record["data_split"] == "val_unseen_entity":
            assert kb[record["data_id"]] not in train


# --- Encyclopedic-VQA -----------------------------------------------------------------------------------------------


def knowledge_text(root: Path) -> str:
    with zipfile.ZipFile(root / "evqa" / "encyclopedic_kb_wiki.zip") as archive:
        assert archive.namelist() == ["encyclopedic_kb_wiki.json"]
        return archive.read("encyclopedic_kb_wiki.json").decode("ascii")


def inat(root: Path, half: str) -> dict[str, Any]:
    with tarfile.open(root / "evqa" / f"{half}.json.tar.gz") as archive:
        content = archive.extractfile(f"{half}.json")
        assert content is not None
        return dict(json.load(content))


def evqa_picture(root: Path, split: str, name: str, image_id: str) -> Path:
    images = root / "evqa" / "images"
    if name == "landmarks":
        assert len(image_id) == 16
        return images / "google-landmark" / "train" / "/".join(image_id[:3]) / f"{image_id}.jpg"
    folder = "train" if split == "train" else "val"
    (found,) = (image["file_name"] for image in inat(root, folder)["images"] if str(image["id"]) == image_id)
    return images / "inat" / found


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_evqa_questions_lead_to_a_section_with_the_answer_and_to_pictures(world: Path, split: str) -> None:
    rows = evqa_rows(world, split)
    base = json.loads(knowledge_text(world))
    assert {row["question_type"] for row in rows} == {"templated", "automatic", "multi_answer", "2_hop"}
    assert {row["dataset_name"] for row in rows} == {"inaturalist", "landmarks"}
    for row in rows:
        assert len(row) == 14
        assert None not in row.values()
        assert row["encyclopedic_vqa_split"] == split
        pages = [base[url] for url in row["wikipedia_url"].split("|")]
        assert [page["title"] for page in pages] == row["wikipedia_title"].split("|")
        numbers = [int(number) for number in row["evidence_section_id"].split("|")]
        assert len(numbers) == len(pages) == 1 + (row["question_type"] == "2_hop")
        titles = [page["section_titles"][number] for page, number in zip(pages, numbers, strict=True)]
        assert titles == row["evidence_section_title"].split("|")
        section = pages[-1]["section_texts"][numbers[-1]]
        for answer in row["answer"].split("|"):
            assert all(text.states(section, part) for part in answer.split("&&"))
        assert ("&&" in row["answer"]) == (row["question_type"] == "multi_answer")
        assert bool(row["evidence"]) == (row["question_type"] == "templated")
        assert all(sentence in section for sentence in row["evidence"].split("\n"))
        ids = row["dataset_image_ids"].split("|")
        assert 1 <= len(ids) <= 5
        assert all(opens(evqa_picture(world, split, row["dataset_name"], image_id)) for image_id in ids)
    assert {row["wikipedia_url_used_in_train"] for row in rows} <= {"True", "False"}


def test_evqa_test_has_pages_that_training_does_not_use(world: Path) -> None:
    train, test = ({row["wikipedia_url"] for row in evqa_rows(world, split)} for split in ("train", "test"))
    assert test - train
    assert test & train
    rows = evqa_rows(world, "test")
    assert all((row["wikipedia_url"] in train) <= (row["wikipedia_url_used_in_train"] == "True") for row in rows)
    assert any(len(row["dataset_image_ids"].split("|")) == 5 for row in evqa_rows(world, "train"))


def test_the_knowledge_base_is_one_object_with_parallel_lists_and_distractors(world: Path) -> None:
    written = knowledge_text(world)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    base = json.loads(written, object_pairs_hook=once)
    assert written == json.dumps(base)
    for url, page in base.items():
        assert list(page) == [
            *("title", "section_titles", "section_texts", "image_urls", "image_reference_descriptions"),
            *("image_section_indices", "url"),
        ]
        assert page["url"] == url
        assert page["section_titles"][0] == page["title"]
        assert len(page["section_titles"]) == len(page["section_texts"])
        assert len(page["image_urls"]) == len(page["image_reference_descriptions"])
        assert len(page["image_urls"]) == len(page["image_section_indices"])
    asked = {
        url for split in ("train", "val", "test") for row in evqa_rows(world, split) for url in [row["wikipedia_url"]]
    }
    assert len(base) > 2 * len(asked)
    assert set(articles(world)) < {page["title"] for page in base.values()}


@pytest.mark.parametrize("half", ["train", "val"])
def test_inaturalists_annotations_have_cocos_form(world: Path, half: str) -> None:
    found = inat(world, half)
    assert list(found) == ["info", "images", "categories", "annotations", "licenses"]
    images = {image["id"]: image for image in found["images"]}
    assert len(images) == len(found["images"]) == len(found["annotations"])
    categories = {category["id"]: category for category in found["categories"]}
    for link in found["annotations"]:
        folder = categories[link["category_id"]]["image_dir_name"]
        assert images[link["image_id"]]["file_name"].startswith(f"{half}/{folder}/")
    for image in images.values():
        with Image.open(world / "evqa" / "images" / "inat" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
    assert any(math.isnan(image["latitude"]) for image in images.values())


# --- together -------------------------------------------------------------------------------------------------------


def test_an_entity_is_the_same_in_all_releases(world: Path) -> None:
    oven = {record["entity_text"] for record in lines(world / "oven" / "oven_entity_train.jsonl")}
    infoseek = {record["entity_text"] for record in lines(world / "infoseek" / "infoseek_train_withkb.jsonl")}
    evqa = {row["wikipedia_title"] for row in evqa_rows(world, "train") if row["question_type"] != "2_hop"}
    wit = {row["page_title"] for row in wit_rows(world, "train")}
    assert infoseek <= oven
    assert evqa <= oven
    assert evqa <= wit
    assert oven <= wit
    captions = " ".join(record["wikiCap"] for record in load(world / "kvqa" / "dataset.json").values())
    people = {entity.person.name for entity in map(World(0, SCALE).entity, range(10))}
    assert any(name in captions for name in people)


@pytest.mark.parametrize(
    ("releases", "folders"),
    [
        (["wit"], {"wit"}),
        (["iglue_wit"], {"iglue_wit", "wit"}),
        (["kvqa"], {"kvqa"}),
        (["llava_cc3m"], {"llava_cc3m"}),
        (["oven"], {"oven", "wikipedia"}),
        (["infoseek"], {"infoseek", "oven", "wikipedia"}),
        (["evqa"], {"evqa"}),
    ],
)
def test_bytes_do_not_depend_on_what_is_written_together(
    world: Path, tmp_path: Path, releases: list[str], folders: set[str]
) -> None:
    generate(tmp_path, scale=SCALE, releases=releases, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == folders
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(
        path.relative_to(world) for folder in folders for path in (world / folder).rglob("*") if path.is_file()
    )
    assert all((tmp_path / path).read_bytes() == (world / path).read_bytes() for path in files)


@pytest.mark.parametrize("seed", range(3))
def test_the_tiniest_world_has_every_file(tmp_path: Path, seed: int) -> None:
    generate(tmp_path, scale=0.001, seed=seed, quiet=True)
    for name, release in RELEASES.items():
        assert all((tmp_path / name / file).stat().st_size > 20 for file in release.files)
    for split in ("train", "val", "test"):
        assert evqa_rows(tmp_path, split)
    for split in ("train", "val"):
        assert any(row["language"] == "en" for row in wit_rows(tmp_path, split))


def pieces_of(world: World, release: str) -> Iterator[str]:
    for part in raw.RELEASES[release](world):
        yield part.path


@pytest.mark.parametrize("release", sorted(raw.RELEASES))
def test_no_two_parts_have_one_path(release: str) -> None:
    paths = list(pieces_of(World(0, 2), release))
    assert len(paths) == len(set(paths))
