"""Writes the made-up world as raw releases in their native formats, one function per release folder.

A release is a list of `Part`s, the files of its folder. The driver, `generate`, writes each under a temporary name and
renames it, so a file that exists is whole; ``SYNTHETIC.json`` is written when all of a folder's files are there.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from m2kr import __version__
from m2kr.errors import M2KRError
from m2kr.files import atomic, write_json
from m2kr.progress import progress, say
from m2kr.synthetic import talk, text
from m2kr.synthetic.world import CocoSplit, Entity, Picture, Shuffle, World

MARKER = "SYNTHETIC.json"
UNFINISHED = "SYNTHETIC.unfinished.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a release.

    Attributes:
        path: relative to the release's folder.
        rows: number of pieces to come, for the progress bar.
        pieces: gives the content bit by bit; called when the file has to be written.
    """

    path: str
    rows: int
    pieces: Callable[[], Iterable[bytes]]


def _encoded(pieces: Callable[[], Iterator[str]]) -> Callable[[], Iterator[bytes]]:
    return lambda: (piece.encode() for piece in pieces())


# --- MS MARCO -------------------------------------------------------------------------------------------------------

# Read as Latin-1 and encoded again, these give the C1 control characters of the real file; the first gives U+0085.
_MISREAD = ("Å", "’", "é", "“quoted”", "Åsa’s", "–", "…", "ü")
_WINDOW = 2000  # passages of one entity lie within so many rows, as pages do in the real collection


class _Collection:
    """Which passage is which, and which queries ask for it, all computed from numbers."""

    def __init__(self, world: World) -> None:
        sizes = world.sizes
        self.world = world
        self.passages = sizes.passages
        self.judged = sizes.train_queries + sizes.dev_queries
        queries = self.judged + sizes.unjudged_queries
        seed = world.seed
        self._window = Shuffle(_WINDOW, f"{seed}/passages")
        self._last = Shuffle(max(1, self.passages % _WINDOW), f"{seed}/last passages")
        self._questions = Shuffle(self.passages // 4 * len(text.FACTS), f"{seed}/questions")
        self._query_ids = Shuffle(max(1_200_000, 2 * queries), f"{seed}/query ids")
        self._train_order = Shuffle(sizes.train_queries + sizes.unjudged_queries, f"{seed}/train queries")

    def _place(self, number: int, forward: bool) -> int:
        window, inside = divmod(number, _WINDOW)
        start = window * _WINDOW
        if start + _WINDOW > self.passages:
            return start + (self._last.at(inside) if forward else self._last.find(inside))
        if forward:  # each window is turned by another amount, or all would be ordered alike
            return start + self._window.at((inside + 37 * window) % _WINDOW)
        return start + (self._window.find(inside) - 37 * window) % _WINDOW

    def passage(self, pid: int) -> str:
        """Return passage ``pid`` with the native defects that fall on it."""
        entity, number = divmod(self._place(pid, forward=True), 4)
        passage = text.passage(self.world.entity(entity), number)
        if pid % 29 == 4:
            words = passage.split(" ")
            misread = _MISREAD[pid // 29 % len(_MISREAD)].encode().decode("latin-1")
            words.insert(pid % len(words), misread)
            passage = " ".join(words)
        if pid % 23 == 7:
            words = passage.split(" ")
            place = pid % len(words)
            words[place] = f'"{words[place]}'
            passage = " ".join(words)
        return passage

    def _question(self, number: int) -> tuple[Entity, str]:
        entity, fact = divmod(self._questions.at(number), len(text.FACTS))
        return self.world.entity(entity), text.FACTS[fact]

    def query_id(self, number: int) -> int:
        return self._query_ids.at(number)

    def query(self, number: int) -> str:
        """Return query ``number``: training, then development, then unjudged ones."""
        entity, fact = self._question(number)
        query = text.text_query(entity, fact, self.world.rng("query", number))
        blanks = {11: f" {query}", 31: f"{query} "}
        return blanks.get(number % 50, query)

    def positives(self, number: int) -> list[int]:
        entity, fact = self._question(number)
        return [self._place(4 * entity.index + place, forward=False) for place in text.passages_with(entity, fact)]

    def train_numbers(self) -> Iterator[int]:
        """Yield the numbers of all training queries, judged and not, in the order of the file."""
        sizes = self.world.sizes
        for row in range(sizes.train_queries + sizes.unjudged_queries):
            number = self._train_order.at(row)
            yield number if number < sizes.train_queries else number + sizes.dev_queries

    def qrels(self, numbers: Iterable[int]) -> Iterator[str]:
        """Yield judgements in the order of the passages, as the native file has them."""
        for pid, qid in sorted((pid, self.query_id(number)) for number in numbers for pid in self.positives(number)):
            yield f"{qid}\t0\t{pid}\t1\n"


def msmarco(world: World) -> Iterator[Part]:
    """MS MARCO passage ranking: TSV without header or quoting, with the native defects of passages and queries."""
    sizes, collection = world.sizes, _Collection(world)
    train, dev = range(sizes.train_queries), range(sizes.train_queries, collection.judged)

    def queries(numbers: Iterable[int]) -> Iterator[str]:
        return (f"{collection.query_id(number)}\t{collection.query(number)}\n" for number in numbers)

    def passages() -> Iterator[str]:
        return (f"{pid}\t{collection.passage(pid)}\n" for pid in range(sizes.passages))

    yield Part("collection.tsv", sizes.passages, _encoded(passages))
    yield Part(
        "queries.train.tsv",
        sizes.train_queries + sizes.unjudged_queries,
        _encoded(lambda: queries(collection.train_numbers())),
    )
    yield Part("qrels.train.tsv", sizes.train_queries, _encoded(lambda: collection.qrels(train)))
    yield Part("queries.dev.small.tsv", sizes.dev_queries, _encoded(lambda: queries(dev)))
    yield Part("qrels.dev.small.tsv", sizes.dev_queries, _encoded(lambda: collection.qrels(dev)))


# --- LLaVA-Instruct -------------------------------------------------------------------------------------------------


def llava_instruct(world: World) -> Iterator[Part]:
    """LLaVA-Instruct-150K: three JSON arrays about train2014 pictures; a picture occurs at most once in each."""
    sizes = world.sizes
    files = (("conversation_58k", sizes.conversations), ("detail_23k", sizes.details))
    for name, records in (*files, ("complex_reasoning_77k", sizes.reasonings)):
        yield Part(f"{name}.json", records, _encoded(partial(_llava_file, world, name, records)))


def _llava_file(world: World, name: str, records: int) -> Iterator[str]:
    order = Shuffle(world.sizes.train_pictures, f"{world.seed}/{name}")
    for row in range(records):
        picture = world.picture("train2014", order.at(row))
        record = _llava_record(world.entity(picture.entity), picture, name, world)
        lines = json.dumps(record, ensure_ascii=False, indent=2).split("\n")
        yield ("[\n" if row == 0 else ",\n") + "\n".join(f"  {line}" for line in lines)
    yield "\n]"


def _llava_record(entity: Entity, picture: Picture, name: str, world: World) -> dict[str, Any]:
    rng = world.rng(name, picture.image_id)
    if name == "conversation_58k":
        pairs = talk.conversation(entity, rng)
    else:
        pairs = [talk.detail(entity, rng) if name == "detail_23k" else talk.reasoning(entity, rng)]
    turns = [turn for question, answer in pairs for turn in (("human", question), ("gpt", answer))]
    first = turns[0][1]
    first = f"<image>\n{first}" if name == "complex_reasoning_77k" else f"{first}\n<image>"
    turns[0] = ("human", first)
    number = f"{picture.image_id:012d}"
    conversations = [{"from": speaker, "value": value} for speaker, value in turns]
    return {"id": number, "image": f"{number}.jpg", "conversations": conversations}


# --- OK-VQA ---------------------------------------------------------------------------------------------------------

_LICENSE = {
    "url": "http://creativecommons.org/licenses/by/4.0/",
    "name": "Creative Commons Attribution 4.0 International License",
}
_INFO = {"year": 2019, "version": "1.0", "description": "A made-up world in the format of the OK-VQA dataset."}
_QUESTION_TYPES = {
    "one": "Vehicles and Transportation",
    "two": "Brands, Companies and Products",
    "three": "Objects, Material and Clothing",
    "four": "Sports and Recreation",
    "five": "Cooking and Food",
    "six": "Geography, History, Language and Culture",
    "seven": "People and Everyday life",
    "eight": "Plants and Animals",
    "nine": "Science and Technology",
    "ten": "Weather and Climate",
    "other": "Other",
}


def okvqa(world: World) -> Iterator[Part]:
    """OK-VQA: questions and annotations about train2014 and val2014 pictures, each file one line of ASCII JSON."""
    splits: tuple[tuple[CocoSplit, int], ...] = (
        ("train2014", world.sizes.okvqa_train),
        ("val2014", world.sizes.okvqa_val),
    )
    for split, rows in splits:
        questions = {"license": _LICENSE, "data_subtype": split, "task_type": "Open-Ended", "questions": None}
        annotations = {"license": _LICENSE, "data_subtype": split, "question_types": _QUESTION_TYPES}
        end = {"info": _INFO, "data_type": "mscoco"}
        for path, head, record in (
            (f"OpenEnded_mscoco_{split}_questions.json", questions | end, _okvqa_question),
            (f"mscoco_{split}_annotations.json", annotations | {"annotations": None} | end, _okvqa_annotation),
        ):
            yield Part(path, rows, _encoded(partial(_okvqa_file, world, split, rows, head, record)))


def _okvqa_file(
    world: World,
    split: CocoSplit,
    rows: int,
    head: dict[str, Any],
    record: Callable[[World, Picture], dict[str, Any]],
) -> Iterator[str]:
    before, after = json.dumps(head).split("null")  # the one null is where the records go
    yield f"{before}["
    for row in range(rows):
        yield (", " if row else "") + json.dumps(record(world, world.picture(split, row)))
    yield f"]{after}"


def _okvqa_fact(world: World, picture: Picture) -> tuple[Entity, str, list[str]]:
    """Return whom a picture shows, the fact that is asked for, and the raw answers to it, the common one first.

    A phrase may be cut by the end of a block; what no passage holds is no answer in this world.
    """
    entity = world.entity(picture.entity)
    passages = text.blocks(entity)
    facts = world.rng("okvqa fact", picture.image_id).sample(text.FACTS, len(text.FACTS))
    for fact in facts:
        raw_answers = text.answers(entity, fact)
        known = [raw for raw in raw_answers if any(text.states(block, text.singular(raw)) for block in passages)]
        if known:
            return entity, fact, known
    raise AssertionError(f"no fact about {entity.title} is stated in its article")


def _okvqa_question(world: World, picture: Picture) -> dict[str, Any]:
    entity, fact, _ = _okvqa_fact(world, picture)
    question = text.visual_question(entity, fact, world.rng("okvqa question", picture.image_id))
    return {"image_id": picture.image_id, "question": question, "question_id": int(f"{picture.image_id}5")}


def _okvqa_annotation(world: World, picture: Picture) -> dict[str, Any]:
    entity, _, known = _okvqa_fact(world, picture)
    rng = world.rng("okvqa answers", picture.image_id)
    minority = rng.choice((0, 0, 1, 1, 2))
    people = [known[0]] * (5 - minority) + [known[-1]] * minority
    return {
        "image_id": picture.image_id,
        "answer_type": "other",
        "question_type": entity.kind.okvqa_type,
        "question_id": int(f"{picture.image_id}5"),
        "answers": [
            {"answer_id": number, "raw_answer": raw, "answer_confidence": "yes", "answer": text.singular(raw)}
            for number, raw in enumerate((raw for raw in people for _ in range(2)), start=1)
        ],
        "confidence": rng.choice((2, 3, 3, 4, 5)),
    }


# --- Wikipedia and COCO ---------------------------------------------------------------------------------------------


def wikipedia(world: World) -> Iterator[Part]:
    """DPR's psgs_w100.tsv: every article in blocks of 100 words."""
    entities = world.sizes.entities

    def rows() -> Iterator[str]:
        order = Shuffle(entities, f"{world.seed}/articles")
        number = 0
        yield "id\ttext\ttitle\n"
        for row in range(entities):
            entity = world.entity(order.at(row))
            title = entity.title
            if '"' in title:
                title = _quoted(title)
            for block in text.blocks(entity):
                number += 1
                yield f"{number}\t{_quoted(block)}\t{title}\n"

    yield Part("psgs_w100.tsv", 5 * entities, _encoded(rows))


def _quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"'


def coco(world: World) -> Iterator[Part]:
    """COCO 2014: one JPEG per picture; what LLaVA-Instruct and OK-VQA show."""
    splits: tuple[tuple[CocoSplit, int], ...] = (
        ("train2014", world.sizes.train_pictures),
        ("val2014", world.sizes.val_pictures),
    )
    for split, count in splits:
        for number in range(count):
            picture = world.picture(split, number)
            yield Part(picture.path, 1, partial(_jpeg, world, picture))


def _jpeg(world: World, picture: Picture) -> Iterator[bytes]:
    from m2kr.synthetic.draw import draw, jpeg  # Pillow, which text releases do without

    yield jpeg(draw(world.entity(picture.entity), picture.variation))


RELEASES: dict[str, Callable[[World], Iterator[Part]]] = {
    "msmarco": msmarco,
    "llava_instruct": llava_instruct,
    "okvqa": okvqa,
    "wikipedia": wikipedia,
    "coco": coco,
}
_NEEDS = {"llava_instruct": ("coco",), "okvqa": ("wikipedia", "coco")}
_NAMES = {
    "msmarco": "MS MARCO passage ranking",
    "llava_instruct": "LLaVA-Instruct-150K",
    "okvqa": "OK-VQA",
    "wikipedia": "the Wikipedia passages of DPR",
    "coco": "COCO 2014",
}


def build_options(release: str, world: World) -> dict[str, dict[str, int]]:
    """Return the options, by task, with which a benchmark is built from so small a release.

    For MS MARCO ``pool`` is the number of passages of the valid and test pools; for LLaVA ``heldout_per_subset`` is the
    number of question-answer pairs of each file that make up the test pool. ``test_queries`` is the largest number of
    test queries, in the proportion of the published task.
    """
    sizes = world.sizes
    if release == "msmarco":
        test = max(2, round(sizes.dev_queries * 5120 / 6980))
        return {"MSMARCO": {"pool": sizes.passages // 2, "test_queries": test}}
    if release == "llava_instruct":
        held_out = max(1, min(sizes.details, sizes.reasonings) // 5)  # the conversation file has more pairs than these
        return {"LLaVA": {"heldout_per_subset": held_out, "test_queries": max(1, round(3 * held_out * 5120 / 6006))}}
    return {"OKVQA": {}} if release == "okvqa" else {}


def with_needs(releases: Sequence[str]) -> list[str]:
    """Return ``releases`` and what these refer to, in the order of `RELEASES`.

    Raises:
        M2KRError: a name is unknown.
    """
    wanted: set[str] = set()
    for release in releases:
        if release not in RELEASES:
            close = difflib.get_close_matches(release.lower(), RELEASES, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise M2KRError(f"release {release!r} is unknown.{hint} There are: {', '.join(RELEASES)}.")
        wanted |= {release, *_NEEDS.get(release, ())}
    return [release for release in RELEASES if release in wanted]


def generate(
    out: Path, *, scale: float = 1.0, seed: int = 0, releases: Sequence[str] = tuple(RELEASES), quiet: bool = False
) -> None:
    """Write a made-up world as raw releases, one folder each; go on where an earlier run stopped.

    Args:
        out: the folder that gets a folder for each release.
        scale: how much; see `Sizes`.
        seed: which world. Equal seeds and scales give equal bytes, whichever releases are written together.
        releases: names from `RELEASES`; what they refer to (articles, pictures) is written too.
        quiet: say nothing.

    Raises:
        M2KRError: a release or the scale is not possible, or a folder holds something else than this world.
    """
    names = with_needs(releases)
    world = World(seed, float(scale))
    # All folders are looked at before anything is written.
    markers = {name: _marker(name, world) for name in names}
    for name in names:
        _check_folder(out / name, markers[name])
    for name in names:
        _write_release(out / name, markers[name], RELEASES[name](world), quiet)


def _marker(release: str, world: World) -> dict[str, Any]:
    return {
        "made_up": True,
        "note": f"Made-up data in the raw format of {_NAMES[release]}; nothing in it is real.",
        "generator": "m2kr.synthetic",
        "m2kr_version": __version__,
        "seed": world.seed,
        "scale": world.sizes.scale,
        "options": build_options(release, world),
    }


def _check_folder(folder: Path, marker: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but this world, finished or not."""
    for path in (folder / MARKER, folder / UNFINISHED):
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise M2KRError(f"{path} is not JSON ({error}). Delete {folder} or choose another --out.") from error
        if found != marker:
            keys = [key for key in marker if not isinstance(found, dict) or found.get(key) != marker[key]]
            differences = ", ".join(
                f"{key} {found.get(key)!r} instead of {marker[key]!r}" if isinstance(found, dict) else key
                for key in keys or ["further keys"]
                if key in marker
            )
            raise M2KRError(
                f"{folder} holds another made-up world ({differences or 'further keys'}). "
                "Delete that folder, or choose another --out."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise M2KRError(
            f"{folder} holds files but no {MARKER}, so they may be real data; nothing is written there. "
            "Choose another --out, or move these files away."
        )


def _write_release(folder: Path, marker: dict[str, Any], parts: Iterable[Part], quiet: bool) -> None:
    missing = [part for part in parts if not (folder / part.path).is_file()]
    if not missing and (folder / MARKER).is_file():
        say(f"{folder}: already there, nothing to do", quiet=quiet)
        return
    if not (folder / MARKER).is_file():
        # From here on the folder is known as ours, whenever the run ends.
        write_json(folder / UNFINISHED, marker)
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink()
    with progress(sum(part.rows for part in missing), folder.name, quiet=quiet) as bar:
        for part in missing:
            with atomic(folder / part.path, durable=not part.path.endswith(".jpg")) as file:
                for piece in part.pieces():
                    file.write(piece)
                    bar.update()
    write_json(folder / MARKER, marker)
    (folder / UNFINISHED).unlink(missing_ok=True)
    say(f"{folder}: {len(missing)} file{'s' * (len(missing) != 1)} written", quiet=quiet)
