"""Reading a model's answers: tolerantly, to lose nothing, and as the released evaluator does."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from spacy_universalner.ty import Answer, Reject

NO_LIST = "no list in the answer"
NOT_A_LIST = "not a list"
NOT_A_STRING = "not a string"
CUT_OFF = "list cut off"
EMPTY = "empty string"
REPEATED = "repeated"

_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_QUOTE = "[\"'`\u201c\u2018]"
_PLAIN = "[^\\s\\[\\]{}\"'`\u201c\u2018]"
# A bracket that opens a list, and not a remark without any string such as "[1]".
_LIST = re.compile(rf"\[(?!\s*{_PLAIN}(?:\s|{_PLAIN})*\])")
_BRACKET = re.compile(r"\[")
_KEY = re.compile("([\"'\u201c\u2018])((?:[^\\\\]|\\\\.)*?)[\"'\u201d\u2019]\\s*:\\s*", re.DOTALL)
_NOTHING = re.compile(r"\{\s*\}")
_SEPARATORS = re.compile(r"[\s,]*")
# What an item that is not a string consists of, up to the next separator outside of brackets.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'', re.DOTALL)
_FENCE = re.compile(r"\s*```\s*$")


@dataclass(frozen=True)
class Item:
    """A string of a list.

    text (str): The string.
    start (int): Offset in the answer of its first character, after the quote.
    end (int): Offset after its last character, before the quote.
    """

    text: str
    start: int
    end: int


def parse_list(response: str) -> tuple[list[Item], list[Reject]]:
    """Read the first list of strings in an answer, whatever stands around it.

    Text and code fences before and after, single or typographic quotes, new lines, brackets and
    unescaped quotes inside of strings are tolerated, and so is a list that was cut off: the
    strings that were closed count.

    response (str): The answer.
    RETURNS (tuple[list[Item], list[Reject]]): Each string once, in order, and whatever stands in
        the list beside them; an answer without a list is one reject.
    """
    opening = _LIST.search(response) or _BRACKET.search(response)
    if opening is None:
        return [], [Reject(response.strip(), NO_LIST)]
    items, rejects, _ = _read_list(response, opening.end())
    return items, rejects


def parse_object(response: str) -> tuple[list[tuple[str, Item]], list[Reject]]:
    """Read an answer about all types at once, a JSON object from type to list (Figure 5b).

    response (str): The answer, tolerated as by `parse_list`.
    RETURNS (tuple[list[tuple[str, Item]], list[Reject]]): Each type with each of its strings, in
        order, and whatever stands beside them; an answer without a type is one reject.
    """
    found: list[tuple[str, Item]] = []
    rejects: list[Reject] = []
    key = _KEY.search(response)
    if key is None:
        return [], [] if _NOTHING.search(response) else [Reject(response.strip(), NO_LIST)]
    while key is not None:
        type, position = _unescape(key[2], key[1]), key.end()
        if response.startswith("[", position):
            items, refused, position = _read_list(response, position + 1)
            found.extend((type, item) for item in items)
            rejects.extend(refused)
        else:
            end = _end_of_other(response, position)
            rejects.append(Reject(response[position:end].rstrip(" \n}`"), NOT_A_LIST))
            position = end
        key = _KEY.search(response, position)
    return found, rejects


def parse_strict(response: str) -> list[str]:
    """Read an answer as the released evaluator does (UniversalNER 4).

    From the start of the answer up to the first "]", with a JSON parser; whatever that cannot
    read, and every list that holds anything but strings, is an empty list.

    response (str): The answer.
    RETURNS (list[str]): The strings, in order, repeats included.
    """
    match = re.match(r"\[(.*?)\]", response)
    try:
        items = json.loads(match.group()) if match else []
    except (ValueError, RecursionError):
        return []
    return items if all(isinstance(item, str) for item in items) else []


def item_score(item: Item, answer: Answer) -> float | None:
    """How sure the model was of a string: exp of its tokens' mean log-probability.

    item (Item): The string, at its place in the answer.
    answer (Answer): The answer, with its tokens.
    RETURNS (float | None): In (0, 1]; None if the answer comes without tokens.
    """
    logprobs = []
    begin = 0
    for end, logprob in zip(answer.ends, answer.logprobs, strict=True):
        if begin < item.end and end > item.start:
            logprobs.append(logprob)
        begin = end
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else None


def _read_list(response: str, position: int) -> tuple[list[Item], list[Reject], int]:
    """Read a list from after its opening bracket; also returns the offset after its end."""
    items: dict[str, Item] = {}
    rejects = []
    while True:
        position = _skip(response, position)
        if position == len(response):
            rejects.append(Reject("", CUT_OFF))
            break
        if response[position] == "]":
            position += 1
            break
        if response[position] not in _QUOTES:
            end = _end_of_other(response, position)
            cut_off = end == len(response)
            rejects.append(
                Reject(response[position:end].strip(), CUT_OFF if cut_off else NOT_A_STRING)
            )
            position = end
            if cut_off:
                break
            continue
        closing = _closing_quote(response, position)
        if closing is None:
            rejects.append(Reject(_FENCE.sub("", response[position:]), CUT_OFF))
            position = len(response)
            break
        text = _unescape(response[position + 1 : closing], response[position])
        if not text.strip():
            rejects.append(Reject(text, EMPTY))
        elif text in items:
            rejects.append(Reject(text, REPEATED))
        else:
            items[text] = Item(text, position + 1, closing)
        position = closing + 1
    return list(items.values()), rejects, position


def _skip(response: str, position: int) -> int:
    match = _SEPARATORS.match(response, position)
    return match.end() if match else position


def _closing_quote(response: str, opening: int) -> int | None:
    """Offset of the quote that ends a string: the first one that a separator, the list's end or
    the next string follows. Quotes within names are rarely escaped."""
    quote = re.escape(_QUOTES[response[opening]])
    pattern = rf"(?:[^\\]|\\.)*?({quote})(?=\s*(?:[,\]]|$)|\s+{_QUOTE})"
    match = re.compile(pattern, re.DOTALL).match(response, opening + 1)
    return match.start(1) if match else None


def _end_of_other(response: str, position: int) -> int:
    """Offset after an item that is not a string: a number, a word, a list or an object."""
    depth = 0
    while position < len(response):
        character = response[position]
        quoted = _QUOTED.match(response, position) if depth else None
        if quoted:
            position = quoted.end()
            continue
        if character in "[{(":
            depth += 1
        elif character in "]})" and depth:
            depth -= 1
        elif character in ",]" and not depth:
            break
        position += 1
    return position


def _unescape(content: str, quote: str) -> str:
    if quote == '"':
        try:
            text = str(json.loads(f'"{content}"', strict=False))
        except json.JSONDecodeError:  # an unescaped quote or an escape that JSON does not know
            text = re.sub(r"\\(.)", r"\1", content, flags=re.DOTALL)
    else:
        text = re.sub(r"\\(.)", r"\1", content, flags=re.DOTALL)
    # An escaped half of a surrogate pair could not be written to a file.
    return text.encode("utf-8", "replace").decode("utf-8")
