"""MS MARCO: what comes out of hand-made files, row by row."""

import pytest

from m2kr.errors import M2KRError, MissingFilesError

SURPRISING = 'tabs\tand "quotes and \u0085 and cafÃ©'


@pytest.fixture
def release(put):
    put("msmarco/collection.tsv", "".join(f"{pid}\tpassage {pid}\n" for pid in range(20)) + f"20\t{SURPRISING}\n")
    put("msmarco/queries.train.tsv", "9\t asked nine \n7\tasked seven\n8\tnot judged\n")
    put("msmarco/qrels.train.tsv", "7\t0\t3\t1\n9\t0\t20\t1\n7\t0\t1\t1\n7\t0\t3\t1\n")
    put("msmarco/queries.dev.small.tsv", "102\tdev two\n101\tdev one\n103\tdev three\n")
    put("msmarco/qrels.dev.small.tsv", "101\t0\t5\t1\n102\t0\t6\t1\n103\t0\t7\t1\n103\t0\t8\t0\n")


def test_judged_queries_keep_the_files_order_and_their_text(release, tables):
    data, _, _, lacking = tables("MSMARCO")
    train = data["train"]
    assert train["question_id"].to_list() == ["9", "7"]
    assert train["question"].to_list() == [" asked nine ", "asked seven"]
    assert train["pos_item_ids"].to_list() == [["20"], ["3", "1"]]
    assert train["pos_item_contents"].to_list() == [[SURPRISING], ["passage 3", "passage 1"]]
    assert train["original_data_id"].to_list() == train["pos_item_ids"].to_list()
    assert train["img_path"].null_count() == 2
    assert not lacking


def test_train_is_searched_in_the_whole_collection_and_valid_and_test_in_one_pool(release, tables):
    _, passages, _, _ = tables("MSMARCO", pool=6)
    assert passages["train"]["passage_id"].to_list() == [str(pid) for pid in range(21)]
    assert passages["train"]["passage_content"][20] == SURPRISING
    pool = passages["valid"]["passage_id"].to_list()
    assert {"5", "6", "7"} <= set(pool)
    assert len(pool) == 6
    assert pool == sorted(pool, key=int)
    assert passages["test"].equals(passages["valid"])


def test_the_pool_depends_on_the_seed(release, tables):
    pools = {tuple(tables("MSMARCO", pool=10, seed=seed)[1]["test"]["passage_id"]) for seed in range(5)}
    assert len(pools) > 1


def test_a_judgement_of_0_is_no_positive(release, tables):
    valid = tables("MSMARCO")[0]["valid"]
    assert dict(zip(valid["question_id"], valid["pos_item_ids"].to_list(), strict=True))["103"] == ["7"]


def test_test_is_a_sample_of_valid(release, tables):
    data, _, _, _ = tables("MSMARCO", test_queries=2)
    assert data["test"].height == 2
    assert set(data["test"]["question_id"]) < set(data["valid"]["question_id"])


def test_test_may_come_from_the_dev_queries_that_are_not_in_valid(release, put, tables):
    put("msmarco/queries.dev.tsv", "101\tdev one\n200\tfurther\n")
    put("msmarco/qrels.dev.tsv", "101\t0\t5\t1\n200\t0\t9\t1\n")
    assert tables("MSMARCO", test_from="dev")[0]["test"]["question_id"].to_list() == ["200"]


def test_train_may_be_cut_to_the_queries_of_the_triples(release, put, tables):
    put("msmarco/qidpidtriples.train.full.2.tsv", "7\t3\t4\n7\t1\t2\n999\t1\t2\n")
    assert tables("MSMARCO", train_queries="triples")[0]["train"]["question_id"].to_list() == ["7"]


@pytest.mark.parametrize(
    ("name", "line", "row", "reason"),
    [
        ("collection.tsv", "21\n", "line 22", r"\(passage_id 21\): 1 field where 2 are expected"),
        ("collection.tsv", "\n", "line 22", "1 field"),
        (
            "collection.tsv",
            "x21\ttext\n",
            "line 22",
            r"\(passage_id x21\): the id before .* is not a number",
        ),
        ("collection.tsv", "21\t  \n", "line 22", r"\(passage_id 21\): the text after the id is empty"),
        ("collection.tsv", "4\tagain\n", "line 22", r"\(passage_id 4\): the id stands already at line 5"),
        ("queries.train.tsv", "7\tagain\n", "line 4", r"\(question_id 7\): the id stands already at line 2"),
        ("qrels.train.tsv", "7\t0\t3\n", "line 5", "3 fields where 4 are expected"),
        ("qrels.train.tsv", "7\t0\tx\t1\n", "line 5", "4 fields where 4 are expected .*numbers"),
    ],
)
def test_a_bad_row_stops_the_build_or_is_left_out(release, root, tables, rejects, name, line, row, reason):
    good = tables("MSMARCO")[0]["train"]
    path = root / "msmarco" / name
    path.write_text(path.read_text(encoding="utf-8") + line, encoding="utf-8")
    assert rejects("MSMARCO", name, row, reason)[0]["train"].equals(good)


def test_a_judgement_without_its_passage_or_query_is_listed(release, root, tables):
    path = root / "msmarco" / "qrels.train.tsv"
    path.write_text(path.read_text(encoding="utf-8") + "7\t0\t999\t1\n555\t0\t1\t1\n", encoding="utf-8")
    with pytest.raises(MissingFilesError, match=r"line 5 \(query 7, passage 999\): its passage is not in collection"):
        tables("MSMARCO")
    data, _, rejected, _ = tables("MSMARCO", allow_missing=True)
    assert data["train"]["question_id"].to_list() == ["9", "7"]
    assert [(row.row, row.reason) for row in rejected.rows] == [
        ("line 5", "its passage is not in collection.tsv"),
        ("line 6", "its query is not in queries.train.tsv"),
    ]


def test_without_a_file_the_other_splits_are_built(release, root, tables):
    (root / "msmarco" / "queries.train.tsv").unlink()
    data, passages, _, lacking = tables("MSMARCO", allow_missing=True)
    assert set(data) == set(passages) == {"valid", "test"}
    assert lacking == ["MSMARCO train: not built, a file is missing."]


def test_options_are_checked(release, tables):
    with pytest.raises(M2KRError, match=r"no option 'poll'\. Did you mean pool\?"):
        tables("MSMARCO", poll=3)
    with pytest.raises(M2KRError, match="wants a whole number"):
        tables("MSMARCO", pool="many")
    with pytest.raises(M2KRError, match="one of judged, triples"):
        tables("MSMARCO", train_queries="all")
    with pytest.raises(M2KRError, match="from 0 to"):
        tables("MSMARCO", pool=-1)
