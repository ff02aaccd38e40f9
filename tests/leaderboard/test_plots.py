"""`leaderboard.plots`: SVG that a strict policy lets stand in a page."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from leaderboard import plots

NASTY = 'a$x^2$<script>alert(1)</script>&"'


def drawings():
    axes = ["WIT\nR@10", "IGLUE\nR@1", "KVQA\nR@5"]
    return {
        "radar": plots.radar(axes, [(NASTY, [10, None, 30]), ("b", [20, 40, 60])], title=NASTY, name="radar"),
        "alone": plots.radar(axes, [(NASTY, [10, 20, 30])], title="t", name="alone"),
        "sizes": plots.against_size(
            plots.PARAMETERS,
            [(NASTY, [(NASTY, 3e8, 50.0), ("m", 2e9, 60.0)])],
            styles=[NASTY],
            joined=(),
            fronts={NASTY: {NASTY, "m"}},
            title=NASTY,
            name="sizes",
        ),
        "curve": plots.curve([("Recall@K", [(1, 10, 5, 15), (500, 90, 80, 95)])], title=NASTY, name="curve"),
    }


@pytest.mark.parametrize("name", ["radar", "alone", "sizes", "curve"])
def test_a_drawing_needs_no_style_and_no_script(name):
    root = ElementTree.fromstring(drawings()[name])
    for element in root.iter():
        assert not element.tag.endswith(("script", "style", "foreignObject", "}a", "image"))
        assert not [key for key in element.attrib if key == "style" or key.startswith("on")]
        for key, value in element.attrib.items():
            assert "#000" not in value, "a colour that no style sheet can change"
            if key.endswith("href"):
                assert value.startswith("#")


def test_ids_are_unique_among_drawings():
    ids = [
        element.get("id")
        for drawing in drawings().values()
        for element in ElementTree.fromstring(drawing).iter()
        if element.get("id")
    ]
    assert ids
    assert len(ids) == len(set(ids))
    text = "".join(drawings().values())
    for identity in ids:
        assert f"#{identity}" in text or identity.endswith(("-title", "-desc"))


def test_a_drawing_says_its_figures():
    root = ElementTree.fromstring(drawings()["radar"])
    texts = {element.tag.split("}")[1]: element.text for element in root if element.get("id")}
    assert texts["title"] == NASTY
    assert "KVQA\nR@5 30.0" in texts["desc"]
    assert root.get("role") == "img"


def test_a_front_is_drawn_and_said():
    points = [("small", 8192.0, 50.0), ("large", 131072.0, 60.0), ("worse", 131072.0, 40.0)]
    text = plots.against_size(
        plots.PASSAGE_BYTES,
        [("a", points)],
        styles=["a"],
        joined=(),
        fronts={"a": {"small", "large"}},
        title="t",
        name="n",
    )
    assert "Front of a: small, large" in text
    assert "<title>front of a</title>" in text
    assert "10 kB" in text


def test_equal_figures_give_equal_bytes():
    assert drawings() == drawings()


def test_an_axis_spans_ten_points_at_least():
    text = plots.radar(["A", "B"], [("x", [50.0, 1.0]), ("y", [50.4, 2.0])], title="t", name="n")
    assert "40.4–50.4" in text
    assert "0.0–10.0" in text


def test_a_curve_shows_nothing_of_the_one_before():
    points = [(1, 10.0, 5.0, 15.0), (500, 90.0, 80.0, 95.0)]
    alone = plots.curve([("Recall@K", points)], title="t", name="n")
    both = plots.curve([("Recall@K", points), ("PRecall@K", points)], title="t", name="n")
    assert "PRecall@K" in both
    assert plots.curve([("Recall@K", points)], title="t", name="n") == alone
    other = plots.curve([("Recall@K", [(1, 20.0, 15.0, 25.0), (100, 30.0, 25.0, 35.0)])], title="t", name="n")
    assert ">100</text>" in other
    assert ">500</text>" not in other
