"""Whether a system finds the same entities when a type is asked for in other words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

from spacy_universalner.evaluation.metrics import normalize


class Agreement(NamedTuple):
    """How far the answers to paraphrases of a question agree (UniversalNER 5.5).

    texts (int): Texts that were asked about.
    answered (int): Texts with an entity in at least one of their answers.
    rate (float): Share of pairs of answers to the same text that hold the same strings.
    answered_rate (float): The same over the answered texts only: where nothing is found, agreement
        is cheap.
    overlap (float): Over the answered texts, the mean share of strings that two answers have in
        common of those that either has.
    """

    texts: int
    answered: int
    rate: float
    answered_rate: float
    overlap: float


def measure_agreement(answers: Iterable[Sequence[Collection[str]]]) -> Agreement:
    """Compare each two answers to the same text as sets of normalised strings.

    answers (Iterable[Sequence[Collection[str]]]): For each text, the strings found for each of two
        or more paraphrases.
    RETURNS (Agreement): Over all texts; rates are 1 where there is nothing to compare.
    RAISES (ValueError): A text has fewer than two answers.
    """
    texts = answered = pairs = answered_pairs = equal = answered_equal = 0
    overlap = 0.0
    for paraphrases in answers:
        sets = [{normalize(string) for string in strings} for strings in paraphrases]
        if len(sets) < 2:
            raise ValueError(f"Agreement needs at least two paraphrases, got {len(sets)}.")
        found = any(sets)
        texts += 1
        answered += found
        for one, other in combinations(sets, 2):
            pairs += 1
            equal += one == other
            if found:
                answered_pairs += 1
                answered_equal += one == other
                overlap += len(one & other) / len(one | other) if one | other else 1.0
    return Agreement(
        texts,
        answered,
        equal / pairs if pairs else 1.0,
        answered_equal / answered_pairs if answered_pairs else 1.0,
        overlap / answered_pairs if answered_pairs else 1.0,
    )
