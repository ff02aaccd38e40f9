"""`python -m leaderboard verify`: results beside published figures."""

from __future__ import annotations

import pytest

from leaderboard.__main__ import main
from leaderboard.verify import agreement, published_name
from m2kr.errors import M2KRError, run_command

# Of the published benchmark.
WIT = {"task": "WIT", "queries": 5120, "passages": 39478}


def hits(*counts):
    """Measures of WIT, of so many queries found at 1, 5 and 10."""
    return {f"Recall@{k}": count / 5120 for k, count in zip((1, 5, 10), counts, strict=True)}


def verify(results, *arguments):
    return run_command(main, ["verify", "--results", str(results), *arguments])


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(60.5, "OK"), (61.8, "OK"), (59.2, "OK"), (62.4, "near"), (58.5, "near"), (63.5, "off"), (20.0, "off")],
)
def test_the_verdict_follows_the_standard_error(ours, verdict):
    # Of 60.5 % of 5,120 queries it is 0.683 points.
    assert agreement(ours, 60.5, 5120)[0] == verdict
    assert agreement(ours, 60.5, 5120)[1] == pytest.approx(1.96 * 0.6832 + 0.05, abs=1e-3)


@pytest.mark.parametrize("name", ["PreFLMR_ViT-L", "LinWeizheDragon/PreFLMR_ViT-L", "preflmr-vit-l"])
def test_a_model_is_found_by_its_names(name):
    assert published_name(name) == "PreFLMR_ViT-L"


def test_an_unknown_model_is_said_to_be_unknown():
    with pytest.raises(M2KRError, match="no figures are published for 'bm25'"):
        published_name("bm25")


@pytest.mark.parametrize(("count", "verdict", "code"), [(3100, "OK", 0), (3190, "near", 0), (2000, "off", 1)])
def test_a_result_is_judged(make, results, capsys, count, verdict, code):
    make("preflmr", model="LinWeizheDragon/PreFLMR_ViT-L", **WIT, metrics=hits(1000, 2000, count))
    assert verify(results, "--model", "PreFLMR_ViT-L") == code
    said = capsys.readouterr().out
    assert said.splitlines()[2].endswith(verdict)
    assert "60.5" in said
    assert "LinWeizheDragon/FLMR@be4b748 README.md" in said


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ignored_inputs": ["image"]}, "without images"),
        ({"limited": True}, "first queries only"),
        ({"synthetic": True}, "made-up data"),
        ({"passages": 100}, "5,120 queries and 100 passages, where 5,120 and 39,478 are published"),
    ],
)
def test_what_cannot_be_compared_is_not_judged(make, results, capsys, changes, reason):
    make("p", model="PreFLMR_ViT-L", **{**WIT, "metrics": hits(1000, 2000, 3100), **changes})
    assert verify(results, "--model", "PreFLMR_ViT-L") == 2
    assert f"WIT is not comparable: {reason}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("block", "published", "reason"),
    [
        ("m2kr-cn", "PreFLMR_ViT-L", "the published figures are of M2KR-CN"),
        ("ret-m2kr", "ReT-CLIP-ViT-L-14", "the published figures are of ReT-M2KR"),
        ("superseded", "PreFLMR ViT-L (first list)", "its authors replaced the published figure"),
    ],
)
def test_figures_of_another_benchmark_and_superseded_ones_judge_nothing(
    make, results, capsys, block, published, reason
):
    make("p", model="PreFLMR_ViT-L", **WIT, metrics=hits(1000, 2000, 3100))
    assert verify(results, "--model", "PreFLMR_ViT-L", "--block", block, "--published", published) == 2
    assert f"WIT is not comparable: {reason}" in capsys.readouterr().out


def test_a_model_without_results_is_said_to_have_none(make, results, capsys):
    make()
    assert verify(results, "--model", "PreFLMR_ViT-L") == 2
    assert "there are some of my-model" in capsys.readouterr().err


def test_another_published_model_can_be_named(make, results, capsys):
    make("mine", model="mine", **WIT, metrics=hits(1000, 2000, 3100))
    assert verify(results, "--model", "mine", "--published", "PreFLMR ViT-L (paper)", "--block", "paper-era") == 0
    assert "MODEL_ZOO" in capsys.readouterr().out
