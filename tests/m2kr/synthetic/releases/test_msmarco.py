"""The made-up MS MARCO."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from m2kr.synthetic import articles
from m2kr.synthetic.world import World
from m2kr.synthetic.write import RELEASES
from tests.conftest import SCALE
from tests.m2kr.synthetic.reading import made, tsv


def test_the_collection_has_the_native_form_and_defects(world: Path) -> None:
    rows = tsv(world / "msmarco" / "collection.tsv")
    assert all(len(row) == 2 for row in rows)
    assert [int(pid) for pid, _ in rows] == list(range(len(rows)))
    assert any("\x85" in passage for _, passage in rows)
    assert any(passage.count('"') % 2 for _, passage in rows)
    assert len({passage for _, passage in rows}) > 0.99 * len(rows)


@pytest.mark.parametrize("split", ["train", "dev.small"])
def test_judgements_refer_to_queries_and_passages(world: Path, split: str) -> None:
    folder = world / "msmarco"
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


def ids(name: str, scale: float) -> list[str]:
    """Return the first column of a file at a scale."""
    return [line.split("\t")[0] for line in made("msmarco", name, scale).decode().split("\n")[:-1]]


def test_five_percent_of_queries_have_two_or_three_positives() -> None:
    positives = Counter(ids("qrels.train.tsv", 3))
    counts = Counter(positives.values())
    assert set(counts) == {1, 2, 3}
    assert 0.03 < 1 - counts[1] / len(positives) < 0.07
    assert not {*ids("queries.train.tsv", 3)} & {*ids("queries.dev.small.tsv", 3)}


def test_the_positives_state_the_fact() -> None:
    world = World(0, SCALE)
    for index in range(40):
        entity = world.entity(index)
        for fact in articles.FACTS:
            numbers = articles.passages_with(entity, fact)
            assert numbers
            # City and country share sentences, and not every one of these names both.
            facts = ("city", "country") if fact in ("city", "country") else (fact,)
            for number in numbers:
                passage = articles.passage(entity, number)
                assert any(articles.states(passage, articles.answers(entity, key)[0]) for key in facts)


@pytest.mark.parametrize("scale", [0.001, 0.05, 0.5, 1.7])
def test_the_build_options_fit_the_files(scale: float) -> None:
    options = RELEASES["msmarco"].build_options(World(0, scale).sizes)["MSMARCO"]
    assert len(ids("qrels.dev.small.tsv", scale)) + 3 * options["test_queries"] <= options["pool"]
    assert options["pool"] < World(0, scale).sizes.passages
