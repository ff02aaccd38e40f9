"""Every command and every piece of Python of the pages for people, done one after another on the made-up world.

They are done as a reader would, in the folder that `make demo` leaves, page by page, but in one process. `PARSED` lists
those that cannot be done here: their options are read by the command's own parser. The hub is one on this machine.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from m2kr.common import cli
from m2kr.errors import run_command
from m2kr.results.record import read_result
from m2kr.tasks import TASKS
from tests.hub_server import HubServer
from tests.m2kr.hub import client_of, pictures, published, stored_zip

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "README.md"

SHELL = ("sh", "bash", "shell", "console")
OTHERS = ("text", "markdown", "toml", "yaml", "bibtex")
"""Languages of blocks that hold no command. A block without one is not to hold any, either."""

PARSED = {
    "make": "installs, or takes minutes: the target has to be there",
    "pip install": "installs: the extra has to be there",
    "source .venv/bin/activate": "makes the commands those of the environment that make demo has made",
    "python -m m2kr.evaluate --model preflmr-vit-l": "fetches and runs a model of 400 million parameters",
    "python -m m2kr.evaluate --model gme-qwen2-vl-2b": "fetches and runs a model of two billion parameters",
    "python -m m2kr.evaluate --model colqwen2 --checkpoint /models/colqwen2": "loads a model of two billion parameters",
    "python -m m2kr.evaluate --model org/model": "stands for any model of the hub",
    "python -m m2kr.evaluate --model preflmr-vit-b --checkpoint runs/stage4": "needs the four stages of training",
    "python -m m2kr.answer --reader blip2-flan-t5-xl": "fetches and runs a model of four billion parameters",
    "python -m leaderboard reproduce": "fetches and runs a model of 327 million parameters, and refuses made-up data",
    "python -m leaderboard verify --model preflmr-vit-l": "needs results of a model with published figures",
    "python -m baselines.preflmr.train --stage 1 --text bert-base-uncased": "trains for days on a GPU",
    "python -m baselines.preflmr.train --stage 2 --init runs/stage1": "trains for days on a GPU",
    "python -m baselines.preflmr.train --stage 3 --init runs/stage2": "trains for days on a GPU",
    "python -m baselines.preflmr.train --stage 4 --init runs/stage3": "trains for days on a GPU",
    "python -m baselines.preflmr.train --stage 4 --init LinWeizheDragon/PreFLMR_ViT-B": "trains for hours on a GPU",
    "python -m baselines.preflmr.scaling --form cpu --out": "trains for half an hour",
    "python -m baselines.preflmr.scaling --form gpu": "trains for days on a GPU",
    "python -m baselines.minis.recipe": "trains for minutes",
    "ray start": "starts a cluster",
    "head=$(scontrol": "needs Slurm",
    "srun": "needs Slurm",
    "sleep": "waits for the line before it",
}
"""How commands begin that are not run, and why."""


class Block(NamedTuple):
    """A piece of code of a page, with the text before it."""

    page: Path
    line: int
    language: str
    code: str
    before: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Command(NamedTuple):
    """A command of a page, without its comment."""

    place: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def parsed(self) -> str | None:
        """The entry of `PARSED` that it is under."""
        begins = [entry for entry in PARSED if f"{self.text} ".startswith(f"{entry} ")]
        return begins[0] if begins else None


def pages() -> list[Path]:
    """The pages in the order of reading: the README, those of docs/ as their index lists them, the others."""
    listed = re.findall(r"^\| \[([\w-]+\.md)\]", INDEX.read_text(encoding="utf-8"), re.MULTILINE)
    docs = [ROOT / "docs" / name for name in listed]
    return [ROOT / "README.md", INDEX, *docs, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "data_cards").glob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The pieces of code of a page."""
    text, before, language, code, start = page.read_text(encoding="utf-8"), "", None, "", 0
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        mark = line.strip().startswith("```")
        if language is None and mark:
            language, code, start = line.strip().strip("`"), "", number
        elif language is not None and mark:
            yield Block(page, start, language, code, before)
            language, before = None, ""
        elif language is None:
            before += line
        else:
            code += line
    assert language is None, f"{page}:{start}: the block has no end"


def commands(block: Block) -> list[Command]:
    """The commands of a block of a shell."""
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    words = [shlex.split(line, comments=True) for line in lines]
    return [Command(block.place, tuple(each)) for each in words if each]


BLOCKS = [block for page in pages() for block in blocks(page)]
COMMANDS = [command for block in BLOCKS if block.language in SHELL for command in commands(block)]


def main_of(module: str) -> Callable[..., int]:
    """The function behind ``python -m MODULE``."""
    spec = find_spec(module)
    assert spec is not None, f"there is no module {module}"
    main: Callable[..., int] = import_module(f"{module}.__main__" if spec.submodule_search_locations else module).main
    return main


class Parsed(Exception):  # noqa: N818 - nothing went wrong
    """The options of a command were read."""


def parse(arguments: Sequence[str], main: Callable[..., int]) -> None:
    """Let a command read its options, and do nothing."""
    options_of: Any = cli.options_of

    def read(options: type[Any], given: Any) -> Any:
        found = options_of(options, given)
        if "command" in options.__dataclass_fields__:  # which of several, whose options are read next
            return found
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "options_of", read)
        with pytest.raises(Parsed):
            main(list(arguments))


def make(words: Sequence[str]) -> None:
    """Look up the targets and variables of a ``make``."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        pattern = rf"^{re.escape(name)} \?=" if equals else rf"^{re.escape(name)}:"
        assert re.search(pattern, text, re.MULTILINE), f"the Makefile has no {name}"


def check(words: Sequence[str]) -> None:
    """Look whether what a command names is there, as far as that can be told without doing it."""
    match words:
        case ["make", *targets]:
            make(targets)
        case ["pip", "install", "-e", named]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            assert named.removeprefix(".[").removesuffix("]") in extras["optional-dependencies"]
        case _ if "python" in words:
            python, dash, module, *arguments = words[words.index("python") :]
            assert (python, dash) == ("python", "-m")
            parse(arguments, main_of(module))


def do(command: Command) -> None:
    """Run a command, or let it be parsed; raise where it does not end well."""
    if command.parsed:
        check(command.words)
        return
    match command.words:
        case ["cd", folder]:
            os.chdir(folder)
        case ["cp", "-r", source, target]:
            shutil.copytree(source, target)
        case ["python", "-m", module, *arguments]:
            if module == "m2kr.synthetic" and "--scale" not in arguments:
                arguments += ["--scale", "0.2"]  # of the tests' world, which stands for the demo's
            try:
                code = run_command(main_of(module), arguments)
            except SystemExit as ended:  # as --help and its like end
                code = ended.code
            assert code == 0
        case _:
            raise AssertionError("this test does not know how to do that")


@pytest.fixture(scope="module")
def demo(world: Path, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves, with fewer results, in something like a checkout."""
    folder = tmp_path_factory.mktemp("checkout") / "demo"
    shutil.copytree(world, folder / "raw", copy_function=os.link)
    shutil.copytree(built, folder / "m2kr-data")
    (folder.parent / "baselines").symlink_to(ROOT / "baselines")
    return folder


@pytest.fixture
def at_hand(demo: Path) -> None:
    """What readers have of their own where the pages say so: a picture, and the data of the challenge."""
    import polars as pl

    shutil.copy(next((demo / "raw" / "coco" / "train2014").iterdir()), demo / "photo.jpg")
    challenge = demo / "M2KR-Challenge"
    (challenge / "query_images").mkdir(parents=True)
    shutil.copy(demo / "photo.jpg", challenge / "query_images")
    tables = {
        "challenge_data": {"question_id": ["q"], "question": ["What is this?"], "img_path": ["photo.jpg"]},
        "challenge_passage": {"passage_id": list("abcde"), "passage_content": [f"Tower {n}." for n in range(5)]},
    }
    for name, columns in tables.items():
        (challenge / name).mkdir()
        pl.DataFrame(columns).write_parquet(challenge / name / "train-00000-of-00001.parquet")


@pytest.fixture
def hub(world: Path, built: Path, tmp_path: Path) -> Iterator[None]:
    """The published tables of LLaVA and their pictures, at a hub on this machine."""
    coco = {name: content for name, content in pictures(world, "coco").items() if name.startswith("train2014/")}
    with HubServer() as server, client_of(server, tmp_path / "home"):
        published(server, built, {"LLAVA/train2014.zip": stored_zip(coco)}, ["LLaVA"])
        yield


def test_they_work_in_the_order_in_which_they_stand(
    demo: Path,
    at_hand: None,
    hub: None,
    undrawn: None,
    unsampled: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(demo)
    for model, tasks in (("bm25", "all"), ("dpr-mini", "EVQA"), ("preflmr-mini", "EVQA")):
        given = ["--model", model, "--tasks", tasks, *(["--ignore-images"] if model == "bm25" else [])]
        assert run_command(main_of("m2kr.evaluate"), given) == 0
    made = set(demo.glob("results/**/*.json"))
    failed = []

    def done(place: str, what: str, do: Callable[[], object]) -> None:
        capsys.readouterr()
        try:
            do()
        except (Exception, SystemExit) as error:
            told = "".join(traceback.format_exception(error)[-3:])
            failed.append(f"{place}: {what}\n{told}{capsys.readouterr().err[-2000:]}")

    page = None
    for block in BLOCKS:
        if block.page != page:
            page = block.page
            os.chdir(demo.parent if page == ROOT / "README.md" else demo)
        if block.language == "python":
            if saved := re.search(r"as `(\w+\.py)`:\s*$", block.before):
                Path(saved[1]).write_text(block.code, encoding="utf-8")
            else:
                done(block.place, block.code, lambda block=block: exec(compile(block.code, block.place, "exec"), {}))
        elif block.language in SHELL:
            for command in commands(block):
                done(block.place, command.text, lambda command=command: do(command))
    assert not failed, "\n\n".join(failed)
    # All of these are there after `make demo`, with its options: a command that makes one with others is refused there.
    there = [
        demo / "results" / model / f"{task}.json"
        for model in ("bm25", "clip-mini", "dpr-mini", "preflmr-mini")
        for task in TASKS
    ]
    there += demo.glob("results/*/answers/reader-mini/*.joint-5.json")
    there += demo.glob("results/no-retrieval/**/*.json")
    assert [path for path in there if path.exists() and path not in made] == []
    result = read_result(demo / "results" / "my-clip" / "EVQA.json")
    assert result["metrics"]["Recall@10"] > 0
    assert (demo / "site" / "runs" / "my-clip" / "queries-EVQA.html").is_file()


def test_every_command_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """Counted in another way: every line of a page that begins as one does, outside of sentences and of shown files."""
    begins = r"^\s*(?:\$ )?(?:python|make|pip|accelerate|torchrun|uv|git|cd|cp|source|bash|curl|ray|srun)\s(?!.*[.:;]$)"
    shown = rf"^```(?:{'|'.join(OTHERS)})\n.*?^```"
    for page in pages():
        text = re.sub(shown, "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        lines = re.findall(begins, text, re.MULTILINE)
        found = [command for command in COMMANDS if command.place.startswith(f"{page.relative_to(ROOT)}:")]
        assert len(found) >= len(lines), page
    unknown = [block.place for block in BLOCKS if block.language not in (*SHELL, *OTHERS, "python", "")]
    assert not unknown, f"blocks in a language that is not known here: {unknown}"
    run = [command for command in COMMANDS if not command.parsed]
    snippets = sum(block.language == "python" for block in BLOCKS)
    with capsys.disabled():
        print(f"{len(run)} commands run, {len(COMMANDS) - len(run)} parsed, {snippets} pieces of Python", end=" ")
    assert len(run) > 40


def test_what_is_only_parsed_stands_on_a_page() -> None:
    used = {command.parsed for command in COMMANDS}
    assert [entry for entry in PARSED if entry not in used] == []


def test_the_index_lists_every_page_of_docs() -> None:
    assert set(pages()) >= set((ROOT / "docs").glob("*.md"))


INLINE = sorted(
    {
        " ".join(found.split())
        for page in pages()
        for found in re.findall(
            r"(?<!`)`(?:PYTHONPATH=. )?((?:python -m|make|pip install -e) [^`]+)`",
            re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S),
        )
    }
)


@pytest.mark.parametrize("text", INLINE)
def test_commands_in_sentences_have_options_that_exist(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(text)
    if words[0] != "python":
        check(words)
        return
    module, arguments = words[2], words[3:]
    main = main_of(module)
    plain = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    asked = [*arguments[:plain], "--help"]
    monkeypatch.setattr(sys, "argv", [module, *asked])
    with pytest.raises(SystemExit, match="0"):
        main(*([asked] if signature(main).parameters else []))
    told = capsys.readouterr().out
    assert [word for word in arguments if word.startswith("--") and word.partition("=")[0] not in told] == []


def test_the_figures_of_the_readme_stand_where_it_links_to() -> None:
    """Those in bold, of the table under the two commands."""
    rows = re.findall(
        r"^\| \w+ \| (.*) \| \[.*\]\((\S+?)(?:#\S+)?\) \|$", (ROOT / "README.md").read_text("utf-8"), re.M
    )
    assert len(rows) == 3
    for told, page in rows:
        figures = re.findall(r"\*\*([^*]+)\*\*", told)
        text = (ROOT / page).read_text(encoding="utf-8")
        assert figures
        assert [
            figure for figure in figures if not re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d,]|\.\d)", text)
        ] == []


def test_an_option_that_does_not_exist_is_noticed() -> None:
    """As the test itself does: by a command that is run, one that is parsed, and one in a sentence."""
    with pytest.raises(SystemExit):
        do(Command("", ("python", "-m", "m2kr.evaluate", "--model", "preflmr-vit-l", "--no-such")))
    with pytest.raises(AssertionError):
        do(Command("", ("python", "-m", "m2kr.results", "--no-such")))
    with pytest.raises(AssertionError):
        do(Command("", ("make", "no-such")))
    with pytest.raises(AssertionError):
        do(Command("", ("curl", "example.org")))
