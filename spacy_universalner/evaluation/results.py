"""From predictions to a table of results: overall and broken down, with both metrics side by side.

A system is seen only through its predictions. Each (text, type) is counted once; every figure of
the table is a sum of these counts, so that types, bands, lengths and domains add up to the whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spacy_universalner.evaluation.metrics import (
    RELEASED_EPSILON,
    Counts,
    bootstrap_interval,
    count_partial,
    count_spans,
    count_strings,
    total,
)
from spacy_universalner.ty import Mention, Passage

# Upper bounds of the parts by length, in words separated by white space.
LENGTHS = {16: "1-16 words", 32: "17-32 words", 64: "33-64 words", 128: "65-128 words"}
LONGER = "over 128 words"

# Shares of the types, from the commonest on (UniversalNER Table 1).
BANDS = {0.01: "top 1%", 0.1: "1-10%", 1.0: "the rest"}
UNSEEN = "not in training"


@dataclass(frozen=True)
class Prediction:
    """What a system found in a text, beside what stands in it.

    passage (Passage): The text with its gold entities.
    types (tuple[str, ...]): The types that were asked for.
    mentions (tuple[Mention, ...]): The entities found, located in the text.
    strings (Mapping[str, tuple[str, ...]] | None): For each type asked the list that a generative
        system answered, before it was located: what the released evaluator reads. For a system
        that marks spans, leave it out; then its spans' texts are compared.
    domain (str): Where the text comes from.
    unanswered (Mapping[str, str]): The types, "" for all at once, that a question about the text,
        or about a part of it, got no answer for, and why.
    """

    passage: Passage
    types: tuple[str, ...]
    mentions: tuple[Mention, ...]
    strings: Mapping[str, tuple[str, ...]] | None = None
    domain: str = ""
    unanswered: Mapping[str, str] = field(default_factory=dict)


class Cell(NamedTuple):
    """One (text, type) with its counts under each metric."""

    text: int
    type: str
    span: Counts
    string_set: Counts
    partial: Counts


# The released metric's denominators carry an epsilon, the others' do not.
METRICS = {"span": 0.0, "string_set": RELEASED_EPSILON, "partial": 0.0}


def count_cells(predictions: Iterable[Prediction]) -> list[Cell]:
    """Count each (text, type) that was asked for, stands in the text or was predicted.

    predictions (Iterable[Prediction]): One for each text.
    RETURNS (list[Cell]): Cells by text, then type.
    """
    cells = []
    for i, prediction in enumerate(predictions):
        gold = _by_type(prediction.passage.mentions)
        found = _by_type(prediction.mentions)
        listed = prediction.strings
        for type_ in sorted({*prediction.types, *gold, *found, *(listed or ())}):
            text = prediction.passage.text
            expected, mentions = gold.get(type_, ()), found.get(type_, ())
            strings = _texts(text, mentions) if listed is None else listed.get(type_, ())
            cells.append(
                Cell(
                    i,
                    type_,
                    count_spans(expected, mentions),
                    count_strings(_texts(text, expected), strings),
                    count_partial(expected, mentions),
                )
            )
    return cells


def _by_type(mentions: Iterable[Mention]) -> dict[str, list[Mention]]:
    by_type: dict[str, list[Mention]] = defaultdict(list)
    for mention in mentions:
        by_type[mention.label].append(mention)
    return by_type


def _texts(text: str, mentions: Iterable[Mention]) -> list[str]:
    return [text[mention.start : mention.end] for mention in mentions]


def make_results(
    predictions: Sequence[Prediction],
    *,
    frequencies: Mapping[str, int] | None = None,
    asked: Mapping[str, str] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score predictions under every metric, overall and broken down.

    predictions (Sequence[Prediction]): One for each text.
    frequencies (Mapping[str, int] | None): How often each type occurs in training; with it, the
        results are broken down by frequency band.
    asked (Mapping[str, str] | None): For labels that are not called as in training, what is asked.
    samples (int): Redrawings of the bootstrap.
    seed (int): Its seed.
    RETURNS (dict[str, Any]): `texts`, `entities`, `questions` (text and type pairs),
        `unanswered` (of those put to a model; they count as answered with nothing), and under
        `span`, `string_set` and `partial` a dict of `precision`, `recall`, `f1`, `low` and `high`
        (95% bootstrap interval of F1), `correct`, `predicted`, `gold`. Under `per_type`,
        `per_length`, `per_domain` (where there are several) and `per_band` the same for each part,
        without the interval.
    """
    cells = count_cells(predictions)
    results: dict[str, Any] = {
        "texts": len(predictions),
        "entities": total(cell.span for cell in cells).gold,
        "questions": len(cells),
        "unanswered": sum(len(prediction.unanswered) for prediction in predictions),
    }
    for metric, epsilon in METRICS.items():
        per_text = [Counts(0.0, 0, 0)] * len(predictions)
        for cell in cells:
            per_text[cell.text] = total((per_text[cell.text], getattr(cell, metric)))
        low, high = bootstrap_interval(per_text, samples=samples, epsilon=epsilon, seed=seed)
        results[metric] = {**_scores(per_text, epsilon), "low": low, "high": high}

    lengths = [_length(prediction.passage.text) for prediction in predictions]
    domains = [prediction.domain for prediction in predictions]
    results["per_type"] = _break_down(cells, lambda cell: cell.type)
    results["per_length"] = _break_down(
        cells, lambda cell: lengths[cell.text], order=(*LENGTHS.values(), LONGER)
    )
    if len(set(domains)) > 1:
        results["per_domain"] = _break_down(cells, lambda cell: domains[cell.text])
    if frequencies is not None:
        bands = band_of_types(frequencies)
        words = asked or {}
        results["per_band"] = _break_down(
            cells,
            lambda cell: bands.get(words.get(cell.type, cell.type), UNSEEN),
            order=(*BANDS.values(), UNSEEN),
        )
    return results


def band_of_types(frequencies: Mapping[str, int]) -> dict[str, str]:
    """The frequency band of each type (UniversalNER 3.1, Table 1).

    frequencies (Mapping[str, int]): How often each type occurs.
    RETURNS (dict[str, str]): For each type the name of its band; equally common types are ranked
        by name.
    """
    ranked = sorted(frequencies, key=lambda type_: (-frequencies[type_], type_))
    return {
        type_: next(band for share, band in BANDS.items() if rank < round(share * len(ranked)))
        for rank, type_ in enumerate(ranked)
    }


def _break_down(
    cells: Iterable[Cell], part_of: Callable[[Cell], str], order: Sequence[str] = ()
) -> dict[str, Any]:
    parts: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        parts[part_of(cell)].append(cell)
    return {
        part: {
            metric: _scores((getattr(cell, metric) for cell in parts[part]), epsilon)
            for metric, epsilon in METRICS.items()
        }
        for part in sorted(parts, key=lambda part: (part in order and order.index(part), part))
    }


def _scores(counts: Iterable[Counts], epsilon: float) -> dict[str, float]:
    summed = total(counts)
    return {**summed.scores(epsilon)._asdict(), **summed._asdict()}


def _length(text: str) -> str:
    words = len(text.split())
    return next((name for limit, name in LENGTHS.items() if words <= limit), LONGER)
