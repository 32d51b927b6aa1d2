"""The papers' rules for what an annotator's answer must not contain."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable

from ...ty import Extraction, Reject

# NuNER 3.1 removes the sentences that hold this concept: it is too uninformative.
DROPPED_CONCEPTS = ("concept",)

# UniversalNER 3.1 removes types "such as None, NA, MISC, and ELSE"; these are their like.
EMPTY_TYPES = (
    "none",
    "na",
    "n/a",
    "nil",
    "null",
    "misc",
    "miscellaneous",
    "else",
    "other",
    "others",
    "unknown",
    "unspecified",
    "undefined",
    "unclassified",
    "not applicable",
    "not specified",
    "entity",
    "other entity",
)


def says_nothing(label: str, empty: Collection[str]) -> bool:
    """Whether a type is one of a list, in any case and with or without a full stop."""
    return label.casefold().strip(" .") in empty


def is_english(text: str) -> bool:
    """Whether a string could stand in English text, judged by script: the paper names no tool.

    text (str): An entity or a type.
    RETURNS (bool): False if most of its letters are not Latin; digits and signs do not count.
    """
    letters = [character for character in text if character.isalpha()]
    latin = sum(unicodedata.name(letter, "").startswith("LATIN ") for letter in letters)
    return 2 * latin >= len(letters)


def reject_if(
    extractions: Iterable[Extraction], condition: Callable[[Extraction], bool], reason: str
) -> tuple[list[Extraction], list[Reject]]:
    """Split what was found by a rule.

    extractions (Iterable[Extraction]): What was found in a text.
    condition (Callable[[Extraction], bool]): True for what has to go.
    reason (str): Why it has to.
    RETURNS (tuple[list[Extraction], list[Reject]]): What stays, in order, and what does not.
    """
    kept, rejects = [], []
    for extraction in extractions:
        if condition(extraction):
            rejects.append(Reject(f"{extraction.text} <> {extraction.label}", reason))
        else:
            kept.append(extraction)
    return kept, rejects
