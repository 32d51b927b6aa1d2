"""Passages as sentences."""

from __future__ import annotations

import spacy
from hypothesis import given
from hypothesis import strategies as st

from spacy_universalner.data.sentences import split_sentences
from spacy_universalner.ty import Mention, Passage


def make_nlp():
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    return nlp


NLP = make_nlp()


def test_mentions_stand_in_their_sentence_and_nowhere_else():
    text = "Ada met Charles.  They spoke. In Turin, Ada left!"
    labels = {"Ada": "person", "Turin": "city", "spoke. In": "broken"}
    mentions = [
        Mention(at, at + len(name), label, 0.5)
        for name, label in labels.items()
        for at in range(len(text))
        if text.startswith(name, at)
    ]
    first, second, third = split_sentences([Passage("a", text, tuple(mentions))], NLP)
    assert first == Passage("a-1", "Ada met Charles.", (Mention(0, 3, "person", 0.5),))
    assert second.text.strip() == "They spoke."
    assert second.mentions == ()
    assert third.text == "In Turin, Ada left!"
    found = {(third.text[m.start : m.end], m.label) for m in third.mentions}
    assert found == {("Ada", "person"), ("Turin", "city")}


@given(
    st.lists(st.lists(st.sampled_from(["Ada", "saw", "Turin", "x."]), max_size=12), max_size=3),
    st.data(),
)
def test_mentions_are_the_same_strings_in_the_same_order(passages, data):
    made = []
    for number, words in enumerate(passages):
        text = " ".join(words)
        starts = [len(" ".join(words[:i])) + bool(i) for i in range(len(words))]
        spans = [(start, start + len(word)) for start, word in zip(starts, words, strict=True)]
        chosen = data.draw(st.lists(st.sampled_from(spans), max_size=5)) if spans else []
        mentions = tuple(Mention(*span, "type") for span in sorted(chosen))
        made.append(Passage(f"{number}", text, mentions))
    sentences = list(split_sentences(made, NLP))

    def strings(several):
        return [each.text[m.start : m.end] for each in several for m in each.mentions]

    assert strings(sentences) == strings(made)
    ids = [sentence.id for sentence in sentences]
    assert len(set(ids)) == len(ids)
