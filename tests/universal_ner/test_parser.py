import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.ty import Answer, Reject
from spacy_universalner.universal_ner.parser import (
    CUT_OFF,
    EMPTY,
    NO_LIST,
    NOT_A_LIST,
    NOT_A_STRING,
    REPEATED,
    item_score,
    parse_list,
    parse_object,
    parse_strict,
)
from spacy_universalner.universal_ner.prompt import format_answer

STRINGS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), unique=True)


@pytest.mark.parametrize(
    "answer,strings,rejects",
    [
        ("[]", [], []),
        ('["a", "b"]', ["a", "b"], []),
        ('Sure! Here it is: ["a"]. Anything else?', ["a"], []),
        ('```json\n["a",\n "b"]\n```', ["a", "b"], []),
        ("['a', 'b']", ["a", "b"], []),
        ("['O'Brien', 'it\\'s']", ["O'Brien", "it's"], []),
        ("[\u201ca\u201d, \u201cb\u201d]", ["a", "b"], []),
        ('["New\nYork"]', ["New\nYork"], []),
        ('["a [b]", "]"]', ["a [b]", "]"], []),
        ('["the "Big" one", "b"]', ['the "Big" one', "b"], []),
        ('["a" "b"]', ["a", "b"], []),
        ('["a", "b",]', ["a", "b"], []),
        ('As in [1], [see there]: ["a"]', ["a"], []),
        ("[a, b]", [], [Reject("a", NOT_A_STRING), Reject("b", NOT_A_STRING)]),
        ('["\\u00e9\\t\\"", "\\d"]', ['\u00e9\t"', "d"], []),
        ('["a", "b', ["a"], [Reject('"b', CUT_OFF)]),
        ('["a", "b"', ["a", "b"], [Reject("", CUT_OFF)]),
        ('["a", nul', ["a"], [Reject("nul", CUT_OFF)]),
        ('```\n["a", "b\n```', ["a"], [Reject('"b', CUT_OFF)]),
        ("[", [], [Reject("", CUT_OFF)]),
        (
            '[1, "a", null, ["b", "]"], {"c": "d, e"}, f g]',
            ["a"],
            [
                Reject(item, NOT_A_STRING)
                for item in ("1", "null", '["b", "]"]', '{"c": "d, e"}', "f g")
            ],
        ),
        (
            '["a", "", " ", "a"]',
            ["a"],
            [Reject("", EMPTY), Reject(" ", EMPTY), Reject("a", REPEATED)],
        ),
        ("", [], [Reject("", NO_LIST)]),
        (" None. ", [], [Reject("None.", NO_LIST)]),
        ('["\\ud83d"]', ["?"], []),  # half of a surrogate pair
    ],
)
def test_tolerant_reading(answer, strings, rejects):
    items, refused = parse_list(answer)
    assert [item.text for item in items] == strings
    assert refused == rejects


@given(STRINGS)
def test_what_a_model_is_trained_to_write_is_read_exactly(strings):
    for answer in (format_answer(strings), json.dumps(strings), f"Well: {json.dumps(strings)}!"):
        items, rejects = parse_list(answer)
        assert [item.text for item in items] == [string for string in strings if string.strip()]
        assert len(rejects) == sum(not string.strip() for string in strings)
        for item in items:
            assert answer[item.start - 1] == answer[item.end] == '"'
            assert json.loads(answer[item.start - 1 : item.end + 1]) == item.text


@given(st.text(st.sampled_from("[]{}()\"'`\\,: \nab1\u201c\u201d"), max_size=30))
def test_any_answer_can_be_read(answer):
    for items, rejects in (parse_list(answer), parse_object(answer)):
        assert all(isinstance(reject, Reject) for reject in rejects)
        assert items or rejects or {"[", "{"} & set(answer)
    for item in parse_list(answer)[0]:
        assert 0 < item.start <= item.end <= len(answer)


@given(STRINGS, st.data())
def test_cut_off_anywhere_keeps_what_was_complete(strings, data):
    answer = format_answer(strings)
    cut = data.draw(st.integers(1, len(answer) - 1))
    items, rejects = parse_list(answer[:cut])
    complete = [string for string in strings if string.strip()]
    assert [item.text for item in items][: len(items) - 1] == complete[: len(items)][:-1]
    assert CUT_OFF in {reject.reason for reject in rejects}


@pytest.mark.parametrize(
    "answer,found,rejects",
    [
        ('{"person": ["a", "b"], "place": []}', [("person", "a"), ("person", "b")], []),
        ('```json\n{"person": ["a"]}\n```', [("person", "a")], []),
        ("{'person': ['a'], 'place': ['a']}", [("person", "a"), ("place", "a")], []),
        ('{"person": ["a"], "place": ["b', [("person", "a")], [Reject('"b', CUT_OFF)]),
        ('{"person": "a", "x": ["b"]}', [("x", "b")], [Reject('"a"', NOT_A_LIST)]),
        ("[]", [], [Reject("[]", NO_LIST)]),
        ("{}", [], []),
    ],
)
def test_reading_all_types_at_once(answer, found, rejects):
    items, refused = parse_object(answer)
    assert [(type, item.text) for type, item in items] == found
    assert refused == rejects


@pytest.mark.parametrize(
    "answer,strings",
    [
        ('["a", "b", "a"]', ["a", "b", "a"]),
        ('["a"] and more', ["a"]),
        ('["a [b]"]', []),  # up to the first closing bracket
        (' ["a"]', []),  # from the very start
        ("['a']", []),
        ('["a",\n"b"]', []),
        ('["a", 1]', []),
        ('[["a"]]', []),
        ("none", []),
        ("", []),
        ("[]", []),
    ],
)
def test_the_released_evaluators_reading(answer, strings):
    assert parse_strict(answer) == strings


def test_score_is_the_mean_over_the_strings_own_tokens():
    #        ["    |A|nn|a"|, "  |Bo|"]
    text = '["Anna", "Bo"]'
    answer = Answer(text, ends=(2, 3, 5, 7, 10, 12, 14), logprobs=(-9, -1, -2, -3, -9, -0.5, -9))
    anna, bo = parse_list(text)[0]
    assert item_score(anna, answer) == pytest.approx(math.exp(-2))
    assert item_score(bo, answer) == pytest.approx(math.exp(-0.5))


def test_no_score_without_tokens():
    (item,), _ = parse_list('["a"]')
    assert item_score(item, Answer('["a"]')) is None
