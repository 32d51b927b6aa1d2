"""Tag schemes: the classes of a set of labels, and the best sequence that the scheme allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scheme = Literal["io", "bio"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

OUTSIDE = 0


def n_classes(n_labels: int, scheme: Scheme) -> int:
    """Number of classes: outside, then for each label one class (io) or begin and inside (bio).

    New labels append classes and never move old ones.
    """
    return 1 + n_labels * (2 if scheme == "bio" else 1)


def begin_class(label: int, scheme: Scheme) -> int:
    """The class of the first token of an entity of the label with this index."""
    return 1 + 2 * label if scheme == "bio" else 1 + label


def inside_class(label: int, scheme: Scheme) -> int:
    """The class of the further tokens of an entity of the label with this index."""
    return 2 + 2 * label if scheme == "bio" else 1 + label


def decode(log_probs: Sequence[Floats], scheme: Scheme) -> list[Ints]:
    """The most probable class sequences without an inside class that continues nothing.

    log_probs (Sequence[Floats]): For each document, log-probabilities of shape
        (n_tokens, n_classes).
    scheme (Scheme): Every sequence is valid under io.
    RETURNS (list[Ints]): For each document the classes, shape (n_tokens,).
    """
    paths = [scores.argmax(axis=1) for scores in log_probs]
    if scheme == "bio":
        # A greedy path that is valid is the best one, and nearly all are.
        for index, path in enumerate(paths):
            if not is_valid(path):
                paths[index] = viterbi(log_probs[index])
    return paths


def is_valid(path: Ints) -> bool:
    """Whether each inside class of a bio path follows the begin or inside class of its label."""
    previous = np.concatenate(([OUTSIDE], path[:-1]))
    inside = (path > OUTSIDE) & (path % 2 == 0)
    return bool(np.all(~inside | (previous == path) | (previous == path - 1)))


def viterbi(log_probs: Floats) -> Ints:
    """The best valid bio path of one document.

    All transitions are alike but for inside classes, which only two classes may precede, so a step
    costs the number of classes and not its square.

    log_probs (Floats): Shape (n_tokens, n_classes).
    RETURNS (Ints): The classes, shape (n_tokens,).
    """
    n_tokens, width = log_probs.shape
    begin = np.arange(1, width, 2)
    inside = begin + 1
    best = log_probs[0].astype(np.float64)
    best[inside] = -np.inf
    back = np.empty((n_tokens, width), dtype=np.int64)
    for i in range(1, n_tokens):
        leader = int(best.argmax())
        continues = best[inside] > best[begin]
        back[i] = leader
        back[i, inside] = np.where(continues, inside, begin)
        best = best[back[i]] + log_probs[i]
    path = np.empty(n_tokens, dtype=np.int64)
    path[-1] = best.argmax()
    for i in range(n_tokens - 1, 0, -1):
        path[i - 1] = back[i, path[i]]
    return path


def entities(path: Ints, scheme: Scheme) -> Iterator[tuple[int, int, int]]:
    """The entities of a class sequence. Under io, neighbours of one label are one entity.

    path (Ints): A valid sequence of classes.
    YIELDS (tuple[int, int, int]): First token, token after the last, index of the label.
    """
    start = label = end = -1
    for i in np.flatnonzero(path):
        label_here, position = divmod(int(path[i]) - 1, 2) if scheme == "bio" else (path[i] - 1, 1)
        if i == end and label_here == label and position == 1:
            end += 1
            continue
        if end > start:
            yield start, end, label
        start, end, label = int(i), int(i) + 1, int(label_here)
    if end > start:
        yield start, end, label
