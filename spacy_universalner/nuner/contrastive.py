"""Contrastive pre-training (NuNER 3.2, Figure 5): the two encoders and the loss.

One encoder turns a text into a vector a token, the other a concept's name into one vector. Their
dot product says whether the token is an instance of the concept. A batch is asked for all the
concepts that stand somewhere in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_fast import PreTrainedTokenizerFast

from .backbone import max_length, transformer_layers
from .batches import ContrastiveBatch, Rows

Pooling = Literal["mean", "first"]


@torch.no_grad()
def bottom_states(encoder: PreTrainedModel, number: int, rows: Rows) -> list[Tensor]:
    """Compute what the frozen bottom hands to the layers above it.

    encoder (PreTrainedModel): A whole encoder, in evaluation mode.
    number (int): How many layers the bottom has.
    rows (Rows): Token ids.
    RETURNS (list[Tensor]): Hidden states of each row (its length without padding x width).
    """
    # One layer too many: what comes after the last may differ from what comes between layers.
    with _layers(encoder, slice(number + 1)):
        output = encoder(input_ids=rows.values, attention_mask=rows.mask, output_hidden_states=True)
    states = output.hidden_states[number]
    return [row[mask.bool()].clone() for row, mask in zip(states, rows.mask, strict=True)]


@contextmanager
def without_bottom(encoder: PreTrainedModel, number: int) -> Iterator[None]:
    """Within the context the encoder takes the `bottom_states` as `inputs_embeds`.

    Frozen layers give the same output for a text in every epoch, so computing it once is enough.
    Works for encoders that hand `inputs_embeds` to a module named `embeddings`, as BERT, RoBERTa,
    MPNet, DistilBERT, DeBERTa and ModernBERT do.

    encoder (PreTrainedModel): Whole again after the context.
    number (int): How many layers the bottom has.
    """
    embeddings = encoder.embeddings
    encoder.embeddings = _Given()
    try:
        with _layers(encoder, slice(number, None)):
            yield
    finally:
        encoder.embeddings = embeddings


@torch.no_grad()
def comes_apart(encoder: PreTrainedModel, number: int, rows: Rows) -> bool:
    """Whether an encoder on its own `bottom_states` gives what the whole of it gives.

    Not so where something beside the layers works on the embeddings: ELECTRA widens them, some
    DeBERTa-v2 have a convolution.

    encoder (PreTrainedModel): A whole encoder, in evaluation mode.
    number (int): How many layers the bottom has.
    rows (Rows): Token ids to try it on.
    RETURNS (bool): True if the bottom's output can be stored in place of token ids.
    """
    expected = encode(encoder, rows)
    try:
        stored = Rows.pad(bottom_states(encoder, number, rows), pad_id=0)
        with without_bottom(encoder, number):
            found = encode(encoder, Rows(stored.values, rows.mask))
    except (AttributeError, RuntimeError, TypeError):  # no such module, or one that needs ids
        return False
    real = rows.mask.bool()
    return torch.allclose(found[real], expected[real], rtol=1e-3, atol=1e-3)


@contextmanager
def _layers(encoder: PreTrainedModel, which: slice) -> Iterator[None]:
    """Leave only some layers in an encoder."""
    layers = transformer_layers(encoder)
    everything = layers._modules
    kept = list(everything.values())[which]
    layers._modules = {str(index): layer for index, layer in enumerate(kept)}
    try:
        yield
    finally:
        layers._modules = everything


class _Given(nn.Module):
    """Stands in for the embeddings: hands on what it is given."""

    def forward(self, input_ids: None, inputs_embeds: Tensor, **others: Any) -> Tensor:
        return inputs_embeds


class ContrastiveModel(nn.Module):
    """The training network of Figure 5.

    text_encoder (PreTrainedModel): NuNER itself.
    concept_encoder (PreTrainedModel): A second, separate encoder.
    pooling (Pooling): How a concept's tokens become one vector: their "mean" or the "first".
    temperature (float): What the dot products are divided by.
    bias (float): What is then added; 0 in the paper. About log(p / (1 - p)), p being the share
        of ones in the target array, lets training start at the loss of a constant guess. From 0
        it first has to push all texts away from all concepts, which costs a small corpus much
        of what the encoder knew.
    """

    def __init__(
        self,
        text_encoder: PreTrainedModel,
        concept_encoder: PreTrainedModel,
        *,
        pooling: Pooling = "mean",
        temperature: float = 5.0,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.concept_encoder = concept_encoder
        self.pooling = pooling
        self.temperature = temperature
        self.bias = bias

    def forward(self, batch: ContrastiveBatch) -> Tensor:
        """RETURNS (Tensor): Sum of the binary cross-entropy over tokens x concepts."""
        states = encode(self.text_encoder, batch.texts)
        if not batch.concepts:  # texts without any entity
            return states.sum() * 0.0
        tokens = states[batch.texts.mask.bool()].float()
        concepts = torch.cat([self.encode_concepts(group) for group in batch.concepts])
        with torch.autocast(tokens.device.type, enabled=False):
            logits = tokens @ concepts.T / self.temperature + self.bias
        return binary_cross_entropy(logits, batch.tokens, batch.columns, batch.ignored)

    def train(self, mode: bool = True) -> ContrastiveModel:
        """As in any module, but what is frozen stays in evaluation mode: no dropout there."""
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def encode_concepts(self, concepts: Rows) -> Tensor:
        """Turn concepts' names into vectors.

        concepts (Rows): Their tokens.
        RETURNS (Tensor): One float32 vector a concept (concepts x width).
        """
        states = encode(self.concept_encoder, concepts).float()
        return pool(states, concepts.mask, self.pooling)


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Make one vector of a name's tokens.

    states (Tensor): Vectors of the tokens (rows x length x width).
    mask (Tensor): 1 for tokens, 0 for padding (rows x length).
    pooling (Pooling): Their "mean" or the "first".
    RETURNS (Tensor): rows x width.
    """
    if pooling == "first":
        return states[:, 0]
    weights = mask.unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1)


@torch.no_grad()
def embed_concepts(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    names: Sequence[str],
    *,
    pooling: Pooling = "mean",
    batch_size: int = 256,
) -> Tensor:
    """Vectors of concepts, as in training.

    encoder (PreTrainedModel): A trained concept encoder.
    tokenizer (PreTrainedTokenizerFast): Its tokenizer.
    names (Sequence[str]): The concepts.
    pooling (Pooling): As it was trained with.
    batch_size (int): Concepts encoded together.
    RETURNS (Tensor): concepts x width, in float32, on the encoder's device.
    """
    limits = {"truncation": True, "max_length": max_length(encoder)}
    ids = [torch.tensor(row) for row in tokenizer(list(names), **limits)["input_ids"]]
    found = []
    for start in range(0, len(ids), batch_size):
        rows = Rows.pad(ids[start : start + batch_size], tokenizer.pad_token_id).to(encoder.device)
        found.append(pool(encode(encoder.eval(), rows).float(), rows.mask, pooling))
    return torch.cat(found)


def encode(encoder: PreTrainedModel, rows: Rows) -> Tensor:
    """Run an encoder on token ids, or on hidden states within `without_bottom`.

    encoder (PreTrainedModel): The encoder.
    rows (Rows): Its input.
    RETURNS (Tensor): The last hidden states (rows x length x width).
    """
    name = "inputs_embeds" if rows.values.is_floating_point() else "input_ids"
    states: Tensor = encoder(**{name: rows.values}, attention_mask=rows.mask).last_hidden_state
    return states


def binary_cross_entropy(
    logits: Tensor,
    rows: Tensor,
    columns: Tensor,
    ignored: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Binary cross-entropy against a target array given by the places of its ones, summed.

    BCE(x, y) = softplus(x) - x * y, so the zeros need no array.

    logits (Tensor): Two dimensions.
    rows (Tensor): Row of each one of the target array; each place is named once.
    columns (Tensor): Its column.
    ignored (tuple[Tensor, Tensor] | None): Rows and columns of zeros to leave out.
    RETURNS (Tensor): A scalar.
    """
    loss = F.softplus(logits).sum() - logits[rows, columns].sum()
    if ignored is not None:
        loss = loss - F.softplus(logits[ignored]).sum()
    return loss
