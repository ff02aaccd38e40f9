"""Answer metrics: cases by hand, and equality with a second implementation, written from the official definitions."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2kr.answer.bem import EquivalenceModel
from m2kr.answer.metrics import (
    evqa_exact_match,
    harmonic_accuracy,
    infoseek_score,
    normalize_evqa,
    normalize_squad,
    normalize_vqa,
    parse_numbers,
    range_score,
    vqa_score,
)
from m2kr.answer.score import intervals, score_answers
from m2kr.errors import M2KRError

# --- a second implementation: character by character and word by word, without regular expressions ------------------

NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
# Some of the official table, which has 114 live entries.
CONTRACTIONS = {"dont": "don't", "its": "its", "couldnt've": "couldn't've", "couldn'tve": "couldn't've"}
CONTRACTIONS |= {"oclock": "o'clock", "'ow'sat": "'ow's'at", "somebody'd": "somebodyd", "yalld've": "yalld've"}
CONTRACTIONS |= {
    "hes": "he's",
    "ill": "ill",
    "whos": "who's",
    "were": "were",
    "well": "well",
    "y'alld've": "y'all'd've",
}
ARTICLES = {"a", "an", "the"}


def plain_vqa(text: str) -> str:
    comma_number = any(
        text[place] == "," and text[place - 1].isdecimal() and text[place + 1].isdecimal()
        for place in range(1, len(text) - 1)
    )
    changed = text
    for mark in [
        ";",
        "/",
        "[",
        "]",
        '"',
        "{",
        "}",
        "(",
        ")",
        "=",
        "+",
        "\\",
        "_",
        "-",
        ">",
        "<",
        "@",
        "`",
        ",",
        "?",
        "!",
    ]:
        beside = (mark + " ") in text or (" " + mark) in text
        changed = ("" if beside or comma_number else " ").join(changed.split(mark))
    kept, removed = [], 0
    for place, letter in enumerate(changed):
        if letter == "." and not changed[place + 1 : place + 2].isdecimal() and removed < 32:
            removed += 1
        else:
            kept.append(letter)
    words = [NUMBERS.get(word, word) for word in "".join(kept).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def plain_vqa_score(said: str, answers: Sequence[str]) -> float:
    said, answers = tidy(said), [tidy(answer) for answer in answers]
    if any(answer != answers[0] for answer in answers):
        said, answers = plain_vqa(said), [plain_vqa(answer) for answer in answers]
    total = 0.0
    for own in range(len(answers)):
        others = answers[:own] + answers[own + 1 :]
        total += min(1, others.count(said) / 3)
    return total / len(answers)


def tidy(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def without_words(text: str, dropped: set[str]) -> str:
    """Put a blank in the place of whole words; a word is letters, digits and "_"."""
    out, word = [], ""
    for letter in text + " ":
        if letter.isalnum() or letter == "_":
            word += letter
            continue
        out.append(" " if word in dropped else word)
        out.append(letter)
        word = ""
    return "".join(out)


def plain_squad(text: str) -> str:
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(without_words(text, ARTICLES).split())


def plain_evqa(text: str) -> str:
    text = tidy(text.lower())
    if text.startswith("<extra_id_0> "):
        text = "".join(text.split("<extra_id_0> "))
    text = "".join(letter for letter in text if letter not in string.punctuation + "‘’´`_")
    words = without_words(text, ARTICLES).split()
    mapping = {**NUMBERS, "entailment": "yes", "true": "yes", "contradiction": "no", "false": "no"}
    return " ".join(CONTRACTIONS.get(word, word) for word in (mapping.get(word, word) for word in words))


def plain_iou(first: tuple[float, float], second: tuple[float, float]) -> float:
    overlap = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    return overlap / (first[1] - first[0] + second[1] - second[0] - overlap + 2e-12)


ODD = [
    "twenty-one",
    "4.75-5.5",
    "50%",
    "1,000",
    "U.S.",
    "Paul's",
    "red/green",
    "owl",
    "Owl",
    "-",
    "?",
    "e.g.",
    "the-owl",
]
WORDS = st.sampled_from([*NUMBERS, *ARTICLES, *CONTRACTIONS, *ODD, "(bird)", "2.", ".5", "a", "_x_", "’tis", "café"])
PHRASES = st.one_of(
    st.lists(WORDS, max_size=5).map(" ".join),
    st.text(alphabet="ab 01.,-?!%'\"_/\n\t()the", max_size=14),
)

# --- OK-VQA ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two Dogs", "2 dogs"),
        ("none", "0"),
        ("the owl", "owl"),
        ("A owl, an owl", "owl owl"),
        ("twenty-one", "twenty 1"),
        ("50%", "50%"),
        ("4.75-5.5", "4.75 5.5"),
        ("1,000", "1000"),
        ("1,000 red-brown", "1000 redbrown"),  # a comma between digits: no mark becomes a blank
        ("red/green", "red green"),
        ("red / green", "red green"),
        ("U.S.A.", "usa"),
        ("3.5 feet.", "3.5 feet"),
        ("dont", "don't"),
        ("couldn'tve couldnt've", "couldn't've couldn't've"),
        ("somebody'd", "somebodyd"),
        ("what?", "what"),
        ("", ""),
        ("the", ""),
        ("." * 33, "."),
    ],
)
def test_vqa_normalisation(answer: str, expected: str) -> None:
    assert normalize_vqa(answer) == expected
    assert plain_vqa(answer) == expected


@settings(max_examples=400, deadline=None)
@given(PHRASES)
def test_vqa_normalisation_equals_the_plain_one(text: str) -> None:
    assert normalize_vqa(text) == plain_vqa(text)


def test_the_vqa_score_of_pairs_of_answers() -> None:
    answers = ["hammer", "hammer", "mallet", "mallet", "mallet", "mallet", "axe", "axe", "saw", "saw"]
    assert vqa_score("hammer", answers) == pytest.approx(0.6)
    assert vqa_score("The Mallet!", answers) == 1.0
    assert vqa_score("drill", answers) == 0.0
    assert vqa_score("", answers) == 0.0
    assert vqa_score("one", ["1", "1", "2"]) == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)


def test_where_all_annotators_agree_nothing_is_normalised() -> None:
    assert vqa_score("owl", ["owl"] * 10) == 1.0
    assert vqa_score("owl\n", ["owl"] * 10) == 1.0
    assert vqa_score("Owl", ["owl"] * 10) == 0.0
    assert vqa_score("the owl", ["owl"] * 10) == 0.0
    assert vqa_score("the owl", [*["owl"] * 9, "bird"]) == 1.0
    with pytest.raises(M2KRError, match="needs the annotators' answers"):
        vqa_score("owl", [])


@settings(max_examples=300, deadline=None)
@given(PHRASES, st.lists(PHRASES, min_size=1, max_size=4), st.integers(1, 4))
def test_the_vqa_score_equals_the_plain_one(said: str, answers: list[str], times: int) -> None:
    given_answers = answers * times
    for candidate in (said, answers[0], answers[0].upper()):
        assert vqa_score(candidate, given_answers) == pytest.approx(plain_vqa_score(candidate, given_answers))


# --- InfoSeek -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4.75-5.5", (4.75, 5.5)),
        ("between 9 and 10 metres", (9.0, 10.0)),
        ("10 to 9", 10.0),
        ("1,234.5 m", 1234.5),
        ("-5", -5.0),
        ("3 - -5", 3.0),
        ("50%", 50.0),
        ("1e3", 1000.0),
        ("1.2.3", (1.2, 3.0)),
        (".5", 5.0),
        ("5.", 5.0),
        ("1 2 3", (1.0, 2.0)),
        ("twenty-one", (0.0, 0.0)),
        ("", (0.0, 0.0)),
        ("-.5.5", (0.0, 0.0)),
        ("m²-7", 7.0),
    ],
)
def test_numbers_are_read_as_officially(text: str, expected: Any) -> None:
    assert parse_numbers(text) == expected


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("45", 1.0),
        ("55.0 m", 1.0),
        ("55.1", 0.0),
        ("46-54", 1.0),
        ("40-60", 1.0),  # IoU 0.5
        ("40-60.1", 0.0),
        ("54-46", 1.0),  # not ordered: the first number alone
        ("60-46", 0.0),
        ("", 0.0),
    ],
)
def test_ranges_are_compared_by_containment_and_iou(said: str, right: float) -> None:
    assert infoseek_score(said, [], (45.0, 55.0)) == right


def test_no_number_is_the_range_of_zero() -> None:
    assert infoseek_score("", [], (-1.0, 1.0)) == 1.0
    assert infoseek_score("nothing", ["nothing"], (0.5, 1.0)) == 0.0


ENDS = st.floats(-100, 100).map(lambda value: round(value, 2))


@settings(max_examples=300, deadline=None)
@given(ENDS, ENDS, ENDS, ENDS)
def test_range_scores_equal_the_plain_ones(first: float, second: float, third: float, fourth: float) -> None:
    said, accepted = (min(first, second), max(first, second)), (min(third, fourth), max(third, fourth))
    inside = accepted[0] <= said[0] and said[1] <= accepted[1]
    assert range_score(said, accepted) == float(inside or plain_iou(said, accepted) >= 0.5 - 1e-12)
    assert range_score(first, accepted) == float(accepted[0] <= first <= accepted[1])


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_is_written_is_read(first: float, second: float) -> None:
    low, high = f"{first:.2f}", f"{second:.2f}"
    expected = (float(low), float(high)) if float(low) <= float(high) else float(low)
    for separator in ("-", " - ", " to ", "–"):
        assert parse_numbers(f"about {low}{separator}{high} m") == expected


@settings(max_examples=300, deadline=None)
@given(PHRASES, st.lists(PHRASES, min_size=1, max_size=3))
def test_strings_are_compared_as_squad_does(said: str, answers: list[str]) -> None:
    assert normalize_squad(said) == plain_squad(said)
    assert infoseek_score(said, answers) == float(plain_squad(said) in [plain_squad(answer) for answer in answers])
    assert infoseek_score(f"The {answers[-1]}!", answers) == 1.0


def test_a_time_or_string_is_right_if_any_answer_equals_it() -> None:
    assert infoseek_score("In 1889.", ["1888", "in 1889"]) == 1.0
    assert infoseek_score("", ["1889"]) == 0.0
    with pytest.raises(M2KRError, match="has neither"):
        infoseek_score("x", [])


def test_the_final_score_is_the_harmonic_mean() -> None:
    assert harmonic_accuracy(0.5, 0.25) == pytest.approx(1 / 3, abs=5e-5)
    assert harmonic_accuracy(0.2, 0.2) == pytest.approx(0.2)
    assert harmonic_accuracy(0.5, 0.0) == 0.0


# --- Encyclopedic-VQA -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<extra_id_0> The answer is two", "2"),
        ("the answer is: Two metres", "2 metres"),  # the colon goes first
        ("The owl's nest", "owls nest"),
        ("none", "0"),
        ("True", "yes"),
        ("contradiction", "no"),
        ("4.75", "475"),
        ("50%", "50"),
        ("twenty-one", "twentyone"),
        ("dont", "don't"),
        ("", ""),
    ],
)
def test_evqa_normalisation(answer: str, expected: str) -> None:
    assert normalize_evqa(answer) == expected


@settings(max_examples=400, deadline=None)
@given(PHRASES)
def test_evqa_normalisation_equals_the_plain_one(text: str) -> None:
    assert normalize_evqa(text) == plain_evqa(text)
    assert normalize_evqa(f"<extra_id_0> {text}") == plain_evqa(f"<extra_id_0> {text}")


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("white, red", True),
        ("Red and the white", True),
        ("red & white & green", True),  # 2 of 3
        ("red", True),  # 1 of 2
        ("red, green", False),  # 1 of 3
        ("", False),
        ("red,,red", True),
    ],
)
def test_several_answers_are_compared_by_iou(said: str, right: bool) -> None:
    assert evqa_exact_match(said, "red&&white", multiple=True) is right


def test_an_empty_prediction_or_reference_never_matches() -> None:
    assert not evqa_exact_match("", "the")
    assert not evqa_exact_match("", "owl")
    assert not evqa_exact_match("", "the&&a", multiple=True)
    assert evqa_exact_match("the owl", "Owl!")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["red", "white", "two", "the sea", "a"]), max_size=4),
    st.lists(WORDS, min_size=1, max_size=3),
)
def test_the_iou_of_answers_equals_the_plain_one(said: list[str], reference: list[str]) -> None:
    text = ", ".join(said)
    wanted = {plain_evqa(part) for word in reference for part in word.split("&&")} - {""}
    got = {plain_evqa(part) for part in said} - {""}
    expected = bool(wanted) and 2 * len(wanted & got) >= len(wanted | got)
    assert evqa_exact_match(text, "&&".join(reference), multiple=True) is expected


# --- tasks ----------------------------------------------------------------------------------------------------------


def okvqa() -> pl.DataFrame:
    return pl.DataFrame({"question_id": ["1", "2"], "answers": [["owl", "owl", "bird"], ["two"] * 10]})


def infoseek(**changed: list[Any]) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "question_id": ["1", "2", "3", "4"],
        "answers": [["Rome", "roma"], ["1889"], [], ["Paris"]],
        "answer_eval": [["Rome"], ["1889", "1888"], [], []],
        "wikidata_range": [[], None, [45.0, 55.0], None],
        "question_type": ["String", "Time", "Numerical", None],
        "data_split": ["val_unseen_question", "val_unseen_entity", "val_unseen_entity", "val_unseen_entity"],
    }
    kinds = {"answers": pl.List(pl.String), "answer_eval": pl.List(pl.String), "wikidata_range": pl.List(pl.Float64)}
    return pl.DataFrame(columns | changed, schema_overrides=kinds)


def evqa() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "question_id": ["1", "2", "3"],
            "question": ["How tall?", "Which colours?", "Where?"],
            "answers": [["two metres", "2 m"], ["red&&white"], ["in the sea"]],
            "question_type": ["templated", "multi_answer", "automatic"],
        }
    )


def test_okvqa_is_scored_by_the_vqa_score() -> None:
    scores = score_answers("OKVQA", okvqa(), {"2": "two", "1": "The Owl"})
    assert scores.table["VQA"].to_list() == pytest.approx([(1 / 3 + 1 / 3 + 2 / 3) / 3, 1.0])
    assert scores.metrics == {"VQA": pytest.approx(scores.table["VQA"].mean())}
    assert scores.headline == ["VQA"]


def test_infoseek_is_scored_by_type_and_split() -> None:
    # What "answers" adds to "answer_eval" does not count, unless there is no "answer_eval".
    scores = score_answers("Infoseek", infoseek(), {"1": "the Rome", "2": "1900", "3": "46-50", "4": "paris"})
    assert scores.table["accuracy"].to_list() == [1.0, 0.0, 1.0, 1.0]
    assert scores.metrics == {
        "accuracy": 0.75,
        "accuracy_string": 1.0,
        "accuracy_time": 0.0,
        "accuracy_numerical": 1.0,
        "accuracy_unseen_question": 1.0,
        "accuracy_unseen_entity": pytest.approx(2 / 3),
        "accuracy_harmonic": pytest.approx(0.8, abs=1e-4),
    }
    assert scores.headline == ["accuracy_harmonic", "accuracy"]
    assert score_answers("Infoseek", infoseek(), dict.fromkeys("1234", "roma")).metrics["accuracy"] == 0.0


def test_without_both_splits_infoseek_has_no_harmonic_mean() -> None:
    scores = score_answers("Infoseek", infoseek(data_split=["train"] * 4), dict.fromkeys("1234", "Rome"))
    assert scores.headline == ["accuracy"]
    assert "accuracy_harmonic" not in scores.metrics
    assert not any(name.startswith("accuracy_unseen") for name in scores.metrics)


class Judge:
    """Says that what begins with the same letter is equivalent, and keeps what it was asked."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"checkpoint": "judge"}
        self.asked: list[tuple[str, str, str]] = []

    def __call__(self, questions: Sequence[str], references: Sequence[str], candidates: Sequence[str]) -> list[float]:
        triples = list(zip(questions, references, candidates, strict=True))
        self.asked += triples
        return [0.5 if said[:1] == reference[:1] else 0.49 for _, reference, said in triples]


def test_without_a_model_the_figure_of_evqa_is_em_and_with_one_bem() -> None:
    said = {"1": "Two metres", "2": "rose", "3": "ocean"}
    alone = score_answers("EVQA", evqa(), said)
    assert (alone.metrics, alone.headline) == ({"EM": pytest.approx(1 / 3)}, ["EM"])
    judge = Judge()
    scores = score_answers("EVQA", evqa(), said, bem=judge)
    assert scores.headline == ["BEM", "EM"]
    assert scores.metrics == {"EM": pytest.approx(1 / 3), "BEM": pytest.approx(2 / 3)}
    # The model is not asked what matches exactly, and gets the list of a question for several things with commas.
    assert judge.asked == [("Which colours?", "red,white", "rose"), ("Where?", "in the sea", "ocean")]
    assert score_answers("EVQA", evqa(), {"1": "2 m", "2": "red", "3": "sea in"}, bem=Judge()).metrics["EM"] == 2 / 3


@pytest.mark.parametrize(
    ("task", "queries", "message"),
    [
        ("MSMARCO", okvqa(), "MSMARCO has no answer metric. Those that have one are OKVQA, Infoseek, EVQA"),
        ("OKVQA", okvqa().with_columns(question_id=pl.Series(["1", "7"])), "1 of 2 have none, the first is 7"),
        ("OKVQA", okvqa().with_columns(answers=pl.Series([["x"], []])), "question 2 of OKVQA has no answers"),
        ("Infoseek", infoseek(wikidata_range=[[], [], [4.0], []]), "question 3 of Infoseek is numerical and has no"),
        ("Infoseek", infoseek(answers=[["x"], ["x"], [], []]), "question 4 of Infoseek has no accepted answers"),
        ("EVQA", evqa().with_columns(question_type=pl.lit("odd")), "question 1 of EVQA is of the type 'odd'"),
        ("EVQA", evqa().with_columns(answers=pl.Series([["x"], ["x"], [""]])), "question 3 of EVQA has no answers"),
    ],
)
def test_what_cannot_be_scored_is_said(task: str, queries: pl.DataFrame, message: str) -> None:
    with pytest.raises(M2KRError, match=message):
        score_answers(task, queries, dict.fromkeys("1234", "x"))


def test_intervals_hold_the_value_and_are_repeatable() -> None:
    said = {"1": "Rome", "2": "1900", "3": "46-50", "4": "paris"}
    scores = score_answers("Infoseek", infoseek(), said)
    found = intervals(scores, resamples=500)
    assert found == intervals(scores, resamples=500)
    assert set(found) == set(scores.metrics)
    assert all(low <= scores.metrics[name] <= high for name, (low, high) in found.items())
    assert found["accuracy_time"] == [0.0, 0.0]
    assert found["accuracy"][0] < 0.75 < found["accuracy"][1]


def test_the_synthetic_world_is_answered_rightly_by_its_own_answers(built: Path) -> None:
    for task, measure in (("OKVQA", "VQA"), ("Infoseek", "accuracy_harmonic"), ("EVQA", "EM")):
        queries = pl.read_parquet(built / f"{task}_data" / "test-*.parquet")
        gold = dict(queries.select("question_id", "gold_answer").iter_rows())
        right = score_answers(task, queries, gold)
        assert right.headline[0] == measure
        assert right.metrics[measure] > 0.9
        assert score_answers(task, queries, dict.fromkeys(gold, "nothing of that kind")).metrics[measure] == 0.0


# --- the equivalence model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT classifier of a few thousand weights."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-bem"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "owl", "bird", "what", "is", "it", "?"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.5)
    model.save_pretrained(folder)
    return folder


def test_the_equivalence_model_reads_candidate_reference_and_question(bert: Path) -> None:
    import torch
    from transformers import BertForSequenceClassification

    judge = EquivalenceModel(str(bert), batch_size=2)
    triples = [("what is it ?", "owl", "bird"), ("what ?", "owl", ""), ("is it owl ?", "bird bird", "owl")]
    found = judge(*(list(part) for part in zip(*triples, strict=True)))
    ids = {"owl": 5, "bird": 6, "what": 7, "is": 8, "it": 9, "?": 10}
    model = BertForSequenceClassification.from_pretrained(bert).eval()
    for (question, reference, said), value in zip(triples, found, strict=True):
        first = [2, *(ids[word] for word in said.split()), 3]
        second = [ids[word] for word in reference.split()] + [3] + [ids[word] for word in question.split()] + [3]
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([first + second]),
                token_type_ids=torch.tensor([[0] * len(first) + [1] * len(second)]),
            ).logits
        assert value == pytest.approx(float(logits.softmax(-1)[0, 1]), abs=1e-5)
    assert len({round(value, 4) for value in found}) == 3
    assert judge.settings["checkpoint"] == "tiny-bem"
    assert "not the official" in judge.settings["kind"]
    assert judge([], [], []) == []


def test_what_is_no_equivalence_model_is_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(M2KRError, match="missing is no folder here"):
        EquivalenceModel("missing")
    with pytest.raises(M2KRError, match="could not be loaded as a sequence classifier"):
        EquivalenceModel(str(tmp_path))
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(bert)
    tokenizer.save_pretrained(tmp_path)
    config = BertConfig.from_pretrained(bert, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(M2KRError, match="has two classes: this one has 3"):
        EquivalenceModel(str(tmp_path))
