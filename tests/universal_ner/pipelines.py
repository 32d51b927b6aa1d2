"""Pipelines with `universal_ner` on a model that answers by rules."""

from __future__ import annotations

import spacy
from spacy.tokens import Doc

from spacy_universalner.universal_ner.component import UniversalNER
from tests.universal_ner import gazetteer  # noqa: F401  (registers the models)

ENTITIES = {
    "person": ["Ana Soto", "Soto", "Bo", "Paris"],
    "organization": ["Paris Opera", "Soto Labs"],
    "location": ["Paris", "Genoa"],
}


TEXT = "Ana Soto of Soto Labs left Paris. Bo met Soto at the Paris Opera in Paris."


LABELS = ["person", "organization", "location"]


def make_nlp(model: str = "test.Gazetteer.v1", entities=None, settings=None, **config):
    nlp = spacy.blank("en")
    entities = ENTITIES if entities is None else entities
    model = {"@llm_models": model, "entities": entities, **(settings or {})}
    nlp.add_pipe("universal_ner", config={"labels": LABELS, "model": model, **config})
    return nlp


def pipe_of(nlp) -> UniversalNER:
    return nlp.get_pipe("universal_ner")


def ents(doc: Doc) -> list[tuple[str, str]]:
    return [(ent.text, ent.label_) for ent in doc.ents]


def places(doc: Doc) -> dict:
    """Everything that the component sets, as plain data."""
    group = doc.spans["universal_ner"]
    return {
        "ents": [(ent.start_char, ent.end_char, ent.label_, ent._.score) for ent in doc.ents],
        "spans": [(span.start_char, span.end_char, span.label_) for span in group],
        "scores": group.attrs["scores"],
        "record": doc.user_data["universal_ner"],
    }
