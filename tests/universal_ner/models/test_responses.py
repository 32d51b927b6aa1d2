"""What a response of a server says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.ty import Answer
from spacy_universalner.universal_ner.models.responses import read_response


@pytest.mark.parametrize(
    "text,finish,expected",
    [
        ('["a", "b', "length", Answer('["a", "b', complete=False)),
        ('["a"]', "length", Answer('["a"]')),
        ('["a", "b', "stop", Answer('["a", "b')),
        # A bracket in a remark is not the answer's list.
        ('As [1] says: ["a"]', "stop", Answer('As [1] says: ["a"]')),
        ('{"person": ["a"], "city": []}.', "stop", Answer('{"person": ["a"], "city": []}')),
        ("", "stop", Answer("")),
        ("Ada", "content_filter", Answer("Ada", complete=False)),
        (
            " \n",
            "length",
            Answer("", error="the model wrote no text before it was stopped by 'length'"),
        ),
        ("a face \ud83d", "length", Answer("a face ?", complete=False)),
        ("[" * 100_000, "length", Answer("[" * 100_000, complete=False)),
    ],
)
def test_read_response(text, finish, expected):
    response = json.dumps({"choices": [{"text": text, "finish_reason": finish}]})
    assert read_response(response, cut=True) == expected


def test_tokens_of_the_completions_form():
    logprobs = {"tokens": [' ["', "Rhine", '"]', "</s>"], "token_logprobs": [-1, -0.5, -0.25, -2]}
    choice = {"text": ' ["Rhine"]', "finish_reason": "stop", "logprobs": logprobs}
    got = read_response(json.dumps({"choices": [choice]}), cut=True)
    assert got == Answer(' ["Rhine"]', ends=(3, 8, 10), logprobs=(-1, -0.5, -0.25))


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        [],
        {},
        {"content": None},
        {"content": []},
        {"content": [{"token": "[]"}]},
        {"content": [{"token": "[]", "logprob": None}]},
        {"content": [{"token": "other", "logprob": -1, "bytes": None}]},
        {"tokens": ["[]"], "token_logprobs": [None]},
        {"tokens": ["[]"], "token_logprobs": []},
    ],
)
def test_log_probabilities_that_cannot_be_used_are_left_out(logprobs):
    choice = {"text": "[]", "finish_reason": "stop", "logprobs": logprobs}
    assert read_response(json.dumps({"choices": [choice]}), cut=True) == Answer("[]")


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.data())
def test_tokens_may_split_characters(text, data):
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    parts = [raw[i:j] for i, j in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    tokens = [
        {"token": part.decode(errors="replace"), "bytes": list(part), "logprob": -float(i)}
        for i, part in enumerate(parts)
    ]
    choice = {"message": {"content": text}, "logprobs": {"content": tokens}}
    got = read_response(json.dumps({"choices": [choice]}), cut=False)
    assert got.text == text
    # The offset after the last whole character, and no tokens behind the text's end.
    known = [len(raw[:end].decode(errors="ignore")) for end in [*cuts, len(raw)]]
    used = next(i for i, end in enumerate([0, *known]) if end == len(text))
    assert got.ends == tuple(known[:used])
    assert got.logprobs == tuple(-float(i) for i in range(used))
