"""Which absent types a conversation asks for, to teach the model the empty list."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Mapping
from itertools import accumulate
from random import Random
from typing import Literal, get_args

Strategy = Literal["none", "uniform", "frequency", "all"]


class NegativeSampler:
    """Draws types that a text does not hold (UniversalNER 3.2, Table 4).

    type_counts (Mapping[str, int]): Every type of the corpus and its number of mentions.
    strategy (str): "none"; "uniform", each absent type as likely as another; "frequency", with a
        probability proportional to its mentions; "all", every absent type, as few-shot
        fine-tuning on a closed set of types asks it (NuNER A.2).
    RAISES (ValueError): There is no such strategy.
    """

    def __init__(self, type_counts: Mapping[str, int], strategy: Strategy = "frequency") -> None:
        if strategy not in get_args(Strategy):
            raise ValueError(
                f"There is no negative sampling '{strategy}'. Use one of "
                f"{', '.join(get_args(Strategy))}."
            )
        self.strategy = strategy
        self._types = sorted(type_counts)  # the same draws whatever the order of counting
        uniform = strategy != "frequency"
        weights = [1 if uniform else type_counts[name] for name in self._types]
        self._weights = dict(zip(self._types, weights, strict=True))
        self._cumulative = list(accumulate(weights))

    def sample(self, positives: Collection[str], count: int, rng: Random) -> list[str]:
        """Draw types without replacement.

        positives (Collection[str]): The types of the text, never drawn.
        count (int): How many to draw; fewer if there are not as many.
        rng (Random): Source of chance.
        RETURNS (list[str]): Distinct types in the order drawn.
        """
        if self.strategy == "none":
            return []
        excluded = set(positives)
        absent = len(self._types) - sum(name in self._weights for name in excluded)
        if self.strategy == "all":
            return [name for name in self._types if name not in excluded]
        drawn: list[str] = []
        while len(drawn) < min(count, absent):
            drawn.append(self._draw(excluded, rng))
            excluded.add(drawn[-1])
        return drawn

    def _draw(self, excluded: Collection[str], rng: Random) -> str:
        # Drawing again until a type is free gives each its due share of what is free, in constant
        # time as long as most of the weight is; a corpus of few types may need the exact way.
        for _ in range(100):
            place = rng.random() * self._cumulative[-1]
            name = self._types[bisect(self._cumulative, place, hi=len(self._types) - 1)]
            if name not in excluded:
                return name
        free = {name: w for name, w in self._weights.items() if name not in excluded}
        return rng.choices(list(free), list(free.values()))[0]
