"""Linear layers in 8-bit integers, for prediction on the CPU.

PyTorch's own dynamic quantisation has one scale for all the tokens of a batch and seven bits, which
costs an encoder some points of F1. Here each token and each output unit has a scale of its own: the
vector-wise quantisation of LLM.int8() (Dettmers et al. 2022, 3.1).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..precision import multiplies_integers

LARGEST = 127
SMALLEST = 1e-9  # no division by zero where a row is nothing but zeros


def quantize_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to 8-bit integers with a scale of its own.

    values (Tensor): (rows, columns).
    RETURNS (tuple[Tensor, Tensor]): The integers, and what each row's are multiplied by (rows, 1).
    """
    # Both ends, and no array of absolute values.
    ends = torch.maximum(values.amax(1, keepdim=True), -values.amin(1, keepdim=True))
    scales = ends.clamp_(min=SMALLEST) / LARGEST
    return (values / scales).round_().to(torch.int8), scales


def multiply(rows: Tensor, weight: Tensor, *, as_integers: bool) -> Tensor:
    """The product of two matrices of 8-bit integers.

    rows (Tensor): (n, inputs).
    weight (Tensor): (inputs, outputs).
    as_integers (bool): False to compute it in float32, for a CPU that has nothing faster.
    RETURNS (Tensor): (n, outputs), in float32.
    """
    if as_integers:
        return torch._int_mm(rows, weight).float()
    return rows.float() @ weight.float()


class Int8Linear(nn.Module):
    """A linear layer that multiplies integers.

    linear (nn.Linear): The layer in floating point.
    """

    weight: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.as_integers = multiplies_integers()
        weight, scales = quantize_rows(linear.weight.detach())
        # Stored by input, as the product with a transposed view takes twice as long; cloned, as
        # `contiguous` leaves the strides of a single column, which the product does not expect.
        self.register_buffer("weight", weight.t().clone(memory_format=torch.contiguous_format))
        self.register_buffer("scales", scales[:, 0])
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, states: Tensor) -> Tensor:
        rows, scales = quantize_rows(states.flatten(0, -2))
        products = multiply(rows, self.weight, as_integers=self.as_integers).mul_(scales)
        if self.bias is None:
            products.mul_(self.scales)
        else:
            torch.addcmul(self.bias, products, self.scales, out=products)
        return products.view(*states.shape[:-1], -1)


def quantize(model: nn.Module) -> nn.Module:
    """Copy a model with its linear layers in 8-bit integers.

    model (nn.Module): In floating point; the copy shares its other parameters.
    RETURNS (nn.Module): For prediction only.
    """
    copied = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    for module in list(copied.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.Linear):
                setattr(module, name, Int8Linear(layer))
    return copied
