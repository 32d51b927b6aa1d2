"""Reading the annotator's answers: NuNER's lines and UniversalNER's list of tuples.

Both readers take what can be read, piece by piece, and hand back the rest as rejects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

from ...ty import Extraction, Reject

SEPARATOR = "<>"  # of NuNER's lines
UNPARSEABLE = "unparseable"
CUT = "cut off"

_BULLET = re.compile(r"[-*•]\s+|(\d+)[.)]\s+")
_STRING = r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_PAIR = re.compile(rf"[(\[]\s*{_STRING}\s*,\s*{_STRING}\s*,?\s*[)\]]", re.DOTALL)
# A pair whose strings hold unescaped quotes, such as ("the "Foo" band", "band"); not a triple.
_LOOSE_STRING = r"""(["'])((?:(?!["']\s*,\s*["']).)+)["']"""
_LOOSE_PAIR = re.compile(rf"[(\[]\s*{_LOOSE_STRING}\s*,\s*{_LOOSE_STRING}\s*,?\s*[)\]]", re.DOTALL)
# A list of pairs, and not a remark such as "[of tuples]".
_LIST = re.compile(r"\[(?=\s*[(\[]\s*[\"'])")
_BRACKET = re.compile(r"\[")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|.)", flags=re.DOTALL)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}
_PAIR_BORDER = re.compile(r"(?<=[)\]])\s*,\s*(?=[(\[])")


def parse_nuner(
    response: str, text: str = "", *, cut: bool = False
) -> tuple[list[Extraction], list[Reject]]:
    """Read lines `entity <> concept <> description` (NuNER Figure 2).

    response (str): The annotator's answer. A missing description is tolerated, and so are bullets
        or numbers when every line carries one.
    text (str): The sentence: where "1. FC Köln" stands in it, the number is no bullet.
    cut (bool): Whether the answer was cut off; then a line that has not ended is not used.
    RETURNS (tuple[list[Extraction], list[Reject]]): What was read, in order, and the other lines.
    """
    lines = [line.strip() for line in response.splitlines() if line.strip()]
    unfinished = []
    if cut and not lines:
        unfinished.append(Reject("", CUT))
    elif cut and response.rstrip(" \t") == response.rstrip():
        unfinished.append(Reject(lines.pop(), CUT))
    found, rejects = parse_lines(without_bullets(lines, text))
    return found, [*rejects, *unfinished]


def without_bullets(lines: Sequence[str], text: str) -> Sequence[str]:
    """Take away what marks lines as those of a list.

    lines (Sequence[str]): The lines.
    text (str): Where "1. FC Köln" stands in it, the number is no bullet.
    RETURNS (Sequence[str]): The same, unless every line has a bullet or a number.
    """
    bullets = [match for match in map(_BULLET.match, lines) if match]
    if len(bullets) < len(lines):
        return lines
    numbers = [int(match[1]) for match in bullets if match[1]]
    counted = len(numbers) > 1 and numbers == list(range(1, len(lines) + 1))
    if (
        numbers
        and not counted
        and any(line.partition(SEPARATOR)[0].strip() in text for line in lines)
    ):
        return lines
    return [line[match.end() :] for line, match in zip(lines, bullets, strict=True)]


def parse_lines(lines: Iterable[str]) -> tuple[list[Extraction], list[Reject]]:
    """Read `entity <> concept <> description`, each for itself.

    lines (Iterable[str]): The lines.
    RETURNS (tuple[list[Extraction], list[Reject]]): What was read, in order, and the other lines.
    """
    extractions, rejects = [], []
    for line in lines:
        entity, *rest = (part.strip() for part in line.split(SEPARATOR))
        if not entity or not rest or not rest[0]:
            rejects.append(Reject(line, UNPARSEABLE))
        else:
            extractions.append(Extraction(entity, rest[0], " <> ".join(rest[1:])))
    return extractions, rejects


def parse_uniner(
    response: str, text: str = "", *, cut: bool = False
) -> tuple[list[Extraction], list[Reject]]:
    """Read a list of tuples `[("entity 1", "type of entity 1"), ...]` (UniversalNER 3.1).

    response (str): The annotator's answer. Text and code fences around the list, single quotes,
        lists for tuples, unescaped quotes, several lists and an unfinished end are tolerated.
    text (str): The passage; as for `parse_nuner`, and not looked at.
    cut (bool): Whether the answer was cut off: if its list has no end, what is unfinished of it, or
        an empty reject, says so.
    RETURNS (tuple[list[Extraction], list[Reject]]): What was read, in order, and what was not. An
        answer without any list is one reject.
    """
    start = _LIST.search(response) or _BRACKET.search(response)
    if start is None:
        return [], [Reject(response.strip(), UNPARSEABLE)]
    body = response[start.end() :]
    extractions, rejects = [], []
    position = 0
    while True:
        opening = _next_opening(body, position)
        if opening is None:
            another = _LIST.search(body, position)
            if another is None:
                break
            position = another.end()
            continue
        pair = _PAIR.match(body, opening)
        if pair is None:
            border = _PAIR_BORDER.search(body, opening)
            end = border.start() if border else len(body)
            chunk = body[opening:end].rstrip().removesuffix("```").rstrip()
            loose = _LOOSE_PAIR.match(chunk)
            entity, label = (loose[2], loose[4]) if loose else ("", "")
        else:
            chunk, end = pair[0], pair.end()
            entity, label = _unquote(pair[1]), _unquote(pair[2])
        if entity.strip() and label.strip():
            extractions.append(Extraction(entity.strip(), label.strip()))
        else:
            unfinished = cut and end == len(body)
            rejects.append(Reject(chunk, CUT if unfinished else UNPARSEABLE))
        position = end
    closed = body[position:].lstrip(" ,\n\t\r").startswith("]")
    if cut and not closed and all(reject.reason != CUT for reject in rejects):
        rejects.append(Reject("", CUT))
    return extractions, rejects


def _read_escape(match: re.Match[str]) -> str:
    """The character that an escape of Python stands for; any other stands for itself."""
    escape = match[1]
    return chr(int(escape[1:], 16)) if len(escape) > 1 else _CONTROLS.get(escape, escape)


def read_strings(response: str) -> list[str]:
    """Read the strings of a list as Python or JSON writes it, whatever stands around them."""
    return [_unquote(literal) for literal in re.findall(_STRING, response, re.DOTALL)]


def _next_opening(body: str, position: int) -> int | None:
    """The next bracket after separators; None at the end of the list."""
    separator = re.compile(r"[\s,]*").match(body, position)
    found = separator.end() if separator else position
    return found if found < len(body) and body[found] != "]" else None


def _unquote(literal: str) -> str:
    text = _ESCAPE.sub(_read_escape, literal[1:-1])
    if literal[0] == '"':
        # If it fails: an escape that JSON does not know, such as \'
        with suppress(json.JSONDecodeError):
            text = str(json.loads(literal, strict=False))
    # An escaped half of a surrogate pair could not be written to a file.
    return text.encode("utf-8", "replace").decode("utf-8")
