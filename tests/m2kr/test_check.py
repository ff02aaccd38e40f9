"""The check command: clean where all is well, and every kind of damage is found and listed."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image

from m2kr.check import main
from m2kr.errors import run_command
from m2kr.evaluate.__main__ import main as evaluate
from m2kr.formats import report as report_module
from m2kr.formats.manifest import read_manifest
from m2kr.images.decode import MAX_PIXELS
from m2kr.images.roots import image_paths
from m2kr.tasks import TASKS
from tests.m2kr.pictures import png_header

OKVQA = TASKS["OKVQA"]


@pytest.fixture
def coco(world, tmp_path):
    """The images of OKVQA, which a test may damage."""
    return shutil.copytree(world / "coco", tmp_path / "coco")


def run(data, *arguments):
    """The exit code and the report."""
    report = data.parent / "report.json"
    report.unlink(missing_ok=True)
    code = run_command(main, [str(data), "--report", str(report), "--quiet", *map(str, arguments)])
    return code, json.loads(report.read_text(encoding="utf-8")) if report.exists() else None


def only(report):
    assert len(report["problems"]) == 1
    return report["problems"][0]


def rewrite(path, change):
    """Change the rows of a shard, and keep its columns."""
    schema = pq.read_schema(path)
    pq.write_table(change(pl.from_arrow(pq.read_table(path))).to_arrow().cast(schema), path)


def test_a_clean_benchmark_is_clean(data, world, capsys):
    code, report = run(data, "--images", world)
    assert code == 0
    assert (report["clean"], report["hashes_checked"], report["images_checked"]) == (True, True, True)
    assert report["problems"] == []
    assert report["tasks"]["OKVQA"]["images"] == len({path for _, _, path in image_paths(data, OKVQA)})
    assert str(data) not in json.dumps(report)
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in (header, *rows)] == ["task", "MSMARCO", "OKVQA"]


def test_a_folder_without_a_manifest_is_checked_but_for_hashes(data, world, capsys):
    (data / "manifest.json").unlink()
    assert run_command(main, [str(data), "--images", str(world)]) == 0
    assert "hashes were not checked" in capsys.readouterr().err
    shutil.rmtree(data / "MSMARCO_passages")
    code, report = run(data)
    assert code == 1
    assert {problem["task"] for problem in report["problems"]} == {"MSMARCO"}


@pytest.mark.parametrize(("every", "said"), [(1, 1), (3, 0)])
def test_texts_of_windows_lines_are_found_where_most_are(data, every, said):
    (data / "manifest.json").unlink()
    (shard,) = (data / "MSMARCO_data").glob("valid-*")
    ending = pl.when(pl.int_range(pl.len()) % every == 0).then(pl.lit("\r")).otherwise(pl.lit(""))
    rewrite(shard, lambda rows: rows.with_columns(question=pl.col("question") + ending))
    _, report = run(data, "--tasks", "MSMARCO")
    assert [("question end in a carriage return" in p["says"]) for p in report["problems"]] == [True] * said


def test_images_of_more_than_8_bits_are_counted(data, coco):
    _, _, name = next(image_paths(data, OKVQA))
    path = coco / name
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path, "PNG")
    code, report = run(data, "--tasks", "OKVQA", "--images", f"OKVQA={coco}")
    assert (code, report["tasks"]["OKVQA"]["scaled_images"]) == (0, 1)


def test_the_tables_are_set_beside_the_published_ones_where_that_is_asked_for(data, capsys):
    code, report = run(data, "--against", "published", "--tasks", "OKVQA")
    assert code == 0
    found = {(row["config"], row["split"], row["what"]): row for row in report["against_published"]}
    rows = found["OKVQA_data", "test", "rows"]
    assert (rows["published"], rows["verdict"], rows["why"]) == ([5_046], "off", "made-up data")
    assert "distinct positives" in capsys.readouterr().out
    assert "against_published" not in run(data)[1]


def test_files_are_held_against_the_manifest(data):
    passages = data / "MSMARCO_passages"
    (passages / "valid_passages-00000-of-00001.parquet").unlink()
    (passages / "extra.txt").write_text("?")
    (data / "extra").mkdir()
    flipped = data / "OKVQA_data" / "train-00000-of-00001.parquet"
    content = bytearray(flipped.read_bytes())
    content[100] ^= 1
    flipped.write_bytes(content)
    longer = data / "OKVQA_data" / "test-00000-of-00001.parquet"
    rewrite(longer, lambda rows: rows.head(5))
    code, report = run(data)
    assert code == 1
    found = {(problem["kind"], problem["where"]) for problem in report["problems"]}
    assert found >= {
        ("file", "MSMARCO_passages/valid_passages-00000-of-00001.parquet"),
        ("file", "MSMARCO_passages/extra.txt"),
        ("file", "extra"),
        ("hash", "OKVQA_data/train-00000-of-00001.parquet"),
        ("hash", "OKVQA_data/test-00000-of-00001.parquet"),
        ("file", "MSMARCO_passages/valid_passages"),
    }
    assert report["counts"]["OKVQA"]["hash"] == 2


def test_a_task_that_is_gone_but_listed_is_a_problem(data):
    shutil.rmtree(data / "OKVQA_data")
    shutil.rmtree(data / "OKVQA_passages")
    code, report = run(data)
    assert code == 1
    assert report["counts"]["OKVQA"] == {"file": 6}


def test_a_manifest_has_no_say_outside_the_folder(data):
    manifest = read_manifest(data)
    shard = manifest["tasks"]["OKVQA"]["configs"]["OKVQA_data"]["test"]["shards"][0]
    shard["path"] = "../secret"
    (data.parent / "secret").write_bytes(b"secret")
    (data / "manifest.json").write_text(json.dumps(manifest))
    _, report = run(data)
    assert "names a file outside the folder" in str(report["problems"])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all" * 9])
def test_a_shard_that_is_no_parquet_is_a_problem(data, content):
    (data / "manifest.json").unlink()
    (data / "MSMARCO_data" / "test-00000-of-00001.parquet").write_bytes(content)
    code, report = run(data)
    assert code == 1
    assert (only(report)["kind"], only(report)["task"]) == ("file", "MSMARCO")


def test_columns_and_rules_are_checked(data):
    (data / "manifest.json").unlink()
    path = data / "MSMARCO_data" / "test-00000-of-00001.parquet"
    rewrite(path, lambda rows: pl.concat([rows, rows.head(1)]))
    path = data / "OKVQA_passages" / "test_passages-00000-of-00001.parquet"
    pl.read_parquet(path).drop("title").write_parquet(path)
    code, report = run(data)
    assert code == 1
    rules, columns = sorted(report["problems"], key=lambda problem: problem["task"])
    assert (rules["kind"], rules["where"]) == ("rules", "MSMARCO_data/test")
    assert "the id stands more than once" in rules["says"]
    assert (columns["kind"], columns["where"]) == ("columns", f"OKVQA_passages/{path.name}")
    assert "missing: title" in columns["says"]


def test_a_null_among_answers_is_a_problem(data):
    (data / "manifest.json").unlink()
    path = data / "OKVQA_data" / "test-00000-of-00001.parquet"
    rewrite(path, lambda rows: rows.with_columns(answers=pl.concat_list("answers", pl.lit(None, pl.String))))
    code, report = run(data)
    assert code == 1
    assert only(report)["where"] == "OKVQA_data/test"
    assert "a null stands among answers (30 rows in all)" in only(report)["says"]


DAMAGES = {
    "a null among answers": ("data/test", lambda rows: rows.with_columns(answers=pl.concat_list("answers", NULL))),
    "a null among positives": (
        "data/test",
        lambda rows: rows.with_columns(pos_item_ids=pl.concat_list("pos_item_ids", NULL)),
    ),
    "positives as text": ("data/test", lambda rows: rows.with_columns(pl.col("pos_item_ids").list.first())),
    "answers as text": ("data/test", lambda rows: rows.with_columns(pl.col("answers").list.first())),
    "ids as numbers": ("data/test", lambda rows: rows.with_columns(question_id=pl.int_range(pl.len()))),
    "questions as numbers": ("data/test", lambda rows: rows.with_columns(question=pl.lit(7))),
    "no column": ("data/test", lambda rows: rows.drop("instruction")),
    "an id twice": ("data/test", lambda rows: pl.concat([rows, rows.head(1)])),
    "an empty id": ("data/test", lambda rows: rows.with_columns(question_id=pl.lit(""))),
    "no queries": ("data/test", lambda rows: rows.clear()),
    "a null passage id": (
        "passages/test_passages",
        lambda rows: rows.with_columns(passage_id=first_null("passage_id")),
    ),
    "a passage id twice": ("passages/test_passages", lambda rows: pl.concat([rows, rows.head(1)])),
    "a passage without text": (
        "passages/test_passages",
        lambda rows: rows.with_columns(passage_content=first_null("passage_content")),
    ),
    "no image path": ("data/test", lambda rows: rows.with_columns(img_path=first_null("img_path"))),
    "an id twice, and another column": ("data/test", lambda rows: pl.concat([rows, rows.head(1)]).with_columns(more=1)),
}
NULL = pl.lit(None, pl.String)


def first_null(column):
    return pl.when(pl.int_range(pl.len()) > 0).then(column)


@pytest.mark.parametrize("name", DAMAGES)
def test_what_an_evaluation_refuses_is_a_problem(data, world, registered, capsys, name):
    (data / "manifest.json").unlink()
    place, change = DAMAGES[name]
    path = data / f"OKVQA_{place}-00000-of-00001.parquet"
    known = pq.read_schema(path)
    table = change(pl.read_parquet(path)).to_arrow()
    for index, field in enumerate(table.schema):  # Polars writes large_string
        old = known.field(field.name) if field.name in known.names else field
        if str(old.type) == re.sub("large_|_view", "", str(field.type)):
            table = table.set_column(index, old, table.column(index).cast(old.type))
    pq.write_table(table, path)
    arguments = ["--model", "seeing", "--tasks", "OKVQA", "--data", data, "--images", world, "--out", data / "out"]
    assert run_command(evaluate, [str(argument) for argument in arguments]) == 2
    assert "error: " in capsys.readouterr().err
    code, report = run(data, "--tasks", "OKVQA")
    assert code == 1
    wheres = {problem["where"] for problem in report["problems"]}
    assert wheres
    assert wheres <= {"OKVQA_data/test", path.relative_to(data).as_posix()}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_bad_image_is_listed_with_its_questions(data, coco):
    questions = {}
    for _, question, path in image_paths(data, OKVQA):
        questions.setdefault(path, []).append(question)
    missing, cut, garbage, huge, empty = list(questions)[:5]
    (coco / missing).unlink()
    (coco / cut).write_bytes((coco / cut).read_bytes()[:-2000])
    (coco / garbage).write_bytes(b"<html>not found</html>")
    (coco / huge).write_bytes(png_header(MAX_PIXELS // 1000 + 1, 1000))
    (coco / empty).write_bytes(b"")
    code, report = run(data, "--images", coco, "--workers", "3")
    assert code == 1
    found = {problem["img_path"]: problem for problem in report["problems"]}
    assert {path: problem["kind"] for path, problem in found.items()} == {
        missing: "missing image",
        cut: "truncated image",
        garbage: "undecodable image",
        huge: "too many pixels image",
        empty: "undecodable image",
    }
    for path, problem in found.items():
        assert problem["ids"] == questions[path]
        assert problem["task"] == "OKVQA"
        assert str(coco) not in problem["says"] or problem["kind"] == "missing image"
    assert report["counts"]["OKVQA"]["undecodable image"] == 2
    _, alone = run(data, "--images", coco, "--workers", "1")
    assert alone == report


def test_images_in_an_archive_are_checked_and_a_broken_archive_is_said(data, coco, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "x"), "tar", coco))
    assert run(data, "--images", f"OKVQA={archive}")[0] == 0
    with archive.open("r+b") as file:
        file.truncate(20_000)
    code, report = run(data, "--images", f"OKVQA={archive}")
    assert code == 1
    assert {problem["kind"] for problem in report["problems"]} == {"unreadable image"}


def test_a_long_list_is_cut_and_counted(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report_module, "LISTED", 7)
    (tmp_path / "empty").mkdir()
    code, report = run(data, "--images", tmp_path / "empty")
    assert code == 1
    assert len(report["problems"]) == 7
    assert report["counts"]["OKVQA"]["missing image"] == report["tasks"]["OKVQA"]["images"] > 7
    assert "more; all in" in capsys.readouterr().out


def test_text_of_the_data_does_not_reach_the_terminal_as_it_is(data, tmp_path, capsys):
    (data / "manifest.json").unlink()
    path = data / "OKVQA_data" / "test-00000-of-00001.parquet"
    rewrite(path, lambda rows: rows.with_columns(img_path=pl.lit("\x1b[31mred\n\x07.jpg")))
    assert run(data, "--images", tmp_path)[0] == 1
    printed = capsys.readouterr()
    assert not {"\x1b", "\x07"} & set(printed.out + printed.err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "is not a folder"),
        (["{}", "--tasks", "EVQA"], "has no EVQA; it has MSMARCO, OKVQA"),
        (["{}", "--tasks", "OKVQ"], "Did you mean OKVQA?"),
        (["{}", "--images", "nowhere"], "is not a folder"),
        (["{}", "--workers", "-1"], "--workers"),
        (["{}/MSMARCO_data"], "holds no task of M2KR"),
    ],
)
def test_a_wrong_argument_is_explained(data, capsys, arguments, message):
    assert run_command(main, [argument.format(data) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
