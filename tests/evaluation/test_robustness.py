"""Agreement between answers to paraphrases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.evaluation.robustness import measure_agreement


def test_agreement_is_counted_over_pairs():
    answers = [
        [["Turin"], ["the Turin"], ["Milan"]],  # one pair of three
        [[], [], []],  # three of three, but nothing was found
    ]
    agreement = measure_agreement(answers)
    assert (agreement.texts, agreement.answered) == (2, 1)
    assert agreement.rate == pytest.approx(4 / 6)
    assert agreement.answered_rate == pytest.approx(1 / 3)
    assert agreement.overlap == pytest.approx(1 / 3)


def test_overlap_is_finer_than_equality():
    agreement = measure_agreement([[["Turin", "Milan"], ["Turin"]], [["Rome"], []]])
    assert agreement.answered_rate == 0
    assert agreement.overlap == pytest.approx(0.25)


def test_one_way_to_ask_cannot_agree():
    with pytest.raises(ValueError, match="at least two paraphrases, got 1"):
        measure_agreement([[["Turin"]]])
    assert measure_agreement([]) == (0, 0, 1, 1, 1)


@given(st.lists(st.lists(st.text(max_size=4)), max_size=6))
def test_asking_twice_the_same_agrees(answers: list[list[str]]):
    agreement = measure_agreement([[answer, answer[::-1]] for answer in answers])
    assert agreement.rate == agreement.answered_rate == agreement.overlap == 1
