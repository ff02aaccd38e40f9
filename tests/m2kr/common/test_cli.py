"""`m2kr.common.cli`: one field is an option of the command, of the key, of the result and of the documentation."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Literal

import pytest

from m2kr.common.cli import REQUIRED, chosen, option, options_table, parse
from m2kr.errors import M2KRError

RESULTS = Path("results")


@dataclass(frozen=True, kw_only=True)
class Shared:
    data: str = option("folder of the benchmark")
    quiet: bool = option("no progress", False)


@dataclass(frozen=True, kw_only=True)
class Example(Shared):
    model: str | None = option(lambda: "a name", None, one_of="what", in_key=True)
    compare: tuple[Path, ...] = option("results", (), one_of="what", several="list", metavar="RESULT")
    images: tuple[str, ...] = option("pictures", (), metavar="[TASK=]ROOT")
    top_k: int = option("passages kept", 500, least=1, in_key=True, in_result=True)
    memory: float = option("scratch, 100% of it", 1.0, above=0, metavar="GIB")
    dtype: Literal["float32", "int8"] = option("of vectors", "float32", in_result=True)
    out: Path = option("folder", RESULTS)
    seed: int = option("of the draw", 0)
    workers: int = option("threads", 0, least=0, most=8)


def read(*argv: str, options: type = Example):
    return parse(options, argv, prog="python -m example", description="An example.")


def test_values_have_their_types_and_defaults():
    found = read("--data", "d", "--model", "m", "--images", "a", "--images", "OKVQA=b", "--top-k", "7")
    assert found == Example(data="d", model="m", images=("a", "OKVQA=b"), top_k=7)
    assert (found.out, found.compare, found.quiet) == (RESULTS, (), False)
    assert read("--data", "d", "--compare", "a", "b").compare == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["--top-k", "0"], ("--top-k", "0", "1 or more")),
        (["--memory", "0"], ("--memory", "more than 0")),
        (["--memory", "inf"], ("--memory is inf", "2,147,483,647 at most")),
        (["--memory", "nan"], ("--memory is nan", "2,147,483,647 at most")),
        (["--memory", "1e30"], ("--memory is 1e+30", "2,147,483,647 at most")),
        (["--top-k", "1" + "0" * 4000], ("--top-k is of 4000 digits", "2,147,483,647 at most")),
        (["--seed", "-2147483648"], ("--seed is -2147483648", "2,147,483,647 at most")),
        (["--workers", "9"], ("--workers is 9", "8 at most")),
    ],
)
def test_numbers_out_of_bounds_are_refused(argv, facts):
    with pytest.raises(M2KRError) as error:
        read("--data", "d", "--model", "m", *argv)
    assert all(fact in str(error.value) for fact in facts)


@pytest.mark.parametrize("argv", [[], ["--data", "d"], ["--data", "d", "--model", "m", "--compare", "r"], ["--what"]])
def test_lacking_unknown_and_conflicting_options_end_with_usage(argv, capsys):
    with pytest.raises(SystemExit) as end:
        read(*argv)
    assert end.value.code == 2
    assert "usage: python -m example" in capsys.readouterr().err


def test_help_shows_defaults_and_percent_signs(capsys):
    with pytest.raises(SystemExit):
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("default 500", "of the draw; default 0", "default results", "100% of it", "{float32,int8}", "a name"):
        assert part in shown


def test_an_option_is_added_in_one_place():
    more = make_dataclass(
        "More",
        [("temperature", float, option("of the softmax", 1.0, above=0, in_key=True, in_result=True))],
        bases=(Example,),
        frozen=True,
        kw_only=True,
    )
    found = read("--data", "d", "--model", "m", "--temperature", "2", options=more)
    assert chosen(found, "in_key") == {"model": "m", "top_k": 500, "temperature": 2.0}
    assert chosen(found, "in_result") == {"top_k": 500, "dtype": "float32", "temperature": 2.0}
    assert "| `--temperature TEMPERATURE` | of the softmax; default 1 |" in options_table(more).splitlines()


def test_documentation_escapes_what_would_end_a_cell():
    assert "| `--dtype float32\\|int8` | of vectors; default float32 |" in options_table(Example).splitlines()


def test_a_default_that_can_be_changed_is_refused():
    with pytest.raises(TypeError, match="tuple"):
        option("pictures", [])


def test_fields_that_are_no_options_are_left_alone():
    extended = make_dataclass("Extended", [("note", str, field(default="x"))], bases=(Shared,), frozen=True)
    assert read("--data", "d", options=extended).note == "x"
    assert REQUIRED is not None
