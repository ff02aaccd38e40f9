"""How retrievers and readers are found by name, and what is said where they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baselines.bm25 import BM25
from m2kr import reader, retriever
from m2kr.common import registry
from m2kr.errors import M2KRError
from m2kr.reader import Reader, get_reader
from m2kr.retriever import Retriever, SparseRetriever, get_retriever


class Point:
    """An entry point that loads what it is given; an exception is raised."""

    def __init__(self, name: str, made: Any, value: str = "package:thing") -> None:
        self.name, self.made, self.value = name, made, value

    def load(self) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


class Fake:
    """A retriever and a reader that keeps what it was made with."""

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.name, self.reads, self.vectors, self.reads_instructions = "fake", frozenset({"text"}), "single", False
        self.settings: dict[str, Any] = {}

    def encode_query(self, inputs: list[str], batch_size: int = 32) -> Any: ...

    def encode_document(self, inputs: list[str], batch_size: int = 32) -> Any: ...

    def answer(self, asked: Any, batch_size: int = 8) -> Any: ...


def fusing(
    *, checkpoint: str | None = None, device: str = "cpu", dtype: str = "float32", fusion: str = "sum", k: str = ""
) -> Fake:
    return Fake(fusion=fusion, k=k)


Get = Callable[..., Any]
GETTERS = {"retriever": get_retriever, "reader": get_reader}
ANY_MODEL = {"retriever": "sentence-transformer", "reader": "image-text-to-text"}


@pytest.fixture(params=list(GETTERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def get(kind: str) -> Get:
    return GETTERS[kind]


@pytest.fixture
def register(kind: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register these points of the kind, and nothing else."""

    def points(*given: Point) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: list(given) if group == f"m2kr.{kind}s" else [])

    return points


def test_the_installed_package_registers_its_baselines() -> None:
    found = retriever.REGISTRY.registered()
    assert {"bm25", "sentence-transformer", "all-minilm-l6-v2"} <= set(found)
    assert found["bm25"].load() is BM25
    assert "image-text-to-text" in reader.REGISTRY.registered()


def test_a_model_is_made_with_checkpoint_device_dtype_and_options(get: Get, register: Any) -> None:
    register(Point("fake", Fake))
    assert get("fake").given == {"checkpoint": None, "device": "cpu", "dtype": "float32"}
    given = {"checkpoint": "here", "device": "cuda:1", "dtype": "bfloat16"}
    assert get("fake", **given, options={"words": "2"}).given == {**given, "words": "2"}


def test_options_of_a_retriever_stand_in_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point("fusing", fusing)])
    assert get_retriever("fusing", options={"k": "3"}).settings == {"options": {"k": "3"}}
    assert get_retriever("fusing").settings == {}


def test_protocols_tell_retrievers_of_vectors_from_those_without() -> None:
    made = get_retriever("bm25")
    assert isinstance(made, SparseRetriever)
    assert not isinstance(made, Retriever)
    assert isinstance(Fake(), Retriever)
    assert isinstance(Fake(), Reader)
    assert not isinstance(Fake(), SparseRetriever)


@pytest.mark.parametrize("name", ["folder", "org/model", "fake"])
def test_a_folder_or_hub_id_is_a_checkpoint_unless_it_is_registered(
    get: Get, register: Any, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "fake"):
        (tmp_path / folder).mkdir()
    register(Point(ANY_MODEL[kind], Fake), Point("fake", Fake))
    assert get(name).given["checkpoint"] == (None if name == "fake" else name)


@pytest.mark.parametrize(
    ("points", "name", "options", "message"),
    [
        ([Point("zeta", Fake), Point("parrot", Fake)], "Parot", {}, r"no KIND 'Parot'. Did you mean parrot\?"),
        ([Point("zeta", Fake), Point("alpha", Fake)], "qqqqqq", {}, r"'qqqqqq'\. Registered: alpha, zeta\."),
        ([], "fake", {}, "Registered: none; install the package"),
        ([Point("fake", Fake)], "missing/deep/folder", {}, "named by its folder or hub id"),
        ([Point("fake", Fake)], "/missing/folder", {}, "named by its folder or hub id"),
        ([Point("far", ModuleNotFoundError("No module 'x'"))], "far", {}, "'far' needs a package .*: No module 'x'"),
        (
            [Point("far", AttributeError("no Y"), "x:Y")],
            "far",
            {},
            "'far' is registered as x:Y, which cannot be loaded",
        ),
        ([Point("dict", dict, "package:Dict")], "dict", {}, r"package:Dict does not speak the protocol of m2kr\.KIND"),
        ([Point("p", Fake, "one:P"), Point("p", Fake, "two:P")], "p", {}, "registered twice, as one:P and as two:P"),
        (
            [Point("f", fusing)],
            "f",
            {"fusoin": "image"},
            r"no option 'fusoin'. Did you mean fusion\? It has: fusion \(default 'sum'\), k",
        ),
        ([Point("f", Fake)], "f", {"device": "cpu"}, "there is an argument for that, --device"),
    ],
)
def test_what_cannot_be_made_is_said(
    get: Get, register: Any, kind: str, points: list[Point], name: str, options: dict[str, str], message: str
) -> None:
    register(*points)
    with pytest.raises(M2KRError, match=message.replace("KIND", kind)):
        get(name, options=options)


def test_one_model_that_is_found_twice_is_one(get: Get, register: Any) -> None:
    register(Point("fake", Fake), Point("fake", Fake))
    assert get("fake").name == "fake"


@pytest.mark.parametrize(
    "name", ["name", "reads", "vectors", "reads_instructions", "settings", "encode_query", "encode_document", "answer"]
)
def test_a_model_that_lacks_a_part_of_its_protocol_is_refused(get: Get, register: Any, kind: str, name: str) -> None:
    class Lacking:
        def __init__(self, **given: Any) -> None:
            whole = Fake(**given)
            for part in (*vars(whole), "encode_query", "encode_document", "answer"):
                if part != name:
                    setattr(self, part, getattr(whole, part))

    register(Point("lacking", Lacking, "package:Lacking"))
    parts = {"name", "reads", "settings"}
    parts |= {"answer"} if kind == "reader" else {"vectors", "reads_instructions", "encode_query", "encode_document"}
    if name not in parts:
        assert get("lacking")
        return
    with pytest.raises(M2KRError, match="package:Lacking does not speak the protocol"):
        get("lacking")


# --- records ---------------------------------------------------------------------------------------------------------


def _package(folder: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a package with records of models, which fails where it is imported."""
    (folder / "described").mkdir()
    (folder / "described" / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "described" / "models.toml").write_text(content)
    monkeypatch.syspath_prepend(folder)


RECORD = 'reads = ["text"]\nvectors = "single"\nlicence = "mit"\nsource = "here"\nparameters = 1234\n'


def test_a_record_is_a_model_by_itself(
    get: Get, register: Any, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = (
        f'[{kind}.new]\n{RECORD}hub_id = "org/new"\noptions = {{ fusion = "image", k = "1" }}\n[{kind}.old]\n{RECORD}'
    )
    _package(tmp_path, content, monkeypatch)
    register(Point(ANY_MODEL[kind], Fake), Point("old", Fake, "described.models:Old"))
    assert get("new").given["checkpoint"] == "org/new"
    made = get("new", checkpoint="folder", options={"k": "2"})
    assert (made.given["checkpoint"], made.given["fusion"], made.given["k"]) == ("folder", "image", "2")
    assert get("old").given["checkpoint"] is None
    with pytest.raises(M2KRError, match="Did you mean new"):
        get("nev")
    if kind == "retriever":
        assert made.settings["options"] == {"fusion": "image", "k": "2"}
        table = retriever.REGISTRY.table().splitlines()
        assert [line.split()[0] for line in table[2:]] == ["new", "old", ANY_MODEL[kind]]
        assert table[2].split()[1:] == ["text", "single", "1,234", "mit", "org/new", "here"]


@pytest.mark.parametrize(
    ("content", "fact"),
    [("[", "models.toml"), ("[retriever.new]\n" + RECORD + "size = 3", "size"), ("[retriever.new]", "reads")],
)
def test_records_that_cannot_be_are_said_with_their_file(
    register: Any, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, fact: str
) -> None:
    _package(tmp_path, content, monkeypatch)
    register(Point("old", Fake, "described:Old"))
    with pytest.raises(M2KRError, match=fact):
        {"retriever": retriever, "reader": reader}[kind].REGISTRY.names()


def test_a_prefix_is_what_loads_and_the_rest_its_checkpoint(get: Get, register: Any, kind: str) -> None:
    register(Point("theirs", Fake), Point(ANY_MODEL[kind], Fake))
    assert get("theirs:org/x:y").given["checkpoint"] == "org/x:y"
    with pytest.raises(M2KRError, match=r"theirs:a names a model, and --checkpoint b another"):
        get("theirs:a", checkpoint="b")
    with pytest.raises(M2KRError, match=rf"there is no {kind} 'others:a'"):
        get("others:a")


def test_every_model_of_the_baselines_has_a_record() -> None:
    records = retriever.REGISTRY.records()
    assert set(retriever.REGISTRY.registered()) - set(records) <= {"mteb", "sentence-transformer"}
    assert all(record.licence and record.source for record in records.values())


def test_a_package_that_comes_is_found_by_a_process_that_has_looked(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"retriever": retriever, "reader": reader}[kind].REGISTRY
    monkeypatch.syspath_prepend(tmp_path)
    before = models.names()
    assert "newcomer" not in before
    told = tmp_path / "newcomer-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: newcomer\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[m2kr.{kind}s]\nnewcomer = newcomer:Model\n")
    assert models.names() == sorted([*before, "newcomer"])
