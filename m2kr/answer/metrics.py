"""Official answer metrics of OK-VQA, InfoSeek and Encyclopedic-VQA.

| task | measure here | official |
| --- | --- | --- |
| OKVQA | ``VQA`` | VQA score: agreement with ten annotators, after the normalisation of VQA |
| Infoseek | ``accuracy_harmonic`` | final score: harmonic mean over unseen questions and unseen entities |
| Infoseek | ``accuracy`` | the same over all questions, where the split does not tell which are which |
| EVQA | ``BEM`` | exact match, else the BEM model's judgement; only where that model is given |
| EVQA | ``EM`` | exact match alone, which is lower |

All are means over the questions, between 0 and 1. The quirks of the official programs are kept, since published
figures have them; each is named where it is.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from m2kr.errors import M2KRError

Range = tuple[float, float]
"""The lower and the upper end of a numerical answer."""

# --- words ----------------------------------------------------------------------------------------------------------

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBER_WORDS)}}
_VERDICTS = {"entailment": "yes", "true": "yes", "contradiction": "no", "false": "no"}

# A contraction is restored where one of its apostrophes is lacking: "dont", and both "couldnt've" and "couldn'tve".
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # so in the official table, the other way round

_VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_VQA_PERIODS = 32
# The official call gives the flag re.UNICODE, which is 32, where re.sub takes the number of replacements.
_EVQA_PUNCTUATION = frozenset(string.punctuation + "‘’´`_")
_SPAN_PREFIX = "<extra_id_0> "


def _standard_words(words: Sequence[str], numbers: Mapping[str, str]) -> list[str]:
    mapped = [numbers.get(word, word) for word in words]
    return [_CONTRACTIONS.get(word, word) for word in mapped]


# --- OK-VQA ---------------------------------------------------------------------------------------------------------


def normalize_vqa(answer: str) -> str:
    """Return an answer as the VQA score compares it: punctuation, number words, articles and contractions treated.

    A punctuation mark is deleted if it stands beside a blank, or if the answer has a comma between digits; elsewhere a
    blank takes its place. A period is deleted unless a digit follows, the first 32 of them only (a slip of the
    official code). Apostrophes, "%", "$" and ":" stay. Words from "none" to "ten" become digits; "twenty-one" becomes
    "twenty 1". As in Python 2.7, which that code is written for, digits are those of ASCII and each letter is
    lower-cased alone: "Σ" to "σ" at the end of a word too, "İ" to "i".

    Source: VQA's vqaEval.py, processPunctuation and processDigitArticle.
    """
    text = answer
    grouped = re.search(r"[0-9],[0-9]", answer) is not None
    for mark in _VQA_PUNCTUATION:
        beside_blank = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_blank or grouped else " ")
    text = re.sub(r"\.(?![0-9])", "", text, count=_VQA_PERIODS)
    lowered = text.lower() if text.isascii() else "".join(letter.lower()[0] for letter in text)
    # Articles go before contractions are restored, as there.
    words = [_DIGITS.get(word, word) for word in lowered.split()]
    return " ".join(_standard_words([word for word in words if word not in ("a", "an", "the")], {}))


def vqa_score(prediction: str, answers: Sequence[str]) -> float:
    """Return the VQA score of one question, between 0 and 1.

    For each annotator, the prediction gets min(1, matches among the others / 3); the score is the mean of these. Where
    all annotators agree, nothing is normalised and the comparison is exact, capitals included, as in the official
    code.

    Args:
        prediction: may be empty.
        answers: one for each annotator, ten as a rule, with repetitions.

    Raises:
        M2KRError: there are no answers.

    Source: Antol et al., "VQA: Visual Question Answering", ICCV 2015, and VQA's vqaEval.py, which OK-VQA uses.
    """
    if not answers:
        raise M2KRError("the VQA score needs the annotators' answers, and there are none.")
    given = [_one_line(answer) for answer in answers]
    said = _one_line(prediction)
    if len(set(given)) > 1:
        given, said = [normalize_vqa(answer) for answer in given], normalize_vqa(said)
    matches = sum(answer == said for answer in given)
    # An annotator who gave the answer does not count among the others.
    scores = [min(1.0, (matches - (answer == said)) / 3) for answer in given]
    return sum(scores) / len(scores)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


# --- InfoSeek -------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?[.]?\d+(?:,\d\d\d)*\.?\d*(?:[eE][-+]?\d+)?")
_TINY = 1e-12
# Added to lengths, taken from the threshold, and put in the place of a split's score of 0.


def normalize_squad(answer: str) -> str:
    """Return an answer in lower case, without punctuation (ASCII) and articles, blanks squeezed.

    Source: infoseek_eval.py, normalize_answer, after the SQuAD 1.1 evaluation.
    """
    text = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", text).split())


def parse_numbers(prediction: str) -> float | Range:
    """Return the number, or the range, that a text states.

    The first two numbers make a range if the first is not the larger; else the first counts alone. A hyphen after a
    digit is no minus sign: "4.75-5.5" is a range. Number words are not read. Without a number it is the range (0, 0).

    Source: infoseek_eval.py, process_numerical_answer.
    """
    spaced = "".join(
        " - " if letter == "-" and prediction[max(place - 1, 0)].isdigit() else letter
        for place, letter in enumerate(prediction)
    )
    found = [number for match in _NUMBER.findall(spaced) if (number := _number(match)) is not None][:2]
    if not found:
        return (0.0, 0.0)
    if len(found) == 2 and found[0] <= found[1]:
        return (found[0], found[1])
    return found[0]


def _number(text: str) -> float | None:
    plain = text.replace(",", "").strip(".")  # ".5" is 5 there
    try:
        return float(plain.split(".")[0] if plain.count(".") > 1 else plain)
    except ValueError:  # of "-.5.5" nothing is left; the official code stops there
        return None


def range_score(prediction: float | Range, answer: Range) -> float:
    """Return 1 if a number lies in the answer's range, or a range does or overlaps it by IoU >= 0.5; else 0.

    Ends count as inside.

    Args:
        prediction: as `parse_numbers` returns it.
        answer: the accepted range, 10 % on either side of the value as a rule.

    Source: infoseek_eval.py, metric_numerical_range and range_intersection_over_union.
    """
    low, high = answer
    if isinstance(prediction, float | int):
        return float(low <= prediction <= high)
    if all(low <= end <= high for end in prediction):
        return 1.0
    ends, accepted = sorted(prediction), sorted(answer)
    overlap = max(0.0, min(ends[1], accepted[1]) - max(ends[0], accepted[0]))
    union = (ends[1] - ends[0] + _TINY) + (accepted[1] - accepted[0] + _TINY) - overlap
    return float((overlap / union if union else 0.0) >= 0.5 - _TINY)


def infoseek_score(prediction: str, answers: Sequence[str], accepted: Range | None = None) -> float:
    """Return 1 if the prediction of one InfoSeek question is right, else 0.

    Args:
        prediction: may be empty. It is wrong then, unless a numerical answer's range holds 0.
        answers: accepted strings of a question for a string or a time; any of them will do.
        accepted: the range of a numerical question; ``answers`` do not matter then.

    Raises:
        M2KRError: there are neither answers nor a range.
    """
    if accepted is not None:
        return range_score(parse_numbers(prediction), accepted)
    if not answers:
        raise M2KRError("an InfoSeek question needs accepted answers or a range, and has neither.")
    said = normalize_squad(prediction)
    return float(any(normalize_squad(answer) == said for answer in answers))


def harmonic_accuracy(unseen_question: float, unseen_entity: float) -> float:
    """Return InfoSeek's final score, between 0 and 1, of the accuracies on its two splits.

    As officially, both are rounded to hundredths of a percent before, and the result after; a 0 counts as 1e-12.
    """
    scores = [round(100 * value, 2) or _TINY for value in (unseen_question, unseen_entity)]
    return round(2 / sum(1 / score for score in scores), 2) / 100


# --- Encyclopedic-VQA -----------------------------------------------------------------------------------------------

QUESTION_TYPES = ("templated", "automatic", "multi_answer", "2_hop")
"""Kinds of questions of Encyclopedic-VQA."""


def normalize_evqa(answer: str) -> str:
    """Return an answer as Encyclopedic-VQA compares it.

    In order: lower case; the span mark of T5 dropped; all punctuation deleted, "4.75" becoming "475"; "the answer is"
    and articles dropped; number words and the verdicts of entailment mapped ("true" to "yes"); contractions restored.

    Source: google-research, encyclopedic_vqa/evaluation_utils.py, preprocess_answer.
    """
    text = _one_line(answer.lower())
    if text.startswith(_SPAN_PREFIX):
        text = text.replace(_SPAN_PREFIX, "")
    text = "".join(character for character in text if character not in _EVQA_PUNCTUATION)
    text = re.sub(r"\b(?:the answer is|a|an|the)\b", " ", text)
    return " ".join(_standard_words(text.split(), {**_DIGITS, **_VERDICTS}))


def evqa_exact_match(prediction: str, reference: str, *, multiple: bool = False) -> bool:
    """Whether a prediction equals one reference answer after `normalize_evqa`.

    Args:
        prediction: may be empty.
        reference: one of the alternatives. One that normalises to nothing never matches (the official code stops
            there).
        multiple: whether the question asks for several things. The reference's are separated by "&&", those of the
            prediction by a comma, " and " or " & ", and an IoU of the sets of 0.5 is a match.
    """
    if not multiple:
        expected = normalize_evqa(reference)
        return bool(expected) and expected == normalize_evqa(prediction)
    wanted = {normalize_evqa(part) for part in reference.split("&&")} - {""}
    parts = prediction.replace(" and ", ",").replace(" & ", ",").split(",")
    said = {normalize_evqa(part) for part in parts} - {""}
    return bool(wanted) and len(wanted & said) / len(wanted | said) >= 0.5
