import unicodedata
from itertools import pairwise, permutations

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.alignment import (
    INSIDE_WORD,
    NOT_IN_TEXT,
    OFF_TOKENS,
    find_occurrences,
    locate,
    resolve,
    to_spans,
)
from spacy_universalner.scores import get_score, register, set_score
from spacy_universalner.ty import Extraction, Mention, Reject

NLP = spacy.blank("en")
# Letters whose case or composition has another length, and whatever else hypothesis finds
TRICKY = st.text(
    st.sampled_from(
        "aA\u0130\u0131\u00df\u1e9e\ufb01\u00e9\u00c9e\u0301\u0327\u0149\u01f0\u0390 \u0345\n\t"
        "'\u2019\u2013-.\u00ad\u200b\u212a"
    ),
    max_size=12,
)
TEXTS = st.one_of(TRICKY, st.text(max_size=12))


def found(text: str, string: str, **settings) -> list[str]:
    return [text[start:end] for start, end in find_occurrences(text, string, **settings)]


def test_all_occurrences_from_left_to_right():
    text = "Paris met Paris in Paris, not Parisians."
    assert find_occurrences(text, "Paris") == [(0, 5), (10, 15), (19, 24)]
    assert find_occurrences(text, "Paris", occurrences="first") == [(0, 5)]
    assert find_occurrences(text, "London") == []


@pytest.mark.parametrize("string", ["", " ", "\n"])
def test_nothing_stands_nowhere(string):
    assert find_occurrences("a b", string) == []


@pytest.mark.parametrize(
    "text,string,expected",
    [
        ("The cat concatenates.", "cat", ["cat"]),
        ("concatenates", "cat", []),
        ("U.S.-based", "U.S.", ["U.S."]),
        ("10mg", "10", []),
        ("C++11 and C++", "C++", ["C++", "C++"]),
        ("snake_case", "snake", []),
        ("cafe\u0301", "cafe", []),  # the accent belongs to the word
        ("北京大学在北京", "北京", ["北京", "北京"]),  # no spaces between words
        ("ロシアのプーチン", "ロシア", ["ロシア"]),
        ("aaa aa", "aa", ["aa"]),
    ],
)
def test_places_start_and_end_at_words(text, string, expected):
    assert found(text, string) == expected


def test_inside_of_words_if_asked():
    assert found("concatenates", "cat", word_boundary=False) == ["cat"]
    assert find_occurrences("aaaa", "aa", word_boundary=False) == [(0, 2), (2, 4)]


@pytest.mark.parametrize(
    "text,string,expected",
    [
        ("In New\n  York now", "New York", ["New\n  York"]),
        ("in new york, NEW YORK", "New York", ["new york", "NEW YORK"]),
        ("New  York, new york", "New York", ["New  York"]),  # white space before case
        ("İstanbul and istanbul", "ISTANBUL", ["İstanbul", "istanbul"]),
        ("x İ y", "i̇", ["İ"]),
        ("Straße STRASSE", "strasse", ["Straße", "STRASSE"]),
        ("Cafe\u0301 Müller", "Café", ["Cafe\u0301"]),
        ("Beyoncé", "Beyonce", ["Beyoncé"]),
        ("O\u2019Neill\u2013Smith", "O'Neill-Smith", ["O\u2019Neill\u2013Smith"]),
        ("\u201cThe Wire\u201d", '"The Wire"', ["\u201cThe Wire\u201d"]),
        ("soft\u00adhyphen", "softhyphen", ["soft\u00adhyphen"]),
        ("ﬁx", "f", []),  # half of a ligature
        ("2 \u2009km", "2 km", ["2 \u2009km"]),
        ("K", "k", ["K"]),  # the Kelvin sign
    ],
)
def test_tolerant_search_keeps_original_offsets(text, string, expected):
    assert found(text, string) == []
    assert found(text, string, tolerant=True) == expected


def test_exact_places_win_over_folded_ones():
    assert found("us and US", "US", tolerant=True) == ["US"]


def test_other_white_space_is_the_same_string():
    text = "New\nYork, NEW YORK and New York"
    assert found(text, "New York", tolerant=True) == ["New\nYork", "New York"]
    assert find_occurrences(text, "New York", occurrences="first", tolerant=True) == [(0, 8)]


@given(TEXTS, TEXTS, TEXTS, st.booleans())
def test_whatever_stands_in_a_text_is_found_there(before, string, after, tolerant):
    text = before + string + after
    places = find_occurrences(text, string, tolerant=tolerant, word_boundary=False)
    assert bool(places) == bool(string.strip())
    for start, end in places:
        assert text[start:end] == string.strip()
    assert all(end <= start for (_, end), (start, _) in pairwise(places))


@given(TEXTS, TEXTS)
def test_folding_never_shifts_offsets(text, string):
    for start, end in find_occurrences(text, string, tolerant=True):
        assert 0 <= start < end <= len(text)
        # The place folds back to what was looked for
        assert find_occurrences(text[start:end], string, tolerant=True) == [(0, end - start)]


@given(st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=6))
def test_case_and_composition_do_not_matter(string):
    for variant in (string.upper(), string.lower(), unicodedata.normalize("NFD", string)):
        text = f"\n{variant}\n"
        if string.upper().casefold() == string.casefold():  # not so for a few symbols
            assert found(text, string, tolerant=True) == [variant]


def test_locate_takes_exact_matches_and_lists_the_rest():
    mentions, rejects = locate(
        "Ana met Bo; Bo met Annabel.",
        [
            Extraction("Bo", "person"),
            Extraction("Ana", "person"),
            Extraction("Bo", "person"),
            Extraction("Bo", "dog"),
            Extraction("Anna", "person"),
            Extraction("ana", "person"),
        ],
    )
    assert mentions == [
        Mention(0, 3, "person"),
        Mention(8, 10, "dog"),
        Mention(8, 10, "person"),
        Mention(12, 14, "dog"),
        Mention(12, 14, "person"),
    ]
    assert rejects == [Reject("Anna", INSIDE_WORD), Reject("ana", NOT_IN_TEXT)]


@pytest.mark.parametrize(
    "mode,expected", [("strict", []), ("contract", ["Bank"]), ("expand", ["U.S.-led Bank"])]
)
def test_alignment_modes(mode, expected):
    doc = NLP("The U.S.-led Bank")  # "U.S.-led" is one token
    assert [token.text for token in doc] == ["The", "U.S.-led", "Bank"]
    spans, rejects = to_spans(doc, [Mention(9, 17, "org")], mode)
    assert [span.text for span in spans] == expected
    assert rejects == ([] if expected else [Reject("led Bank", OFF_TOKENS)])


def test_spans_come_sorted_once_and_with_the_best_score():
    register()
    doc = NLP("Ana met Bo")
    mentions = [
        Mention(8, 10, "person", 0.5),
        Mention(0, 3, "person", 0.4),
        Mention(8, 10, "person", 0.75),
        Mention(8, 10, "dog"),
        Mention(8, 10, "person"),
    ]
    spans, rejects = to_spans(doc, mentions)
    assert [(s.text, s.label_, s._.score) for s in spans] == [
        ("Ana", "person", 0.4),
        ("Bo", "dog", None),
        ("Bo", "person", 0.75),
    ]
    assert rejects == []


def test_scores_of_one_place_differ_by_label_and_travel_with_the_document():
    register()
    doc = NLP("Ana met Bo")
    doc.spans["x"], _ = to_spans(doc, [Mention(8, 10, "a", 0.25), Mention(8, 10, "b", 0.5)])
    copies = [
        doc,
        spacy.tokens.Doc(doc.vocab).from_bytes(doc.to_bytes()),
        spacy.tokens.Doc.from_docs([NLP("Before it."), doc]),
    ]
    for copy in copies:
        assert [span._.score for span in copy.spans["x"]] == [0.25, 0.5]
    part = doc[1:].as_doc(copy_user_data=True)
    assert get_score(part.char_span(4, 6, label="b")) == 0.5


def make_spans(doc, *spans):
    for start, end, label, score in spans:
        span = doc[start:end]
        span.label_ = label
        if score is not None:
            set_score(span, score)
        yield span


@pytest.mark.parametrize(
    "conflict,expected",
    [
        ("longest", [(0, 4, "c"), (5, 6, "a")]),
        ("score", [(0, 1, "a"), (1, 3, "b"), (5, 6, "b")]),
        ("label_order", [(0, 1, "a"), (1, 3, "b"), (5, 6, "b")]),
    ],
)
def test_conflicts_resolve_by_policy_whatever_the_order(conflict, expected):
    doc = NLP("0 1 2 3 4 5 6")
    spans = list(
        make_spans(
            doc,
            (0, 4, "c", 0.1),
            (1, 3, "b", 0.5),
            (0, 1, "a", 0.9),
            (5, 6, "b", 0.75),
            (5, 6, "a", 0.75 if conflict == "longest" else 0.5),
        )
    )
    for order in permutations(spans):
        chosen = resolve(order, conflict, labels=["b", "a", "c"])
        assert [(span.start, span.end, span.label_) for span in chosen] == expected


def test_taken_tokens_are_not_to_be_had():
    doc = NLP("0 1 2 3 4")
    spans = list(make_spans(doc, (0, 2, "a", None), (2, 4, "a", None)))
    assert resolve(spans, taken=[doc[1:2]]) == [spans[1]]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.sampled_from("ab")), max_size=8),
    st.sampled_from(["longest", "score", "label_order"]),
)
def test_resolved_spans_never_overlap_and_leave_no_room(places, conflict):
    doc = NLP("0 1 2 3 4 5 6 7 8 9 10")
    spans = list(make_spans(doc, *((s, s + n, label, n / 4) for s, n, label in places)))
    chosen = resolve(spans, conflict, labels=["b", "a"])
    doc.ents = chosen  # raises on overlap
    taken = {i for span in chosen for i in range(span.start, span.end)}
    assert all(taken & set(range(span.start, span.end)) for span in spans)
    assert resolve(chosen, conflict, labels=["b", "a"]) == chosen
