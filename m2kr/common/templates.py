"""Pages of Markdown made from Jinja templates: those in ``m2kr/templates``, or of another package."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).resolve().parents[1] / "templates"


def render(template: str, header: dict[str, Any] | None = None, /, *, folder: Path = FOLDER, **facts: Any) -> str:
    """Return a page; with a header, the YAML that the hub and ``load_dataset`` read stands in front of it.

    In a template, ``| n`` writes a number with its thousands set off, and ``| cell`` text so that it stays in one cell
    of a table. ``folder`` is that of the template.
    """
    page = _environment(folder).get_template(template).render(**facts)
    if header is None:
        return page
    import yaml

    # Both write the same, libyaml in a quarter of the time, which is most of that of publishing a small task.
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(header, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{text}---\n\n{page}"


def cell(text: str) -> str:
    """Return text that stays in one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


@cache
def _environment(folder: Path) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # 0.05 s

    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it is Markdown
    )
    environment.filters |= {"n": "{:,}".format, "cell": cell}
    return environment
