"""Where an answer's list closes: what follows is not part of the answer."""

from __future__ import annotations

OTHER_QUOTES = ("'", "`", "\u2018", "\u201c")


def find_close(text: str) -> int | None:
    """Find the end of the JSON list or object that a text starts with.

    text (str): An answer, or the beginning of one.
    RETURNS (int | None): The offset after the bracket that closes it; brackets inside of strings do
        not count. None while it is open, and for all that is left to the tolerant parser: words
        before it, or strings in other than double quotes.
    """
    start = text.lstrip()
    if not start.startswith(("[", "{")) or start.lstrip("[{( \n").startswith(OTHER_QUOTES):
        return None
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
