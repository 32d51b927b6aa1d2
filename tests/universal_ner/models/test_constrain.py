"""Lists of strings that stand in the text, whatever the model would rather write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from spacy_universalner.alignment import find_occurrences
from spacy_universalner.universal_ner.models.constrain import (
    DONE,
    FromText,
    Source,
    State,
    read_source,
    read_vocabulary,
)
from spacy_universalner.universal_ner.models.hf import make_hf_model
from spacy_universalner.universal_ner.models.spelling import respell, spell
from spacy_universalner.universal_ner.parser import parse_list, parse_object
from spacy_universalner.universal_ner.prompt import build_prompts, format_answer
from spacy_universalner.universal_ner.questions import Questions
from spacy_universalner.universal_ner.tokenization import encode_plain

FAMILIES = ["tiny_llama", "tiny_gpt2", "tiny_bert"]
DECODERS = ["tiny_llama", "tiny_gpt2", "tiny_neox", "tiny_bert_decoder"]
TEXT = 'Zoë\'s "Big-Apple" Inc. 🙂 hired A\\B, Cat and\ncatfish in 1903.'

texts = st.text(alphabet=st.sampled_from("ab Az-é🙂\"\\,[]\n'1語e\u0301"), max_size=25) | st.text(
    max_size=15
)


def read(tokenizer: PreTrainedTokenizerFast, ids: list[int], text: str) -> str:
    lossy = "##a" in tokenizer.get_vocab()
    return respell(tokenizer, ids, text)[0] if lossy else spell(tokenizer, ids)[0]


def write(source: Source, choices: list[int]) -> list[int]:
    """Write an answer to its end, at each token the chosen one of those allowed."""
    state, ids = source.start, []
    for choice in choices:
        allowed = source.allowed(state)
        assert allowed, "a dead end"
        ids.append(allowed[choice % len(allowed)])
        following = source.follow(state, ids[-1])
        assert following is not None
        state = following
        if state.phase == DONE:
            break
    assume(state.phase == DONE)
    return ids


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts, choices=st.lists(st.integers(0, 10**6), min_size=60, max_size=60))
# Words behind the last place where a string may end.
@example(text="1[\u0301", choices=[0, 0, 1] * 20)
@example(text="1[\u0301", choices=[0, 0, 0] * 20)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_chosen_every_string_stands_in_the_text(
    family: str, request: pytest.FixtureRequest, text: str, choices: list[int]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(family))
    source = read_source(tokenizer, text)
    ids = write(source, choices)
    for string in json.loads(read(tokenizer, ids, text)):
        assert find_occurrences(text, string), (string, text)


@pytest.mark.parametrize("family", FAMILIES)
@given(
    text=texts,
    keys=st.lists(texts, min_size=1, max_size=3, unique=True).map(tuple),
    choices=st.lists(st.integers(0, 10**6), min_size=200, max_size=200),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_chosen_all_types_are_listed_in_the_order_asked(
    family: str,
    request: pytest.FixtureRequest,
    text: str,
    keys: tuple[str, ...],
    choices: list[int],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(family))
    source = read_source(tokenizer, text, keys)
    ids = write(source, choices)
    if "##a" in tokenizer.get_vocab():
        answer = json.loads(respell(tokenizer, ids, text, keys)[0])
        # Keys that the tokenizer cannot tell apart fall together.
        assert len(answer) <= len(keys)
    else:
        answer = json.loads(spell(tokenizer, ids)[0])
        assert tuple(answer) == keys
    for strings in answer.values():
        for string in strings:
            assert find_occurrences(text, string), (string, text)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_list_of_the_texts_words_can_be_written(
    family: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(family))
    source = read_source(tokenizer, TEXT)
    strings = ["Zoë", '"Big-Apple" Inc', "A\\B", "🙂 hired", "Cat and", "1903"]
    for answer in (format_answer(strings), format_answer([]), format_answer(["Cat"])):
        state = source.start
        ids = [id for id, _, _ in encode_plain(tokenizer, answer)]
        for id in ids:
            assert id in source.allowed(state), (tokenizer.convert_ids_to_tokens(id), state)
            state = source.follow(state, id)
        assert state.phase == DONE
        assert json.loads(read(tokenizer, ids, TEXT)) == json.loads(answer)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_object_of_the_types_asked_for_can_be_written(
    family: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(family))
    # One is written otherwise in the text, one has quotes of its own.
    keys = ("CAT", 'the "big" one', "Größe", "[SEP]")
    found = {"CAT": ["Cat", "catfish"], 'the "big" one': [], "Größe": ["🙂"], "[SEP]": ["1903"]}
    source = read_source(tokenizer, TEXT, keys)
    state, answer = source.start, json.dumps(found, ensure_ascii=False)
    ids = [id for id, _, _ in encode_plain(tokenizer, answer)]
    for id in ids:
        assert id in source.allowed(state), (tokenizer.convert_ids_to_tokens(id), state)
        state = source.follow(state, id)
    assert state.phase == DONE
    if "##a" in tokenizer.get_vocab():
        written, ends = respell(tokenizer, ids, TEXT, keys)
        assert ends[-1] == len(written) and ends == sorted(ends)
    else:
        written = spell(tokenizer, ids)[0]
    assert json.loads(written) == found


@pytest.mark.parametrize(
    "answer",
    [
        '["Bob"]',  # not in the text
        '["cat"]',  # only inside a word, or in other case
        '["fish"]',
        '[""]',
        '["Cat ", "1903"]',  # a string ends with a word
        "[Cat]",
        '{"Cat"}',
        '["Cat" "1903"]',
        '["Cat",]',
        'The list: ["Cat"]',
    ],
)
def test_nothing_else_can_be_written(tiny_gpt2: Path, answer: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    source = read_source(tokenizer, TEXT)
    state: State | None = source.start
    for id, _, _ in encode_plain(tokenizer, answer):
        allowed = source.allowed(state)
        following = source.follow(state, id)
        assert (id in allowed) == (following is not None)
        if following is None:
            return
        state = following
    pytest.fail(f"{answer} could be written")


@pytest.mark.parametrize("family", DECODERS)
def test_a_constrained_model_answers_with_strings_of_the_text(
    family: str, request: pytest.FixtureRequest
) -> None:
    model = make_hf_model(str(request.getfixturevalue(family)), max_new_tokens=40, constrain="text")
    texts = ["Marie Curie won the Nobel Prize in Paris.", TEXT, "", "Curie"]
    asked = [build_prompts(text, ["person", "date", "city"]) for text in texts]
    for text, answers in zip(texts, model.answer(asked), strict=True):
        for answer in answers:
            if answer.complete:
                assert isinstance(json.loads(answer.text), list)
            items, _ = parse_list(answer.text)
            assert all(find_occurrences(text, item.text) for item in items)
            assert len(answer.logprobs) == len(answer.ends) > 0


@pytest.mark.parametrize("family", DECODERS)
def test_a_constrained_model_lists_all_types_at_once(
    family: str, request: pytest.FixtureRequest
) -> None:
    model = make_hf_model(str(request.getfixturevalue(family)), max_new_tokens=80, constrain="text")
    texts = ["Marie Curie won the Nobel Prize in Paris.", TEXT, "", "Curie"]
    keys = ["person", "Curie", "city"]
    asked = [build_prompts(text, keys, template="all_in_one") for text in texts]
    for text, (answer,) in zip(texts, model.answer(asked), strict=True):
        if answer.complete:
            assert list(json.loads(answer.text)) == keys
        for type, item in parse_object(answer.text)[0]:
            assert type in keys
            assert find_occurrences(text, item.text)
        assert len(answer.logprobs) == len(answer.ends) > 0


def test_prompts_that_no_list_answers_are_refused(tiny_gpt2: Path) -> None:
    model = make_hf_model(str(tiny_gpt2), max_new_tokens=5, constrain="text")
    with pytest.raises(ValueError, match="answered by lists of strings"):
        list(model.answer([["What is NER?"]]))
    with pytest.raises(ValueError, match="answered by lists of strings"):
        list(model.answer([Questions(None).prompts("Ada met Mary.")]))


def test_a_list_that_cannot_go_on_ends(tiny_gpt2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    listener = FromText(read_source(tokenizer, "Cat"), end_id=0)
    bracket = next(id for id, _, _ in encode_plain(tokenizer, "["))
    assert bracket in listener.allowed()
    assert not listener.push(bracket)
    assert read_vocabulary(tokenizer).tokens[bracket] == b"["
    closing = next(id for id, _, _ in encode_plain(tokenizer, "]"))
    assert listener.push(closing)
    assert listener.allowed() == [0]
