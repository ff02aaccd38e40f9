"""Pseudo relevance, what Pseudo Recall counts: a passage that contains an answer, whether it is a positive or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from m2kr.common.progress import progress
from m2kr.errors import M2KRError


def contains_answer(passage: str, answers: Iterable[str]) -> bool:
    """Whether a passage contains an answer: lower-cased and stripped, as a substring. Empty answers never match.

    An answer of several parts, which Encyclopedic-VQA separates by "&&", is contained where all its parts are.
    """
    if isinstance(answers, str):
        raise M2KRError(f"answers is the text {answers!r:.100}; it has to be a list of texts.")
    return _Needles(answers).are_in(passage.lower())


class _Needles:
    """What is looked for in lower-cased passages: whole answers, and those of several parts."""

    def __init__(self, answers: Iterable[str]) -> None:
        cleaned = dict.fromkeys(answer.strip().lower() for answer in answers)
        self.whole = [answer for answer in cleaned if answer and "&&" not in answer]
        split = [
            [part for piece in answer.split("&&") if (part := piece.strip())] for answer in cleaned if "&&" in answer
        ]
        self.parts = [parts for parts in split if parts]

    def __bool__(self) -> bool:
        return bool(self.whole or self.parts)

    def are_in(self, text: str) -> bool:
        for answer in self.whole:  # there is one, as a rule, and `any` would take longer
            if answer in text:
                return True
        return bool(self.parts) and any(all(map(text.__contains__, parts)) for parts in self.parts)


class _Lowered(dict[str, str]):
    """The contents of passages in lower case, each made when it is first asked for."""

    def __init__(self, passages: Mapping[str, str]) -> None:
        super().__init__()
        self._passages = passages

    def __missing__(self, passage_id: str) -> str:
        content = self._passages[passage_id]
        if not isinstance(content, str):
            raise M2KRError(f"the content of the passage {passage_id!r} is {content!r:.100}, no text (str).")
        lowered = self[passage_id] = content.lower()
        return lowered


def first_matches(
    retrieved: Mapping[str, Sequence[str]],
    answers: Mapping[str, Sequence[str]],
    passages: Mapping[str, str],
    depth: int,
    *,
    quiet: bool,
) -> dict[str, list[str]]:
    """Return, for each query, the first retrieved passage that contains an answer: it alone decides PRecall@K."""
    texts = _Lowered(passages)
    first: dict[str, list[str]] = {}
    with progress(len(retrieved), "look for answers", unit="queries", quiet=quiet) as bar:
        for query, ids in retrieved.items():
            needles = _Needles(answers.get(query, ()))
            try:
                for passage_id in ids[:depth] if needles else ():
                    if needles.are_in(texts[passage_id]):
                        first[query] = [passage_id]
                        break
            except KeyError as error:
                raise M2KRError(
                    f"the run of query {query!r} holds the passage {error.args[0]!r}, not known here."
                ) from error
            bar.update()
    return first
