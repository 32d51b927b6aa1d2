"""`universal_ner` when a model, a document or a setting is wrong."""

from __future__ import annotations

import pytest
from spacy.util import ignore_error

from tests.universal_ner.pipelines import LABELS, ents, make_nlp, pipe_of


def test_an_answer_with_an_error_raises_with_the_reason():
    with pytest.raises(RuntimeError, match=r"(?s)no answer to 3 of 3 questions .* it is broken"):
        make_nlp()("This is BROKEN.")


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_a_failing_document_goes_to_the_error_handler_without_its_neighbours(batch_size):
    texts = ["Bo 1", "BROKEN", "Bo 2", "CRASH", "Bo 3"]
    nlp = make_nlp()
    failed = []

    def handler(name, proc, docs, error):
        failed.extend((name, doc.text, str(error)[:20]) for doc in docs)

    nlp.set_error_handler(handler)
    docs = list(nlp.pipe(texts, batch_size=batch_size))
    assert [doc.text for doc in docs] == ["Bo 1", "Bo 2", "Bo 3"]
    assert all(ents(doc) == [("Bo", "person")] for doc in docs)
    assert [(name, text) for name, text, _ in failed] == [
        ("universal_ner", "BROKEN"),
        ("universal_ner", "CRASH"),
    ]
    assert failed[1][2] == "it crashed"


def test_errors_can_be_recorded_on_the_document():
    nlp = make_nlp(on_error="record")
    docs = list(nlp.pipe(["Bo", "BROKEN Bo", "Bo"]))
    assert [ents(doc) for doc in docs] == [[("Bo", "person")], [], [("Bo", "person")]]
    assert docs[0].user_data["universal_ner"]["errors"] == []
    assert docs[1].user_data["universal_ner"]["errors"] == [
        {"label": label, "error": "it is broken"} for label in LABELS
    ]
    nlp = make_nlp("test.PlainGazetteer.v1", on_error="record")
    docs = list(nlp.pipe(["Bo", "CRASH", "Bo"]))
    assert [len(doc.ents) for doc in docs] == [1, 0, 1]
    assert docs[1].user_data["universal_ner"]["errors"][0] == {
        "label": "person",
        "error": "ConnectionError: it is unreachable",
    }
    # What is wrong with the model itself is not the document's
    with pytest.raises(RuntimeError, match="it crashed"):
        make_nlp(on_error="record")("CRASH")


def test_a_window_without_an_answer_does_not_judge_its_neighbour():
    words = [f"w{i}" for i in range(30)]
    words[9:12] = ["Genoa", "w", "BROKEN"]
    nlp = make_nlp(window=10, stride=4, on_error="record")
    doc = nlp(" ".join(words))
    assert pipe_of(nlp).model.seen[0][0].source.split()[-1] == "Genoa"
    assert doc.user_data["universal_ner"]["errors"]
    assert ents(doc) == [("Genoa", "location")]
    assert doc.user_data["universal_ner"]["rejects"] == []


def test_a_model_that_does_not_answer_each_prompt_is_refused():
    nlp = make_nlp()
    pipe_of(nlp).model.answer = lambda prompts: iter([])
    with pytest.raises(ValueError, match="answered about 0 of 1 texts"):
        nlp("Bo")
    pipe_of(nlp).model.answer = lambda prompts: iter([[]])
    with pytest.raises(ValueError, match="Gazetteer gave 0 answers to 3 prompts"):
        nlp("Bo")
    nlp.set_error_handler(ignore_error)
    assert list(nlp.pipe(["Bo"])) == []


@pytest.mark.parametrize(
    "config,message",
    [
        ({"template": "sarve"}, "Unknown template 'sarve'"),
        ({"window": 64}, "stride = 64 and window = 64"),
        ({"conflict": "shortest"}, "shortest"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0: expected at least 1"),
        ({"label_thresholds": {"animal": 0.5}}, "label_thresholds has 'animal', but the labels"),
        (
            {"labels": ["a:b"], "label_thresholds": {"a:b": 0.5}},
            "a config cannot hold the key 'a:b'",
        ),
        ({"labels": {"PRICE": "a price in ${}"}}, "a config takes"),
    ],
)
def test_wrong_settings_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        make_nlp(**config)
