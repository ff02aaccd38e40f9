"""`m2kr.ask`: the passages of one question, printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from PIL import Image

from baselines.bm25 import BM25
from m2kr.ask import answer_lines, ask, main, query_of
from m2kr.common import registry
from m2kr.dataset import load_task
from m2kr.errors import M2KRError, run_command
from m2kr.evaluate.encode import Encoder
from m2kr.evaluate.options import EncodeOptions, TaskOptions
from m2kr.evaluate.task import evaluate_task
from m2kr.images.decode import ImageError
from tests.m2kr.evaluating import Single, entry_points_of, text_of


class Letters(Single):
    """One vector a text: how often each letter stands in it."""

    def __init__(
        self, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32", mood: str = ""
    ) -> None:
        super().__init__()
        self.name = type(self).__name__.lower()

    def encode(self, inputs: Sequence[Any]) -> Any:
        counts = np.array([[text_of(item).lower().count(letter) for letter in ascii_lowercase] for item in inputs])
        return (counts / np.linalg.norm(counts + 1e-9, axis=1, keepdims=True)).astype(np.float32)


class Seeing(Letters):
    reads = frozenset({"text", "image"})
    reads_instructions = True


class Preparing(Seeing):
    prepare_image = staticmethod(np.asarray)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Register the fakes and bm25; return those that are made."""
    found: list[Any] = []
    points = entry_points_of({"letters": Letters, "seeing": Seeing, "preparing": Preparing, "bm25": BM25}, found)
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    return found


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a picture.png"
    Image.new("RGB", (6, 4), (10, 20, 30)).save(path)
    return path


def arguments(built: Path, out: Path, model: str, task: str, *more: str) -> list[str]:
    return ["--model", model, "--data", str(built), "--task", task, "--out", str(out), *more]


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("model", ["letters", "bm25"])
def test_the_text_of_a_passage_finds_the_passage(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    passages = load_task("MSMARCO", built).passages
    name, text = passages.row(7, named=True)["passage_id"], passages.row(7, named=True)["passage_content"]
    assert main(arguments(built, tmp_path, model, "msmarco", "--question", text, "--k", "3", "--quiet")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    ranked = [line.split() for line in out.splitlines() if not line.startswith("    ")]
    assert [line[0] for line in ranked] == ["1", "2", "3"]
    assert ranked[0][2] == name
    scores = [float(line[1]) for line in ranked]
    assert scores == sorted(scores, reverse=True)
    assert " ".join(text.split())[:30] in " ".join(out.split())


@pytest.mark.usefixtures("unsampled")
@pytest.mark.parametrize("stored", ["float32", "int8"])
def test_passages_are_encoded_once_and_shared_with_evaluations(
    built: Path, tmp_path: Path, made: list[Any], stored: Any
) -> None:
    for question in ("the first question", "another one"):
        asked = arguments(built, tmp_path, "letters", "MSMARCO", "--question", question, "--store-dtype", stored)
        assert main([*asked, "--quiet"]) == 0
    data = load_task("MSMARCO", built)
    assert [len(one.read) for one in made] == [data.passages.height, 0]
    assert [one.asked for one in made] == [["the first question"], ["another one"]]
    assert [path.name[:9] for path in (tmp_path / "letters").iterdir()] == [".embeddin"]
    evaluated = Letters()
    result = evaluate_task(evaluated, data, tmp_path / "letters", TaskOptions(store_dtype=stored, quiet=True))
    assert result["reused"] == ["encode_passages"]
    # What 8 bits cost is measured on a sample, which is encoded again.
    assert bool(evaluated.read) == (stored == "int8")


def test_one_process_at_a_time_encodes_and_others_leave_its_work_alone(built: Path, tmp_path: Path) -> None:
    data = load_task("MSMARCO", built)

    def asked(one: Letters, **options: Any) -> list[tuple[str, float, str]]:
        encoder = Encoder(one, tmp_path / "m" / ".embeddings", EncodeOptions(quiet=True, **options))
        return ask(one, data, "a question", 3, encoder)

    first = asked(Letters())
    encoding, others = Letters(), [Letters(), Letters()]
    vectors = encoding.encode

    def meanwhile(inputs: Sequence[Any]) -> Any:
        with pytest.raises(M2KRError, match=r"MSMARCO\.test\.ask is being made by process \d+, since"):
            asked(others[0], store_dtype="int8")
        assert asked(others[1]) == first  # whose passages are there
        return vectors(inputs)

    encoding.encode = meanwhile  # type: ignore[method-assign]
    asked(encoding, store_dtype="float16")
    assert not any(one.read for one in others)
    assert len(list((tmp_path / "m" / ".embeddings").iterdir())) == 2
    assert [path.name for path in (tmp_path / "m").iterdir()] == [".embeddings"]


def test_what_is_printed_is_what_an_evaluation_ranks(built: Path, tmp_path: Path) -> None:
    data = load_task("MSMARCO", built)
    question = data.queries["question"][0]
    texts = dict(data.passages.select("passage_id", "passage_content").iter_rows())
    for one, encoder in (
        (BM25(), None),
        (Letters(), Encoder(Letters(), tmp_path / "m" / ".embeddings", EncodeOptions(quiet=True))),
    ):
        evaluate_task(one, data, tmp_path / one.name, TaskOptions(quiet=True))
        from m2kr.results.run import Run

        run = Run.read_trec(tmp_path / one.name / "MSMARCO.run.trec.gz")
        found = ask(one, data, question, 6, encoder)
        assert [name for name, _, _ in found] == run.passage_ids[0][:6]
        assert [score for _, score, _ in found] == pytest.approx(run.scores[0][:6].tolist(), rel=1e-6)
        assert [text for _, _, text in found] == [texts[name] for name, _, _ in found]


@pytest.mark.parametrize(("model", "kind"), [("seeing", Image.Image), ("preparing", np.ndarray)])
def test_a_picture_and_the_first_instruction_of_the_task_go_with_the_question(
    built: Path, tmp_path: Path, made: list[Any], picture: Path, model: str, kind: type
) -> None:
    more = ["--question", "What is it?", "--image", str(picture), "--quiet"]
    assert main(arguments(built, tmp_path, model, "OKVQA", *more)) == 0
    (asked,) = made[0].asked
    instruction = load_task("OKVQA", built).task.instructions[0]
    assert asked["text"] == f"{instruction} What is it?"
    assert isinstance(asked["image"], kind)
    assert np.asarray(asked["image"]).shape == (4, 6, 3)
    assert (np.asarray(asked["image"]) == (10, 20, 30)).all()


def test_an_instruction_can_be_given_or_left_out(built: Path) -> None:
    data = load_task("OKVQA", built)
    assert query_of(Seeing(), data, "Who?", None, "Say") == "Say: Who?"
    assert query_of(Seeing(), data, "Who?", None, "") == "Who?"
    ending: Any = Seeing()
    ending.instruction_end = "<END>"
    assert query_of(ending, data, "Who: I?", None, "Say: it") == "Say<END> it<END> Who: I?"
    assert query_of(Letters(), data, "Who?", None, "Say") == "Who?"
    assert query_of(BM25(), data, "Who?", None, None) == "Who?"


def test_a_picture_alone_is_a_question(built: Path, picture: Path) -> None:
    asked: Any = query_of(Seeing(), load_task("WIT", built), "", picture, None)
    assert asked["text"] == load_task("WIT", built).task.instructions[0]


def test_pictures_that_cannot_be_used_are_refused(built: Path, tmp_path: Path, picture: Path) -> None:
    data = load_task("OKVQA", built)
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "link.png").symlink_to(picture)
    with pytest.raises(M2KRError, match=r"letters reads only text\. Leave --image out"):
        query_of(Letters(), data, "Who?", picture, None)
    with pytest.raises(M2KRError, match=r"--image .*nowhere.jpg is no file"):
        query_of(Seeing(), data, "Who?", tmp_path / "nowhere.jpg", None)
    with pytest.raises(ImageError, match=r"text.jpg cannot be decoded"):
        query_of(Seeing(), data, "Who?", tmp_path / "text.jpg", None)
    with pytest.raises(M2KRError, match="nothing to ask"):
        query_of(Seeing(), data, " ", None, None)
    assert isinstance(query_of(Seeing(), data, "Who?", tmp_path / "link.png", None), dict)


def test_an_encoder_needs_a_place_for_its_passages(built: Path) -> None:
    with pytest.raises(M2KRError, match="letters encodes passages"):
        ask(Letters(), load_task("MSMARCO", built), "Who?", 3)


def test_passages_are_shortened_wrapped_and_harmless() -> None:
    text = "word " * 200 + "the end"
    lines = answer_lines([("p 1", 0.123456, text), ("p2", -3.0, "short\x1b[31m\r\n  text\u202e")], width=60)
    assert lines[0] == "  1  0.1235  p 1"
    assert max(len(line) for line in lines) <= 60
    assert lines[-3].endswith(" ...")
    assert "the end" not in "".join(lines)
    assert 380 < len("".join(line.removeprefix("     ") for line in lines[1:-2])) <= 400
    assert lines[-2:] == ["  2  -3.0000  p2", "     short [31m text"]
    assert answer_lines([("p", 1.0, "one two three four five")], width=1)[1:] == [
        "     one two three",
        "     four five",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--k", "0"], "--k is 0"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--task", "OKVAQ"], "Did you mean OKVQA?"),
        (["--model", "leters"], "Did you mean letters?"),
        (["--option", "moo=d"], "no option 'moo'. Did you mean mood?"),
        (["--question", ""], "there is nothing to ask"),
        (["--split", "dev"], "has no split 'dev'"),
        (["--model", "bm25", "--store-dtype", "int8"], "makes no embeddings to store as int8"),
    ],
)
@pytest.mark.usefixtures("made")
def test_a_wrong_argument_is_an_error_of_one_line(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    given = arguments(built, tmp_path / "out", "letters", "MSMARCO", "--question", "Who?", *more)
    assert run_command(main, given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
