"""The component in spaCy: training, prediction, storage, streams, other components."""

import pickle
import warnings

import numpy as np
import pytest
import spacy
from spacy import displacy
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from thinc.api import Adam, warmup_linear

from spacy_universalner.nuner.loss import gold_classes

SENTENCES = [
    ("Barack Obama was born in Hawaii.", [(0, 12, "PERSON"), (25, 31, "PLACE")]),
    ("Marie Curie won the Nobel Prize in Paris.", [(0, 11, "PERSON"), (35, 40, "PLACE")]),
    ("Pierre Curie worked in Washington.", [(0, 12, "PERSON"), (23, 33, "PLACE")]),
    ("Nothing was won.", []),
]
LABELS = ("PERSON", "PLACE")


def tok2vec(folder, **settings):
    return {
        "@architectures": "spacy-universalner.NuNEREncoder.v1",
        "name": str(folder),
        **settings,
    }


def make_nlp(folder, encoder=None, model=None, **config):
    nlp = spacy.blank("en")
    model = {**(model or {}), "tok2vec": tok2vec(folder, **(encoder or {}))}
    nlp.add_pipe("nuner", config={**config, "model": model})
    return nlp


def make_examples(nlp, sentences=SENTENCES):
    return [Example.from_dict(nlp.make_doc(t), {"entities": e}) for t, e in sentences]


def train(nlp, steps=120, examples=None):
    """Train with a schedule that lets the tiny model learn its sentences from any seed."""
    examples = examples or make_examples(nlp)
    spacy.util.fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    teach(nlp, examples, optimizer, steps)


def teach(nlp, examples, optimizer, steps, update="update"):
    for step in range(steps):
        optimizer.learn_rate = 1e-2 * min((step + 1) / 40, 1 - step / steps)
        getattr(nlp, update)(examples, sgd=optimizer)


def found(doc):
    return [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]


@pytest.fixture(scope="module")
def trained(tiny_bert):
    """A pipeline that knows its sentences by heart. Tests must not change it."""
    nlp = make_nlp(tiny_bert)
    train(nlp)
    return nlp


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": {"head": "mlp", "scheme": "io"}},
        {"encoder": {"layers": [-1, -2], "precision": "bfloat16"}},
        {"encoder": {"precision": "int8"}, "label_smoothing": 0.1},
        {"encoder": {"freeze": 0}, "class_weights": {"O": 0.5, "PERSON": 2.0}},
    ],
)
def test_it_learns_its_examples(tiny_bert, settings):
    nlp = make_nlp(tiny_bert, **settings)
    train(nlp)
    for text, entities in SENTENCES:
        assert found(nlp(text)) == entities


def test_spans_are_scored(trained):
    doc = trained(SENTENCES[0][0])
    group = doc.spans["nuner"]
    assert [(s.text, s.label_) for s in group] == [("Barack Obama", "PERSON"), ("Hawaii", "PLACE")]
    assert [span._.score for span in group] == pytest.approx(group.attrs["scores"].tolist())
    assert [ent._.score for ent in doc.ents] == [span._.score for span in group]
    assert all(0.5 < score <= 1.0 for score in group.attrs["scores"])
    # What is serialised keeps the scores.
    restored = Doc(trained.vocab).from_bytes(doc.to_bytes())
    assert restored.spans["nuner"].attrs["scores"].tolist() == group.attrs["scores"].tolist()
    assert restored.ents[0]._.score == doc.ents[0]._.score


def test_displacy_draws_entities_and_spans(trained):
    doc = trained(SENTENCES[0][0])
    page = displacy.render(doc, style="ent")
    assert "Barack Obama" in page and "PERSON" in page
    assert "PLACE" in displacy.render(doc, style="span", options={"spans_key": "nuner"})


def test_a_score_is_the_geometric_mean_of_the_classes_probabilities(trained):
    pipe = trained.get_pipe("nuner")
    doc = trained.make_doc("Barack Obama")
    probabilities = np.asarray([[0.1, 0.8, 0.1, 0, 0], [0.1, 0.1, 0.2, 0.3, 0.3]]) + 1e-9
    pipe.set_annotations([doc], [np.log(probabilities).astype("float32")])
    # Greedy would be PERSON, PLACE; both are single tokens.
    assert [(s.text, s.label_) for s in doc.spans["nuner"]] == [
        ("Barack", "PERSON"),
        ("Obama", "PLACE"),
    ]
    probabilities = np.asarray([[0.1, 0.8, 0.1, 0, 0], [0.1, 0.1, 0.5, 0.3, 0]]) + 1e-9
    pipe.set_annotations([doc], [np.log(probabilities).astype("float32")])
    assert doc.spans["nuner"].attrs["scores"].tolist() == pytest.approx([(0.8 * 0.5) ** 0.5])


def test_threshold_holds_for_ents_and_not_for_spans(trained, tiny_bert):
    nlp = make_nlp(tiny_bert, threshold=1.0).from_bytes(trained.to_bytes())
    doc = nlp(SENTENCES[0][0])
    assert found(doc) == [] and len(doc.spans["nuner"]) == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_earlier_entities_survive_unless_told_otherwise(trained, tiny_bert, overwrite):
    nlp = make_nlp(tiny_bert, overwrite_ents=overwrite).from_bytes(trained.to_bytes())
    doc = nlp.make_doc(SENTENCES[0][0])
    doc.ents = [Span(doc, 1, 3, label="EARLIER")]
    doc = nlp.get_pipe("nuner")(doc)
    expected = SENTENCES[0][1] if overwrite else [(7, 16, "EARLIER"), SENTENCES[0][1][1]]
    assert found(doc) == expected
    assert len(doc.spans["nuner"]) == 2


@pytest.mark.parametrize("text", ["", " ", "\n\n", "😀", "Pierre", "İ é\r\n", "​", "x" * 3000])
def test_odd_texts_do_not_raise(trained, text):
    doc = trained(text)
    assert all(
        span.text == doc.text[span.start_char : span.end_char] for span in doc.spans["nuner"]
    )


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_pipe_is_the_same_as_one_by_one(trained, batch_size):
    texts = ["", *(text for text, _ in SENTENCES), " ", "Marie Curie", "Hawaii and Paris"]
    alone = [trained(text) for text in texts]
    together = list(trained.pipe(texts, batch_size=batch_size))
    assert [doc.text for doc in together] == texts
    for one, other in zip(alone, together, strict=True):
        assert found(one) == found(other)
        np.testing.assert_allclose(
            one.spans["nuner"].attrs["scores"], other.spans["nuner"].attrs["scores"], rtol=1e-3
        )


def test_long_documents_go_through_in_windows(trained, tiny_bert):
    """100,000 tokens in windows of a sentence: what is found is what each sentence has alone."""
    text, entities = SENTENCES[0]
    sentence = trained.make_doc(text)
    for token in sentence:
        token.is_sent_start = token.i == 0
    shim = trained.get_pipe("nuner").model.get_ref("tok2vec").shims[0]
    window = len(shim.tokenizer(text)["input_ids"])
    nlp = make_nlp(tiny_bert, encoder={"window": window, "stride": 0})
    nlp.from_bytes(trained.to_bytes())
    repeats = 100_000 // len(sentence)
    doc = nlp.get_pipe("nuner")(Doc.from_docs([sentence] * repeats))
    assert len(doc) > 99_000
    alone = [(span.start, span.end, span.label_) for span in trained(text).ents]
    assert [(span.start, span.end, span.label_) for span in doc.ents] == [
        (i * len(sentence) + start, i * len(sentence) + end, label)
        for i in range(repeats)
        for start, end, label in alone
    ]
    assert len(alone) == len(entities)


def test_several_processes(trained):
    texts = [text for text, _ in SENTENCES] * 4
    docs = list(trained.pipe(texts, n_process=2, batch_size=4))
    assert [found(doc) for doc in docs] == [entities for _, entities in SENTENCES] * 4
    assert docs[0].ents[0]._.score > 0.5


def test_missing_annotation_teaches_nothing(tiny_bert):
    nlp = make_nlp(tiny_bert)
    train(nlp, steps=0)
    pipe = nlp.get_pipe("nuner")
    reference = nlp.make_doc("Barack Obama was born in Hawaii.")
    person = Span(reference, 0, 2, label="PERSON")
    reference.set_ents([person], missing=[reference[2:4]], default="outside")
    example = Example(nlp.make_doc(reference.text), reference)
    classes, unknown = gold_classes(example, pipe.labels, pipe.scheme)
    assert (list(classes), unknown) == ([1, 2, -1, -1, 0, 0, 0], set())
    scores = [np.zeros((7, 5), dtype="float32")]
    loss, (gradient,) = pipe.get_loss([example], scores)
    assert loss == pytest.approx(5 * np.log(5))
    assert not gradient[2:4].any() and gradient[[0, 1, 4, 5, 6]].any(axis=1).all()
    # Nothing is annotated at all.
    blank = Example(nlp.make_doc("Marie Curie"), nlp.make_doc("Marie Curie"))
    loss, (gradient,) = pipe.get_loss([blank], [scores[0][:2]])
    assert loss == 0.0 and not gradient.any()


def test_loss_and_gradient_by_hand(tiny_bert):
    nlp = make_nlp(tiny_bert, label_smoothing=0.1, class_weights={"O": 0.5})
    train(nlp, steps=0)
    example = Example.from_dict(nlp.make_doc("Paris won"), {"entities": [(0, 5, "PLACE")]})
    logits = np.log(np.asarray([[0.2, 0.2, 0.2, 0.2, 0.2], [0.6, 0.1, 0.1, 0.1, 0.1]]))
    loss, (gradient,) = nlp.get_pipe("nuner").get_loss([example], [logits.astype("float32")])
    place = np.asarray([0.02, 0.02, 0.02, 0.92, 0.02])
    outside = np.asarray([0.92, 0.02, 0.02, 0.02, 0.02])
    expected = -(place * logits[0]).sum() - 0.5 * (outside * logits[1]).sum()
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient[0], np.exp(logits[0]) - place, rtol=1e-4)
    np.testing.assert_allclose(gradient[1], 0.5 * (np.exp(logits[1]) - outside), rtol=1e-4)


def test_class_weights_of_unknown_labels_are_refused(tiny_bert):
    nlp = make_nlp(tiny_bert, class_weights={"PLANET": 2.0})
    with pytest.raises(ValueError, match=r"\['PLANET'\].*PERSON, PLACE"):
        train(nlp, steps=1)


def test_initialize_takes_labels_and_refuses_none(tiny_bert):
    nlp = make_nlp(tiny_bert)
    examples = make_examples(nlp)
    nlp.get_pipe("nuner").initialize(lambda: examples, nlp=nlp, labels=["B", "A"])
    assert nlp.get_pipe("nuner").labels == ("B", "A")
    assert nlp.get_pipe("nuner").label_data == ["B", "A"]
    nlp = make_nlp(tiny_bert)
    with pytest.raises(ValueError, match="label"):
        nlp.initialize(lambda: examples[3:])


def test_training_on_documents_without_tokens(tiny_bert):
    nlp = make_nlp(tiny_bert)
    optimizer = nlp.initialize(lambda: make_examples(nlp))
    empty = Example.from_dict(nlp.make_doc(""), {"entities": []})
    assert nlp.update([empty], sgd=optimizer) == {"nuner": 0.0}
    assert nlp.update([empty, *make_examples(nlp)], sgd=optimizer)["nuner"] > 0


def test_new_labels_are_learned_on_top(trained, tiny_bert):
    nlp = make_nlp(tiny_bert).from_bytes(trained.to_bytes())
    pipe = nlp.get_pipe("nuner")
    assert [pipe.add_label("PRIZE"), pipe.add_label("PRIZE")] == [1, 0]
    text, entities = SENTENCES[1]
    assert found(nlp(text)) == entities
    more = [*SENTENCES[:1], (text, [*entities, (20, 31, "PRIZE")]), *SENTENCES[2:]]
    teach(nlp, make_examples(nlp, more), nlp.resume_training(), 120)
    assert found(nlp(text)) == sorted([*entities, (20, 31, "PRIZE")])
    again = make_nlp(tiny_bert).from_bytes(nlp.to_bytes())
    assert found(again(text)) == found(nlp(text))


def test_a_label_may_come_after_the_model_to_rehearse(trained, tiny_bert):
    nlp = make_nlp(tiny_bert).from_bytes(trained.to_bytes())
    optimizer = nlp.resume_training()
    nlp.get_pipe("nuner").add_label("PRIZE")
    before = nlp.get_pipe("nuner").predict([nlp.make_doc(SENTENCES[0][0])])[0]
    losses = nlp.rehearse(make_examples(nlp), sgd=optimizer)
    after = nlp.get_pipe("nuner").predict([nlp.make_doc(SENTENCES[0][0])])[0]
    assert losses["nuner"] > 0
    # What the teacher does not know it does not ask for.
    assert (after[:, 5:].sum() < before[:, 5:].sum()) and after.shape[1] == 7


def test_labels_that_it_does_not_have_are_told_once(trained, tiny_bert):
    nlp = make_nlp(tiny_bert).from_bytes(trained.to_bytes())
    text, entities = SENTENCES[1]
    examples = make_examples(nlp, [(text, [*entities, (20, 31, "PRIZE")])])
    with pytest.warns(
        UserWarning, match=r"'PRIZE'.*PERSON, PLACE.*nuner\"\)\.add_label\(\"PRIZE\"\)"
    ):
        nlp.update(examples, sgd=nlp.resume_training())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nlp.update(examples, sgd=nlp.resume_training())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"label_smoothing": 1.5}, "label_smoothing = 1.5: expected 0 to less"),
        ({"threshold": -0.1}, "threshold = -0.1: expected 0 to 1"),
        ({"class_weights": {"O": -1.0}}, "class_weights has -1.0 for 'O': expected at least 0"),
    ],
)
def test_numbers_that_are_out_of_range_are_named(tiny_bert, settings, message):
    with pytest.raises(ValueError, match=message):
        make_nlp(tiny_bert, **settings)


def test_blocked_tokens_stay_free(trained):
    text, entities = SENTENCES[0]
    doc = trained.make_doc(text)
    doc.set_ents([], blocked=[doc[0:1]])
    doc = trained.get_pipe("nuner")(doc)
    assert found(doc) == entities[1:]
    assert [token.ent_iob_ for token in doc][:2] == ["B", "O"] and not doc[0].ent_type_
    assert [span.text for span in doc.spans["nuner"]] == ["Barack Obama", "Hawaii"]


def test_rehearsal_holds_on_to_the_earlier_predictions(trained, tiny_bert):
    nlp = make_nlp(tiny_bert).from_bytes(trained.to_bytes())
    examples = make_examples(nlp)
    pipe = nlp.get_pipe("nuner")
    assert pipe.rehearse(examples) == {"nuner": 0.0}  # no model to rehearse yet
    optimizer = nlp.resume_training()
    forget = make_examples(nlp, [(text, []) for text, _ in SENTENCES])
    teach(nlp, forget, optimizer, 60)
    assert found(nlp(SENTENCES[0][0])) == []
    teach(nlp, forget, optimizer, 120, update="rehearse")
    assert found(nlp(SENTENCES[0][0])) == SENTENCES[0][1]


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_rehearsal_in_lower_precisions(trained, tiny_bert, precision):
    nlp = make_nlp(tiny_bert, encoder={"precision": precision}).from_bytes(trained.to_bytes())
    examples = make_examples(nlp)
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 5e-3
    for _ in range(6):
        nlp.update(make_examples(nlp, [(text, []) for text, _ in SENTENCES]), sgd=optimizer)
    losses = [nlp.rehearse(examples, sgd=optimizer)["nuner"] for _ in range(10)]
    assert losses[-1] < losses[0] / 3, losses


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_scheduled_learning_rate_hinders_no_copy(trained, tiny_bert, precision):
    nlp = make_nlp(tiny_bert, encoder={"precision": precision}).from_bytes(trained.to_bytes())
    examples = make_examples(nlp)
    optimizer = Adam(warmup_linear(1e-3, 2, 10), use_averages=False)
    optimizer.step_schedules()  # from a rate of nothing
    nlp.update(examples, sgd=optimizer)
    docs = [eg.predicted for eg in examples]
    expected = np.concatenate(nlp.get_pipe("nuner").predict(docs))
    nlp.resume_training(sgd=optimizer)
    shim = nlp.get_pipe("nuner").model.get_ref("tok2vec").shims[0]
    copies = shim.copy(), pickle.loads(pickle.dumps(shim))
    nlp.update(examples, sgd=optimizer)
    pipe = nlp.get_pipe("nuner")
    assert not np.allclose(np.concatenate(pipe.predict(docs)), expected)
    pipe.model = pipe._rehearsal_model
    for copied in (pipe.model.get_ref("tok2vec").shims[0], *copies):
        pipe.model.get_ref("tok2vec").shims[0] = copied
        np.testing.assert_allclose(np.concatenate(pipe.predict(docs)), expected, atol=1e-5)


def test_disk_and_bytes_hold_the_weights(trained, tmp_path):
    texts = [text for text, _ in SENTENCES]
    trained.to_disk(tmp_path)
    copy = spacy.blank("en").from_config(trained.config).from_bytes(trained.to_bytes())
    for loaded in (spacy.load(tmp_path), copy):
        assert [found(doc) for doc in loaded.pipe(texts)] == [e for _, e in SENTENCES]
        assert loaded.get_pipe("nuner").labels == LABELS


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_saved_pipeline_can_be_loaded_in_another_precision(trained, tmp_path, precision):
    trained.to_disk(tmp_path / "float32")
    override = {"components.nuner.model.tok2vec.precision": precision}
    nlp = spacy.load(tmp_path / "float32", config=override)
    nlp.to_disk(tmp_path / precision)
    again = spacy.load(tmp_path / precision)
    shim = again.get_pipe("nuner").model.get_ref("tok2vec").shims[0]
    assert shim.settings.precision == precision
    for text, entities in SENTENCES:
        assert found(again(text)) == found(nlp(text)) == entities


def test_sourcing_into_another_pipeline(trained):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    pipe = nlp.add_pipe("nuner", source=trained)
    assert found(nlp(SENTENCES[0][0])) == SENTENCES[0][1]
    # A label that neither the sourced weights nor this pipeline's texts have named
    pipe.add_label("ZEPPELIN")
    doc = nlp.make_doc("Kickoff")
    scores = np.full((1, len(pipe.model.get_ref("output_layer").get_param("b"))), -9.0)
    scores[0, -2:] = 0.0
    pipe.set_annotations([doc], [scores.astype("float32")])
    assert found(doc) == [(0, 7, "ZEPPELIN")]


def test_evaluation(trained):
    scores = trained.evaluate(make_examples(trained))
    assert scores["ents_f"] == 1.0
    assert scores["ents_per_type"]["PLACE"] == {"p": 1.0, "r": 1.0, "f": 1.0}
    assert scores["spans_nuner_f"] == 1.0


def write_examples(path):
    nlp = spacy.blank("en")
    DocBin(docs=[eg.reference for eg in make_examples(nlp)]).to_disk(path)
