"""Alignment of wordpieces and tokens, windows, batches: exact values and properties."""

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.vocab import Vocab
from transformers import AutoTokenizer

from spacy_universalner.nuner.windows import Window, batch_windows, plan_windows, tokenize

VOCAB = Vocab()


@pytest.fixture(scope="module")
def wordpieces(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert).backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def spell(pieces, tokenizer):
    """For each token what its wordpieces spell."""
    words = [tokenizer.id_to_token(i).removeprefix("##") for i in pieces.ids]
    return ["".join(words[a:b]) for a, b in zip(pieces.first, pieces.last, strict=True)]


def test_tokens_get_the_wordpieces_they_share_a_character_with(wordpieces):
    doc = spacy.blank("en")("Marie won\n\nthe zzé")
    (pieces,) = tokenize([doc], wordpieces)
    assert [token.text for token in doc] == ["Marie", "won", "\n\n", "the", "zzé"]
    assert spell(pieces, wordpieces) == ["marie", "won", "", "the", "zze"]


def test_a_wordpiece_over_several_tokens_belongs_to_each(wordpieces):
    doc = Doc(VOCAB, words=["Mar", "ie", "won"], spaces=[False, True, False])
    (pieces,) = tokenize([doc], wordpieces)
    assert spell(pieces, wordpieces) == ["marie", "marie", "won"]


def test_empty_document_has_no_wordpieces(wordpieces):
    (pieces,) = tokenize([spacy.blank("en")("")], wordpieces)
    assert [len(pieces.ids), len(pieces.first), len(pieces.last)] == [0, 0, 0]


def test_short_texts_are_one_window():
    assert list(plan_windows(5, window=5, stride=2, doc=3)) == [Window(3, 0, 5, 0, 5)]
    assert list(plan_windows(0, window=5, stride=2)) == []


def test_long_texts_are_overlapping_windows():
    assert list(plan_windows(20, window=10, stride=4)) == [
        Window(0, 0, 10, 0, 8),
        Window(0, 6, 16, 8, 14),
        Window(0, 12, 20, 14, 20),
    ]


def test_cores_end_where_sentences_do():
    assert list(plan_windows(20, window=10, stride=4, sentences=[0, 6, 8, 13])) == [
        Window(0, 0, 10, 0, 8),
        Window(0, 6, 15, 8, 13),
        Window(0, 11, 20, 13, 20),
    ]


def test_a_sentence_that_started_long_ago_is_split():
    assert list(plan_windows(20, window=10, stride=4, sentences=[0, 3])) == list(
        plan_windows(20, window=10, stride=4)
    )


@given(
    n_pieces=st.integers(0, 300),
    window=st.integers(1, 40),
    data=st.data(),
)
def test_cores_tile_the_document_inside_their_windows(n_pieces, window, data):
    stride = data.draw(st.integers(0, window - 1))
    sentences = data.draw(st.lists(st.integers(0, n_pieces), unique=True).map(sorted))
    windows = list(plan_windows(n_pieces, window, stride, sentences))
    assert [i for w in windows for i in range(w.core_start, w.core_end)] == list(range(n_pieces))
    for w in windows:
        assert 0 <= w.start <= w.core_start < w.core_end <= w.end <= n_pieces
        assert len(w) <= window
        # A core's edge has its half of the overlap as context, unless the document ends there.
        assert w.core_start - w.start == min(stride // 2, w.core_start)
        assert w.end - w.core_end == min(stride // 2, n_pieces - w.core_end)


@given(lengths=st.lists(st.integers(1, 50), max_size=30), budget=st.integers(1, 200))
def test_batches_hold_every_window_once_within_the_budget(lengths, budget):
    windows = [Window(i, 0, length, 0, length) for i, length in enumerate(lengths)]
    batches = list(batch_windows(windows, budget))
    assert sorted(w.doc for batch in batches for w in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(map(len, batch)) * len(batch) <= budget
    assert [len(w) for batch in batches for w in batch] == sorted(lengths)


@given(
    words=st.lists(st.text(min_size=1, max_size=5).filter(lambda w: not w.isspace()), max_size=8),
    data=st.data(),
)
def test_tokens_wordpieces_are_ordered_and_whole(wordpieces, words, data):
    spaces = data.draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words)))
    doc = Doc(VOCAB, words=words, spaces=spaces)
    (pieces,) = tokenize([doc], wordpieces)
    assert len(pieces.first) == len(pieces.last) == len(doc)
    assert np.all(pieces.first <= pieces.last)
    covered = {i for a, b in zip(pieces.first, pieces.last, strict=True) for i in range(a, b)}
    assert covered == set(range(len(pieces.ids)))
