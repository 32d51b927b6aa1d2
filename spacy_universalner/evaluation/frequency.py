"""How often types occur, and the frequency bands of UniversalNER's Table 1."""

from __future__ import annotations

import math
from collections.abc import Mapping

BANDS = ("top 1%", "1-10%", "10-100%")
UNSEEN = "unseen"


def rank_types(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Types from the commonest to the rarest.

    counts (Mapping[str, int]): How often each type occurs.
    RETURNS (list[tuple[str, int]]): Types with their counts; equally common ones by name.
    """
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def band_of_types(counts: Mapping[str, int]) -> dict[str, str]:
    """The frequency band of each type (UniversalNER 3.1, Table 1).

    counts (Mapping[str, int]): How often each type occurs.
    RETURNS (dict[str, str]): For each type one of `BANDS`; the first has at least one type.
    """
    ranked = rank_types(counts)
    first, second = math.ceil(len(ranked) * 0.01), math.ceil(len(ranked) * 0.1)
    return {
        type_: BANDS[0] if rank < first else BANDS[1] if rank < second else BANDS[2]
        for rank, (type_, _) in enumerate(ranked)
    }


def band_shares(counts: Mapping[str, int]) -> dict[str, tuple[int, float]]:
    """Table 1: how many types each band has, and what share of all mentions they hold.

    counts (Mapping[str, int]): How often each type occurs.
    RETURNS (dict[str, tuple[int, float]]): For each of `BANDS`, types and share in [0, 1].
    """
    band_of = band_of_types(counts)
    mentions = sum(counts.values())
    return {
        band: (
            sum(band_of[type_] == band for type_ in counts),
            sum(n for type_, n in counts.items() if band_of[type_] == band) / max(mentions, 1),
        )
        for band in BANDS
    }
