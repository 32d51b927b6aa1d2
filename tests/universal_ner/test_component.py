"""`universal_ner` in a pipeline: what it asks, sets and keeps."""

from __future__ import annotations

import json
import pickle
import warnings
from collections import Counter

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy import displacy
from spacy.pipeline import EntityRuler
from spacy.tokens import DocBin, Span
from spacy.training import Example

from spacy_universalner.alignment import INSIDE_WORD, NOT_IN_TEXT, OFF_TOKENS
from spacy_universalner.universal_ner.annotator import BELOW_THRESHOLD
from tests.universal_ner import gazetteer
from tests.universal_ner.pipelines import ENTITIES, LABELS, TEXT, ents, make_nlp, pipe_of, places


def test_every_key_of_the_config_has_a_default_that_works():
    nlp = spacy.blank("en")
    nlp.add_pipe("universal_ner")
    assert nlp.get_pipe_config("universal_ner") == {
        "factory": "universal_ner",
        "labels": ["person", "organization", "location"],
        "model": {
            "@llm_models": "spacy-universalner.HF.v1",
            "name": "Universal-NER/UniNER-7B-type",
            "revision": "main",
            "adapter": None,
            "dtype": "auto",
            "device": None,
            "device_map": None,
            "max_new_tokens": 256,
            "batch_tokens": 16384,
            "constrain": "none",
            "chat": False,
            "system": None,
            "chat_template_kwargs": None,
        },
        "template": "serve",
        "dataset": None,
        "annotate": "both",
        "spans_key": None,
        "conflict": "longest",
        "overwrite_ents": False,
        "occurrences": "all",
        "alignment_mode": "expand",
        "threshold": 0.0,
        "label_thresholds": {},
        "max_new_tokens": None,
        "window": 512,
        "stride": 64,
        "cache": None,
        "on_error": "raise",
        "save_io": False,
        "scorer": {"@scorers": "spacy-universalner.EntityScorer.v1"},
    }


def test_missing_weights_are_one_clear_message_at_the_first_document():
    nlp = spacy.blank("en")
    nlp.add_pipe("universal_ner")
    with pytest.raises(OSError, match=r"Could not load .* 'Universal-NER/UniNER-7B-type'") as error:
        nlp("Some text.")
    assert "set `name` to that folder" in str(error.value)


def test_each_type_is_asked_once_about_each_text():
    nlp = make_nlp()
    list(nlp.pipe([TEXT, "", "Genoa"]))
    assert [[str(prompt) for prompt in group] for group in pipe_of(nlp).model.seen] == [
        [
            "A virtual assistant answers questions from a user based on the provided text. USER: "
            f"Text: {text} ASSISTANT: I've read this text.</s>USER: What describes {label} in the "
            "text? ASSISTANT:"
            for label in LABELS
        ]
        for text in (TEXT, "Genoa")
    ]


def test_all_spans_stand_in_spans_and_a_resolved_set_in_ents():
    doc = make_nlp()(TEXT)
    assert [(span.text, span.label_) for span in doc.spans["universal_ner"]] == [
        ("Ana Soto", "person"),
        ("Soto", "person"),
        ("Soto", "person"),
        ("Soto Labs", "organization"),
        ("Paris", "location"),
        ("Paris", "person"),
        ("Bo", "person"),
        ("Soto", "person"),
        ("Paris", "location"),
        ("Paris", "person"),
        ("Paris Opera", "organization"),
        ("Paris", "location"),
        ("Paris", "person"),
    ]
    assert ents(doc) == [
        ("Ana Soto", "person"),
        ("Soto Labs", "organization"),
        ("Paris", "location"),  # the tie is broken by the alphabet, not by the order of labels
        ("Bo", "person"),
        ("Soto", "person"),
        ("Paris Opera", "organization"),
        ("Paris", "location"),
    ]
    for span in doc.spans["universal_ner"]:
        assert span.text == doc.text[span.start_char : span.end_char]


def test_scores_stand_on_spans_entities_and_group():
    doc = make_nlp()(TEXT)
    scores = {"Ana Soto": 7 / 8, "Soto": 3 / 4, "Paris": 4 / 5, "Paris Opera": 10 / 11}
    group = doc.spans["universal_ner"]
    assert group.attrs["scores"] == [span._.score for span in group]
    for span in (*group, *doc.ents):
        if span.text in scores:
            assert span._.score == pytest.approx(scores[span.text])


def test_labels_map_to_what_is_asked():
    nlp = make_nlp(labels={"PER": "person", "WORK": "organization"})
    assert set(ents(nlp(TEXT))) == {
        ("Ana Soto", "PER"),
        ("Soto", "PER"),
        ("Soto Labs", "WORK"),
        ("Bo", "PER"),
        ("Paris", "PER"),
        ("Paris Opera", "WORK"),
    }
    assert pipe_of(nlp).labels == ("PER", "WORK")


def test_definitions_dataset_and_all_at_once_change_the_question():
    definition = "a town, a village or a city"
    nlp = make_nlp(
        entities={definition: ["Genoa"]},
        labels={"PLACE": definition},
        template="definition",
        dataset="travel",
    )
    assert ents(nlp("to Genoa")) == [("Genoa", "PLACE")]
    (prompt,) = pipe_of(nlp).model.seen[0]
    assert "USER: Dataset: travel\n Text: to Genoa ASSISTANT:" in prompt
    assert f"What describes {definition} in the text?" in prompt

    nlp = make_nlp(template="all_in_one", labels={"PER": "person", "LOC": "location"})
    assert ents(nlp("Bo in Genoa")) == [("Bo", "PER"), ("Genoa", "LOC")]
    assert len(pipe_of(nlp).model.seen[0]) == 1


def test_discovery_takes_whatever_type_the_model_finds():
    nlp = make_nlp(entities={"board game": ["Go"], "city": ["Genoa"]}, labels=None)
    doc = nlp("Go is played in Genoa.")
    assert ents(doc) == [("Go", "board game"), ("Genoa", "city")]
    assert pipe_of(nlp).labels == ()
    (prompt,) = pipe_of(nlp).model.seen[0]
    assert prompt.startswith("Given a passage, your task is to extract all entities")
    assert prompt.endswith("\n\nPassage: Go is played in Genoa.")
    with pytest.raises(ValueError, match="labels = null"):
        pipe_of(nlp).add_label("person")


def test_annotate_chooses_what_is_set():
    doc = make_nlp(annotate="ents")(TEXT)
    assert doc.ents and not doc.spans
    doc = make_nlp(annotate="spans", spans_key="found")(TEXT)
    assert not doc.ents and len(doc.spans["found"]) == 13


@pytest.mark.parametrize(
    "conflict,expected", [("longest", "New Ana"), ("score", "Anastasia"), ("label_order", "Ana")]
)
def test_conflict_policies(conflict, expected):
    # A string's score grows with its length in characters; "longest" counts tokens
    text = {"longest": "New Ana", "score": "In Anastasia", "label_order": "New Ana"}[conflict]
    entities = {"a": ["New Ana", "In A"], "b": ["Ana"], "c": ["Anastasia"]}
    nlp = make_nlp(entities=entities, labels=["b", "a", "c"], conflict=conflict)
    assert [ent.text for ent in nlp(text).ents] == [expected]


def test_first_occurrence_only():
    doc = make_nlp(occurrences="first")(TEXT)
    assert [span.start_char for span in doc.spans["universal_ner"] if span.text == "Paris"] == [
        27,
        27,
    ]


def test_alignment_modes():
    entities = {"person": ["Ana U.S."]}
    text = "Ana U.S.-led"  # "U.S.-led" is one token
    for mode, expected in (("strict", []), ("contract", ["Ana"]), ("expand", ["Ana U.S.-led"])):
        doc = make_nlp(entities=entities, alignment_mode=mode)(text)
        assert [ent.text for ent in doc.ents] == expected
    doc = make_nlp(entities=entities, alignment_mode="strict")(text)
    assert doc.user_data["universal_ner"]["counts"] == {OFF_TOKENS: 1}


def test_a_documents_own_tokens_are_words():
    nlp = make_nlp(entities={"location": ["mg", "am"]})
    assert [token.text for token in nlp.make_doc("20mg")] == ["20", "mg"]
    assert ents(nlp("20mg at 10am in Siam")) == [("mg", "location"), ("am", "location")]
    both = make_nlp(entities={"location": ["mg"]})("5mg and 20 mg")
    assert [ent.start_char for ent in both.ents] == [1, 11]
    doc = make_nlp(entities={"location": ["mg"]}, occurrences="first")("20mg and 30mg")
    assert [ent.start_char for ent in doc.ents] == [2]


def test_a_score_is_the_last_components_own():
    nlp = make_nlp()
    model = {"@llm_models": "test.PlainGazetteer.v1", "entities": {"location": ["Genoa"]}}
    nlp.add_pipe("universal_ner", name="b", config={"labels": ["location"], "model": model})
    doc = nlp("to Genoa")
    assert doc.spans["universal_ner"].attrs["scores"] == [pytest.approx(0.8)]
    assert doc.spans["b"].attrs["scores"] == [None]
    assert doc.spans["b"][0]._.score is None


def test_earlier_entities_are_kept_or_replaced():
    for overwrite, expected in (
        (False, [("Ana", "RULE"), ("Soto Labs", "organization"), ("left", "RULE")]),
        (True, [("Ana Soto", "person"), ("Soto Labs", "organization"), ("left", "RULE")]),
    ):
        nlp = make_nlp(overwrite_ents=overwrite)
        ruler: EntityRuler = nlp.add_pipe("entity_ruler", before="universal_ner")
        ruler.add_patterns([{"label": "RULE", "pattern": word} for word in ("Ana", "left")])
        doc = nlp(TEXT)
        assert ents(doc)[:3] == expected if overwrite else ents(doc)[0] == expected[0]
        assert set(expected) <= set(ents(doc))
        assert len(doc.spans["universal_ner"]) == 13


def test_blocked_tokens_stay_free():
    nlp = make_nlp()
    doc = nlp.make_doc("Bo in Genoa")
    doc.set_ents([], blocked=[doc[0:1]])
    doc = pipe_of(nlp)(doc)
    assert ents(doc) == [("Genoa", "location")]
    assert (doc[0].ent_iob_, doc[0].ent_type_) == ("B", "")
    assert [span.text for span in doc.spans["universal_ner"]] == ["Bo", "Genoa"]


def test_thresholds():
    nlp = make_nlp(threshold=0.78, label_thresholds={"location": 0.9, "organization": 0.0})
    doc = nlp(TEXT)
    assert Counter(span.label_ for span in doc.spans["universal_ner"]) == {
        "person": 4,  # Ana Soto 7/8, three times Paris 4/5; not Soto 3/4 and Bo 1/2
        "organization": 2,
    }
    record = doc.user_data["universal_ner"]
    assert record["counts"] == {BELOW_THRESHOLD: 3}
    assert record["rejects"] == [
        {"label": "person", "item": "Soto", "reason": BELOW_THRESHOLD},
        {"label": "person", "item": "Bo", "reason": BELOW_THRESHOLD},
        {"label": "location", "item": "Paris", "reason": BELOW_THRESHOLD},
    ]


def test_whatever_is_not_used_is_kept_with_its_reason():
    answers = {
        "person": '["Bo", "Zoe", "oa", 7, "Bo"]',
        "organization": "I do not know.",
        "location": '["genoa", "Par',
    }

    @spacy.registry.llm_models("test.Canned.v1")
    def make_canned():
        def answer(prompts):
            return [
                [answers[gazetteer.QUESTION.search(prompt)[1]] for prompt in group]
                for group in prompts
            ]

        return answer

    nlp = spacy.blank("en")
    config = {"labels": LABELS, "model": {"@llm_models": "test.Canned.v1"}, "save_io": True}
    nlp.add_pipe("universal_ner", config=config)
    doc = nlp("Bo in Genoa")
    assert ents(doc) == [("Bo", "person"), ("Genoa", "location")]
    assert doc.spans["universal_ner"].attrs["scores"] == [None, None]
    record = doc.user_data["universal_ner"]
    assert [tuple(reject.values()) for reject in record["rejects"]] == [
        ("person", "7", "not a string"),
        ("person", "Bo", "repeated"),
        ("organization", "I do not know.", "no list in the answer"),
        ("location", '"Par', "list cut off"),
        ("person", "Zoe", NOT_IN_TEXT),
        ("person", "oa", INSIDE_WORD),
    ]
    assert record["counts"][NOT_IN_TEXT] == 1
    assert record["strings"] == {"person": ["Bo", "Zoe", "oa"], "location": ["genoa"]}
    assert [io["answer"] for io in record["io"]] == list(answers.values())
    assert all(io["prompt"].startswith("A virtual assistant") for io in record["io"])


ODD = st.sampled_from(
    (
        *(
            "Ana Soto",
            "Paris",
            "PARIS",
            " ",
            "\r\n",
            "\n\n",
            "\u2028",
            "\u0130",
            "\u00df",
            "e\u0301",
        ),
        *("\U0001f600", "\U0001f468\u200d\U0001f469", "</s>", "ASSISTANT:", "\x00", "x" * 40),
    )
)


TEXTS = st.one_of(st.lists(ODD, max_size=12).map("".join), st.text(max_size=20))


WINDOWED = [make_nlp(labels=labels, window=5, stride=2) for labels in (LABELS, [*reversed(LABELS)])]


@given(st.lists(TEXTS, max_size=6), st.integers(1, 7))
def test_any_text_gives_the_same_alone_in_any_batch_and_for_any_order_of_labels(texts, batch_size):
    nlp, other = WINDOWED
    alone = [places(nlp(text)) for text in texts]
    assert [places(doc) for doc in nlp.pipe(texts, batch_size=batch_size)] == alone
    for one, two in zip(alone, map(places, other.pipe(texts)), strict=True):
        assert [two[key] for key in ("ents", "spans", "scores")] == [
            one[key] for key in ("ents", "spans", "scores")
        ]


def test_a_plain_spacy_llm_model_gives_the_same_without_scores():
    doc, plain = make_nlp()(TEXT), make_nlp("test.PlainGazetteer.v1", threshold=0.9)(TEXT)
    assert places(plain)["spans"] == places(doc)["spans"]
    assert set(places(plain)["scores"]) == {None}


def test_labels_can_be_added_and_initialized():
    nlp = make_nlp(labels={"PER": "person"})
    pipe = pipe_of(nlp)
    assert pipe.add_label("LOC", "location") == 1
    assert pipe.add_label("PER") == 0
    assert pipe.add_label("organization") == 1
    assert pipe.labels == ("PER", "LOC", "organization")
    assert pipe.label_data == {"PER": "person", "LOC": "location", "organization": "organization"}
    assert ents(nlp("Bo in Genoa")) == [("Bo", "PER"), ("Genoa", "LOC")]
    nlp.config["initialize"]["components"]["universal_ner"] = {"labels": ["location"]}
    nlp.initialize()
    assert ents(nlp("Bo in Genoa")) == [("Genoa", "location")]
    nlp.config["initialize"]["components"] = {}
    nlp.initialize()
    assert pipe.labels == ("location",)
    assert ents(make_nlp(labels=[])("Bo in Genoa")) == []


def make_examples(nlp) -> list[Example]:
    gold = {"entities": [(0, 2, "person"), (6, 11, "location"), (16, 20, "person")]}
    return [Example.from_dict(nlp.make_doc("Bo in Genoa and Lima"), gold)]


def test_score():
    nlp = make_nlp()
    scores = nlp.evaluate(make_examples(nlp))
    assert scores["ents_p"] == 1.0
    assert scores["ents_r"] == pytest.approx(2 / 3)
    assert scores["ents_per_type"]["location"]["f"] == 1.0
    assert scores["spans_universal_ner_f"] == pytest.approx(0.8)
    nlp = make_nlp(scorer=None)
    assert "ents_f" not in pipe_of(nlp).score([])


def test_two_instances_with_names_of_their_own():
    nlp = make_nlp(labels=["person"])
    model = {"@llm_models": "test.Gazetteer.v1", "entities": ENTITIES}
    nlp.add_pipe("universal_ner", name="places", config={"labels": ["location"], "model": model})
    doc = nlp("Bo in Genoa")
    assert ents(doc) == [("Bo", "person"), ("Genoa", "location")]
    assert [span.text for span in doc.spans["universal_ner"]] == ["Bo"]
    assert [span.text for span in doc.spans["places"]] == ["Genoa"]
    assert set(doc.user_data) >= {"universal_ner", "places"}
    with nlp.select_pipes(disable=["universal_ner"]):
        assert ents(nlp("Bo in Genoa")) == [("Genoa", "location")]


def test_displacy_renders_entities_and_spans():
    doc = make_nlp()("Bo in Genoa")
    html = displacy.render(doc, style="ent", jupyter=False)
    assert "Genoa" in html and "location" in html
    options = {"spans_key": "universal_ner"}
    assert "person" in displacy.render(doc, style="span", options=options, jupyter=False)


def test_the_stream_is_read_no_further_ahead_than_a_batch():
    nlp = make_nlp()
    read = []

    def stream():
        for i in range(100):
            read.append(i)
            yield nlp.make_doc("Bo in Genoa")

    docs = pipe_of(nlp).pipe(stream(), batch_size=4)
    for i in range(20):
        next(docs)
        assert len(read) <= i + 4
        assert len(pipe_of(nlp).model.seen) == i + 1  # answered one by one as they are wanted


def test_documents_survive_other_processes_and_files(tmp_path):
    nlp = make_nlp()
    doc = nlp(TEXT)
    box = DocBin(store_user_data=True, docs=[doc])
    (copy,) = DocBin().from_bytes(box.to_bytes()).get_docs(nlp.vocab)
    assert json.dumps(places(copy)) == json.dumps(places(doc))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        docs = list(nlp.pipe([TEXT, "", "Genoa"] * 4, n_process=2, batch_size=2))
    expected = [places(nlp(text)) for text in [TEXT, "", "Genoa"] * 4]
    assert json.dumps([places(doc) for doc in docs]) == json.dumps(expected)


def test_the_component_can_be_pickled():
    pipe = pipe_of(make_nlp())
    nlp = spacy.blank("en")
    assert places(pickle.loads(pickle.dumps(pipe))(nlp(TEXT))) == places(make_nlp()(TEXT))


def test_extension_does_not_take_the_place_of_another():
    """Another package's `Span._.score` stays what it is."""
    getter = Span.get_extension("score")
    make_nlp()
    assert Span.get_extension("score") == getter
