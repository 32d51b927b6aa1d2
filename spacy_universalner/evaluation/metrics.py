"""How good an answer is: counts that add up, and the scores made of them.

Every metric here first counts, for one text and one type, how many entities were predicted, how
many stand in the gold standard and how many of the predicted are correct. Counts of texts, types,
domains or frequency bands are summed before a score is taken (micro-averaging), so each breakdown
adds up to the whole.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from spacy_universalner.ty import Mention

# The released UniversalNER evaluator adds this to each denominator.
RELEASED_EPSILON = 1e-10

OUTCOMES = (
    "correct",
    "wrong type",
    "wrong boundaries",
    "wrong type and boundaries",
    "spurious",
    "missed",
)

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Scores(NamedTuple):
    """Precision, recall and their harmonic mean, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


class Counts(NamedTuple):
    """What a score is made of. Counts of disjoint parts of the data add up with `total`.

    correct (float): Predicted entities that are right; halves where partial matches count.
    predicted (int): Predicted entities.
    gold (int): Entities in the gold standard.
    """

    correct: float
    predicted: int
    gold: int

    def scores(self, epsilon: float = 0.0) -> Scores:
        """Precision, recall and F1.

        epsilon (float): Added to each denominator. With 0, a score without a denominator is 0.
        RETURNS (Scores): The scores.
        """
        precision = _divide(self.correct, self.predicted + epsilon)
        recall = _divide(self.correct, self.gold + epsilon)
        f1 = _divide(2 * precision * recall, precision + recall + epsilon)
        return Scores(precision, recall, f1)


def _divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of counts.

    counts (Iterable[Counts]): Counts of disjoint parts of the data.
    RETURNS (Counts): Counts of the whole.
    """
    correct, predicted, gold = 0.0, 0, 0
    for part in counts:
        correct += part.correct
        predicted += part.predicted
        gold += part.gold
    return Counts(correct, predicted, gold)


def count_spans(gold: Iterable[Mention], predicted: Iterable[Mention]) -> Counts:
    """Strict matching: start, end and label must all be right.

    gold (Iterable[Mention]): The entities of a text; one that is listed twice counts once.
    predicted (Iterable[Mention]): What the system found in it, likewise.
    RETURNS (Counts): Counts of the text.
    """
    expected, found = _keys(gold), _keys(predicted)
    return Counts(float(len(expected & found)), len(found), len(expected))


def count_partial(gold: Iterable[Mention], predicted: Iterable[Mention]) -> Counts:
    """Partial matching (UniversalNER 5.4): what overlaps an entity of its type counts one half.

    Exact matches are paired first and count one. Each remaining prediction, from left to right, is
    paired with the first unpaired entity of its type that it overlaps; no entity is paired twice,
    so that precision and recall stay within 1.

    gold (Iterable[Mention]): The entities of a text.
    predicted (Iterable[Mention]): What the system found in it.
    RETURNS (Counts): Counts of the text.
    """
    expected, found = _keys(gold), _keys(predicted)
    exact = expected & found
    unpaired = sorted(expected - exact)
    halves = 0
    for start, end, label in sorted(found - exact):
        for entity in unpaired:
            if entity[2] == label and entity[0] < end and start < entity[1]:
                unpaired.remove(entity)
                halves += 1
                break
    return Counts(len(exact) + halves / 2, len(found), len(expected))


def _keys(mentions: Iterable[Mention]) -> set[tuple[int, int, str]]:
    return {(mention.start, mention.end, mention.label) for mention in mentions}


def count_outcomes(gold: Iterable[Mention], predicted: Iterable[Mention]) -> dict[str, int]:
    """What kinds of mistakes there are, each prediction and each missed entity counted once.

    gold (Iterable[Mention]): The entities of a text.
    predicted (Iterable[Mention]): What the system found in it.
    RETURNS (dict[str, int]): How many predictions are of each kind of `OUTCOMES`; "missed" are the
        entities that no prediction overlaps.
    """
    expected, found = _keys(gold), _keys(predicted)
    counts = dict.fromkeys(OUTCOMES, 0)
    for start, end, label in found:
        near = [entity for entity in expected if entity[0] < end and start < entity[1]]
        if (start, end, label) in expected:
            counts["correct"] += 1
        elif any(entity[:2] == (start, end) for entity in near):
            counts["wrong type"] += 1
        elif any(entity[2] == label for entity in near):
            counts["wrong boundaries"] += 1
        elif near:
            counts["wrong type and boundaries"] += 1
        else:
            counts["spurious"] += 1
    for start, end, _ in expected:
        if not any(entity[0] < end and start < entity[1] for entity in found):
            counts["missed"] += 1
    return counts


def normalize(answer: str) -> str:
    """The released evaluator's normal form: lower case, without ASCII punctuation and articles.

    answer (str): A string from an answer's list.
    RETURNS (str): The form that is compared; may be empty.
    """
    text = answer.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", text).split())


def count_strings(gold: Iterable[str], predicted: Iterable[str]) -> Counts:
    """The released UniversalNER evaluator: two answers compared as sets of normalised strings.

    One record is one (passage, type). Positions and repeats are ignored; a string whose normal form
    is empty is a string like any other. Score the sum over all records with
    `scores(RELEASED_EPSILON)`.

    gold (Iterable[str]): The strings of the gold answer.
    predicted (Iterable[str]): The strings of the model's answer.
    RETURNS (Counts): Counts of the record.
    """
    expected = {normalize(answer) for answer in gold}
    found = {normalize(answer) for answer in predicted}
    return Counts(float(len(expected & found)), len(found), len(expected))


def count_tokens(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, Counts]:
    """Token classification (NuNER 4.1): each token has one type or none.

    gold (Sequence[str]): The type of each token, "" for none.
    predicted (Sequence[str]): The same, as the system has it.
    RETURNS (dict[str, Counts]): Counts of each type that occurs on either side.
    RAISES (ValueError): The sequences differ in length.
    """
    if len(gold) != len(predicted):
        raise ValueError(
            f"Tokens are compared one by one: got {len(gold)} gold tags and {len(predicted)} "
            "predicted tags. Give both over the same tokens."
        )
    types = {tag for tag in (*gold, *predicted) if tag}
    return {
        tag: Counts(
            float(sum(g == tag == p for g, p in zip(gold, predicted, strict=True))),
            sum(p == tag for p in predicted),
            sum(g == tag for g in gold),
        )
        for tag in sorted(types)
    }


def macro_f1(per_type: Mapping[str, Counts], types: Collection[str] | None = None) -> float:
    """The mean over types of their F1, each type weighing the same.

    per_type (Mapping[str, Counts]): Counts of each type, such as summed `count_tokens`.
    types (Collection[str] | None): The types to average over; one without counts scores 0. All of
        `per_type` by default.
    RETURNS (float): Mean F1; 0 for no types.
    """
    chosen = per_type.keys() if types is None else types
    scores = [per_type.get(type_, Counts(0.0, 0, 0)).scores().f1 for type_ in chosen]
    return _divide(sum(scores), len(scores))


def bootstrap_interval(
    counts: Sequence[Counts],
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    epsilon: float = 0.0,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the micro-F1: texts are redrawn with replacement.

    counts (Sequence[Counts]): Counts of each text; texts, not entities, are the unit redrawn,
        since the entities of one text are not independent.
    samples (int): How often the set of texts is redrawn.
    confidence (float): Probability mass of the interval.
    epsilon (float): As in `Counts.scores`.
    seed (int): Seed of the redrawing.
    RETURNS (tuple[float, float]): Lower and upper bound; (0, 0) for no texts.
    """
    if not counts:
        return 0.0, 0.0
    table = np.asarray(counts, dtype=np.float64)
    random = np.random.default_rng(seed)
    f1 = np.empty(samples)
    for i in range(samples):
        drawn = table[random.integers(0, len(table), len(table))].sum(axis=0)
        f1[i] = Counts(*drawn).scores(epsilon).f1
    tail = (1 - confidence) / 2
    low, high = np.quantile(f1, [tail, 1 - tail])
    return float(low), float(high)
