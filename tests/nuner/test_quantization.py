"""Linear layers in 8-bit integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spacy_universalner.nuner.quantization import Int8Linear, multiply, quantize, quantize_rows

any_sizes = given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    units=st.integers(1, 40),
    seed=st.integers(0, 99),
)


def make_linear(columns: int, units: int, seed: int = 0, bias: bool = True) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(columns, units, bias=bias)


def test_rows_have_scales_of_their_own():
    values = torch.tensor([[127.0, -63.5, 1.0], [0.0, 0.2, -0.4], [0.0, 0.0, 0.0]])
    integers, scales = quantize_rows(values)
    assert integers.dtype == torch.int8
    assert integers.tolist() == [[127, -64, 1], [0, 64, -127], [0, 0, 0]]
    assert scales[:2, 0].tolist() == pytest.approx([1.0, 0.4 / 127])


@pytest.mark.parametrize("bias", [True, False])
def test_what_integers_can_say_is_exact(bias):
    linear = make_linear(4, 3, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[127, 2, -5, 0], [0, -127, 9, 1], [1, 1, 127, 1]]))
    states = torch.tensor([[[127.0, 3.0, -8.0, 0.0], [0.0, -127.0, 1.0, 5.0]]])
    torch.testing.assert_close(Int8Linear(linear)(states), linear(states), rtol=1e-6, atol=1e-3)


@settings(deadline=None)
@any_sizes
def test_errors_stay_within_half_a_step_of_both_factors(rows, columns, units, seed):
    linear = make_linear(columns, units, seed)
    states = torch.randn(rows, columns) * torch.logspace(-3, 3, rows)[:, None]
    error = (Int8Linear(linear)(states) - linear(states)).abs()
    _, state_scales = quantize_rows(states)
    _, weight_scales = quantize_rows(linear.weight.detach())
    bound = (
        state_scales / 2 * linear.weight.abs().sum(1)
        + states.abs().sum(1, keepdim=True) * weight_scales[:, 0] / 2
        + columns * state_scales * weight_scales[:, 0] / 4
    )
    assert (error <= bound * 1.001 + 1e-5 * (1 + linear(states).abs())).all()


@any_sizes
def test_products_are_the_same_without_arithmetic_for_integers(rows, columns, units, seed):
    torch.manual_seed(seed)
    sizes = (rows, columns), (columns, units)
    states, weight = (torch.randint(-127, 128, size, dtype=torch.int8) for size in sizes)
    expected = (states.long() @ weight.long()).float()
    for as_integers in (True, False):
        assert torch.equal(multiply(states, weight, as_integers=as_integers), expected)


def test_a_token_does_not_depend_on_its_batch():
    layer = Int8Linear(make_linear(32, 8))
    states = torch.randn(2, 5, 32) * 10 ** torch.arange(-4.0, 6.0).view(2, 5, 1)
    together = layer(states)
    for row, column in [(0, 0), (0, 4), (1, 4)]:
        alone = layer(states[row : row + 1, column : column + 1])
        torch.testing.assert_close(alone[0, 0], together[row, column], rtol=0, atol=0)


def test_a_copy_shares_all_but_the_linear_layers():
    model = nn.Sequential(nn.Embedding(10, 6), nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copied = quantize(model)
    assert isinstance(copied[1][0], Int8Linear)
    assert copied[0].weight is model[0].weight
    assert copied[1][1].weight is model[1][1].weight
    assert isinstance(model[1][0], nn.Linear)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
