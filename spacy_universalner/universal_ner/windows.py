"""Windows over texts that are longer than what a model is asked about at once."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from spacy.tokens import Doc


@dataclass(frozen=True)
class Window:
    """A stretch of a text.

    start (int): Offset of its first character.
    end (int): Offset after its last character.
    cut_start (bool): Whether it starts neither with the text nor with a sentence.
    cut_end (bool): Whether it ends neither with the text nor with a sentence.
    """

    start: int
    end: int
    cut_start: bool = False
    cut_end: bool = False


def cover(
    doc: Doc, size: int, stride: int, offsets: Sequence[tuple[int, int]] | None = None
) -> list[Window]:
    """Cover a document with windows, between its sentences and words where that is possible.

    doc (Doc): The document.
    size (int): Tokens in a window, at most.
    stride (int): Tokens that neighbours share, at most; less than half a window in any case.
    offsets (Sequence[tuple[int, int]] | None): Character offsets of the tokens that are counted;
        None for the document's own.
    RETURNS (list[Window]): See `plan_windows`; none for a blank document.
    """
    text = doc.text  # spaCy joins it anew at each access
    if not text.strip():
        return []
    if offsets is None:
        offsets = [(token.idx, token.idx + len(token)) for token in doc]
    else:
        # Many tokenizers count the space before a word as its first character: a sentence or word
        # would start inside of its first token, and a window be cut after it.
        offsets = [(_skip_blanks(text, start, end), end) for start, end in offsets]
    if len(offsets) <= size:
        return [Window(0, len(text))]
    has_sentences = doc.has_annotation("SENT_START")
    sentences = [sentence.start_char for sentence in doc.sents] if has_sentences else []
    words = [token.idx for token in doc]
    return plan_windows(text, offsets, size, min(stride, (size - 1) // 2), sentences, words)


def plan_windows(
    text: str,
    offsets: Sequence[tuple[int, int]],
    size: int,
    stride: int,
    sentences: Sequence[int] = (),
    words: Sequence[int] = (),
) -> list[Window]:
    """Cover a text with windows that overlap.

    A window ends where a sentence ends if one does within reach, else between words, else
    anywhere between tokens; the next one starts likewise, at most `stride` tokens before.

    text (str): The text.
    offsets (Sequence[tuple[int, int]]): Character offsets of the tokens that are counted.
    size (int): Tokens in a window, at most.
    stride (int): Tokens that neighbours share, at most.
    sentences (Sequence[int]): Offsets where sentences start, ascending; may be empty.
    words (Sequence[int]): Offsets where words start, ascending.
    RETURNS (list[Window]): Ascending; every token stands in one whole. One window over the whole
        text if its tokens fit, none if there are no tokens.
    RAISES (ValueError): `stride` is not smaller than `size`.
    """
    if not 0 <= stride < size:
        raise ValueError(f"The stride must be between 0 and the window, {size}: got {stride}.")
    if len(offsets) <= size:
        return [Window(0, len(text))] if offsets else []
    starts = [start for start, _ in offsets]
    sentence_tokens = _first_tokens(starts, sentences)
    word_tokens = _first_tokens(starts, words)
    windows = []
    first = 0
    while True:
        after, cut_end = first + size, False
        if after < len(offsets):
            after, cut_end = _choose(
                (_last(sentence_tokens, first + stride + 1, first + size), False),
                (_last(word_tokens, first + stride + 1, first + size), True),
                (first + size, True),
            )
        else:
            after = len(offsets)
        cut_start = first > 0 and not _contains(sentence_tokens, first)
        windows.append(Window(starts[first], offsets[after - 1][1], cut_start, cut_end))
        if after == len(offsets):
            return windows
        first, _ = _choose(
            (_first(sentence_tokens, after - stride, after), False),
            (_first(word_tokens, after - stride, after), True),
            (after - stride, True),
        )


def _skip_blanks(text: str, start: int, end: int) -> int:
    """Offset of a token's first character that is not blank; of a blank token its start."""
    token = text[start:end]
    return end - len(token.lstrip()) if token.strip() else start


def _choose(*options: tuple[int | None, bool]) -> tuple[int, bool]:
    """The first option that exists."""
    return next((token, cut) for token, cut in options if token is not None)


def _first_tokens(starts: Sequence[int], breaks: Sequence[int]) -> list[int]:
    """Indices of the tokens that come first after the breaks, ascending."""
    return sorted({bisect_left(starts, offset) for offset in breaks})


def _last(tokens: Sequence[int], low: int, high: int) -> int | None:
    """The last of the tokens between two indices, both included."""
    i = bisect_right(tokens, high) - 1
    return tokens[i] if i >= 0 and tokens[i] >= low else None


def _first(tokens: Sequence[int], low: int, high: int) -> int | None:
    i = bisect_left(tokens, low)
    return tokens[i] if i < len(tokens) and tokens[i] <= high else None


def _contains(tokens: Sequence[int], token: int) -> bool:
    return _first(tokens, token, token) is not None
