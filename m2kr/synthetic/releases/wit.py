"""WIT, and the English retrieval test that IGLUE makes of it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from m2kr.synthetic import articles
from m2kr.synthetic.releases.part import Part, encoded, gzipped, page_url, picture, upload_url
from m2kr.synthetic.world import Entity, Shuffle, World

Split = Literal["train", "val"]

_COLUMNS = (
    *("language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title"),
    *("caption_reference_description", "caption_attribution_description", "caption_alt_text_description"),
    *("mime_type", "original_height", "original_width", "is_main_image", "attribution_passes_lang_id"),
    *("page_changed_recently", "context_page_description", "context_section_description"),
)
_FILES: dict[Split, int] = {"train": 10, "val": 5}
_MIME = {"jpg": "image/jpeg", "png": "image/png", "svg": "image/svg+xml", "gif": "image/gif"}
_OTHER_LANGUAGES = {
    "de": ("Aussehen", "{t} liegt bei {city} ({country}) und ist seit {year} bekannt.", "Bild von {t}"),
    "fr": ("Histoire", "{t} se trouve près de {city} ({country}) ; on en parle depuis {year}.", "Image de {t}"),
    "es": ("Descripción", "{t} está cerca de {city} ({country}) y se conoce desde {year}.", "Imagen de {t}"),
    "ru": ("История", "{t} находится недалеко от города {city} ({country}); известно с {year} года.", "Вид: {t}"),
    "ja": ("概要", "{t}は{country}の{city}の近くにあり、{year}年から知られている。", "{t}の写真"),
}


@dataclass(frozen=True, slots=True)
class _Image:
    """One image file of Wikimedia Commons.

    Attributes:
        split: whose files its rows are in.
        number: within the split.
        entity: what it shows.
        url: its address.
        mime_type: as the release gives it; the downloaded copy is a JPEG whatever this says.
        languages: of its rows, which differ in page or section where the language is the same.
        in_iglue: whether IGLUE asks for it.
        size: width and height of the copy, None for the usual ones.
        missing: whether the download failed.
    """

    split: Split
    number: int
    entity: Entity
    url: str
    mime_type: str
    languages: tuple[str, ...]
    in_iglue: bool
    size: tuple[int, int] | None
    missing: bool

    @property
    def path(self) -> str:
        return f"images/{hashlib.md5(self.url.encode(), usedforsecurity=False).hexdigest()}.jpg"


def _in_iglue(split: Split, number: int) -> bool:
    return split == "val" and number % 2 == 0


def _languages(world: World, split: Split, number: int) -> tuple[str, ...]:
    rng = world.rng("wit languages", split, number)
    # Most images start with an English row; a few have none.
    foreign = number % 14 == 9 and not _in_iglue(split, number)
    languages = [rng.choice(tuple(_OTHER_LANGUAGES)) if foreign else "en"]
    languages += rng.sample(tuple(_OTHER_LANGUAGES), rng.choice((0, 1, 1, 2)))
    return (*languages, *["en"] * (0 if foreign else rng.choice((0, 0, 1, 2))))


def _image(world: World, split: Split, number: int) -> _Image:
    rng = world.rng("wit", split, number)
    sizes = world.sizes
    if split == "train":
        entity = world.entity(number % sizes.train_entities)
    else:
        entity = world.entity(Shuffle(sizes.asked, f"{world.seed}/wit val").at(number % sizes.asked))
    in_iglue = _in_iglue(split, number)
    kind = rng.choice(("jpg",) * 7 + ("png", "svg", "gif"))
    scheme = "http" if number % 5 == 3 else "https"
    broken = not in_iglue and number % 19 == 7
    small = not in_iglue and number % 23 == 11
    return _Image(
        split=split,
        number=number,
        entity=entity,
        url=upload_url(f"{entity.title} {split} {number}.{kind}", scheme),
        mime_type=_MIME[kind],
        languages=_languages(world, split, number),
        in_iglue=in_iglue,
        size=((24, 24) if number % 2 else (32, 48)) if small else None,
        missing=broken,
    )


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _row(image: _Image, number: int, world: World) -> dict[str, str]:
    """Return row ``number`` of an image: the columns that are not null."""
    rng = world.rng("wit row", image.split, image.number, number)
    language, entity = image.languages[number], image.entity
    if language == "en":
        row = _english(image, number, rng)
    else:
        section, sentence, caption = _OTHER_LANGUAGES[language]
        words = articles.slots(entity)
        row = {
            "page_url": page_url(entity.title, language),
            "page_title": entity.title,
            "section_title": section,
            "hierarchical_section_title": f"{entity.title} / {section}",
            "caption_reference_description": caption.format_map(words),
            "context_page_description": sentence.format_map(words),
        }
    height = rng.randrange(200, 4000)
    attribution = f"English: {articles.mention(entity, rng)}"
    if rng.random() < 0.3:
        attribution += f" Deutsch: Ansicht von {entity.title}"
    common = {
        "language": language,
        "image_url": image.url,
        "caption_attribution_description": attribution if rng.random() < 0.8 else "",
        "mime_type": image.mime_type,
        "original_height": str(height),
        "original_width": str(round(height * rng.uniform(0.6, 1.7))),
        "is_main_image": _flag(number == 0),
        "attribution_passes_lang_id": _flag(rng.random() < 0.7),
        "page_changed_recently": _flag(rng.random() < 0.9),
    }
    return common | row


def _english(image: _Image, number: int, rng: random.Random) -> dict[str, str]:
    entity, words = image.entity, articles.slots(image.entity)
    lead, *sections = articles.article(entity)
    # The n-th English row of an image is about another section, or on another page.
    earlier = image.languages[:number].count("en")
    section = lead if number == 0 and image.number % 4 == 0 else sections[(image.number + earlier) % len(sections)]
    title, context, path = entity.title, lead.text, f"{entity.title} / {section.title}"
    section_title = section.title
    if section is lead:
        section_title, path = "", entity.title
    if earlier == 1:
        title = f"{entity.kind.word.capitalize()} {entity.index % 7 + 1} of {entity.place.city}"
        if image.number % 6 == 1:
            title = ("NA", "null")[image.number % 12 // 6]  # titles that a careless reader takes for no value
        context = (
            f"This page lists what visitors ask for near {entity.place.city}. {articles.mention(entity, rng)} is one."
        )
        section_title, path = "Gallery", f"{title} / Sights / Gallery"
    if rng.random() < 0.35:
        context += f"\n{sections[0].text}"
    caption = f"{articles.mention(entity, rng)}, {words['where']}"
    if earlier:
        caption += f", view {earlier + 1}"
    if not image.in_iglue and rng.random() < 0.25:
        caption = ""
    elif image.number % 10 in (4, 7):
        caption = caption.replace(", ", ",\n", 1)
    elif image.number % 10 == 6:
        caption = f" {caption} " if earlier else f"{caption} "
    elif image.number % 10 == 2:
        caption = f'"{entity.name}": {caption}'
    return {
        "page_url": page_url(title),
        "page_title": title,
        "section_title": section_title,
        "hierarchical_section_title": path,
        "caption_reference_description": caption,
        "caption_alt_text_description": f"a {entity.kind.word} seen {words['where']}" if rng.random() < 0.3 else "",
        "context_page_description": "" if image.number % 31 == 12 else context,
        "context_section_description": "" if section is lead or rng.random() < 0.2 else section.text,
    }


def wit(world: World) -> Iterator[Part]:
    """WIT: gzipped TSV with a header and quoted fields, rows of an image spread over files; the downloaded images."""
    counts: dict[Split, int] = {"train": world.sizes.wit_train, "val": world.sizes.wit_val}
    for split, count in counts.items():
        for number in range(_FILES[split]):
            name = f"wit_v1.{split}.all-{number:05d}-of-{_FILES[split]:05d}.tsv.gz"
            rows = partial(_file, world, split, number)
            yield Part(name, 2 * count // _FILES[split], gzipped(rows))
    for split, count in counts.items():
        for number in range(count):
            image = _image(world, split, number)
            if not image.missing:
                yield picture(image.path, world, image.entity.index, f"wit/{split}/{number}", image.size)


def _file(world: World, split: Split, file: int) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, "", delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writeheader()
    for number in range(world.sizes.wit_train if split == "train" else world.sizes.wit_val):
        # Where a row goes is computed from its numbers: seven and three are prime to the numbers of files.
        count = len(_languages(world, split, number))
        here = [row for row in range(count) if (7 * number + 3 * row) % _FILES[split] == file]
        if here:
            image = _image(world, split, number)
            writer.writerows(_row(image, row, world) for row in here)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()


def iglue_wit(world: World) -> Iterator[Part]:
    """IGLUE's test_en.jsonl: what it keeps of English rows of WIT's validation files, one record a row."""
    yield Part("test_en.jsonl", world.sizes.wit_val // 2, encoded(partial(_iglue, world)))


def _iglue(world: World) -> Iterator[str]:
    for number in range(0, world.sizes.wit_val, 2):
        image = _image(world, "val", number)
        place = number // 2
        # Two numbers stand for two images each, so that nobody can use them as a key.
        idx = 10 * (place - (place in (3, 5))) + 3
        name = image.url.rsplit("/", 1)[1]
        for row, language in enumerate(image.languages):
            if language == "en":
                known = _row(image, row, world)
                record = {
                    "image_idx": idx,
                    "image_url": image.url,
                    "meta_url": f"http://commons.wikimedia.org/wiki/File:{name}",
                    "caption_reference_description": known["caption_reference_description"],
                    "language": "en",
                    "page_url": known["page_url"],
                    "wit_ix": f"wit-test_{place + place // 4}",
                }
                yield json.dumps(record, ensure_ascii=False) + "\n"
