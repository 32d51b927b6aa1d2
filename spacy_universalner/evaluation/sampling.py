"""Few-shot training sets with a known number of examples of each type.

Both samplers draw sentences at random and keep one only if it brings a type that is still short
and pushes none over its limit. A sentence that is turned down once would be turned down for ever,
since counts only grow; so one pass over a random order does what drawing with replacement does, and
a pass that ends with a type still short is a dead end. Then everything is drawn afresh.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence


def sample_mentions(
    counts: Sequence[Mapping[str, int]], k: int, *, seed: int = 0, max_passes: int = 1000
) -> list[int]:
    """k~2k sampling (Few-NERD; NuNER 4.1): each type has at least k and at most 2k mentions.

    counts (Sequence[Mapping[str, int]]): For each sentence, how many mentions of each type it has.
    k (int): Fewest mentions of a type.
    seed (int): Seed of the random order.
    max_passes (int): How often to draw afresh before giving up.
    RETURNS (list[int]): Indices of the sampled sentences, in the order in which they were drawn.
    RAISES (ValueError): There is no such sample, or none was found.
    """
    return _sample(counts, k, 2 * k, unit="mentions", seed=seed, max_passes=max_passes)


def sample_words(
    counts: Sequence[Mapping[str, int]], k: int, *, seed: int = 0, max_passes: int = 1000
) -> list[int]:
    """k_w sampling (NuNER 6): each type has exactly k words.

    counts (Sequence[Mapping[str, int]]): For each sentence, how many words belong to each type.
    k (int): Words of each type.
    seed (int): Seed of the random order.
    max_passes (int): How often to draw afresh before giving up.
    RETURNS (list[int]): Indices of the sampled sentences, in the order in which they were drawn.
    RAISES (ValueError): There is no such sample, or none was found.
    """
    return _sample(counts, k, k, unit="words", seed=seed, max_passes=max_passes)


def _sample(
    counts: Sequence[Mapping[str, int]],
    minimum: int,
    maximum: int,
    *,
    unit: str,
    seed: int,
    max_passes: int,
) -> list[int]:
    if minimum < 1:
        raise ValueError(f"k is {minimum}, expected at least 1 of the {unit} of each type.")
    available = sum((Counter(dict(sentence)) for sentence in counts), Counter[str]())
    if not available:
        raise ValueError(f"None of the {len(counts)} sentences has an entity: nothing to sample.")
    scarce = {type_: n for type_, n in sorted(available.items()) if n < minimum}
    if scarce:
        listed = ", ".join(f"{type_} ({n})" for type_, n in scarce.items())
        raise ValueError(
            f"{minimum} {unit} of each type are wanted, but the data has fewer of: {listed}. "
            "Lower k or leave these types out."
        )
    generator = random.Random(seed)
    candidates = [i for i, sentence in enumerate(counts) if any(sentence.values())]
    missed: Counter[str] = Counter()
    for _ in range(max_passes):
        generator.shuffle(candidates)
        taken: list[int] = []
        reached: Counter[str] = Counter()
        short = set(available)
        for i in candidates:
            sentence = counts[i]
            if short.isdisjoint(type_ for type_, n in sentence.items() if n):
                continue
            if any(reached[type_] + n > maximum for type_, n in sentence.items()):
                continue
            taken.append(i)
            reached.update(sentence)
            short -= {type_ for type_ in sentence if reached[type_] >= minimum}
            if not short:
                return taken
        missed.update(short)
    raise ValueError(
        f"No sample with {minimum} to {maximum} {unit} of each type in {max_passes} passes over "
        f"{len(candidates)} sentences; most often short: "
        f"{', '.join(type_ for type_, _ in missed.most_common(3))}. Raise max_passes or change k."
    )
