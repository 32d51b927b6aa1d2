"""Long texts: windows that leave room for question and answer."""

from __future__ import annotations

import itertools

import pytest

from tests.universal_ner.pipelines import ents, make_nlp, pipe_of


def test_long_texts_are_asked_about_in_windows_of_the_models_tokens():
    text = " ".join(f"word{i}" for i in range(40)) + " Ana Soto " + "more " * 40 + "Genoa"
    nlp = make_nlp(window=20, stride=5)
    doc = nlp(text)
    assert ents(doc) == [("Ana Soto", "person"), ("Genoa", "location")]
    sources = [group[0].source for group in pipe_of(nlp).model.seen]
    assert len(sources) == 6
    assert all(len(source.split()) <= 20 for source in sources)
    for one, two in itertools.pairwise(sources):
        assert one.split()[-5:] == two.split()[:5]


def test_windows_leave_room_for_question_and_answer():
    text = "Genoa " * 100
    nlp = make_nlp(settings={"context_length": 60}, max_new_tokens=10, stride=4)
    doc = nlp(text)
    assert len(doc.ents) == 100
    model = pipe_of(nlp).model
    assert model.max_new_tokens == 10
    longest = max(len(prompt.split()) for group in model.seen for prompt in group)
    assert 60 - 10 - 8 <= longest <= 60 - 10

    nlp = make_nlp(settings={"context_length": 30}, max_new_tokens=10)
    with pytest.raises(ValueError, match="leave no room for text in the model's context of 30"):
        nlp(text)


def test_windows_keep_sentences_whole():
    nlp = make_nlp(window=10, stride=4)
    nlp.add_pipe("sentencizer", first=True)
    nlp("One two three. Four five six seven. Eight nine ten eleven. Twelve.")
    assert [group[0].source for group in pipe_of(nlp).model.seen] == [
        "One two three. Four five six seven.",
        "Four five six seven. Eight nine ten eleven. Twelve.",
    ]


def test_half_an_entity_at_a_windows_edge_does_not_count():
    words = [f"w{i}" for i in range(30)]
    words[9:11] = ["Soto", "Labs"]
    nlp = make_nlp(window=10, stride=4)
    doc = nlp(" ".join(words))
    assert pipe_of(nlp).model.seen[0][0].source.split()[-1] == "Soto"
    assert ents(doc) == [("Soto Labs", "organization")]
    # A whole one that the neighbour sees too does count
    words[9:11] = ["Genoa", "w"]
    assert ents(nlp(" ".join(words))) == [("Genoa", "location")]


def test_a_text_of_a_million_characters():
    text = ("word " * 1999 + "Genoa ") * 100
    assert 990_000 < len(text) <= 1_001_000
    nlp = make_nlp(labels=["location"])
    nlp.max_length = len(text)
    assert len(nlp(text).ents) == 100
