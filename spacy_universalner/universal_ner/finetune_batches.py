"""Rows of tokens as the batches of a causal language model's training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers.configuration_utils import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING
from transformers.trainer_pt_utils import get_length_grouped_indices

from .finetune_data import IGNORE_INDEX, Attend, Row
from .finetune_guides import Guide, collate_lookups
from .models.positions import first_position


@dataclass(frozen=True)
class Collator:
    """Pads rows on the right to a batch of tensors.

    pad_id (int): What to pad with. Padding is never attended to, as it comes last.
    config (PretrainedConfig): The model's, for the form of attention mask it takes.
    attend (Attend): See `encode_conversation`.
    words (Collection[int]): See `find_lookups`.
    guides (Sequence[Guide]): The kinds of lookups to find.
    """

    pad_id: int
    config: PretrainedConfig
    attend: Attend = "conversation"
    words: Collection[int] = ()
    guides: Sequence[Guide] = ()

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Make a batch.

        rows (Sequence[Row]): At least one.
        RETURNS (dict[str, Any]): `input_ids`, `labels`, `attention_mask` and `lengths`, the rows'
            numbers of tokens; with `attend="question"` also `position_ids`, and the mask says who
            attends to whom; with `guides` also the `lookups`, see `collate_lookups`.
        """
        batch: dict[str, Any] = {
            "input_ids": _pad([row["input_ids"] for row in rows], self.pad_id),
            "labels": _pad([row["labels"] for row in rows], IGNORE_INDEX),
            "lengths": torch.tensor([len(row["input_ids"]) for row in rows]),
        }
        if self.attend == "conversation":
            batch["attention_mask"] = _pad([[1] * len(row["input_ids"]) for row in rows], 0)
        else:
            segments = _pad([row["segments"] for row in rows], 0)
            positions = _pad([list(_positions(row["segments"])) for row in rows], 0)
            batch["position_ids"] = positions + first_position(self.config)
            batch["attention_mask"] = self._mask(segments)
        if self.guides:
            batch["lookups"] = collate_lookups(rows, self.words, self.guides)
        return batch

    def _mask(self, segments: torch.Tensor) -> torch.Tensor:
        """Let each token see the text and its own question up to itself, as at inference."""
        keys, queries = segments[:, None, :], segments[:, :, None]
        visible = ((keys == 0) | (keys == queries)).tril()
        # Encoders read as decoders take (batch, query, key) of 0 and 1, and make it additive
        # themselves; causal models take (batch, 1, query, key) ready to be added.
        if getattr(self.config, "is_decoder", False):
            return visible.long()
        dtype = self.config.torch_dtype or torch.float32
        if isinstance(dtype, str):  # as saving a checkpoint leaves it
            dtype = getattr(torch, dtype)
        mask = torch.zeros(visible.shape, dtype=dtype)
        return mask.masked_fill(~visible, torch.finfo(mask.dtype).min)[:, None]


def was_encoder(config: PretrainedConfig) -> bool:
    """Whether a causal language model is an encoder read as a decoder.

    config (PretrainedConfig): Of a causal language model.
    RETURNS (bool): False for models that have learned to write.
    """
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and config.is_decoder


class LengthGroupedSampler(Sampler[int]):
    """Batches rows of like length, in an order that follows from the seed and the epoch alone.

    Transformers' own takes its order from the global generator, so that a run which is resumed in
    the middle of an epoch goes on in another order than it began with.

    lengths (Sequence[int]): Tokens of each row.
    batch_size (int): Rows of an optimiser step.
    seed (int): Of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def _pad(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    length = max(map(len, rows))
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def _positions(segments: Sequence[int]) -> Iterator[int]:
    """Count on within the text and within each question, each question from the text's end."""
    text = sum(segment == 0 for segment in segments)
    position = -1
    for before, segment in zip([0, *segments], segments, strict=False):
        position = text if segment != before else position + 1
        yield position
