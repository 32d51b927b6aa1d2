"""Where attention is led while a student learns to answer: the lookups that an answer is made of.

Language models come with them. An encoder read as a decoder does not, and from answers alone it
finds them late. A lookup leads from a token, the one that looks, to places, those it should see:

- "match": from the words of the type that is asked for to all that they describe in the text, or to
  the row's first token if there is nothing;
- "type": from each token of an answer to the words of its type, but where a copy goes on;
- "copy": from where a token is about to be written to where it stands in the text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from .finetune_data import IGNORE_INDEX, Row

Guide = Literal["copy", "match", "type"]
GUIDES: tuple[Guide, ...] = get_args(Guide)

# The position of the token that looks, and the positions of its places, in a row.
Lookup: TypeAlias = tuple[int, list[int]]

# The place that stands for "nothing of this type": the first token, which every token sees.
NOTHING = 0


def word_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Find the tokens with letters or digits: what a copy may begin with.

    tokenizer (PreTrainedTokenizerBase): The model's.
    RETURNS (frozenset[int]): Their ids; special tokens are none of them, whatever they spell.
    """
    vocabulary = tokenizer.get_vocab().items()
    words = {id for token, id in vocabulary if any(map(str.isalnum, token))}
    return frozenset(words.difference(tokenizer.all_special_ids))


def find_lookups(row: Row, words: Collection[int]) -> dict[Guide, list[Lookup]]:
    """Find all lookups of a row.

    row (Row): The row.
    words (Collection[int]): See `word_tokens`.
    RETURNS (dict[Guide, list[Lookup]]): By kind. Of answers that cannot be copied, "type" alone.
    """
    segments = row["segments"]
    asked: dict[int, list[int]] = {}
    for position in row["asked"]:
        asked.setdefault(segments[position], []).append(position)
    copies = list(find_copies(row, words))
    copied = {position for position, _ in copies}
    described = {segment: {NOTHING} for segment in row["absent"]}
    for position, places in copies:
        described.setdefault(segments[position], set()).update(places)
    return {
        "copy": copies,
        "match": [
            (position, sorted(places))
            for segment, places in described.items()
            for position in asked.get(segment, [])
        ],
        "type": [
            (position, asked[segments[position]])
            for position, label in enumerate(row["labels"][1:])
            if label != IGNORE_INDEX
            and segments[position] in asked
            and not {position - 1, position} <= copied
        ],
    }


def find_copies(row: Row, words: Collection[int]) -> Iterator[Lookup]:
    """Find which tokens of the answers stand in the text.

    row (Row): The row.
    words (Collection[int]): See `word_tokens`.
    YIELDS (Lookup): The position that predicts the token, and the token's places in the text: of
        the longest copies from where the last one ended.
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


def collate_lookups(
    rows: Sequence[Row], words: Collection[int], kinds: Iterable[Guide] = GUIDES
) -> dict[Guide, Tensor]:
    """Find the lookups of a batch.

    rows (Sequence[Row]): The batch.
    words (Collection[int]): See `find_lookups`.
    kinds (Iterable[Guide]): Which are wanted.
    RETURNS (dict[Guide, Tensor]): By kind, shape (places, 4): the lookup's number, its row, the
        position that looks, and one of its places.
    """
    found = [find_lookups(row, words) for row in rows]
    batch = {}
    for kind in kinds:
        lookups = ((i, *lookup) for i, by_kind in enumerate(found) for lookup in by_kind[kind])
        places = [
            (number, row, position, place)
            for number, (row, position, places) in enumerate(lookups)
            for place in places
        ]
        batch[kind] = torch.tensor(places, dtype=torch.long).reshape(-1, 4)
    return batch


def guide_attention(attention: Tensor, lookups: Tensor) -> Tensor:
    """How far attention is from where it should go.

    attention (Tensor): (batch, heads, queries, keys), probabilities over the keys.
    lookups (Tensor): (places, 4), at least one, see `collate_lookups`.
    RETURNS (Tensor): A scalar: minus the logarithm of the attention that goes to a lookup's
        places, averaged over lookups and heads.
    """
    number, row, position, place = lookups.unbind(1)
    shares = attention[row, :, position, place].float()
    totals = shares.new_zeros(int(number[-1]) + 1, shares.shape[1]).index_add(0, number, shares)
    return -(totals + 1e-5).log().mean()
