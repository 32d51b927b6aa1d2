"""Decoding restricted to JSON lists of strings that stand in the text, alone or by type.

An answer is followed byte by byte. Inside of a string the state is all places of the text at which
the string may stand, so what may come next is what the text has there, or the closing quote where
a word ends. What stands around the lists of several types is known beforehand. Tokens may hold
several of an answer's parts, and parts of characters.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from spacy_universalner.alignment import is_word_boundary
from spacy_universalner.universal_ner.models.spelling import is_lossy
from spacy_universalner.universal_ner.tokenization import (
    encode_plain,
    get_conventions,
)

QUOTE, SPACE, OPEN, CLOSE, COMMA = b'" [],'

# Where in a list: before its bracket, after it, in a string, after one, after a comma, behind it.
# Of several lists, also: in what stands between them.
BEFORE, OPENED, INSIDE, LISTED, NEXT, DONE, BETWEEN = range(7)
SYNTAX = {
    (BEFORE, OPEN): OPENED,
    (OPENED, CLOSE): DONE,
    (LISTED, COMMA): NEXT,
    (LISTED, CLOSE): DONE,
}


class State(NamedTuple):
    """How far an answer is written.

    phase (int): Where in the list.
    places (tuple[int, ...]): In a string: the offsets in the text that it may go on at.
    fresh (bool): In a string: whether nothing of it is written yet.
    spaced (bool): Whether the last byte was a space that is not part of a string.
    number (int): Of several lists: the one that is written or comes next.
    written (int): Between lists: how many bytes of what stands there.
    """

    phase: int
    places: tuple[int, ...] = ()
    fresh: bool = False
    spaced: bool = False
    number: int = 0
    written: int = 0


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens as bytes.

    tokens (dict[int, bytes]): By id; special tokens are left out.
    ids (dict[bytes, list[int]]): The other way round.
    longest (int): The length of the longest token, in bytes.
    marking (dict[int, list[int]]): By their first byte, the tokens that can be part of an answer
        other than inside of a string: those with a quote, and those of marks and spaces.
    by_word (bool): Whether tokens are words and parts of words, between which spaces are implied
        (WordPiece); then a word's token starts with a space here.
    """

    tokens: dict[int, bytes]
    ids: dict[bytes, list[int]]
    longest: int
    marking: dict[int, list[int]]
    by_word: bool

    def beginnings(self, data: bytes, place: int) -> list[int]:
        """Find the tokens that bytes may go on with, whole.

        data (bytes): The bytes.
        place (int): Where to begin.
        RETURNS (list[int]): Their ids.
        """
        ends = range(place + 1, min(len(data), place + self.longest) + 1)
        return list(chain.from_iterable(self.ids.get(data[place:end], ()) for end in ends))


class Source:
    """A text as the bytes of its JSON strings, and what may come next in lists of them.

    vocabulary (Vocabulary): The tokens.
    tokenizer (PreTrainedTokenizerBase): The tokenizer.
    text (str): The text.
    keys (Sequence[str]): The types that the answer is an object from; none if it is one list.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        tokenizer: PreTrainedTokenizerBase,
        text: str,
        keys: Sequence[str] = (),
    ) -> None:
        self._vocabulary = vocabulary
        self._allowed: dict[State, list[int]] = {}
        # From offset to the tokens that may stand there.
        self._tokens: dict[int, list[int]] = {}
        self._data = b""
        parts = self._words(tokenizer, text) if vocabulary.by_word else self._characters(text)
        starts, ends = [], set()
        for part, start, end in parts:
            if is_word_boundary(text, start) and not text[start].isspace():
                starts.append(len(self._data))
            self._data += part
            if is_word_boundary(text, end) and not text[end - 1].isspace():
                ends.add(len(self._data))
        # Behind the last place where a string may end it could never end.
        last = max(ends, default=0)
        self._data = self._data[:last]
        self._tokens = {place: ids for place, ids in self._tokens.items() if place < last}
        self._starts = tuple(start for start in starts if start < last)
        self._ends = frozenset(ends)
        # What stands before each list of an object and behind the last, and its tokens by place.
        self._frames: list[bytes] = []
        self._framing: dict[tuple[int, int], list[int]] = {}
        if keys:
            first, *others = (json.dumps(key, ensure_ascii=False) for key in keys)
            for frame in ("{" + first + ":", *(", " + other + ":" for other in others), "}"):
                self._add_frame(tokenizer, frame)

    @property
    def start(self) -> State:
        """The state before anything is written."""
        return State(BETWEEN if self._frames else BEFORE)

    def allowed(self, state: State) -> list[int]:
        """Find the tokens that may come next.

        state (State): How far the list is written.
        RETURNS (list[int]): Their ids.
        """
        if state not in self._allowed:
            found = {id for place in state.places for id in self._at(place)}
            marking, tokens = self._vocabulary.marking, self._vocabulary.tokens
            firsts: Iterable[int] = marking
            if state.phase == BETWEEN:
                framing = self._framing.get((state.number, state.written), ())
                found.update(id for id in framing if self.follow(state, id) is not None)
                # Words are the frame's own; other tokens may lead from it into the list.
                leading = {SPACE, self._frames[state.number][state.written]}
                firsts = () if self._vocabulary.by_word else leading
            elif state.phase == INSIDE:
                # Only a quote leads out; what the text has of other marks is found above.
                after = (self._data[place : place + 1] for place in state.places)
                firsts = {QUOTE, SPACE, *b"".join(after)}
            for id in (id for first in firsts for id in marking.get(first, ())):
                leads_on = state.phase != INSIDE or QUOTE in tokens[id]
                if leads_on and self.follow(state, id) is not None:
                    found.add(id)
            self._allowed[state] = sorted(found)
        return self._allowed[state]

    def follow(self, state: State, id: int) -> State | None:
        """Write a token.

        state (State): How far the list is written.
        id (int): The token.
        RETURNS (State | None): How far it is then; None if the token cannot come here.
        """
        for byte in self._vocabulary.tokens[id]:
            following = self._step(state, byte)
            if following is None:
                return None
            state = following
        return state

    def _step(self, state: State, byte: int) -> State | None:
        number = state.number
        if state.phase == BETWEEN and not (byte == SPACE and state.written == 0):
            frame, written = self._frames[number], state.written + 1
            if byte != frame[state.written]:
                return None
            if written < len(frame):
                return State(BETWEEN, number=number, written=written)
            return State(DONE if number == len(self._frames) - 1 else BEFORE, number=number)
        if state.phase == INSIDE:
            ended = not state.fresh and any(place in self._ends for place in state.places)
            if byte == QUOTE and (state.spaced if self._vocabulary.by_word else ended):
                return State(LISTED, number=number)
            data = self._data
            places = tuple(
                place + 1 for place in state.places if data[place : place + 1] == bytes([byte])
            )
            # Between words the space may also be the one before the closing quote.
            spaced = self._vocabulary.by_word and byte == SPACE and ended
            if not places and not spaced:
                return None
            return State(INSIDE, places, spaced=spaced, number=number)
        if byte == SPACE and state.phase != DONE:
            return None if state.spaced else state._replace(spaced=True)
        if byte == QUOTE and state.phase in (OPENED, NEXT) and self._starts:
            return State(INSIDE, self._starts, fresh=True, number=number)
        phase = SYNTAX.get((state.phase, byte))
        if phase == DONE and self._frames:
            return State(BETWEEN, number=number + 1)
        return None if phase is None else State(phase, number=number)

    def _at(self, place: int) -> list[int]:
        """The tokens that the text may go on with, whole, from an offset."""
        if place not in self._tokens:
            # Of words and their parts only the text's own: others might lead where none goes on.
            by_word = self._vocabulary.by_word
            self._tokens[place] = [] if by_word else self._vocabulary.beginnings(self._data, place)
        return self._tokens[place]

    def _add_frame(self, tokenizer: PreTrainedTokenizerBase, frame: str) -> None:
        number, vocabulary = len(self._frames), self._vocabulary
        data = b"" if vocabulary.by_word else frame.encode()
        for place in range(len(data)):
            self._framing[number, place] = vocabulary.beginnings(data, place)
        if vocabulary.by_word:
            for id, _, _ in encode_plain(tokenizer, frame):
                self._framing[number, len(data)] = [id]
                data += vocabulary.tokens[id] if data else vocabulary.tokens[id].lstrip()
        else:
            self._framing[number, 0] += vocabulary.beginnings(b" " + data, 0)
        self._frames.append(data)

    def _characters(self, text: str) -> Iterator[tuple[bytes, int, int]]:
        for i, character in enumerate(text):
            yield json.dumps(character, ensure_ascii=False)[1:-1].encode(), i, i + 1

    def _words(
        self, tokenizer: PreTrainedTokenizerBase, text: str
    ) -> Iterator[tuple[bytes, int, int]]:
        tokens, ids = self._vocabulary.tokens, self._vocabulary.ids
        for id, start, end in encode_plain(tokenizer, text):
            form = [id]
            if tokens[id] in (b' "', b" \\"):
                form = [*ids.get(b" \\", ()), id]
            place = len(self._data)
            for part in form:
                self._tokens[place] = [part]
                place += len(tokens[part])
            yield b"".join(tokens[part] for part in form), start, end


class FromText:
    """Follows an answer that lists strings of a text.

    source (Source): The text, and the types that are listed by.
    end_id (int): What ends an answer whose list cannot go on, for want of a token.
    """

    def __init__(self, source: Source, end_id: int) -> None:
        self._source = source
        self._end_id = end_id
        self._state: State | None = source.start

    def allowed(self) -> list[int]:
        assert self._state is not None, "a token came that was not allowed"
        return self._source.allowed(self._state) or [self._end_id]

    def push(self, token: int) -> bool:
        assert self._state is not None
        self._state = self._source.follow(self._state, token)
        return self._state is not None and self._state.phase == DONE


@lru_cache(maxsize=64)
def read_source(
    tokenizer: PreTrainedTokenizerBase, text: str, keys: tuple[str, ...] = ()
) -> Source:
    """Prepare a text; once for all that is asked about it.

    tokenizer (PreTrainedTokenizerBase): A fast tokenizer.
    text (str): The text.
    keys (tuple[str, ...]): The types that the answer is an object from; none if it is one list.
    RETURNS (Source): What may stand in the answer.
    """
    return Source(read_vocabulary(tokenizer), tokenizer, text, keys)


@lru_cache(maxsize=8)
def read_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Write a tokenizer's tokens as bytes.

    tokenizer (PreTrainedTokenizerBase): A byte-level, SentencePiece-like or WordPiece tokenizer.
    RETURNS (Vocabulary): Its tokens.
    RAISES (ValueError): It forgets case or spaces, and is no WordPiece tokenizer.
    """
    vocabulary = tokenizer.get_vocab()
    by_word = is_lossy(tokenizer)
    if by_word and not any(token.startswith("##") for token in vocabulary):
        raise ValueError(
            f"constrain = 'text' cannot follow {type(tokenizer).__name__}, which forgets case or "
            "spaces and is not a WordPiece tokenizer. Use constrain = 'none'."
        )
    write = _word if by_word else _byte_level if "Ġ" in vocabulary else _sentencepiece
    specials = get_conventions(tokenizer).specials
    tokens = {id: write(token) for token, id in vocabulary.items() if id not in specials}
    ids, marking = defaultdict(list), defaultdict(list)
    for id, form in tokens.items():
        ids[form].append(id)
        if by_word:
            # Marks are words of their own, never parts of one.
            marks = form in (b" [", b' "', b" ,", b" ]")
        else:
            marks = QUOTE in form or not form.strip(b"[]{}:, ")
        if form and marks:
            marking[form[0]].append(id)
    longest = max(map(len, ids))
    return Vocabulary(tokens, dict(ids), longest, dict(marking), by_word)


def _word(token: str) -> bytes:
    return token[2:].encode() if token.startswith("##") else b" " + token.encode()


def _byte_level(token: str) -> bytes:
    if all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return token.encode()


def _sentencepiece(token: str) -> bytes:
    byte = re.fullmatch("<0x([0-9A-F]{2})>", token)
    return bytes.fromhex(byte[1]) if byte else token.replace("▁", " ").encode()


_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
