"""The classification head: shapes, dropout, new classes."""

import numpy as np
import pytest
import spacy
from thinc.api import Model

from spacy_universalner.nuner.classifier import build_nuner_token_classifier_v1


def make_classifier(n_classes=5, **settings):
    """A classifier over fixed token vectors."""

    def forward(model, docs, is_train):
        rng = np.random.default_rng(0)
        return [rng.normal(size=(len(doc), 8)).astype("float32") for doc in docs], lambda d: docs

    tok2vec = Model("fixed", forward, dims={"nO": 8})
    model = build_nuner_token_classifier_v1(tok2vec, **settings)
    model.get_ref("output_layer").set_dim("nO", n_classes)
    return model


@pytest.fixture(scope="module")
def docs():
    nlp = spacy.blank("en")
    return [nlp.make_doc("one two three"), nlp.make_doc(""), nlp.make_doc("four")]


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_one_logit_per_token_and_class(docs, head):
    model = make_classifier(head=head, hidden_size=6)
    model.initialize(X=docs)
    assert [logits.shape for logits in model.predict(docs)] == [(3, 5), (0, 5), (1, 5)]
    sizes = [layer.get_dim("nO") for layer in model.walk() if layer.name in ("linear", "relu")]
    assert sizes == ([5] if head == "linear" else [6, 5])


def test_dropout_is_for_training_only(docs):
    model = make_classifier(dropout=0.5)
    model.initialize(X=docs)
    np.testing.assert_array_equal(model.predict(docs)[0], model.predict(docs)[0])
    first, second = model.begin_update(docs)[0], model.begin_update(docs)[0]
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_known_classes_keep_their_logits_when_new_ones_come(docs, head):
    model = make_classifier(head=head, n_classes=3)
    model.initialize(X=docs)
    before = model.predict(docs)[0]
    model.attrs["resize_output"](model, 5)
    after = model.predict(docs)[0]
    np.testing.assert_array_equal(after[:, :3], before)
    np.testing.assert_array_equal(after[:, 3:], 0.0)
    assert model.get_dim("nO") == model.get_ref("output_layer").get_dim("nO") == 5
    copy = make_classifier(head=head, n_classes=5).from_bytes(model.to_bytes())
    np.testing.assert_array_equal(copy.predict(docs)[0], model.predict(docs)[0])
