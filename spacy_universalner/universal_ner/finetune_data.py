"""Conversations as rows of token ids for a causal language model's training.

Each token row carries what the loss needs (labels, -100 where nothing is learned) and, per token,
which question it belongs to: 0 for the text and what comes before the first question, then 1, 2 ...
What a batch makes of them stands in `finetune_batches`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ..ty import Conversation, Reject
from .prompt import conversation_pieces, get_template
from .tokenization import encode_pieces, end_token_id

IGNORE_INDEX = -100

Attend = Literal["conversation", "question"]


class Row(TypedDict):
    """One training sequence: three lists of equal length, the positions of the types that are asked
    for, and the questions answered by `[]`."""

    input_ids: list[int]
    labels: list[int]
    segments: list[int]
    asked: list[int]
    absent: list[int]


@dataclass(frozen=True)
class _Turns:
    """Ids and labels of a stretch of a conversation that ends with the end of a turn, which of its
    tokens spell the type asked for, and whether the text does not have it."""

    ids: list[int]
    labels: list[int]
    asked: list[bool]
    absent: bool

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
    types = [question.type for question in conversation.questions]
    absent = [not question.answers for question in conversation.questions]
    if get_template(template).all_types:
        types, absent = [", ".join(types)], [all(absent)]
    asked = [
        is_data and not is_target
        for is_data, is_target in zip(encoded.data, encoded.targets, strict=True)
    ]
    text, *questions = [
        _Turns(encoded.ids[start:stop], labels[start:stop], asked[start:stop], is_absent)
        for start, stop, is_absent in zip([0, *stops], stops, [False, *absent], strict=False)
    ]
    positions = min(max_length, context_length or max_length)
    limit = max_length if attend == "question" else positions
    rows: list[Row] = []
    rejects: list[Reject] = []
    row: list[_Turns] = []
    length = len(text)
    for question, type in zip(questions, types, strict=True):
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
    asked = [False] * len(text) + [asked for turn in questions for asked in turn.asked]
    return Row(
        input_ids=[token for turn in turns for token in turn.ids],
        labels=[label for turn in turns for label in turn.labels],
        segments=[number for number, turn in enumerate(turns) for _ in turn.ids],
        asked=[position for position, is_asked in enumerate(asked) if is_asked],
        absent=[number for number, turn in enumerate(turns) if turn.absent],
    )
