"""What an annotation run has read: counts, rejects with examples, type frequencies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...ty import Passage, Reject
from .tasks import Annotation

# UniversalNER Table 1: the most frequent hundredth of the types, up to a tenth, the rest.
BANDS = (("top 1%", 0.01), ("1-10%", 0.1), ("the rest", 1.0))


class Summary:
    """Counts texts, entities and rejects as they pass by.

    examples (int): Rejects of each reason to keep as they stood.
    """

    def __init__(self, *, examples: int = 5) -> None:
        self.examples = examples
        self.texts = self.kept = self.words = 0
        self.type_counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self._examples: dict[str, list[dict[str, str]]] = {}

    def add(self, passage: Passage, annotation: Annotation) -> None:
        """Count one text that was annotated.

        passage (Passage): The text.
        annotation (Annotation): What became of the answer.
        """
        for reject in annotation.rejects:
            self.rejected[reject.reason] += 1
            self._show(passage.id, reject)
        if annotation.dropped is not None:
            self.drop(passage.id, annotation.dropped)
            return
        self.texts += 1
        self.kept += 1
        self.words += len(passage.text.split())
        self.type_counts.update(mention.label for mention in annotation.mentions)

    def drop(self, id: str, reject: Reject) -> None:
        """Count one text that has no place in the corpus.

        id (str): Its id.
        reject (Reject): Why.
        """
        self.texts += 1
        self.dropped[reject.reason] += 1
        self._show(id, reject)

    def to_dict(self) -> dict[str, Any]:
        """Everything counted, as JSON; the same input gives the same bytes."""
        return {
            "texts": self.texts,
            "kept": self.kept,
            "words": self.words,
            "entities": self.type_counts.total(),
            "types": len(self.type_counts),
            "types_seen_once": sum(count == 1 for count in self.type_counts.values()),
            "dropped_texts": dict(self.dropped.most_common()),
            "rejects": dict(self.rejected.most_common()),
            "examples": self._examples,
            "frequency_bands": frequency_bands(self.type_counts),
            "type_counts": dict(sorted(self.type_counts.items(), key=lambda x: (-x[1], x[0]))),
        }

    def _show(self, id: str, reject: Reject) -> None:
        shown = self._examples.setdefault(reject.reason, [])
        if len(shown) < self.examples:
            shown.append({"id": id, "item": reject.item})


def frequency_bands(type_counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """How unevenly the mentions are spread over the types (UniversalNER Table 1).

    type_counts (Mapping[str, int]): Mentions of each type.
    RETURNS (list[dict[str, Any]]): For each band its name, number of types and of mentions, and
        its share of all mentions.
    """
    counts = sorted(type_counts.values(), reverse=True)
    total = sum(counts)
    bands, start = [], 0
    for name, upto in BANDS:
        end = max(start, round(upto * len(counts)))
        mentions = sum(counts[start:end])
        share = mentions / total if total else 0.0
        bands.append({"band": name, "types": end - start, "mentions": mentions, "share": share})
        start = end
    return bands
