"""`m2kr.challenge`: its data as a task without judgements, the run and the CSV made of it, and its measure."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from m2kr.challenge import load_challenge, main, read_truth, score_challenge
from m2kr.errors import M2KRError, run_command
from m2kr.results.run import Run

PLACES = ("tower", "bridge", "harbour", "lake", "garden", "museum", "castle")
PASSAGES = pl.DataFrame(
    {
        "passage_id": [f"p{number}" for number in range(len(PLACES))],
        "passage_content": [f"The {place} was opened in {1900 + 3 * n}." for n, place in enumerate(PLACES)],
        "page_screenshot": [b"not looked at"] * len(PLACES),
    }
)
QUESTIONS = pl.DataFrame(
    {
        "question_id": [0, 1, 2],  # numbers, as they may come
        "question": ["When was the tower opened?", "When was the lake opened?", "When was the castle opened?"],
        "img_path": ["a/0.png", "a/1.png", "a/2.png"],
    }
)
TRUTH = {"0": ["p0"], "1": ["p6", "p3"], "2": ["p2"]}


@pytest.fixture
def folder(tmp_path) -> Path:
    """The challenge's folder, as it is downloaded, with pictures."""
    return written(tmp_path / "M2KR-Challenge")


def written(folder: Path, questions: pl.DataFrame = QUESTIONS, passages: pl.DataFrame = PASSAGES) -> Path:
    for name, table in (("challenge_data", questions), ("challenge_passage", passages)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        table.write_parquet(folder / name / "train-00000-of-00001.parquet")
    (folder / "query_images" / "a").mkdir(parents=True, exist_ok=True)
    for number in range(3):
        Image.new("RGB", (40, 30), (80 * number, 10, 200)).save(folder / "query_images" / "a" / f"{number}.png")
    return folder


def truth_file(path: Path, truth: dict[str, list[str]]) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question_id", "passage_id"])
        rows.writerows([question, json.dumps(listed)] for question, listed in truth.items())
    return path


def test_its_data_are_a_task_without_judgements(folder):
    data = load_challenge(folder, instruction="Find it")
    assert data.queries["question_id"].to_list() == ["0", "1", "2"]
    assert data.passages.columns == ["passage_id", "passage_content"]
    assert data.query_texts(instructions=True)[0] == "Find it: When was the tower opened?"
    assert data.query_image(2).size == (40, 30)
    assert data.qrels == {}
    assert load_challenge(folder, instruction="Find it").fingerprint == data.fingerprint
    assert load_challenge(folder).fingerprint != data.fingerprint  # other questions
    assert load_challenge(folder, limit=2).limited


def test_without_ground_truth_there_are_a_run_and_a_csv(folder, tmp_path, capsys):
    out = tmp_path / "results"
    arguments = ["--data", str(folder), "--model", "bm25", "--ignore-images", "--out", str(out)]
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert not list(out.rglob("*.json"))
    run = Run.read_trec(out / "bm25" / "challenge.run.trec.gz")
    assert [passages[0] for passages in run.passage_ids] == ["p0", "p3", "p6"]
    with (out / "bm25" / "challenge.csv").open(newline="") as file:
        rows = {row["question_id"]: json.loads(row["passage_id"]) for row in csv.DictReader(file)}
    assert rows == {query: passages[:5] for query, passages in zip(run.query_ids, run.passage_ids, strict=True)}
    assert main(arguments) == 0
    assert "finished before" in capsys.readouterr().err
    assert run_command(main, [*arguments, "--top-k", "6"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main([*arguments, "--top-k", "6", "--rerun", "--quiet"]) == 0


def test_pictures_are_read_where_the_model_reads_them(folder, tmp_path, capsys):
    out = tmp_path / "results"
    arguments = ["--data", str(folder), "--model", "clip-mini", "--device", "cpu", "--out", str(out), "--quiet"]
    assert main([*arguments, "--workers", "0"]) == 0
    assert (out / "clip-mini" / "challenge.csv").is_file()
    Image.new("RGB", (90, 80), "green").save(folder / "query_images" / "a" / "1.png")
    assert run_command(main, [*arguments, "--workers", "0"]) == 2
    assert "other pictures" in capsys.readouterr().err
    (folder / "query_images" / "a" / "1.png").unlink()
    assert run_command(main, [*arguments, "--workers", "0", "--rerun"]) == 2


def test_its_measure_is_the_mean_of_three_recalls(folder, tmp_path, capsys):
    truth = truth_file(tmp_path / "truth.csv", TRUTH)
    arguments = ["--data", str(folder), "--model", "bm25", "--ignore-images", "--out", str(tmp_path / "results")]
    assert main([*arguments, "--truth", str(truth), "--quiet"]) == 0
    run = Run.read_trec(tmp_path / "results" / "bm25" / "challenge.run.trec.gz")
    expected = [
        sum(
            bool(set(found[:k]) & set(TRUTH[query]))
            for query, found in zip(run.query_ids, run.passage_ids, strict=True)
        )
        / 3
        for k in (1, 3, 5)
    ]
    said = [f"Recall@{k} {100 * value:.1f}" for k, value in zip((1, 3, 5), expected, strict=True)]
    assert capsys.readouterr().out.splitlines() == [*said, f"mean Recall@{{1,3,5}} {100 * sum(expected) / 3:.1f}"]


def test_the_measure_by_hand():
    run = Run.from_dict({query: {f"p{n}": 9.0 - n for n in range(5)} for query in ("a", "b", "c")})
    found = score_challenge(run, {"a": ["p0"], "b": ["p2", "x"], "c": ["p4"]})
    assert list(found.values()) == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3])


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--top-k", "4"], "would be 4 passages"), (["--bad-images", "skip"], "--bad-images skip")]
)
def test_what_could_not_be_handed_in_is_said_before_any_work(folder, tmp_path, capsys, arguments, says):
    given = ["--data", str(folder), "--model", "bm25", "--ignore-images", "--out", str(tmp_path / "results")]
    assert run_command(main, [*given, *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("questions", "passages", "says"),
    [
        (QUESTIONS.drop("img_path"), PASSAGES, "no column img_path"),
        (QUESTIONS, PASSAGES.rename({"passage_content": "text"}), "no column passage_content"),
        (QUESTIONS.with_columns(question_id=pl.lit("same")), PASSAGES, "'same' stands twice"),
        (QUESTIONS.with_columns(question=pl.lit(1.5)), PASSAGES, "question has the type Float64"),
        (QUESTIONS, PASSAGES.with_columns(passage_content=pl.lit(None, pl.String)), "'p0' has no text"),
        (QUESTIONS.head(0), PASSAGES, "has no rows"),
        (QUESTIONS.with_columns(question_id=pl.lit(" ")), PASSAGES, "has no question_id"),
    ],
)
def test_other_data_are_refused(tmp_path, questions, passages, says):
    with pytest.raises(M2KRError, match=says):
        load_challenge(written(tmp_path / "other", questions, passages))


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(M2KRError, match="no folder"):
        load_challenge(tmp_path / "none")
    with pytest.raises(M2KRError, match="challenge_data/train"):
        load_challenge(tmp_path)


@pytest.mark.parametrize(
    ("truth", "says"),
    [
        ({"0": ["p0"]}, "lacks 2 questions, the first is '1'"),
        ({**TRUTH, "9": ["p0"]}, "1 questions that are not asked, the first is '9'"),
        ({**TRUTH, "2": ["p99"]}, "'2': there is no passage 'p99'"),
        ({**TRUTH, "2": []}, "no CSV of question_id"),
    ],
)
def test_a_wrong_truth_is_refused(folder, tmp_path, truth, says):
    with pytest.raises(M2KRError, match=says):
        read_truth(truth_file(tmp_path / "truth.csv", truth), load_challenge(folder))


def test_the_form_that_is_handed_in_is_that_of_the_truth(folder, tmp_path):
    (tmp_path / "other.csv").write_text("question,passage\n0,p0\n")
    with pytest.raises(M2KRError, match="no CSV of question_id"):
        read_truth(tmp_path / "other.csv", load_challenge(folder))
    assert read_truth(truth_file(tmp_path / "truth.csv", TRUTH), load_challenge(folder)) == TRUTH
    assert read_truth(tmp_path / "truth.csv", load_challenge(folder, limit=1)) == {"0": ["p0"]}
