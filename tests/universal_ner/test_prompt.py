"""The prompts, to the byte."""

from __future__ import annotations

import pickle

import pytest

from spacy_universalner.ty import Conversation, Prompt, Question
from spacy_universalner.universal_ner.prompt import (
    TEMPLATES,
    build_prompt,
    build_prompts,
    conversation_pieces,
    format_answer,
)

GOLDEN = {
    ("serve", None): (
        "A virtual assistant answers questions from a user based on the provided text. "
        "USER: Text: Ada met Bob. ASSISTANT: I've read this text.</s>"
        "USER: What describes person in the text? ASSISTANT:"
    ),
    ("serve", "CrossNER AI"): (
        "A virtual assistant answers questions from a user based on the provided text. "
        "USER: Dataset: CrossNER AI\n Text: Ada met Bob. ASSISTANT: I've read this text.</s>"
        "USER: What describes person in the text? ASSISTANT:"
    ),
    ("train", None): (
        "A virtual assistant answers questions from a user based on the provided paragraph. "
        "USER: Text: Ada met Bob. ASSISTANT: I've read this text.</s>"
        "USER: What describes person in the text? ASSISTANT: "
    ),
    ("train", "CrossNER AI"): (
        "A virtual assistant answers questions from a user based on the provided paragraph. "
        "USER: Dataset: CrossNER AI\n Text: Ada met Bob. ASSISTANT: I've read this text.</s>"
        "USER: What describes person in the text? ASSISTANT: "
    ),
    ("definition", None): (
        "A virtual assistant answers questions from a user based on the provided text. "
        "USER: Text: Ada met Bob. ASSISTANT: I've read this text.</s>"
        "USER: What describes person in the text? ASSISTANT:"
    ),
    ("definition", "CrossNER AI"): (
        "A virtual assistant answers questions from a user based on the provided text. "
        "USER: Dataset: CrossNER AI\n Text: Ada met Bob. ASSISTANT: I've read this text.</s>"
        "USER: What describes person in the text? ASSISTANT:"
    ),
    ("all_in_one", None): (
        "A virtual assistant answers questions from a user based on the provided text. "
        "USER: Text: Ada met Bob. ASSISTANT: I've read this text.</s>"
        "USER: What describes person in the text? ASSISTANT:"
    ),
    ("all_in_one", "CrossNER AI"): (
        "A virtual assistant answers questions from a user based on the provided text. "
        "USER: Dataset: CrossNER AI\n Text: Ada met Bob. ASSISTANT: I've read this text.</s>"
        "USER: What describes person in the text? ASSISTANT:"
    ),
}


@pytest.mark.parametrize(("template", "dataset"), list(GOLDEN))
def test_a_prompt_is_the_published_one_to_the_byte(template: str, dataset: str | None) -> None:
    prompt = build_prompt("Ada met Bob.", "person", template=template, dataset=dataset)
    assert prompt.encode() == GOLDEN[template, dataset].encode()
    assert prompt.source == "Ada met Bob."


def test_every_template_has_a_golden_prompt() -> None:
    assert {template for template, _ in GOLDEN} == set(TEMPLATES)


def test_one_prompt_a_type_and_one_for_all_in_one() -> None:
    types = ["person", "a city or town", "date"]
    asked = [str(prompt) for prompt in build_prompts("x", types, template="definition")]
    assert [prompt.split("USER: ")[-1] for prompt in asked] == [
        "What describes person in the text? ASSISTANT:",
        "What describes a city or town in the text? ASSISTANT:",
        "What describes date in the text? ASSISTANT:",
    ]
    (prompt,) = build_prompts("x", types, template="all_in_one")
    assert prompt.endswith(
        "USER: What describes person, a city or town, date in the text? ASSISTANT:"
    )
    assert build_prompts("x", []) == build_prompts("x", [], template="all_in_one") == []


def test_what_the_user_brought_is_marked_as_data() -> None:
    prompt = build_prompt("T</s>", "L ASSISTANT:", dataset="D")
    assert [piece.text for piece in prompt.pieces if piece.kind == "data"] == [
        "D",
        "T</s>",
        "L ASSISTANT:",
    ]
    assert [piece.text for piece in prompt.pieces if piece.kind == "end"] == ["</s>"]


def test_a_prompt_survives_pickling_with_its_pieces() -> None:
    prompt = build_prompt("Ada", "person")
    copy = pickle.loads(pickle.dumps(prompt))
    assert isinstance(copy, Prompt)
    assert (copy, copy.pieces, copy.source) == (prompt, prompt.pieces, "Ada")


CONVERSATION = Conversation(
    "1", "Ada met Bob.", (Question("person", ("Ada", "Bob")), Question("date"))
)


def test_a_training_conversation_reads_like_the_released_one() -> None:
    pieces = conversation_pieces(CONVERSATION)
    assert "".join(piece.text for piece in pieces) == (
        "A virtual assistant answers questions from a user based on the provided paragraph. "
        "USER: Text: Ada met Bob. ASSISTANT: I've read this text.</s>"
        'USER: What describes person in the text? ASSISTANT: ["Ada", "Bob"]</s>'
        "USER: What describes date in the text? ASSISTANT: []</s>"
    )
    assert [piece.text for piece in pieces if piece.target] == [
        '["Ada", "Bob"]',
        "</s>",
        "[]",
        "</s>",
    ]


def test_the_acknowledgement_is_trained_on_as_an_option() -> None:
    pieces = conversation_pieces(CONVERSATION, template="serve", acknowledgement_loss=True)
    assert "".join(piece.text for piece in pieces if piece.target) == (
        ' I\'ve read this text.</s> ["Ada", "Bob"]</s> []</s>'
    )


def test_all_in_one_is_answered_by_one_object() -> None:
    pieces = conversation_pieces(CONVERSATION, template="all_in_one")
    assert "".join(piece.text for piece in pieces if piece.target) == (
        ' {"person": ["Ada", "Bob"], "date": []}</s>'
    )


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_training_text_continues_the_inference_prompt(template: str) -> None:
    first = Conversation("1", "Ada met Bob.", (Question("person", ("Ada", "Bob")),), "D")
    text = "".join(piece.text for piece in conversation_pieces(first, template=template))
    (prompt,) = build_prompts("Ada met Bob.", ["person"], template=template, dataset="D")
    assert text.startswith(prompt)


def test_answers_keep_their_characters() -> None:
    assert format_answer(['says "hi"', "Čapek 🙂"]) == r'["says \"hi\"", "Čapek 🙂"]'
    assert format_answer([]) == "[]"


def test_an_unknown_template_names_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'served'.*serve, train, definition, all_in_one"):
        build_prompt("x", "y", template="served")
