"""A limit of time on trainings."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR

from spacy_universalner.budget import TimeBudget


@given(steps=st.integers(1, 1000), taken=st.integers(0, 2000))
def test_without_a_limit_steps_alone_count(steps, taken):
    assert TimeBudget(steps, spent=1e9).progress(taken) == min(1.0, taken / steps)


@given(
    taken=st.integers(0, 100),
    minutes=st.floats(1, 1000),
    share=st.floats(0, 1.5),
)
def test_progress_is_that_of_steps_or_of_time_whichever_is_further(taken, minutes, share):
    budget = TimeBudget(100, minutes, spent=share * 60 * minutes)
    assert budget.progress(taken) == pytest.approx(min(1.0, max(taken / 100, share)), abs=0.01)


def test_a_clock_set_anew_counts_what_was_spent_before():
    budget = TimeBudget(10, minutes=1, spent=60)
    assert budget.progress(0) == 1
    budget.start()
    assert budget.progress(0) < 0.1
    budget.start(30)
    assert 30 <= budget.spent < 31


@pytest.mark.parametrize(("spent", "rate"), [(0, 0.9), (30, 0.5), (54, 0.1), (600, 0)])
def test_a_schedule_follows_the_progress(spent, rate):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = LambdaLR(optimizer, lambda step: 1 - step / 10)
    assert TimeBudget(10, minutes=1, spent=spent).pace(scheduler) is scheduler
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([rate])
