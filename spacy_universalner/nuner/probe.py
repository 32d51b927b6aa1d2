"""A frozen few-shot probe (NuNER 4.1): how much a linear head learns from a few examples.

It runs in seconds, so that pre-training can be watched, and the best of its epochs chosen, on the
task that the encoder is for. The full protocol is that of the evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..evaluation.metrics import count_tokens, macro_f1
from ..evaluation.sampling import sample_mentions
from ..ty import Passage
from .batches import TokenizedPassage

WEIGHT_DECAY = 0.01


class FewShotProbe:
    """Trains heads on samples of some passages and scores them on others.

    train (Sequence[Passage]): Passages to sample from.
    dev (Sequence[Passage]): Passages to score on.
    k (int): Mentions of each type in a sample, at least; at most twice as many.
    samples (int): How many samples; the score is the mean.
    """

    def __init__(
        self, train: Sequence[Passage], dev: Sequence[Passage], *, k: int = 8, samples: int = 3
    ) -> None:
        self.passages = [*train, *dev]
        counts = [Counter(mention.label for mention in passage.mentions) for passage in train]
        self.samples = [sample_mentions(counts, k, seed=seed) for seed in range(samples)]
        self.dev = range(len(train), len(self.passages))

    @torch.no_grad()
    def __call__(self, passages: Sequence[TokenizedPassage], vectors: Sequence[Tensor]) -> float:
        """Score an encoder.

        passages (Sequence[TokenizedPassage]): `self.passages` in tokens.
        vectors (Sequence[Tensor]): What the encoder makes of each (tokens x width).
        RETURNS (float): Macro-F1 over tokens, mean of the samples.
        """
        labels = [token_labels(passage) for passage in passages]
        names = sorted({label for row in labels for label in row if label})
        number = {label: index for index, label in enumerate(["", *names])}
        gold = [label for index in self.dev for label in labels[index]]
        features = torch.cat([vectors[index] for index in self.dev])
        scores = []
        for sample in self.samples:
            inputs = torch.cat([vectors[index] for index in sample])
            targets = [number[label] for index in sample for label in labels[index]]
            head = train_head(inputs, torch.tensor(targets), len(number))
            best = head(features).argmax(-1).tolist()
            predicted = [["", *names][index] for index in best]
            scores.append(macro_f1(count_tokens(gold, predicted), names))
        return sum(scores) / len(scores)


def token_labels(passage: TokenizedPassage) -> list[str]:
    """The type of each token, "" for none; of several types the first in alphabetical order."""
    labels = [""] * len(passage.ids)
    for label in sorted(passage.concepts, reverse=True):
        for place in passage.concepts[label]:
            labels[place] = label
    return labels


def train_head(features: Tensor, targets: Tensor, classes: int) -> torch.nn.Linear:
    """Fit a linear classifier on standardised features by L-BFGS; the same input, the same head.

    features (Tensor): tokens x width.
    targets (Tensor): The class of each token.
    classes (int): Number of classes.
    RETURNS (torch.nn.Linear): For features as they came.
    """
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-3)
    inputs = (features - mean) / deviation
    head = torch.nn.Linear(features.shape[1], classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (
            F.cross_entropy(head(inputs), targets) + WEIGHT_DECAY / 2 * head.weight.square().sum()
        )
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    with torch.no_grad():
        head.weight /= deviation
        head.bias.sub_(head.weight @ mean)
    return head
