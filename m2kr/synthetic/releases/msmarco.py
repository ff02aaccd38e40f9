"""MS MARCO passage ranking: TSV without header or quoting, with the native defects of passages and queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from m2kr.synthetic import articles
from m2kr.synthetic.releases.files import ReleaseFile, SyntheticRelease, text_file
from m2kr.synthetic.sizes import Sizes
from m2kr.synthetic.world import Entity, World

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
        self._window = world.shuffle(_WINDOW, "passages")
        self._last = world.shuffle(max(1, self.passages % _WINDOW), "last passages")
        self._questions = world.shuffle(self.passages // 4 * len(articles.FACTS), "questions")
        self._query_ids = world.shuffle(max(1_200_000, 2 * queries), "query ids")
        self._train_order = world.shuffle(sizes.train_queries + sizes.unjudged_queries, "train queries")

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
        passage = articles.passage(self.world.entity(entity), number)
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
        entity, fact = divmod(self._questions.at(number), len(articles.FACTS))
        return self.world.entity(entity), articles.FACTS[fact]

    def query_id(self, number: int) -> int:
        return self._query_ids.at(number)

    def query(self, number: int) -> str:
        """Return query ``number``: training, then development, then unjudged ones."""
        entity, fact = self._question(number)
        query = articles.text_query(entity, fact, self.world.rng("query", number))
        blanks = {11: f" {query}", 31: f"{query} "}
        return blanks.get(number % 50, query)

    def positives(self, number: int) -> list[int]:
        entity, fact = self._question(number)
        return [self._place(4 * entity.index + place, forward=False) for place in articles.passages_with(entity, fact)]

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


def _files(world: World) -> Iterator[ReleaseFile]:
    sizes, collection = world.sizes, _Collection(world)
    train, dev = range(sizes.train_queries), range(sizes.train_queries, collection.judged)
    train_rows = sizes.train_queries + sizes.unjudged_queries

    def queries(numbers: Iterable[int]) -> Iterator[str]:
        return (f"{collection.query_id(number)}\t{collection.query(number)}\n" for number in numbers)

    def passages() -> Iterator[str]:
        return (f"{pid}\t{collection.passage(pid)}\n" for pid in range(sizes.passages))

    yield text_file("collection.tsv", sizes.passages, passages)
    yield text_file("queries.train.tsv", train_rows, lambda: queries(collection.train_numbers()))
    yield text_file("qrels.train.tsv", sizes.train_queries, lambda: collection.qrels(train))
    yield text_file("queries.dev.small.tsv", sizes.dev_queries, lambda: queries(dev))
    yield text_file("qrels.dev.small.tsv", sizes.dev_queries, lambda: collection.qrels(dev))


def _build_options(sizes: Sizes) -> dict[str, dict[str, int]]:
    """``pool`` is the number of passages of the valid and test pools."""
    test_queries = max(2, round(sizes.dev_queries * 5120 / 6980))
    return {"MSMARCO": {"pool": sizes.passages // 2, "test_queries": test_queries}}


RELEASE = SyntheticRelease("MS MARCO passage ranking", _files, build_options=_build_options)
