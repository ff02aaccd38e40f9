"""WIT: gzipped TSV with a header and quoted fields, rows of an image spread over files; the downloaded images."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import msgspec

from m2kr.synthetic import articles
from m2kr.synthetic.releases.files import (
    ReleaseFile,
    Split,
    SyntheticRelease,
    csv_rows,
    md5,
    page_url,
    picture_file,
    text_file,
    upload_url,
)
from m2kr.synthetic.things import SETTINGS
from m2kr.synthetic.word_lists import load
from m2kr.synthetic.world import Entity, World


class _Language(msgspec.Struct):
    section: str
    sentence: str
    caption: str


class _Words(msgspec.Struct):
    columns: list[str]
    mime_types: dict[str, str]
    languages: dict[str, _Language]


_WORDS = load("wit", _Words)
_OTHER_LANGUAGES = tuple(_WORDS.languages)
_FILES: dict[Split, int] = {"train": 10, "val": 5}


@dataclass(frozen=True, slots=True)
class WitImage:
    """One image file of Wikimedia Commons."""

    split: Split  # whose files its rows are in
    number: int  # within the split
    entity: Entity  # what it shows
    url: str  # its address
    mime_type: str  # as the release gives it; the downloaded copy is a JPEG whatever this says
    languages: tuple[str, ...]  # of its rows, which differ in page or section where the language is the same
    in_iglue: bool  # whether IGLUE asks for it
    size: tuple[int, int] | None  # width and height of the copy, None for the usual ones
    missing: bool  # whether the download failed

    @property
    def path(self) -> str:
        """Where the copy is, in the release's folder."""
        return f"images/{md5(self.url).hex()}.jpg"


def _in_iglue(split: Split, number: int) -> bool:
    return split == "val" and number % 2 == 0


def _languages(world: World, split: Split, number: int) -> tuple[str, ...]:
    rng = world.rng("wit languages", split, number)
    # Most images start with an English row; a few have none.
    foreign = number % 14 == 9 and not _in_iglue(split, number)
    languages = [rng.choice(_OTHER_LANGUAGES) if foreign else "en"]
    languages += rng.sample(_OTHER_LANGUAGES, rng.choice((0, 1, 1, 2)))
    return (*languages, *["en"] * (0 if foreign else rng.choice((0, 0, 1, 2))))


def image_of(world: World, split: Split, number: int) -> WitImage:
    """Return an image of a split by its number."""
    rng = world.rng("wit", split, number)
    sizes = world.sizes
    if split == "train":
        entity = world.entity(number % sizes.train_entities)
    else:
        entity = world.entity(world.shuffle(sizes.asked, "wit val").at(number % sizes.asked))
    in_iglue = _in_iglue(split, number)
    extension = rng.choice(("jpg",) * 7 + ("png", "svg", "gif"))
    scheme = "http" if number % 5 == 3 else "https"
    broken = not in_iglue and number % 19 == 7
    small = not in_iglue and number % 23 == 11
    return WitImage(
        split=split,
        number=number,
        entity=entity,
        url=upload_url(f"{entity.title} {split} {number}.{extension}", scheme),
        mime_type=_WORDS.mime_types[extension],
        languages=_languages(world, split, number),
        in_iglue=in_iglue,
        size=((24, 24) if number % 2 else (32, 48)) if small else None,
        missing=broken,
    )


def row_of(image: WitImage, number: int, world: World) -> dict[str, str]:
    """Return row ``number`` of an image: the columns that are not null."""
    rng = world.rng("wit row", image.split, image.number, number)
    language, entity = image.languages[number], image.entity
    if language == "en":
        row = _english(image, number, rng)
    else:
        text, words = _WORDS.languages[language], articles.template_words(entity)
        row = {
            "page_url": page_url(entity.title, language),
            "page_title": entity.title,
            "section_title": text.section,
            "hierarchical_section_title": f"{entity.title} / {text.section}",
            "caption_reference_description": text.caption.format_map(words),
            "context_page_description": text.sentence.format_map(words),
        }
    height = rng.randrange(200, 4000)
    attribution = f"English: {articles.description(entity, rng)}"
    if rng.random() < 0.3:
        attribution += f" Deutsch: Ansicht von {entity.title}"
    common = {
        "language": language,
        "image_url": image.url,
        "caption_attribution_description": attribution if rng.random() < 0.8 else "",
        "mime_type": image.mime_type,
        "original_height": str(height),
        "original_width": str(round(height * rng.uniform(0.6, 1.7))),
        "is_main_image": str(number == 0).lower(),
        "attribution_passes_lang_id": str(rng.random() < 0.7).lower(),
        "page_changed_recently": str(rng.random() < 0.9).lower(),
    }
    return common | row


def _english(image: WitImage, number: int, rng: random.Random) -> dict[str, str]:
    entity, where = image.entity, SETTINGS[image.entity.look.setting].where
    lead, *sections = articles.article(entity)
    # The n-th English row of an image is about another section, or on another page.
    earlier = image.languages[:number].count("en")
    section = lead if number == 0 and image.number % 4 == 0 else sections[(image.number + earlier) % len(sections)]
    title, context, path = entity.title, lead.text, f"{entity.title} / {section.title}"
    section_title = section.title
    if section is lead:
        section_title, path = "", entity.title
    if earlier == 1:
        title = f"{entity.type.word.capitalize()} {entity.index % 7 + 1} of {entity.place.city}"
        if image.number % 6 == 1:
            title = ("NA", "null")[image.number % 12 // 6]  # titles that a careless reader takes for no value
        listed = f"{articles.description(entity, rng)} is one."
        context = f"This page lists what visitors ask for near {entity.place.city}. {listed}"
        section_title, path = "Gallery", f"{title} / Sights / Gallery"
    if rng.random() < 0.35:
        context += f"\n{sections[0].text}"
    caption = f"{articles.description(entity, rng)}, {where}"
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
        "caption_alt_text_description": f"a {entity.type.word} seen {where}" if rng.random() < 0.3 else "",
        "context_page_description": "" if image.number % 31 == 12 else context,
        "context_section_description": "" if section is lead or rng.random() < 0.2 else section.text,
    }


def _files(world: World) -> Iterator[ReleaseFile]:
    counts: dict[Split, int] = {"train": world.sizes.wit_train, "val": world.sizes.wit_val}
    for split, count in counts.items():
        for number in range(_FILES[split]):
            name = f"wit_v1.{split}.all-{number:05d}-of-{_FILES[split]:05d}.tsv.gz"
            yield text_file(name, 2 * count // _FILES[split], partial(_table, world, split, count, number))
    for split, count in counts.items():
        for number in range(count):
            image = image_of(world, split, number)
            if not image.missing:
                yield picture_file(image.path, world, image.entity.index, f"wit/{split}/{number}", image.size)


def _table(world: World, split: Split, count: int, file: int) -> Iterator[str]:
    def rows() -> Iterator[list[dict[str, str]]]:
        for number in range(count):
            # Where a row goes is computed from its numbers: seven and three are prime to the numbers of files.
            languages = range(len(_languages(world, split, number)))
            here = [row for row in languages if (7 * number + 3 * row) % _FILES[split] == file]
            if here:
                image = image_of(world, split, number)
                yield [row_of(image, row, world) for row in here]

    return csv_rows(_WORDS.columns, rows(), delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)


RELEASE = SyntheticRelease("WIT", _files, build_options=lambda sizes: {"WIT": {"test_queries": sizes.wit_val // 2}})
