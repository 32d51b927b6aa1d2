"""Conversations as rows of token ids for a causal language model's training.

Each token row carries what the loss needs (labels, -100 where nothing is learned) and, per token,
which question it belongs to: 0 for the text and what comes before the first question, then 1, 2 ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

import torch
from torch.utils.data import Dataset, Sampler
from transformers.configuration_utils import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..ty import Conversation, Reject
from .models.positions import first_position
from .prompt import conversation_pieces, get_template
from .tokenization import encode_pieces, end_token_id

IGNORE_INDEX = -100

Attend = Literal["conversation", "question"]


class Row(TypedDict):
    """One training sequence: three lists of equal length, and the questions answered by `[]`."""

    input_ids: list[int]
    labels: list[int]
    segments: list[int]
    absent: list[int]


@dataclass(frozen=True)
class _Turns:
    """Ids and labels of a stretch of a conversation that ends with the end of a turn, and whether
    it asks for what the text does not have."""

    ids: list[int]
    labels: list[int]
    absent: bool = False

    def __len__(self) -> int:
        return len(self.ids)


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Conversation,
    *,
    template: str = "train",
    acknowledgement_loss: bool = False,
    max_length: int = 1024,
    context_length: int | None = None,
    attend: Attend = "conversation",
) -> tuple[list[Row], list[Reject]]:
    """Tokenise a conversation, split by questions into rows that fit (3.2).

    Every row starts with the text, so a split costs its tokens once more but loses no question.
    A question that does not fit even alone after its text is rejected, never cut.

    tokenizer (PreTrainedTokenizerBase): The model's.
    conversation (Conversation): Text, questions and answers.
    template (str): Name of the prompt template.
    acknowledgement_loss (bool): Learn the fixed acknowledgement too, as the released code does.
    max_length (int): Tokens of a row at most.
    context_length (int | None): Positions the model has.
    attend (Attend): "conversation": a question follows all those before it, and all share the
        model's positions. "question": it follows the text directly.
    RETURNS (tuple[list[Row], list[Reject]]): The rows, and the questions left out.
    """
    encoded = encode_pieces(
        tokenizer,
        conversation_pieces(
            conversation, template=template, acknowledgement_loss=acknowledgement_loss
        ),
    )
    end = end_token_id(tokenizer)
    labels = [
        token if target else IGNORE_INDEX
        for token, target in zip(encoded.ids, encoded.targets, strict=True)
    ]
    # A beginning of sequence may be the same token as the end (GPT-2), hence not the first.
    stops = [i + 1 for i, token in enumerate(encoded.ids) if token == end and i > 0]
    text, *questions = [
        _Turns(encoded.ids[start:stop], labels[start:stop])
        for start, stop in zip([0, *stops], stops, strict=False)
    ]
    positions = min(max_length, context_length or max_length)
    limit = max_length if attend == "question" else positions
    rows: list[Row] = []
    rejects: list[Reject] = []
    row: list[_Turns] = []
    length = len(text)
    asked = [question.type for question in conversation.questions]
    absent = [not question.answers for question in conversation.questions]
    if get_template(template).all_types:
        asked, absent = [", ".join(asked)], [all(absent)]
    for turns, type, is_absent in zip(questions, asked, absent, strict=True):
        question = replace(turns, absent=is_absent)
        if len(text) + len(question) > positions:
            rejects.append(Reject(type, f"longer than {positions} tokens with its text"))
            continue
        if length + len(question) > limit:
            rows.append(_make_row(text, row))
            row, length = [], len(text)
        row.append(question)
        length += len(question)
    if row:
        rows.append(_make_row(text, row))
    return rows, rejects


def _make_row(text: _Turns, questions: Sequence[_Turns]) -> Row:
    turns = [text, *questions]
    return Row(
        input_ids=[token for turn in turns for token in turn.ids],
        labels=[label for turn in turns for label in turn.labels],
        segments=[number for number, turn in enumerate(turns) for _ in turn.ids],
        absent=[number for number, turn in enumerate(turns) if turn.absent],
    )


def without_absent(row: Row) -> Row:
    """Leave out the questions about what the text does not have.

    row (Row): The row.
    RETURNS (Row): The rest, or all of it where nothing else is asked.
    """
    if len(row["absent"]) == max(row["segments"]):
        return row
    kept = [i for i, segment in enumerate(row["segments"]) if segment not in row["absent"]]
    return Row(
        input_ids=[row["input_ids"][i] for i in kept],
        labels=[row["labels"][i] for i in kept],
        segments=[row["segments"][i] for i in kept],
        absent=[],
    )


class PhasedRows(Dataset[Row]):
    """Rows by number; with the number comes whether absent types are asked for.

    rows (Sequence[Row]): All.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: tuple[int, bool]) -> Row:
        number, absent = index
        return self.rows[number] if absent else without_absent(self.rows[number])


@dataclass(frozen=True)
class Collator:
    """Pads rows on the right to a batch of tensors.

    pad_id (int): What to pad with. Padding is never attended to, as it comes last.
    config (PretrainedConfig): The model's, for the form of attention mask it takes.
    attend (Attend): See `encode_conversation`.
    words (Collection[int]): See `find_copies`; without any, none are looked for.
    """

    pad_id: int
    config: PretrainedConfig
    attend: Attend = "conversation"
    words: Collection[int] = ()

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Make a batch.

        rows (Sequence[Row]): At least one.
        RETURNS (dict[str, torch.Tensor]): `input_ids`, `labels`, `attention_mask` and `lengths`,
            the rows' numbers of tokens; with `attend="question"` also `position_ids`, and the mask
            says who attends to whom.
        """
        batch = {
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
        if self.words:
            copies = (
                (i, *copy) for i, row in enumerate(rows) for copy in find_copies(row, self.words)
            )
            places = [
                (number, row, position, place)
                for number, (row, position, found) in enumerate(copies)
                for place in found
            ]
            batch["copies"] = torch.tensor(places, dtype=torch.long).reshape(-1, 4)
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


def find_copies(row: Row, words: Collection[int]) -> Iterator[tuple[int, list[int]]]:
    """Find which tokens of the answers stand in the text.

    row (Row): The row.
    words (Collection[int]): The tokens with letters or digits: what a copy may begin with.
    YIELDS (tuple[int, list[int]]): The position that predicts the token, and the token's places in
        the text: of the longest copies from where the last one ended.
    """
    ids, learned = row["input_ids"], [label != IGNORE_INDEX for label in row["labels"]]
    text = ids[: row["segments"].count(0)]
    start = len(text)
    while start < len(ids):
        found: list[int] = []
        going = list(range(len(text))) if learned[start] and ids[start] in words else []
        length = 0
        while start + length < len(ids) and learned[start + length]:
            going = [i for i in going if text[i + length : i + length + 1] == [ids[start + length]]]
            if not going:
                break
            found, length = going, length + 1
        for i in range(length):
            yield start + i - 1, [place + i for place in found]
        start += max(length, 1)


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


class PhasedSampler(Sampler[tuple[int, bool]]):
    """Says with each row's number whether absent types are asked for yet (see `PhasedRows`).

    sampler (LengthGroupedSampler): Gives the numbers.
    is_copying (Callable[[int], bool]): Whether a step, counted from 0, is one of the first, in
        which they are not. Rows are fetched before the step that takes them.
    """

    def __init__(self, sampler: LengthGroupedSampler, is_copying: Callable[[int], bool]) -> None:
        self.sampler = sampler
        self.is_copying = is_copying

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        rows = self.sampler.batch_size
        first = self.sampler.epoch * -(-len(self) // rows)
        for i, number in enumerate(self.sampler):
            yield number, not self.is_copying(first + i // rows)


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
