"""How the tests ask a server."""

from __future__ import annotations

from spacy_universalner.universal_ner.models.openai import make_openai_model


def make_model(base_url, **settings):
    """A model that does not lose time between tries."""
    return make_openai_model(
        **{"name": "m", "base_url": base_url, "interval": 0.01, "max_tries": 3, **settings}
    )


def ask(base_url, prompts, **settings):
    """The answers to one document's prompts."""
    (answers,) = make_model(base_url, **settings).answer([prompts])
    return answers
