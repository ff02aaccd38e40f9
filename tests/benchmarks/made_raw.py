"""Raw files of any size with little in them: the load of test_scale.py. Made in seconds, so no pictures and no sense.

The made-up world of m2kr.synthetic draws and writes an entity for each row, which is too slow for millions.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

_WORDS = [
    f"{a}{b}" for a in ("bel", "cor", "dan", "fir", "gal", "hol", "jur", "kes") for b in ("an", "eth", "il", "or", "us")
]


def _sentences(count: int, words: int, seed: str) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(_WORDS, k=words)) for _ in range(count)]


def wit(folder: Path, rows: int, columns: tuple[str, ...], files: dict[str, int]) -> None:
    """Write WIT files: ``files`` is name -> share of the rows. Three of four rows are English; one in five has a line
    break in a quoted field; an image stands in one to three rows."""
    folder.mkdir(parents=True)
    texts = _sentences(2_000, 60, "wit")
    total = sum(files.values())
    number = 0
    for name, share in files.items():
        with gzip.open(folder / name, "wt", compresslevel=1, encoding="utf-8", newline="") as file:
            file.write("\t".join(columns) + "\n")
            for _ in range(rows * share // total):
                number += 1
                language = "en" if number % 4 else "de"
                image = number * 2 // 3
                # Two halves of many: texts of real pages do not repeat, and repeats would cost a writer nothing.
                text = f"{texts[number % 2_000]} {texts[number * 7 // 3 % 1_999]}"
                other = f"{texts[number * 5 % 1_997]} {texts[-number % 2_000]}"
                text = f'"{text[:200]}\n""{text[200:]}"""' if number % 5 == 0 else text
                file.write(
                    f"{language}\thttps://e.org/p{number}\thttps://e.org/i{image}.jpg\tPage {number}\tSection\tPage / "
                    f"Section\tCaption {number}\t\t\timage/jpeg\t640\t480\ttrue\tfalse\ttrue\t{text}\t{other}\n"
                )


def blocks(path: Path, rows: int, titles: int) -> None:
    """Write psgs_w100.tsv with ``rows`` blocks; article t holds the phrase "answer <t>"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = _sentences(3_000, 97, "blocks")
    per_title = max(1, rows // titles)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("id\ttext\ttitle\n")
        for number in range(1, rows + 1):
            title = (number - 1) // per_title
            file.write(f'{number}\t"{texts[number % 3_000]} answer {title} ""so""."\tTitle {title}\n')


def okvqa(folder: Path, questions: int, titles: int) -> None:
    """Write the four OK-VQA files; the answers of a question are phrases of two articles."""
    folder.mkdir(parents=True)
    for offset, coco in enumerate(("train2014", "val2014")):
        asked, answered = [], []
        for number in range(questions):
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


def infoseek(folder: Path, questions: int, titles: int) -> None:
    """Write InfoSeek's train and val files and their knowledge-base halves, these in another order."""
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        rows, halves = [], []
        for number in range(questions):
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


def evqa(folder: Path, articles: int, questions: int, columns: tuple[str, ...]) -> None:
    """Write Encyclopedic-VQA: a knowledge base of ``articles`` in one JSON object, and questions about some of them."""
    folder.mkdir(parents=True)
    texts = _sentences(2_000, 130, "evqa")
    with (folder / "encyclopedic_kb_wiki.json").open("w", encoding="utf-8") as file:
        file.write("{")
        for number in range(articles):
            entry = {
                "title": f"Species {number}",
                "section_titles": [f"Species {number}", "Range", "Diet"],
                "section_texts": [f"{texts[(number + i) % 2_000]} fact {number} {i}." for i in range(3)],
                "image_urls": [], "image_reference_descriptions": [], "image_section_indices": [],
                "url": f"https://e.org/wiki/Species_{number}",
            }  # fmt: skip
            file.write(("," if number else "") + json.dumps(entry["url"]) + ":" + json.dumps(entry))
        file.write("}")
    names = {"train": "train", "val": "val", "test": "val"}
    for split, half in names.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(_evqa_rows(split, questions, articles))
        ids = {str(i): f"{half}/{i % 50:05d}/{i:08d}.jpg" for i in range(questions)}
        (folder / f"{half}_id2name.json").write_text(json.dumps(ids), encoding="utf-8")


def _evqa_rows(split: str, questions: int, articles: int) -> Iterator[dict[str, str]]:
    for number in range(questions):
        article = number * 31 % articles
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
