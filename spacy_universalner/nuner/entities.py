"""From the probabilities of a document's tokens to its entities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from spacy.attrs import IS_SPACE
from spacy.tokens import Doc

from spacy_universalner.nuner import viterbi

# The log-probability of what cannot be.
NEVER = -1e9


def find_entities(
    docs: Iterable[Doc], log_probs: Sequence[viterbi.Floats], scheme: viterbi.Scheme
) -> Iterator[tuple[Doc, list[tuple[int, int, int, float]]]]:
    """Find the entities of the best valid class sequences.

    White space is no word: an entity may go on behind a line break or a double space, but not
    behind a blank line, and neither starts nor ends with any.

    docs (Iterable[Doc]): The documents.
    log_probs (Sequence[Floats]): For each of them, shape (n_tokens, n_classes).
    scheme (Scheme): What the classes stand for.
    YIELDS (tuple[Doc, list[tuple[int, int, int, float]]]): A document, and of each entity the first
        token, the token after the last, the index of the label, and the geometric mean of the
        probabilities of its tokens' classes.
    """
    docs = list(docs)
    at_words = [_at_words(doc, each) for doc, each in zip(docs, log_probs, strict=True)]
    paths = viterbi.decode([scores for _, scores in at_words], scheme)
    for doc, (words, scores), path in zip(docs, at_words, paths, strict=True):
        found = list(viterbi.entities(path, scheme))
        confidences = _confidences(scores, path, found)
        yield (
            doc,
            [
                (int(words[start]), int(words[end - 1]) + 1, label, confidence)
                for (start, end, label), confidence in zip(found, confidences, strict=True)
            ],
        )


def _at_words(doc: Doc, log_probs: viterbi.Floats) -> tuple[viterbi.Ints, viterbi.Floats]:
    """Leave out white space, of which the encoder has read nothing.

    RETURNS (tuple[Ints, Floats]): The indices of the other tokens, and their log-probabilities. A
        blank line stays, outside of any entity, to part what stands before it from what follows.
    """
    space = doc.to_array([IS_SPACE]).astype(bool).reshape(-1)
    if space.any():
        log_probs = log_probs.copy()
        lines, before = 0, -1
        for i in map(int, np.flatnonzero(space)):
            lines = (lines if i == before + 1 else 0) + doc[i].text.count("\n")
            before = i
            if lines > 1:
                space[i] = False
                log_probs[i] = NEVER
                log_probs[i, viterbi.OUTSIDE] = 0.0
    words = np.flatnonzero(~space)
    return words, log_probs[words]


def _confidences(
    log_probs: viterbi.Floats, path: viterbi.Ints, entities: Sequence[tuple[int, int, int]]
) -> list[float]:
    """The geometric mean of the probabilities along the path, for each entity."""
    taken = log_probs[np.arange(len(path)), path].astype(np.float64)
    sums = np.concatenate(([0.0], taken.cumsum()))
    bounds = np.asarray([entity[:2] for entity in entities], dtype=np.int64).reshape(-1, 2)
    starts, ends = bounds.T
    means: list[float] = np.exp((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means
