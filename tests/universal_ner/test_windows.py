import re
from itertools import pairwise

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from spacy_universalner.universal_ner.tokenization import encode_plain
from spacy_universalner.universal_ner.windows import Window, cover, plan_windows

NLP = spacy.blank("en")
SENTENCES = spacy.blank("en")
SENTENCES.add_pipe("sentencizer")


def words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


def texts(text: str, windows: list[Window]) -> list[str]:
    return [text[window.start : window.end] for window in windows]


def test_a_text_that_fits_is_one_window():
    assert plan_windows(" a b ", words(" a b "), 2, 1) == [Window(0, 5)]
    assert plan_windows("  ", [], 2, 1) == []


def test_windows_share_the_stride():
    text = "a b c d e f g"
    windows = plan_windows(text, words(text), 4, 2)
    assert texts(text, windows) == ["a b c d", "c d e f", "e f g"]
    assert [(w.cut_start, w.cut_end) for w in windows] == [
        (False, True),
        (True, True),
        (True, False),
    ]


def test_windows_end_and_start_with_sentences():
    doc = SENTENCES("One two. Three four five. Six. Seven eight nine. Ten.")
    windows = cover(doc, 10, 4)
    assert texts(doc.text, windows) == [
        "One two. Three four five. Six.",
        "Six. Seven eight nine. Ten.",
    ]
    assert not any(window.cut_start or window.cut_end for window in windows)


def test_a_sentence_longer_than_the_window_is_cut_between_words():
    doc = SENTENCES("a b c d e f g h. i j.")
    pieces = [(start, start + 1) for start in range(len(doc.text))]  # tokens of one character
    windows = cover(doc, 6, 2, pieces)
    assert texts(doc.text, windows)[0] == "a b c "
    assert all(doc.text[w.start] != " " for w in windows)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2", "tiny_neox", "tiny_bert"])
def test_windows_start_with_sentences_in_tokens_that_begin_with_a_space(family, request):
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(family))
    doc = SENTENCES("It rains. Marie Curie was born. Pierre Curie was not. Ada met her. " * 8)
    offsets = [(start, end) for _, start, end in encode_plain(tokenizer, doc.text)]
    windows = cover(doc, 60, 12, offsets)
    assert len(windows) > 2
    starts = {sentence.start_char for sentence in doc.sents}
    assert {window.start for window in windows} <= starts
    assert all(text.rstrip().endswith(".") for text in texts(doc.text, windows))
    assert not any(window.cut_start or window.cut_end for window in windows)


def test_blank_and_empty_documents_have_no_windows():
    assert cover(NLP(""), 4, 1) == cover(NLP(" \n"), 4, 1) == []


@pytest.mark.parametrize("size,stride", [(4, 4), (4, 5), (4, -1)])
def test_a_stride_out_of_range_is_refused(size, stride):
    with pytest.raises(ValueError, match=f"between 0 and the window, {size}: got {stride}"):
        plan_windows("a", [(0, 1)], size, stride)


@given(
    st.text(st.sampled_from("ab \n.\u0130\U0001f600"), max_size=60),
    st.integers(2, 9),
    st.integers(0, 8),
    st.booleans(),
)
def test_every_token_stands_in_a_window_and_none_is_too_long(text, size, stride, sentences):
    doc = (SENTENCES if sentences else NLP)(text)
    pieces = [(start, start + 1) for start in range(len(text)) if not text[start].isspace()]
    windows = cover(doc, size, stride, pieces)
    for start, end in pieces:
        assert any(window.start <= start and end <= window.end for window in windows)
    starts = [window.start for window in windows]
    assert starts == sorted(set(starts))
    if len(windows) > 1:
        for window in windows:
            inside = [piece for piece in pieces if window.start <= piece[0] < window.end]
            assert 0 < len(inside) <= size
        for one, two in pairwise(windows):
            shared = [piece for piece in pieces if two.start <= piece[0] < one.end]
            assert len(shared) <= min(stride, (size - 1) // 2)
