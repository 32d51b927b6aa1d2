"""The same questions from spacy-llm's own component."""

import pytest
import spacy

from tests.universal_ner.pipelines import ENTITIES, LABELS, TEXT, make_nlp, places

# spacy-llm's remark on models that do not tell their context length
pytestmark = pytest.mark.filterwarnings("ignore:Task supports sharding:UserWarning")

LONG = "Genoa and Bo. " * 30
TEXTS = [TEXT, "", " ", "Bo \u0130 Genoa", LONG]


def make_llm(model, **task):
    nlp = spacy.blank("en")
    task = {"@llm_tasks": "spacy-universalner.UniNER.v1", "labels": LABELS, **task}
    nlp.add_pipe("llm", config={"task": task, "model": model})
    return nlp


def gazetteer(**settings):
    return {"@llm_models": "test.PlainGazetteer.v1", "entities": ENTITIES, **settings}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"labels": {"PER": "person", "LOC": "location"}, "conflict": "label_order"},
        {"template": "all_in_one", "dataset": "travel"},
        {"labels": None},
        {"window": 20, "stride": 6, "occurrences": "first"},
        {"annotate": "spans", "alignment_mode": "strict"},
    ],
)
def test_llm_finds_what_universal_ner_finds(settings):
    llm, own = make_llm(gazetteer(), **settings), make_nlp("test.PlainGazetteer.v1", **settings)
    docs = zip(llm.pipe(TEXTS), own.pipe(TEXTS), strict=True)
    assert all(places(one) == places(two) for one, two in docs)


def test_llm_with_the_models_of_this_package(tiny_llama):
    """It checks their signatures, hands on their context length and reads their answers."""
    model = {"@llm_models": "spacy-universalner.HF.v1", "name": str(tiny_llama)}
    nlp = make_llm({**model, "max_new_tokens": 4}, window=1000, stride=10)
    for doc in nlp.pipe([TEXT, "", "word " * 900]):  # 900 words are more than its context holds
        record = doc.user_data["universal_ner"]
        assert record["errors"] == []
        # spacy-llm copies what extensions other packages have registered
        assert [key for key in doc.user_data if isinstance(key, str)] == ["universal_ner"]


def test_llm_scores():
    nlp = make_llm(gazetteer())
    examples = [
        spacy.training.Example.from_dict(
            nlp.make_doc("Bo in Genoa"), {"entities": [(0, 2, "person")]}
        )
    ]
    scores = nlp.evaluate(examples)
    assert (scores["ents_p"], scores["ents_r"]) == (0.5, 1.0)
    assert nlp.get_pipe("llm").task.labels == tuple(LABELS)
