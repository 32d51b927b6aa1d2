"""Where an answer's list closes: what follows is not part of the answer."""

from __future__ import annotations


def find_close(text: str) -> int | None:
    """Find the end of the first JSON list or object in a text.

    text (str): An answer, or the beginning of one.
    RETURNS (int | None): The offset after the bracket that closes it; None while it is open.
        Brackets inside of strings do not count.
    """
    depth, quoted, escaped = 0, False, False
    for i, character in enumerate(text):
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character in "[{":
            depth += 1
        elif character == '"':
            quoted = depth > 0
        elif character in "]}" and depth:
            depth -= 1
            if not depth:
                return i + 1
    return None
