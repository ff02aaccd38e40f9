"""Brings the figures of a GPU into RESULTS.md: ``make bench-report GPU_FIGURES=FILE``.

The file is copied to ``tests/benchmarks/gpu.json``, so that the page can be checked against it. Without a file the page
is written anew from that copy; where there is none, it says that nothing was measured yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baselines.common.markdown import markdown_table
from m2kr.common.cli import option, parse
from m2kr.common.files import atomic, write_json
from m2kr.errors import M2KRError, run_command
from tests.benchmarks.gpu.results import read

HERE = Path(__file__).resolve().parents[1]
KEPT, PAGE = HERE / "gpu.json", HERE / "RESULTS.md"
BEGIN, END = "<!-- gpu:begin -->", "<!-- gpu:end -->"
NOTHING = (
    "**Not run yet**: no GPU was at hand. `make gpu` takes less than eight minutes on a machine with one, and\n"
    "`make bench-report` puts what it finds here."
)
_TASK_HEADS = ("preflmr-mini on", "type", "batch", "queries", "passages", "encode passages, s", "encode queries, s",
               "search, s", "all, s", "peak memory", "Recall@5")  # fmt: skip
_SHOWN_ENTRIES = 3
# Of a profile; the file has more.


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of the command."""

    figures: Path | None = option(f"file of figures; default tests/benchmarks/{KEPT.name}", None, positional=True)
    page: Path = option("the page to write; default: that of the checkout", PAGE)
    kept: Path = option("where the file is kept; default: beside the page of the checkout", KEPT)
    check: bool = option("change nothing; fail if the page is stale", False)


def report(value: Mapping[str, Any]) -> str:
    """Return the figures of a file as Markdown.

    Args:
        value: as `tests.benchmarks.gpu.results.read` returns it.
    """
    tables: dict[str, tuple[Sequence[str], Callable[[str, Mapping[str, Any]], list[str]]]] = {
        "check": (("checked", "off by", "allowed", ""), _check_row),
        "figure": (
            ("measured", "a second", "seconds, least to most", "type", "batch", "peak memory", "TFLOP/s", "matrix rate",
             "share of it"),
            _figure_row,
        ),
        "evaluation": (_TASK_HEADS, _task_row),
        "pictures": (("pictures made ready", "a second", "a second and process", "start, s"), _pictures_row),
    }  # fmt: skip
    blocks = [_head(value)]
    for name, section in value["sections"].items():
        parts = section["parts"]
        blocks.append(f"### {name.capitalize()}: {section['status']}, {section['seconds']:.0f} s")
        for kind, (heads, row) in tables.items():
            chosen = {part: facts for part, facts in parts.items() if facts.get("kind") == kind}
            rows = [row(part, facts) for part, facts in chosen.items()]
            if rows:
                blocks.append(markdown_table(heads, rows))
        if lines := list(_remarks(section)):
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _head(value: Mapping[str, Any]) -> str:
    """Return where the figures are from, and what of it makes them worth nothing."""
    facts, settings = value["environment"], value["settings"]
    versions = facts.get("versions", {})
    known = [
        plain(facts.get("hardware", "unknown hardware")),
        f"CUDA {facts['cuda']}" if facts.get("cuda") else "",
        f"{facts['memory'] / 2**30:.0f} GiB" if facts.get("memory") else "",
        f"{facts['cores']} cores" if facts.get("cores") else "",
        *(
            f"{name} {versions[name]}"
            for name in ("torch", "transformers", "sentence-transformers")
            if name in versions
        ),
        f"commit {facts['commit'][:12]}" if facts.get("commit") else "",
    ]
    text = (
        f"{', '.join(filter(None, known))}. Matrix rates are those of the same device, of the best square product of\n"
    )
    text += "random numbers, measured in the same process; times are between two events of the device, median of three."
    if settings["tiny"] or settings["device"] == "cpu":
        text += "\n\n**These are no measurements**: "
        text += "sizes are tiny." if settings["tiny"] else "they are of a CPU."
    return text


def _check_row(name: str, facts: Mapping[str, Any]) -> list[str]:
    passed = "as it has to be" if facts["passed"] else "**wrong**"
    off = facts["off"] if isinstance(facts["off"], str) else f"{facts['off']:.1e}"
    return [plain(name), off, f"{facts['allowed']:.0e}", passed]


def _figure_row(name: str, facts: Mapping[str, Any]) -> list[str]:
    times = facts["seconds"]
    some = (
        f" ({facts['passages']:,} of {facts['of']:,} passages)" if facts.get("passages", 0) < facts.get("of", 0) else ""
    )
    return [
        f"{plain(name)}{some}",
        f"{facts['per_second']:,.0f} {facts['unit']}",
        f"{times['least']:.3g} to {times['most']:.3g}",
        facts["dtype"],
        f"{facts['batch']:,}",
        f"{facts['peak_memory'] / 2**30:.1f} GiB",
        f"{facts['achieved'] / 1e12:.3g}",
        f"{facts['matrix_rate'] / 1e12:.3g}",
        f"{100 * facts['achieved'] / facts['matrix_rate']:.1f} %",
    ]


def _task_row(_: str, facts: Mapping[str, Any]) -> list[str]:
    phases = [facts.get("phases", {}).get(phase) for phase in ("encode_passages", "encode_queries", "search")]
    return [
        plain(facts["task"]),
        facts["dtype"],
        str(facts.get("batch", "–")),
        f"{facts['queries']:,}",
        f"{facts['passages']:,}",
        *("–" if seconds is None else f"{seconds:.2f}" for seconds in phases),
        f"{facts['seconds']:.1f}",
        f"{facts['peak_memory'] / 2**30:.1f} GiB",
        f"{100 * facts['Recall@5']:.1f}",
    ]


def _pictures_row(name: str, facts: Mapping[str, Any]) -> list[str]:
    rate = facts["per_second"]
    return [plain(name), f"{rate:,.0f}", f"{rate / max(1, facts['workers']):,.0f}", f"{facts['start_seconds']:.1f}"]


def _remarks(section: Mapping[str, Any]) -> Iterator[str]:
    """Yield as lines of a list what was not measured and why, what else is known, and what takes the time."""
    if rates := section.get("rates"):
        yield f"- matrix rates: {', '.join(f'{name} {rate / 1e12:.3g} TFLOP/s' for name, rate in rates.items())}"
    if section.get("why"):
        yield f"- {plain(section['why'])}"
    for name, part in section["parts"].items():
        if part.get("why"):
            yield f"- {plain(name)}: {part['status']}: {plain(part['why'])}"
        if part.get("note"):
            yield f"- {plain(name)}: {plain(part['note'])}"
        if part.get("profile"):
            entries = (f"{entry['share']:.0%} {plain(entry['name'])}" for entry in part["profile"][:_SHOWN_ENTRIES])
            yield f"- {plain(name)}, of its time: {', '.join(entries)}"


def plain(value: str) -> str:
    """Return a text that is no Markdown or HTML, in one line."""
    text = " ".join(str(value).split())
    for character, instead in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;")):
        text = text.replace(character, instead)
    return "".join(f"\\{character}" if character in "\\`*_[]" else character for character in text)


def updated(page: str, block: str) -> str:
    """Return a page with the block between its markers.

    Raises:
        M2KRError: the markers are not there, once each and in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise M2KRError(f"the page needs the lines {BEGIN} and {END}, once each, where the figures are to stand.")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: exit code 1 where ``--check`` finds the page stale."""
    options = parse(
        ReportOptions,
        argv,
        prog="python -m tests.benchmarks.gpu.report",
        description="Put figures of a GPU into a page, between its markers.",
    )
    path = options.figures or options.kept
    block = NOTHING
    if options.figures is not None or path.is_file():
        value = read(path)
        if value["settings"]["tiny"] or value["settings"]["device"] == "cpu":
            raise M2KRError(f"{path} holds figures of {value['settings']}, which measure no GPU. Name another file.")
        block = report(value)
        if not options.check:
            write_json(options.kept, value)
    text = options.page.read_text(encoding="utf-8")
    new = updated(text, block)
    if new == text:
        return 0
    if options.check:
        print(f"{options.page}: the figures of a GPU are stale; run make bench-report")
        return 1
    with atomic(options.page, "w") as file:
        file.write(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
