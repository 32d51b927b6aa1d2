"""From generated tokens to characters, with the place of each token among them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from spacy_universalner.universal_ner.tokenization import encode_plain

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def spell(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[int]]:
    """Write tokens as text.

    tokenizer (PreTrainedTokenizerBase): A fast tokenizer.
    ids (Sequence[int]): The tokens; special ones have no characters.
    RETURNS (tuple[str, list[int]]): The text, and for each token the offset after its last
        character. Of several tokens that make up one character the last one has it.
    """
    decode = tokenizer.backend_tokenizer.decode
    text = ""
    ends: list[int] = []
    # What a token adds depends on those before it (spaces, bytes of one character), but only on
    # the last ones: decode from the last but one place at which the characters were whole.
    before, start, whole = "", 0, 0
    for i in range(1, len(ids) + 1):
        now = decode(ids[start:i], skip_special_tokens=True)
        if i == len(ids) or not now.endswith(REPLACEMENT):
            text += now[len(before) :]
            start, whole = whole, i
            before = decode(ids[start:whole], skip_special_tokens=True)
        ends.append(len(text))
    return text, ends


def respell(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], source: str, keys: Sequence[str] = ()
) -> tuple[str, list[int]]:
    """Write tokens as text, with the listed strings spelled as they stand in the source.

    For tokenizers that lower-case or forget spaces (see `is_lossy`): a list's strings are looked
    up in the source by their tokens, so that the answer has the characters the model has read, and
    an object's keys among those that were asked for.

    tokenizer (PreTrainedTokenizerBase): A fast tokenizer.
    ids (Sequence[int]): The tokens of an answer.
    source (str): The text that the answer is about.
    keys (Sequence[str]): The types that the answer may be an object from.
    RETURNS (tuple[str, list[int]]): As `spell` does.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    read = list(encode_plain(tokenizer, source))
    asked = {tuple(id for id, _, _ in encode_plain(tokenizer, key)): key for key in keys}
    text = ""
    ends: list[int] = []
    for quoted, start, end in _segments(tokens):
        # In a quoted string a backslash is no character but says that the next one is.
        escapes = [quoted and token == "\\" for token in tokens[start:end]]
        for i in range(1, len(escapes)):
            escapes[i] = escapes[i] and not escapes[i - 1]
        kept = [id for id, escape in zip(ids[start:end], escapes, strict=True) if not escape]
        is_key = quoted and tokens[end : end + 2] == ['"', ":"]
        match = _find(read, kept, source) if quoted and not is_key else None
        key = asked.get(tuple(kept)) if is_key else None
        if key is not None:
            written = _escape(key)
            # How a key spreads over its tokens says nothing: it has no score.
            places = [0] * (len(kept) - 1) + [len(written)]
        elif match is None:
            written, places = spell(tokenizer, kept)
            if quoted:
                places = [len(_escape(written[:place])) for place in places]
                written = _escape(written)
        else:
            first = match[0][0]
            written = _escape(source[first : match[-1][1]])
            places = [len(_escape(source[first:last])) for _, last in match]
        place = iter(places)
        for escape in escapes:
            ends.append((ends[-1] if ends else 0) if escape else len(text) + next(place))
        text += written
    return text, ends


@lru_cache(maxsize=8)
def is_lossy(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Find out whether a tokenizer forgets case or spaces.

    tokenizer (PreTrainedTokenizerBase): A fast tokenizer.
    RETURNS (bool): Whether a text cannot be read back from its tokens.
    """
    sample = "Ab-c d"
    ids = [token for token, _, _ in encode_plain(tokenizer, sample)]
    return spell(tokenizer, ids)[0].strip() != sample


def _segments(tokens: Sequence[str]) -> Iterator[tuple[bool, int, int]]:
    """Cut an answer into what is inside of quotes and what is not, which has the quotes."""
    start, quoted, escaped = 0, False, False
    for i, token in enumerate(tokens):
        escaped = quoted and not escaped and i > start and tokens[i - 1] == "\\"
        if token == '"' and not escaped:
            end = i if quoted else i + 1
            if start < end:
                yield quoted, start, end
            start, quoted = end, not quoted
    if start < len(tokens):
        yield quoted, start, len(tokens)


def _find(
    read: Sequence[tuple[int, int, int]], ids: Sequence[int], source: str
) -> list[tuple[int, int]] | None:
    """Find a string's tokens among those of the source, as whole words if they stand so.

    RETURNS (list[tuple[int, int]] | None): For each token, its characters' offsets in the source.
    """
    found = None
    for i in range(len(read) - len(ids) + 1):
        if all(read[i + k][0] == id for k, id in enumerate(ids)):
            match = [(first, last) for _, first, last in read[i : i + len(ids)]]
            start, end = match[0][0], match[-1][1]
            if not (_joined(source, start) or _joined(source, end)):
                return match
            found = found or match
    return found


def _joined(text: str, offset: int) -> bool:
    """RETURNS (bool): Whether a word goes on across an offset."""
    return text[offset - 1 : offset].isalnum() and text[offset : offset + 1].isalnum()


def _escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
