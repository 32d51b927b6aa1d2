"""Batches for contrastive pre-training (NuNER 3.2): tokens, concepts and the target array."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.tokenization_utils_fast import PreTrainedTokenizerFast

from ..ty import Passage

POOL = 32


@dataclass(frozen=True)
class TokenizedPassage:
    """A passage as the text encoder sees it.

    ids (list[int]): Token ids, special tokens included.
    concepts (dict[str, list[int]]): For each concept that the passage exemplifies, the indices
        of the tokens that lie in one of its mentions.
    lost (int): Mentions that stand beyond the length limit.
    """

    ids: list[int]
    concepts: dict[str, list[int]]
    lost: int = 0


def tokenize_passage(
    passage: Passage, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> TokenizedPassage:
    """Cut a passage into tokens and find those of each concept.

    passage (Passage): The text with its mentions, whose labels are concepts.
    tokenizer (PreTrainedTokenizerFast): A fast tokenizer.
    max_length (int): Tokens at most, special ones included; the rest is cut off.
    RETURNS (TokenizedPassage): Ids and token indices.
    """
    encoding = tokenizer(
        passage.text, truncation=True, max_length=max_length, return_offsets_mapping=True
    )
    offsets = encoding["offset_mapping"]
    concepts: dict[str, set[int]] = defaultdict(set)
    lost = 0
    for mention in passage.mentions:
        tokens = [
            index
            for index, (start, end) in enumerate(offsets)
            if start < mention.end and end > mention.start  # special tokens are empty: (0, 0)
        ]
        if tokens:
            concepts[mention.label].update(tokens)
        else:
            lost += 1
    return TokenizedPassage(
        ids=encoding["input_ids"],
        concepts={concept: sorted(concepts[concept]) for concept in sorted(concepts)},
        lost=lost,
    )


@dataclass(frozen=True)
class Rows:
    """Padded input of an encoder.

    values (Tensor): Token ids (rows x length), or the hidden states above the frozen bottom
        (rows x length x width) where these have been computed before.
    mask (Tensor): 1 for tokens, 0 for padding (rows x length).
    """

    values: Tensor
    mask: Tensor

    @classmethod
    def pad(cls, rows: Sequence[Tensor], pad_id: int) -> Rows:
        """Put rows of different lengths into one tensor.

        rows (Sequence[Tensor]): Token ids (length) or hidden states (length x width).
        pad_id (int): Fills up the shorter ones.
        RETURNS (Rows): As long as the longest.
        """
        values = pad_sequence(list(rows), batch_first=True, padding_value=pad_id)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(values.shape[1]).unsqueeze(0) < lengths.unsqueeze(1)
        return cls(values, mask.long())

    def to(self, device: torch.device) -> Rows:
        return Rows(self.values.to(device), self.mask.to(device))


@dataclass(frozen=True)
class ContrastiveBatch:
    """Texts, the concepts that stand in them, and which token is an instance of which.

    The target array is mostly zeros, so only its ones are kept.

    texts (Rows): The sentences.
    concepts (list[Rows]): The names of the distinct concepts, in groups of similar length.
    tokens (Tensor): For each one of the target array its token, counted over the real tokens.
    columns (Tensor): For each one its concept, in the order of the groups.
    ignored (tuple[Tensor, Tensor] | None): Tokens and concepts of zeros that are not learned from.
    """

    texts: Rows
    concepts: list[Rows]
    tokens: Tensor
    columns: Tensor
    ignored: tuple[Tensor, Tensor] | None = None

    def to(self, device: torch.device) -> ContrastiveBatch:
        return ContrastiveBatch(
            self.texts.to(device),
            [group.to(device) for group in self.concepts],
            self.tokens.to(device),
            self.columns.to(device),
            self.ignored and (self.ignored[0].to(device), self.ignored[1].to(device)),
        )


def plan_batches(lengths: Sequence[int], batch_size: int, order: random.Random) -> list[list[int]]:
    """Draw the batches of an epoch: in random order, each of passages of similar length.

    Passages are sorted within random pools of `POOL` batches, which leaves little padding and
    still mixes anew every epoch.

    lengths (Sequence[int]): Length of each passage, in tokens.
    batch_size (int): Passages a batch at most; all batches are of about the same size.
    order (random.Random): Source of randomness.
    RETURNS (list[list[int]]): Indices of the passages, each once.
    """
    indices = list(range(len(lengths)))
    order.shuffle(indices)
    number = -(-len(indices) // batch_size)
    bounds = [0, *((batch + 1) * len(indices) // number for batch in range(number))]
    batches = []
    for first in range(0, number, POOL):
        pool_bounds = bounds[first : first + POOL + 1]
        pool = sorted(indices[pool_bounds[0] : pool_bounds[-1]], key=lambda index: lengths[index])
        for start, end in itertools.pairwise(pool_bounds):
            batches.append(pool[start - pool_bounds[0] : end - pool_bounds[0]])
    order.shuffle(batches)
    return batches


class Collator:
    """Makes the batches of a corpus.

    passages (Sequence[TokenizedPassage]): The corpus.
    texts (Sequence[Tensor]): Token ids of each passage, or hidden states above the frozen bottom.
    concepts (dict[str, Tensor]): The same of each concept's name.
    pad_id (int): Fills up the token ids of shorter texts.
    max_concepts (int): Concepts a batch at most, 0 for all.
    directions (Mapping[str, Tensor] | None): A vector of length 1 of each concept; None to take
        every concept that a token does not have for a negative.
    least (float): Cosine of two concepts' vectors from which on either is no negative for a token
        of the other.
    """

    def __init__(
        self,
        passages: Sequence[TokenizedPassage],
        texts: Sequence[Tensor],
        concepts: dict[str, Tensor],
        pad_id: int,
        max_concepts: int = 0,
        directions: Mapping[str, Tensor] | None = None,
        least: float = 1.0,
    ) -> None:
        self.passages = passages
        self.texts = texts
        self.concepts = concepts
        self.pad_id = pad_id
        self.max_concepts = max_concepts
        self.directions = directions
        self.least = least

    def __call__(
        self, indices: Sequence[int], draw: random.Random, rank: int = 0, ranks: int = 1
    ) -> ContrastiveBatch:
        """Make the part of a batch that one process works on.

        indices (Sequence[int]): The passages of the whole batch.
        draw (random.Random): Draws the concepts if there are too many.
        rank (int): The process: it takes every `ranks`th passage and all the batch's concepts.
        ranks (int): The number of processes.
        RETURNS (ContrastiveBatch): The texts, concepts and positive pairs.
        """
        names = sorted({name for index in indices for name in self.passages[index].concepts})
        every = names
        if 0 < self.max_concepts < len(names):
            names = draw.sample(names, self.max_concepts)
        names.sort(key=lambda name: len(self.concepts[name]))
        column = {name: number for number, name in enumerate(names)}
        synonyms = self._synonyms(every, names)
        ones: list[tuple[int, int]] = []
        alike: set[tuple[int, int]] = set()
        offset = 0
        mine = indices[rank::ranks]
        for index in mine:
            passage = self.passages[index]
            for name, places in passage.concepts.items():
                if name in column:
                    ones.extend((offset + place, column[name]) for place in places)
                others = synonyms.get(name, ())
                alike.update((offset + place, each) for place in places for each in others)
            offset += len(passage.ids)
        # Lengths up to 2, 4, 8, 16, ...: few small passes through the encoder, and little padding.
        groups = itertools.groupby(
            (self.concepts[name] for name in names), key=lambda row: (len(row) - 1).bit_length()
        )
        tokens, columns = _places(ones)
        return ContrastiveBatch(
            texts=Rows.pad([self.texts[index] for index in mine], self.pad_id),
            concepts=[Rows.pad(list(group), self.pad_id) for _, group in groups],
            tokens=tokens,
            columns=columns,
            ignored=None if self.directions is None else _places(sorted(alike.difference(ones))),
        )

    def _synonyms(self, names: Sequence[str], asked: Sequence[str]) -> dict[str, list[int]]:
        """For each concept those that are no negatives for it, as indices into the asked ones."""
        if self.directions is None or not names:
            return {}
        rows, columns = (
            torch.stack([self.directions[name] for name in part]) for part in (names, asked)
        )
        alike = rows @ columns.T >= self.least
        return {
            name: each.nonzero()[:, 0].tolist() for name, each in zip(names, alike, strict=True)
        }


def _places(pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    rows, columns = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    return rows, columns
