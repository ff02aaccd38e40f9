"""The plots of the site, drawn by matplotlib as SVG that stands in the page.

The page's style sheet colours them: series are ``var(--s0)`` to ``var(--s7)``, text and axes the colour of the text, so
that one drawing serves light and dark pages. Attributes take the place of matplotlib's style attributes, which a
strict content security policy forbids.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 8
"""Colours there are; a plot of more series uses them again."""

LEAST_SPAN = 10.0
"""Points that an axis spans at least."""

_INNER = 0.3
# Radius of the inner ring of a radar chart, as part of that of the rim.
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
# matplotlib is given these and they are replaced: it knows no style sheet.
_COLOURS = {f"#00000{number + 1}": f"var(--s{number})" for number in range(SERIES)}
_COLOURS |= {"#000000": "currentColor", "#cccccc": "var(--grid)", "#ffffff": "var(--page)"}
# In front of what is said when the pointer rests on a series.
_SAID = "said: "
_MARKERS = "osD^vPX*"
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

Series = tuple[str, Sequence[float | None]]
"""A name, and one percentage for each axis or place; None where there is none."""


def radar(axes: Sequence[str], series: Sequence[Series], *, title: str, name: str) -> Markup:
    """Return a radar chart as the article draws it: each axis from its smallest to its largest figure.

    The smallest is on the inner ring, the largest on the rim, and both stand beside the axis. An axis spans
    `LEAST_SPAN` points at least, so that noise is not drawn large. A single series is drawn from 0 in the middle to 100
    at the rim. A series is broken where it has no figure.

    Args:
        axes: labels.
        series: what is drawn, each with a value for each axis.
        title: what the chart shows; read out in place of it.
        name: unique in the page.
    """
    import numpy as np

    inner = _INNER if len(series) > 1 else 0.0
    lows, highs = [], []
    for number in range(len(axes)):
        there = [value for _, values in series if (value := values[number]) is not None]
        highs.append(max(max(there), LEAST_SPAN) if len(series) > 1 else 100.0)
        lows.append(min(min(there), highs[-1] - LEAST_SPAN) if len(series) > 1 else 0.0)
    with _figure(5.8, 5.2) as figure:
        plot: Any = figure.add_axes((0.17, 0.13, 0.66, 0.74), projection="polar")
        angles = np.linspace(0, 2 * math.pi, len(axes), endpoint=False)
        plot.set_theta_offset(math.pi / 2)
        plot.set_theta_direction(-1)
        plot.set_ylim(0, 1)
        rings = [inner + (1 - inner) * part for part in (0, 0.25, 0.5, 0.75, 1)]
        plot.set_yticks(rings, [""] * len(rings))
        plot.set_xticks(angles, [""] * len(axes))
        for angle, label, low, high in zip(angles, axes, lows, highs, strict=True):
            side = math.sin(angle)
            aligned = "center" if abs(side) < 0.2 else "left" if side > 0 else "right"
            distance = 1.09 + 0.16 * max(0.0, abs(math.cos(angle)) - 0.5)
            text = f"{label}\n{low:.1f}–{high:.1f}" if inner else label
            plot.text(angle, distance, text, ha=aligned, va="center", linespacing=1.15)
        closed = np.append(angles, angles[0])
        for number, (label, values) in enumerate(series):
            places = [
                math.nan if value is None else inner + (1 - inner) * (value - low) / (high - low)
                for value, low, high in zip(values, lows, highs, strict=True)
            ]
            plot.plot(closed, [*places, places[0]], clip_on=False, gid=f"{_SAID}{label}", **_style(number))
        return _finish(figure, title, _readable(axes, series), name)


@dataclass(frozen=True)
class SizeAxis:
    """What figures are drawn against, on a logarithmic scale.

    Attributes:
        what: parameters, or bytes a passage.
        units: (factor, sign) of the labels, from the largest.
    """

    what: str
    units: tuple[tuple[float, str], ...]

    def label(self, size: float) -> str:
        """Return a size as its axis has it."""
        factor, sign = next((unit for unit in self.units if size >= unit[0]), self.units[-1])
        return f"{size / factor:g} {sign}".rstrip()


PARAMETERS = SizeAxis("parameters", ((1e9, "B"), (1e6, "M")))
PASSAGE_BYTES = SizeAxis("bytes a passage", ((1e6, "MB"), (1e3, "kB"), (1, "B")))


def against_size(
    axis: SizeAxis,
    series: Sequence[tuple[str, Sequence[tuple[str, float, float]]]],
    *,
    styles: Sequence[str],
    joined: Collection[str],
    fronts: Mapping[str, Collection[str]],
    title: str,
    name: str,
) -> Markup:
    """Return a measure against a size of the models, on a logarithmic scale.

    Args:
        axis: the size.
        series: each a name and (model, size, percent).
        styles: names of all series of all plots of the page; a series looks alike in each.
        joined: names of series that are one family of models, which a line joins.
        fronts: series -> its models that no other of it beats with as small a size; each gets a ring.
        title: what is measured; stands above the plot.
        name: unique in the page.
    """
    said = []
    with _figure(3.1, 2.3) as figure:
        plot = figure.add_axes((0.13, 0.12, 0.84, 0.75))
        _plain(plot)
        for label, points in series:
            ordered = sorted(points, key=lambda point: point[1])
            style = _style(styles.index(label)) | ({} if label in joined else {"linestyle": "none"})
            sizes, values = [point[1] for point in ordered], [point[2] for point in ordered]
            plot.plot(sizes, values, gid=f"{_SAID}{label}", **style)
            said.append(f"{label}: " + ", ".join(f"{model} {value:.1f}" for model, _, value in ordered))
            front = [point for point in ordered if point[0] in fronts.get(label, ())]
            if front:
                _draw_front(plot, front, style["color"], label)
                said.append(f"Front of {label}: " + ", ".join(model for model, _, _ in front))
        every = [point for _, points in series for point in points]
        low, high = min(point[1] for point in every) / 1.5, max(point[1] for point in every) * 1.5
        plot.set_xscale("log")
        plot.minorticks_off()
        steps = (1, 3) if high / low > 5 else (1, 1.5, 2, 3, 5, 7)
        marks = [mark * 10.0**power for power in range(12) for mark in steps if low <= mark * 10**power <= high]
        marks = marks[:: max(1, -(-len(marks) // 5))]  # more than five would run into each other
        plot.set_xticks(marks, [axis.label(mark) for mark in marks])
        plot.set_xlim(low, high)
        plot.set_ylim(*_span([point[2] for point in every]))
        plot.set_title(title, fontsize=10, loc="left")
        return _finish(figure, f"{title} against {axis.what}", ". ".join(said), name)


def _draw_front(plot: Axes, front: Sequence[tuple[str, float, float]], colour: str, label: str) -> None:
    """Draw a ring round each model of a front, and the steps between them."""
    plot.plot(
        [size for _, size, _ in front],
        [value for _, _, value in front],
        drawstyle="steps-post",
        linewidth=0.8,
        linestyle=(0, (1, 2)),
        color=colour,
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgewidth=1.2,
        gid=f"{_SAID}front of {label}",
    )


def curve(series: Sequence[tuple[str, Sequence[tuple[int, float, float, float]]]], *, title: str, name: str) -> Markup:
    """Return measures against the cut-off K, each with its interval as a band.

    Args:
        series: a name, and (K, percent, lower limit, upper limit).
        title: what the plot shows.
        name: unique in the page.
    """
    said: list[str] = []
    drawn: list[Any] = []
    marks = tuple(sorted({point[0] for _, points in series for point in points}))
    with _settings():
        figure, plot, axes = _curve_axes(marks)
        try:
            for number, (label, points) in enumerate(series):
                ks = [point[0] for point in points]
                style = _style(number)
                drawn += plot.plot(ks, [point[1] for point in points], gid=f"{_SAID}{label}", label=label, **style)
                lows, highs = [point[2] for point in points], [point[3] for point in points]
                drawn.append(plot.fill_between(ks, lows, highs, color=style["color"], alpha=0.18, linewidth=0))
                said.append(f"{label}: " + ", ".join(f"{point[1]:.1f} at {point[0]}" for point in points))
            if len(series) > 1:
                drawn.append(plot.legend(loc="lower right", frameon=False, fontsize=9))
            root = _drawn(figure)
            place = next(group for group in root.iter() if group.get("id") == "axes_1")
            place[1:1] = deepcopy(axes)  # behind the background, in front of which everything else stands
            return _for_page(root, title, ". ".join(said), name)
        finally:
            for artist in drawn:
                artist.remove()


@cache
def _curve_axes(marks: tuple[int, ...]) -> tuple[Figure, Axes, list[ElementTree.Element]]:
    """Return an empty plot over these cut-offs, to be used again, and the drawing of its two axes.

    A site has a curve for each result, and to make and draw the axes takes ten times as long as the rest of it.
    """
    with _figure(3.9, 2.6) as figure:
        plot = figure.add_axes((0.12, 0.16, 0.84, 0.8), autoscale_on=False)
        _plain(plot)
        plot.set_xscale("log")
        plot.minorticks_off()
        plot.set_xticks(marks, [str(mark) for mark in marks])
        margin = (marks[-1] / marks[0]) ** 0.05
        plot.set_xlim(marks[0] / margin, marks[-1] * margin)
        plot.set_ylim(0, 103)
        plot.set_xlabel("K", labelpad=1)
        drawn = [group for group in _drawn(figure).iter() if str(group.get("id")).startswith("matplotlib.axis")]
        plot.xaxis.set_visible(False)
        plot.yaxis.set_visible(False)
    return figure, plot, drawn


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    from matplotlib.figure import Figure

    with _settings():
        yield Figure(figsize=(width, height))


@contextmanager
def _settings() -> Iterator[None]:
    import matplotlib as mpl

    settings: Any = {
        "svg.fonttype": "none",  # text stays text: it is searched, scaled and read out
        "svg.hashsalt": "m2kr",
        "text.parse_math": False,  # a model's name may hold a dollar sign
        "font.size": 10,
        "grid.color": "#cccccc",
        "grid.linewidth": 0.8,
        "axes.edgecolor": "#cccccc",
        "text.color": "#000000",
        "xtick.color": "#000000",
        "ytick.color": "#000000",
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    with mpl.rc_context(settings):
        yield


def _style(number: int) -> dict[str, Any]:
    """Return colour, line and marker of a series: told apart without colours too."""
    return {
        "color": f"#00000{number % SERIES + 1}",
        "linestyle": _DASHES[number % len(_DASHES)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.8,
    }


def legend_marks(labels: Sequence[str], name: str, joined: Collection[str] | None = None) -> list[Markup]:
    """Return a small drawing of line and marker for each series; without line for one that is not ``joined``."""
    drawn = []
    for number, label in enumerate(labels):
        with _figure(0.46, 0.16) as figure:
            plot = figure.add_axes((0, 0, 1, 1))
            plot.set_axis_off()
            line = {} if joined is None or label in joined else {"linestyle": "none"}
            plot.plot([0, 1, 2], [0, 0, 0], markevery=[1], **_style(number) | line)
            drawn.append(_finish(figure, "", "", f"{name}-{number}"))
    return drawn


def _plain(plot: Axes) -> None:
    plot.grid(True)
    plot.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        plot.spines[side].set_visible(False)
    plot.tick_params(length=0, left=False, bottom=False, pad=4)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return limits of percent around values, `LEAST_SPAN` points apart at least."""
    margin = max(0.15 * (max(values) - min(values)), (LEAST_SPAN - (max(values) - min(values))) / 2)
    return min(values) - margin, max(values) + margin


def _readable(axes: Sequence[str], series: Sequence[Series]) -> str:
    return ". ".join(
        f"{label}: "
        + ", ".join(f"{axis} {value:.1f}" for axis, value in zip(axes, values, strict=True) if value is not None)
        for label, values in series
    )


def _finish(figure: Figure, title: str, description: str, name: str) -> Markup:
    """Return a figure as an ``<svg>`` element that is safe to put into a page."""
    return _for_page(_drawn(figure), title, description, name)


def _drawn(figure: Figure) -> ElementTree.Element:
    """Return a figure as matplotlib draws it, without what is for matplotlib alone."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    return root


def _for_page(root: ElementTree.Element, title: str, description: str, name: str) -> Markup:
    """Return a drawing as an element whose colours are the page's and whose ids are unique; see `_finish`."""
    used = {value.lstrip("#") for element in root.iter() if (value := element.get(_LINK))}
    used |= {found for element in root.iter() for found in re.findall(r"url\(#([^)]+)\)", str(element.attrib))}
    for element in root.iter():
        _restyle(element, used, name)
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    root.attrib.pop("version", None)
    root.attrib |= {"width": f"{width:.0f}", "height": f"{height:.0f}", "class": "plot"}
    if title:
        root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
        for place, (tag, text) in enumerate((("title", title), ("desc", description))):
            element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
            element.text = text
            root.insert(place, element)
    else:
        root.attrib["aria-hidden"] = "true"
    text = ElementTree.tostring(root, encoding="unicode")
    return Markup(text)  # ElementTree has escaped every text in it


def _restyle(element: ElementTree.Element, used: set[str], name: str) -> None:
    """Turn a style attribute into attributes, our colours into the page's, and ids into ones unique in the page."""
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            element.attrib["font-size"] = size.group(1) if size else "10"
        elif key:
            element.attrib[key] = value
    element.attrib.pop("font-family", None)  # that of the page
    for key in ("fill", "stroke"):
        colour = element.attrib.get(key, "")
        element.attrib.update({key: _COLOURS[colour]} if colour in _COLOURS else {})
    if element.tag == f"{{{_SVG}}}text":
        element.attrib.setdefault("fill", "currentColor")
    identity = element.attrib.pop("id", None)
    if identity in used:
        element.attrib["id"] = f"{name}-{identity}"
    elif identity is not None and identity.startswith(_SAID):
        label = ElementTree.Element(f"{{{_SVG}}}title")
        label.text = identity.removeprefix(_SAID)
        element.insert(0, label)
    if (link := element.attrib.pop(_LINK, None)) is not None:
        element.attrib["href"] = f"#{name}-{link.lstrip('#')}"
    for key, value in element.attrib.items():
        if "url(#" in value:
            element.attrib[key] = value.replace("url(#", f"url(#{name}-")
