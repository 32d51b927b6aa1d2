"""Longer passages as sentences, the texts that NuNER's pre-training reads (3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from spacy.language import Language

from ..ty import Mention, Passage


def split_sentences(passages: Iterable[Passage], nlp: Language) -> Iterator[Passage]:
    """Make a passage of each sentence of passages.

    A mention that reaches over the end of a sentence stands in neither of the two.

    passages (Iterable[Passage]): Texts with their mentions.
    nlp (Language): Any pipeline that sets sentence boundaries, such as `sentencizer`.
    YIELDS (Passage): The sentences in order, "-1", "-2" ... appended to their passage's id.
    """
    docs = nlp.pipe(((passage.text, passage) for passage in passages), as_tuples=True)
    for doc, passage in docs:
        for number, sentence in enumerate(doc.sents, start=1):
            start, end = sentence.start_char, sentence.end_char
            yield Passage(
                f"{passage.id}-{number}", sentence.text, tuple(_within(passage, start, end))
            )


def _within(passage: Passage, start: int, end: int) -> Iterator[Mention]:
    """The mentions between two offsets, counted from the first."""
    for mention in passage.mentions:
        if start <= mention.start and mention.end <= end:
            yield replace(mention, start=mention.start - start, end=mention.end - start)
