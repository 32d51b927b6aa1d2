"""Metrics: hand-counted values, and what must hold for any answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.evaluation.metrics import (
    RELEASED_EPSILON,
    Counts,
    bootstrap_interval,
    count_outcomes,
    count_partial,
    count_spans,
    count_strings,
    count_tokens,
    macro_f1,
    normalize,
    total,
)
from spacy_universalner.ty import Mention

GOLD = [Mention(0, 5, "person"), Mention(10, 15, "city"), Mention(20, 30, "person")]


def test_strict_match_needs_start_end_and_label():
    predicted = [
        Mention(0, 5, "person", 0.9),  # right; the score does not matter
        Mention(10, 15, "person"),  # wrong label
        Mention(20, 29, "person"),  # wrong end
        Mention(40, 45, "city"),  # nothing there
    ]
    counts = count_spans(GOLD, predicted)
    assert counts == Counts(1, 4, 3)
    assert counts.scores() == (0.25, 1 / 3, pytest.approx(2 / 7))


def test_a_span_listed_twice_counts_once():
    assert count_spans(GOLD[:1] * 2, GOLD[:1] * 3) == Counts(1, 1, 1)


def test_partial_match_counts_one_half():
    predicted = [Mention(0, 5, "person"), Mention(12, 15, "city"), Mention(20, 24, "city")]
    assert count_partial(GOLD, predicted) == Counts(1.5, 3, 3)


def test_partial_match_uses_each_entity_once():
    pieces = [Mention(20, 24, "person"), Mention(25, 30, "person")]
    assert count_partial(GOLD, pieces) == Counts(0.5, 2, 3)
    whole = [Mention(0, 30, "person")]
    assert count_partial(GOLD, whole) == Counts(0.5, 1, 3)


def test_mistakes_are_told_apart():
    predicted = [
        Mention(0, 5, "person"),
        Mention(10, 15, "person"),
        Mention(20, 24, "person"),
        Mention(25, 32, "city"),
        Mention(50, 55, "city"),
    ]
    assert count_outcomes([*GOLD, Mention(60, 65, "city")], predicted) == {
        "correct": 1,
        "wrong type": 1,
        "wrong boundaries": 1,
        "wrong type and boundaries": 1,
        "spurious": 1,
        "missed": 1,
    }


def test_partial_match_needs_an_overlap():
    assert count_partial(GOLD, [Mention(5, 10, "person"), Mention(15, 20, "city")]).correct == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Beatles", "beatles"),
        ("  U.S.   Navy ", "us navy"),
        ("an apple a day", "apple day"),
        ("Theatre", "theatre"),
        ("a", ""),
        ("«Zürich»", "«zürich»"),  # only ASCII punctuation goes
        ("A.", ""),  # punctuation goes first, then the article
        ("don't", "dont"),
        ("rock\n and\troll", "rock and roll"),
    ],
)
def test_normal_form_of_the_released_evaluator(answer: str, expected: str):
    assert normalize(answer) == expected


def test_string_sets_ignore_order_repeats_case_and_articles():
    assert count_strings(["The Who", "Yes"], ["yes!", "who", "Who", "Genesis"]) == Counts(2, 3, 2)


def test_strings_without_a_normal_form_are_strings_too():
    assert count_strings(["A"], ["the", "an"]) == Counts(1, 1, 1)


def test_released_scores_carry_the_epsilon():
    counts = total([count_strings(["a1", "b1"], ["a1"]), count_strings([], ["c1"])])
    precision = 1 / (2 + 1e-10)
    recall = 1 / (2 + 1e-10)
    assert counts.scores(RELEASED_EPSILON) == (
        precision,
        recall,
        2 * precision * recall / (precision + recall + 1e-10),
    )


def test_no_counts_score_zero():
    assert total([]).scores() == (0, 0, 0)
    assert total([]).scores(RELEASED_EPSILON) == (0, 0, 0)


def test_token_macro_f1_weighs_types_alike():
    gold = ["", "city", "city", "city", "person", ""]
    predicted = ["city", "city", "city", "", "city", ""]
    counts = count_tokens(gold, predicted)
    assert counts == {"city": Counts(2, 4, 3), "person": Counts(0, 0, 1)}
    assert macro_f1(counts) == pytest.approx((4 / 7 + 0) / 2)
    assert macro_f1(counts, ["city"]) == pytest.approx(4 / 7)
    assert macro_f1(counts, ["city", "river"]) == pytest.approx(2 / 7)


def test_token_counts_need_the_same_tokens():
    with pytest.raises(ValueError, match="got 2 gold tags and 1 predicted"):
        count_tokens(["", ""], [""])


def test_bootstrap_interval_is_a_point_for_equal_texts():
    assert bootstrap_interval([Counts(1, 2, 2)] * 20) == (0.5, 0.5)
    assert bootstrap_interval([]) == (0, 0)


def test_bootstrap_interval_covers_the_score_and_repeats():
    counts = [Counts(1, 1, 1)] * 60 + [Counts(0, 1, 1)] * 40
    low, high = bootstrap_interval(counts, seed=1)
    assert 0.49 < low < 0.6 < high < 0.71
    assert (low, high) == bootstrap_interval(counts, seed=1)
    wide = bootstrap_interval(counts[::10], seed=1)
    assert wide[1] - wide[0] > 2 * (high - low)


mentions = st.lists(
    st.builds(
        lambda start, length, label: Mention(start, start + length, label),
        st.integers(0, 30),
        st.integers(1, 8),
        st.sampled_from(["person", "city"]),
    ),
    max_size=8,
)


@given(mentions, mentions)
def test_partial_lies_between_strict_and_one(gold: list[Mention], predicted: list[Mention]):
    strict, partial = count_spans(gold, predicted), count_partial(gold, predicted)
    assert strict[1:] == partial[1:]
    assert strict.correct <= partial.correct <= min(partial.predicted, partial.gold)


@given(mentions)
def test_the_gold_standard_scores_one(gold: list[Mention]):
    expected = 1.0 if gold else 0.0
    assert count_spans(gold, reversed(gold)).scores().f1 == expected
    assert count_partial(gold, gold).scores().f1 == expected


@given(st.lists(st.text()), st.lists(st.text()))
def test_string_sets_are_symmetric(gold: list[str], predicted: list[str]):
    one, other = count_strings(gold, predicted), count_strings(predicted, gold)
    assert (one.correct, one.predicted, one.gold) == (other.correct, other.gold, other.predicted)
    assert one.scores().f1 == pytest.approx(other.scores().f1)


@given(st.text())
def test_a_normal_form_keeps_no_ascii_punctuation(text: str):
    assert not set(normalize(text)) & set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
