"""`m2kr.evaluate`: from a retriever and a built task to a run and a result, also after a kill."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import m2kr
from baselines.bm25 import BM25
from m2kr import evaluate, results, retriever
from m2kr.dataset import TaskData, load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate import evaluate_task, main
from m2kr.metrics import score
from m2kr.results import Result, Run, read_result, read_results
from m2kr.tasks import TASKS

DIM = 16


def vector_of(word: str) -> np.ndarray:
    vector = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class Single:
    """One vector a text, the mean of those of its words, which come from their hashes. It keeps what it is given."""

    vectors = "single"
    reads = frozenset({"text"})
    reads_instructions = False

    def __init__(self, **_: Any) -> None:
        self.name = f"fake-{self.vectors}"
        self.settings: dict[str, Any] = {"dim": DIM}
        self.asked: list[Any] = []
        self.read: list[Any] = []
        self.batch_sizes: set[int] = set()
        self.fail: Callable[[], bool] = lambda: False

    def encode(self, inputs: Sequence[Any]) -> Any:
        return np.stack([np.mean(many_vectors(text_of(item)), axis=0) for item in inputs])

    def encode_query(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return self._kept(self.asked, inputs, batch_size)

    def encode_document(self, inputs: Sequence[Any], batch_size: int = 32) -> Any:
        return self._kept(self.read, inputs, batch_size)

    def _kept(self, kept: list[Any], inputs: Sequence[Any], batch_size: int) -> Any:
        self.batch_sizes.add(batch_size)
        if self.fail():
            raise ZeroDivisionError("killed")
        kept.extend(inputs)
        return self.encode(inputs)


class Multi(Single):
    """One vector a word."""

    vectors = "multi"

    def encode(self, inputs: Sequence[Any]) -> Any:
        return [many_vectors(text_of(item)) for item in inputs]


class Seeing(Single):
    """Reads images too, and instructions."""

    reads = frozenset({"text", "image"})
    reads_instructions = True


def text_of(item: Any) -> str:
    return item if isinstance(item, str) else item["text"]


def many_vectors(text: str) -> np.ndarray:
    return np.stack([vector_of(word) for word in re.findall(r"\w+", text.lower()) or [""]])


KINDS: list[Callable[[], Any]] = [Single, Multi, BM25]


@pytest.fixture
def okvqa(built: Path) -> TaskData:
    return load_task("OKVQA", built)


@pytest.fixture
def msmarco(built: Path) -> TaskData:
    return load_task("MSMARCO", built)


def run_of(out: Path, task: str) -> bytes:
    return (out / f"{task}.run.trec.gz").read_bytes()


def evaluated(made: Any, data: TaskData, out: Path, **options: Any) -> Result:
    return evaluate_task(made, data, out, quiet=True, ignore_images=True, **options)


# --- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
def test_a_result_has_every_key_and_is_the_one_written(okvqa: TaskData, tmp_path: Path, make: Any) -> None:
    made = make()
    result = evaluated(made, okvqa, tmp_path, top_k=50, batch_size=7)
    assert list(result) == list(Result.__annotations__)
    assert read_result(tmp_path / "OKVQA.json") == result
    wanted = {
        "model": made.name,
        "model_settings": made.settings,
        "task": "OKVQA",
        "split": "test",
        "headline": ["Recall@5", "PRecall@5"],
        "queries": 30,
        "passages": okvqa.passages.height,
        "queries_without_positive": 0,
        "dataset": okvqa.fingerprint,
        "synthetic": True,
        "limited": False,
        "ignored_inputs": ["image"],
        "instructions": False,
        "search": "exact",
        "top_k": 50,
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 7,
    }
    assert {key: value for key, value in result.items() if key in wanted} == wanted
    encoding = {"index"} if make is BM25 else {"encode_passages", "encode_queries"}
    assert set(result["seconds"]) == encoding | {"search", "score", "write"}
    assert result["versions"]["m2kr"] == m2kr.__version__
    assert {"python", "torch", "ranx", "sentence-transformers"} <= set(result["versions"])
    assert 1 << 20 < result["peak_memory"] < 1 << 40


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("task", ["OKVQA", "MSMARCO"])
def test_metrics_are_those_of_the_written_run(built: Path, tmp_path: Path, make: Any, task: str) -> None:
    data = load_task(task, built)
    result = evaluated(make(), data, tmp_path)
    run = Run.read_trec(tmp_path / f"{task}.run.trec.gz")
    texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
    assert result["metrics"] == score(run, data.qrels, answers=data.answers, passages=texts)
    assert ("PRecall@5" in result["metrics"]) is (task == "OKVQA")
    assert all(0 <= value <= 1 for value in result["metrics"].values())
    assert run.query_ids == data.queries["question_id"].to_list()
    assert all(sorted(ids) == sorted(texts) for ids in run.passage_ids)


@pytest.mark.parametrize("make", [Single, Multi])
def test_a_run_holds_the_best_of_all_passages(okvqa: TaskData, tmp_path: Path, make: Any) -> None:
    evaluated(make(), okvqa, tmp_path, top_k=20)
    run = Run.read_trec(tmp_path / "OKVQA.run.trec.gz")
    queries = make().encode(okvqa.query_texts(instructions=False))
    passages = dict(
        zip(okvqa.passages["passage_id"], make().encode(okvqa.passages["passage_content"].to_list()), strict=True)
    )
    for query, ids, scores in zip(queries, run.passage_ids, run.scores, strict=True):
        # A matrix of one row is a vector: the best match of each query vector, added up.
        table = {
            name: float((np.atleast_2d(query) @ np.atleast_2d(passage).T).max(axis=1).sum())
            for name, passage in passages.items()
        }
        assert len(set(ids)) == 20
        np.testing.assert_allclose(scores, [table[name] for name in ids], atol=1e-4)
        np.testing.assert_allclose(scores, sorted(table.values(), reverse=True)[:20], atol=1e-4)


def test_bm25_finds_more_than_chance(msmarco: TaskData, tmp_path: Path) -> None:
    # At 200 passages chance finds 1 of 40 among the first five.
    assert evaluated(BM25(), msmarco, tmp_path)["metrics"]["Recall@5"] > 0.3


def test_passages_that_tie_are_ordered_by_their_ids(okvqa: TaskData, tmp_path: Path) -> None:
    class Constant(Single):
        def encode(self, inputs: Sequence[Any]) -> Any:
            return np.ones((len(inputs), 2), dtype=np.float32)

    evaluated(Constant(), okvqa, tmp_path, top_k=10)
    run = Run.read_trec(tmp_path / "OKVQA.run.trec.gz")
    wanted = sorted(okvqa.passages["passage_id"], reverse=True)[:10]
    assert run.passage_ids == [wanted] * okvqa.queries.height


def test_the_batch_size_reaches_the_retriever(okvqa: TaskData, tmp_path: Path) -> None:
    made = Single()
    evaluated(made, okvqa, tmp_path, batch_size=5)
    assert made.batch_sizes == {5}


def test_every_text_is_encoded_once(okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_CHUNK", 40)
    made = Single()
    evaluated(made, okvqa, tmp_path)
    assert made.asked == okvqa.queries["question"].to_list()
    assert sorted(made.read) == sorted(okvqa.passages["passage_content"])


@pytest.mark.parametrize("make", [Single, Multi])
def test_neither_chunks_nor_memory_change_a_run(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    evaluated(make(), okvqa, tmp_path / "one")
    monkeypatch.setattr(evaluate, "_CHUNK", 17)
    evaluated(make(), okvqa, tmp_path / "two", search_memory=1 << 20)
    assert run_of(tmp_path / "one", "OKVQA") == run_of(tmp_path / "two", "OKVQA")


def test_a_limited_evaluation_says_so(built: Path, tmp_path: Path) -> None:
    result = evaluated(BM25(), load_task("OKVQA", built, limit=4), tmp_path)
    assert (result["queries"], result["limited"]) == (4, True)
    assert len(Run.read_trec(tmp_path / "OKVQA.run.trec.gz").query_ids) == 4


def test_nothing_but_run_and_result_is_left(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(Single(), okvqa, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["OKVQA.json", "OKVQA.run.trec.gz"]


# --- images and instructions ----------------------------------------------------------------------------------------


def test_a_retriever_that_reads_images_gets_them_decoded(built: Path, world: Path, tmp_path: Path) -> None:
    data = load_task("LLaVA", built, images=world)
    made = Seeing()
    result = evaluate_task(made, data, tmp_path, quiet=True)
    assert (result["ignored_inputs"], result["instructions"]) == ([], True)
    assert [item["text"] for item in made.asked] == data.query_texts(instructions=True)
    for row, item in enumerate(made.asked):
        assert set(item) == {"text", "image"}
        assert isinstance(item["image"], Image.Image)
        assert item["image"].mode == "RGB"
        assert item["image"].tobytes() == data.query_image(row).tobytes()
    assert all(isinstance(item, str) for item in made.read)


def test_a_retriever_that_reads_images_gets_texts_where_there_are_none(msmarco: TaskData, tmp_path: Path) -> None:
    made = Seeing()
    assert evaluate_task(made, msmarco, tmp_path, quiet=True)["ignored_inputs"] == []
    assert made.asked == msmarco.query_texts(instructions=True)


def test_images_can_be_kept_from_a_retriever_that_reads_them(okvqa: TaskData, tmp_path: Path) -> None:
    made = Seeing()
    assert evaluated(made, okvqa, tmp_path)["ignored_inputs"] == ["image"]
    assert made.asked == okvqa.query_texts(instructions=True)


@pytest.mark.parametrize("make", KINDS)
def test_an_image_task_is_refused_to_a_retriever_of_texts(okvqa: TaskData, tmp_path: Path, make: Any) -> None:
    with pytest.raises(M2KRError, match=r"OKVQA asks with images \(IQ2T\) and .* reads only text"):
        evaluate_task(make(), okvqa, tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [False, True])
def test_missing_images_are_said_before_anything_is_encoded(built: Path, tmp_path: Path, given: bool) -> None:
    (tmp_path / "empty").mkdir()
    data = load_task("LLaVA", built, images=tmp_path / "empty" if given else None)
    made = Seeing()
    message = r"20 of 20 images of LLaVA are not in .*empty, the first is " if given else "have images. Name their"
    with pytest.raises(M2KRError, match=message):
        evaluate_task(made, data, tmp_path / "out", quiet=True)
    assert not made.read
    assert not (tmp_path / "out").exists()


# --- what is not done again -----------------------------------------------------------------------------------------


def test_a_finished_task_is_not_run_again(okvqa: TaskData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluated(Single(), okvqa, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    made = Single()
    assert evaluate_task(made, okvqa, tmp_path, ignore_images=True) == first
    assert "OKVQA: finished before, see" in capsys.readouterr().err
    assert not made.asked
    assert not made.read
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_a_finished_task_is_run_again_if_asked_for(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(Single(), okvqa, tmp_path)
    run = run_of(tmp_path, "OKVQA")
    made = Single()
    evaluated(made, okvqa, tmp_path, rerun=True)
    assert len(made.read) == okvqa.passages.height
    assert run_of(tmp_path, "OKVQA") == run


def test_a_result_without_its_run_is_made_again(okvqa: TaskData, tmp_path: Path) -> None:
    evaluated(BM25(), okvqa, tmp_path)
    run = run_of(tmp_path, "OKVQA")
    (tmp_path / "OKVQA.run.trec.gz").unlink()
    evaluated(BM25(), okvqa, tmp_path)
    assert run_of(tmp_path, "OKVQA") == run


def test_results_of_two_splits_stand_side_by_side(built: Path, tmp_path: Path) -> None:
    for split in ("test", "valid"):
        evaluated(BM25(), load_task("OKVQA", built, split), tmp_path / "bm25")
    assert [(result["task"], result["split"]) for result in read_results(tmp_path)] == [
        ("OKVQA", "test"),
        ("OKVQA", "valid"),
    ]


def with_settings(made: Single, **settings: Any) -> Single:
    made.settings = {**made.settings, **settings}
    return made


@pytest.mark.parametrize("what", ["top_k", "dtype", "settings", "instructions", "images", "limit"])
def test_a_result_of_other_settings_is_not_replaced_unless_asked_for(
    built: Path, world: Path, tmp_path: Path, what: str
) -> None:
    made, options = Seeing(), {"top_k": 20}
    data = load_task(
        "OKVQA",
        built,
        limit=5 if what == "limit" else None,
        images=world if what == "images" else None,
    )
    if what == "settings":
        made.settings = {"dim": DIM, "seed": 1}
    elif what == "instructions":
        made.reads_instructions = False
    elif what in ("top_k", "dtype"):
        options |= {"top_k": 21} if what == "top_k" else {"dtype": "float16"}  # type: ignore[dict-item]
    before = evaluated(Seeing(), load_task("OKVQA", built), tmp_path, top_k=20)
    content = (tmp_path / "OKVQA.json").read_bytes()

    def again(**more: Any) -> Result:
        return evaluate_task(made, data, tmp_path, quiet=True, ignore_images=what != "images", **options, **more)

    with pytest.raises(M2KRError, match=r"OKVQA.json holds a result with other settings .*--rerun"):
        again()
    assert (tmp_path / "OKVQA.json").read_bytes() == content
    assert again(rerun=True)["key"] != before["key"]


@pytest.mark.parametrize("option", [{"batch_size": 3}, {"search_memory": 1 << 25}])
def test_what_changes_no_score_does_not_make_a_result_another(
    okvqa: TaskData, tmp_path: Path, option: dict[str, int]
) -> None:
    first = evaluated(Single(), okvqa, tmp_path)
    assert evaluated(Single(), okvqa, tmp_path, **option) == first


# --- kills ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Single, Multi])
@pytest.mark.parametrize(("stage", "finished"), [("read", 60), ("asked", 12)])
def test_after_a_kill_the_same_call_goes_on_and_ends_the_same(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, stage: str, finished: int
) -> None:
    monkeypatch.setattr(evaluate, "_CHUNK", finished)
    whole = evaluated(make(), okvqa, tmp_path / "undisturbed")
    killed = make()
    killed.fail = lambda: len(getattr(killed, stage)) == finished
    with pytest.raises(ZeroDivisionError):
        evaluated(killed, okvqa, tmp_path / "killed")
    assert not (tmp_path / "killed" / "OKVQA.json").exists()
    again = make()
    result = evaluated(again, okvqa, tmp_path / "killed")
    assert killed.read + again.read == sorted_by_id(okvqa)
    assert killed.asked + again.asked == okvqa.queries["question"].to_list()
    assert run_of(tmp_path / "killed", "OKVQA") == run_of(tmp_path / "undisturbed", "OKVQA")
    assert result["metrics"] == whole["metrics"]
    assert result["key"] == whole["key"]
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["OKVQA.json", "OKVQA.run.trec.gz"]


def sorted_by_id(data: TaskData) -> list[str]:
    return data.passages.sort("passage_id", descending=True)["passage_content"].to_list()


def test_a_kill_before_the_result_is_written_encodes_nothing_again(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_result", killed)
        with pytest.raises(ZeroDivisionError):
            evaluated(Single(), okvqa, tmp_path)
    made = Single()
    evaluated(made, okvqa, tmp_path)
    assert not made.read
    assert not made.asked


def test_what_a_kill_left_is_not_used_with_other_settings(
    okvqa: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "_CHUNK", 60)
    killed = Single()
    killed.fail = lambda: len(killed.read) == 60
    with pytest.raises(ZeroDivisionError):
        evaluated(killed, okvqa, tmp_path)
    other = with_settings(Single(), seed=1)
    evaluated(other, okvqa, tmp_path)
    assert other.read == sorted_by_id(okvqa)


# --- retrievers that do not keep to the protocol --------------------------------------------------------------------


@pytest.mark.parametrize("change", [-1, 1], ids=["too few", "too many"])
def test_a_wrong_number_of_vectors_is_an_error(okvqa: TaskData, tmp_path: Path, change: int) -> None:
    class Wrong(Single):
        def encode(self, inputs: Sequence[Any]) -> Any:
            return np.ones((len(inputs) + change, 2), dtype=np.float32)

    with pytest.raises(M2KRError, match=rf"returned {266 + change} items for 266 inputs"):
        evaluated(Wrong(), okvqa, tmp_path)


def test_vectors_that_are_not_finite_are_an_error(okvqa: TaskData, tmp_path: Path) -> None:
    class Wrong(Single):
        def encode(self, inputs: Sequence[Any]) -> Any:
            return np.full((len(inputs), 2), np.nan, dtype=np.float32)

    with pytest.raises(M2KRError, match="row 0 hold NaN or infinity"):
        evaluated(Wrong(), okvqa, tmp_path)


@pytest.mark.parametrize("value", [Path("somewhere"), float("nan"), {1, 2}])
def test_settings_that_no_result_can_hold_are_refused_at_once(okvqa: TaskData, tmp_path: Path, value: Any) -> None:
    made = with_settings(Single(), odd=value)
    with pytest.raises(M2KRError, match="the settings of fake-single cannot be written"):
        evaluated(made, okvqa, tmp_path)
    assert not made.read


def test_a_split_without_queries_is_refused(built: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="there are no queries in OKVQA_data/test"):
        evaluated(Single(), load_task("OKVQA", built, limit=0), tmp_path)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Register the fakes as "single", "multi" and "seeing", and bm25; return those that are made."""
    made: list[Any] = []

    class Point:
        def __init__(self, name: str, cls: Any) -> None:
            self.name, self.value, self.cls = name, f"tests:{name}", cls

        def load(self) -> Any:
            def make(**given: Any) -> Any:
                made.append(self.cls(**given))
                return made[-1]

            return make

    points = [Point("single", Single), Point("multi", Multi), Point("seeing", Seeing), Point("bm25", BM25)]
    monkeypatch.setattr(retriever, "entry_points", lambda group: points)
    return made


@pytest.mark.usefixtures("registered")
def test_the_command_evaluates_all_tasks_and_prints_one_table(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "bm25", "--data", str(built), "--ignore-images", "--out", str(tmp_path), "--quiet"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    tested = [task for task in TASKS.values() if "test" in task.splits]
    assert [line.split()[:3] for line in out.splitlines()[2 : 2 + len(tested)]] == [
        [task.key, "test", "bm25*" if task.reads_images else "bm25"] for task in tested
    ]
    assert "made-up data" in out
    assert {path.stem for path in (tmp_path / "bm25").glob("*.json")} == {task.key for task in tested}
    assert results.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == out


def test_the_command_passes_its_options_on(built: Path, world: Path, tmp_path: Path, registered: list[Any]) -> None:
    arguments = ["--model", "seeing", "--data", str(built), "--tasks", "okvqa", "--images", str(world), "--quiet"]
    arguments += ["--out", str(tmp_path), "--top-k", "9", "--limit", "3", "--split", "valid", "--batch-size", "2"]
    assert main([*arguments, "--dtype", "float16"]) == 0
    result = read_result(tmp_path / "fake-single" / "OKVQA.valid.json")
    assert (result["split"], result["queries"], result["top_k"]) == ("valid", 3, 9)
    assert (result["batch_size"], result["dtype"], result["limited"]) == (2, "float16", True)
    assert len(registered[0].asked) == 3
    lines = gzip.decompress(run_of(tmp_path / "fake-single", "OKVQA.valid")).splitlines()
    assert len(lines) == 27


def test_an_image_task_is_refused_in_one_line_before_any_task_begins(
    built: Path, tmp_path: Path, registered: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "single", "--data", str(built), "--tasks", "all", "--out", str(tmp_path / "out")]
    assert run_command(main, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: WIT asks with images")
    assert "--ignore-images" in err
    assert err.count("\n") == 1
    assert not registered[0].read
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top-k", "0"], "--top-k is 0; it has to be 1 or more"),
        (["--batch-size", "-1"], "--batch-size is -1"),
        (["--limit", "0"], "--limit is 0"),
        (["--search-memory", "0"], "--search-memory is 0.0"),
        (["--search-memory", "nan"], "--search-memory is nan"),
        (["--tasks", "OKVAQ"], "Did you mean OKVQA?"),
        (["--tasks", ","], "the list of tasks is empty"),
        (["--tasks", "MSMARCO,CC"], "has no test split of CC; it has one of WIT, IGLUE, KVQA, MSMARCO, OVEN, LLaVA"),
        (["--split", "valid", "--tasks", "LLaVA"], "has no valid split of LLaVA; it has one of WIT, KVQA, MSMARCO"),
        (["--split", "dev"], "holds no task with a dev split"),
        (["--model", "singel"], "Did you mean single?"),
        (["--images", "missing"], "missing is not a folder"),
        (["--data", "missing", "--tasks", "MSMARCO"], "missing is no folder here"),
    ],
)
def test_a_wrong_option_is_an_error_of_one_line(
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(main, ["--model", "single", "--data", str(built), "--ignore-images", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("registered")
def test_a_file_is_no_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert run_command(main, ["--model", "single", "--data", str(tmp_path / "file")]) == 2
    assert "file is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "program",
    ["import m2kr", "import m2kr.evaluate; m2kr.evaluate._parser()", "import m2kr.build; m2kr.build._parser()"],
)
def test_what_only_shows_help_imports_nothing_heavy(program: str) -> None:
    heavy = ["torch", "polars", "datasets", "ranx", "transformers", "sentence_transformers", "pandas", "pyarrow"]
    program += f"\nimport json, sys\nprint(json.dumps([name for name in {heavy} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
