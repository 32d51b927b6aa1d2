"""The published conversations of UniversalNER: Pile-NER and the evaluation records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from ...ty import Conversation, Question
from ...universal_ner.prompt import ACKNOWLEDGEMENT, format_answer
from ..readers import check_characters, open_text, read_answers, write_whole

_OPENING = re.compile(r"(?:Dataset: (?P<dataset>.*?)\n )?Text: (?P<text>.*)", re.DOTALL)
_QUESTION = re.compile(r"What describes (?P<type>.*) in the text\?", re.DOTALL)


def read_pile_ner(path: Path) -> Iterator[Conversation]:
    """Read conversations as they were published.

    path (Path): A JSON list, or JSON lines, of `{"id", "conversations": [{"from", "value"}]}`.
        The file is read into memory.
    YIELDS (Conversation): One a text: records that ask one question each of the same text, as in
        the evaluation files, become one.
    RAISES (ValueError): A record of another form, with its place.
    """
    records = (_to_conversation(row, place) for place, row in _rows(path))
    for (text, dataset), group in groupby(records, key=lambda each: (each.text, each.dataset)):
        same = list(group)
        questions = tuple(question for record in same for question in record.questions)
        yield Conversation(same[0].id, text, questions, dataset)


def write_pile_ner(path: Path, conversations: Iterable[Conversation]) -> None:
    """Write conversations as they were published: a JSON list, one record a line.

    path (Path): The file.
    conversations (Iterable[Conversation]): The conversations; streamed.
    """
    with write_whole(path) as file:
        separator = "["
        for conversation in conversations:
            file.write(separator + "\n" + json.dumps(_to_row(conversation), ensure_ascii=False))
            separator = ","
        file.write("\n]\n" if separator == "," else "[]\n")


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The objects of a JSON list or of JSON lines, each with its place."""
    with open_text(path) as file:
        content = file.read()
    decoder = json.JSONDecoder()
    between = re.compile(r"[\s,\[\]]*")
    position, line = 0, 1
    while True:
        start = between.match(content, position).end()  # type: ignore[union-attr]
        line += content.count("\n", position, start)
        if start == len(content):
            return
        try:
            row, end = decoder.raw_decode(content, start)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
        place = f"{path}:{line}"
        check_characters(row, place)
        yield place, row
        line += content.count("\n", start, end)
        position = end


def _to_conversation(row: Any, place: str) -> Conversation:
    try:
        turns = [turn["value"] for turn in row["conversations"]]
        opening = _OPENING.fullmatch(turns[0])
        types = [_QUESTION.fullmatch(turn) for turn in turns[2::2]]
        answers = [read_answers(json.loads(turn)) for turn in turns[3::2]]
        if opening is None or None in types or len(types) != len(answers):
            raise ValueError("expected the text, then questions with their answers")
        questions = (
            Question(asked["type"], answer)
            for asked, answer in zip(types, answers, strict=True)
            if asked
        )
        return Conversation(str(row["id"]), opening["text"], tuple(questions), opening["dataset"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f'{place}: not a conversation {{"id", "conversations": [{{"from", "value"}}, ...]}} '
            f"of Pile-NER: {type(error).__name__}: {error}"
        ) from error


def _to_row(conversation: Conversation) -> dict[str, Any]:
    dataset = "" if conversation.dataset is None else f"Dataset: {conversation.dataset}\n "
    turns = [f"{dataset}Text: {conversation.text}", ACKNOWLEDGEMENT]
    for question in conversation.questions:
        turns += [f"What describes {question.type} in the text?", format_answer(question.answers)]
    speakers = ("human", "gpt")
    return {
        "id": conversation.id,
        "conversations": [
            {"from": speakers[i % 2], "value": value} for i, value in enumerate(turns)
        ],
    }
