"""From generated tokens to characters, with the place of each token among them."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def spell(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[int]]:
    """Write tokens as text.

    tokenizer (PreTrainedTokenizerBase): A fast tokenizer.
    ids (Sequence[int]): The tokens; special ones have no characters.
    RETURNS (tuple[str, list[int]]): The text, and for each token the offset after its last
        character. Of several tokens that make up one character the last one has it.
    """
    decode = tokenizer.backend_tokenizer.decode
    text, ends = "", []
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
