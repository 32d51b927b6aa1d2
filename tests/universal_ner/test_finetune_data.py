"""Conversations as training rows and batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from spacy_universalner.ty import Conversation, Question
from spacy_universalner.universal_ner.finetune_batches import Collator
from spacy_universalner.universal_ner.finetune_data import (
    IGNORE_INDEX,
    encode_conversation,
)
from spacy_universalner.universal_ner.prompt import build_prompt
from spacy_universalner.universal_ner.tokenization import encode_pieces, end_token_id
from tests.universal_ner.tuning import (
    CONVERSATION,
    SHORT,
    load,
)


def test_loss_falls_on_answers_and_their_ends_alone(folder):
    _, tokenizer = load(folder)
    (row,), rejects = encode_conversation(tokenizer, CONVERSATION, template="serve")
    assert not rejects
    learned = [token for token in row["labels"] if token != IGNORE_INDEX]
    assert all(
        label in (token, IGNORE_INDEX)
        for token, label in zip(row["input_ids"], row["labels"], strict=True)
    )
    end = end_token_id(tokenizer)
    answers, current = [], []
    for token in learned:
        if token == end:
            answers.append(tokenizer.decode(current).strip())
            current = []
        else:
            current.append(token)
    assert current == []
    strip = str.lower if "[SEP]" in tokenizer.get_vocab() else str
    assert [answer.replace(" ", "") for answer in answers] == [
        strip(answer) for answer in ('["MarieCurie","PierreCurie"]', "[]", '["Paris"]')
    ]


def test_acknowledgement_can_be_learned_as_in_the_released_code(folder):
    _, tokenizer = load(folder)
    (plain,), _ = encode_conversation(tokenizer, SHORT, template="serve")
    (released,), _ = encode_conversation(
        tokenizer, SHORT, template="serve", acknowledgement_loss=True
    )
    assert released["input_ids"] == plain["input_ids"]
    added = [
        after
        for before, after in zip(plain["labels"], released["labels"], strict=True)
        if after != before
    ]
    assert added[-1] == end_token_id(tokenizer)
    words = tokenizer.decode(added[:-1]).strip().lower().replace(" ", "")
    assert words == "i'vereadthistext."


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(st.lists(st.sampled_from(["Paris", "Marie Curie", "1903"]), max_size=4)),
    max_length=st.integers(50, 160),
    attend=st.sampled_from(["conversation", "question"]),
)
def test_splitting_loses_no_question_without_saying_so(tiny_gpt2, answers, max_length, attend):
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    questions = tuple(Question(f"type {i}", tuple(found)) for i, found in enumerate(answers))
    conversation = Conversation("1", "Paris, 1903.", questions)
    whole, _ = encode_conversation(tokenizer, conversation, max_length=10**6)
    rows, rejects = encode_conversation(
        tokenizer, conversation, max_length=max_length, attend=attend
    )
    assert all(len(row["input_ids"]) <= max_length for row in rows)
    rejected = {reject.item for reject in rejects}
    expected = [split_row(row)[1] for row in whole]
    expected = [
        turn
        for turns in expected
        for turn, question in zip(turns, questions, strict=True)
        if question.type not in rejected
    ]
    assert [turn for row in rows for turn in split_row(row)[1]] == expected
    assert len({tuple(split_row(row)[0]) for row in rows}) <= 1
    for reject in rejects:
        asked = Conversation("1", conversation.text, (questions[int(reject.item.split()[1])],))
        (alone,), _ = encode_conversation(tokenizer, asked, max_length=10**6)
        assert len(alone["input_ids"]) > max_length


def split_row(row):
    turns = [[] for _ in range(max(row["segments"]) + 1)]
    for token, label, segment in zip(row["input_ids"], row["labels"], row["segments"], strict=True):
        turns[segment].append((token, label))
    return turns[0], turns[1:]


def test_questions_about_absent_types_are_known(tiny_gpt2):
    _, tokenizer = load(tiny_gpt2)
    (row,), _ = encode_conversation(tokenizer, CONVERSATION)
    assert row["absent"] == [2]
    questions = (Question("city"), Question("year"))
    (row,), _ = encode_conversation(tokenizer, replace(CONVERSATION, questions=questions))
    assert row["absent"] == [1, 2]


def test_context_of_the_model_limits_a_question_not_a_row_of_separate_ones(tiny_gpt2):
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    (whole,), _ = encode_conversation(tokenizer, CONVERSATION, max_length=10**6)
    text, questions = split_row(whole)
    context = len(text) + max(map(len, questions))

    def count(attend, context_length):
        rows, rejects = encode_conversation(
            tokenizer, CONVERSATION, context_length=context_length, attend=attend
        )
        return len(rows), len(rejects)

    assert count("question", context) == (1, 0)
    assert count("conversation", context) == (3, 0)
    assert count("question", context - 1) == (1, 1)
    assert count("conversation", context - 1) == (2, 1)


@pytest.mark.parametrize("attend", ["conversation", "question"])
def test_padding_changes_nothing(folder, attend):
    model, tokenizer = load(folder)
    collate = Collator(0, model.config, attend)
    rows = [
        encode_conversation(tokenizer, conversation, attend=attend)[0][0]
        for conversation in (CONVERSATION, SHORT)
    ]
    together = collate(rows)
    assert together["lengths"].tolist() == [len(row["input_ids"]) for row in rows]
    logits = forward(model, together)
    for number, row in enumerate(rows):
        alone = forward(model, collate([row]))[0]
        assert torch.allclose(logits[number, : len(alone)], alone, atol=1e-4)


def forward(model, batch):
    with torch.no_grad():
        return model(
            **{name: batch[name] for name in batch if name not in ("labels", "lengths")}
        ).logits


def test_separate_questions_are_answered_as_if_each_were_asked_alone(folder):
    model, tokenizer = load(folder)
    (row,), _ = encode_conversation(tokenizer, CONVERSATION, template="serve", attend="question")
    logits = forward(model, Collator(0, model.config, "question")([row]))[0]
    for number, question in enumerate(CONVERSATION.questions, start=1):
        prompt = build_prompt(CONVERSATION.text, question.type)
        prompt_ids = encode_pieces(tokenizer, prompt.pieces).ids
        places = [i for i, segment in enumerate(row["segments"]) if segment == number]
        text = [i for i, segment in enumerate(row["segments"]) if segment == 0]
        alone = [row["input_ids"][i] for i in text + places]
        with torch.no_grad():
            expected = model(torch.tensor([alone])).logits[0]
        assert torch.allclose(logits[places], expected[len(text) :], atol=1e-4)
        assert alone[: len(prompt_ids)] == prompt_ids
