"""`m2kr.dataset`: reading what was built, and what was published."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2kr.dataset import TaskData, load_task, nano_subset, query_text
from m2kr.errors import M2KRError, run_command
from m2kr.formats.schema import arrow_schema
from m2kr.images.roots import ImageRoots
from m2kr.tasks import HUB_ID, TASKS, Task

NULL = pl.lit(None, pl.String)


def query(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "question_id": f"q{number}",
        "question": f"What is thing {number}?",
        "instruction": "Answer this: ",
        "pos_item_ids": [f"p{number}"],
        "answers": [f"thing {number}"],
        "img_path": f"{number}.png",
        **changes,
    }


def passage(number: int) -> dict[str, Any]:
    return {"passage_id": f"p{number}", "passage_content": f"Thing {number} is a thing.", "title": f"Thing {number}"}


def publish(folder: Path, config: str, split: str, shards: list[list[dict[str, Any]]]) -> None:
    """Write rows as the published benchmark lies on the hub; columns that a row lacks are null."""
    schema: pa.Schema = arrow_schema(config)
    (folder / config).mkdir(parents=True, exist_ok=True)
    for index, rows in enumerate(shards):
        whole = [{name: row.get(name) for name in schema.names} for row in rows]
        path = folder / config / f"{split}-{index:05d}-of-{len(shards):05d}.parquet"
        pq.write_table(pa.Table.from_pylist(whole, schema=schema), path)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Five queries in three shards and six passages in two, without a manifest."""
    folder = tmp_path / "published"
    rows = [query(number) for number in range(5)]
    publish(folder, "OKVQA_data", "test", [rows[:2], rows[2:4], rows[4:]])
    publish(folder, "OKVQA_passages", "test_passages", [[passage(n) for n in range(4)], [passage(4), passage(5)]])
    return folder


# --- what was built -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["MSMARCO", "LLaVA", "OKVQA"])
def test_every_split_of_a_built_task_is_read_as_its_files_say(built: Path, task: str) -> None:
    entry = json.loads((built / "manifest.json").read_text())["tasks"][task]
    for split, facts in entry["configs"][f"{task}_data"].items():
        data = load_task(task, built, split)
        assert (data.task, data.split) == (TASKS[task], split)
        assert data.queries.height == facts["rows"] == len(data.qrels)
        assert data.passages.height == entry["configs"][f"{task}_passages"][f"{split}_passages"]["rows"]
        assert data.queries.columns == arrow_schema(f"{task}_data").names
        assert data.passages.columns == arrow_schema(f"{task}_passages").names
        assert data.qrels == dict(data.queries.select("question_id", "pos_item_ids").iter_rows())
        assert data.fingerprint == entry["fingerprint"]
        assert data.synthetic
        assert not data.limited


def test_a_task_is_named_in_any_capitals_and_unpacks_into_queries_passages_and_qrels(built: Path) -> None:
    data = load_task("okvqa", data=str(built))
    queries, passages, qrels = data
    assert queries is data.queries
    assert passages is data.passages
    assert qrels is data.qrels
    assert data.split == "test"
    assert data.task is load_task(TASKS["OKVQA"], built).task is TASKS["OKVQA"]


def test_answers_are_there_where_the_task_has_some(built: Path) -> None:
    answers = load_task("OKVQA", built).answers
    assert answers is not None
    assert all(answers.values())
    assert load_task("MSMARCO", built).answers is None


@pytest.mark.parametrize(("limit", "height", "limited"), [(3, 3, True), (30, 30, False), (10**6, 30, False)])
def test_a_limit_keeps_the_first_queries_and_says_so(built: Path, limit: int, height: int, limited: bool) -> None:
    whole = load_task("OKVQA", built)
    assert whole.queries.height == 30
    data = load_task("OKVQA", built, limit=limit)
    assert data.queries.equals(whole.queries.head(limit))
    assert list(data.qrels) == data.queries["question_id"].to_list()
    assert data.passages.equals(whole.passages)
    assert (data.queries.height, data.limited) == (height, limited)


def test_the_picture_of_a_query_is_opened_below_the_image_root(built: Path, world: Path) -> None:
    for images in (world, str(world), ImageRoots([world]), world / "coco"):
        picture = load_task("OKVQA", built, images=images).query_image(0)
        assert picture.mode == "RGB"
    with pytest.raises(M2KRError, match=r"OKVQA have images. Name their folder with --images"):
        load_task("OKVQA", built).query_image(0)
    with pytest.raises(M2KRError, match="is not a folder"):
        load_task("OKVQA", built, images=world / "missing")


# --- what was published ---------------------------------------------------------------------------------------------


def test_published_files_are_read_without_a_manifest_and_in_the_order_of_their_shards(published: Path) -> None:
    data = load_task("OKVQA", published)
    assert data.queries["question_id"].to_list() == [f"q{number}" for number in range(5)]
    assert data.passages["passage_id"].to_list() == [f"p{number}" for number in range(6)]
    assert data.qrels == {f"q{number}": [f"p{number}"] for number in range(5)}
    assert not data.synthetic


def test_the_layout_that_the_hub_converts_to_is_read(published: Path, tmp_path: Path) -> None:
    for file in published.rglob("*.parquet"):
        split, number = file.name.split("-")[:2]
        target = tmp_path / file.parent.name / split / f"{int(number):04d}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    one, other = (load_task("OKVQA", folder) for folder in (published, tmp_path))
    assert one.queries.equals(other.queries)
    assert one.passages.equals(other.passages)
    assert one.fingerprint == other.fingerprint


def test_equal_files_have_equal_fingerprints_wherever_they_lie(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "copy")
    before = load_task("OKVQA", published).fingerprint
    assert load_task("OKVQA", tmp_path / "copy").fingerprint == before
    publish(published, "OKVQA_passages", "test_passages", [[passage(number) for number in range(7)]])
    (published / "OKVQA_passages" / "test_passages-00000-of-00002.parquet").unlink()
    (published / "OKVQA_passages" / "test_passages-00001-of-00002.parquet").unlink()
    assert load_task("OKVQA", published).fingerprint != before


def test_repeated_and_missing_positives_and_missing_answers_are_lists_all_the_same(tmp_path: Path) -> None:
    rows = [
        query(0, pos_item_ids=["p1", "p0", "p1"], answers=[]),
        query(1, pos_item_ids=[], answers=None),
        query(2, pos_item_ids=None),
    ]
    publish(tmp_path, "OKVQA_data", "test", [rows])
    publish(tmp_path, "OKVQA_passages", "test_passages", [[passage(0), passage(1)]])
    data = load_task("OKVQA", tmp_path)
    assert data.qrels == {"q0": ["p1", "p0"], "q1": [], "q2": []}
    assert data.answers == {"q0": [], "q1": [], "q2": ["thing 2"]}


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_instruction_and_question_are_texts_in_every_query_built_here(task: Task, built: Path) -> None:
    """The official example (examples/example_use_preflmr.py) joins both as they are."""
    for split in task.splits:
        queries = load_task(task, built, split).queries
        assert queries.height
        for row in queries.select("instruction", "question").iter_rows():
            assert " ".join(row)


def test_a_task_whose_questions_are_null_has_empty_texts(tmp_path: Path) -> None:
    rows = [query(0, question=None), query(1, question=None, instruction=None)]
    publish(tmp_path, "CC_data", "train", [rows])
    publish(tmp_path, "CC_passages", "train_passages", [[passage(0)]])
    data = load_task("CC", tmp_path, "train")
    assert data.query_texts(instructions=False) == ["", ""]
    assert data.query_texts(instructions=True) == ["Answer this:", ""]


def test_a_query_without_image_path_is_an_error_that_names_it(tmp_path: Path) -> None:
    publish(tmp_path, "OKVQA_data", "test", [[query(7, img_path=None)]])
    publish(tmp_path, "OKVQA_passages", "test_passages", [[passage(0)]])
    with pytest.raises(M2KRError, match="query q7 of OKVQA has no image path"):
        load_task("OKVQA", tmp_path, images=tmp_path).query_image(0)


# --- what is missing or wrong ---------------------------------------------------------------------------------------


def test_a_split_that_the_task_does_not_have_is_refused(built: Path) -> None:
    with pytest.raises(M2KRError, match="LLaVA has no split 'valid'; it has train, test"):
        load_task("LLaVA", built, "valid")


def test_tables_that_the_folder_does_not_have_whole_are_said(published: Path) -> None:
    with pytest.raises(M2KRError, match=r"holds no OKVQA_data/valid: OKVQA_data has test. Build it"):
        load_task("OKVQA", published, "valid")
    (published / "OKVQA_passages" / "test_passages-00001-of-00002.parquet").unlink()
    with pytest.raises(M2KRError, match="has 1 of the 2 shards of test_passages"):
        load_task("OKVQA", published)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", b"PAR1 cut"])
def test_a_shard_that_is_no_parquet_is_an_error_that_names_it(published: Path, content: bytes) -> None:
    (published / "OKVQA_data" / "test-00001-of-00003.parquet").write_bytes(content)
    with pytest.raises(M2KRError, match=r"OKVQA_data .*test-00001-of-00003.parquet.* could not be read") as caught:
        load_task("OKVQA", published)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "split", "column"),
    [
        *(
            ("OKVQA_data", "test", name)
            for name in ("question_id", "question", "instruction", "pos_item_ids", "img_path")
        ),
        *(("OKVQA_passages", "test_passages", name) for name in ("passage_id", "passage_content")),
    ],
)
def test_a_missing_column_is_an_error_that_names_it(published: Path, config: str, split: str, column: str) -> None:
    for file in (published / config).glob(f"{split}-*.parquet"):
        pl.read_parquet(file).drop(column).write_parquet(file)
    with pytest.raises(M2KRError, match=f"{config}/{split} in .* has no column {column}"):
        load_task("OKVQA", published)


def test_a_question_id_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    publish(tmp_path, "OKVQA_data", "test", [[query(0), query(1)], [query(0)]])
    publish(tmp_path, "OKVQA_passages", "test_passages", [[passage(0)]])
    with pytest.raises(M2KRError, match=r"OKVQA_data/test in .*, row question_id='q0': .* stands more than once\. Get"):
        load_task("OKVQA", tmp_path)


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ("data/test", {"pos_item_ids": pl.col("pos_item_ids").list.first()}, "pos_item_ids has type String, .*List"),
        ("data/test", {"answers": pl.col("answers").list.first()}, r"answers has type String, OKVQA_data wants List"),
        ("data/test", {"question": pl.lit(7)}, "question has type Int32, OKVQA_data wants String"),
        ("data/test", {"question_id": pl.int_range(pl.len())}, "question_id has type Int64, OKVQA_data wants String"),
        ("data/test", {"question_id": pl.lit(None)}, "question_id has type Null, OKVQA_data wants String"),
        ("data/test", {"question_id": pl.col("question_id") + "x" * 2048}, "the id has more than 2,048 bytes"),
        ("data/test", {"question_id": pl.lit("")}, "row question_id='': the id is empty"),
        (
            "data/test",
            {"answers": pl.concat_list("answers", NULL)},
            r"question_id='q0': a null stands among answers .5 rows",
        ),
        ("data/test", {"pos_item_ids": pl.concat_list("pos_item_ids", NULL)}, "a null stands among pos_item_ids"),
        ("passages/test_passages", {"passage_id": pl.lit("p")}, "row passage_id='p': the id stands more than once"),
        (
            "passages/test_passages",
            {"passage_id": pl.when(pl.col("passage_id") != "p1").then("passage_id")},
            "row passage_id=None: the id is empty",
        ),
        ("passages/test_passages", {"passage_content": pl.lit(None)}, "the passage has no text .6 rows"),
    ],
)
def test_tables_that_would_give_false_figures_are_refused(
    published: Path, table: str, changes: dict[str, pl.Expr], message: str
) -> None:
    config, split = f"OKVQA_{table}".split("/")
    for file in (published / config).glob(f"{split}-*.parquet"):
        pl.read_parquet(file).with_columns(**changes).write_parquet(file)
    with pytest.raises(M2KRError, match=message) as caught:
        load_task("OKVQA", published)
    assert str(caught.value).startswith(f"{config}/{split} in {published}")
    assert "Get or build it again" in str(caught.value)


def test_other_widths_extra_columns_and_columns_without_values_are_read_all_the_same(published: Path) -> None:
    before = load_task("OKVQA", published)
    for file in (published / "OKVQA_data").glob("*.parquet"):  # Polars writes large_string
        frame = pl.read_parquet(file).with_columns(pl.col("img_key").cast(pl.Int32), img_id=pl.lit(None), extra=1)
        frame.write_parquet(file)
    data = load_task("OKVQA", published)
    assert (data.qrels, data.answers) == (before.qrels, before.answers)
    assert data.queries["extra"].to_list() == [1] * 5


@pytest.mark.parametrize("name", ["m2kr-dta", "./m2kr-dta", "/no/such", "~/m2kr", "deep/down/m2kr", ""])
def test_a_folder_that_is_not_there_is_said_without_asking_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it is an error
    with pytest.raises(M2KRError, match=r"is no folder here, and no dataset id|holds no OKVQA_data"):
        load_task("OKVQA", name)


def test_a_hub_that_cannot_be_reached_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def main(_: object) -> int:
        load_task("OKVQA", HUB_ID)
        return 0

    assert run_command(main) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: BByrneLab/")
    assert error.count("\n") == 1
    assert "is no folder here, and the hub could not be asked" in error
    assert "HF_HUB_OFFLINE is set" in error
    assert "name a folder" in error


# --- what is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "question", "text"),
    [
        ("Find it", "What?", "Find it: What?"),
        ("Find it:", "What?", "Find it: What?"),
        ("  Find it: \n", "What?", "Find it: What?"),
        ("Find it :", "What?", "Find it : What?"),
        ("Find it", "", "Find it:"),
        ("", "What?", "What?"),
        ("  ", " What? ", "What?"),
        (None, "What?", "What?"),
        (None, "", ""),
    ],
)
def test_an_instruction_and_a_question_are_joined_by_a_colon(instruction: str | None, question: str, text: str) -> None:
    assert query_text(instruction, question) == text


def test_texts_of_queries_come_with_or_without_instructions(published: Path) -> None:
    data = load_task("OKVQA", published, limit=2)
    assert data.query_texts(instructions=False) == ["What is thing 0?", "What is thing 1?"]
    assert data.query_texts(instructions=True) == ["Answer this: What is thing 0?", "Answer this: What is thing 1?"]


# --- the nano subset ------------------------------------------------------------------------------------------------


def drawn(data: TaskData, seed: int = 0) -> tuple[list[str], list[str]]:
    small = nano_subset(data, seed=seed, queries=7, passages=60)
    return small.queries["question_id"].to_list(), small.passages["passage_id"].to_list()


def test_a_nano_subset_holds_all_positives_of_its_queries_and_keeps_the_order(built: Path) -> None:
    whole = load_task("OKVQA", built)
    small = nano_subset(whole, queries=7, passages=60)
    assert (small.queries.height, small.passages.height) == (7, 60)
    assert small.qrels == {name: whole.qrels[name] for name in small.queries["question_id"]}
    there = set(whole.passages["passage_id"])
    wanted = {name for positives in small.qrels.values() for name in positives} & there
    assert wanted
    assert wanted <= set(small.passages["passage_id"])
    for part, table in ((small.queries, whole.queries), (small.passages, whole.passages)):
        key = table.columns[0] if "question_id" not in table.columns else "question_id"
        assert part.equals(table.filter(pl.col(key).is_in(part[key].to_list())))
    assert (small.nano, small.seed, small.fingerprint) == (True, 0, whole.fingerprint)
    assert not small.limited


def test_a_nano_subset_depends_on_seed_and_ids_alone(built: Path) -> None:
    data = load_task("OKVQA", built)
    assert drawn(data) == drawn(load_task("OKVQA", built))
    assert drawn(data) != drawn(data, seed=1)
    mixed = dataclasses.replace(
        data, queries=data.queries.sample(fraction=1, shuffle=True, seed=1), passages=data.passages.reverse()
    )
    for found, wanted in zip(drawn(mixed), drawn(data), strict=True):
        assert sorted(found) == sorted(wanted)


def test_positives_are_kept_even_if_they_are_too_many(built: Path) -> None:
    whole = load_task("OKVQA", built)
    small = nano_subset(whole, queries=7, passages=0)
    wanted = {name for positives in small.qrels.values() for name in positives}
    assert set(small.passages["passage_id"]) == wanted & set(whole.passages["passage_id"])


def test_a_nano_subset_of_little_is_all_of_it(built: Path) -> None:
    whole = load_task("OKVQA", built)
    small = nano_subset(whole)
    assert small.queries.equals(whole.queries)
    assert small.passages.equals(whole.passages)


def test_no_subset_is_drawn_of_a_subset(built: Path) -> None:
    for data in (load_task("OKVQA", built, limit=3), nano_subset(load_task("OKVQA", built))):
        with pytest.raises(M2KRError, match="leave --limit out"):
            nano_subset(data)
