"""The frozen few-shot protocol (NuNER 4.1): the encoder stays, one linear layer is trained.

Token vectors are computed once for a data set; each training set is then a few of its rows, and a
training takes seconds. The layer is a multinomial logistic regression. Its loss is convex, so it is
solved rather than trained for some epochs at some rate: nothing but the weight penalty is left to
choose, and the same training set always gives the same layer.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spacy_universalner.evaluation.metrics import Counts, macro_f1, total


@dataclass(frozen=True)
class TokenSet:
    """Sentences as vectors and types of their tokens.

    vectors (Sequence[NDArray]): For each sentence an array of shape (n_tokens, width).
    tags (Sequence[Sequence[str]]): The type of each token, "" for none.
    """

    vectors: Sequence[NDArray[Any]]
    tags: Sequence[Sequence[str]]

    def rows(self, types: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """All tokens in one.

        types (Sequence[str]): The classes; a token of another type has none.
        RETURNS (tuple[Tensor, Tensor]): Vectors of shape (n_tokens, width), and for each token its
            class: 0 for none, else its place in `types` plus 1.
        """
        place = {type_: number for number, type_ in enumerate(types, start=1)}
        classes = [place.get(tag, 0) for tags in self.tags for tag in tags]
        vectors = np.concatenate([np.asarray(each, dtype=np.float32) for each in self.vectors])
        return torch.from_numpy(vectors), torch.tensor(classes, dtype=torch.long)

    def subset(self, indices: Iterable[int]) -> TokenSet:
        """The sentences at some places."""
        chosen = list(indices)
        return TokenSet([self.vectors[i] for i in chosen], [self.tags[i] for i in chosen])


def fit_head(
    vectors: torch.Tensor, classes: torch.Tensor, n_classes: int, *, penalty: float = 1e-3
) -> torch.nn.Linear:
    """Fit a linear layer with softmax to token classes.

    vectors (Tensor): Shape (n_tokens, width).
    classes (Tensor): Shape (n_tokens,).
    n_classes (int): Number of classes, none included.
    penalty (float): Of half the squared weights, beside the mean cross-entropy.
    RETURNS (Linear): The layer at the minimum.
    """
    head = torch.nn.Linear(vectors.shape[1], n_classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=200, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(vectors), classes)
        loss = loss + penalty / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head


def score_head(
    head: torch.nn.Linear, vectors: torch.Tensor, classes: torch.Tensor, types: Sequence[str]
) -> dict[str, Counts]:
    """Count the tokens of each type that a layer finds.

    head (Linear): The layer.
    vectors (Tensor): Shape (n_tokens, width).
    classes (Tensor): Shape (n_tokens,).
    types (Sequence[str]): The classes after none, in order.
    RETURNS (dict[str, Counts]): Counts of each type, as `metrics.count_tokens` gives them.
    """
    with torch.inference_mode():
        found = torch.cat([head(block).argmax(dim=1) for block in vectors.split(1 << 15)])
    size = len(types) + 1
    correct = torch.bincount(classes[found == classes], minlength=size).tolist()
    predicted = torch.bincount(found, minlength=size).tolist()
    gold = torch.bincount(classes, minlength=size).tolist()
    return {
        type_: Counts(float(correct[i]), predicted[i], gold[i])
        for i, type_ in enumerate(types, start=1)
    }


def run_frozen(
    train: TokenSet,
    test: TokenSet,
    samples: Iterable[tuple[int, int, Sequence[int]]],
    *,
    penalty: float = 1e-3,
) -> list[dict[str, Any]]:
    """Fit and score a layer for each few-shot training set.

    train (TokenSet): What the training sets are drawn from.
    test (TokenSet): What is tested on, all of it.
    samples (Iterable[tuple[int, int, Sequence[int]]]): k, seed and sentences of each training set.
    penalty (float): As in `fit_head`.
    RETURNS (list[dict[str, Any]]): For each training set `k`, `seed`, `macro_f1` over the tokens of
        each type (the paper's measure), `micro_f1` over all of them, and `per_type` F1.
    """
    types = sorted({tag for tags in train.tags for tag in tags if tag})
    vectors, classes = test.rows(types)
    runs = []
    for k, seed, indices in samples:
        head = fit_head(*train.subset(indices).rows(types), len(types) + 1, penalty=penalty)
        counts = score_head(head, vectors, classes, types)
        runs.append(
            {
                "k": k,
                "seed": seed,
                "macro_f1": macro_f1(counts),
                "micro_f1": total(counts.values()).scores().f1,
                "per_type": {type_: each.scores().f1 for type_, each in counts.items()},
            }
        )
    return runs


def summarize_runs(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], measure: str = "macro_f1"
) -> dict[int, dict[str, Any]]:
    """Table 3's layout: for each k the mean over data sets of their mean over training sets.

    runs (Mapping[str, Sequence[Mapping[str, Any]]]): For each data set what `run_frozen` returns.
    measure (str): Which score.
    RETURNS (dict[int, dict[str, Any]]): For each k `mean`, `sd` (over training sets, of the mean
        over data sets where every seed has them all) and `per_data_set` means.
    """
    table: dict[int, dict[str, Any]] = {}
    for k in sorted({run["k"] for each in runs.values() for run in each}):
        scores = {
            name: {run["seed"]: run[measure] for run in each if run["k"] == k}
            for name, each in runs.items()
        }
        means = {name: statistics.mean(each.values()) for name, each in scores.items() if each}
        seeds = set.intersection(*(set(each) for each in scores.values() if each))
        together = [
            statistics.mean(each[seed] for each in scores.values() if each) for seed in seeds
        ]
        table[k] = {
            "mean": statistics.mean(means.values()),
            "sd": statistics.stdev(together) if len(together) > 1 else 0.0,
            "per_data_set": means,
        }
    return table
