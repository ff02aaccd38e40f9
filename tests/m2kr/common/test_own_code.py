"""Models in a file of one's own: found, made, told apart after a change, and what cannot be loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from m2kr.common.files import digest, sha256_of
from m2kr.errors import M2KRError
from m2kr.reader import get_reader
from m2kr.retriever import Retriever, get_retriever

CODE = """
from own_beside import NAME


def halved(picture):
    return picture // 2


class Own:
    name, vectors, reads_instructions = NAME, "single", False
    reads = frozenset({"text", "image"})
    prepare_image = staticmethod(halved)

    def __init__(self, checkpoint, device, dtype, colour="red"):
        self.settings = {"given": [checkpoint, device, dtype, colour]}

    def encode_query(self, inputs, batch_size=32): ...

    def encode_document(self, inputs, batch_size=32): ...

    def answer(self, asked, batch_size=8): ...


class Lacking:
    vectors, reads_instructions = "single", False

    def __init__(self, **given): ...

    def encode_query(self, inputs, batch_size=32): ...


class Listing(Own):
    reads = ["text"]


class Unset(Own):
    def __init__(self, **given):
        self.settings = None


class Short(Own):
    def encode_document(self, inputs): ...


class Saying(Own):
    reads_instructions = "no"


class Spelled(Own):
    reads = frozenset("text")


class Nameless(Own):
    name = ""


class Many(Own):
    vectors = "many"


class Narrow:
    def __init__(self, checkpoint): ...
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with a model, in the working folder; no other test finds its modules."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_beside.py").write_text("NAME = 'own'\n")
    (tmp_path / "code" / "own_model.py").write_text(CODE)
    yield Path("code") / "own_model.py"
    for name in ("own_model", "own_beside"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("get", [get_retriever, get_reader])
def test_a_model_in_a_file_is_made_and_its_code_is_part_of_its_settings(get: Callable[..., object], file: Path) -> None:
    made = get(f"{file}:Own", checkpoint="here", dtype="bfloat16", options={"colour": "blue"})
    assert made.settings["given"] == ["here", "cpu", "bfloat16", "blue"]  # type: ignore[attr-defined]
    files = {name: sha256_of(file.with_name(name)) for name in ("own_model.py", "own_beside.py")}
    assert made.settings["code_sha256"] == digest(files)  # type: ignore[attr-defined]
    before = made.settings  # type: ignore[attr-defined]
    file.write_text(f"{CODE}# changed\n")
    assert get(f"{file.resolve()}:Own", checkpoint="here").settings != before  # type: ignore[attr-defined]


def test_other_files_of_its_checkpoint_make_another_model_of_it(file: Path, tmp_path: Path) -> None:
    (tmp_path / "weights" / "half").mkdir(parents=True)
    found = []
    for content in ("one", "two", "one"):
        (tmp_path / "weights" / "half" / "model.safetensors").write_text(content)
        found.append(get_retriever(f"{file}:Own", checkpoint=str(tmp_path / "weights")).settings)
    assert found[0] == found[2] != found[1]


def test_processes_that_decode_pictures_can_import_it(file: Path) -> None:
    made = get_retriever(f"{file}:Own")
    assert isinstance(made, Retriever)
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(made.prepare_image, [8]) == [4]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("code/own_model.py", ["Name the class", "code/own_model.py:MyRetriever"]),
        ("code/own_model.py:", ["Name the class"]),
        ("code/missing.py:Own", ["no file code/missing.py"]),
        ("code/own_model.py:Onw", ["no 'Onw'", "Did you mean Own?", "halved, Own, Lacking"]),
        ("code/own_model.py:Lacking", ["m2kr.retriever.Retriever", "it lacks name, reads, settings, encode_document"]),
        ("code/own_model.py:Listing", ["its reads is ['text']", "a set of"]),
        ("code/own_model.py:Unset", ["its settings is None", "a dictionary"]),
        ("code/own_model.py:Saying", ["its reads_instructions is 'no'", "True or False"]),
        ("code/own_model.py:Spelled", ["its reads is", "'text' and 'image'"]),
        ("code/own_model.py:Nameless", ["its name is ''", "not empty"]),
        ("code/own_model.py:Many", ["its vectors is 'many'", "'single' or 'multi'"]),
        ("code/own_model.py:Short", ["encode_document(inputs, batch_size=...)", "'batch_size'"]),
        ("code/own_model.py:Narrow", ["by keyword", "does not take device, dtype"]),
        ("code/json.py:Own", ["cannot be imported", "json", "Call it"]),
        ("code/my-model.py:Own", ["cannot be imported", "name", "Call it"]),
        ("code/needy.py:Own", ["needs a package", "no_such_package"]),
    ],
)
def test_what_cannot_be_loaded_is_said(file: Path, name: str, facts: list[str]) -> None:
    for other in ("json.py", "my-model.py"):
        (file.parent / other).write_text(CODE)
    (file.parent / "needy.py").write_text("import no_such_package\n")
    with pytest.raises(M2KRError) as error:
        get_retriever(name)
    assert all(fact in str(error.value) for fact in facts), str(error.value)
