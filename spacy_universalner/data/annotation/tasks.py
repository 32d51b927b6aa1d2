"""The two papers' annotation of raw text as spacy-llm tasks: open types, invented by the LLM.

`[components.llm.task]` names one of them, `[components.llm.model]` any LLM. Afterwards
`doc.spans["annotation"]` holds the entities, aligned to tokens and often overlapping, and
`annotation_of(doc)` the exact character offsets and everything that was not used, with reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Iterable, Protocol  # noqa: UP035 (spacy-llm compares these very types)

from spacy.tokens import Doc, SpanGroup

from ...alignment import locate, to_spans
from ...ty import CutAnswer, Extraction, Mention, NoAnswer, Reject
from .filters import DROPPED_CONCEPTS, EMPTY_TYPES, is_english, reject_if, says_nothing
from .parsing import parse_nuner, parse_uniner
from .templates import render_prompt

# Why a text is dropped whose request failed; what the failure was is the reject's item.
NO_ANSWER = "no answer"


class Parser(Protocol):
    """Reads an answer about a text; see `parse_nuner`."""

    def __call__(
        self, response: str, text: str, *, cut: bool
    ) -> tuple[list[Extraction], list[Reject]]: ...


@dataclass(frozen=True)
class Annotation:
    """What became of the answer for one text.

    mentions (tuple[Mention, ...]): The entities, at every place where they stand in the text.
    rejects (tuple[Reject, ...]): The pieces of the answer that were not used.
    dropped (Reject | None): Why the text has no place in the corpus, or None if it has.
    descriptions (dict[tuple[str, str], str]): What the LLM said about a type, by (entity, type):
        kept, but not trained on (NuNER 3.1).
    """

    mentions: tuple[Mention, ...] = ()
    rejects: tuple[Reject, ...] = ()
    dropped: Reject | None = None
    descriptions: dict[tuple[str, str], str] = field(default_factory=dict)


def annotation_of(doc: Doc) -> Annotation:
    """The record that an annotation task has left on a Doc.

    doc (Doc): One that went through a component `llm` with such a task.
    RETURNS (Annotation): Entities with exact offsets, and what was not used.
    RAISES (KeyError): It did not.
    """
    return doc.user_data["annotation"]


def make_nuner_annotation_task(
    template: str = "nuner",
    dropped_concepts: Sequence[str] = DROPPED_CONCEPTS,
    spans_key: str = "annotation",
) -> AnnotationTask:
    """`spacy-universalner.NuNERAnnotation.v1`: the entities, concepts and ideas of a sentence.

    template (str): Name of a template, or the path of a Jinja file of one's own.
    dropped_concepts (Sequence[str]): Lower-case concepts so uninformative that a sentence with
        one is dropped (NuNER 3.1).
    spans_key (str): Where the entities go in `doc.spans`.
    RETURNS (AnnotationTask): The task.
    """
    return AnnotationTask(
        template, parse_nuner, dropped_concepts=dropped_concepts, spans_key=spans_key
    )


def make_uniner_annotation_task(
    template: str = "uniner",
    empty_types: Sequence[str] = EMPTY_TYPES,
    english_only: bool = True,
    spans_key: str = "annotation",
) -> AnnotationTask:
    """`spacy-universalner.UniNERAnnotation.v1`: the entities of a passage and their types.

    template (str): "uniner" for types, "uniner_definition" for definitions in their place, or
        the path of a Jinja file of one's own.
    empty_types (Sequence[str]): Lower-case types that say nothing (UniversalNER 3.1).
    english_only (bool): Reject entities that are not in Latin script.
    spans_key (str): Where the entities go in `doc.spans`.
    RETURNS (AnnotationTask): The task.
    """
    return AnnotationTask(
        template,
        parse_uniner,
        empty_types=empty_types,
        english_only=english_only,
        spans_key=spans_key,
    )


class AnnotationTask:
    """Asks for the entities of a text, reads the answer, finds the strings and filters."""

    def __init__(
        self,
        template: str,
        parse: Parser,
        *,
        dropped_concepts: Sequence[str] = (),
        empty_types: Sequence[str] = (),
        english_only: bool = False,
        spans_key: str = "annotation",
    ) -> None:
        self.template = template
        self.parse = parse
        self.dropped_concepts = frozenset(dropped_concepts)
        self.empty_types = frozenset(empty_types)
        self.english_only = english_only
        self.spans_key = spans_key

    def generate_prompts(self, docs: Iterable[Doc]) -> Iterable[str]:
        """One prompt a Doc."""
        for doc in docs:
            yield render_prompt(self.template, doc.text)

    def parse_responses(self, docs: Iterable[Doc], responses: Iterable[Any]) -> Iterable[Doc]:
        """Write each answer to its Doc.

        docs (Iterable[Doc]): The Docs that were asked about.
        responses (Iterable[Any]): For each the list of its one answer.
        YIELDS (Doc): The same Docs, with `spans[spans_key]` and the record of `annotation_of`.
        """
        for doc, (response,) in zip(docs, responses, strict=True):
            annotation = self.read(doc.text, response)
            spans, _ = to_spans(doc, annotation.mentions, "expand")
            doc.spans[self.spans_key] = SpanGroup(doc, name=self.spans_key, spans=spans)
            doc.user_data["annotation"] = annotation
            yield doc

    def read(self, text: str, response: str) -> Annotation:
        """Turn an answer into entities of the text.

        text (str): The sentence or passage.
        response (str): The LLM's answer; a `CutAnswer` if it is not whole, or a `NoAnswer`.
        RETURNS (Annotation): Its entities, and all that did not become one.
        """
        if isinstance(response, NoAnswer):
            return Annotation(dropped=Reject(str(response), NO_ANSWER))
        cut = isinstance(response, CutAnswer)
        found, rejects = self.parse(response, text, cut=cut)
        if rejects and not found:
            reason = "answer cut off" if cut else "unparseable answer"
            return Annotation(dropped=Reject(str(response), reason))
        for extraction in found:
            if says_nothing(extraction.label, self.dropped_concepts):
                reason = f'text with the concept "{extraction.label.casefold()}"'
                return Annotation(rejects=tuple(rejects), dropped=Reject(extraction.text, reason))
        seen: set[tuple[str, str]] = set()
        found, repeated = reject_if(found, lambda e: _is_known(e, seen), "repeated in the answer")
        found, empty = reject_if(
            found, lambda e: says_nothing(e.label, self.empty_types), "type that says nothing"
        )
        found, foreign = reject_if(
            found,
            lambda e: self.english_only and not (is_english(e.text) and is_english(e.label)),
            "not English",
        )
        mentions, lost = locate(text, found)
        return Annotation(
            tuple(mentions),
            (*rejects, *repeated, *empty, *foreign, *lost),
            descriptions={(e.text, e.label): e.description for e in found if e.description},
        )


def _is_known(extraction: Extraction, seen: set[tuple[str, str]]) -> bool:
    pair = (extraction.text, extraction.label)
    if pair in seen:
        return True
    seen.add(pair)
    return False
