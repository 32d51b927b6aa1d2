"""From documents to wordpieces and back: alignment, windows over long texts, batches by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.attrs import IDX, LENGTH, SENT_START
from spacy.tokens import Doc
from tokenizers import Tokenizer
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A run of a document's wordpieces that goes through the encoder in one piece.

    Each wordpiece lies in the core of exactly one window, the one it takes its vector from; the
    rest of the window is context that the core's wordpieces attend to.

    doc (int): Index of the document in its batch.
    start (int): First wordpiece of the window.
    end (int): Wordpiece after the last.
    core_start (int): First wordpiece of the core.
    core_end (int): Wordpiece after the last one of the core.
    """

    doc: int
    start: int
    end: int
    core_start: int
    core_end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Pieces:
    """A document's wordpieces, without special tokens.

    ids (Ints): Vocabulary ids, shape (n_pieces,).
    first (Ints): For each spaCy token its first wordpiece, shape (n_tokens,).
    last (Ints): For each spaCy token the wordpiece after its last one, shape (n_tokens,). Equal to
        `first` for a token without wordpieces, such as whitespace.
    sentences (Ints): The wordpieces that start a sentence; empty without sentence boundaries.
    """

    ids: Ints
    first: Ints
    last: Ints
    sentences: Ints


@dataclass(frozen=True)
class Batch:
    """What goes through the encoder for a list of documents.

    inputs (list[tuple[Tensor, Tensor]]): Ids and attention mask of each batch of windows, shape
        (n_windows, length) each.
    rows (Tensor): Which rows of the flattened hidden states of all batches belong to the tokens,
        one token after the other.
    offsets (Tensor): For each token where in `rows` its own begin, shape (n_tokens,).
    """

    inputs: list[tuple[Tensor, Tensor]]
    rows: Tensor
    offsets: Tensor


def tokenize(docs: Sequence[Doc], tokenizer: Tokenizer) -> list[Pieces]:
    """Split documents into wordpieces and align them with spaCy's tokens by character offsets.

    The text is tokenised as it stands, spaces included, so that a wordpiece is what it was in
    pre-training. A token has all wordpieces it shares a character with; a wordpiece that reaches
    over several tokens belongs to each of them.

    docs (Sequence[Doc]): The documents.
    tokenizer (Tokenizer): Without truncation and padding.
    RETURNS (list[Pieces]): One per document.
    """
    encodings = tokenizer.encode_batch([doc.text for doc in docs], add_special_tokens=False)
    pieces = []
    for doc, encoding in zip(docs, encodings, strict=True):
        attributes = doc.to_array([IDX, LENGTH, SENT_START]).astype(np.int64).reshape(-1, 3)
        token_starts = attributes[:, 0]
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        first = np.searchsorted(offsets[:, 1], token_starts, side="right")
        last = np.searchsorted(offsets[:, 0], token_starts + attributes[:, 1], side="left")
        pieces.append(
            Pieces(
                ids=np.asarray(encoding.ids, dtype=np.int64),
                first=first,
                last=np.maximum(first, last),
                sentences=first[attributes[:, 2] == 1],
            )
        )
    return pieces


def plan_windows(
    n_pieces: int, window: int, stride: int, sentences: Sequence[int] | Ints = (), doc: int = 0
) -> Iterator[Window]:
    """Cover a document's wordpieces with overlapping windows.

    A core ends half the overlap before its window does; where sentence boundaries are known it
    ends at the last one in its second half, so that a sentence is split only if it must be.

    n_pieces (int): Number of wordpieces.
    window (int): Most wordpieces of a window.
    stride (int): Wordpieces that neighbouring windows share, less than `window`.
    sentences (Sequence[int]): The wordpieces that start a sentence, ascending.
    doc (int): Index of the document, passed on.
    YIELDS (Window): In order; the cores tile the document.
    """
    context = stride // 2
    core_start = 0
    while core_start < n_pieces:
        start = max(0, core_start - context)
        end = min(start + window, n_pieces)
        core_end = end if end == n_pieces else end - context
        before = int(np.searchsorted(sentences, core_end, "right"))
        if end < n_pieces and before and sentences[before - 1] > (core_start + core_end) // 2:
            core_end = int(sentences[before - 1])
            end = core_end + context
        yield Window(doc, start, end, core_start, core_end)
        core_start = core_end


def batch_windows(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Group windows of similar length, so that little of a batch is padding.

    windows (Sequence[Window]): In any order.
    batch_tokens (int): Most wordpieces of a batch, padding included; a batch holds at least one
        window.
    YIELDS (list[Window]): The batches, shortest windows first.
    """
    batch: list[Window] = []
    for window in sorted(windows, key=len):
        if batch and len(window) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def collate(
    pieces: Sequence[Pieces],
    batches: Sequence[Sequence[Window]],
    frame: tuple[list[int], list[int]],
    pad: int,
    device: torch.device,
) -> Batch:
    """Lay windows out as tensors, and say in which rows of the result each token's vectors are.

    pieces (Sequence[Pieces]): The documents' wordpieces.
    batches (Sequence[Sequence[Window]]): Their windows, batched.
    frame (tuple[list[int], list[int]]): Special tokens before and after each window.
    pad (int): Id of the padding.
    device (torch.device): Where the tensors go.
    RETURNS (Batch): The encoder's input.
    """
    prefix, suffix = frame
    piece_starts = np.cumsum([0, *(len(doc.ids) for doc in pieces)])
    piece_rows = np.zeros(piece_starts[-1], dtype=np.int64)
    inputs = []
    n_rows = 0
    for batch in batches:
        length = max(map(len, batch)) + len(prefix) + len(suffix)
        ids = np.full((len(batch), length), pad, dtype=np.int64)
        mask = np.zeros((len(batch), length), dtype=np.int64)
        for i, window in enumerate(batch):
            row = [*prefix, *pieces[window.doc].ids[window.start : window.end], *suffix]
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
            base = piece_starts[window.doc]
            core = np.arange(window.core_start, window.core_end)
            piece_rows[base + core] = n_rows + i * length + len(prefix) + core - window.start
        inputs.append((torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)))
        n_rows += ids.size
    counts = np.concatenate([doc.last - doc.first for doc in pieces])
    firsts = np.concatenate(
        [doc.first + base for doc, base in zip(pieces, piece_starts, strict=False)]
    )
    offsets = np.cumsum(counts) - counts
    spread = np.arange(counts.sum()) + np.repeat(firsts - offsets, counts)
    return Batch(
        inputs,
        torch.from_numpy(piece_rows[spread]).to(device),
        torch.from_numpy(offsets).to(device),
    )
