"""White space and blank lines: what entities are made of, and what is learned from."""

import numpy as np
import pytest
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_universalner.nuner import viterbi
from spacy_universalner.nuner.loss import gold_classes
from tests.nuner.test_component import LABELS, make_nlp, train


@pytest.mark.parametrize("scheme", ["bio", "io"])
def test_white_space_is_no_word(tiny_bert, scheme):
    nlp = make_nlp(tiny_bert, model={"scheme": scheme})
    train(nlp)
    plain = nlp("Barack Obama was born in Hawaii.")
    scores = plain.spans["nuner"].attrs["scores"].tolist()
    for space in ("\n", "  ", " \n ", "\r\n"):
        doc = nlp(f"{space}Barack{space}Obama{space}was born in Hawaii.{space}")
        assert [ent.text.split() for ent in doc.ents] == [["Barack", "Obama"], ["Hawaii"]]
        assert doc.spans["nuner"].attrs["scores"].tolist() == pytest.approx(scores, abs=1e-4)
    # Nothing goes on behind a blank line, however sure the classifier is of it.
    pipe = nlp.get_pipe("nuner")
    for space, names in (("\n", ["Ada\nBob"]), ("\n\n", ["Ada", "Bob"])):
        doc = nlp.make_doc(f"Ada{space}Bob")
        scores = np.full((3, pipe.model.get_dim("nO")), -9.0, dtype="float32")
        scores[:, viterbi.begin_class(0, scheme)] = -1
        scores[1:, viterbi.inside_class(0, scheme)] = -0.1
        pipe.set_annotations([doc], [scores])
        assert [ent.text for ent in doc.ents] == names
    # Nor behind one of several tokens, as a tokenizer of one's own may have it.
    doc = Doc(nlp.vocab, words=["Ada", "\n", " ", "\n", "Bob"])
    pipe.set_annotations([doc], [np.repeat(scores[1:2], 5, axis=0)])
    assert [ent.text for ent in doc.ents] == ["Ada", "Bob"]
    # Nor is anything learned from it.
    doc = nlp.make_doc("Barack\nObama  won.")
    example = Example.from_dict(doc, {"entities": [(0, 12, "PERSON")]})
    assert [token.is_space for token in example.predicted] == [0, 1, 0, 1, 0, 0]
    scores = [np.zeros((6, pipe.model.get_dim("nO")), dtype="float32")]
    _, (gradient,) = pipe.get_loss([example], scores)
    assert gradient.any(axis=1).tolist() == [True, False, True, False, True, True]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("\nBarack Obama won", [-1, 1, 2, 0]),
        ("Barack\nObama won", [1, -1, 2, 0]),
        ("Barack\n\nObama won", [1, -1, 1, 0]),
        ("\n\nBarack Obama", [-1, 1, 2]),
    ],
)
def test_an_entity_begins_where_it_is_found(tiny_bert, text, expected):
    """With its first word, and anew behind a blank line: nothing else can be decoded."""
    nlp = make_nlp(tiny_bert)
    doc = nlp.make_doc(text)
    end = 3 if "won" in text else len(doc)
    reference = doc.copy()
    reference.set_ents([Span(reference, 0, end, label="PERSON")])
    classes, _ = gold_classes(Example(doc, reference), LABELS, "bio")
    assert classes.tolist() == expected
