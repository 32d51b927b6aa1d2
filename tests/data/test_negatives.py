from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from spacy_universalner.data.negatives import NegativeSampler

COUNTS = {"person": 50, "city": 30, "drug": 10, "gene": 6, "boat": 4}


def draw(strategy: str, positives: set[str], count: int, *, seed: int = 0) -> list[str]:
    return NegativeSampler(COUNTS, strategy).sample(positives, count, Random(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "strategy, expected",
    [
        ("uniform", {"person": 1, "drug": 1, "gene": 1, "boat": 1}),
        ("frequency", {"person": 50, "drug": 10, "gene": 6, "boat": 4}),
    ],
)
def test_the_distribution_over_absent_types(strategy: str, expected: dict[str, int]) -> None:
    sampler = NegativeSampler(COUNTS, strategy)  # type: ignore[arg-type]
    rng = Random(13)
    drawn = Counter(sampler.sample({"city"}, 1, rng)[0] for _ in range(20_000))
    total = sum(expected.values())
    assert set(drawn) == set(expected)
    test = chisquare(
        [drawn[name] for name in expected], [20_000 * n / total for n in expected.values()]
    )
    assert test.pvalue > 0.01


def test_the_second_draw_is_proportional_to_what_is_left() -> None:
    sampler = NegativeSampler({"a": 6, "b": 3, "c": 1})
    rng = Random(5)
    drawn = Counter(tuple(sampler.sample((), 2, rng)) for _ in range(20_000))
    expected = {
        ("a", "b"): 6 / 10 * 3 / 4,
        ("a", "c"): 6 / 10 * 1 / 4,
        ("b", "a"): 3 / 10 * 6 / 7,
        ("b", "c"): 3 / 10 * 1 / 7,
        ("c", "a"): 1 / 10 * 6 / 9,
        ("c", "b"): 1 / 10 * 3 / 9,
    }
    test = chisquare([drawn[pair] for pair in expected], [20_000 * p for p in expected.values()])
    assert test.pvalue > 0.01


def test_none_and_all() -> None:
    assert draw("none", {"city"}, 3) == []
    assert draw("all", {"city"}, 1) == ["boat", "drug", "gene", "person"]


def test_a_type_with_nearly_all_the_weight_may_be_taken() -> None:
    sampler = NegativeSampler({"person": 10**9, "boat": 1, "gene": 1})
    assert sorted(sampler.sample({"person"}, 5, Random(0))) == ["boat", "gene"]


def test_types_that_the_corpus_does_not_count_do_not_matter() -> None:
    assert len(draw("frequency", {"spaceship"}, 10)) == 5
    assert NegativeSampler({}).sample({"city"}, 3, Random(0)) == []


def test_the_order_of_counting_does_not_matter() -> None:
    reverse = dict(reversed(COUNTS.items()))
    assert NegativeSampler(reverse).sample((), 3, Random(7)) == draw("frequency", set(), 3, seed=7)


def test_an_unknown_strategy_is_named() -> None:
    with pytest.raises(ValueError, match=r"no negative sampling 'often'\. Use one of none, unif"):
        NegativeSampler(COUNTS, "often")  # type: ignore[arg-type]


@given(
    st.dictionaries(st.text(), st.integers(1, 1000), max_size=20),
    st.sampled_from(["none", "uniform", "frequency", "all"]),
    st.integers(0, 30),
    st.randoms(use_true_random=False),
)
def test_negatives_are_distinct_and_absent(
    counts: dict[str, int], strategy: str, count: int, rng: Random
) -> None:
    positives = set(sorted(counts)[::2])
    drawn = NegativeSampler(counts, strategy).sample(positives, count, rng)  # type: ignore[arg-type]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) <= set(counts) - positives
    absent = len(counts) - len(positives)
    expected = {"none": 0, "all": absent}.get(strategy, min(count, absent))
    assert len(drawn) == expected
