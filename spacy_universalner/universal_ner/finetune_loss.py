"""The loss of instruction tuning: on the answers alone, and among which tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .finetune_data import IGNORE_INDEX


@dataclass(frozen=True)
class Choices:
    """The tokens that each row of a batch chooses from.

    tokens (Tensor): (choices,), ids of the tokens of the whole batch.
    allowed (Tensor): (batch, choices), which of them are a row's own.
    """

    tokens: Tensor
    allowed: Tensor


def own_tokens(input_ids: Tensor, labels: Tensor) -> tuple[Choices, Tensor]:
    """Let each row choose among the tokens that occur in it.

    input_ids (Tensor): (batch, length).
    labels (Tensor): (batch, length), -100 where nothing is learned, else the token itself.
    RETURNS (tuple[Choices, Tensor]): The choices, and the labels as indices into their tokens.
    """
    tokens, places = torch.unique(input_ids, return_inverse=True)
    allowed = torch.zeros(len(input_ids), len(tokens), dtype=torch.bool, device=input_ids.device)
    allowed.scatter_(1, places, True)
    return Choices(tokens, allowed), places.masked_fill(labels == IGNORE_INDEX, IGNORE_INDEX)


@contextmanager
def only_targets(
    output_layer: nn.Module, labels: Tensor, choices: Choices | None = None
) -> Iterator[None]:
    """Make a causal model's output layer compute no more than the loss needs.

    output_layer (nn.Module): The model's output embeddings, a linear layer over all positions.
    labels (Tensor): (batch, length), -100 where nothing is learned. Position i predicts label i+1;
        those that predict nothing are skipped.
    choices (Choices | None): The tokens to compute logits of; None for the whole vocabulary.
    """
    learned = labels[:, 1:] != IGNORE_INDEX
    selected: list[Tensor] = []

    def select(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = args[0][:, :-1][learned]
        if choices is None:
            return (states, *args[1:])
        selected[:] = [states]
        return (states[:0], *args[1:])

    def choose(layer: Any, _: Any, output: Tensor) -> Tensor:
        assert choices is not None
        bias = getattr(layer, "bias", None)
        logits = F.linear(
            selected.pop(),
            layer.weight[choices.tokens],
            None if bias is None else bias[choices.tokens],
        )
        own = choices.allowed[learned.nonzero()[:, 0]]
        # Half of the least, as some models scale or cap their logits
        return logits.masked_fill(~own, torch.finfo(logits.dtype).min / 2)

    handles = [output_layer.register_forward_pre_hook(select)]
    if choices is not None:
        handles.append(output_layer.register_forward_hook(choose))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def answer_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """Cross-entropy of the selected positions' logits.

    outputs (Any): With `logits` (positions, vocabulary), as under `only_targets`.
    labels (Tensor): (batch, length).
    num_items_in_batch (Tensor | None): Targets of the whole optimiser step, over which to
        average; None for those of this batch.
    RETURNS (Tensor): A scalar.
    """
    targets = labels[:, 1:]
    targets = targets[targets != IGNORE_INDEX]
    total = F.cross_entropy(outputs.logits.float(), targets, reduction="sum")
    return total / (len(targets) if num_items_in_batch is None else num_items_in_batch)
