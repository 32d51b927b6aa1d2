"""The components' scorers, for `spacy train`, `spacy evaluate` and `spacy find-threshold`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from spacy.scorer import Scorer, get_ner_prf
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_universalner.evaluation.metrics import (
    RELEASED_EPSILON,
    Counts,
    count_partial,
    count_strings,
    total,
)
from spacy_universalner.ty import Mention

EntityScorer = Callable[..., dict[str, Any]]


def make_entity_scorer() -> EntityScorer:
    """Make the registered scorer `spacy-universalner.EntityScorer.v1`.

    RETURNS (EntityScorer): `score_entities`.
    """
    return score_entities


def make_string_set_scorer() -> EntityScorer:
    """Make the registered scorer `spacy-universalner.StringSetScorer.v1`.

    RETURNS (EntityScorer): `score_string_sets`.
    """
    return score_string_sets


def make_partial_match_scorer() -> EntityScorer:
    """Make the registered scorer `spacy-universalner.PartialMatchScorer.v1`.

    RETURNS (EntityScorer): `score_partial_matches`.
    """
    return score_partial_matches


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


def score_string_sets(
    examples: Iterable[Example],
    *,
    spans_key: str | None = None,
    component: str = "",
    **_: Any,
) -> dict[str, Any]:
    """Scores of `score_entities`, and the released UniversalNER evaluator's beside them.

    For each document and type the texts of the entities are compared as sets of normalised
    strings: positions and repeats are ignored. These scores are not comparable with strict ones.
    Of a component that keeps what its model answered, that is compared, as the released evaluator
    does: strings that do not stand in the text count against it.

    examples (Iterable[Example]): Predicted and gold documents; those without gold annotation are
        left out.
    spans_key (str | None): The span group to score, where a document has it; `doc.ents` if not.
    component (str): Name of the component, under which `doc.user_data` may have its answers.
    RETURNS (dict[str, Any]): What `score_entities` returns, and `string_set_p`, `string_set_r`,
        `string_set_f`, `string_set_per_type`; None without gold annotation.
    """
    examples = list(examples)

    def count(example: Example) -> dict[str, Counts]:
        gold, answers = _texts(example.y, spans_key), example.x.user_data.get(component)
        found = _texts(example.x, spans_key) if answers is None else answers["strings"]
        types = gold.keys() | found.keys()
        return {type_: count_strings(gold.get(type_, ()), found.get(type_, ())) for type_ in types}

    counts = [count(example) for example in _annotated(examples, spans_key)]
    return {
        **score_entities(examples, spans_key=spans_key),
        **_summarize("string_set", counts, RELEASED_EPSILON),
    }


def score_partial_matches(
    examples: Iterable[Example], *, spans_key: str | None = None, **_: Any
) -> dict[str, Any]:
    """Scores of `score_entities`, and partial matches beside them (UniversalNER 5.4).

    A prediction that overlaps an entity of its type counts one half, and each entity is paired
    once: `count_partial`.

    examples (Iterable[Example]): Predicted and gold documents; those without gold annotation are
        left out.
    spans_key (str | None): The span group to score, where a document has it; `doc.ents` if not.
    RETURNS (dict[str, Any]): What `score_entities` returns, and `partial_p`, `partial_r`,
        `partial_f`, `partial_per_type`; None without gold annotation.
    """
    examples = list(examples)

    def count(example: Example) -> dict[str, Counts]:
        gold, found = _mentions(example.y, spans_key), _mentions(example.x, spans_key)
        types = {mention.label for mention in gold + found}
        return {
            type_: count_partial(
                [mention for mention in gold if mention.label == type_],
                [mention for mention in found if mention.label == type_],
            )
            for type_ in types
        }

    counts = [count(example) for example in _annotated(examples, spans_key)]
    return {**score_entities(examples, spans_key=spans_key), **_summarize("partial", counts)}


def _annotated(examples: Iterable[Example], spans_key: str | None) -> list[Example]:
    """The examples with gold entities, or with the word that there are none."""
    return [
        example
        for example in examples
        if spans_key in example.y.spans or example.y.has_annotation("ENT_IOB")
    ]


def _summarize(
    name: str, counts: Sequence[Mapping[str, Counts]], epsilon: float = 0.0
) -> dict[str, Any]:
    """Scores under spaCy's names from the counts of each document by type."""
    if not counts:
        return {f"{name}_{key}": None for key in ("p", "r", "f", "per_type")}
    types = sorted({type_ for each in counts for type_ in each})
    per_type = {type_: total(each[type_] for each in counts if type_ in each) for type_ in types}
    precision, recall, f1 = total(per_type.values()).scores(epsilon)
    return {
        f"{name}_p": precision,
        f"{name}_r": recall,
        f"{name}_f": f1,
        f"{name}_per_type": {
            type_: dict(zip("prf", each.scores(epsilon), strict=True))
            for type_, each in per_type.items()
        },
    }


def _spans(doc: Doc, spans_key: str | None) -> Iterable[Span]:
    return doc.ents if spans_key is None else doc.spans.get(spans_key, doc.ents)


def _texts(doc: Doc, spans_key: str | None) -> dict[str, list[str]]:
    """The texts of a document's entities by type."""
    texts: dict[str, list[str]] = defaultdict(list)
    for span in _spans(doc, spans_key):
        texts[span.label_].append(span.text)
    return texts


def _mentions(doc: Doc, spans_key: str | None) -> list[Mention]:
    return [Mention(span.start_char, span.end_char, span.label_) for span in _spans(doc, spans_key)]
