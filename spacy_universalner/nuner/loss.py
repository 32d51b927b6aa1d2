"""What the token classifier is trained on: classes of tokens, their weights, cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from spacy.training import Example
from thinc.api import Ops
from thinc.types import Floats2d

from spacy_universalner.nuner import viterbi

MISSING = -1


def gold_classes(
    example: Example, labels: Sequence[str], scheme: viterbi.Scheme
) -> tuple[viterbi.Ints, set[str]]:
    """Find the classes of an example's tokens.

    example (Example): Its predicted document has the tokens.
    labels (Sequence[str]): The labels, in the order of their classes.
    scheme (Scheme): What the classes stand for.
    RETURNS (tuple[Ints, set[str]]): The class of each token, MISSING where it is not annotated, has
        another label, and at white space; and those other labels. An entity begins with its first
        word, and anew behind a blank line, as `find_entities` will have it.
    """
    index = {label: i for i, label in enumerate(labels)}
    classes = []
    unknown = set()
    begins = False  # whether the next word of an entity is its first one
    lines = 0
    for token, tag in zip(example.predicted, example.get_aligned_ner(), strict=True):
        lines = lines + token.text.count("\n") if token.is_space else 0
        if tag == "O" and not token.is_space:
            classes.append(viterbi.OUTSIDE)
            continue
        move, _, label = (tag or "-").partition("-")
        begins = begins or move in ("B", "U") or lines > 1
        if label and label not in index:
            unknown.add(label)
        if label not in index or token.is_space:
            classes.append(MISSING)
        elif begins:
            classes.append(viterbi.begin_class(index[label], scheme))
        else:
            classes.append(viterbi.inside_class(index[label], scheme))
        begins = begins and token.is_space
    return np.asarray(classes, dtype=np.int64), unknown


def weigh_classes(
    given: Mapping[str, float], labels: Sequence[str], scheme: viterbi.Scheme
) -> viterbi.Floats:
    """The weight of each class in the loss.

    given (Mapping[str, float]): Of labels, and of "O"; 1.0 where none is given.
    labels (Sequence[str]): The labels, in the order of their classes.
    scheme (Scheme): What the classes stand for.
    RETURNS (Floats): Shape (n_classes,).
    RAISES (ValueError): A weight is given for what is no label.
    """
    unknown = given.keys() - {"O", *labels}
    if unknown:
        raise ValueError(
            f"class_weights names {sorted(unknown)}, expected 'O' or one of the labels: "
            f"{', '.join(labels)}."
        )
    weights = np.ones(viterbi.n_classes(len(labels), scheme), dtype="float32")
    weights[viterbi.OUTSIDE] = given.get("O", 1.0)
    for i, label in enumerate(labels):
        weights[viterbi.begin_class(i, scheme)] = given.get(label, 1.0)
        weights[viterbi.inside_class(i, scheme)] = given.get(label, 1.0)
    return weights


def cross_entropy(
    ops: Ops, scores: list[Floats2d], targets: Floats2d, weights: viterbi.Floats
) -> tuple[float, list[Floats2d]]:
    """Cross-entropy of logits and target probabilities, as a weighted sum over tokens.

    ops (Ops): Of the device.
    scores (list[Floats2d]): For each document its logits, shape (n_tokens, n_classes).
    targets (Floats2d): Probabilities, for the tokens of all documents.
    weights (Floats): Of each of these tokens.
    RETURNS (tuple[float, list[Floats2d]]): The loss, and its gradient for each document.
    """
    probs = ops.softmax(ops.flatten(scores))
    factors = ops.asarray2f(weights.reshape(-1, 1))  # type: ignore[arg-type]
    loss = float(-(targets * ops.xp.log(probs + 1e-12) * factors).sum())
    gradient = (probs - targets) * factors
    return loss, ops.unflatten(gradient, ops.asarray1i([len(s) for s in scores]))
