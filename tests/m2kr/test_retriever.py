"""`m2kr.retriever`: how a retriever is found by name, and what is said where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.bm25 import BM25
from m2kr import retriever
from m2kr.errors import M2KRError
from m2kr.retriever import Ranker, Retriever, get_retriever, registered


class Point:
    """An entry point that loads what it is given; an exception is raised."""

    def __init__(self, name: str, made: Any, value: str = "package:thing") -> None:
        self.name = name
        self.value = value
        self.made = made

    def load(self) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


class Words:
    """A retriever that keeps what it was called with."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.name = "words"
        self.reads = frozenset({"text"})
        self.vectors = "single"
        self.reads_instructions = False
        self.settings: dict[str, Any] = {}

    def encode_query(self, inputs: list[str], batch_size: int = 32) -> Any:
        return np.zeros((len(inputs), 2))

    def encode_document(self, inputs: list[str], batch_size: int = 32) -> Any:
        return np.zeros((len(inputs), 2))


def register(monkeypatch: pytest.MonkeyPatch, *points: Point) -> None:
    monkeypatch.setattr(retriever, "entry_points", lambda group: list(points) if group == "m2kr.retrievers" else [])


def test_the_installed_package_registers_its_baselines() -> None:
    found = registered()
    assert {"bm25", "sentence-transformer", "all-minilm-l6-v2"} <= set(found)
    assert found["bm25"].load() is BM25


def test_a_retriever_is_made_with_checkpoint_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Point("words", Words))
    made = get_retriever("words")
    assert isinstance(made, Words)
    assert made.given == {"checkpoint": None, "device": "cpu", "dtype": "float32"}
    made = get_retriever("words", checkpoint="here", device="cuda:1", dtype="bfloat16")
    assert isinstance(made, Words)
    assert made.given == {"checkpoint": "here", "device": "cuda:1", "dtype": "bfloat16"}


def test_bm25_is_a_ranker_and_encoders_are_retrievers() -> None:
    made = get_retriever("bm25")
    assert isinstance(made, Ranker)
    assert not isinstance(made, Retriever)
    assert isinstance(Words(), Retriever)
    assert not isinstance(Words(), Ranker)


@pytest.mark.parametrize(("name", "meant"), [("bm52", "bm25"), ("BM25", "bm25"), ("sentence_transformer", "sentence-")])
def test_an_unknown_name_is_answered_with_the_closest(name: str, meant: str) -> None:
    with pytest.raises(M2KRError, match=f"there is no retriever '{name}'. Did you mean {meant}"):
        get_retriever(name)


def test_an_unknown_name_is_answered_with_all_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Point("zeta", Words), Point("alpha", Words))
    with pytest.raises(M2KRError, match=r"'qqqqqq'\. Registered: alpha, zeta\."):
        get_retriever("qqqqqq")


def test_without_registered_retrievers_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    with pytest.raises(M2KRError, match="Registered: none; install the package"):
        get_retriever("bm25")


@pytest.mark.parametrize("name", ["folder", "org/model"])
def test_a_folder_or_hub_id_is_a_checkpoint_of_sentence_transformers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    register(monkeypatch, Point("sentence-transformer", Words))
    made = get_retriever(name, dtype="float16")
    assert isinstance(made, Words)
    assert made.given == {"checkpoint": name, "device": "cpu", "dtype": "float16"}


def test_a_registered_name_goes_before_a_folder_of_that_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").mkdir()
    register(monkeypatch, Point("words", Words))
    made = get_retriever("words")
    assert isinstance(made, Words)
    assert made.given["checkpoint"] is None


@pytest.mark.parametrize("name", ["missing/deep/folder", "/missing/folder", "missing"])
def test_a_path_that_is_no_folder_is_no_retriever(name: str) -> None:
    with pytest.raises(M2KRError, match=r"named by its folder or hub id"):
        get_retriever(name)


@pytest.mark.parametrize(
    "name", ["name", "reads", "vectors", "reads_instructions", "settings", "encode_query", "encode_document"]
)
def test_a_retriever_that_lacks_a_part_of_the_protocol_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Lacking:
        def __init__(self, **given: Any) -> None:
            whole = Words(**given)
            for part in (*vars(whole), "encode_query", "encode_document"):
                if part != name:
                    setattr(self, part, getattr(whole, part))

    register(monkeypatch, Point("lacking", Lacking, "package:Lacking"))
    with pytest.raises(M2KRError, match="package:Lacking does not speak the protocol"):
        get_retriever("lacking")


def test_one_name_of_two_packages_is_refused_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Point("words", Words, "one:Words"), Point("words", Words, "two:Words"))
    with pytest.raises(M2KRError, match=r"'words' is registered twice, as one:Words and as two:Words"):
        get_retriever("bm25")


def test_one_retriever_that_is_found_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Point("words", Words, "one:Words"), Point("words", Words, "one:Words"))
    assert list(registered()) == ["words"]


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Point("far", ModuleNotFoundError("No module named 'faraway'", name="faraway")))
    with pytest.raises(M2KRError, match="'far' needs a package that is not installed: No module named 'faraway'"):
        get_retriever("far")


def test_an_entry_point_that_names_what_its_module_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Point("far", AttributeError("module 'x' has no attribute 'Y'"), "x:Y"))
    with pytest.raises(M2KRError, match="'far' is registered as x:Y, which cannot be loaded"):
        get_retriever("far")


# --- options --------------------------------------------------------------------------------------------------------


class Fusing(Words):
    """A retriever with two options of its own."""

    def __init__(
        self, *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32", fusion: str = "sum", k: str
    ) -> None:
        super().__init__(fusion=fusion, k=k)
        self.settings = {"fusion": fusion}


def test_options_reach_the_entry_point_as_strings_and_stand_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Point("fusing", Fusing), Point("words", Words))
    made = get_retriever("fusing", options={"fusion": "image", "k": "3"})
    assert isinstance(made, Fusing)
    assert made.given == {"fusion": "image", "k": "3"}
    assert made.settings == {"fusion": "image", "options": {"fusion": "image", "k": "3"}}
    anything = get_retriever("words", options={"whatever": "1"})
    assert isinstance(anything, Words)
    assert anything.given["whatever"] == "1"
    assert get_retriever("words").settings == {}


def test_an_unknown_option_is_answered_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Point("fusing", Fusing))
    with pytest.raises(
        M2KRError, match=r"no option 'fusoin'. Did you mean fusion\? It has: fusion \(default 'sum'\), k"
    ):
        get_retriever("fusing", options={"fusoin": "image"})
    monkeypatch.undo()
    with pytest.raises(M2KRError, match=r"'bm25' has no option 'b'\. It has: none"):
        get_retriever("bm25", options={"b": "0.5"})


@pytest.mark.parametrize("name", ["checkpoint", "device", "dtype"])
def test_what_has_an_argument_of_its_own_is_no_option(name: str) -> None:
    with pytest.raises(M2KRError, match=f"there is an argument for that, --{name}"):
        get_retriever("bm25", options={name: "x"})
