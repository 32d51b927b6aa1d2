from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.data.annotation.parsing import parse_nuner, parse_uniner, read_strings
from spacy_universalner.ty import Extraction, Reject

ADA, ROME = Extraction("Ada", "person"), Extraction("Rome", "city")
WORDS = st.text(min_size=1).map(str.strip).filter(bool)


def pairs(response: str) -> list[tuple[str, str]]:
    return [(found.text, found.label) for found in parse_uniner(response)[0]]


@pytest.mark.parametrize(
    "response, expected",
    [
        ("Ada <> person <> a human", [Extraction("Ada", "person", "a human")]),
        ("Ada<>person", [ADA]),
        ("\n Ada <> person <> \n\n", [ADA]),
        ("a <> b <> c <> d", [Extraction("a", "b", "c <> d")]),
        ("- Ada <> person\n- Rome <> city", [ADA, ROME]),
        ("1. Ada <> person\n2) Rome <> city", [ADA, ROME]),
        # A bullet on one line only belongs to its entity.
        ("1. FC Köln <> club\nRome <> city", [Extraction("1. FC Köln", "club"), ROME]),
        ("", []),
    ],
)
def test_lines_of_nuner(response: str, expected: list[Extraction]) -> None:
    assert parse_nuner(response) == (expected, [])


@pytest.mark.parametrize(
    "response, text, entities",
    [
        ("1. FC Köln <> club", "1. FC Köln won.", ["1. FC Köln"]),
        ("1. Ada <> person", "Ada won.", ["Ada"]),
        (
            "1. FC Köln <> club\n1. FC Bonn <> club",
            "1. FC Köln, 1. FC Bonn",
            ["1. FC Köln", "1. FC Bonn"],
        ),
        # Counted lines are a list, and so are dashed ones, whatever the text looks like.
        ("1. Ada <> person\n2. Bob <> person", "1. Ada 2. Bob", ["Ada", "Bob"]),
        ("- Ada <> person", "- Ada won.", ["Ada"]),
    ],
)
def test_a_number_of_the_text_is_no_bullet(response: str, text: str, entities: list[str]) -> None:
    found, rejects = parse_nuner(response, text)
    assert [each.text for each in found] == entities
    assert rejects == []


def test_what_stands_before_a_cut_is_used() -> None:
    assert parse_nuner("Ada <> person\nRome <> ci", cut=True) == (
        [ADA],
        [Reject("Rome <> ci", "cut off")],
    )
    assert parse_uniner('[("Ada", "person"), ("Rome", "ci', cut=True) == (
        [ADA],
        [Reject('("Rome", "ci', "cut off")],
    )
    # Between two pairs nothing is lost but what was not written.
    assert parse_uniner('[("Ada", "person"),', cut=True) == ([ADA], [Reject("", "cut off")])
    # Nor of a list, a line or a remark that has ended.
    assert parse_uniner('[("Ada", "person")]\n\nNote', cut=True) == ([ADA], [])
    assert parse_uniner("[]\n\nNote", cut=True) == ([], [])
    assert parse_nuner("Ada <> person\n", cut=True) == ([ADA], [])
    assert parse_nuner("", cut=True) == parse_uniner("[", cut=True) == ([], [Reject("", "cut off")])
    both = '[("Ada", person), ("Rome", "city"'
    assert parse_uniner(both, cut=True)[1] == [
        Reject('("Ada", person)', "unparseable"),
        Reject('("Rome", "city"', "cut off"),
    ]


@pytest.mark.parametrize("line", ["Ada: person", "<> person", "Ada <>", "Ada <> <> a human"])
def test_lines_that_are_none(line: str) -> None:
    found, rejects = parse_nuner(f"Here you are\n{line}\nRome <> city")
    assert found == [ROME]
    assert rejects == [Reject("Here you are", "unparseable"), Reject(line, "unparseable")]


@pytest.mark.parametrize(
    "response",
    [
        '[("Ada", "person"), ("Rome", "city")]',
        "[('Ada', 'person'), ('Rome', 'city'),]",
        '[["Ada", "person"], ["Rome", "city"]]',
        'Sure! ```python\n[("Ada",\n  "person"),\n ("Rome", "city")]\n``` I found two.',
    ],
)
def test_lists_of_tuples(response: str) -> None:
    assert pairs(response) == [("Ada", "person"), ("Rome", "city")]
    assert parse_uniner(response)[1] == []


@pytest.mark.parametrize(
    "response, expected",
    [
        ("[]", []),
        (r'[("the \"Foo\" band", "band")]', [('the "Foo" band', "band")]),
        ('[("the "Foo" band", "band"), ("a", "b")]', [('the "Foo" band', "band"), ("a", "b")]),
        ("[('O\\'Neil', 'person')]", [("O'Neil", "person")]),
        (r'[("caf\u00e9", "place")]', [("café", "place")]),
        (r'[("Rome", "city \ud83d")]', [("Rome", "city ?")]),
        ('[("a [b]", "c (d)")]', [("a [b]", "c (d)")]),
        ('The list [of tuples]: [("a", "b"), ("c", "d")]', [("a", "b"), ("c", "d")]),
        ('[("a", "b")]\n[("c", "d")] [1]', [("a", "b"), ("c", "d")]),
        (r"[('New\xa0York', 'a\u0301')]", [("New\xa0York", "a\u0301")]),
        ('[("a), (b", "c")]', [("a), (b", "c")]),
    ],
)
def test_quotes_and_brackets(response: str, expected: list[tuple[str, str]]) -> None:
    assert parse_uniner(response) == ([Extraction(*pair) for pair in expected], [])


@pytest.mark.parametrize(
    "response, found, rejected",
    [
        ('[("Ada", "person"), ("Rom', [("Ada", "person")], ['("Rom']),
        ('[("Ada"), ("Rome", "city")]', [("Rome", "city")], ['("Ada")']),
        ('[("a", "b", "c"), ("Rome", "city")]', [("Rome", "city")], ['("a", "b", "c")']),
        ('[("", "x"), ("Rome", "city")]', [("Rome", "city")], ['("", "x")']),
        ("I found nothing.", [], ["I found nothing."]),
    ],
)
def test_what_cannot_be_read_is_handed_back(
    response: str, found: list[tuple[str, str]], rejected: list[str]
) -> None:
    assert pairs(response) == found
    assert parse_uniner(response)[1] == [Reject(item, "unparseable") for item in rejected]


@given(st.lists(st.tuples(WORDS, WORDS)))
def test_lists_as_python_and_json_write_them(expected: list[tuple[str, str]]) -> None:
    as_json = json.dumps(expected)
    assert pairs(as_json) == expected
    assert parse_uniner(as_json)[1] == []
    assert read_strings(as_json) == [word for pair in expected for word in pair]


PRINTABLE = st.text(
    st.characters(codec="utf8", exclude_categories=["C", "Z"]) | st.just(" "), min_size=1
)


@given(st.lists(st.tuples(PRINTABLE.map(str.strip).filter(bool), WORDS.filter(str.isalnum))))
def test_tuples_as_python_prints_them(expected: list[tuple[str, str]]) -> None:
    assert pairs(repr(expected)) == expected


@given(st.text())
def test_any_answer_can_be_read(response: str) -> None:
    for parse in (parse_nuner, parse_uniner):
        for extraction in parse(response)[0]:
            assert extraction.text.strip() and extraction.label.strip()
