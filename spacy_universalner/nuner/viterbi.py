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
        # A greedy path that is valid is the best one, and nearly all of a trained model are.
        invalid = [index for index, path in enumerate(paths) if not is_valid(path)]
        best = viterbi([log_probs[index] for index in invalid])
        for index, path in zip(invalid, best, strict=True):
            paths[index] = path
    return paths


def is_valid(path: Ints) -> bool:
    """Whether each inside class of a bio path follows the begin or inside class of its label."""
    previous = np.concatenate(([OUTSIDE], path[:-1]))
    inside = (path > OUTSIDE) & (path % 2 == 0)
    return bool(np.all(~inside | (previous == path) | (previous == path - 1)))


def viterbi(log_probs: Sequence[Floats]) -> list[Ints]:
    """The best valid bio paths, of all documents together: one step for all first tokens, one for
    all second ones.

    All transitions are alike but for inside classes, which only two classes may precede, so a step
    costs the number of classes and not its square.

    log_probs (Sequence[Floats]): For each document, shape (n_tokens, n_classes), at least a token.
    RETURNS (list[Ints]): For each document the classes, shape (n_tokens,).
    """
    if not log_probs:
        return []
    lengths = np.asarray([len(scores) for scores in log_probs])
    # Longest first: those that have an i-th token are the first ones.
    order = np.argsort(-lengths, kind="stable")
    ends = lengths.cumsum()
    starts = (ends - lengths)[order]
    reach = np.searchsorted(-lengths[order], -np.arange(lengths.max()), side="left")
    scores = np.concatenate(log_probs)
    begin = np.arange(1, scores.shape[1], 2)
    inside = begin + 1
    best = scores[starts].astype(np.float64)
    best[:, inside] = -np.inf
    back = []
    for i, n in enumerate(reach[1:], start=1):
        before = best[:n]
        origin = np.repeat(before.argmax(axis=1)[:, None], scores.shape[1], axis=1)
        origin[:, inside] = np.where(before[:, inside] > before[:, begin], inside, begin)
        best[:n] = np.take_along_axis(before, origin, axis=1) + scores[starts[:n] + i]
        back.append(origin)
    path = np.empty(len(scores), dtype=np.int64)
    classes = best.argmax(axis=1)
    for i in range(len(reach) - 1, -1, -1):
        n = reach[i]
        path[starts[:n] + i] = classes[:n]
        if i:
            classes[:n] = back[i - 1][np.arange(n), classes[:n]]
    return np.split(path, ends[:-1])


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
