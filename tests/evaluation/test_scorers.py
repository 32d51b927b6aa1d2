"""The components' scorer, on documents made by hand and through the registry."""

from __future__ import annotations

import pytest
import spacy
from spacy import registry
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.vocab import Vocab
from spacy_llm.registry import registry as registries

from spacy_universalner.evaluation.scorers import (
    make_entity_scorer,
    make_partial_match_scorer,
    make_string_set_scorer,
    score_entities,
    score_partial_matches,
    score_string_sets,
)

VOCAB = Vocab()
WORDS = ["Ada", "Lovelace", "met", "Charles", "Babbage", "in", "London"]


def doc(*ents: tuple[int, int, str], spans: list[tuple[int, int, str]] | None = None) -> Doc:
    made = Doc(VOCAB, words=WORDS)
    made.set_ents([Span(made, *ent) for ent in ents])
    if spans is not None:
        made.spans["sc"] = [Span(made, *span) for span in spans]
    return made


GOLD = ((0, 2, "PERSON"), (3, 5, "PERSON"), (6, 7, "CITY"))


def test_entities_are_scored_in_total_and_per_type():
    scores = score_entities([Example(doc((0, 2, "PERSON"), (6, 7, "PERSON")), doc(*GOLD))])
    assert (scores["ents_p"], scores["ents_r"]) == (1 / 2, 1 / 3)
    assert scores["ents_per_type"]["PERSON"] == {"p": 0.5, "r": 0.5, "f": 0.5}
    assert scores["ents_per_type"]["CITY"] == {"p": 0, "r": 0, "f": 0}
    assert "spans_sc_f" not in scores


def test_a_span_group_is_scored_with_its_overlaps():
    predicted = doc(spans=[(0, 2, "PERSON"), (0, 1, "FIRST_NAME")])
    gold = doc(spans=[(0, 2, "PERSON"), (0, 1, "FIRST_NAME"), (6, 7, "CITY")])
    scores = score_entities([Example(predicted, gold)], spans_key="sc")
    assert (scores["spans_sc_p"], scores["spans_sc_r"]) == (1, 2 / 3)
    assert scores["spans_sc_per_type"]["FIRST_NAME"]["f"] == 1


def test_ordinary_gold_entities_stand_in_for_a_missing_span_group():
    predicted = doc(spans=[(0, 2, "PERSON"), (0, 1, "PERSON")])
    scores = score_entities([Example(predicted, doc(*GOLD))], spans_key="sc")
    assert (scores["spans_sc_p"], scores["spans_sc_r"]) == (1 / 2, 1 / 3)


def test_predictions_without_gold_annotation_are_not_judged():
    gold = Doc(VOCAB, words=WORDS)
    gold.set_ents([Span(gold, 0, 2, "PERSON")], missing=[gold[3:7]])
    predicted = doc((0, 2, "PERSON"), (6, 7, "CITY"))
    assert score_entities([Example(predicted, gold)])["ents_p"] == 1


def test_without_any_gold_annotation_there_is_no_score():
    bare = Doc(VOCAB, words=WORDS)
    scores = score_entities([Example(doc(*GOLD), bare)], spans_key="sc")
    assert scores["ents_f"] is None
    assert scores["spans_sc_f"] is None


def test_string_sets_are_scored_beside_strict_spans():
    """As strings "Ada Lovelace" and "London" are right and "Charles" is wrong."""
    predicted = doc(spans=[(0, 2, "PERSON"), (3, 4, "PERSON"), (6, 7, "CITY")])
    scores = score_string_sets([Example(predicted, doc(*GOLD))], spans_key="sc")
    assert scores["string_set_p"] == 2 / (3 + 1e-10)
    assert scores["string_set_r"] == 2 / (3 + 1e-10)
    assert scores["string_set_per_type"]["PERSON"]["p"] == 1 / (2 + 1e-10)
    assert (
        scores["spans_sc_f"]
        == score_entities([Example(predicted, doc(*GOLD))], spans_key="sc")["spans_sc_f"]
    )


def test_repeats_and_places_do_not_count_for_string_sets():
    words = ["Ada", "met", "ada", "."]
    gold = Doc(VOCAB, words=words)
    gold.set_ents([Span(gold, 0, 1, "PERSON"), Span(gold, 2, 3, "PERSON")])
    predicted = Doc(VOCAB, words=words)
    predicted.set_ents([Span(predicted, 2, 4, "PERSON")])
    scores = score_string_sets([Example(predicted, gold)])
    assert scores["ents_f"] == 0
    assert scores["string_set_f"] > 0.99


def test_answers_count_as_strings_wherever_they_stand():
    """As in the released evaluator: "Grace" stands in no text, and counts against the model."""
    nlp = spacy.blank("en")
    model = {"@llm_models": "test.AdaAndGrace.v1"}
    scorer = {"@scorers": "spacy-universalner.StringSetScorer.v1"}
    registries.llm_models("test.AdaAndGrace.v1", func=lambda: answer_ada_and_grace)
    config = {"labels": ["person"], "model": model, "scorer": scorer}
    nlp.add_pipe("universal_ner", name="asked", config=config)
    golds = [nlp.make_doc("Ada ran ."), nlp.make_doc("Nobody ran .")]
    golds[0].set_ents([Span(golds[0], 0, 1, "person")])
    golds[1].set_ents([])
    scores = nlp.evaluate([Example(nlp.make_doc(gold.text), gold) for gold in golds])
    assert scores["ents_f"] == 1
    assert scores["string_set_p"] == 1 / (4 + 1e-10)
    assert scores["string_set_r"] == 1 / (1 + 1e-10)


def answer_ada_and_grace(prompts):
    return [['["Ada", "Grace"]' for _ in group] for group in prompts]


def test_what_overlaps_an_entity_of_its_type_counts_one_half():
    """Right are "London" and, by half, "Charles"; "Ada" is of another type."""
    spans = [(0, 1, "FIRST_NAME"), (3, 4, "PERSON"), (6, 7, "CITY")]
    scores = score_partial_matches([Example(doc(spans=spans), doc(*GOLD))], spans_key="sc")
    assert (scores["partial_p"], scores["partial_r"]) == (1.5 / 3, 1.5 / 3)
    assert scores["partial_per_type"] == {
        "CITY": {"p": 1, "r": 1, "f": 1},
        "FIRST_NAME": {"p": 0, "r": 0, "f": 0},
        "PERSON": {"p": 0.5, "r": 0.25, "f": 1 / 3},
    }
    assert scores["spans_sc_p"] == 1 / 3


@pytest.mark.parametrize("name", ["string_set", "partial"])
def test_documents_without_gold_annotation_are_left_out(name):
    score = {"string_set": score_string_sets, "partial": score_partial_matches}[name]
    bare = Example(doc(*GOLD), Doc(VOCAB, words=WORDS))
    scores = score([bare])
    assert [scores[f"{name}_{key}"] for key in ("p", "r", "f", "per_type")] == [None] * 4
    scored = Example(doc(GOLD[0]), doc(*GOLD))
    assert score([bare, scored]) == score([scored])


def test_the_scorers_are_registered_and_resolve_from_a_config():
    for name, make in (
        ("EntityScorer", make_entity_scorer),
        ("StringSetScorer", make_string_set_scorer),
        ("PartialMatchScorer", make_partial_match_scorer),
    ):
        resolved = registry.resolve({"scorer": {"@scorers": f"spacy-universalner.{name}.v1"}})
        assert resolved["scorer"] is make()
