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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from m2kr.errors import M2KRError
from m2kr.tasks import TASKS

if TYPE_CHECKING:
    import polars as pl

ANSWER_TASKS = tuple(key for key, task in TASKS.items() if task.answer_metric)
"""Tasks that have an answer metric."""

Range = tuple[float, float]
"""The lower and the upper end of a numerical answer."""


class Equivalence(Protocol):
    """Judges whether a candidate answer says the same as a reference, such as `EquivalenceModel`.

    Attributes:
        settings: what its judgement depends on; kept in the result file.
    """

    settings: dict[str, Any]

    def __call__(self, questions: Sequence[str], references: Sequence[str], candidates: Sequence[str]) -> list[float]:
        """Return, for each triple, the probability that candidate and reference are equivalent."""


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
    "twenty 1".

    Source: VQA's vqaEval.py, processPunctuation and processDigitArticle.
    """
    text = answer
    grouped = re.search(r"\d,\d", answer) is not None
    for mark in _VQA_PUNCTUATION:
        beside_blank = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_blank or grouped else " ")
    text = re.sub(r"\.(?!\d)", "", text, count=_VQA_PERIODS)
    # Articles go before contractions are restored, as there.
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
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


class EquivalenceModel:
    """BEM, the answer-equivalence model: a BERT that judges a candidate given reference and question.

    The official model is one of TensorFlow. This reads a checkpoint of transformers in its place, a sequence classifier
    with two classes, the second of which is "equivalent", such as the reproduction kortukov/answer-equivalence-bem.
    Its figure need not equal that of the official weights, so the result names the checkpoint.

    Args:
        checkpoint: folder or hub id.
        device: as torch names it.
        batch_size: triples judged at once.

    Raises:
        M2KRError: it cannot be loaded, or is no classifier with two classes.

    Source: Bulian et al., "Tomayto, Tomahto. Beyond Token-level Answer Equivalence for Question Answering Evaluation",
    EMNLP 2022. Input: [CLS] candidate [SEP] reference [SEP] question [SEP], token types 0 for the candidate, else 1.
    """

    def __init__(self, checkpoint: str, *, device: str = "cpu", batch_size: int = 64) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from m2kr.common.files import digest, sha256_of

        # A path that is no folder would be looked for at the hub, for half a minute where that cannot be reached.
        folder = Path(checkpoint)
        local = folder.is_dir()
        if not local and (checkpoint.count("/") != 1 or checkpoint[0] in "./~"):
            raise M2KRError(f"--bem {checkpoint} is no folder here, and no model id of the hub (owner/name).")
        options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local}
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, **options)
            model: Any
            model, report = AutoModelForSequenceClassification.from_pretrained(
                checkpoint, output_loading_info=True, **options
            )
            self._model = model.to(device).eval()
        except Exception as error:  # of damaged files and networks, loaders raise all kinds
            lines = str(error).strip().splitlines()
            raise M2KRError(
                f"--bem {checkpoint} could not be loaded as a sequence classifier of transformers "
                f"({lines[0] if lines else type(error).__name__}). Name a folder or hub id that holds one."
            ) from error
        if report["missing_keys"] or model.config.num_labels != 2:
            lacks = f", and its checkpoint lacks {min(report['missing_keys'])}" if report["missing_keys"] else ""
            raise M2KRError(
                f"--bem {checkpoint} is no answer-equivalence model, which has two classes: this one has "
                f"{model.config.num_labels}{lacks}. Name another."
            )
        self._device, self._batch_size = device, batch_size
        weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]) if local else []
        self.settings: dict[str, Any] = {
            "checkpoint": folder.resolve().name if local else checkpoint,
            "checkpoint_sha256": digest([sha256_of(file) for file in weights])
            if weights
            else getattr(model.config, "_commit_hash", None),
            "kind": "sequence classifier of transformers, not the official TensorFlow weights",
        }

    def __call__(self, questions: Sequence[str], references: Sequence[str], candidates: Sequence[str]) -> list[float]:
        """Return, for each triple, the probability that candidate and reference are equivalent."""
        import torch

        limit = min(self._tokenizer.model_max_length, self._model.config.max_position_embeddings)
        separator = self._tokenizer.sep_token
        scores: list[float] = []
        for first in range(0, len(questions), self._batch_size):
            rows = slice(first, first + self._batch_size)
            pairs = [
                f"{reference} {separator} {question}"
                for reference, question in zip(references[rows], questions[rows], strict=True)
            ]
            inputs = self._tokenizer(
                list(candidates[rows]), pairs, padding=True, truncation=True, max_length=limit, return_tensors="pt"
            ).to(self._device)
            with torch.inference_mode():
                scores += self._model(**inputs).logits.float().softmax(dim=-1)[:, 1].tolist()
        return scores


# --- a task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnswerScores:
    """Scores of a task's answers.

    Attributes:
        metrics: measure -> value between 0 and 1.
        headline: the measures the task is compared by, first the main one.
        table: column ``question_id`` and one of Float64 for each measure that a question has by itself.
        groups: measure -> for each question, whether the measure is over it. Those over all questions are left out.
    """

    metrics: dict[str, float]
    headline: list[str]
    table: pl.DataFrame
    groups: dict[str, list[bool]]


def score_answers(
    task: str, queries: pl.DataFrame, predictions: Mapping[str, str], *, bem: Equivalence | None = None
) -> AnswerScores:
    """Score the answers to the questions of a task by its official metric.

    Args:
        task: one of `ANSWER_TASKS`.
        queries: rows of ``<TASK>_data``.
        predictions: question_id -> answer, of every question.
        bem: answer-equivalence model, for EVQA.

    Raises:
        M2KRError: the task has no answer metric, a question has no prediction, or a row lacks what its metric needs.
    """
    metrics: dict[str, Callable[[], AnswerScores]] = {
        "vqa": lambda: _score_okvqa(queries, predictions),
        "infoseek": lambda: _score_infoseek(queries, predictions),
        "evqa": lambda: _score_evqa(queries, predictions, bem),
    }
    if task not in ANSWER_TASKS:
        raise M2KRError(f"{task} has no answer metric. Those that have one are {', '.join(ANSWER_TASKS)}.")
    lacking = [name for name in queries["question_id"] if name not in predictions]
    if lacking or not queries.height:
        reason = f"{len(lacking):,} of {queries.height:,} have none, the first is {lacking[0]}" if lacking else "none"
        raise M2KRError(f"every question of {task} needs a prediction: {reason}.")
    return metrics[TASKS[task].answer_metric]()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _frame(queries: pl.DataFrame, columns: Mapping[str, Sequence[float]]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(
        {
            "question_id": queries["question_id"],
            **{name: pl.Series(values, dtype=pl.Float64) for name, values in columns.items()},
        }
    )


def _score_okvqa(queries: pl.DataFrame, predictions: Mapping[str, str]) -> AnswerScores:
    scores = []
    for name, answers in queries.select("question_id", "answers").iter_rows():
        if not answers:
            raise M2KRError(f"question {name} of OKVQA has no answers, and the VQA score needs them.")
        scores.append(vqa_score(predictions[name], answers))
    return AnswerScores({"VQA": _mean(scores)}, ["VQA"], _frame(queries, {"VQA": scores}), {})


def _score_infoseek(queries: pl.DataFrame, predictions: Mapping[str, str]) -> AnswerScores:
    """Score InfoSeek, as infoseek_eval.py does; a row without ``answer_eval`` is compared with its ``answers``."""
    scores, kinds, unseen = [], [], []
    columns = ("question_id", "answers", "answer_eval", "wikidata_range", "question_type", "data_split")
    for name, answers, accepted, bounds, kind, split in queries.select(columns).iter_rows():
        numerical = kind.casefold() == "numerical" if kind else bool(bounds)
        if numerical and len(bounds or ()) < 2:
            raise M2KRError(f"question {name} of Infoseek is numerical and has no wikidata_range to compare with.")
        if not numerical and not (accepted or answers):
            raise M2KRError(f"question {name} of Infoseek has no accepted answers.")
        limits = (float(bounds[0]), float(bounds[1])) if numerical else None
        scores.append(infoseek_score(predictions[name], accepted or answers or (), limits))
        kinds.append("numerical" if numerical else "time" if (kind or "").casefold() == "time" else "string")
        unseen.append((split or "").rpartition("unseen_")[2] if "unseen_" in (split or "") else "")
    groups = {
        **{f"accuracy_{kind}": [other == kind for other in kinds] for kind in ("string", "time", "numerical")},
        **{f"accuracy_unseen_{part}": [other == part for other in unseen] for part in ("question", "entity")},
    }
    groups = {name: members for name, members in groups.items() if any(members)}
    metrics = {"accuracy": _mean(scores)}
    for name, members in groups.items():
        metrics[name] = _mean([score for score, member in zip(scores, members, strict=True) if member])
    headline = ["accuracy"]
    if {"accuracy_unseen_question", "accuracy_unseen_entity"} <= set(metrics):
        metrics["accuracy_harmonic"] = harmonic_accuracy(
            metrics["accuracy_unseen_question"], metrics["accuracy_unseen_entity"]
        )
        headline = ["accuracy_harmonic", "accuracy"]
    return AnswerScores(metrics, headline, _frame(queries, {"accuracy": scores}), groups)


def _score_evqa(queries: pl.DataFrame, predictions: Mapping[str, str], bem: Equivalence | None) -> AnswerScores:
    """Score Encyclopedic-VQA: the best over the references of exact match, else of the model's judgement."""
    exact: list[float] = []
    judged: list[tuple[int, str, str, str]] = []
    for row, (name, question, answers, kind) in enumerate(
        queries.select("question_id", "question", "answers", "question_type").iter_rows()
    ):
        if kind is not None and kind not in QUESTION_TYPES:
            raise M2KRError(f"question {name} of EVQA is of the type {kind!r}, none of {', '.join(QUESTION_TYPES)}.")
        references = [answer for answer in answers or () if answer]
        if not references:
            raise M2KRError(f"question {name} of EVQA has no answers to compare with.")
        multiple = kind == "multi_answer"
        said = predictions[name]
        exact.append(float(any(evqa_exact_match(said, reference, multiple=multiple) for reference in references)))
        if not exact[-1]:
            told = [reference.replace("&&", ",") if multiple else reference for reference in references]
            judged += [(row, question or "", reference, said) for reference in told]
    columns = {"EM": exact}
    if bem is not None:
        columns["BEM"] = list(exact)
        rows, *triples = zip(*judged, strict=True) if judged else ((), (), (), ())
        for row, probability in zip(rows, bem(*triples), strict=True):
            columns["BEM"][row] = max(columns["BEM"][row], float(probability >= 0.5))
    metrics = {name: _mean(values) for name, values in columns.items()}
    return AnswerScores(metrics, ["EM"] if bem is None else ["BEM", "EM"], _frame(queries, columns), {})


def intervals(scores: AnswerScores, *, resamples: int = 10_000, seed: int = 0) -> dict[str, list[float]]:
    """Return the 95 % interval of every measure, [low, high]: percentiles of a bootstrap over the questions."""
    import numpy as np

    from m2kr.significance import bootstrap_means

    main = scores.table.columns[1]
    columns = {name: scores.table[name].to_numpy() for name in scores.table.columns[1:]}
    members = {name: np.array(group, dtype=np.float64) for name, group in scores.groups.items()}
    parts = [*columns.values(), *(part for group in members.values() for part in (columns[main] * group, group))]
    drawn = bootstrap_means(np.column_stack(parts), resamples, seed)
    values = {name: drawn[:, place] for place, name in enumerate(columns)}
    for place, name in enumerate(members):
        total, size = (drawn[:, len(columns) + 2 * place + part] for part in range(2))
        # A draw without a question of the group says nothing of it.
        values[name] = np.divide(total, size, out=np.full_like(total, np.nan), where=size > 0)
    if "accuracy_harmonic" in scores.metrics:
        both = (values["accuracy_unseen_question"].tolist(), values["accuracy_unseen_entity"].tolist())
        values["accuracy_harmonic"] = np.array([harmonic_accuracy(*pair) for pair in zip(*both, strict=True)])
    return {name: [float(end) for end in np.nanpercentile(values[name], (2.5, 97.5))] for name in scores.metrics}
