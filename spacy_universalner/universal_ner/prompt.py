"""The text of UniversalNER's conversations, for training and for inference (UniversalNER 3.2).

One conversation holds a text, an acknowledgement and one question per entity type; the answer is
a JSON list of strings. Text is built as pieces, so that the tokenizer can tell what the template
says from what the user brought.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from spacy_universalner.ty import Conversation, Piece, Prompt, Question

END = "</s>"
ACKNOWLEDGEMENT = "I've read this text."


@dataclass(frozen=True)
class Template:
    """A way to word a conversation.

    source (str): What the system line calls the text.
    by_turn (bool): Whether each turn is tokenised on its own, so that "ASSISTANT: " keeps its
        trailing space, as the released training code does it.
    all_types (bool): Whether one question asks for all types at once (Figure 5b).
    """

    source: str = "text"
    by_turn: bool = False
    all_types: bool = False


TEMPLATES = {
    # What the released models are asked.
    "serve": Template(),
    # What the released training code writes.
    "train": Template(source="paragraph", by_turn=True),
    # The question carries a type's definition in place of its name.
    "definition": Template(),
    # The ablation: one question, the answer a JSON object from type to list.
    "all_in_one": Template(all_types=True),
}


def build_prompt(
    text: str, type: str, *, template: str = "serve", dataset: str | None = None
) -> Prompt:
    """Build the prompt that asks for the entities of one type.

    text (str): The passage.
    type (str): The type in the words that are asked, or its definition.
    template (str): A key of `TEMPLATES`.
    dataset (str | None): Name for the dataset-specific template (Figure 3).
    RETURNS (Prompt): Ends where the model's answer starts.
    RAISES (ValueError): The template does not exist.
    """
    return _build(text, (type,), get_template(template), dataset)


def build_prompts(
    text: str, types: Sequence[str], *, template: str = "serve", dataset: str | None = None
) -> list[Prompt]:
    """Build the prompts that ask for the entities of several types.

    text (str): The passage.
    types (Sequence[str]): The types in the words that are asked, or their definitions.
    template (str): A key of `TEMPLATES`.
    dataset (str | None): Name for the dataset-specific template (Figure 3).
    RETURNS (list[Prompt]): One for each type; for "all_in_one" a single one, answered by a JSON
        object from type to list.
    RAISES (ValueError): The template does not exist.
    """
    wording = get_template(template)
    if wording.all_types:
        return [_build(text, tuple(dict.fromkeys(types)), wording, dataset)] if types else []
    return [_build(text, (type,), wording, dataset) for type in types]


def conversation_pieces(
    conversation: Conversation, *, template: str = "train", acknowledgement_loss: bool = False
) -> list[Piece]:
    """Build a training conversation.

    conversation (Conversation): The text and its answered questions. Its `dataset`, if any, is
        named in the first turn.
    template (str): A key of `TEMPLATES`.
    acknowledgement_loss (bool): Whether the fixed acknowledgement is trained on too, as in the
        released code; the paper takes the loss on the answers only.
    RETURNS (list[Piece]): The pieces; `target` marks the answers and the ends of their turns.
    RAISES (ValueError): The template does not exist.
    """
    wording = get_template(template)
    pieces = list(_opening(conversation.text, wording, conversation.dataset, acknowledgement_loss))
    if wording.all_types:
        turns = [([question.type for question in conversation.questions], conversation.questions)]
    else:
        turns = [([question.type], (question,)) for question in conversation.questions]
    for types, questions in turns:
        pieces.extend(_question(types, wording))
        answer = _answer(questions, wording)
        pieces.extend(_reply(Piece(answer, "data", True), wording, target=True))
    return pieces


def format_answer(strings: Iterable[str]) -> str:
    """Write a list of entities as the model is trained to write it.

    strings (Iterable[str]): The entities, as they stand in the text.
    RETURNS (str): A JSON list; "[]" for none.
    """
    return json.dumps(list(strings), ensure_ascii=False)


def get_template(name: str) -> Template:
    """Look up a template.

    name (str): A key of `TEMPLATES`.
    RETURNS (Template): The template.
    RAISES (ValueError): It does not exist.
    """
    if name not in TEMPLATES:
        raise ValueError(f"Unknown template '{name}'. Expected one of: {', '.join(TEMPLATES)}.")
    return TEMPLATES[name]


def _build(text: str, types: Sequence[str], wording: Template, dataset: str | None) -> Prompt:
    pieces = (*_opening(text, wording, dataset), *_question(types, wording))
    return Prompt(pieces, source=text, keys=tuple(types) if wording.all_types else ())


def _opening(
    text: str, wording: Template, dataset: str | None, acknowledgement_loss: bool = False
) -> Iterator[Piece]:
    """System line, the user's text and the acknowledgement."""
    yield Piece(
        "A virtual assistant answers questions from a user based on the provided "
        f"{wording.source}. USER: "
    )
    if dataset is not None:
        yield Piece("Dataset: ")
        yield Piece(dataset, "data")
        yield Piece("\n ")
    yield Piece("Text: ")
    yield Piece(text, "data")
    yield from _assistant(wording)
    acknowledgement = Piece(ACKNOWLEDGEMENT, "frame", acknowledgement_loss)
    yield from _reply(acknowledgement, wording, target=acknowledgement_loss)


def _question(types: Sequence[str], wording: Template) -> Iterator[Piece]:
    yield Piece("USER: What describes ")
    for i, type in enumerate(types):
        if i:
            yield Piece(", ")
        yield Piece(type, "data")
    yield Piece(" in the text?")
    yield from _assistant(wording)


def _assistant(wording: Template) -> Iterator[Piece]:
    """The end of the user's turn and the name of who speaks next."""
    if wording.by_turn:
        yield Piece("", "turn")
        yield Piece(" ASSISTANT: ")
        yield Piece("", "turn")
    else:
        yield Piece(" ASSISTANT:")


def _reply(message: Piece, wording: Template, *, target: bool) -> Iterator[Piece]:
    """What the assistant says and the end of its turn."""
    if not wording.by_turn:
        yield Piece(" ", "frame", target)
    yield message
    yield Piece(END, "end", target)


def _answer(questions: Sequence[Question], wording: Template) -> str:
    if wording.all_types:
        found = {question.type: list(question.answers) for question in questions}
        return json.dumps(found, ensure_ascii=False)
    return format_answer(questions[0].answers)
