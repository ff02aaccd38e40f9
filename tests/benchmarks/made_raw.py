"""Raw files of any size with little in them: the load of test_scale.py and real_size.py. No pictures and no sense.

The made-up world of m2kr.synthetic draws and writes an entity for each row, which is too slow for millions.
"""

from __future__ import annotations

import csv
import itertools
import json
import random
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from isal import igzip

_WORDS = [
    f"{a}{b}" for a in ("bel", "cor", "dan", "fir", "gal", "hol", "jur", "kes") for b in ("an", "eth", "il", "or", "us")
]

EVQA_COLUMNS = (
    *("question", "answer", "dataset_image_ids", "dataset_name", "dataset_category_id", "question_type"),
    *("wikipedia_url", "wikipedia_title", "evidence", "evidence_section_id", "evidence_section_title"),
    *("encyclopedic_vqa_split", "question_original", "wikipedia_url_used_in_train"),
)


def _sentences(count: int, words: int, seed: str) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(_WORDS, k=words)) for _ in range(count)]


def _write(path: Path, lines: Iterable[str]) -> None:
    """Write lines, many at once, gzipped where the name says so."""
    lines = iter(lines)
    with igzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        while some := list(itertools.islice(lines, 2_000)):
            file.write("".join(some).encode("utf-8"))


def wit(folder: Path, rows: int, columns: tuple[str, ...], files: dict[str, int]) -> None:
    """Write WIT files: ``files`` is name -> share of the rows. Three of four rows are English; one in five has a line
    break in a quoted field; an image stands in one to three rows."""
    folder.mkdir(parents=True)
    texts = _sentences(2_000, 60, "wit")
    total = sum(files.values())
    numbers = itertools.count(1)

    def line(number: int) -> str:
        language = "en" if number % 4 else "de"
        image = number * 2 // 3
        # Two halves of many: texts of real pages do not repeat, and repeats would cost a writer nothing.
        text = f"{texts[number % 2_000]} {texts[number * 7 // 3 % 1_999]}"
        other = f"{texts[number * 5 % 1_997]} {texts[-number % 2_000]}"
        text = f'"{text[:200]}\n""{text[200:]}"""' if number % 5 == 0 else text
        return (
            f"{language}\thttps://e.org/p{number}\thttps://e.org/i{image}.jpg\tPage {number}\tSection\tPage / "
            f"Section\tCaption {number}\t\t\timage/jpeg\t640\t480\ttrue\tfalse\ttrue\t{text}\t{other}\n"
        )

    for name, share in files.items():
        rows_here = map(line, itertools.islice(numbers, rows * share // total))
        _write(folder / name, itertools.chain(["\t".join(columns) + "\n"], rows_here))


def blocks(path: Path, rows: int, titles: int, *, answer_every: int = 1) -> None:
    """Write psgs_w100.tsv with ``rows`` blocks; one in ``answer_every`` of article t holds the phrase "answer <t>"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = _sentences(3_000, 97, "blocks")
    per_title = max(1, rows // titles)

    def line(number: int) -> str:
        title = (number - 1) // per_title
        answer = f" answer {title}" if number % answer_every == 0 else ""
        return f'{number}\t"{texts[number % 3_000]}{answer} ""so""."\tTitle {title}\n'

    _write(path, itertools.chain(["id\ttext\ttitle\n"], map(line, range(1, rows + 1))))


def okvqa(folder: Path, questions: tuple[int, int], titles: int) -> None:
    """Write the four OK-VQA files, of so many questions; the answers of each are phrases of two articles."""
    folder.mkdir(parents=True)
    for offset, coco in enumerate(("train2014", "val2014")):
        asked, answered = [], []
        for number in range(questions[offset]):
            image = 1_000_000 * offset + number + 1
            said = [f"answer {(number * 7 + i) % titles}" for i in (0, 0, 0, 0, 0, 0, 1, 1, 1, 1)]
            asked.append({"image_id": image, "question": f"What is number {number}?", "question_id": image * 10 + 5})
            answers = [
                {"answer_id": i, "raw_answer": a, "answer_confidence": "yes", "answer": a}
                for i, a in enumerate(said, 1)
            ]
            answered.append({"image_id": image, "question_id": image * 10 + 5, "answers": answers})
        (folder / f"OpenEnded_mscoco_{coco}_questions.json").write_text(
            json.dumps({"questions": asked}), encoding="utf-8"
        )
        (folder / f"mscoco_{coco}_annotations.json").write_text(json.dumps({"annotations": answered}), encoding="utf-8")


def infoseek(folder: Path, questions: tuple[int, int], titles: int) -> None:
    """Write InfoSeek's train and val files, of so many questions, and their other halves, these in another order."""
    folder.mkdir(parents=True)
    for split, count in zip(("train", "val"), questions, strict=True):
        rows, halves = [], []
        for number in range(count):
            title = number * 13 % min(titles, 3_000)  # the release has 6,741 entities
            name = f"infoseek_{split}_{number:08d}"
            data_split = "train" if split == "train" else "val_unseen_entity"
            rows.append(
                {
                    "data_id": name, "image_id": f"oven_{number:08d}", "question": "What is it?",
                    "answer": [f"answer {title}"], "answer_eval": [f"answer {title}"], "data_split": data_split,
                }
            )  # fmt: skip
            halves.append({"data_id": name, "entity_id": f"Q{title}", "entity_text": f"Title {title}"})
        random.Random(split).shuffle(halves)
        for kind, values in (("", rows), ("_withkb", halves)):
            with (folder / f"infoseek_{split}{kind}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(value) + "\n" for value in values)


def evqa(
    folder: Path, articles: int, questions: dict[str, int], columns: tuple[str, ...], *, sections: int = 3
) -> None:
    """Write Encyclopedic-VQA: a knowledge base of ``articles``, one JSON object in a zip, and questions about some.

    ``questions`` has how many there are in each of train, val and test.
    """
    folder.mkdir(parents=True)
    texts = _sentences(2_000, 130, "evqa")
    titles = ["Range", "Diet", "Behaviour", "History", "Uses", "Culture", "Threats"]

    def member(number: int) -> str:
        entry = {
            "title": f"Species {number}",
            "section_titles": [f"Species {number}", *titles[: sections - 1]],
            "section_texts": [f"{texts[(number * 7 + i) % 2_000]} fact {number} {i}." for i in range(sections)],
            "image_urls": [], "image_reference_descriptions": [], "image_section_indices": [],
            "url": f"https://e.org/wiki/Species_{number}",
        }  # fmt: skip
        return f"{',' if number else ''}{json.dumps(entry['url'])}:{json.dumps(entry)}"

    with (
        zipfile.ZipFile(folder / "encyclopedic_kb_wiki.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("encyclopedic_kb_wiki.json", "w", force_zip64=True) as file,
    ):
        file.write(b"{")
        for first in range(0, articles, 500):
            some = map(member, range(first, min(first + 500, articles)))
            file.write("".join(some).encode("utf-8"))
        file.write(b"}")
    halves = {"train": "train", "val": "val", "test": "val"}
    for split, count in questions.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(_evqa_rows(split, count, articles))
    for half in ("train", "val"):
        most = max(count for split, count in questions.items() if halves[split] == half)
        ids = {str(i): f"{half}/{i % 50:05d}/{i:08d}.jpg" for i in range(most)}
        (folder / f"{half}_id2name.json").write_text(json.dumps(ids), encoding="utf-8")


def _evqa_rows(split: str, questions: int, articles: int) -> Iterator[dict[str, str]]:
    asked = min(articles, 17_000)  # pages that questions are about, as many as in the release
    for number in range(questions):
        article = number % asked * (articles // asked)
        yield {
            "question": f"What is fact {number}?",
            "answer": f"fact {article} 1|it",
            "dataset_image_ids": str(number),
            "dataset_name": "inaturalist",
            "dataset_category_id": str(article),
            "question_type": "automatic",
            "wikipedia_url": f"https://e.org/wiki/Species_{article}",
            "wikipedia_title": f"Species {article}",
            "evidence": "",
            "evidence_section_id": "1",
            "evidence_section_title": "Range",
            "encyclopedic_vqa_split": split,
            "question_original": "",
            "wikipedia_url_used_in_train": "False",
        }


def msmarco(folder: Path, passages: int, queries: dict[str, int]) -> None:
    """Write MS MARCO: ``passages`` of 56 words, and ``queries`` of each half, one in 17 with two positives."""
    folder.mkdir(parents=True)
    texts = _sentences(3_000, 28, "msmarco")

    def passage(number: int) -> str:
        return f"{number}\t{texts[number % 3_000]} {number} {texts[number * 7 // 3 % 2_999]}.\n"

    _write(folder / "collection.tsv", map(passage, range(passages)))
    first = 0
    for half, count in queries.items():
        ids = range(first, first + count)
        first += count
        _write(folder / f"queries.{half}.tsv", (f"{id}\twhat is {texts[id % 3_000][:30]} {id}\n" for id in ids))
        positives = ((id, id * 13 + i * 5) for id in ids for i in range(2 if id % 17 == 0 else 1))
        _write(folder / f"qrels.{half}.tsv", (f"{id}\t0\t{number % passages}\t1\n" for id, number in positives))
