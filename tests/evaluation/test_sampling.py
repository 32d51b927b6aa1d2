"""Few-shot samplers: exact counts, limits and errors."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spacy_universalner.evaluation.sampling import sample_mentions, sample_words


def summed(counts: list[dict[str, int]], indices: list[int]) -> Counter[str]:
    return sum((Counter(counts[i]) for i in indices), Counter())


def test_one_mention_a_sentence_gives_exactly_k():
    counts = [{"person": 1}] * 50 + [{"city": 1}] * 50 + [{}] * 50
    sample = sample_mentions(counts, 8)
    assert summed(counts, sample) == {"person": 8, "city": 8}
    assert len(set(sample)) == 16


def test_sentences_that_go_over_2k_or_bring_nothing_needed_are_left_out():
    # {"person": 5} breaks the limit of 4 alone; once both types have 2, nothing more is taken.
    counts = [{"person": 5}] * 20 + [{"person": 2, "city": 2}] * 20
    (index,) = sample_mentions(counts, 2)
    assert index >= 20


def test_only_seeds_change_the_sample():
    counts = [{"person": 1 + i % 2, "city": i % 3} for i in range(60)]
    assert sample_mentions(counts, 4, seed=3) == sample_mentions(counts, 4, seed=3)
    assert sample_mentions(counts, 4, seed=3) != sample_mentions(counts, 4, seed=4)


def test_each_sentence_is_equally_likely():
    counts = [{"person": 1}] * 10
    drawn = Counter(sample_mentions(counts, 1, seed=seed)[0] for seed in range(2000))
    # chi-square with 9 degrees of freedom: 27.9 is the 0.999 quantile
    assert sum((drawn[i] - 200) ** 2 / 200 for i in range(10)) < 27.9


def test_words_are_sampled_to_the_exact_number():
    counts = [{"title": 3}, {"title": 2}, {"title": 1}, {"actor": 2}, {"actor": 1}] * 10
    assert summed(counts, sample_words(counts, 4)) == {"title": 4, "actor": 4}


def test_scarce_types_are_named():
    counts = [{"person": 1}] * 10 + [{"city": 1}] * 3
    with pytest.raises(ValueError, match=r"fewer of: city \(3\)"):
        sample_mentions(counts, 4)


def test_a_sample_that_cannot_be_found_ends_with_the_types_that_stay_short():
    # A city comes only with five persons, and two of them are over the limit of eight.
    counts = [{"city": 2, "person": 5}] * 10
    with pytest.raises(ValueError, match=r"in 7 passes over 10 sentences; .*short: city"):
        sample_mentions(counts, 4, max_passes=7)


def test_a_dead_end_is_left_by_drawing_afresh():
    # Drawing the first sentence leaves room for no city; only every other pass gets by without it.
    counts = [{"person": 3}, {"person": 2, "city": 2}]
    assert {tuple(sample_mentions(counts, 2, seed=seed)) for seed in range(20)} == {(1,)}


def test_empty_data_and_wrong_k_are_refused():
    with pytest.raises(ValueError, match="None of the 2 sentences"):
        sample_mentions([{}, {"person": 0}], 1)
    with pytest.raises(ValueError, match="k is 0"):
        sample_mentions([{"person": 1}], 0)


sentences = st.lists(
    st.dictionaries(st.sampled_from("ABC"), st.integers(0, 3), max_size=3), min_size=1, max_size=40
)


@given(sentences, st.integers(1, 5), st.integers(0, 99))
def test_every_sample_keeps_its_promise(counts: list[dict[str, int]], k: int, seed: int):
    try:
        sample = sample_mentions(counts, k, seed=seed, max_passes=20)
    except ValueError:
        assume(False)
    reached = summed(counts, sample)
    assert len(sample) == len(set(sample))
    assert all(any(counts[i].values()) for i in sample)
    assert reached.keys() == summed(counts, list(range(len(counts)))).keys()
    assert all(k <= n <= 2 * k for n in reached.values())
    # No sentence too many: without the last one, some type is short.
    assert any(n < k for n in (summed(counts, sample[:-1])[type_] for type_ in reached))
