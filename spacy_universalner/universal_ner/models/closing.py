"""Where an answer's list closes: what follows is not part of the answer."""

from __future__ import annotations

OTHER_QUOTES = "'`\u2018\u201c"


def find_close(text: str) -> int | None:
    """Find the end of the first JSON list or object in a text.

    text (str): An answer, or the beginning of one.
    RETURNS (int | None): The offset after the bracket that closes it; brackets inside of strings
        and of remarks such as "[1]" do not count. None while it is open, and for strings in other
        than double quotes, which are left to the tolerant parser.
    """
    depth, start, quoted, escaped = 0, 0, False, False
    for i, character in enumerate(text):
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character in "[{":
            start = start if depth else i
            depth += 1
        elif character == '"':
            quoted = depth > 0
        elif character in OTHER_QUOTES and depth and not text[start:i].strip("[{( \n"):
            return None
        elif character in "]}" and depth:
            depth -= 1
            if not depth and not _is_remark(text[start + 1 : i]):
                return i + 1
    return None


def _is_remark(content: str) -> bool:
    """Whether brackets hold something, but neither a string nor a list."""
    return bool(content.strip()) and set(content).isdisjoint('[]{}"' + OTHER_QUOTES)
