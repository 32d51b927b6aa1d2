"""The scorer of both components, for `spacy train`, `spacy evaluate` and `spacy find-threshold`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from spacy.scorer import Scorer, get_ner_prf
from spacy.tokens import Doc, Span
from spacy.training import Example

EntityScorer = Callable[..., dict[str, Any]]


def make_entity_scorer() -> EntityScorer:
    """Make the registered scorer `spacy-universalner.EntityScorer.v1`.

    RETURNS (EntityScorer): `score_entities`.
    """
    return score_entities


def score_entities(
    examples: Iterable[Example], *, spans_key: str | None = None, **_: Any
) -> dict[str, Any]:
    """Strict precision, recall and F1 of the entities, in total and per type.

    `doc.ents` is scored as spaCy's own `ner` is: a prediction on tokens without gold annotation is
    neither right nor wrong. With a spans key, the span group is scored too, overlaps included;
    where the gold document has no such group its `doc.ents` stand in, so that overlapping
    predictions can be scored against ordinary NER data.

    examples (Iterable[Example]): Predicted and gold documents.
    spans_key (str | None): The span group to score beside `doc.ents`.
    RETURNS (dict[str, Any]): `ents_p`, `ents_r`, `ents_f`, `ents_per_type`, and with a spans key
        the same with `spans_{spans_key}` for `ents`; None for what has no gold annotation.
    """
    examples = list(examples)
    scores: dict[str, Any] = get_ner_prf(examples)
    if spans_key is not None:

        def spans(doc: Doc, _: str) -> list[Span]:
            return list(doc.spans.get(spans_key, doc.ents))

        def has_annotation(doc: Doc) -> bool:
            return spans_key in doc.spans or doc.has_annotation("ENT_IOB")

        scores |= Scorer.score_spans(
            examples,
            f"spans_{spans_key}",
            getter=spans,
            has_annotation=has_annotation,
            allow_overlap=True,
        )
    return scores
